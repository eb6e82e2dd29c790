//! Files on local disk that are there whole or not at all, also after a power cut.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tensorpatch_checkpoint::permissions::restrict;
use tensorpatch_stream::StreamId;
use tokio::sync::mpsc;

use crate::error::StoreError;

/// A file that appears under its name only when it is complete and synced.
#[derive(Debug)]
pub(crate) struct NewFile {
    file: File,
    staged: PathBuf,
    target: PathBuf,
    /// Whether what is written stays for [`NewFile::resume`] when this is dropped.
    keep: bool,
}

impl NewFile {
    pub(crate) fn create(target: &Path) -> Result<Self, StoreError> {
        let staged = partial(target);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&staged)
            .map_err(|e| StoreError::local(&staged, e))?;
        Ok(Self { file, staged, target: target.to_owned(), keep: false })
    }

    /// Goes on where a process left off that died, or a connection that broke; the bytes that are there are
    /// handed to `seen`.
    ///
    /// They may be anything, after a power cut: whoever resumes must verify the whole before the commit. At
    /// most `max` are kept. Unless it is discarded, what is written stays for the next time.
    pub(crate) fn resume(
        target: &Path,
        max: u64,
        mut seen: impl FnMut(&[u8]),
    ) -> Result<(Self, u64), StoreError> {
        let staged = partial(target);
        let failed = |e| StoreError::local(&staged, e);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&staged)
            .map_err(failed)?;
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
        Ok((Self { file, staged, target: target.to_owned(), keep: true }, len))
    }

    /// Removes what is written: it is of no use.
    pub(crate) fn discard(mut self) {
        self.keep = false;
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.file.write_all(bytes).map_err(|e| StoreError::local(&self.staged, e))
    }

    /// Gives the file its name, durably.
    pub(crate) fn commit(self) -> Result<(), StoreError> {
        self.file.sync_all().map_err(|e| StoreError::local(&self.staged, e))?;
        let target = self.target.clone();
        self.commit_unsynced()?;
        sync_parent(&target)
    }

    /// Gives the file its name. After a power cut it may hold anything, so whoever uses it must verify it.
    pub(crate) fn commit_unsynced(mut self) -> Result<(), StoreError> {
        std::fs::rename(&self.staged, &self.target).map_err(|e| StoreError::local(&self.target, e))?;
        self.keep = true;
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.keep {
            // The name ends in .partial, so a file that cannot be removed is still never taken for a whole
            // one.
            let _ = std::fs::remove_file(&self.staged);
        }
    }
}

/// The name of a file while it is not complete: always of the same length, so that a name of any length has
/// one.
pub(crate) fn partial(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default();
    let digest = blake3::hash(name.as_encoded_bytes()).to_hex();
    target.with_file_name(format!(".{}.partial", digest.get(..32).unwrap_or_default()))
}

/// Replaces a file by one with these bytes, durably.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let mut file = NewFile::create(path)?;
    file.write(bytes)?;
    file.commit()
}

/// Replaces a file by one with these bytes, or leaves it as it is. After a power cut it may hold anything.
pub(crate) fn write_unsynced(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let mut file = NewFile::create(path)?;
    file.write(bytes)?;
    file.commit_unsynced()
}

/// Copies a file, sharing blocks where the file system can. The copy can be read by nobody who could not read
/// the source.
pub(crate) fn copy_file(from: &Path, to: &Path) -> Result<(), StoreError> {
    let mut source = File::open(from).map_err(|e| StoreError::local(from, e))?;
    let mut file = NewFile::create(to)?;
    restrict(&file.file, &source).map_err(|e| StoreError::local(to, e))?;
    std::io::copy(&mut source, &mut file.file).map_err(|e| StoreError::local(to, e))?;
    file.commit_unsynced()
}

/// The bytes of a file of at most `max` bytes, or `None` if there is none.
pub(crate) fn read_file(path: &Path, max: u64) -> Result<Option<Vec<u8>>, StoreError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(StoreError::local(path, e)),
    };
    let mut bytes = Vec::new();
    file.take(max.saturating_add(1)).read_to_end(&mut bytes).map_err(|e| StoreError::local(path, e))?;
    if bytes.len() as u64 > max {
        return Err(StoreError::FileSize { path: path.into(), limit: max });
    }
    Ok(Some(bytes))
}

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
            let mut block = Vec::new();
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

pub(crate) fn file_len(path: &Path) -> Result<u64, StoreError> {
    std::fs::metadata(path).map(|meta| meta.len()).map_err(|e| StoreError::local(path, e))
}

pub(crate) fn create_dir(path: &Path) -> Result<(), StoreError> {
    std::fs::create_dir_all(path).map_err(|e| StoreError::local(path, e))
}

/// Makes a directory for copies, which is nobody else's to read. One that is there stays as it is.
pub(crate) fn create_private_dir(path: &Path) -> Result<(), StoreError> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|e| StoreError::local(path, e))
}

/// Removes a file or a whole directory; nothing there is as good.
pub(crate) fn remove(path: &Path) -> Result<(), StoreError> {
    let result = match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(e) => Err(e),
    };
    match result {
        // Where a file is instead of the directory, there is nothing either.
        Err(e) if !matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Err(StoreError::local(path, e))
        }
        _ => Ok(()),
    }
}

/// Makes a rename, creation or removal in a directory durable.
pub(crate) fn sync_dir(path: &Path) -> Result<(), StoreError> {
    tensorpatch_checkpoint::sync_dir(path).map_err(|e| StoreError::local(path, e))
}

fn sync_parent(path: &Path) -> Result<(), StoreError> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    sync_dir(parent)
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
/// `~/Library/Caches`. What lies there can be deleted at any time: it is restored from the stream.
///
/// # Errors
/// [`StoreError::NoCache`] if there is no home directory.
pub fn cache_dir(purpose: &'static str, stream: StreamId) -> Result<PathBuf, StoreError> {
    // By the XDG rules a relative path does not count.
    let configured = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || std::env::home_dir().filter(|home| home.is_absolute());
    let below_home = if cfg!(target_os = "macos") { "Library/Caches" } else { ".cache" };
    let cache = configured.or_else(|| Some(home()?.join(below_home))).ok_or(StoreError::NoCache(purpose))?;
    Ok(cache.join("tensorpatch").join(purpose).join(stream.to_string()))
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
        let path = dir.path().join("state.json");
        write_file(&path, b"old").unwrap();
        let mut file = NewFile::create(&path).unwrap();
        file.write(b"half").unwrap();
        drop(file);
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        write_file(&path, b"new").unwrap();
        assert_eq!(read_file(&path, 10).unwrap().unwrap(), b"new");
        assert!(read_file(&path, 2).is_err());
        assert_eq!(read_file(&dir.path().join("none"), 2).unwrap(), None);
    }
}
