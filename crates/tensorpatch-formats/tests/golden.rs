//! Files that other projects' own encoders wrote, where they are at hand: `TENSORPATCH_GOLDEN`, or `../shared/golden`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "tests may panic, and say that they did nothing"
)]

mod common;

use std::path::{Path, PathBuf};

use common::{Scratch, Tensors, tensors, to};
use tensorpatch_formats::{ConvertOptions, Format, FormatsError, Report, To, Verified, Violation, convert};

/// The directory, or `None` if it is not there. A variable that names no directory fails the test.
fn golden() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("TENSORPATCH_GOLDEN") {
        let named = PathBuf::from(named);
        assert!(named.join("states").is_dir(), "TENSORPATCH_GOLDEN is {named:?}, which has no states");
        return Some(named);
    }
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/golden");
    if !beside.join("states").is_dir() {
        println!(
            "TENSORPATCH_GOLDEN is not set: files of other projects are not read, this test did nothing"
        );
        return None;
    }
    Some(beside)
}

fn state(golden: &Path, kind: &str, step: u32) -> PathBuf {
    golden.join(format!("states/{kind}step-{step}"))
}

/// Applies deltas one after the other, each to what the one before gave, and compares each result.
fn follow(deltas: &[PathBuf], first: &Path, expected: impl Fn(usize) -> Tensors) -> Vec<Report> {
    let scratch = Scratch::new();
    let mut base = first.to_owned();
    let mut reports = Vec::new();
    for (number, delta) in deltas.iter().enumerate() {
        let next = scratch.path(&format!("{number}.safetensors"));
        reports.push(
            to(delta, Some(&base), &next, To::Checkpoint)
                .unwrap_or_else(|error| panic!("{delta:?}: {error}")),
        );
        assert!(tensors(&next) == expected(number), "{delta:?}");
        base = next;
    }
    reports
}

#[test]
fn index_delta_directories_of_slime_miles_and_modelexpress_are_read() {
    let Some(golden) = golden() else { return };
    for name in ["slime-xor-xxh3", "slime-overwrite-xxh3", "slime-xor-adler32", "miles-xor-xxh3-2ranks"] {
        let deltas = [1, 2, 3].map(|version| golden.join(format!("{name}/weight_v{version:06}")));
        let reports =
            follow(&deltas, &state(&golden, "", 0), |number| tensors(&state(&golden, "", number as u32 + 1)));
        assert_eq!(reports[2].source_version.as_deref(), Some("000003"));
        assert_eq!(reports[2].source_base_version.as_deref(), Some("000002"));
        let changed: Vec<_> = reports.iter().map(|report| report.changed_tensors).collect();
        assert_eq!(changed, [3, 0, 1], "{name}");
        assert_eq!(reports[0].verified, Verified::ChangedTensors);
    }
    let run = golden.join("modelexpress/run");
    let deltas = [1, 2, 3].map(|version| run.join(format!("weights-{version}")));
    let reports =
        follow(&deltas, &state(&golden, "", 0), |number| tensors(&state(&golden, "", number as u32 + 1)));
    assert_eq!(reports[0].source_base_version.as_deref(), Some("base-0"));
}

#[test]
fn a_full_checkpoint_of_modelexpress_is_verified_and_can_be_a_base() {
    let Some(golden) = golden() else { return };
    let (scratch, full) = (Scratch::new(), golden.join("modelexpress/run/full-4"));
    let report = to(&full, None, &scratch.path("full.safetensors"), To::Patch).unwrap();
    assert_eq!((report.source, report.verified), (Format::Checkpoint, Verified::State));
    // From version 3 nothing changed.
    let report = to(&full, Some(&state(&golden, "", 3)), &scratch.path("same.tpatch"), To::Patch).unwrap();
    assert_eq!(report.changed_tensors, 0);
}

