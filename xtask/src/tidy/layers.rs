//! The direction of the arrows between crates, and what each layer must never contain.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde_json::Value;

/// One crate of the workspace.
struct Layer {
    name: &'static str,
    /// The crates of the workspace that its code may use. Tests may use any.
    may_use: &'static [&'static str],
    /// Crates from elsewhere that must not be among its dependencies, nor among theirs.
    never: &'static [&'static str],
}

/// What only the features for buckets bring in.
const HTTP: &[&str] = &["reqwest", "hyper", "rustls"];

const ASYNC: &[&str] =
    &["tokio", "futures", "futures-util", "async-trait", "object_store", "reqwest", "hyper"];

/// The layers, each depending only on those above it. `ARCHITECTURE.md` shows the same table with the
/// reasons.
const LAYERS: &[Layer] = &[
    Layer {
        name: "tensorpatch-format",
        may_use: &[],
        never: &["zstd", "memmap2", "rustix", "rayon", "tokio", "futures", "object_store", "serde"],
    },
    Layer {
        name: "tensorpatch-codec",
        may_use: &["tensorpatch-format"],
        never: &["memmap2", "rustix", "tokio", "futures", "object_store", "serde"],
    },
    Layer { name: "tensorpatch-checkpoint", may_use: &["tensorpatch-format"], never: ASYNC },
    Layer {
        name: "tensorpatch-delta",
        may_use: &["tensorpatch-format", "tensorpatch-codec", "tensorpatch-checkpoint"],
        never: ASYNC,
    },
    Layer { name: "tensorpatch-stream", may_use: &["tensorpatch-format"], never: ASYNC },
    Layer {
        name: "tensorpatch-formats",
        may_use: &["tensorpatch-format", "tensorpatch-codec", "tensorpatch-checkpoint", "tensorpatch-delta"],
        never: ASYNC,
    },
    Layer {
        name: "tensorpatch-store",
        may_use: &[
            "tensorpatch-format",
            "tensorpatch-codec",
            "tensorpatch-checkpoint",
            "tensorpatch-delta",
            "tensorpatch-stream",
        ],
        never: &["clap", "anyhow"],
    },
    Layer {
        name: "tensorpatch",
        may_use: &[
            "tensorpatch-format",
            "tensorpatch-codec",
            "tensorpatch-checkpoint",
            "tensorpatch-delta",
            "tensorpatch-formats",
            "tensorpatch-store",
        ],
        never: &["clap", "anyhow"],
    },
    Layer { name: "tensorpatch-synthetic", may_use: &[], never: ASYNC },
    Layer { name: "tensorpatch-reference", may_use: &[], never: &["zstd", "zstd-sys", "serde"] },
    Layer { name: "tensorpatch-cli", may_use: &["tensorpatch", "tensorpatch-synthetic"], never: &[] },
    Layer { name: "tensorpatch-python", may_use: &["tensorpatch", "tensorpatch-cli"], never: &[] },
    Layer {
        name: "tensorpatch-testkit",
        may_use: &[
            "tensorpatch-format",
            "tensorpatch-codec",
            "tensorpatch-checkpoint",
            "tensorpatch-delta",
            "tensorpatch-formats",
            "tensorpatch-stream",
            "tensorpatch-synthetic",
            "tensorpatch-reference",
        ],
        never: &[],
    },
    Layer {
        name: "tensorpatch-conformance",
        may_use: &["tensorpatch-format", "tensorpatch-codec", "tensorpatch-reference", "tensorpatch-testkit"],
        never: &[],
    },
    Layer {
        name: "tensorpatch-bench",
        may_use: &[
            "tensorpatch-format",
            "tensorpatch-codec",
            "tensorpatch-checkpoint",
            "tensorpatch-delta",
            "tensorpatch-synthetic",
        ],
        never: &[],
    },
    Layer {
        name: "xtask",
        may_use: &["tensorpatch-bench", "tensorpatch-testkit", "tensorpatch-conformance"],
        never: &[],
    },
];

/// Checks the layers, with every feature that there is.
pub(crate) fn check(metadata: &Value) -> Result<Vec<String>> {
    violations(&Graph::new(metadata)?, LAYERS)
}

/// Checks that without features no crate brings an HTTP client or TLS.
pub(crate) fn check_plain(metadata: &Value) -> Result<Vec<String>> {
    let graph = Graph::new(metadata)?;
    let mut violations = Vec::new();
    for id in &graph.workspace {
        for (needed, by) in graph.closure(id) {
            if HTTP.contains(&graph.name(needed)) {
                let (name, needed, by) = (graph.name(id), graph.name(needed), graph.name(by));
                violations.push(format!("{name} without features contains {needed}, which {by} brings in"));
            }
        }
    }
    Ok(violations)
}

/// Who needs whom to build, tests apart.
pub(super) struct Graph {
    workspace: BTreeSet<String>,
    /// By package id: the name, and the ids of what it depends on.
    packages: BTreeMap<String, (String, Vec<String>)>,
}

