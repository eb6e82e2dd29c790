//! Syncing directories, on file systems that may not have that.

use std::fs::File;
use std::io;
use std::path::Path;

/// Makes renames, creations and removals in an open directory durable, as far as its file system can.
///
/// SMB, FUSE and other network mounts answer `EINVAL` or `ENOTSUP`: their servers decide when a name is
/// durable, and nothing that a client does alters that. So it is no failure.
///
/// # Errors
/// If the file system can sync directories and fails to.
pub fn sync_open_dir(dir: &File) -> io::Result<()> {
    match dir.sync_all() {
        Err(error) if is_unsupported(&error) => Ok(()),
        synced => synced,
    }
}

/// The same for the directory at `path`.
///
/// # Errors
/// As [`sync_open_dir`], and if the directory cannot be opened.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    sync_open_dir(&File::open(path)?)
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_says_that_directories_cannot_be_synced_is_passed_over() {
        for (number, passed_over) in
            [(22, true), (95, true), (38, true), (5, false), (28, false), (30, false)]
        {
            let error = io::Error::from_raw_os_error(number);
            assert_eq!(is_unsupported(&error), passed_over, "{error}");
        }
    }
}
