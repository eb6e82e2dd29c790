//! Licences: ours are there and the same everywhere, and those of the dependencies may be combined with them.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

const OURS: &str = "Apache-2.0 OR MIT";

/// Licences that allow use in a work under either of ours, and ask for no more than notices.
const ACCEPTED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

pub(crate) fn check(root: &Path, metadata: &Value) -> Result<Vec<String>> {
    let mut violations = Vec::new();
    for file in ["LICENSE-APACHE", "LICENSE-MIT"] {
        if !root.join(file).is_file() {
            violations.push(format!("{file} is missing"));
        }
    }
    let deny = std::fs::read_to_string(root.join("deny.toml")).unwrap_or_default();
    for licence in ACCEPTED.iter().filter(|licence| !deny.contains(&format!("\n    \"{licence}\",\n"))) {
        violations
            .push(format!("deny.toml does not allow {licence}, and xtask/src/tidy/licences.rs accepts it"));
    }
    for package in metadata["packages"].as_array().context("cargo metadata: no packages")? {
        let name = package["name"].as_str().context("cargo metadata: a package without a name")?;
        let licence = package["license"].as_str().unwrap_or_default();
        let ours = package["source"].is_null();
        if ours && licence != OURS {
            violations.push(format!("{name} is under {licence:?}, not {OURS:?}"));
        } else if !ours && !acceptable(licence) {
            violations.push(format!(
                "{name} is under {licence:?}, which is not accepted (xtask/src/tidy/licences.rs)"
            ));
        }
    }
    Ok(violations)
}

/// Whether an SPDX expression can be satisfied with accepted licences alone. Old manifests write `/` for `OR`.
fn acceptable(expression: &str) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut words: Vec<&str> = spaced.split_whitespace().collect();
    words.reverse();
    let verdict = any(&mut words);
    verdict.unwrap_or(false) && words.is_empty()
}

fn any(words: &mut Vec<&str>) -> Option<bool> {
    let mut verdict = all(words)?;
    while words.last() == Some(&"OR") {
        words.pop();
        verdict |= all(words)?;
    }
    Some(verdict)
}

fn all(words: &mut Vec<&str>) -> Option<bool> {
    let mut verdict = one(words)?;
    while words.last() == Some(&"AND") {
        words.pop();
        verdict &= one(words)?;
    }
    Some(verdict)
}

fn one(words: &mut Vec<&str>) -> Option<bool> {
    let word = words.pop()?;
    if word == "(" {
        let verdict = any(words)?;
        return (words.pop() == Some(")")).then_some(verdict);
    }
    // An exception only ever grants more.
    if words.last() == Some(&"WITH") {
        words.pop();
        words.pop()?;
    }
    Some(ACCEPTED.contains(&word))
}

#[cfg(test)]
mod tests {
    use super::acceptable;

    #[test]
    fn an_alternative_suffices_and_a_conjunction_needs_all() {
        for expression in [
            "MIT",
            "MIT OR GPL-3.0",
            "MIT/Apache-2.0",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR GPL-2.0",
        ] {
            assert!(acceptable(expression), "{expression}");
        }
        for expression in ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT", "MIT OR", "MPL-2.0", "MIT Apache-2.0"] {
            assert!(!acceptable(expression), "{expression}");
        }
    }
}
