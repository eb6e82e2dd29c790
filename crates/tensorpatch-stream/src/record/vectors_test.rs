//! The conformance vectors of records (`tests/conformance/v1/`), and those that releases have left
//! (`tests/compat/`), read as a replica reads records.

use std::path::Path;

use serde_json::Value;

use super::*;
use crate::sign::TrustKey;
use crate::trust::Trust;

fn read<T: JsonRecord>(bytes: &[u8], keys: &[TrustKey]) -> Result<(), String> {
    Trust::of(keys.iter().copied()).read::<T>(bytes).map(|_| ()).map_err(|error| error.to_string())
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
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    let records = manifest["records"].as_array().unwrap();
    assert!(records.len() > 50, "{}", records.len());
    let mut wrong = Vec::new();
    for record in records {
        let text = |member: &str| record[member].as_str().unwrap();
        let bytes = std::fs::read(directory.join(text("file"))).unwrap();
        let keys: Vec<TrustKey> = record["trusted"]
            .as_array()
            .unwrap()
            .iter()
            .map(|key| key.as_str().unwrap().parse().unwrap())
            .collect();
        let found = match text("kind") {
            "stream" => read::<StreamRecord>(&bytes, &keys),
            "commit" => read::<CommitRecord>(&bytes, &keys),
            "edge" => read::<EdgeRecord>(&bytes, &keys),
            kind => panic!("{kind}"),
        };
        if found.is_ok() != (text("result") == "valid") {
            wrong.push(format!("{}: {found:?} ({})", text("id"), text("comment")));
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", directory.display(), wrong.join("\n"));
}
