//! `manifest.json`, its schema, and the README of the directory.

use serde_json::{Value, json};
use tensorpatch_format::ErrorClass;

use crate::records::Record;
use crate::records_handed::{Keys, keys};
use crate::registry::records;
use crate::state::rules_in_words;
use crate::vector::States;
use crate::{Outcome, Vector};

/// The manifest as text.
pub(crate) fn manifest(states: &States, vectors: &[Vector]) -> String {
    let vectors: Vec<_> = vectors.iter().map(entry).collect();
    let records: Vec<_> = records().iter().map(record_entry).collect();
    let keys: Vec<_> = keys().iter().map(keys_entry).collect();
    let states: Vec<_> = states.all().iter().map(|state| state.to_json()).collect();
    pretty(&json!({
        "schema": "manifest.schema.json",
        "format": "1.0",
        "comment": "Conformance vectors of the tensorpatch patch format; README.md says how to use them",
        "rules": rules_in_words(),
        "limits": {
            "comment": "The limits of the reader under test: those that section 11 of the specification gives",
            "tensors": 1_048_576,
            "files": 65_536,
            "state_bytes": 70_368_744_177_664_u64,
            "metadata_bytes": 268_435_456,
            "section_bytes": 67_108_864,
        },
        "vectors": vectors,
        "records": records,
        "keys": keys,
        "states": states,
    }))
}

fn entry(vector: &Vector) -> Value {
    let mut entry = json!({
        "id": vector.id,
        "file": file_name(vector),
        "blake3": blake3::hash(&vector.file).to_hex().as_str(),
        "base": vector.base,
        "section": vector.section,
        "comment": vector.comment,
        "flags": vector.flags,
        "since": "1.0",
    });
    match &vector.outcome {
        Outcome::Target(target) => {
            entry["result"] = json!("valid");
            entry["target"] = json!(target);
            if let Some(offset) = vector.unwritable {
                entry["unwritable"] = json!(offset);
            }
        }
        Outcome::Refused { code, offset } => {
            entry["result"] = json!("invalid");
            entry["error"] = json!(code);
            entry["offset"] = json!(offset);
        }
    }
    entry
}

fn record_entry(record: &Record) -> Value {
    let mut entry = json!({
        "id": record.id,
        "file": record_file_name(record),
        "blake3": blake3::hash(&record.bytes).to_hex().as_str(),
        "kind": record.kind,
        "trusted": record.trusted,
        "result": if record.valid { "valid" } else { "invalid" },
        "section": record.section,
        "comment": record.comment,
        "since": "1.0",
    });
    if !record.handovers.is_empty() {
        entry["handovers"] = json!(record.handovers);
    }
    entry
}

fn keys_entry(keys: &Keys) -> Value {
    let mut entry = json!({
        "id": keys.id,
        "trusted": keys.trusted,
        "handovers": keys.handovers,
        "result": if keys.counts.is_some() { "valid" } else { "invalid" },
        "section": "4.5",
        "comment": keys.comment,
        "since": "1.0",
    });
    if let Some(counts) = &keys.counts {
        let counted = counts.iter().map(|(key, last)| {
            let last = last.as_ref().map(|(version, commit)| json!({"version": version, "commit": commit}));
            json!({"key": key, "last": last})
        });
        entry["counts"] = counted.collect();
    }
    entry
}

pub(crate) fn record_file_name(record: &Record) -> String {
    format!("{}/{}.json", if record.valid { "valid" } else { "invalid" }, record.id)
}

pub(crate) fn file_name(vector: &Vector) -> String {
    let folder = match vector.outcome {
        Outcome::Target(_) => "valid",
        Outcome::Refused { .. } => "invalid",
    };
    format!("{folder}/{}.tpatch", vector.id)
}

