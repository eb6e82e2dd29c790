//! Which state a checkpoint holds.

use std::path::Path;

use tensorpatch_format::TaggedStateDigest;

use crate::pending::open_settled;
use crate::{ApplyError, LeafTable, Options, Progress, State};

/// The digest of the state in the checkpoint at `path`: of every tensor's name, dtype, shape and bytes,
/// whatever its shards. With default options; [`LeafTable::of`] takes others.
///
/// # Errors
/// If the checkpoint cannot be read or is damaged, or an application in place to it was interrupted.
pub fn digest(path: impl AsRef<Path>) -> Result<TaggedStateDigest, ApplyError> {
    let options = Options::default();
    let checkpoint = open_settled(path.as_ref(), &options.limits)?;
    let state = State::of(&checkpoint)?;
    let leaves = LeafTable::of(&state, options.leaf_hash, options.threads, Progress::none())?;
    Ok(TaggedStateDigest { leaf_hash: options.leaf_hash, digest: leaves.state_digest(state.schema()) })
}
