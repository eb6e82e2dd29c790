//! What releases have written can be read, and is as they left it.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::fs;
use std::path::Path;

use tensorpatch_conformance::{compat, read};

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
fn a_record_is_made_once_and_every_alteration_of_it_is_found() {
    let temporary = tempfile::tempdir().unwrap();
    let root = temporary.path();
    fs::create_dir_all(root.join(compat::DIRECTORY)).unwrap();
    compat::write_constants(root).unwrap();
    compat::record(root, "0.9.0-rc.1").unwrap();
    assert_eq!(compat::violations(root).unwrap(), Vec::<String>::new());
    assert!(compat::record(root, "0.9.0-rc.1").is_err());
    assert!(compat::record(root, "../0.9.0").is_err());
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
    let more = directory.join("valid/more.tpatch");
    let add = || fs::write(&more, b"").unwrap();
    assert!(found(&add, &|| fs::remove_file(&more).unwrap()).contains("files, but"));

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
