//! Objects of a local directory while they are written, and how they get their names on file systems that
//! lack something.
//!
//! `object_store` creates with a hard link, stages beside the object where no list shows it, and fails if
//! directories cannot be synced.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use futures::FutureExt;
use object_store::{Error, MultipartUpload, PutPayload, PutResult, Result, UploadPart};
use tensorpatch_checkpoint::sync_dir;
use tensorpatch_stream::{Nonce, names};

const STORE: &str = "directory";

/// An object before it has its name: in the folder of the probes, where a collector sees what a process that
/// died has left.
#[derive(Debug)]
pub(super) struct Staged {
    path: PathBuf,
    file: File,
}

impl Staged {
    pub(super) fn create(root: &FilePath) -> Result<Self> {
        let folder = root.join(names::PROBE);
        let path = folder.join(format!("{}-upload", Nonce::random()));
        let open = || OpenOptions::new().write(true).create_new(true).open(&path);
        let opened = match open() {
            Err(error) if error.kind() == ErrorKind::NotFound => make_dir(&folder).and_then(|()| open()),
            opened => opened,
        };
        let file = opened.map_err(|error| failed(&path, error))?;
        Ok(Self { path, file })
    }

    pub(super) fn write(&self, data: &PutPayload, mut offset: u64) -> Result<()> {
        for block in data {
            self.file.write_all_at(block, offset).map_err(|error| failed(&self.path, error))?;
            offset = offset.saturating_add(block.len() as u64);
        }
        Ok(())
    }

    pub(super) fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(|error| failed(&self.path, error))
    }

    /// Gives the object its name, whether there is one of that name or not.
    pub(super) fn replace(&self, path: &FilePath) -> Result<PutResult> {
        in_made_folder(path, || fs::rename(&self.path, path)).map_err(|error| failed(path, error))?;
        named(path)
    }

    /// Gives the object its name if that is free; of several at once exactly one succeeds.
    pub(super) fn create_at(&self, path: &FilePath) -> Result<PutResult> {
        let linked = in_made_folder(path, || fs::hard_link(&self.path, path));
        let created = match linked {
            Err(error) if lacks_links(&error) => in_made_folder(path, || rename_new(&self.path, path)),
            linked => linked,
        };
        match created {
            Ok(()) => named(path),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let path = path.display().to_string();
                Err(Error::AlreadyExists { path, source: error.into() })
            }
            Err(error) if lacks_links(&error) => Err(Error::NotSupported { source: NoCreate(error).into() }),
            Err(error) => Err(failed(path, error)),
        }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // Gone if it was renamed; otherwise a collector removes it.
        let _ = fs::remove_file(&self.path);
    }
}

/// There is no way to create a file only if it is not there.
#[derive(Debug, thiserror::Error)]
#[error("its file system has neither hard links nor a rename that replaces nothing: {0}")]
struct NoCreate(#[source] io::Error);

/// Whether an error of `link`, or of `renameat2` with a flag, says that the file system has no such thing.
fn lacks_links(error: &io::Error) -> bool {
    // EPERM is what `link` gives on file systems without links; ENOTTY, EINVAL and EXDEV are those of mounts
    // that pass an unknown request on.
    matches!(error.raw_os_error(), Some(1 | 18 | 22 | 25 | 31)) || error.kind() == ErrorKind::Unsupported
}

#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
fn rename_new(from: &FilePath, to: &FilePath) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
fn rename_new(_: &FilePath, _: &FilePath) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

/// Makes a new name durable. The object is there from now on, whatever the disk says.
fn named(path: &FilePath) -> Result<PutResult> {
    if let Some(folder) = path.parent()
        && let Err(error) = sync_dir(folder)
    {
        return Err(failed(folder, error));
    }
    Ok(PutResult { e_tag: None, version: None, extensions: Default::default() })
}

/// Gives a file its name, after making the folder if it is missing.
fn in_made_folder(path: &FilePath, name: impl Fn() -> io::Result<()>) -> io::Result<()> {
    match (name(), path.parent()) {
        // Others may have made it meanwhile, which is as good.
        (Err(error), Some(folder)) if error.kind() == ErrorKind::NotFound => {
            make_dir(folder)?;
            name()
        }
        (named, _) => named,
    }
}

fn make_dir(path: &FilePath) -> io::Result<()> {
    fs::create_dir_all(path)?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// An object that is written in parts.
#[derive(Debug)]
pub(super) struct Upload {
    staged: Option<Arc<Staged>>,
    path: PathBuf,
    offset: u64,
}

impl Upload {
    pub(super) fn new(staged: Staged, path: PathBuf) -> Self {
        Self { staged: Some(Arc::new(staged)), path, offset: 0 }
    }
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (staged, offset) = (self.staged.clone(), self.offset);
        self.offset = self.offset.saturating_add(data.content_length() as u64);
        blocking(move || staged.ok_or_else(ended)?.write(&data, offset)).boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let (staged, path) = (self.staged.take().ok_or_else(ended)?, self.path.clone());
        blocking(move || {
            staged.sync()?;
            staged.replace(&path)
        })
        .await
    }

    async fn abort(&mut self) -> Result<()> {
        let staged = self.staged.take();
        blocking(move || {
            drop(staged);
            Ok(())
        })
        .await
    }
}

fn ended() -> Error {
    Error::Generic { store: STORE, source: "the upload has ended".into() }
}

#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
struct FileError {
    path: PathBuf,
    source: io::Error,
}

pub(super) fn failed(path: &FilePath, source: io::Error) -> Error {
    Error::Generic { store: STORE, source: FileError { path: path.to_owned(), source }.into() }
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|source| Error::JoinError { source })?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rename_that_replaces_nothing_stands_in_for_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::write(&from, "mine").unwrap();
        fs::write(&to, "theirs").unwrap();
        assert_eq!(rename_new(&from, &to).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&to).unwrap(), b"theirs");
        fs::remove_file(&to).unwrap();
        rename_new(&from, &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"mine");
    }
}
