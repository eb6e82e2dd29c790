//! The manifest keeps the schema that is published with it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests may panic")]

use std::path::Path;

use serde_json::{Value, json};
use tensorpatch_conformance::write;

fn read(file: &str) -> Value {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).join(write::DIRECTORY).join(file);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Where `value` breaks `schema`, by the keywords that the schema uses; nothing if it keeps it.
fn fault(root: &Value, schema: &Value, value: &Value, at: &str) -> Option<String> {
    let list = |argument: &Value| argument.as_array().unwrap().clone();
    let broken = |what: &Value| Some(format!("{at}: {what}"));
    for (keyword, argument) in schema.as_object().unwrap() {
        let found = match keyword.as_str() {
            "$schema" | "$defs" | "title" => None,
            "$ref" => {
                let pointer = argument.as_str().unwrap().strip_prefix('#').unwrap();
                fault(root, root.pointer(pointer).unwrap(), value, at)
            }
            "type" => {
                let kinds = if argument.is_array() { list(argument) } else { vec![argument.clone()] };
                if kinds.iter().any(|kind| is_of(kind, value)) { None } else { broken(argument) }
            }
            "const" => (value != argument).then(|| broken(argument)).flatten(),
            "enum" => (!list(argument).contains(value)).then(|| broken(argument)).flatten(),
            "minimum" => (value.as_u64() < argument.as_u64()).then(|| broken(argument)).flatten(),
            "pattern" => value
                .as_str()
                .filter(|text| !fits(argument.as_str().unwrap(), text))
                .and_then(|_| broken(argument)),
            "required" => list(argument)
                .iter()
                .find(|name| value.get(name.as_str().unwrap()).is_none())
                .and_then(broken),
            "properties" => value.as_object().and_then(|members| {
                members.iter().find_map(|(name, member)| {
                    fault(root, argument.get(name)?, member, &format!("{at}/{name}"))
                })
            }),
            "additionalProperties" => {
                let known = schema.get("properties");
                let others = value
                    .as_object()
                    .into_iter()
                    .flatten()
                    .filter(|(name, _)| known.is_none_or(|known| known.get(name).is_none()));
                match argument {
                    Value::Bool(false) => {
                        others.map(|(name, _)| json!(name)).next().and_then(|name| broken(&name))
                    }
                    of => others
                        .map(|(name, member)| fault(root, of, member, &format!("{at}/{name}")))
                        .find_map(|fault| fault),
                }
            }
            "items" => value.as_array().and_then(|items| {
                items
                    .iter()
                    .enumerate()
                    .find_map(|(number, item)| fault(root, argument, item, &format!("{at}/{number}")))
            }),
            "oneOf" => {
                let faults: Vec<_> = list(argument).iter().map(|one| fault(root, one, value, at)).collect();
                match faults.iter().filter(|fault| fault.is_none()).count() {
                    1 => None,
                    0 => Some(faults.into_iter().flatten().collect::<Vec<_>>().join("; ")),
                    _ => broken(&json!("several of oneOf fit")),
                }
            }
            other => panic!("the keyword {other} is not checked by this test"),
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

fn is_of(kind: &Value, value: &Value) -> bool {
    match kind.as_str().unwrap() {
        "null" => value.is_null(),
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("the type {other} is not checked by this test"),
    }
}

/// The patterns of the schema, without an engine for all patterns.
fn fits(pattern: &str, text: &str) -> bool {
    let digits = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let id = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'z' | b'-'))
    };
    let file = |extension| {
        let name = text.strip_prefix("valid/").or(text.strip_prefix("invalid/"));
        name.and_then(|name| name.strip_suffix(extension)).is_some_and(id)
    };
    match pattern {
        "^([0-9a-f]{2})*$" => digits(text) && text.len().is_multiple_of(2),
        "^[0-9a-f]{64}$" => digits(text) && text.len() == 64,
        "^(xxh3|blake3):[0-9a-f]{64}$" => {
            let digest = text.strip_prefix("xxh3:").or(text.strip_prefix("blake3:"));
            digest.is_some_and(|digest| digits(digest) && digest.len() == 64)
        }
        "^[a-z0-9-]+$" => id(text),
        r"^(valid|invalid)/[a-z0-9-]+\.tpatch$" => file(".tpatch"),
        r"^(valid|invalid)/[a-z0-9-]+\.json$" => file(".json"),
        other => panic!("the pattern {other} is not checked by this test"),
    }
}

#[test]
fn the_manifest_keeps_its_schema() {
    let (schema, manifest) = (read("manifest.schema.json"), read("manifest.json"));
    assert_eq!(fault(&schema, &schema, &manifest, ""), None);
}

#[test]
fn a_manifest_with_a_member_too_few_too_many_or_of_another_kind_breaks_the_schema() {
    let (schema, manifest) = (read("manifest.schema.json"), read("manifest.json"));
    let place = |list: &str, result: &str| {
        let entries = manifest[list].as_array().unwrap();
        format!("/{list}/{}", entries.iter().position(|entry| entry["result"] == result).unwrap())
    };
    let entries = [
        String::new(),
        place("vectors", "valid"),
        place("vectors", "invalid"),
        place("records", "valid"),
        place("keys", "valid"),
        place("keys", "invalid"),
        "/states/0".to_owned(),
        "/states/0/tensors/0".to_owned(),
    ];
    for entry in entries {
        let members: Vec<_> =
            manifest.pointer(&entry).unwrap().as_object().unwrap().keys().cloned().collect();
        let broken = |change: &dyn Fn(&mut serde_json::Map<String, Value>)| {
            let mut manifest = manifest.clone();
            change(manifest.pointer_mut(&entry).unwrap().as_object_mut().unwrap());
            fault(&schema, &schema, &manifest, "").is_some()
        };
        for member in members {
            assert!(broken(&|entry| drop(entry.remove(&member))), "{entry} without {member}");
            assert!(
                broken(&|entry| drop(entry.insert(member.clone(), json!(-1)))),
                "{entry} with {member} -1"
            );
        }
        assert!(broken(&|entry| drop(entry.insert("more".into(), json!("")))), "{entry} with a member more");
    }
}
