//! Files on local disk that are there whole or not at all, also after a power cut.

use std::fs::{File, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tensorpatch_checkpoint::permissions::restrict;
use tensorpatch_checkpoint::{ConfinedPath, Found, open_regular};
use tensorpatch_stream::StreamId;
use tokio::sync::mpsc;

use crate::error::StoreError;

/// A file that appears under its name only when it is complete and synced.
#[derive(Debug)]
pub(crate) struct NewFile {
    file: File,
    staged: ConfinedPath,
    target: ConfinedPath,
    /// Whether what is written stays for [`NewFile::resume`] when this is dropped.
    keep: bool,
}

impl NewFile {
    pub(crate) fn create(target: &ConfinedPath) -> Result<Self, StoreError> {
        let staged = partial(target);
        let file = staged.replace().map_err(StoreError::at(&staged))?;
        Ok(Self { file, staged, target: target.clone(), keep: false })
    }

    /// Goes on where a process left off that died, or a connection that broke; the bytes that are there are
    /// handed to `seen`.
    ///
    /// They may be anything, after a power cut: whoever resumes must verify the whole before the commit.
    /// At most `max` are kept. A file that somebody else has put there is none to go on with, as they
    /// could alter it later. Unless it is discarded, what is written stays for the next time.
    pub(crate) fn resume(
        target: &ConfinedPath,
        max: u64,
        mut seen: impl FnMut(&[u8]),
    ) -> Result<(Self, u64), StoreError> {
        let staged = partial(target);
        let failed = |e| StoreError::local(staged.path(), e);
        let mut file = staged.resume().map_err(failed)?;
        if file.metadata().map_err(failed)?.len() > max {
            file.set_len(0).map_err(failed)?;
        }
        let (mut block, mut len) = (vec![0; 1 << 20], 0_u64);
        loop {
            match file.read(&mut block).map_err(failed)? {
                0 => break,
                read => {
                    seen(block.get(..read).unwrap_or_default());
                    len = len.saturating_add(read as u64);
                }
            }
        }
        Ok((Self { file, staged, target: target.clone(), keep: true }, len))
    }

    /// Removes what is written: it is of no use.
    pub(crate) fn discard(mut self) {
        self.keep = false;
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.file.write_all(bytes).map_err(StoreError::at(&self.staged))
    }

    /// Gives the file its name, durably.
    pub(crate) fn commit(self) -> Result<(), StoreError> {
        self.file.sync_all().map_err(StoreError::at(&self.staged))?;
        let target = self.target.clone();
        self.commit_unsynced()?;
        target.sync_parent().map_err(StoreError::at(&target))
    }

    /// Gives the file its name. After a power cut it may hold anything, so whoever uses it must verify it.
    pub(crate) fn commit_unsynced(mut self) -> Result<(), StoreError> {
        self.staged.rename(&self.target).map_err(StoreError::at(&self.target))?;
        self.keep = true;
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.keep {
            // The name ends in .partial, so a file that cannot be removed is still never taken for a whole
            // one.
            let _ = self.staged.remove_file();
        }
    }
}

/// The name of a file while it is not complete: always of the same length, so that a name of any length has
/// one.
pub(crate) fn partial(target: &ConfinedPath) -> ConfinedPath {
    let digest = blake3::hash(target.file_name().as_encoded_bytes()).to_hex();
    target.with_file_name(format!(".{}.partial", digest.get(..32).unwrap_or_default()))
}

/// Replaces a file by one with these bytes, durably.
pub(crate) fn write_file(place: &ConfinedPath, bytes: &[u8]) -> Result<(), StoreError> {
    let mut file = NewFile::create(place)?;
    file.write(bytes)?;
    file.commit()
}

/// Replaces a file by one with these bytes, or leaves it as it is. After a power cut it may hold anything.
pub(crate) fn write_unsynced(place: &ConfinedPath, bytes: &[u8]) -> Result<(), StoreError> {
    let mut file = NewFile::create(place)?;
    file.write(bytes)?;
    file.commit_unsynced()
}

/// Copies an open file, sharing blocks where the file system can. The copy can be read by nobody who could
/// not read the source.
pub(crate) fn copy_file(mut from: File, to: &ConfinedPath) -> Result<(), StoreError> {
    let mut file = NewFile::create(to)?;
    restrict(&file.file, &from).map_err(StoreError::at(to))?;
    std::io::copy(&mut from, &mut file.file).map_err(StoreError::at(to))?;
    file.commit_unsynced()
}

/// The bytes of a file of the user's of at most `max` bytes, or `None` if there is none.
pub(crate) fn read_file(path: &Path, max: u64) -> Result<Option<Vec<u8>>, StoreError> {
    read(open_regular(path), path, max)
}

/// The bytes of an open file of at most `max` bytes.
pub(crate) fn read_opened(file: &File, path: &Path, max: u64) -> Result<Vec<u8>, StoreError> {
    let mut bytes = Vec::new();
    file.take(max.saturating_add(1)).read_to_end(&mut bytes).map_err(|e| StoreError::local(path, e))?;
    if bytes.len() as u64 > max {
        return Err(StoreError::FileSize { path: path.into(), limit: max });
    }
    Ok(bytes)
}

/// The bytes of a file of tensorpatch's own of at most `max` bytes, or `None` if there is none.
pub(crate) fn read_own(place: &ConfinedPath, max: u64) -> Result<Option<Vec<u8>>, StoreError> {
    read(place.open(), &place.path(), max)
}

fn read(opened: std::io::Result<File>, path: &Path, max: u64) -> Result<Option<Vec<u8>>, StoreError> {
    let file = match opened {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(StoreError::local(path, e)),
    };
    read_opened(&file, path, max).map(Some)
}

/// The most room that is made for a block beforehand, whatever size is asked for.
const MAX_ROOM: u64 = 8 << 20;

/// Reads what `open` opens block by block on a blocking thread, never more than a few blocks ahead.
pub(crate) fn read_blocks<R: Read>(
    open: impl FnOnce() -> std::io::Result<R> + Send + 'static,
    block_bytes: u64,
) -> mpsc::Receiver<std::io::Result<Bytes>> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::task::spawn_blocking(move || {
        let mut reader = match open() {
            Ok(reader) => reader,
            Err(e) => return sender.blocking_send(Err(e)).unwrap_or_default(),
        };
        loop {
            // With room from the start: growing piece by piece copies what is there already.
            let mut block =
                Vec::with_capacity(usize::try_from(block_bytes.min(MAX_ROOM)).unwrap_or_default());
            let read = reader.by_ref().take(block_bytes).read_to_end(&mut block);
            let message = match read {
                Ok(0) => return,
                Ok(_) => Ok(Bytes::from(block)),
                Err(e) => Err(e),
            };
            let failed = message.is_err();
            // Nobody receives any more once the transfer has failed.
            if sender.blocking_send(message).is_err() || failed {
                return;
            }
        }
    });
    receiver
}

