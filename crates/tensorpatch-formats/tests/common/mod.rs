//! Checkpoints and conversions for the tests.

#![allow(dead_code, clippy::unwrap_used, reason = "each test file uses its part, and may panic")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tensorpatch_checkpoint::Checkpoint;
use tensorpatch_format::Limits;
use tensorpatch_formats::{ConvertOptions, FormatsError, Report, To, convert};

/// The tensors of a state: dtype, shape and bytes by name.
pub(crate) type Tensors = BTreeMap<String, (String, Vec<u64>, Vec<u8>)>;

/// What the checkpoint at `path` holds.
pub(crate) fn tensors(path: &Path) -> Tensors {
    let checkpoint = Checkpoint::open(path, &Limits::default()).unwrap();
    let specs = checkpoint.schema().tensors().iter().zip(checkpoint.tensors());
    specs
        .map(|(spec, bytes)| {
            (spec.name.clone(), (spec.dtype.to_string(), spec.shape.clone(), bytes.to_vec()))
        })
        .collect()
}

/// A directory for the files of one test.
pub(crate) struct Scratch(tempfile::TempDir);

impl Scratch {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// Converts with the usual options.
pub(crate) fn to(source: &Path, base: Option<&Path>, dest: &Path, to: To) -> Result<Report, FormatsError> {
    convert(source, base, dest, &ConvertOptions::new(to))
}
