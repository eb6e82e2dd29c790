//! A new checkpoint from an old one and a patch.

use std::path::Path;

use tensorpatch_checkpoint::{Checkpoint, CheckpointWriter, Companion, Form};
use tensorpatch_format::Layout;

use crate::chain::BoundChain;
use crate::journal::offset;
use crate::walk::{TargetChunk, Unchanged, Walk, bind};
use crate::{ApplyError, ApplyReport, Chain, Options, Patch, Progress, State};

/// Writes the checkpoint that a patch, or a [`Chain`] of them, makes of `base` to `dest`.
///
/// The result is written beside `dest` and renamed into place once its digest is verified; `base` is only
/// read. From one directory to another the companions of `base` (such as `config.json`) are copied along.
///
/// # Errors
/// If the patch does not fit `base`, is broken, or the result cannot be written. Then there is nothing at
/// `dest` that was not there before.
pub fn apply_to<'p>(
    base: &'p Checkpoint,
    patches: impl Into<Chain<'p>>,
    dest: &Path,
    form: Form,
    options: &Options,
    progress: Progress<'_>,
) -> Result<ApplyReport, ApplyError> {
    let companions = if form == Form::Directory { base.companions(&[])?.carried } else { Vec::new() };
    apply_with(base, patches.into(), (dest, form, &companions), options, progress)
}

/// As [`apply_to`] to a directory, but without the companions of `base`.
///
/// # Errors
/// As [`apply_to`].
pub fn apply_weights_to<'p>(
    base: &'p Checkpoint,
    patches: impl Into<Chain<'p>>,
    dest: &Path,
    options: &Options,
    progress: Progress<'_>,
) -> Result<ApplyReport, ApplyError> {
    apply_with(base, patches.into(), (dest, Form::Directory, &[]), options, progress)
}

fn apply_with(
    base: &Checkpoint,
    chain: Chain<'_>,
    to: (&Path, Form, &[Companion]),
    options: &Options,
    progress: Progress<'_>,
) -> Result<ApplyReport, ApplyError> {
    let state = State::of(base)?;
    let bound = bind(chain, Some(&state), options)?;
    let (layout, same_layout) = chain.layout_over(base.layout());
    write(Some((base, &state)), &bound, layout, to, options, progress)
        .map(|report| ApplyReport { same_layout, ..report })
}

/// Writes the checkpoint that a full patch holds to `dest`.
///
/// # Errors
/// As [`apply_to`]; also if the patch needs a base.
pub fn apply_full(
    patch: &Patch<'_>,
    dest: &Path,
    form: Form,
    options: &Options,
    progress: Progress<'_>,
) -> Result<ApplyReport, ApplyError> {
    let bound = Chain::from(patch).bind(None)?;
    let Some(layout) = patch.listed_layout() else {
        return Err(ApplyError::Kind { found: patch.kind(), needed: "a patch with a layout" });
    };
    write(None, &bound, layout, (dest, form, &[]), options, progress)
}

fn write(
    base: Option<(&Checkpoint, &State<'_>)>,
    chain: &BoundChain<'_>,
    layout: &Layout,
    (dest, form, companions): (&Path, Form, &[Companion]),
    options: &Options,
    progress: Progress<'_>,
) -> Result<ApplyReport, ApplyError> {
    let schema = chain.schema();
    let placement = chain.chain().placement(schema, layout, &options.limits)?;
    let mut writer = CheckpointWriter::create(dest, form, schema, layout, &placement)?;
    if !options.syncs() {
        writer = writer.unsynced();
    }
    if let Some((base, _)) = base {
        writer.no_more_open_than(base)?;
    }
    let base = base.map(|(_, state)| state);
    let walk = Walk { base, chain, options, progress, unchanged: Unchanged::Copied };
    let write = |(): &mut (), chunk: TargetChunk<'_>, (): &mut ()| {
        Ok(writer.write(chunk.address.tensor, offset(chunk.address), chunk.bytes)?)
    };
    let walked = writer.syncing_behind(|| walk.run(|| (), write, |()| Ok(())))?;
    companions.iter().try_for_each(|companion| writer.copy_companion(companion))?;
    writer.commit()?;
    Ok(ApplyReport {
        base: walked.base,
        target: walked.target,
        changed_chunks: walked.changed_chunks,
        state_bytes: schema.state_bytes(),
        same_layout: true,
        leaves: walked.leaves,
    })
}