/// The JSON schema of the manifest.
pub(crate) fn schema() -> String {
    let text = json!({"type": "string"});
    let hex = json!({"type": "string", "pattern": "^([0-9a-f]{2})*$"});
    let digest = json!({"type": "string", "pattern": "^[0-9a-f]{64}$"});
    let id = json!({"type": "string", "pattern": "^[a-z0-9-]+$"});
    let count = json!({"type": "integer", "minimum": 0});
    let object = |required: &[&str], properties: Value| json!({"type": "object", "required": required, "additionalProperties": false, "properties": properties});
    let bytes = json!({"$ref": "#/$defs/bytes"});
    let error_codes = codes();
    let common = [
        ("id", id.clone()),
        ("file", json!({"type": "string", "pattern": "^(valid|invalid)/[a-z0-9-]+\\.tpatch$"})),
        ("blake3", digest.clone()),
        ("base", json!({"type": ["string", "null"]})),
        ("section", text.clone()),
        ("comment", text.clone()),
        ("flags", json!({"type": "array", "items": {"enum": ["bomb", "evolution", "forward"]}})),
        ("since", text.clone()),
    ];
    let vector = |result: &str, own: &[(&str, Value)]| {
        let mut properties = serde_json::Map::new();
        for (name, schema) in common.iter().chain(own) {
            properties.insert((*name).to_owned(), schema.clone());
        }
        properties.insert("result".to_owned(), json!({"const": result}));
        let required: Vec<_> = properties.keys().filter(|name| *name != "unwritable").cloned().collect();
        json!({"type": "object", "required": required, "additionalProperties": false, "properties": properties})
    };
    let tensor = object(
        &["name", "dtype", "shape", "bytes", "byte_len", "blake3"],
        json!({
            "name": text, "dtype": text, "shape": {"type": "array", "items": count},
            "bytes": bytes, "byte_len": count, "blake3": digest,
        }),
    );
    let keys = json!({"type": "array", "items": digest});
    let ids = json!({"type": "array", "items": id});
    let with_optional = |name: &str, mut schema: Value| {
        schema["properties"][name] = ids.clone();
        schema
    };
    let last = object(&["version", "commit"], json!({"version": count, "commit": digest}));
    let counting =
        object(&["key", "last"], json!({"key": digest, "last": {"oneOf": [{"type": "null"}, last]}}));
    let keys_with = |own: &[(&str, Value)]| {
        let common = [
            ("id", &id),
            ("trusted", &keys),
            ("handovers", &ids),
            ("section", &text),
            ("comment", &text),
            ("since", &text),
        ];
        let common = common.into_iter().chain(own.iter().map(|(name, schema)| (*name, schema)));
        let properties: serde_json::Map<_, _> =
            common.map(|(name, schema)| (name.to_owned(), schema.clone())).collect();
        let required: Vec<_> = properties.keys().cloned().collect();
        json!({"type": "object", "required": required, "additionalProperties": false, "properties": properties})
    };
    pretty(&json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Manifest of the tensorpatch conformance vectors",
        "type": "object",
        "required": ["schema", "format", "comment", "rules", "limits", "vectors", "records", "keys", "states"],
        "additionalProperties": false,
        "properties": {
            "schema": text, "format": text, "comment": text,
            "rules": {"type": "object", "additionalProperties": text},
            "limits": {"type": "object"},
            "vectors": {"type": "array", "items": {"oneOf": [
                vector("valid", &[("target", id.clone()), ("unwritable", count.clone())]),
                vector("invalid", &[("error", json!({"enum": error_codes})), ("offset", count.clone())]),
            ]}},
            "records": {"type": "array", "items": with_optional("handovers", object(
                &["id", "file", "blake3", "kind", "trusted", "result", "section", "comment", "since"],
                json!({
                    "id": id, "blake3": digest, "section": text, "comment": text, "since": text,
                    "file": {"type": "string", "pattern": "^(valid|invalid)/[a-z0-9-]+\\.json$"},
                    "kind": {"enum": ["stream", "commit", "edge", "handover"]},
                    "trusted": keys,
                    "result": {"enum": ["valid", "invalid"]},
                }),
            ))},
            "keys": {"type": "array", "items": {"oneOf": [
                keys_with(&[("result", json!({"const": "valid"})), ("counts", json!({"type": "array", "items": counting}))]),
                keys_with(&[("result", json!({"const": "invalid"}))]),
            ]}},
            "states": {"type": "array", "items": object(
                &["id", "digests", "tensors"],
                json!({
                    "id": id,
                    "digests": {"type": "array", "items": {"type": "string", "pattern": "^(xxh3|blake3):[0-9a-f]{64}$"}},
                    "tensors": {"type": "array", "items": tensor},
                }),
            )},
        },
        "$defs": {
            "bytes": {"oneOf": [
                object(&["hex"], json!({"hex": hex})),
                object(&["repeat", "length"], json!({"repeat": hex, "length": count})),
                object(&["random", "length"], json!({"random": count, "length": count, "and": hex, "or": hex})),
                object(&["parts"], json!({"parts": {"type": "array", "items": bytes}})),
                object(&["state", "tensor", "edits"], json!({
                    "state": text, "tensor": text,
                    "edits": {"type": "array", "items": {"oneOf": [
                        object(&["write", "at"], json!({"write": hex, "at": count})),
                        object(&["nudge", "width", "one_in", "reach"], json!({
                            "nudge": count, "width": {"enum": [1, 2, 4, 8]}, "one_in": count, "reach": count,
                        })),
                    ]}},
                })),
            ]},
        },
    }))
}

