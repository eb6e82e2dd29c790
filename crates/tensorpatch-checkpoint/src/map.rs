//! Files mapped into memory for reading.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use memmap2::Mmap;

use crate::regular::open_found;
use crate::{CheckpointError, ConfinedPath};

/// A file that is the same as long as these are: what tells a replaced or resized file from the one that was
/// opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileIdentity {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) len: u64,
}

impl FileIdentity {
    pub(crate) fn of(metadata: &fs::Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino(), len: metadata.len() }
    }
}

/// A regular file, mapped whole into memory for reading: a patch, a journal, a shard.
///
/// As with any memory map, the file must not be altered or cut short while it is mapped.
#[derive(Debug)]
pub struct MappedFile {
    map: Mmap,
    pub(crate) identity: FileIdentity,
}

impl MappedFile {
    /// Maps a regular file, through symbolic links if need be.
    ///
    /// # Errors
    /// If there is no such file, it is not a regular one, or the operating system refuses.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let (file, found) = match open_found(path) {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                return Err(CheckpointError::NotAFile { path: path.to_owned() });
            }
            Err(error) => return Err(CheckpointError::io("open", path)(error)),
        };
        Self::of(path, &file, &found)
    }

    /// Maps a regular file of tensorpatch's own, which no link leads to.
    ///
    /// # Errors
    /// [`CheckpointError::Misplaced`] if something else is there; if nothing is, or the operating system
    /// refuses.
    pub fn open_confined(place: &ConfinedPath) -> Result<Self, CheckpointError> {
        let path = place.path();
        let file = place.open().map_err(CheckpointError::io("open", &path))?;
        Self::of_open(&path, &file)
    }

    /// Maps an open file, which is at `path`.
    pub(crate) fn of_open(path: &Path, file: &File) -> Result<Self, CheckpointError> {
        let found = file.metadata().map_err(CheckpointError::io("look at", path))?;
        Self::of(path, file, &found)
    }

    fn of(path: &Path, file: &File, found: &fs::Metadata) -> Result<Self, CheckpointError> {
        let map = map_whole(file).map_err(CheckpointError::io("map", path))?;
        Ok(Self { map, identity: FileIdentity::of(found) })
    }

    /// Whether `path` still leads to this file, and it is as long as it was.
    pub fn is_at(&self, path: &Path) -> bool {
        fs::metadata(path).is_ok_and(|metadata| FileIdentity::of(&metadata) == self.identity)
    }

    /// The bytes of the file.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }
}

/// An empty file gives an empty slice.
#[expect(unsafe_code, reason = "mapping a file is unsafe because others may alter the file")]
fn map_whole(file: &File) -> io::Result<Mmap> {
    // SAFETY: the map is private and read-only, and its bytes are handed out only as `&[u8]` that live no
    // longer than it. That they do not change under such a slice cannot be had from the operating system; it
    // is asked of the user in the documentation of `MappedFile` and `Checkpoint`. This crate keeps to it: it
    // replaces checkpoints by rename, which leaves the mapped inode alone, and `CheckpointPatcher` reads
    // through the file and not the map. If another process shrinks the file all the same, reading beyond its
    // end raises SIGBUS and ends this process: no wrong bytes are taken for right ones.
    unsafe { Mmap::map(file) }
}

/// Holds each thread that meets a page of a mapped file that is no longer there, because the file was cut
/// short or its disk failed. The signal for it, SIGBUS, can then be waited for, and the program ended with a
/// message.
///
/// Without this such a thread takes the program with it at once: the handler of the standard library, which
/// runs first, leaves SIGBUS to the system, and the thread meets the page again as soon as it goes on. For
/// programs that own their process; handlers of SIGBUS that are to run must be registered before.
///
/// # Errors
/// If the operating system refuses the handler.
#[cfg(unix)]
#[expect(unsafe_code, reason = "what a signal handler may do is the caller's to see to")]
pub fn hold_at_lost_pages() -> io::Result<()> {
    let hold = || loop {
        std::thread::sleep(std::time::Duration::from_secs(3600));
    };
    // SAFETY: sleeping is safe in a signal handler: it is `clock_nanosleep`, which POSIX lists as such, and
    // takes no lock, allocates nothing and does not unwind.
    unsafe { signal_hook_registry::register(rustix::process::Signal::BUS.as_raw(), hold) }.map(|_| ())
}
