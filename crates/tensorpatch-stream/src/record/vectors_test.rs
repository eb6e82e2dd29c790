//! The conformance vectors of records (`tests/conformance/v1/`), and those that releases have left
//! (`tests/compat/`), read as a replica reads records.

use std::path::Path;

use serde_json::Value;

use super::*;
use crate::sign::TrustKey;
use crate::trust::Trust;

/// The stream of all handovers.
const STREAM: &str = "00112233445566778899aabbccddeeff";

fn read<T: JsonRecord>(bytes: &[u8], trust: &Trust) -> Result<(), String> {
    trust.read::<T>(bytes).map(|_| ()).map_err(|error| error.to_string())
}

fn read_handover(bytes: &[u8]) -> Result<HandoverRecord, String> {
    HandoverRecord::read(bytes, STREAM.parse().unwrap()).map_err(|error| error.to_string())
}

/// A directory of vectors.
struct Vectors<'a> {
    directory: &'a Path,
    manifest: Value,
}

impl Vectors<'_> {
    fn bytes(&self, record: &Value) -> Vec<u8> {
        std::fs::read(self.directory.join(record["file"].as_str().unwrap())).unwrap()
    }

    /// What the keys and handovers of an entry make of each other.
    fn trust(&self, entry: &Value) -> Result<Trust, String> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let keys: Vec<TrustKey> =
            entry["trusted"].as_array().unwrap().iter().map(|key| text(key).parse().unwrap()).collect();
        let records = self.manifest["records"].as_array().unwrap();
        let named = entry["handovers"].as_array().into_iter().flatten().map(|id| {
            let record = records.iter().find(|record| record["id"] == *id);
            self.bytes(record.unwrap_or_else(|| panic!("no record {id}")))
        });
        let handovers: Vec<HandoverRecord> = named.filter_map(|bytes| read_handover(&bytes).ok()).collect();
        Trust::of(keys).after(&handovers).map_err(|error| error.to_string())
    }
}

#[test]
fn records_are_taken_and_refused_as_the_vectors_say() {
    let tests = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests"));
    let kept = std::fs::read_dir(tests.join("compat")).unwrap().map(|entry| entry.unwrap().path());
    for directory in kept.filter(|path| path.is_dir()).chain([tests.join("conformance/v1")]) {
        check_directory(&directory);
    }
}

fn check_directory(directory: &Path) {
    let manifest = std::fs::read_to_string(directory.join("manifest.json")).unwrap();
    let vectors = Vectors { directory, manifest: serde_json::from_str(&manifest).unwrap() };
    let records = vectors.manifest["records"].as_array().unwrap();
    assert!(records.len() > 50, "{}", records.len());
    let mut wrong = Vec::new();
    for record in records {
        let text = |member: &str| record[member].as_str().unwrap();
        let bytes = vectors.bytes(record);
        let trust = vectors.trust(record).unwrap();
        let found = match text("kind") {
            "stream" => read::<StreamRecord>(&bytes, &trust),
            "commit" => read::<CommitRecord>(&bytes, &trust),
            "edge" => read::<EdgeRecord>(&bytes, &trust),
            "handover" => read_handover(&bytes).map(|_| ()),
            kind => panic!("{kind}"),
        };
        if found.is_ok() != (text("result") == "valid") {
            wrong.push(format!("{}: {found:?} ({})", text("id"), text("comment")));
        }
    }
    for keys in vectors.manifest["keys"].as_array().into_iter().flatten() {
        let found = vectors.trust(keys).map(|trust| {
            let counts = trust.keys().map(|(key, last)| (key.to_string(), last));
            let mut counts: Vec<_> = counts.collect();
            counts.sort_by(|one, other| one.0.cmp(&other.0));
            counts
        });
        let right = match (&found, keys["counts"].as_array()) {
            (Ok(found), Some(due)) => {
                let mut due = due.clone();
                due.sort_by(|one, other| one["key"].as_str().cmp(&other["key"].as_str()));
                let of = |(key, last): &(String, Option<Link>)| serde_json::json!({"key": key, "last": last});
                due == found.iter().map(of).collect::<Vec<_>>()
            }
            (Err(_), None) => keys["result"] == "invalid",
            _ => false,
        };
        if !right {
            wrong.push(format!("{}: {found:?} ({})", keys["id"], keys["comment"]));
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", directory.display(), wrong.join("\n"));
}
