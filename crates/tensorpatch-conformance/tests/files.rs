//! The valid vectors, applied to files: what a reader that writes checkpoints makes of them.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

use tensorpatch_checkpoint::{Checkpoint, Form};
use tensorpatch_conformance::{Outcome, States, Vector, vectors};
use tensorpatch_delta::{ApplyError, Options, Patch, Progress, apply_full, apply_to};
use tensorpatch_format::{ErrorClass, Kind, Limits};
use tensorpatch_testkit::{FileStyle, write_single};

/// Applies a vector to files, and looks at what then lies there.
fn fault(states: &States, vector: &Vector, target: &str) -> Option<String> {
    let directory = tempfile::tempdir().unwrap();
    let patch = Patch::parse(&vector.file, &Limits::default()).unwrap();
    let out = directory.path().join("out");
    let (options, progress) = (Options::default(), Progress::none);
    let applied = match vector.base {
        Some(base) if patch.kind() != Kind::Full => {
            let path = directory.path().join("base.safetensors");
            write_single(&path, &states.model(base), &FileStyle::default());
            let base = Checkpoint::open(&path, &Limits::default()).unwrap();
            apply_to(&base, &patch, &out, Form::Directory, &options, progress())
        }
        _ => apply_full(&patch, &out, Form::Directory, &options, progress()),
    };
    match (applied, vector.unwritable) {
        (Err(error), Some(offset)) => {
            let right = matches!(error, ApplyError::Layout { .. })
                && (error.class(), error.offset()) == (Some(ErrorClass::Invalid), Some(offset))
                && !out.exists();
            (!right).then(|| format!("refused as {:?} at {:?}: {error}", error.class(), error.offset()))
        }
        (Err(error), None) => Some(error.to_string()),
        (Ok(_), Some(offset)) => Some(format!("written, where it is to be refused at {offset}")),
        (Ok(_), None) => {
            let written = Checkpoint::open(&out, &Limits::default()).unwrap();
            let target = states.model(target);
            let same =
                written.schema() == target.schema() && written.tensors().into_iter().eq(target.slices());
            let same_layout = patch.listed_layout().is_none_or(|layout| layout == written.layout());
            (!same || !same_layout).then(|| "what was written is another checkpoint".to_owned())
        }
    }
}

#[test]
fn every_valid_vector_is_written_or_refused_for_its_layout_as_it_says() {
    let (states, vectors) = vectors();
    let mut faults = Vec::new();
    let mut unwritable = 0;
    for vector in &vectors {
        let Outcome::Target(target) = vector.outcome else {
            assert_eq!(vector.unwritable, None, "{}", vector.id);
            continue;
        };
        unwritable += usize::from(vector.unwritable.is_some());
        faults.extend(fault(&states, vector, target).map(|fault| format!("{}: {fault}", vector.id)));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(unwritable >= 30, "{unwritable}");
}
