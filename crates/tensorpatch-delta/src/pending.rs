//! Where the journal of an application in place lies, and what must wait while there is one.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tensorpatch_checkpoint::{Checkpoint, CheckpointError, replica};
use tensorpatch_format::Limits;

const JOURNAL: &str = ".tensorpatch-journal";

/// The path of the journal with which the checkpoint at `checkpoint` is altered in place: hidden in a
/// directory, or beside a file.
///
/// [`Apply::in_place`](crate::Apply::in_place) uses this one, and whatever reads a checkpoint looks for it.
/// Those who keep their journal elsewhere must refuse to read the checkpoint themselves while there is one.
pub fn journal_path(checkpoint: &Path) -> PathBuf {
    if checkpoint.is_dir() {
        return checkpoint.join(JOURNAL);
    }
    // The journal lies beside the file itself, whichever link leads there.
    let file = if checkpoint.is_symlink() { fs::canonicalize(checkpoint).ok() } else { None };
    let file = file.as_deref().unwrap_or(checkpoint);
    let mut name = OsString::from(".");
    name.push(file.file_name().unwrap_or_default());
    name.push(JOURNAL);
    file.with_file_name(name)
}

/// Opens a checkpoint to read it as a version.
///
/// # Errors
/// [`CheckpointError::Pending`] if an application in place to it was interrupted,
/// [`CheckpointError::Updating`] if it is a replica that an update has between two versions; otherwise as
/// [`Checkpoint::open`].
pub fn open_settled(path: &Path, limits: &Limits) -> Result<Checkpoint, CheckpointError> {
    // Before it is opened too: of a header that is half written the parser would say that the file is
    // damaged.
    check_absent(&journal_path(path))?;
    replica::check_whole([path])?;
    let checkpoint = Checkpoint::open(path, limits)?;
    check_settled(&checkpoint)?;
    replica::check_whole(checkpoint.files())?;
    Ok(checkpoint)
}

/// Refuses a checkpoint that an interrupted application may have left between two versions: a digest of it,
/// or a patch made from it, would be of a state that never existed.
pub(crate) fn check_settled(checkpoint: &Checkpoint) -> Result<(), CheckpointError> {
    check_absent(&journal_path(checkpoint.path()))?;
    for file in checkpoint.files() {
        // The same files may have been patched by their own name, or as part of the directory that they are
        // in.
        check_absent(&journal_path(file))?;
        check_absent(&file.with_file_name(JOURNAL))?;
    }
    Ok(())
}

/// Refuses to go on while anything is at `journal`.
pub(crate) fn check_absent(journal: &Path) -> Result<(), CheckpointError> {
    match fs::symlink_metadata(journal) {
        Ok(_) => Err(CheckpointError::Pending { journal: journal.to_owned() }),
        // A name too long for a journal never had one.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidFilename
            ) =>
        {
            Ok(())
        }
        // What cannot be looked at must not pass for absent.
        Err(source) => Err(CheckpointError::Io { action: "look at", path: journal.to_owned(), source }),
    }
}
