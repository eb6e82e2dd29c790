//! What of a checkpoint a version would have, and whether all of it can arrive: found out before anything is
//! uploaded. Blocking.

use std::path::Path;

use serde::Serialize;
use tensorpatch_checkpoint::{Checkpoint, CheckpointError, Companion, Companions, LeftOut};
use tensorpatch_delta::open_settled;
use tensorpatch_format::Layout;
use tensorpatch_stream::names::{Collision, check_distinct, is_file_path, is_plain_name};
use tensorpatch_stream::record::MAX_COMPANIONS;

use super::options::PublishOptions;
use crate::error::StoreError;

/// The most bytes of one file beside the weights.
pub(super) const MAX_COMPANION_BYTES: u64 = 256 << 20;
/// The most bytes of a file name: stores and file systems allow 255, and some add to a name while they write.
const MAX_NAME_BYTES: usize = 240;

/// What of a checkpoint a version would have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Survey {
    /// The names of the weights and of the index.
    pub weights: Vec<String>,
    /// The names of the files beside them, below the directory of the checkpoint.
    pub companions: Vec<String>,
    /// What stays behind.
    pub left_out: Vec<LeftOut>,
}

impl Survey {
    /// Looks at the checkpoint at `path` as [`Publisher::publish`](crate::Publisher::publish) does before it
    /// uploads anything. Reads headers, and opens every file.
    ///
    /// # Errors
    /// If the checkpoint cannot be opened, or a file of it could not be carried or not be written by every
    /// replica ([`StoreError::Unpublishable`], [`CheckpointError::Companion`]).
    pub fn of(path: &Path, options: &PublishOptions) -> Result<Self, StoreError> {
        let checkpoint = open_settled(path, &options.diff.limits)?;
        let companions = companions(&checkpoint, options)?;
        Ok(Self {
            weights: weights(&checkpoint).map(str::to_owned).collect(),
            companions: companions.carried.into_iter().map(|companion| companion.name).collect(),
            left_out: companions.left_out,
        })
    }
}

fn weights(checkpoint: &Checkpoint) -> impl Iterator<Item = &str> {
    let files = checkpoint.layout().files().iter().map(|file| file.name.as_str());
    files.chain(checkpoint.layout().index().map(|_| Layout::INDEX_FILE))
}

/// The files beside the weights, once it is known that every file of the checkpoint can be published.
pub(super) fn companions(
    checkpoint: &Checkpoint,
    options: &PublishOptions,
) -> Result<Companions, StoreError> {
    let refused = |name: &str, what: String| {
        let path =
            if checkpoint.is_directory() { checkpoint.path().join(name) } else { checkpoint.path().into() };
        StoreError::Unpublishable { path, what }
    };
    let companions = match checkpoint.companions(&options.carried) {
        Err(CheckpointError::Io { action, path, source }) => {
            let what = format!("cannot {action} it: {source}; make it readable, or remove it");
            return Err(StoreError::Unpublishable { path, what });
        }
        companions => companions?,
    };
    let carried = &companions.carried;
    if carried.len() > MAX_COMPANIONS {
        let what = format!(
            "it has {} files beside the weights, at most {MAX_COMPANIONS} can be carried; give the directory of one \
             checkpoint",
            carried.len()
        );
        return Err(refused("", what));
    }
    if let Some(name) = weights(checkpoint).find(|name| !is_plain_name(name)) {
        return Err(StoreError::FileName { path: checkpoint.path().join(name) });
    }
    if let Some(Companion { name, path, .. }) =
        carried.iter().find(|companion| !is_file_path(&companion.name))
    {
        if name.split('/').all(is_plain_name) {
            return Err(refused(
                name,
                format!("its path has {} bytes: at most 512 can be carried", name.len()),
            ));
        }
        return Err(StoreError::FileName { path: path.clone() });
    }
    let names = || weights(checkpoint).chain(carried.iter().map(|companion| companion.name.as_str()));
    if let Some((name, part)) =
        names().find_map(|name| Some((name, name.split('/').find(|part| part.len() > MAX_NAME_BYTES)?)))
    {
        let what = format!(
            "its name has {} bytes: at most {MAX_NAME_BYTES} can be carried, so that every store and replica can \
             write it; rename it",
            part.len()
        );
        return Err(refused(name, what));
    }
    // Other file systems fold more letters than records do.
    check_distinct(names(), str::to_lowercase).map_err(|Collision(first, second)| {
        refused(
            &second,
            format!("on file systems that ignore case it is the same as {first}; rename one of them"),
        )
    })?;
    carried.iter().try_for_each(check_readable)?;
    Ok(companions)
}

/// Whether every store and replica can write a file of this name.
pub(super) fn is_writable_everywhere(name: &str) -> bool {
    is_file_path(name) && name.split('/').all(|part| part.len() <= MAX_NAME_BYTES)
}

fn check_readable(companion: &Companion) -> Result<(), StoreError> {
    let refused = |what: String| StoreError::Unpublishable { path: companion.path.clone(), what };
    let metadata = companion.open().and_then(|file| file.metadata());
    let metadata =
        metadata.map_err(|e| refused(format!("it cannot be read: {e}; make it readable, or remove it")))?;
    if metadata.len() > MAX_COMPANION_BYTES {
        return Err(refused(format!(
            "it has {} bytes: at most {MAX_COMPANION_BYTES} can be carried beside the weights; move it elsewhere",
            metadata.len()
        )));
    }
    Ok(())
}
