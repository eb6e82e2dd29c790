//! A local directory as a store, whatever its file system lacks and whoever else has files there.
//!
//! `object_store` has one too, which follows links, so that others who may write to the directory could have
//! files elsewhere read, overwritten and deleted; and which cannot list a directory with a name that is not
//! UTF-8.

use std::fmt;
use std::io::ErrorKind;
use std::path::{Path as FilePath, PathBuf};

use async_trait::async_trait;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryFutureExt};
use object_store::path::{Path, PathPart};
use object_store::{
    Attributes, CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tensorpatch_checkpoint::{ConfinedPath, FileKind};

use super::staged::{Staged, Upload, blocking, failed, failed_at};

/// A local directory as a store; what is written is synced. What is an object by its name lies below the
/// directory in fact: links are neither followed nor listed.
#[derive(Debug)]
pub(super) struct Directory {
    root: PathBuf,
}

impl Directory {
    /// The directory at `root`, which must exist.
    pub(super) fn open(root: &FilePath) -> Result<Self> {
        // An absolute path, for messages and to tell two places apart.
        let root = std::fs::canonicalize(root).map_err(|error| failed_at(root.to_owned(), error))?;
        Ok(Self { root })
    }
}

impl fmt::Display for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Directory({})", self.root.display())
    }
}

/// Opens the directory of a store: for each request, since a handle that was kept would lead nowhere once a
/// mount is lost and back again.
fn open_root(root: &FilePath) -> Result<ConfinedPath> {
    ConfinedPath::root(root).map_err(|error| absent_or_failed(root.to_owned(), error))
}

/// Where an object lies.
fn place(root: &ConfinedPath, location: &Path) -> ConfinedPath {
    location.parts().fold(root.clone(), |place, part| place.join(part.as_ref()))
}

#[async_trait]
impl ObjectStore for Directory {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        if matches!(options.mode, PutMode::Update(_)) {
            return Err(not_implemented("put_opts with an update"));
        }
        let (root, location) = (self.root.clone(), location.clone());
        blocking(move || {
            let root = open_root(&root)?;
            let (staged, object) = (Staged::create(&root)?, place(&root, &location));
            staged.write(&payload, 0)?;
            staged.sync()?;
            if options.mode == PutMode::Create { staged.create_at(&object) } else { staged.replace(&object) }
        })
        .await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let (root, location) = (self.root.clone(), location.clone());
        let upload = blocking(move || {
            let root = open_root(&root)?;
            Ok(Upload::new(Staged::create(&root)?, place(&root, &location)))
        });
        Ok(Box::new(upload.await?))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let (root, location) = (self.root.clone(), location.clone());
        blocking(move || get(&place(&open_root(&root)?, &location), location, &options)).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        const AT_ONCE: usize = 8;
        let root = self.root.clone();
        let delete = move |location: Result<Path>| {
            let root = root.clone();
            async move {
                let location = location?;
                blocking(move || {
                    let object = place(&open_root(&root)?, &location);
                    object.remove_file().map_err(|error| absent_or_failed(object.path(), error))?;
                    remove_emptied(&object, location.parts().count());
                    Ok(location)
                })
                .await
            }
        };
        locations.map(delete).buffered(AT_ONCE).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (root, prefix) = (self.root.clone(), prefix.cloned().unwrap_or_default());
        let listed = blocking(move || {
            let mut found = Vec::new();
            list(&place(&open_root(&root)?, &prefix), &prefix, &mut found)?;
            Ok(stream::iter(found.into_iter().map(Ok)))
        });
        listed.try_flatten_stream().boxed()
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        Err(not_implemented("list_with_delimiter"))
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(not_implemented("copy_opts"))
    }
}

/// What nothing here asks for.
fn not_implemented(operation: &str) -> Error {
    Error::NotImplemented { operation: operation.to_owned(), implementer: "Directory".to_owned() }
}

fn get(object: &ConfinedPath, location: Path, options: &GetOptions) -> Result<GetResult> {
    let file = object.open().map_err(|error| absent_or_failed(object.path(), error))?;
    let failed = |error| failed(object, error);
    let metadata = file.metadata().map_err(failed)?;
    let last_modified = metadata.modified().map_err(failed)?.into();
    let meta = ObjectMeta { location, last_modified, size: metadata.len(), e_tag: None, version: None };
    options.check_preconditions(&meta)?;
    let range = match &options.range {
        Some(range) => range
            .as_range(meta.size)
            .map_err(|error| Error::Generic { store: "directory", source: error.into() })?,
        None => 0..meta.size,
    };
    let payload = GetResultPayload::File(file, object.path());
    Ok(GetResult { payload, meta, range, attributes: Attributes::default(), extensions: Default::default() })
}

fn absent_or_failed(path: PathBuf, error: std::io::Error) -> Error {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => {
            Error::NotFound { path: path.display().to_string(), source: error.into() }
        }
        _ => failed_at(path, error),
    }
}

/// Parts of the name of an object in a folder of the stream itself, such as `commits/1.json`: these folders
/// stay. What lies deeper is in a folder of its version.
const PARTS_OF_FOLDER: usize = 2;

/// Removes the folders that were made for an object with a name of so many parts, unless something else is in
/// them.
fn remove_emptied(object: &ConfinedPath, parts: usize) {
    let mut folder = object.directory();
    for _ in PARTS_OF_FOLDER..parts {
        if folder.remove_empty_dir().is_err() {
            return;
        }
        folder = folder.directory();
    }
}

