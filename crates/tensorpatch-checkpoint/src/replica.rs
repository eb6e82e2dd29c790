//! What can be told of a checkpoint that is the replica of a stream, by the state file in its directory
//! (spec/stream.md section 6).

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::error::CheckpointError;
use crate::regular::open_regular;

const STATE: &str = ".tensorpatch/state.json";
/// As much as a state file may have.
const MAX_STATE_BYTES: u64 = 64 << 20;

/// The directory of the replica that a checkpoint, or a file of one, is or lies in, whichever links lead
/// there.
pub fn directory_of(path: &Path) -> Option<PathBuf> {
    let path = fs::canonicalize(path).ok()?;
    let directory = if path.is_dir() { path.as_path() } else { path.parent()? };
    directory.join(STATE).exists().then(|| directory.to_owned())
}

/// Refuses checkpoints, or files of them, that are a replica which an update has between two versions: a
/// digest of it, or a patch made from it, would be of a state that never existed. Each replica is looked at
/// once, however many of its files there are.
///
/// A state file that cannot be read says nothing: a pull finds out from the weights what they are.
///
/// # Errors
/// [`CheckpointError::Updating`].
pub fn check_whole<'p>(paths: impl IntoIterator<Item = &'p Path>) -> Result<(), CheckpointError> {
    let replicas: BTreeSet<PathBuf> = paths.into_iter().filter_map(directory_of).collect();
    match replicas.into_iter().find(|replica| is_between(replica)) {
        Some(replica) => Err(CheckpointError::Updating { replica }),
        None => Ok(()),
    }
}

fn is_between(replica: &Path) -> bool {
    let mut text = Vec::new();
    let read =
        open_regular(&replica.join(STATE)).and_then(|file| file.take(MAX_STATE_BYTES).read_to_end(&mut text));
    if read.is_err() {
        return false;
    }
    let state: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    let is = |condition: &str| state.pointer(&format!("/condition/{condition}")).is_some();
    is("applying") || is("switching")
}
