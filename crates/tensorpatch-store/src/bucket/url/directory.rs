//! A local directory as a store, whatever its file system lacks and whoever else has files there.
//!
//! `object_store` has one too, which cannot list a directory with a name that is not UTF-8. Reading and
//! deleting are still its own.

use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path as FilePath, PathBuf};

use async_trait::async_trait;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryFutureExt};
use object_store::local::LocalFileSystem;
use object_store::path::{Path, PathPart};
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use super::staged::{Staged, Upload, blocking, failed};

/// A local directory as a store; what is written is synced.
#[derive(Debug)]
pub(super) struct Directory {
    files: LocalFileSystem,
    root: PathBuf,
}

impl Directory {
    /// The directory at `root`, which must exist.
    pub(super) fn open(root: &FilePath) -> Result<Self> {
        let files = LocalFileSystem::new_with_prefix(root)?;
        let root = fs::canonicalize(root).map_err(|error| failed(root, error))?;
        Ok(Self { files, root })
    }
}

impl fmt::Display for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.files, f)
    }
}

#[async_trait]
impl ObjectStore for Directory {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        if matches!(options.mode, PutMode::Update(_)) {
            return self.files.put_opts(location, payload, options).await;
        }
        let (root, path) = (self.root.clone(), self.files.path_to_filesystem(location)?);
        blocking(move || {
            let staged = Staged::create(&root)?;
            staged.write(&payload, 0)?;
            staged.sync()?;
            if options.mode == PutMode::Create { staged.create_at(&path) } else { staged.replace(&path) }
        })
        .await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let (root, path) = (self.root.clone(), self.files.path_to_filesystem(location)?);
        let staged = blocking(move || Staged::create(&root)).await?;
        Ok(Box::new(Upload::new(staged, path)))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.files.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.files.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let prefix = prefix.cloned().unwrap_or_default();
        let mut path = self.root.clone();
        path.extend(prefix.parts().map(|part| part.as_ref().to_owned()));
        let listed = blocking(move || {
            let mut found = Vec::new();
            list(&path, &prefix, &mut found)?;
            Ok(stream::iter(found.into_iter().map(Ok)))
        });
        listed.try_flatten_stream().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.files.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.files.copy_opts(from, to, options).await
    }
}

/// All files below `path`, which is `prefix` in the store.
///
/// What has no name that an object can have, is hidden, or is gone by the time that it is looked at, belongs
/// to a desktop, a file server or somebody's copy, and is left out.
fn list(path: &FilePath, prefix: &Path, found: &mut Vec<ObjectMeta>) -> Result<()> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(path, error)),
    };
    for entry in entries {
        let entry = entry.map_err(|error| failed(path, error))?;
        let name = entry.file_name();
        let Some(part) = name.to_str().filter(|name| !name.starts_with('.')).map(PathPart::parse) else {
            continue;
        };
        let Ok(part) = part else { continue };
        let location: Path = prefix.parts().chain([part]).collect();
        let metadata = match fs::metadata(entry.path()) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(failed(&entry.path(), error)),
        };
        if metadata.is_dir() {
            list(&entry.path(), &location, found)?;
        } else if metadata.is_file() {
            let modified = metadata.modified().map_err(|error| failed(&entry.path(), error))?;
            let (last_modified, size) = (modified.into(), metadata.len());
            found.push(ObjectMeta { location, last_modified, size, e_tag: None, version: None });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::TryStreamExt;
    use object_store::ObjectStoreExt;

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
        assert!(matches!(again, Err(object_store::Error::AlreadyExists { .. })));
        store.put(&path, "three".into()).await.unwrap();
        assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "three");
        assert_eq!(listed(&store, "").await, ["a/b/c"]);
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
