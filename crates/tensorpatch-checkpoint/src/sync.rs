//! Getting what was written to the disk.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread::{Builder, Scope};
use std::time::Duration;

use crate::{CheckpointError, ConfinedPath};

/// Bytes of a file that wait for a sync before one is made while others are still being written. Disks take
/// long pieces best, and a sync ends with a flush of their caches.
pub(crate) const SYNCED_AT_ONCE: u64 = 32 << 20;
/// How long it takes to notice that so many wait.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A file of a checkpoint that is written to.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) path: PathBuf,
    pub(crate) file: File,
    /// Bytes written since the last sync was begun.
    waiting: AtomicU64,
}

impl Written {
    pub(crate) fn new(path: PathBuf, file: File) -> Self {
        Self { path, file, waiting: AtomicU64::new(0) }
    }

    pub(crate) fn write(&self, bytes: &[u8], position: u64) -> Result<(), CheckpointError> {
        self.file.write_all_at(bytes, position).map_err(CheckpointError::io("write", &self.path))?;
        self.waiting.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Puts what was written on the disk, if it is at least `enough`.
    fn sync_from(&self, enough: u64) -> Result<(), CheckpointError> {
        if self.waiting.load(Ordering::Relaxed) < enough {
            return Ok(());
        }
        self.waiting.store(0, Ordering::Relaxed);
        self.file.sync_data().map_err(CheckpointError::io("sync", &self.path))
    }
}

/// Does `work`, which writes to `files`, and syncs what it has written while it goes on, as soon as that is
/// `enough` of a file, given by its place: the disk and the processors are busy together, and the sync that
/// must follow finds little left to do.
///
/// # Errors
/// Of `work`, or if the operating system refuses a sync: it says so once, and the sync that follows would not
/// be told.
pub(crate) fn syncing_behind<T, E: From<CheckpointError>>(
    files: &[Written],
    enough: impl Fn(usize) -> u64 + Sync,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    let end = End::default();
    std::thread::scope(|scope| {
        let behind = sync_until(scope, (files, &enough), &end);
        let done = {
            let _said = SaidOnDrop(&end);
            work()
        };
        let synced =
            behind.map_or(Ok(()), |thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        let done = done?;
        synced?;
        Ok(done)
    })
}

type Behind<'s> = std::thread::ScopedJoinHandle<'s, Result<(), CheckpointError>>;

/// `None` where the system has no more threads to give: all is left to the sync that follows.
fn sync_until<'s, 'e: 's>(
    scope: &'s Scope<'s, 'e>,
    (files, enough): (&'e [Written], &'e (dyn Fn(usize) -> u64 + Sync)),
    end: &'e End,
) -> Option<Behind<'s>> {
    let behind = move || {
        while !end.is_said_within(LOOK_EVERY) {
            let mut files = files.iter().enumerate().take_while(|_| !end.is_said());
            files.try_for_each(|(number, file)| file.sync_from(enough(number)))?;
        }
        Ok(())
    };
    Builder::new().spawn_scoped(scope, behind).ok()
}

/// Whether the work is done.
#[derive(Default)]
struct End {
    is_said: Mutex<bool>,
    told: Condvar,
}

impl End {
    fn is_said(&self) -> bool {
        *self.is_said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_said_within(&self, time: Duration) -> bool {
        let said = self.is_said.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.told.wait_timeout_while(said, time, |said| !*said);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// Says that the work is done, also if it panics.
struct SaidOnDrop<'a>(&'a End);

impl Drop for SaidOnDrop<'_> {
    fn drop(&mut self) {
        *self.0.is_said.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.told.notify_all();
    }
}

/// Returns when the files at `places` are on disk as they are now.
///
/// # Errors
/// If one cannot be opened, or the operating system refuses.
pub fn sync_files(places: impl IntoIterator<Item = ConfinedPath>) -> Result<(), CheckpointError> {
    let open = |place: ConfinedPath| {
        let path = place.path();
        let file = place.open().map_err(CheckpointError::io("open", &path))?;
        Ok(Written::new(path, file))
    };
    let files = places.into_iter().map(open).collect::<Result<Vec<_>, CheckpointError>>()?;
    sync_all(&files, File::sync_all)
}

/// Syncs files side by side: a disk takes several at once faster than one after the other.
pub(crate) fn sync_all(
    files: &[Written],
    sync: impl Fn(&File) -> io::Result<()> + Sync,
) -> Result<(), CheckpointError> {
    const AT_ONCE: usize = 16;
    let sync = |written: &Written| sync(&written.file).map_err(CheckpointError::io("sync", &written.path));
    let share = files.len().div_ceil(AT_ONCE).max(1);
    std::thread::scope(|scope| {
        let sync_some = |some: &[Written]| some.iter().try_for_each(sync);
        let mut shares = files.chunks(share);
        let first = shares.next().unwrap_or_default();
        let mut threads = Vec::new();
        for some in shares {
            // Where the system has no more threads to give, this one does the work.
            match Builder::new().spawn_scoped(scope, move || sync_some(some)) {
                Ok(thread) => threads.push(thread),
                Err(_) => sync_some(some)?,
            }
        }
        sync_some(first)?;
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::time::Instant;

    use super::*;

    fn error(result: Result<(), CheckpointError>) -> String {
        result.unwrap_err().to_string()
    }

    /// Waits until what `written` has waiting was taken up.
    fn wait_for_a_sync(written: &Written) {
        let start = Instant::now();
        while written.waiting.load(Ordering::Relaxed) >= SYNCED_AT_ONCE {
            assert!(start.elapsed() < Duration::from_secs(60), "nothing was synced");
            std::thread::yield_now();
        }
    }

    fn much(file: File) -> [Written; 1] {
        let written = Written::new(PathBuf::from("shard"), file);
        written.waiting.store(SYNCED_AT_ONCE, Ordering::Relaxed);
        [written]
    }

    #[test]
    fn what_is_written_is_synced_while_there_is_more_to_write() {
        let files = much(tempfile::tempfile().unwrap());
        let work = || {
            wait_for_a_sync(&files[0]);
            files[0].write(b"more", 0)
        };
        syncing_behind(&files, |_| SYNCED_AT_ONCE, work).unwrap();
        assert_eq!(files[0].waiting.load(Ordering::Relaxed), 4);
    }

    #[test]
    fn a_sync_that_fails_meanwhile_is_not_lost() {
        // A pipe cannot be synced.
        let (_reader, writer) = io::pipe().unwrap();
        let files = much(File::from(OwnedFd::from(writer)));
        let work = || {
            wait_for_a_sync(&files[0]);
            Ok::<_, CheckpointError>(())
        };
        let said = error(syncing_behind(&files, |_| SYNCED_AT_ONCE, work));
        assert!(said.contains("sync") && said.contains("shard"), "{said}");
    }

    #[test]
    fn work_that_panics_ends_the_syncs() {
        let files = [Written::new(PathBuf::from("shard"), tempfile::tempfile().unwrap())];
        let behind = |_| SYNCED_AT_ONCE;
        let work = || syncing_behind::<(), CheckpointError>(&files, behind, || panic!("work"));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err());
    }
}
