//! Patches as they are written: what a record will say of them. Blocking.

use std::io::{BufWriter, Write};
use std::path::Path;

use tensorpatch_checkpoint::{Checkpoint, CheckpointReader};
use tensorpatch_delta::{self as delta, DiffError, DiffReport, Progress, Snapshot};
use tensorpatch_format::{Kind, TaggedStateDigest};
use tensorpatch_stream::{Delta, DeltaKind, ObjectRef, PatchObject, VersionContents, VersionId};

use crate::error::StoreError;

/// What was written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Encoded {
    pub(super) kind: DeltaKind,
    /// The state that the patch starts from.
    pub(super) base: TaggedStateDigest,
    /// The state that it leads to.
    pub(super) target: TaggedStateDigest,
    pub(super) changed_elements: u64,
    pub(super) total_elements: u64,
}

impl Encoded {
    fn of(report: &DiffReport, options: &delta::Options) -> Self {
        let tagged = |digest| TaggedStateDigest { leaf_hash: options.leaf_hash, digest };
        Self {
            kind: if report.kind == Kind::Empty { DeltaKind::Empty } else { DeltaKind::Delta },
            base: tagged(report.base),
            target: tagged(report.target),
            changed_elements: report.changed_elements,
            total_elements: report.total_elements,
        }
    }

    /// The delta from `base` that the uploaded patch is.
    pub(super) fn into_delta(self, base: VersionId, object: ObjectRef) -> Delta {
        Delta {
            base,
            kind: self.kind,
            changed_elements: self.changed_elements,
            total_elements: self.total_elements,
            patches: vec![PatchObject { object, schema: None }],
        }
    }
}

/// Writes the patch from `base`, whose tensors are read through `files` if there are any, to `target` to
/// `out`, which ends up at `path`.
pub(super) fn encode(
    (base, files): (&Snapshot<'_>, Option<&CheckpointReader>),
    target: &Snapshot<'_>,
    out: impl Write,
    path: &Path,
    options: &delta::Options,
    progress: Progress<'_>,
) -> Result<Encoded, StoreError> {
    let write = |out: &mut dyn Write| match files {
        None => delta::encode_diff(base, target, options, progress, out),
        Some(files) => delta::encode_diff_reading((base, files), target, options, progress, out),
    };
    write_buffered(out, path, options, write).map(|(encoded, _)| encoded)
}

/// Lets `write` write a patch to `out`, which ends up at `path`.
pub(super) fn write_buffered(
    out: impl Write,
    path: &Path,
    options: &delta::Options,
    write: impl FnOnce(&mut dyn Write) -> Result<DiffReport, DiffError>,
) -> Result<(Encoded, DiffReport), StoreError> {
    let mut out = BufWriter::with_capacity(1 << 20, out);
    let report = write(&mut out).map_err(|error| match error {
        DiffError::Write(source) => StoreError::local(path, source),
        error => error.into(),
    })?;
    out.flush().map_err(|source| StoreError::local(path, source))?;
    Ok((Encoded::of(&report, options), report))
}

/// What a checkpoint with the state `state` is as a version.
pub(super) fn contents(checkpoint: &Checkpoint, state: TaggedStateDigest) -> VersionContents {
    let (schema, layout) = (checkpoint.schema(), checkpoint.layout());
    VersionContents {
        state,
        schema: schema.digest(),
        layout: layout.digest(),
        state_bytes: schema.state_bytes(),
        tensors: schema.tensors().len() as u64,
    }
}
