//! What releases have written can be read, and is as they left it.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tensorpatch_conformance::{compat, read, write};

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

#[test]
fn what_every_release_has_written_is_read_by_both_decoders() {
    for directory in compat::releases(root()).unwrap() {
        let (count, faults) = read::check_directory(&directory).unwrap();
        assert!(count > 0 && faults.is_empty(), "{}:\n{}", directory.display(), faults.join("\n"));
    }
    assert_eq!(compat::violations(root()).unwrap(), Vec::<String>::new());
}

#[test]
fn an_id_of_a_release_that_comes_to_mean_something_else_is_found() {
    let manifest = || serde_json::from_slice::<Value>(&write::contents()["manifest.json"]).unwrap();
    let (release, mut later) = (manifest(), manifest());
    assert_eq!(compat::reused(&release, &later), Vec::<String>::new());
    for (list, member, value) in [
        ("vectors", "blake3", json!("00")),
        ("vectors", "base", json!("nothing")),
        ("vectors", "result", json!("other")),
        ("records", "blake3", json!("00")),
        ("records", "trusted", json!(["00"])),
        ("states", "digests", json!([])),
    ] {
        later[list][3][member] = value;
        let found = compat::reused(&release, &later);
        assert!(found.len() == 1 && found[0].contains(member), "{found:?}");
        later = manifest();
    }
    for (result, member) in [("valid", "target"), ("invalid", "error"), ("invalid", "offset")] {
        let all = later["vectors"].as_array_mut().unwrap();
        all.iter_mut().find(|entry| entry["result"] == result).unwrap()[member] = json!("other");
        assert_eq!(compat::reused(&release, &later).len(), 1, "{member}");
        later = manifest();
    }
    // What is gone is no violation, and comments may be mended.
    later["vectors"].as_array_mut().unwrap().remove(0);
    later["vectors"][0]["comment"] = json!("better");
    assert_eq!(compat::reused(&release, &later), Vec::<String>::new());
}

#[test]
fn a_record_is_made_once_and_every_alteration_of_it_is_found() {
    let temporary = tempfile::tempdir().unwrap();
    let root = temporary.path();
    fs::create_dir_all(root.join(compat::DIRECTORY)).unwrap();
    compat::write_constants(root).unwrap();
    let more = |directory: &Path| {
        fs::create_dir_all(directory.join("stream/bucket"))?;
        Ok(fs::write(directory.join("stream/bucket/stream.json"), b"{}")?)
    };
    compat::record(root, "0.9.0-rc.1", more).unwrap();
    assert_eq!(compat::violations(root).unwrap(), Vec::<String>::new());
    assert!(compat::record(root, "0.9.0-rc.1", |_| Ok(())).is_err());
    assert!(compat::record(root, "../0.9.0", |_| Ok(())).is_err());
    let directory = root.join(compat::DIRECTORY).join("0.9.0-rc.1");
    let (count, faults) = read::check_directory(&directory).unwrap();
    assert!(count > 300 && faults.is_empty(), "{}", faults.join("\n"));

    let found = |change: &dyn Fn(), undo: &dyn Fn()| {
        change();
        let violations = compat::violations(root).unwrap();
        undo();
        assert_eq!(compat::violations(root).unwrap(), Vec::<String>::new());
        assert!(!violations.is_empty());
        violations.join("\n")
    };
    let file = directory.join("valid/raw.tpatch");
    let bytes = fs::read(&file).unwrap();
    let restore = || fs::write(&file, &bytes).unwrap();
    assert!(
        found(&|| fs::write(&file, b"other").unwrap(), &restore).contains("valid/raw.tpatch was altered")
    );
    assert!(found(&|| fs::remove_file(&file).unwrap(), &restore).contains("valid/raw.tpatch was altered"));
    let stream = directory.join("stream/bucket/stream.json");
    let altered = found(&|| fs::write(&stream, b"[]").unwrap(), &|| fs::write(&stream, b"{}").unwrap());
    assert!(altered.contains("stream/bucket/stream.json was altered"), "{altered}");
    let more = directory.join("valid/more.tpatch");
    let add = || fs::write(&more, b"").unwrap();
    assert!(found(&add, &|| fs::remove_file(&more).unwrap()).contains("files, but"));

    // The whole release, which no digest of its files can tell; and one that nobody has recorded.
    let moved = root.join("moved");
    let take = |from: &Path, to: &Path| fs::rename(from, to).unwrap();
    let gone = found(&|| take(&directory, &moved), &|| take(&moved, &directory));
    assert_eq!(gone, "tests/compat/0.9.0-rc.1 is gone, and what a release has written stays as it is");
    let recorded = || {
        take(&directory, &moved);
        assert!(
            compat::record(root, "0.9.0-rc.1", |_| Ok(())).is_err(),
            "it is recorded once, also if it is gone"
        );
    };
    found(&recorded, &|| take(&moved, &directory));
    let list = root.join(compat::DIRECTORY).join("releases.txt");
    let versions = fs::read_to_string(&list).unwrap();
    let restore = || fs::write(&list, &versions).unwrap();
    assert!(
        found(&|| fs::write(&list, b"").unwrap(), &restore).contains("is not in tests/compat/releases.txt")
    );

    // An id that meant something else then: whoever alters both the files and their digests is found too.
    let manifest = directory.join("manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    let other = text.replacen(r#""target": "two-changed""#, r#""target": "two""#, 1);
    let restore = || fs::write(&manifest, &text).unwrap();
    let reused = found(&|| fs::write(&manifest, &other).unwrap(), &restore);
    assert!(reused.contains("is in a release, where its target is another"), "{reused}");

    let constants = root.join(compat::DIRECTORY).join("constants.txt");
    let text = fs::read_to_string(&constants).unwrap();
    let restore = || fs::write(&constants, &text).unwrap();
    let change = |from: &str, to: &str| fs::write(&constants, text.replace(from, to)).unwrap();
    assert!(found(&|| change("1048576", "1048577"), &restore).contains("stale"));
    let frozen = text.replace("draft", "frozen").replace("1048576", "1048577");
    assert!(found(&|| fs::write(&constants, &frozen).unwrap(), &restore).contains("frozen"));
    change("draft", "frozen");
    assert!(compat::write_constants(root).is_err());
}