/// More than any object's name has: what lies deeper is somebody else's, however deep they have made it.
const MOST_PARTS: usize = 24;

/// All files in `folder` and below, which is `prefix` in the store.
///
/// What has no name that an object can have, is hidden, is a link, or is gone by the time that it is
/// looked at, belongs to a desktop, a file server, somebody's copy or somebody's trap, and is left out.
fn list(folder: &ConfinedPath, prefix: &Path, found: &mut Vec<ObjectMeta>) -> Result<()> {
    if prefix.parts().count() > MOST_PARTS {
        return Ok(());
    }
    let opened = folder.enter().and_then(|opened| Ok((opened.entries()?, opened)));
    let (names, opened) = match opened {
        Ok(opened) => opened,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(folder, error)),
    };
    for name in names {
        let Some(part) = name.to_str().filter(|name| !name.starts_with('.')).map(PathPart::parse) else {
            continue;
        };
        let Ok(part) = part else { continue };
        let location: Path = prefix.parts().chain([part]).collect();
        let place = opened.join(&name);
        let Some(entry) = place.find().map_err(|error| failed(&place, error))? else { continue };
        match entry.kind {
            FileKind::Directory => list(&place, &location, found)?,
            FileKind::File => {
                let (last_modified, size) = (entry.modified.into(), entry.len);
                found.push(ObjectMeta { location, last_modified, size, e_tag: None, version: None });
            }
            kind => tracing::debug!("{}: {kind} is no object", place.path().display()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::TryStreamExt;
    use object_store::ObjectStoreExt;
    use std::fs;

    fn store() -> (tempfile::TempDir, Directory) {
        let dir = tempfile::tempdir().unwrap();
        let store = Directory::open(dir.path()).unwrap();
        (dir, store)
    }

    async fn listed(store: &Directory, prefix: &str) -> Vec<String> {
        let prefix = Path::from(prefix);
        let mut names: Vec<String> =
            store.list(Some(&prefix)).map_ok(|meta| meta.location.to_string()).try_collect().await.unwrap();
        names.sort();
        names
    }

    #[tokio::test]
    async fn an_object_is_created_once_and_replaced_as_often_as_wanted() {
        let (_dir, store) = store();
        let (path, create) =
            (Path::from("a/b/c"), || PutOptions { mode: PutMode::Create, ..Default::default() });
        store.put_opts(&path, "one".into(), create()).await.unwrap();
        let again = store.put_opts(&path, "two".into(), create()).await;
        assert!(matches!(again, Err(Error::AlreadyExists { .. })));
        store.put(&path, "three".into()).await.unwrap();
        assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "three");
        assert_eq!(listed(&store, "").await, ["a/b/c"]);
    }

    #[tokio::test]
    async fn folders_of_a_version_go_with_its_last_object_and_those_of_the_stream_stay() {
        let (dir, store) = store();
        let names = ["anchors/1/a", "anchors/1/sub/b", "commits/1.json"].map(Path::from);
        for name in &names {
            store.put(name, "x".into()).await.unwrap();
        }
        store.delete(&names[1]).await.unwrap();
        assert!(!dir.path().join("anchors/1/sub").exists() && dir.path().join("anchors/1/a").exists());
        for name in [&names[0], &names[2]] {
            store.delete(name).await.unwrap();
        }
        assert!(!dir.path().join("anchors/1").exists());
        assert!(dir.path().join("anchors").exists() && dir.path().join("commits").exists());
    }

    #[tokio::test]
    async fn an_upload_that_is_not_completed_shows_in_the_list_until_it_is_given_up() {
        let (_dir, store) = store();
        let mut upload = store.put_multipart(&Path::from("a/b")).await.unwrap();
        upload.put_part("half".into()).await.unwrap();
        let staged = listed(&store, "probe").await;
        assert!(matches!(staged.as_slice(), [one] if one.ends_with("-upload")), "{staged:?}");
        upload.abort().await.unwrap();
        assert!(listed(&store, "").await.is_empty());
        let mut upload = store.put_multipart(&Path::from("a/b")).await.unwrap();
        upload.put_part("who".into()).await.unwrap();
        upload.put_part("le".into()).await.unwrap();
        upload.complete().await.unwrap();
        assert_eq!(store.get(&Path::from("a/b")).await.unwrap().bytes().await.unwrap(), "whole");
        assert_eq!(listed(&store, "").await, ["a/b"]);
    }

    #[tokio::test]
    async fn what_desktops_and_file_servers_leave_is_not_listed() {
        use std::os::unix::ffi::OsStrExt;
        let (dir, store) = store();
        let folder = dir.path().join("commits");
        fs::create_dir(&folder).unwrap();
        for name in [&b"1.json"[..], b".DS_Store", b"._1.json", b".nfs0001", b"caf\xe9.json"] {
            fs::write(folder.join(std::ffi::OsStr::from_bytes(name)), "x").unwrap();
        }
        std::os::unix::fs::symlink("nowhere", folder.join("broken.json")).unwrap();
        fs::create_dir_all(folder.join(".snapshot/daily")).unwrap();
        fs::write(folder.join(".snapshot/daily/2.json"), "x").unwrap();
        assert_eq!(listed(&store, "commits").await, ["commits/1.json"]);
        assert!(listed(&store, "leases").await.is_empty());
    }
}