/// The codes of section 12.
pub(crate) fn codes() -> Vec<&'static str> {
    ErrorClass::ALL.iter().map(|class| class.code()).collect()
}

/// JSON with a line for each value but short lists, which is what a reviewer can read the difference of.
fn pretty(value: &Value) -> String {
    let mut text = serde_json::to_string_pretty(value).expect("JSON");
    text.push('\n');
    text
}

/// What the directory says of itself.
pub(crate) const README: &str = "\
# Conformance vectors

Files that a decoder of the tensorpatch patch format must accept, with what they decode to, and files that it must refuse,
with the class and the offset of the error. The format is specified in `spec/` of the tensorpatch repository, which an
archive of these files includes; nothing else is needed to use them.

`manifest.json` lists the vectors and the states, `manifest.schema.json` is its JSON schema, and `VECTORS.md` says in
tables what each vector is for. `cargo xtask vectors --pack FILE` in the repository makes the archive.

* A *vector* is a file (`file`), the state to apply it to (`base`; null for a full patch), and a result. `valid`: the
  decoder returns the state `target`. `invalid`: it stops with `error`, one of the codes of section 12, at `offset`, a
  byte offset in the file. `section` is the section of the specification that decides, and `since` the version of the
  format.
* `unwritable` marks some valid vectors: they list a layout that no checkpoint can have (section 2.2). A decoder that
  writes the files of a checkpoint refuses such a patch with `invalid` at this offset, before it writes any file. A
  decoder that returns states alone need not look at headers and index, and returns `target`. All other valid vectors can
  be written.
* A *state* is a list of tensors in the order of the schema, whose bytes follow from a rule. `rules` in the manifest says
  in words what each rule means. `blake3` is the BLAKE3 hash of the bytes of the tensor, and `digests` are the state
  digests with either leaf hash: compare your bytes with them before you suspect your decoder.
* A *record* is a JSON record of a stream, which `spec/stream.md` specifies. `kind` is what the reader asks for, `trusted`
  lists the public keys that it trusts (none: it accepts unsigned records), `handovers` the ids of the handovers of the
  stream, if there are any, and `result` says whether it must accept or refuse the record. A handover is valid if it is
  one of the stream `00112233445566778899aabbccddeeff` that its new key has signed.
* `keys` are questions about section 4.5 of `spec/stream.md`: of a reader that trusts the keys `trusted`, once it has read
  the records `handovers` (some of which are none), which keys count, and up to which version and record (`last`; null:
  for all versions)? `invalid`: it refuses the stream.
* `limits` are the limits that the reader must have.
* Flags: `bomb` vectors declare far more than they hold, and a decoder must refuse them without allocating for it.
  `evolution` vectors hold what later versions may bring. The error of a `forward` vector is due from a reader that goes
  forward and has the base at hand (section 12.1); any other reader must refuse the file too, and may name another error.

A decoder passes if it gives the expected result for every vector. There are two exceptions. A decoder that does not verify
the whole state may miss some of the false digests. A decoder that reads by the index sees the parts in another order, and
may report another class where the file ends too early.

## Running a decoder

`spec/reference/run.py` runs any program over the vectors: `python3 spec/reference/run.py . -- COMMAND`. It calls
`COMMAND PATCH BASE TARGET`, where `BASE` is a safetensors file or `-`, and `TARGET` a file to write. The program exits
with 0 if it has written the target there as a safetensors file, and with 1 if it has refused the patch; the last line
that it prints is then the class and the offset, such as `invalid 87`. The runner compares names, dtypes, shapes and bytes
of the tensors, or class and offset. It takes any other exit, a program that does not end within a minute, and a target
beside a refusal for failures.

`python3 spec/reference/run.py . -- python3 spec/reference/decode.py --answer` shows it at work, and
`python3 spec/reference/decode.py --vectors .` does the same in one process. Both need Python 3.11 and `zstandard`.

An id is never used again for another vector. Vectors are added, and not altered once the format is final.
";
