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
