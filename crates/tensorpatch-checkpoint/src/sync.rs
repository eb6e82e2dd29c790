//! Getting what was written to the disk.

use std::fs::File;
use std::io;
use std::panic::resume_unwind;
use std::path::PathBuf;

use crate::{CheckpointError, ConfinedPath};

/// Returns when the files at `places` are on disk as they are now.
///
/// # Errors
/// If one cannot be opened, or the operating system refuses.
pub fn sync_files(places: impl IntoIterator<Item = ConfinedPath>) -> Result<(), CheckpointError> {
    let open = |place: ConfinedPath| {
        let path = place.path();
        let file = place.open().map_err(CheckpointError::io("open", &path))?;
        Ok((path, file))
    };
    let files = places.into_iter().map(open).collect::<Result<Vec<_>, CheckpointError>>()?;
    sync_all(&files, File::sync_all)
}

/// Syncs files side by side: a disk takes several at once faster than one after the other.
pub(crate) fn sync_all(
    files: &[(PathBuf, File)],
    sync: impl Fn(&File) -> io::Result<()> + Sync,
) -> Result<(), CheckpointError> {
    const AT_ONCE: usize = 16;
    let sync = |(path, file): &(PathBuf, File)| sync(file).map_err(CheckpointError::io("sync", path));
    let share = files.len().div_ceil(AT_ONCE).max(1);
    std::thread::scope(|scope| {
        let sync_some = |some: &[(PathBuf, File)]| some.iter().try_for_each(sync);
        let mut shares = files.chunks(share);
        let first = shares.next().unwrap_or_default();
        let mut threads = Vec::new();
        for some in shares {
            // Where the system has no more threads to give, this one does the work.
            match std::thread::Builder::new().spawn_scoped(scope, move || sync_some(some)) {
                Ok(thread) => threads.push(thread),
                Err(_) => sync_some(some)?,
            }
        }
        sync_some(first)?;
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}
