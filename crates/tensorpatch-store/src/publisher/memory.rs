//! What a publisher does on local disk with tensors in memory before a version is committed. Blocking.

use tensorpatch_checkpoint::{Checkpoint, Form, MappedFile};
use tensorpatch_delta::{self as delta, ApplyError, LeafTable, Others, Patch, Progress, State, TensorDiff};
use tensorpatch_format::{Schema, TaggedStateDigest};
use tensorpatch_stream::{Commit, VersionContents};

use super::encode::write_buffered;
use super::local::{Checked, Staged, check, check_state, open_baseline};
use crate::bucket::upload::Outgoing;
use crate::error::StoreError;
use crate::local;
use crate::observe::{Observer, Phase};
use crate::replica::directory::ReplicaDir;

/// The weights of the baseline and their leaf table, after hashing them: what has rotted on disk must not
/// become part of a version. Damage is written into the state file.
pub(super) fn verify_baseline(
    directory: &ReplicaDir,
    tip: &Commit,
    options: &delta::Options,
    observer: &Observer,
) -> Result<(Checkpoint, LeafTable), StoreError> {
    let base = open_baseline(directory, tip, options)?;
    observer.start(Phase::Hash, base.schema().state_bytes());
    let advance = observer.steer(Phase::Hash);
    let leaf_hash = tip.record.contents.state.leaf_hash;
    let leaves =
        LeafTable::of(&State::of(&base)?, leaf_hash, options.threads, Progress::stoppable(&advance))?;
    let digest = leaves.state_digest(base.schema());
    check_state(directory, tip, TaggedStateDigest { leaf_hash, digest })?;
    Ok((base, leaves))
}

/// Writes the patch from the baseline to the tensors of `diff`, and makes ready what it does to the baseline.
pub(super) fn finish_and_check(
    directory: &ReplicaDir,
    (diff, others): (TensorDiff<'_>, Others),
    tip: &Commit,
    options: &delta::Options,
    observer: &Observer,
    outgoing: &mut Outgoing,
) -> Result<Checked, StoreError> {
    let place = directory.outgoing();
    let (encoded, _) = write_buffered(outgoing, &place.path(), options, |out| diff.finish(others, out))?;
    let bytes = MappedFile::open_confined(&place)?;
    let patch = Patch::parse(bytes.bytes(), &options.limits).map_err(ApplyError::from)?;
    let before = &tip.record.contents;
    let (state_bytes, tensors) = patch.listed_schema().map_or((before.state_bytes, before.tensors), size);
    let contents = contents(&patch, encoded.target, (state_bytes, tensors));
    drop(bytes);
    check(directory, tip, encoded, contents, options, observer)
}

/// Writes the files of a first version into the staging directory, through a patch that holds all of it.
pub(super) fn stage_tensors(
    directory: &ReplicaDir,
    diff: TensorDiff<'_>,
    options: &delta::Options,
    observer: &Observer,
) -> Result<Staged, StoreError> {
    let (place, staging) = (directory.outgoing(), directory.staging());
    let file = place.replace_private().map_err(StoreError::at(&place))?;
    let (encoded, report) =
        write_buffered(file, &place.path(), options, |out| diff.finish(Others::Refused, out))?;
    let bytes = MappedFile::open_confined(&place)?;
    let patch = Patch::parse(bytes.bytes(), &options.limits).map_err(ApplyError::from)?;
    let schema = patch.bind(None)?.schema();
    observer.start(Phase::Check, schema.state_bytes());
    let advance = observer.steer(Phase::Check);
    local::remove(&staging)?;
    delta::apply_full(&patch, &staging.path(), Form::Directory, options, Progress::stoppable(&advance))?;
    let names = patch.listed_layout().into_iter().flat_map(|layout| layout.files());
    let files = names.map(|file| (file.name.clone(), staging.join(&file.name))).collect();
    let contents = contents(&patch, encoded.target, size(schema));
    local::remove(&place)?;
    Ok(Staged { source: None, files, leaves: report.leaves, contents })
}

fn size(schema: &Schema) -> (u64, u64) {
    (schema.state_bytes(), schema.tensors().len() as u64)
}

/// What the target of a patch is as a version.
fn contents(
    patch: &Patch<'_>,
    state: TaggedStateDigest,
    (state_bytes, tensors): (u64, u64),
) -> VersionContents {
    let ends = &patch.trailer().ends;
    VersionContents { state, schema: ends.target_schema, layout: ends.target_layout, state_bytes, tensors }
}
