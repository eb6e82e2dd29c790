//! The book: the pages that `docs/SUMMARY.md` lists, set by mdBook.
//!
//! mdBook wants all pages below one directory. Ours lie where their readers look for them, so a copy of
//! the pages, and of the files that they link to, is laid out as in the repository.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::shell;
use crate::tidy::links::{file_of, local_targets};

/// Where pages of the repository that no chapter lists, but that a chapter links to, stand in the contents.
const ELSEWHERE: &str = "\n# Elsewhere in the repository\n\n";

/// Builds the book below `target/book`.
pub(crate) fn run() -> Result<()> {
    let root = shell::root()?;
    let book = root.join("target/book");
    let source = book.join("src");
    if source.exists() {
        std::fs::remove_dir_all(&source)?;
    }
    let docs = Path::new("docs");
    let summary = std::fs::read_to_string(root.join("docs/SUMMARY.md"))?;
    let chapters: Vec<PathBuf> =
        local_targets(&summary).map(|target| from_root(docs, file_of(target))).collect::<Result<_>>()?;
    let (pages, others) = linked(&root, &chapters)?;
    for file in pages.iter().chain(&others) {
        let copy = source.join(file);
        std::fs::create_dir_all(copy.parent().context("a file lies in a directory")?)?;
        std::fs::copy(root.join(file), &copy).with_context(|| file.display().to_string())?;
    }
    std::fs::write(source.join("SUMMARY.md"), contents(&summary, &chapters, &pages))?;
    std::fs::copy(root.join("docs/book.toml"), book.join("book.toml"))?;
    shell::run(Command::new("mdbook").arg("build").arg(&book))
}

/// The pages that chapters lead to by links, however far, themselves included; and the files that are no
/// pages.
fn linked(root: &Path, chapters: &[PathBuf]) -> Result<(BTreeSet<PathBuf>, BTreeSet<PathBuf>)> {
    let (mut pages, mut others) = (BTreeSet::new(), BTreeSet::new());
    let mut waiting: Vec<PathBuf> = chapters.to_vec();
    while let Some(page) = waiting.pop() {
        let text = std::fs::read_to_string(root.join(&page)).with_context(|| page.display().to_string())?;
        for target in local_targets(&text) {
            let file = from_root(page.parent().unwrap_or(Path::new("")), file_of(target))?;
            if file.extension().is_some_and(|extension| extension == "md") {
                if !pages.contains(&file) {
                    waiting.push(file);
                }
            } else if root.join(&file).is_file() {
                others.insert(file);
            }
        }
        pages.insert(page);
    }
    Ok((pages, others))
}

/// The summary with paths from the root, and with the pages that it does not list.
fn contents(summary: &str, chapters: &[PathBuf], pages: &BTreeSet<PathBuf>) -> String {
    let mut text = summary.to_owned();
    for (target, chapter) in local_targets(summary).zip(chapters) {
        text = text.replace(&format!("]({target})"), &format!("]({})", chapter.display()));
    }
    let unlisted = pages.iter().filter(|page| !chapters.contains(page));
    text += ELSEWHERE;
    for page in unlisted {
        text += &format!("- [{0}]({0})\n", page.display());
    }
    text
}

/// A path from the root, of one from a directory.
fn from_root(directory: &Path, target: &str) -> Result<PathBuf> {
    let mut path = PathBuf::new();
    for part in directory.join(target).components() {
        match part {
            Component::ParentDir => ensure!(path.pop(), "{target} leads out of the repository"),
            Component::Normal(name) => path.push(name),
            _ => {}
        }
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_of_the_docs_is_a_chapter() {
        let root = shell::root().unwrap();
        let summary = std::fs::read_to_string(root.join("docs/SUMMARY.md")).unwrap();
        let listed: Vec<&str> = local_targets(&summary).collect();
        for entry in std::fs::read_dir(root.join("docs")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let is_page = name.ends_with(".md") && name != "SUMMARY.md";
            assert!(!is_page || listed.contains(&&*name), "docs/SUMMARY.md lacks {name}");
        }
    }

    #[test]
    fn chapters_keep_their_places_and_what_they_link_to_comes_along() {
        let root = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("docs/a.md", "[b](../b.md#there) [code](x.py) [far](https://example.org/c.md)");
        put("b.md", "[deep](deep/c.md)");
        put("deep/c.md", "[back](../docs/a.md) `[no](link.md)`");
        put("docs/x.py", "");
        let summary = "# Summary\n\n- [A](a.md)\n";
        let chapters = [PathBuf::from("docs/a.md")];
        let (pages, others) = linked(root.path(), &chapters).unwrap();
        assert_eq!(pages, ["b.md", "deep/c.md", "docs/a.md"].map(PathBuf::from).into());
        assert_eq!(others, ["docs/x.py"].map(PathBuf::from).into());
        let text = contents(summary, &chapters, &pages);
        assert!(
            text.contains("- [A](docs/a.md)\n")
                && text.ends_with("- [b.md](b.md)\n- [deep/c.md](deep/c.md)\n")
        );
        assert!(from_root(Path::new("docs"), "../../x").is_err());
    }
}
