//! Vectors that `vectors/make.py` has written without any code of this repository.

#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, reason = "tests may panic")]

mod common;

use std::path::{Path, PathBuf};

use common::{Scratch, tensors, to};
use tensorpatch_format::Limits;
use tensorpatch_formats::{Format, To, Verified};

fn vector(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name)
}

fn state(name: &str) -> PathBuf {
    vector(&format!("states/{name}.safetensors"))
}

/// A vector, the states that it leads from and to, what it is, what it vouches for, and its versions.
type Row =
    (&'static str, &'static str, &'static str, Format, Verified, Option<&'static str>, Option<&'static str>);

const VECTORS: [Row; 16] = {
    use Format::{Grail, IndexDelta, NemoRl, SkyRl, TrlDelta};
    use Verified::{ChangedTensors, Nothing, State};
    let numbered = (Some("000008"), Some("000007"));
    [
        ("index-delta/xor-blake3", "base", "target", IndexDelta, ChangedTensors, numbered.0, numbered.1),
        (
            "index-delta/xor-plain-frames",
            "base",
            "target",
            IndexDelta,
            ChangedTensors,
            numbered.0,
            numbered.1,
        ),
        (
            "index-delta/overwrite-adler32",
            "base",
            "target",
            IndexDelta,
            ChangedTensors,
            numbered.0,
            numbered.1,
        ),
        (
            "index-delta/modelexpress",
            "base",
            "target",
            IndexDelta,
            ChangedTensors,
            Some("run/b"),
            Some("run/a"),
        ),
        ("index-delta/nothing", "base", "base", IndexDelta, ChangedTensors, numbered.0, numbered.1),
        ("trl/a.safetensors", "bf16-base", "bf16-target", TrlDelta, State, Some("8"), Some("7")),
        ("trl/a-nothing.safetensors", "bf16-base", "bf16-base", TrlDelta, State, Some("8"), Some("7")),
        ("trl/b.safetensors", "bf16-base", "bf16-target", TrlDelta, Nothing, Some("8"), None),
        ("trl/c-raw.safetensors", "bf16-base", "bf16-target", TrlDelta, Nothing, Some("8"), None),
        ("trl/c-gaps.safetensors", "bf16-base", "bf16-target", TrlDelta, Nothing, Some("8"), None),
        ("skyrl", "base", "target", SkyRl, ChangedTensors, Some("8"), Some("7")),
        ("nemo-rl/xor", "base", "target", NemoRl, Nothing, None, None),
        ("nemo-rl/overwrite", "base", "target", NemoRl, Nothing, None, None),
        ("grail/v2.zst", "base", "grail-target", Grail, Nothing, None, None),
        ("grail/v3.zst", "base", "grail-target", Grail, Nothing, None, None),
        ("grail/v31.zst", "base", "grail-target", Grail, Nothing, None, None),
    ]
};

#[test]
fn every_vector_makes_its_target_of_its_base() {
    for (name, base, target, format, verified, version, base_version) in VECTORS {
        let scratch = Scratch::new();
        let (source, dest) = (vector(name), scratch.path("target.safetensors"));
        assert_eq!(Format::detect(&source, &Limits::default()).unwrap(), format, "{name}");
        let report = to(&source, Some(&state(base)), &dest, To::Checkpoint);
        let report = report.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((report.source, report.verified), (format, verified), "{name}");
        assert_eq!(report.source_version.as_deref(), version, "{name}");
        assert_eq!(report.source_base_version.as_deref(), base_version, "{name}");
        assert!(tensors(&dest) == tensors(&state(target)), "{name}");
    }
}

#[test]
fn an_anchor_is_a_checkpoint_that_knows_its_version() {
    let scratch = Scratch::new();
    let report =
        to(&vector("trl/b-anchor.safetensors"), None, &scratch.path("anchor.tpatch"), To::Patch).unwrap();
    assert_eq!((report.source, report.verified), (Format::TrlAnchor, Verified::Nothing));
    assert_eq!(report.source_version.as_deref(), Some("7"));
    let copy = scratch.path("copy.safetensors");
    to(&scratch.path("anchor.tpatch"), None, &copy, To::Checkpoint).unwrap();
    assert!(tensors(&copy) == tensors(&state("bf16-base")));
}

#[test]
fn a_delta_needs_its_base() {
    for (name, ..) in VECTORS {
        let scratch = Scratch::new();
        let error = to(&vector(name), None, &scratch.path("x.tpatch"), To::Patch).unwrap_err();
        assert_eq!(error.kind(), tensorpatch_format::ErrorKind::Refused, "{name}: {error}");
    }
}
