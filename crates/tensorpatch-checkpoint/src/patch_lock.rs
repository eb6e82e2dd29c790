//! The lock under which a file is patched.

use std::ffi::OsStr;
use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::Mode;

use crate::map::FileIdentity;
use crate::{ConfinedPath, Found};

const NAME: &str = ".tensorpatch-lock-";
const ATTEMPTS: usize = 16;

/// A lock (`flock`) that ends with the process, of a file `.tensorpatch-lock-DEVICE-INODE`, which is removed
/// with it.
///
/// It is not that of the file that is patched: whoever can open a file for reading can hold its lock, for
/// ever.
#[derive(Debug)]
pub(crate) struct PatchLock {
    place: ConfinedPath,
    file: File,
}

impl PatchLock {
    /// Takes the lock for the file `patched` in `directory`, or returns `None` if somebody else holds it.
    pub(crate) fn acquire(directory: &ConfinedPath, patched: FileIdentity) -> io::Result<Option<Self>> {
        let FileIdentity { device, inode, .. } = patched;
        let place = directory.join(format!("{NAME}{device:x}-{inode:x}"));
        for _ in 0..ATTEMPTS {
            let file = place.open_or_create_with(Mode::RUSR | Mode::WUSR)?;
            // A file system without locks takes nobody's word against a second patcher.
            if let Err(TryLockError::WouldBlock) = file.try_lock() {
                return Ok(None);
            }
            let lock = Self { place: place.clone(), file };
            // Else whoever held it has removed it meanwhile.
            if lock.is_in_place() {
                return Ok(Some(lock));
            }
        }
        Ok(None)
    }

    fn is_in_place(&self) -> bool {
        match (Found::of_open(&self.file), self.place.find()) {
            (Ok(ours), Ok(Some(there))) => ours.identity == there.identity,
            _ => false,
        }
    }
}

impl Drop for PatchLock {
    fn drop(&mut self) {
        if self.is_in_place() {
            // The next one takes it as it is.
            let _ = self.place.remove_file();
        }
    }
}

/// Whether a file is such a lock, by its name.
pub(crate) fn is_lock(name: &OsStr) -> bool {
    name.as_bytes().starts_with(NAME.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_holds_it_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let place = ConfinedPath::root(dir.path()).unwrap();
        let identity = FileIdentity { device: 1, inode: 2, len: 3 };
        let acquire = || PatchLock::acquire(&place, identity).unwrap();
        let first = acquire();
        assert!(first.is_some() && acquire().is_none());
        let other = PatchLock::acquire(&place, FileIdentity { inode: 3, ..identity }).unwrap();
        assert!(other.is_some());
        drop((first, other));
        assert_eq!(place.entries().unwrap(), Vec::<std::ffi::OsString>::new());
        assert!(acquire().is_some());
    }

    #[test]
    fn only_its_owner_can_open_it_and_what_a_dead_process_has_left_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let place = ConfinedPath::root(dir.path()).unwrap();
        let identity = FileIdentity { device: 1, inode: 2, len: 3 };
        let lock = PatchLock::acquire(&place, identity).unwrap().unwrap();
        assert_eq!(Found::of_open(&lock.file).unwrap().mode, 0o600);
        lock.place.rename(&place.join("aside")).unwrap();
        drop(lock);
        place.join("aside").rename(&place.join(".tensorpatch-lock-1-2")).unwrap();
        assert!(is_lock(".tensorpatch-lock-1-2".as_ref()));
        drop(PatchLock::acquire(&place, identity).unwrap().unwrap());
        assert!(place.entries().unwrap().is_empty());
    }
}
