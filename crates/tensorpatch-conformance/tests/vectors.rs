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
fn an_archive_holds_the_vectors_and_all_of_the_specification_and_can_be_used_alone() {
    let archive = write::pack(root()).unwrap();
    assert_eq!(archive, write::pack(root()).unwrap());
    assert_eq!(archive[..10], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 255]);
    let (deflated, end) = archive[10..].split_at(archive.len() - 18);
    let tar = miniz_oxide::inflate::decompress_to_vec(deflated).unwrap();
    let checks = [crc32fast::hash(&tar).to_le_bytes(), u32::try_from(tar.len()).unwrap().to_le_bytes()];
    assert_eq!(end, checks.concat());

    let directory = tempfile::tempdir().unwrap();
    let mut names = BTreeSet::new();
    let mut at = 0;
    while tar[at] != 0 {
        let text =
            |range: std::ops::Range<usize>| std::str::from_utf8(&tar[range]).unwrap().trim_end_matches('\0');
        let len = usize::from_str_radix(text(at + 124..at + 136), 8).unwrap();
        let name = text(at..at + 100);
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, &tar[at + 512..at + 512 + len]).unwrap();
        names.insert(name.strip_prefix(write::ARCHIVED).unwrap().strip_prefix('/').unwrap().to_owned());
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
    let (count, faults) = read::check_directory(&directory.path().join(write::ARCHIVED)).unwrap();
    assert!(count > 300 && faults.is_empty(), "{count}:\n{}", faults.join("\n"));
}

#[test]
fn the_table_of_purposes_names_every_vector_record_and_question_once() {
    let contents = write::contents();
    let manifest: serde_json::Value = serde_json::from_slice(&contents["manifest.json"]).unwrap();
    let table = std::str::from_utf8(&contents["VECTORS.md"]).unwrap();
    for list in ["vectors", "records", "keys"] {
        for entry in manifest[list].as_array().unwrap() {
            let row = format!("\n| {} | ", entry["id"].as_str().unwrap());
            assert_eq!(table.matches(&row).count(), 1, "{row}");
        }
    }
}
