//! The tables of files in `ARCHITECTURE.md`, made of the first sentence of each module's description.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::{files, shown};

const DOCUMENT: &str = "ARCHITECTURE.md";
const BEGIN: &str = "<!-- files: ";
const END: &str = "<!-- end of files -->";

/// Writes the tables anew.
pub(crate) fn write(root: &Path) -> Result<()> {
    let path = root.join(DOCUMENT);
    let text = std::fs::read_to_string(&path).with_context(|| DOCUMENT)?;
    Ok(std::fs::write(&path, renewed(root, &text)?)?)
}

pub(crate) fn check(root: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(root.join(DOCUMENT)).with_context(|| DOCUMENT)?;
    if renewed(root, &text)? == text {
        return Ok(Vec::new());
    }
    Ok(vec![format!("{DOCUMENT}: the tables of files are stale; run cargo xtask file-map")])
}

/// The document with fresh tables between its markers.
fn renewed(root: &Path, text: &str) -> Result<String> {
    let mut out = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        out.push_str(line);
        out.push('\n');
        let Some(directory) = line.strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(" -->")) else {
            continue;
        };
        if !lines.by_ref().any(|line| line == END) {
            bail!("{DOCUMENT}: the table of {directory} has no end");
        }
        out.push_str(&table(root, directory)?);
        out.push_str(END);
        out.push('\n');
    }
    Ok(out)
}

fn table(root: &Path, directory: &str) -> Result<String> {
    let base = root.join(directory);
    let mut out = String::from("\n| file | what it is |\n|---|---|\n");
    for path in files(&base, ".rs")? {
        let text = std::fs::read_to_string(&path).with_context(|| shown(root, &path))?;
        out.push_str(&format!("| `{}` | {} |\n", shown(&base, &path), first_sentence(&text)));
    }
    out.push('\n');
    Ok(out)
}

/// The first sentence of a module's description, without its full stop.
fn first_sentence(text: &str) -> String {
    let paragraph: Vec<&str> = text
        .lines()
        .skip_while(|line| !line.starts_with("//!"))
        .map_while(|line| line.strip_prefix("//!"))
        .map(str::trim)
        .take_while(|line| !line.is_empty())
        .collect();
    let paragraph = paragraph.join(" ").replace('|', "\\|");
    let sentence = paragraph.split_once(". ").map_or(paragraph.as_str(), |(first, _)| first);
    sentence.trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::first_sentence;

    #[test]
    fn the_first_sentence_may_run_over_lines_and_ends_with_its_paragraph() {
        assert_eq!(first_sentence("//! One\n//! two. Three.\n//!\n//! Four.\n"), "One two");
        assert_eq!(first_sentence("//! One.\n\nuse x;\n"), "One");
        assert_eq!(first_sentence("#![no_main]\n//! One (v1.0) two.\n"), "One (v1.0) two");
    }
}
