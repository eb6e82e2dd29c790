//! Where the journal of an application in place lies, and what waits for one to be finished.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tensorpatch::delta::ApplyError;

const NAME: &str = ".tensorpatch-journal";

/// The journal of a checkpoint: hidden, in a directory or beside a file.
pub(crate) fn path(checkpoint: &Path) -> Result<PathBuf> {
    if checkpoint.is_dir() {
        return Ok(checkpoint.join(NAME));
    }
    let file = checkpoint.file_name().with_context(|| format!("{}: not a file", checkpoint.display()))?;
    let mut name = OsString::from(".");
    name.push(file);
    name.push(NAME);
    Ok(checkpoint.with_file_name(name))
}

/// Refuses a checkpoint that an interrupted application may have left between two versions: a digest of it, a patch or a
/// version made from it would be of a state that nobody ever had.
pub(crate) fn check_none(checkpoint: &Path) -> Result<()> {
    let path = path(checkpoint)?;
    match fs::symlink_metadata(&path) {
        Ok(_) => Err(ApplyError::Pending { path }.into()),
        // Nothing at the checkpoint either is for whoever opens it to tell.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(())
        }
        Err(error) => Err(error).with_context(|| format!("{}: cannot look at", path.display())),
    }
}