pub(crate) fn file_len(place: &ConfinedPath) -> Result<u64, StoreError> {
    let found = place.find().and_then(|found| found.ok_or(ErrorKind::NotFound.into()));
    found.map(|found| found.len).map_err(StoreError::at(place))
}

/// Makes a directory that the user has named, where links may lead to.
pub(crate) fn create_dir(path: &Path) -> Result<(), StoreError> {
    std::fs::create_dir_all(path).map_err(|e| StoreError::directory(path, e))
}

/// Makes a directory for copies, which is nobody else's to read. One that is there stays as it is.
pub(crate) fn create_private_dir(path: &Path) -> Result<(), StoreError> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|e| StoreError::directory(path, e))
}

/// Opens a directory that the user has named, which is made if it is missing.
pub(crate) fn open_root(path: &Path) -> Result<ConfinedPath, StoreError> {
    create_dir(path)?;
    ConfinedPath::root(path).map_err(|e| StoreError::directory(path, e))
}

/// Opens a directory for copies that the user has named, which is made nobody else's to read if it is
/// missing.
pub(crate) fn open_private_root(path: &Path) -> Result<ConfinedPath, StoreError> {
    create_private_dir(path)?;
    open_root(path)
}

/// Makes a directory of tensorpatch's own.
pub(crate) fn make_dir(place: &ConfinedPath) -> Result<(), StoreError> {
    place.create_dir().map_err(StoreError::at(place))
}

/// Makes a directory of tensorpatch's own for weights, or parts of them: nobody else enters it, since these
/// may be nobody else's to read.
pub(crate) fn make_private_dir(place: &ConfinedPath) -> Result<(), StoreError> {
    make_dir(place)?;
    keep_private(place).map_err(StoreError::at(place))
}

