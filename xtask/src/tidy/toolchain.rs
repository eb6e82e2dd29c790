//! The published crates ask for a Rust that is new enough for what they depend on.

use anyhow::{Context, Result};
use serde_json::Value;

use super::layers::Graph;
use crate::shell;

pub(crate) fn check(metadata: &Value) -> Result<Vec<String>> {
    let graph = Graph::new(metadata)?;
    let packages = metadata["packages"].as_array().context("cargo metadata: no packages")?;
    let package =
        |id: &str| packages.iter().find(|package| package["id"] == id).context("a package is missing");
    let mut violations = Vec::new();
    for ours in shell::published(metadata) {
        let id = ours["id"].as_str().context("a package without an id")?;
        for needed in graph.closure(id).into_keys() {
            let needed = package(needed)?;
            if version(needed)? > version(ours)? {
                violations.push(format!(
                    "{} asks for Rust {}, and its dependency {} for {}",
                    ours["name"], ours["rust_version"], needed["name"], needed["rust_version"]
                ));
            }
        }
    }
    Ok(violations)
}

/// The `rust-version` of a package, 0 if it has none.
fn version(package: &Value) -> Result<Vec<u32>> {
    let text = package["rust_version"].as_str().unwrap_or("0");
    // Of 1.85 and 1.85.0 neither is newer.
    text.split('.')
        .take(2)
        .map(|part| part.parse().with_context(|| format!("{text}: not a version")))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_dependency_of_a_published_crate_that_asks_for_a_newer_rust_is_found() {
        let metadata = |ours: &str, publish: Value| {
            json!({
                "packages": [
                    {"id": "ours", "name": "ours", "rust_version": ours, "publish": publish},
                    {"id": "between", "name": "between", "rust_version": null, "source": "registry"},
                    {"id": "theirs", "name": "theirs", "rust_version": "1.89.0", "source": "registry"},
                ],
                "workspace_members": ["ours"],
                "resolve": {"nodes": [
                    {"id": "ours", "deps": [{"pkg": "between", "dep_kinds": [{"kind": null}]}]},
                    {"id": "between", "deps": [{"pkg": "theirs", "dep_kinds": [{"kind": null}]}]},
                    {"id": "theirs", "deps": []},
                ]},
            })
        };
        let found = check(&metadata("1.88", Value::Null)).unwrap();
        assert_eq!(found, [r#""ours" asks for Rust "1.88", and its dependency "theirs" for "1.89.0""#]);
        assert!(check(&metadata("1.89", Value::Null)).unwrap().is_empty());
        assert!(check(&metadata("1.9", json!([]))).unwrap().is_empty());
    }
}
