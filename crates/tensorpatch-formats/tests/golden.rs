//! Files that other projects' own encoders wrote, where they are at hand: `TENSORPATCH_GOLDEN`, or
//! `../shared/golden`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "tests may panic, and say that they did nothing"
)]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use common::{Scratch, Tensors, tensors, to};
use tensorpatch_checkpoint::SafetensorsHeader;
use tensorpatch_format::Limits;
use tensorpatch_formats::index_delta::{DeltaEncoding, Dialect};
use tensorpatch_formats::{
    ChecksumKind, ConvertOptions, Flavour, Format, FormatsError, Report, To, Verified, Violation, convert,
};

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
    assert_eq!(Format::detect(&delta, &Limits::default()).unwrap(), Format::TrlDelta);
    // What it is from is not among the files: any other base has another checksum.
    let scratch = Scratch::new();
    let options = ConvertOptions::new(To::Checkpoint);
    let error = convert(&delta, Some(&state(&golden, "bf16/", 0)), &scratch.path("x.safetensors"), &options);
    assert!(matches!(error, Err(FormatsError::Delta { .. })));
}

/// A directory without what zstd makes of the tensors.
#[derive(PartialEq)]
struct Outline {
    index: Vec<u8>,
    files: BTreeMap<String, (Vec<String>, Metadata)>,
}

type Metadata = Option<BTreeMap<String, String>>;

fn outline(directory: &Path) -> Outline {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            let header =
                SafetensorsHeader::parse(&std::fs::read(&path).unwrap(), &Limits::default()).unwrap();
            let mut names: Vec<_> = header.tensors().iter().map(|(spec, _)| spec.name.clone()).collect();
            names.sort();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            files.insert(name, (names, header.metadata().cloned()));
        }
    }
    Outline { index: std::fs::read(directory.join("model.safetensors.index.json")).unwrap(), files }
}

#[test]
fn index_delta_directories_that_are_written_have_the_index_and_the_checksums_of_the_projects_own() {
    let Some(golden) = golden() else { return };
    let style =
        |dialect, encoding, checksum| To::IndexDelta { dialect, encoding, checksum, file_bytes: 1 << 20 };
    let slime = |encoding, checksum| style(Dialect::Numbered, encoding, checksum);
    let modelexpress = To::index_delta(Dialect::ModelExpress);
    for (directory, names, to) in [
        ("slime-xor-xxh3/weight_v00000", ["0", "1", "2", "3"], slime(DeltaEncoding::Xor, ChecksumKind::Xxh3)),
        (
            "slime-overwrite-xxh3/weight_v00000",
            ["0", "1", "2", "3"],
            slime(DeltaEncoding::Overwrite, ChecksumKind::Xxh3),
        ),
        (
            "slime-xor-adler32/weight_v00000",
            ["0", "1", "2", "3"],
            slime(DeltaEncoding::Xor, ChecksumKind::Adler32),
        ),
        ("modelexpress/run/weights-", ["base-0", "1", "2", "3"], modelexpress),
    ] {
        let id = |name: &str| match to {
            _ if to == modelexpress && name != "base-0" => format!("weights-{name}"),
            _ => name.to_owned(),
        };
        for step in 1..4 {
            let scratch = Scratch::new();
            let options = ConvertOptions::new(to).with_versions(id(names[step]), id(names[step - 1]));
            let (base, target) = (state(&golden, "", step as u32 - 1), state(&golden, "", step as u32));
            convert(&target, Some(&base), &scratch.path("out"), &options).unwrap();
            let theirs = golden.join(format!("{directory}{}", names[step]));
            assert!(outline(&scratch.path("out")) == outline(&theirs), "{theirs:?}");
        }
    }
}

#[test]
fn files_of_trl_that_are_written_have_the_tensors_and_metadata_of_trls_own() {
    let Some(golden) = golden() else { return };
    for (name, flavour) in
        [("trl-a", Flavour::A), ("trl-c-raw", Flavour::CRaw), ("trl-c-gap-delta", Flavour::CGaps)]
    {
        let scratch = Scratch::new();
        let (base, target) = (state(&golden, "bf16/", 0), state(&golden, "bf16/", 1));
        let options = ConvertOptions::new(To::Trl(flavour)).with_versions("2", "1");
        convert(&target, Some(&base), &scratch.path("delta"), &options).unwrap();
        let options = ConvertOptions::new(To::Trl(flavour)).with_versions("1", "0");
        convert(&base, None, &scratch.path("anchor"), &options).unwrap();
        for (ours, theirs) in [("delta", "deltas/step_000002"), ("anchor", "anchors/step_000001")] {
            let (ours, theirs) = (scratch.path(ours), golden.join(format!("{name}/{theirs}.safetensors")));
            // TRL counts a NaN as changed whatever its bits.
            let without_nan = |path: &Path| {
                let mut tensors = tensors(path);
                tensors.retain(|name, _| !name.starts_with(&format!("{}.", LOST.0)));
                tensors
            };
            assert!(without_nan(&ours) == without_nan(&theirs), "{theirs:?}");
            let metadata = |path: &Path| {
                let header =
                    SafetensorsHeader::parse(&std::fs::read(path).unwrap(), &Limits::default()).unwrap();
                let mut metadata = header.metadata().unwrap().clone();
                // What the base is called is known to TRL alone; a list in JSON may have blanks.
                metadata.remove("base_model_id");
                if metadata.get("total_changed_elements").is_some_and(|count| count == "38" || count == "39")
                {
                    // One more is counted there, as said.
                    metadata.retain(|key, _| key != "total_changed_elements" && key != "sparsity");
                }
                metadata.entry("changed_params".to_owned()).and_modify(|names| names.retain(|c| c != ' '));
                metadata
            };
            assert_eq!(metadata(&ours), metadata(&theirs), "{theirs:?}");
        }
    }
}
