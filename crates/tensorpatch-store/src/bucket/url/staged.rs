//! Objects of a local directory while they are written, and how they get their names on file systems that
//! lack something.
//!
//! `object_store` creates with a hard link, stages beside the object where no list shows it, and fails if
//! directories cannot be synced.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use futures::FutureExt;
use object_store::{Error, MultipartUpload, PutPayload, PutResult, Result, UploadPart};
use tensorpatch_checkpoint::ConfinedPath;
use tensorpatch_stream::{Nonce, names};

const STORE: &str = "directory";

/// An object before it has its name: in the folder of the probes, where a collector sees what a process that
/// died has left.
#[derive(Debug)]
pub(super) struct Staged {
    place: ConfinedPath,
    file: File,
}

impl Staged {
    pub(super) fn create(root: &ConfinedPath) -> Result<Self> {
        let place = root.join(names::PROBE).join(format!("{}-upload", Nonce::random()));
        let file = in_made_folder(&place, || place.create_new()).map_err(|error| failed(&place, error))?;
        Ok(Self { place, file })
    }

    pub(super) fn write(&self, data: &PutPayload, mut offset: u64) -> Result<()> {
        for block in data {
            self.file.write_all_at(block, offset).map_err(|error| failed(&self.place, error))?;
            offset = offset.saturating_add(block.len() as u64);
        }
        Ok(())
    }

    pub(super) fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(|error| failed(&self.place, error))
    }

    /// Gives the object its name, whether there is one of that name or not.
    pub(super) fn replace(&self, object: &ConfinedPath) -> Result<PutResult> {
        in_made_folder(object, || self.place.rename(object)).map_err(|error| failed(object, error))?;
        named(object)
    }

    /// Gives the object its name if that is free; of several at once exactly one succeeds.
    pub(super) fn create_at(&self, object: &ConfinedPath) -> Result<PutResult> {
        let linked = in_made_folder(object, || self.place.link(object));
        let created = match linked {
            Err(error) if lacks_links(&error) => in_made_folder(object, || self.place.rename_new(object)),
            linked => linked,
        };
        match created {
            Ok(()) => named(object),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let path = object.path().display().to_string();
                Err(Error::AlreadyExists { path, source: error.into() })
            }
            Err(error) if lacks_links(&error) => Err(Error::NotSupported { source: NoCreate(error).into() }),
            Err(error) => Err(failed(object, error)),
        }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // Gone if it was renamed; otherwise a collector removes it.
        let _ = self.place.remove_file();
    }
}

/// There is no way to create a file only if it is not there.
#[derive(Debug, thiserror::Error)]
#[error("its file system has neither hard links nor a rename that replaces nothing: {0}")]
struct NoCreate(io::Error);

/// Whether an error of `link`, or of `renameat2` with a flag, says that the file system has no such thing.
fn lacks_links(error: &io::Error) -> bool {
    // EPERM is what `link` gives on file systems without links; ENOTTY, EINVAL and EXDEV are those of mounts
    // that pass an unknown request on.
    matches!(error.raw_os_error(), Some(1 | 18 | 22 | 25 | 31)) || error.kind() == ErrorKind::Unsupported
}

/// Makes a new name durable. The object is there from now on, whatever the disk says.
fn named(object: &ConfinedPath) -> Result<PutResult> {
    object.sync_parent().map_err(|error| failed(object, error))?;
    Ok(PutResult { e_tag: None, version: None, extensions: Default::default() })
}

/// Gives a file its name, after making the folder if it is missing.
fn in_made_folder<T>(file: &ConfinedPath, name: impl Fn() -> io::Result<T>) -> io::Result<T> {
    // Whoever deletes the last object in it removes it.
    const ATTEMPTS: usize = 4;
    for _ in 1..ATTEMPTS {
        match name() {
            // Others may have made it meanwhile, which is as good.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let folder = file.directory();
                folder.create_dir()?;
                folder.sync_parent()?;
            }
            named => return named,
        }
    }
    name()
}

/// An object that is written in parts.
#[derive(Debug)]
pub(super) struct Upload {
    staged: Option<Arc<Staged>>,
    object: ConfinedPath,
    offset: u64,
}

impl Upload {
    pub(super) fn new(staged: Staged, object: ConfinedPath) -> Self {
        Self { staged: Some(Arc::new(staged)), object, offset: 0 }
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
        let (staged, object) = (self.staged.take().ok_or_else(ended)?, self.object.clone());
        blocking(move || {
            staged.sync()?;
            staged.replace(&object)
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

pub(super) fn failed(place: &ConfinedPath, source: io::Error) -> Error {
    failed_at(place.path(), source)
}

pub(super) fn failed_at(path: PathBuf, source: io::Error) -> Error {
    Error::Generic { store: STORE, source: FileError { path, source }.into() }
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
        let root = ConfinedPath::root(dir.path()).unwrap();
        let (from, to) = (root.join("from"), root.join("to"));
        std::fs::write(from.path(), "mine").unwrap();
        std::fs::write(to.path(), "theirs").unwrap();
        assert_eq!(from.rename_new(&to).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(to.path()).unwrap(), b"theirs");
        to.remove().unwrap();
        from.rename_new(&to).unwrap();
        assert_eq!(std::fs::read(to.path()).unwrap(), b"mine");
    }
}
