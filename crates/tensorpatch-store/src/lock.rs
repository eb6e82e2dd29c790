//! A lock on a directory, held until dropped, also by the death of the process.

use std::fs::{File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use tensorpatch_checkpoint::{ConfinedPath, Found};

use crate::error::StoreError;
use crate::local;

/// How long a lock is waited for without a word.
const PATIENCE: Duration = Duration::from_secs(5);

/// An exclusive lock.
#[derive(Debug)]
pub(crate) struct Lock {
    _held: Held,
}

#[derive(Debug)]
enum Held {
    /// The lock of the file system.
    File { _file: File },
    /// A name that the kernel gives to one process of this machine at a time, where the file system has no
    /// locks.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    Name { _socket: std::os::unix::net::UnixListener },
    /// Nothing: there are no locks here.
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    Nothing,
}

impl Lock {
    /// Takes the lock file in `folder` of the directory `dir`, which are made if they are missing, and
    /// waits for whoever holds it. Returns the directory, too. An empty `folder` is the directory itself.
    ///
    /// It asks again and again instead of letting a thread wait, so that whoever gives up waiting leaves
    /// nothing behind.
    pub(crate) async fn wait(dir: &Path, folder: &str) -> Result<(Self, ConfinedPath), StoreError> {
        let mut pause = Duration::from_millis(2);
        let begun = Instant::now();
        let mut told = false;
        loop {
            // Each time: whoever held it may have removed the directory.
            let root = local::open_root(dir)?;
            let place = root.join(folder);
            local::make_dir(&place)?;
            let folder = place;
            if let Some(lock) = Self::attempt(&folder.join("lock"))? {
                return Ok((lock, root));
            }
            if !told && begun.elapsed() > PATIENCE {
                tracing::warn!("{} is in use by another process: waiting for it", dir.display());
                told = true;
            }
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2).min(Duration::from_millis(100));
        }
    }

    /// Takes the lock file at `place`, or returns `None` if somebody else holds it.
    pub(crate) fn attempt(place: &ConfinedPath) -> Result<Option<Self>, StoreError> {
        let failed = |e| StoreError::local(place.path(), e);
        let file = place.open_or_create().map_err(failed)?;
        keep_for_writers(&file).map_err(failed)?;
        let same = file.try_clone().map_err(failed)?;
        let held = match file.try_lock() {
            Ok(()) => Held::File { _file: file },
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) if lacks_locks(&error) => {
                match Held::without_file_locks(&file).map_err(failed)? {
                    None => return Ok(None),
                    Some(held) => {
                        tracing::warn!(
                            "the file system of {} has no locks ({error}): processes of this machine are kept \
                             apart, those of other machines are not",
                            place.path().display()
                        );
                        held
                    }
                }
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        };
        // Whoever held it may have removed it since it was opened: another one takes its place then.
        let opened = Found::of_open(&same).map_err(failed)?;
        let is_removed = opened.links == 0 && {
            let there = place.find().map_err(failed)?;
            there.is_none_or(|there| there.identity != opened.identity)
        };
        Ok((!is_removed).then_some(Self { _held: held }))
    }
}

/// Lets those read the file who may write to it, and nobody else. Whoever can open it can hold the lock, for
/// ever: a replica is there for others to read, and they could keep it from being updated.
fn keep_for_writers(file: &File) -> io::Result<()> {
    let found = file.metadata()?;
    let mode = found.mode() & 0o777;
    let kept = mode & !0o044 | (mode & 0o022) << 1;
    let is_ours = found.uid() == rustix::process::geteuid().as_raw();
    if kept != mode && is_ours {
        file.set_permissions(Permissions::from_mode(kept))?;
    }
    Ok(())
}

/// Whether `flock` said that there is no such thing here: Lustre without its option, NFS without a lock
/// daemon, some FUSE.
fn lacks_locks(error: &io::Error) -> bool {
    const ENOLCK: i32 = 37;
    error.kind() == io::ErrorKind::Unsupported || error.raw_os_error() == Some(ENOLCK)
}

impl Held {
    /// Binds an abstract socket named after the file: it is not on any file system, and is gone with the
    /// process.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn without_file_locks(file: &File) -> io::Result<Option<Self>> {
        #[cfg(target_os = "android")]
        use std::os::android::net::SocketAddrExt;
        #[cfg(target_os = "linux")]
        use std::os::linux::net::SocketAddrExt;
        use std::os::unix::net::{SocketAddr, UnixListener};

        let metadata = file.metadata()?;
        let name = format!("tensorpatch-lock-{:x}-{:x}", metadata.dev(), metadata.ino());
        match UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?) {
            Ok(socket) => Ok(Some(Self::Name { _socket: socket })),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(None),
            Err(error) => Err(error),
        }
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn without_file_locks(_: &File) -> io::Result<Option<Self>> {
        Ok(Some(Self::Nothing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_by_one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let place = ConfinedPath::root(dir.path()).unwrap().join("lock");
        let lock = Lock::attempt(&place).unwrap();
        assert!(lock.is_some());
        assert!(Lock::attempt(&place).unwrap().is_none());
        drop(lock);
        assert!(Lock::attempt(&place).unwrap().is_some());
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    #[test]
    fn without_locks_of_the_file_system_the_processes_of_a_machine_are_still_kept_apart() {
        let dir = tempfile::tempdir().unwrap();
        let open = |name: &str| File::create(dir.path().join(name)).unwrap();
        let held = Held::without_file_locks(&open("lock")).unwrap();
        assert!(held.is_some());
        assert!(Held::without_file_locks(&open("lock")).unwrap().is_none());
        assert!(Held::without_file_locks(&open("other")).unwrap().is_some());
        drop(held);
        assert!(Held::without_file_locks(&open("lock")).unwrap().is_some());
    }

    #[test]
    fn only_what_says_that_there_are_no_locks_is_passed_over() {
        for (number, passed_over) in [(38, true), (95, true), (37, true), (5, false), (9, false), (4, false)]
        {
            let error = io::Error::from_raw_os_error(number);
            assert_eq!(lacks_locks(&error), passed_over, "{error}");
        }
    }
}