#[test]
fn deltas_of_skyrl_are_read() {
    let Some(golden) = golden() else { return };
    let deltas = [1, 2, 3].map(|version| golden.join(format!("skyrl/delta-{version:08}")));
    let reports =
        follow(&deltas, &state(&golden, "", 0), |number| tensors(&state(&golden, "", number as u32 + 1)));
    assert_eq!(
        (reports[2].source_version.as_deref(), reports[2].source_base_version.as_deref()),
        (Some("3"), Some("2"))
    );
}

#[test]
fn payloads_of_nemo_rl_are_read() {
    let Some(golden) = golden() else { return };
    for operation in ["xor", "overwrite"] {
        let delta = golden.join(format!("nemo-rl-{operation}"));
        let reports = follow(&[delta], &state(&golden, "", 0), |_| tensors(&state(&golden, "", 1)));
        assert_eq!(reports[0].verified, Verified::Nothing);
    }
}

/// Where TRL and grail, which compare numbers, leave +0.0 that should become -0.0.
const LOST: (&str, usize) = ("model.layers.0.mlp.down_proj.weight", 201);

/// A state without that change.
fn without_lost(mut state: Tensors) -> Tensors {
    let (name, byte) = LOST;
    let bytes = &mut state.get_mut(name).unwrap().2;
    assert_eq!(bytes[byte], 0x80);
    bytes[byte] = 0;
    state
}

#[test]
fn deltas_of_grail_are_read_in_all_versions() {
    let Some(golden) = golden() else { return };
    for version in ["v2", "v3", "v3.1"] {
        let delta = |step: u32| golden.join(format!("grail/step-{step}.{version}.zst"));
        follow(&[delta(1)], &state(&golden, "", 0), |_| tensors(&state(&golden, "", 1)));
        follow(&[delta(3)], &state(&golden, "", 2), |_| without_lost(tensors(&state(&golden, "", 3))));
    }
}

#[test]
fn anchors_and_deltas_of_trl_are_read_and_its_own_lost_change_is_told_where_there_is_a_checksum() {
    let Some(golden) = golden() else { return };
    for flavour in ["trl-a", "trl-c-raw", "trl-c-gap-delta"] {
        let anchor = golden.join(format!("{flavour}/anchors/step_000001.safetensors"));
        assert!(tensors(&anchor) == tensors(&state(&golden, "bf16/", 0)));
        let deltas =
            [2, 3, 4].map(|step| golden.join(format!("{flavour}/deltas/step_{step:06}.safetensors")));
        let expected = |number: usize| tensors(&state(&golden, "bf16/", number as u32 + 1));
        if flavour != "trl-a" {
            let reports = follow(&deltas, &anchor, |number| match number {
                2 => without_lost(expected(2)),
                _ => expected(number),
            });
            assert_eq!(
                (reports[1].verified, reports[1].source_base_version.as_deref()),
                (Verified::Nothing, None)
            );
            continue;
        }
        let reports = follow(&deltas[..2], &anchor, expected);
        assert_eq!(
            (reports[1].verified, reports[1].source_base_version.as_deref()),
            (Verified::State, Some("2"))
        );
        let scratch = Scratch::new();
        let error =
            to(&deltas[2], Some(&state(&golden, "bf16/", 2)), &scratch.path("x.safetensors"), To::Checkpoint);
        let error = error.unwrap_err();
        let FormatsError::Delta { source, .. } = error else { panic!("{error}") };
        assert!(matches!(source.violation, Violation::Checksum { .. }), "{source}");
        assert!(!scratch.path("x.safetensors").exists());
    }
}

#[test]
fn the_mark_of_an_empty_delta_of_trl_is_read() {
    let Some(golden) = golden() else { return };
    let delta = golden.join("trl-a-empty/deltas/step_000002.safetensors");
    assert_eq!(Format::detect(&delta, &tensorpatch_format::Limits::default()).unwrap(), Format::TrlDelta);
    // What it is from is not among the files: any other base has another checksum.
    let scratch = Scratch::new();
    let options = ConvertOptions::new(To::Checkpoint);
    let error = convert(&delta, Some(&state(&golden, "bf16/", 0)), &scratch.path("x.safetensors"), &options);
    assert!(matches!(error, Err(FormatsError::Delta { .. })));
}
