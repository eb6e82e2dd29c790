//! A recorded run through three formats and back: every version has the same digest on every way.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "tests may panic, and say that they did nothing"
)]

mod common;

use std::path::{Path, PathBuf};

use common::{Scratch, tensors, to};
use tensorpatch_format::TaggedStateDigest;
use tensorpatch_formats::index_delta::{DeltaEncoding, Dialect};
use tensorpatch_formats::{ChecksumKind, ConvertOptions, Flavour, Format, To, Verified, convert};
use tensorpatch_testkit::fixture::{NO_TRACE, full_trace, minilm_grpo};

/// A version on each of the three ways: as TRL has it, as patches give it, as an index-delta directory gives
/// it.
struct Held {
    trl: PathBuf,
    patched: PathBuf,
    pulled: PathBuf,
    digest: TaggedStateDigest,
}

fn follow(snapshots: &[PathBuf], flavour: Flavour, encoding: DeltaEncoding, checksum: ChecksumKind) {
    let scratch = Scratch::new();
    let to_directory = To::IndexDelta { dialect: Dialect::Numbered, encoding, checksum, file_bytes: 1 << 16 };
    let anchor = scratch.path("step_000001.safetensors");
    let mut options = ConvertOptions::new(To::Trl(flavour));
    options.version = Some("1".into());
    let report = convert(&snapshots[0], None, &anchor, &options).unwrap();
    assert_eq!(Format::detect(&anchor, &options.delta.limits).unwrap(), Format::TrlAnchor);
    let mut held = Held {
        trl: anchor.clone(),
        patched: anchor.clone(),
        pulled: snapshots[0].clone(),
        digest: report.target,
    };

    for (number, snapshot) in snapshots.iter().enumerate().skip(1) {
        let path = |kind: &str| scratch.path(&format!("{kind}-{number}.safetensors"));
        let (version, base_version) = ((number + 1).to_string(), number.to_string());
        let expect = |report: &tensorpatch_formats::Report, target: Option<TaggedStateDigest>| {
            assert_eq!(report.base, Some(held.digest));
            target.inspect(|target| assert_eq!(report.target, *target));
            report.target
        };

        // The trainer: from snapshots to a file of TRL.
        let sent = path("sent");
        let options = ConvertOptions::new(To::Trl(flavour)).with_versions(&version, &base_version);
        let report = convert(snapshot, Some(&held.trl), &sent, &options).unwrap();
        let digest = expect(&report, None);
        // A patch of it.
        let patch = scratch.path("step.tpatch");
        let report = to(&sent, Some(&held.patched), &patch, To::Patch).unwrap();
        expect(&report, Some(digest));
        let verified = if flavour == Flavour::A { Verified::State } else { Verified::Nothing };
        assert_eq!((report.source, report.verified), (Format::TrlDelta, verified));
        // A directory of the patch.
        let directory = scratch.path(&format!("weight_v{number:06}"));
        let options = ConvertOptions::new(to_directory).with_versions(&version, &base_version);
        let report = convert(&patch, Some(&held.patched), &directory, &options).unwrap();
        expect(&report, Some(digest));
        // And back: a checkpoint of each, and a file of TRL of the directory.
        let (patched, pulled, again) = (path("patched"), path("pulled"), path("again"));
        expect(&to(&patch, Some(&held.patched), &patched, To::Checkpoint).unwrap(), Some(digest));
        expect(&to(&directory, Some(&held.pulled), &pulled, To::Checkpoint).unwrap(), Some(digest));
        expect(&to(&directory, Some(&held.pulled), &again, To::Trl(flavour)).unwrap(), Some(digest));
        assert!(std::fs::read(&again).unwrap() == std::fs::read(&sent).unwrap(), "version {version}");
        for checkpoint in [&patched, &pulled] {
            assert!(tensors(checkpoint) == tensors(snapshot), "version {version}");
        }
        held = Held { trl: snapshot.clone(), patched, pulled, digest };
    }
}

fn follow_all(snapshots: &[PathBuf]) {
    for (flavour, encoding, checksum) in [
        (Flavour::A, DeltaEncoding::Xor, ChecksumKind::Xxh3),
        (Flavour::B, DeltaEncoding::Overwrite, ChecksumKind::Blake3),
        (Flavour::CRaw, DeltaEncoding::Xor, ChecksumKind::Adler32),
        (Flavour::CGaps, DeltaEncoding::Overwrite, ChecksumKind::Xxh3),
    ] {
        follow(snapshots, flavour, encoding, checksum);
    }
}

#[test]
fn a_recorded_run_has_the_same_digests_through_trl_patches_and_index_delta_directories() {
    follow_all(&minilm_grpo());
    let Some(whole) = full_trace() else {
        println!("{NO_TRACE}");
        return;
    };
    follow_all(&whole);
}

#[test]
fn a_directory_on_disk_is_what_the_readers_of_slime_and_sglang_want() {
    let scratch = Scratch::new();
    let [base, target, _] = minilm_grpo();
    let directory = scratch.path("weight_v000007");
    let options = ConvertOptions::new(To::index_delta(Dialect::Numbered)).with_versions("7", "6");
    convert(&target, Some(&base), &directory, &options).unwrap();
    let names = |directory: &Path| {
        let names = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    };
    assert_eq!(names(&directory), ["model-00000-of-00001.safetensors", "model.safetensors.index.json"]);
    let index = std::fs::read_to_string(directory.join("model.safetensors.index.json")).unwrap();
    let start = concat!(
        r#"{"metadata": {"version": "000007", "base_version": "000006", "delta_encoding": "xor", "#,
        r#""compression_format": "zstd", "checksum_format": "xxh3-128"}, "weight_map": {""#
    );
    assert!(index.starts_with(start), "{index}");
}

#[test]
fn a_whole_version_as_a_patch_becomes_a_change_from_a_base() {
    let scratch = Scratch::new();
    let [base, target, _] = minilm_grpo();
    let (whole, directory, pulled) =
        (scratch.path("whole.tpatch"), scratch.path("weight_v000002"), scratch.path("pulled.safetensors"));
    to(&target, None, &whole, To::Patch).unwrap();
    let options = ConvertOptions::new(To::index_delta(Dialect::Numbered)).with_versions("2", "1");
    let report = convert(&whole, Some(&base), &directory, &options).unwrap();
    assert_eq!((report.source, report.verified), (Format::Patch, Verified::State));
    to(&directory, Some(&base), &pulled, To::Checkpoint).unwrap();
    assert!(tensors(&pulled) == tensors(&target));
}
