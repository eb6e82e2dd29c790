//! The records that are written, held against spec/stream.schema.json in both directions.

use serde_json::Value;

use super::tests::sample;
use super::*;
use crate::sign::SignKey;

fn schema() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../spec/stream.schema.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Checks `value` by the keywords that the schema uses, strictly: a member that the schema does not list is
/// an error.
fn check(root: &Value, schema: &Value, value: &Value, at: &str) {
    for (keyword, argument) in schema.as_object().unwrap() {
        match keyword.as_str() {
            "$ref" => {
                let pointer = argument.as_str().unwrap().strip_prefix('#').unwrap();
                check(root, root.pointer(pointer).unwrap(), value, at);
            }
            "type" => {
                let found = match value {
                    Value::Null => "null",
                    Value::Bool(_) => "boolean",
                    Value::Number(_) => "integer",
                    Value::String(_) => "string",
                    Value::Array(_) => "array",
                    Value::Object(_) => "object",
                };
                assert_eq!(found, argument, "{at}");
            }
            "enum" => assert!(argument.as_array().unwrap().contains(value), "{at}: {value}"),
            "required" => {
                for name in argument.as_array().unwrap() {
                    assert!(value.get(name.as_str().unwrap()).is_some(), "{at}: {name} is missing");
                }
            }
            "properties" => {
                for (name, member) in value.as_object().unwrap() {
                    let property =
                        argument.get(name).unwrap_or_else(|| panic!("{at}: {name} is not in the schema"));
                    check(root, property, member, &format!("{at}.{name}"));
                }
            }
            "items" => {
                for item in value.as_array().unwrap() {
                    check(root, argument, item, &format!("{at}[]"));
                }
            }
            "oneOf" if value.is_null() => {
                assert!(argument.as_array().unwrap().iter().any(|one| one["type"] == "null"), "{at}");
            }
            "oneOf" => {
                let one = argument.as_array().unwrap().iter().find(|one| one["type"] != "null").unwrap();
                check(root, one, value, at);
            }
            "minimum" => assert!(value.as_u64().unwrap() >= argument.as_u64().unwrap(), "{at}"),
            "maximum" => assert!(value.as_u64().unwrap() <= argument.as_u64().unwrap(), "{at}"),
            "minItems" => {
                assert!(value.as_array().unwrap().len() as u64 >= argument.as_u64().unwrap(), "{at}")
            }
            // Patterns and lengths have their own tests beside the types that check them.
            "pattern" | "minLength" | "maxLength" => assert!(value.is_string(), "{at}"),
            other => panic!("{at}: the keyword {other} is not checked by this test"),
        }
    }
}

fn members(schema: &Value, name: &str) -> Vec<String> {
    schema["$defs"][name]["required"].as_array().unwrap().iter().map(|v| v.as_str().unwrap().into()).collect()
}

#[test]
fn records_agree_with_the_published_schema() {
    let schema = schema();
    let first = sample(1, ObjectDigest::of(b""));
    let second = sample(2, ObjectDigest::of(b""));
    let stream =
        StreamRecord { stream: first.stream, created: 1, leaf_hash: LeafHash::Xxh3, writers: Writers::Many };
    let edge = EdgeRecord {
        stream: first.stream,
        publisher: "p".into(),
        nonce: first.nonce,
        created: 1,
        target: second.id(ObjectDigest::of(b"2")),
        delta: second.delta.clone(),
        anchor: None,
    };
    let anchor = EdgeRecord { delta: None, anchor: first.anchor.clone(), ..edge.clone() };
    for (name, bytes) in [
        ("commit", first.to_bytes().unwrap()),
        ("commit", second.to_bytes().unwrap()),
        ("stream", stream.to_bytes().unwrap()),
        ("edge", edge.to_bytes().unwrap()),
        ("edge", anchor.to_bytes().unwrap()),
    ] {
        let value: Value = serde_json::from_slice(&bytes).unwrap();
        check(&schema, &schema["$defs"][name], &value, name);
    }
}

#[test]
fn a_record_without_a_member_that_the_schema_requires_is_refused() {
    let schema = schema();
    let record = sample(2, ObjectDigest::of(b""));
    for record in [&record, &sample(1, ObjectDigest::of(b""))] {
        for member in members(&schema, "commit") {
            let mut value: Value = serde_json::from_slice(&record.to_bytes().unwrap()).unwrap();
            value.as_object_mut().unwrap().remove(&member).unwrap();
            let result = CommitRecord::parse(value.to_string().as_bytes());
            assert!(result.is_err(), "without {member}");
        }
    }
    for (definition, pointer) in [
        ("delta", "/delta"),
        ("patch", "/delta/patches/0"),
        ("version_id", "/delta/base"),
        ("link", "/previous"),
        ("named_object", "/companions/0"),
    ] {
        for member in members(&schema, definition) {
            let mut value: Value = serde_json::from_slice(&record.to_bytes().unwrap()).unwrap();
            value.pointer_mut(pointer).unwrap().as_object_mut().unwrap().remove(&member).unwrap();
            let result = CommitRecord::parse(value.to_string().as_bytes());
            assert!(result.is_err(), "{pointer} without {member}");
        }
    }
}

#[test]
fn handovers_agree_with_the_published_schema_and_lack_nothing_that_it_requires() {
    let schema = schema();
    let (old, new) = (SignKey::generate(), SignKey::generate());
    let record = HandoverRecord {
        stream: sample(1, ObjectDigest::of(b"")).stream,
        created: 1,
        from: old.public(),
        to: new.public(),
        last: Link { version: Version::new(1).unwrap(), commit: ObjectDigest::of(b"1") },
        consent: None,
    };
    for consent in [None, Some(&old)] {
        let bytes = record.clone().to_signed_bytes(&new, consent).unwrap();
        let value: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(value.get("consent").is_some(), consent.is_some());
        check(&schema, &schema["$defs"]["handover"], &value, "handover");
        for member in members(&schema, "handover") {
            let mut value: Value = serde_json::from_slice(&bytes).unwrap();
            value.as_object_mut().unwrap().remove(&member).unwrap();
            let result = HandoverRecord::read(value.to_string().as_bytes(), record.stream);
            assert!(result.is_err(), "without {member}");
        }
        for member in members(&schema, "link") {
            let mut value: Value = serde_json::from_slice(&record.to_bytes().unwrap()).unwrap();
            value["last"].as_object_mut().unwrap().remove(&member).unwrap();
            let result = HandoverRecord::parse(value.to_string().as_bytes());
            assert!(result.is_err(), "last without {member}");
        }
    }
}
