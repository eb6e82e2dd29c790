//! One file that gets its name when it is whole.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use crate::permissions::restrict;
use crate::staging::Staging;
use crate::writer::{check_destination, destination, inherit_of_replaced, place_of};
use crate::{Checkpoint, CheckpointError, ConfinedPath, Form, open_regular};

/// Bytes that wait for their turn to be written.
const BUFFER_BYTES: usize = 1 << 20;

/// A file that is written beside its destination and renamed into place, so that its name never shows half of
/// it.
///
/// Dropped without [`AtomicFile::commit`], it leaves nothing. What a killed process leaves is called
/// `.NAME.tensorpatch-PID-RANDOM`, and the next file for the same destination removes it.
#[derive(Debug)]
pub struct AtomicFile {
    dest: PathBuf,
    /// The same in its directory, open from the beginning: what could not be synced must not be renamed.
    place: ConfinedPath,
    staging: Staging,
    out: BufWriter<File>,
}

impl AtomicFile {
    /// Begins a file that is to replace what is at `dest`, if anything: a regular file, or a symbolic link to
    /// one, which is replaced itself.
    ///
    /// # Errors
    /// If something else is at `dest`, the directory that it is in does not exist, or the operating system
    /// refuses.
    pub fn create(dest: &Path) -> Result<Self, CheckpointError> {
        let dest = check_destination(dest, Form::File)?;
        if dest.file_name().is_none() {
            return Err(destination(&dest, "it has no name", "give the path of a file to write"));
        }
        let place = place_of(&dest)?;
        let staging = Staging::create(&place, Form::File)?;
        // Not to be read meanwhile by those who could not read what it replaces.
        if let Ok(old) = open_regular(&dest) {
            restrict(staging.handle(), &old).map_err(CheckpointError::io("open", &dest))?;
        }
        let file = staging.handle().try_clone().map_err(CheckpointError::io("open", &dest))?;
        let out = BufWriter::with_capacity(BUFFER_BYTES, file);
        Ok(Self { dest, place, staging, out })
    }

    /// As [`AtomicFile::create`], where a file at `dest` is replaced only if it is empty or begins with
    /// `start`: a slip of the hand does not cost somebody's weights.
    ///
    /// # Errors
    /// As [`AtomicFile::create`], and if another file is at `dest`.
    pub fn create_over(dest: &Path, start: &[u8]) -> Result<Self, CheckpointError> {
        if let Ok(old) = open_regular(dest) {
            let mut found = Vec::with_capacity(start.len());
            let read = old.take(start.len() as u64).read_to_end(&mut found);
            read.map_err(CheckpointError::io("read", dest))?;
            if !found.is_empty() && found != start {
                let advice = "give another path, or remove it first if it may go";
                return Err(destination(dest, "a file of another kind is there", advice));
            }
        }
        Self::create(dest)
    }

    /// Takes from the file, as long as it replaces none, what those who read it could not do with the files
    /// of `source`, which it is made of.
    ///
    /// # Errors
    /// As [`Checkpoint::restrict`].
    pub fn no_more_open_than(&self, source: &Checkpoint) -> Result<(), CheckpointError> {
        source.restrict(self.staging.handle())
    }

    /// Makes the file durable and gives it its name.
    ///
    /// # Errors
    /// [`CheckpointError::NotDurable`] once the destination is replaced. In all other cases it is as it was.
    pub fn commit(mut self) -> Result<(), CheckpointError> {
        let (dest, place) = (self.dest, self.place);
        let written = self.out.flush().and_then(|()| self.staging.handle().sync_all());
        written.map_err(CheckpointError::io("write", &dest))?;
        inherit_of_replaced(&dest, self.staging.handle())?;
        self.staging.rename(&place).map_err(CheckpointError::io("rename the new file to", &dest))?;
        place.sync_parent().map_err(CheckpointError::not_durable(&dest))
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_another_kind_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let dest = dir.path().join("p");
        let replace = || AtomicFile::create_over(&dest, b"MAGIC").and_then(AtomicFile::commit);
        replace().unwrap();
        for own in [&b""[..], b"MAGIC", b"MAGIC and more"] {
            std::fs::write(&dest, own).unwrap();
            replace().unwrap();
        }
        for other in [&b"M"[..], b"MAGI", b"weights of somebody"] {
            std::fs::write(&dest, other).unwrap();
            let error = replace().unwrap_err();
            assert!(matches!(error, CheckpointError::Destination { .. }), "{error}");
            assert_eq!(std::fs::read(&dest).unwrap(), other);
        }
    }
}
