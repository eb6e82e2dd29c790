//! The vectors are up to date, complete, and both decoders pass them.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::collections::BTreeSet;
use std::path::Path;

use tensorpatch_conformance::{Outcome, check, example, read, vectors, write};

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

#[test]
fn the_vectors_in_the_repository_are_up_to_date() {
    write::check(root()).unwrap();
}

#[test]
fn the_second_worked_example_in_the_specification_is_what_is_made() {
    let (states, _) = vectors();
    example::check(root(), &states).unwrap();
}

#[test]
fn both_decoders_say_of_every_vector_what_is_due() {
    let (states, vectors) = vectors();
    let faults = check::faults(&states, &vectors);
    assert!(faults.is_empty(), "{} of {}:\n{}", faults.len(), vectors.len(), faults.join("\n"));
}

#[test]
fn the_manifest_alone_suffices_to_use_the_vectors() {
    let (count, faults) = read::check_directory(&root().join(write::DIRECTORY)).unwrap();
    assert!(count > 300 && faults.is_empty(), "{count}:\n{}", faults.join("\n"));
}

#[test]
fn every_error_class_and_many_of_each_outcome_are_covered() {
    let (_, vectors) = vectors();
    let codes: BTreeSet<_> = vectors
        .iter()
        .filter_map(|vector| match vector.outcome {
            Outcome::Refused { code, .. } => Some(code),
            Outcome::Target(_) => None,
        })
        .collect();
    assert_eq!(codes.len(), 9, "{codes:?}");
    let valid = vectors.iter().filter(|vector| matches!(vector.outcome, Outcome::Target(_))).count();
    assert!(valid >= 100 && vectors.len() - valid >= 150, "{valid} of {}", vectors.len());
}

#[test]
fn an_archive_holds_the_vectors_and_all_of_the_specification() {
    let archive = write::pack(root()).unwrap();
    assert_eq!(archive, write::pack(root()).unwrap());
    let tar = zstd::bulk::decompress(&archive, 1 << 23).unwrap();
    let mut names = BTreeSet::new();
    let mut at = 0;
    while tar[at] != 0 {
        let text =
            |range: std::ops::Range<usize>| std::str::from_utf8(&tar[range]).unwrap().trim_end_matches('\0');
        let len = usize::from_str_radix(text(at + 124..at + 136), 8).unwrap();
        names.insert(text(at..at + 100).strip_prefix("tensorpatch-conformance-v1/").unwrap().to_owned());
        at += 512 + len.next_multiple_of(512);
    }
    assert!(write::contents().keys().all(|path| names.contains(path)));
    for folder in ["spec", "spec/encodings", "spec/reference"] {
        for entry in std::fs::read_dir(root().join(folder)).unwrap() {
            let entry = entry.unwrap();
            let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
            assert!(entry.file_type().unwrap().is_dir() || names.contains(&path), "{path}");
        }
    }
}
