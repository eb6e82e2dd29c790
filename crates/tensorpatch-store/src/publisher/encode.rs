//! Patches as they are written: what a record will say of them. Blocking.

use std::io::{BufWriter, Write};
use std::path::Path;

use tensorpatch_checkpoint::Checkpoint;
use tensorpatch_delta::{self as delta, Progress, Snapshot};
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

/// Writes the patch from `base` to `target` to `out`, which ends up at `path`.
pub(super) fn encode(
    base: &Snapshot<'_>,
    target: &Snapshot<'_>,
    out: impl Write,
    path: &Path,
    options: &delta::Options,
    progress: Progress<'_>,
) -> Result<Encoded, StoreError> {
    let mut out = BufWriter::with_capacity(1 << 20, out);
    let report = delta::encode_diff(base, target, options, progress, &mut out)?;
    out.flush().map_err(|source| StoreError::local(path, source))?;
    let tagged = |digest| TaggedStateDigest { leaf_hash: options.leaf_hash, digest };
    Ok(Encoded {
        kind: if report.kind == Kind::Empty { DeltaKind::Empty } else { DeltaKind::Delta },
        base: tagged(report.base),
        target: tagged(report.target),
        changed_elements: report.changed_elements,
        total_elements: report.total_elements,
    })
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
