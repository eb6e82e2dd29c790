//! What can be told of a checkpoint that is the replica of a stream, by the state file in its directory
//! (spec/stream.md section 6).

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

/// Refuses a checkpoint, or a file of one, that is a replica which an update has between two versions: a
/// digest of it, or a patch made from it, would be of a state that never existed.
///
/// A state file that cannot be read says nothing: a pull finds out from the weights what they are.
///
/// # Errors
/// [`CheckpointError::Updating`].
pub fn check_whole(path: &Path) -> Result<(), CheckpointError> {
    let Some(replica) = directory_of(path) else { return Ok(()) };
    let mut text = Vec::new();
    let read =
        open_regular(&replica.join(STATE)).and_then(|file| file.take(MAX_STATE_BYTES).read_to_end(&mut text));
    let state: serde_json::Value = match read {
        Ok(_) => serde_json::from_slice(&text).unwrap_or_default(),
        Err(_) => return Ok(()),
    };
    let is = |condition: &str| state.pointer(&format!("/condition/{condition}")).is_some();
    if is("applying") || is("switching") { Err(CheckpointError::Updating { replica }) } else { Ok(()) }
}