fn keep_private(place: &ConfinedPath) -> std::io::Result<()> {
    let directory = place.open_dir()?;
    let found = Found::of_open(&directory)?;
    if found.owner != rustix::process::geteuid().as_raw() || found.mode & 0o077 == 0 {
        return Ok(());
    }
    match directory.set_permissions(Permissions::from_mode(0o700)) {
        // To its owner only a file system without modes says that.
        Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::Unsupported) => Ok(()),
        set => set,
    }
}

/// Removes a file or a whole directory; nothing there is as good.
pub(crate) fn remove(place: &ConfinedPath) -> Result<(), StoreError> {
    place.remove().map_err(StoreError::at(place))
}

/// Renames within directories of tensorpatch's own.
pub(crate) fn rename(from: &ConfinedPath, to: &ConfinedPath) -> Result<(), StoreError> {
    from.rename(to).map_err(StoreError::at(to))
}

/// Makes renames, creations and removals in a directory durable.
pub(crate) fn sync_dir(place: &ConfinedPath) -> Result<(), StoreError> {
    let synced = place.open_dir().and_then(|dir| tensorpatch_checkpoint::sync_open_dir(&dir));
    synced.map_err(StoreError::at(place))
}

/// Runs `work` on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.map_err(|e| StoreError::Task(e.to_string()))?
}

/// A directory in the user's cache for what this machine keeps of a stream: `baselines`, `folds`, `mirrors`.
///
/// `$XDG_CACHE_HOME/tensorpatch/PURPOSE/STREAM`, by default below `~/.cache`, on macOS below
/// `~/Library/Caches`. It is made if it is missing. What lies there can be deleted at any time: it is
/// restored from the stream.
///
/// # Errors
/// [`StoreError::NoCache`] if no variable names a place, [`StoreError::Cache`] if nothing can be made there.
pub fn cache_dir(purpose: &'static str, stream: StreamId) -> Result<PathBuf, StoreError> {
    // By the XDG rules a relative path does not count.
    let configured = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || std::env::home_dir().filter(|home| home.is_absolute());
    let below_home = if cfg!(target_os = "macos") { "Library/Caches" } else { ".cache" };
    let cache = configured.or_else(|| Some(home()?.join(below_home))).ok_or_else(|| no_cache(purpose))?;
    let path = cache.join("tensorpatch").join(purpose).join(stream.to_string());
    match create_private_dir(&path) {
        Err(StoreError::Local { source, .. }) => Err(StoreError::Cache { path, source }),
        made => made.map(|()| path),
    }
}

/// Says which variable is why there is no place in the user's cache.
fn no_cache(purpose: &'static str) -> StoreError {
    let wrong = |name: &str| std::env::var_os(name).map(|value| format!("{name} is {value:?}"));
    let wrong: Vec<String> = ["XDG_CACHE_HOME", "HOME"].into_iter().filter_map(wrong).collect();
    let what = match wrong.as_slice() {
        [] => "HOME is not set".into(),
        [one] => format!("{one}, which is no absolute path"),
        all => format!("{}, which are no absolute paths", all.join(" and ")),
    };
    StoreError::NoCache { purpose, what }
}

/// The directories of a path that are not there yet, the innermost first.
pub(crate) fn missing_dirs(path: &Path) -> Vec<PathBuf> {
    let named = |path: &&Path| !path.as_os_str().is_empty() && std::fs::symlink_metadata(path).is_err();
    path.ancestors().take_while(named).map(Path::to_owned).collect()
}

/// Removes directories that are empty, the innermost first: what has something in it stays, and what it is
/// in.
pub(crate) fn remove_empty_dirs(dirs: &[PathBuf]) {
    for dir in dirs {
        match ConfinedPath::of(dir).and_then(|dir| dir.remove_empty_dir()) {
            Err(error) if error.kind() != ErrorKind::NotFound => return,
            _ => {}
        }
    }
}

/// Seconds since 1970 by this machine's clock; only ever shown to people.
pub(crate) fn unix_now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_committed_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let root = ConfinedPath::root(dir.path()).unwrap();
        let place = root.join("state.json");
        write_file(&place, b"old").unwrap();
        let mut file = NewFile::create(&place).unwrap();
        file.write(b"half").unwrap();
        drop(file);
        assert_eq!(std::fs::read(place.path()).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        write_file(&place, b"new").unwrap();
        assert_eq!(read_own(&place, 10).unwrap().unwrap(), b"new");
        assert!(read_own(&place, 2).is_err());
        assert_eq!(read_own(&root.join("none"), 2).unwrap(), None);
    }
}
