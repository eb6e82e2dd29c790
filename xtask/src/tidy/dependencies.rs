//! Every dependency has its reason in `ARCHITECTURE.md`, and none is listed without being used.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

const DOCUMENT: &str = "ARCHITECTURE.md";

pub(crate) fn check(root: &Path, metadata: &Value) -> Result<Vec<String>> {
    let document = std::fs::read_to_string(root.join(DOCUMENT)).with_context(|| DOCUMENT)?;
    let manifest = std::fs::read_to_string(root.join("Cargo.toml")).context("Cargo.toml")?;
    let used = used(metadata)?;
    let explained = explained(&document);
    let mut violations: Vec<String> = used
        .difference(&explained)
        .map(|name| format!("{DOCUMENT}: why there is a dependency on {name} is not in the table"))
        .collect();
    violations.extend(
        explained
            .difference(&used)
            .map(|name| format!("{DOCUMENT}: {name} is in the table of dependencies, and is none")),
    );
    let unused =
        listed(&manifest).into_iter().filter(|name| !name.starts_with("tensorpatch") && !used.contains(name));
    violations.extend(unused.map(|name| format!("Cargo.toml: nothing uses {name}")));
    Ok(violations)
}

/// The crates from elsewhere that crates of the workspace name as their dependencies, for whatever purpose.
fn used(metadata: &Value) -> Result<BTreeSet<String>> {
    let mut used = BTreeSet::new();
    for package in metadata["packages"].as_array().context("cargo metadata: no packages")? {
        if !package["source"].is_null() {
            continue;
        }
        for dependency in package["dependencies"].as_array().context("cargo metadata: no dependencies")? {
            let name = dependency["name"].as_str().context("cargo metadata: a dependency without a name")?;
            if !dependency["source"].is_null() {
                used.insert(name.to_owned());
            }
        }
    }
    Ok(used)
}

/// The names in the first column of the table below the heading "Dependencies".
fn explained(document: &str) -> BTreeSet<String> {
    let section = document.lines().skip_while(|line| !line.starts_with("## Dependencies")).skip(1);
    let rows = section.take_while(|line| !line.starts_with("## ")).filter(|line| line.starts_with("| "));
    rows.skip(1)
        .filter_map(|row| row.trim_start_matches('|').split('|').next())
        .flat_map(|names| names.split(','))
        .map(|name| name.trim().to_owned())
        .collect()
}

/// The keys of `[workspace.dependencies]`.
fn listed(manifest: &str) -> BTreeSet<String> {
    let section = manifest.lines().skip_while(|line| *line != "[workspace.dependencies]").skip(1);
    section
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split_once('='))
        .map(|(name, _)| name.trim().to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_from_table_and_manifest() {
        let document = "## Dependencies, and why\n\n| crate | why |\n|---|---|\n| a, b-c | d |\n| e | f |\n## More\n| g | h |\n";
        assert_eq!(explained(document), ["a", "b-c", "e"].map(str::to_owned).into());
        let manifest = "[x]\na = 1\n[workspace.dependencies]\nb = \"1\"\nc-d = { e = 1 }\n\n[y]\nf = 1\n";
        assert_eq!(listed(manifest), ["b", "c-d"].map(str::to_owned).into());
    }
}