impl Graph {
    pub(super) fn new(metadata: &Value) -> Result<Self> {
        let list = |value: &Value| value.as_array().cloned().context("cargo metadata: a list is missing");
        let text =
            |value: &Value| value.as_str().map(str::to_owned).context("cargo metadata: a text is missing");
        let mut names = BTreeMap::new();
        for package in list(&metadata["packages"])? {
            names.insert(text(&package["id"])?, text(&package["name"])?);
        }
        let workspace = list(&metadata["workspace_members"])?.iter().map(text).collect::<Result<_>>()?;
        let mut packages = BTreeMap::new();
        for node in list(&metadata["resolve"]["nodes"])? {
            let id = text(&node["id"])?;
            let name = names.get(&id).context("cargo metadata: a package without a name")?.clone();
            let mut needs = Vec::new();
            for dependency in list(&node["deps"])? {
                // A kind of null is an ordinary dependency; the others are "dev" and "build".
                if list(&dependency["dep_kinds"])?.iter().any(|kind| kind["kind"].is_null()) {
                    needs.push(text(&dependency["pkg"])?);
                }
            }
            packages.insert(id, (name, needs));
        }
        Ok(Self { workspace, packages })
    }

    fn name<'a>(&'a self, id: &'a str) -> &'a str {
        self.packages.get(id).map_or(id, |(name, _)| name)
    }

    fn needs(&self, id: &str) -> &[String] {
        self.packages.get(id).map_or(&[], |(_, needs)| needs)
    }

    /// Everything that `id` needs, each with one that needs it.
    pub(super) fn closure<'a>(&'a self, id: &'a str) -> BTreeMap<&'a str, &'a str> {
        let mut found = BTreeMap::new();
        let mut open = vec![id];
        while let Some(next) = open.pop() {
            for needed in self.needs(next) {
                if found.insert(needed.as_str(), next).is_none() {
                    open.push(needed);
                }
            }
        }
        found
    }
}

fn violations(graph: &Graph, layers: &[Layer]) -> Result<Vec<String>> {
    let mut violations = Vec::new();
    for id in &graph.workspace {
        let name = graph.name(id);
        let Some(layer) = layers.iter().find(|layer| layer.name == name) else {
            violations.push(format!("{name} has no place in the table of xtask/src/tidy/layers.rs"));
            continue;
        };
        for needed in graph.needs(id) {
            let needed_name = graph.name(needed);
            if graph.workspace.contains(needed) && !layer.may_use.contains(&needed_name) {
                violations.push(format!(
                    "{name} must not depend on {needed_name}: see the layers in ARCHITECTURE.md"
                ));
            }
        }
        for (needed, by) in graph.closure(id) {
            let (needed, by) = (graph.name(needed), graph.name(by));
            if layer.never.contains(&needed) {
                violations.push(format!("{name} must never contain {needed}, which {by} brings in"));
            }
        }
    }
    for layer in layers {
        if !graph.workspace.iter().any(|id| graph.name(id) == layer.name) {
            violations.push(format!("{} stands in the table of layers but not in the workspace", layer.name));
        }
    }
    Ok(violations)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn metadata(needs: &[(&str, &[&str])], kind: Value) -> Value {
        let package = |name: &str| json!({"id": name, "name": name});
        let node = |&(name, needs): &(&str, &[&str])| {
            let deps: Vec<Value> =
                needs.iter().map(|need| json!({"pkg": need, "dep_kinds": [{"kind": kind}]})).collect();
            json!({"id": name, "deps": deps})
        };
        json!({
            "packages": needs.iter().map(|&(name, _)| package(name)).collect::<Vec<_>>(),
            "workspace_members": ["lower", "upper"],
            "resolve": {"nodes": needs.iter().map(node).collect::<Vec<_>>()},
        })
    }

    const TWO: &[Layer] = &[
        Layer { name: "lower", may_use: &[], never: &["tokio"] },
        Layer { name: "upper", may_use: &["lower"], never: &[] },
    ];

    #[test]
    fn an_arrow_upwards_is_a_violation() {
        let up = metadata(&[("lower", &["upper"]), ("upper", &[])], Value::Null);
        let found = violations(&Graph::new(&up).unwrap(), TWO).unwrap();
        assert_eq!(found, ["lower must not depend on upper: see the layers in ARCHITECTURE.md"]);
        let down = metadata(&[("lower", &[]), ("upper", &["lower"])], Value::Null);
        assert!(violations(&Graph::new(&down).unwrap(), TWO).unwrap().is_empty());
    }

    #[test]
    fn tests_may_use_any_crate() {
        let up = metadata(&[("lower", &["upper"]), ("upper", &[])], json!("dev"));
        assert!(violations(&Graph::new(&up).unwrap(), TWO).unwrap().is_empty());
    }

    #[test]
    fn a_forbidden_crate_is_found_through_others() {
        let graph = metadata(
            &[("lower", &["helper"]), ("upper", &[]), ("helper", &["tokio"]), ("tokio", &[])],
            Value::Null,
        );
        let found = violations(&Graph::new(&graph).unwrap(), TWO).unwrap();
        assert_eq!(found, ["lower must never contain tokio, which helper brings in"]);
    }

    #[test]
    fn an_http_client_in_a_build_without_features_is_found() {
        let graph = metadata(
            &[("lower", &[]), ("upper", &["client"]), ("client", &["hyper"]), ("hyper", &[])],
            Value::Null,
        );
        assert_eq!(
            check_plain(&graph).unwrap(),
            ["upper without features contains hyper, which client brings in"]
        );
    }

    #[test]
    fn a_crate_outside_the_table_is_a_violation() {
        let found = violations(
            &Graph::new(&metadata(&[("lower", &[]), ("upper", &[])], Value::Null)).unwrap(),
            &TWO[..1],
        );
        assert_eq!(found.unwrap(), ["upper has no place in the table of xtask/src/tidy/layers.rs"]);
    }
}
