//! The house rules that no compiler checks.

mod dependencies;
mod layers;
pub(crate) mod links;
mod prose;
mod sources;
mod toolchain;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::shell;

/// Checks every rule and reports every violation.
#[expect(clippy::print_stderr, reason = "the violations are what this prints")]
pub(crate) fn run() -> Result<()> {
    let root = shell::root()?;
    let all = shell::metadata("--all-features")?;
    let mut violations = layers::check(&all)?;
    violations.extend(layers::check_plain(&shell::metadata("--no-default-features")?)?);
    violations.extend(toolchain::check(&all)?);
    violations.extend(dependencies::check(&root, &all)?);
    violations.extend(sources::check(&root)?);
    violations.extend(links::check(&root)?);
    violations.extend(prose::check(&root)?);
    violations.extend(tensorpatch_conformance::compat::violations(&root)?);
    for violation in &violations {
        eprintln!("tidy: {violation}");
    }
    if !violations.is_empty() {
        bail!("{} violations of the house rules", violations.len());
    }
    Ok(())
}

/// All files of the repository whose name ends with `suffix`, sorted; nothing hidden, built or generated.
fn files(root: &Path, suffix: &str) -> Result<Vec<PathBuf>> {
    fn visit(directory: &Path, suffix: &str, found: &mut Vec<PathBuf>) -> Result<()> {
        for entry in std::fs::read_dir(directory).with_context(|| directory.display().to_string())? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let skipped =
                name.starts_with('.') || matches!(name.as_str(), "target" | "node_modules" | "corpus");
            if skipped || entry.file_type()?.is_symlink() {
                continue;
            }
            if entry.file_type()?.is_dir() {
                visit(&entry.path(), suffix, found)?;
            } else if name.ends_with(suffix) {
                found.push(entry.path());
            }
        }
        Ok(())
    }
    let mut found = Vec::new();
    visit(root, suffix, &mut found)?;
    found.sort();
    Ok(found)
}

/// A path as a violation shows it: relative to the root.
fn shown(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_is_tidy() {
        run().unwrap();
    }
}
