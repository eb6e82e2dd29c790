//! From a URL to a store and the prefix in it.

use std::path::Path as FilePath;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::path::Path;

use crate::error::StoreError;

/// Opens the store that `url` names and says which prefix of it is meant.
///
/// A plain path or `file:///…` is a local directory, which is made if it is missing; writes are synced to disk.
///
/// # Errors
/// If the URL is of no known kind, or the directory cannot be made.
///
/// ```
/// let dir = tempfile::tempdir()?;
/// let url = dir.path().join("stream");
/// let (store, prefix) = tensorpatch_store::open_store(&url.to_string_lossy())?;
/// assert_eq!(prefix.as_ref(), "");
/// # let _ = store;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn open_store(url: &str) -> Result<(Arc<dyn ObjectStore>, Path), StoreError> {
    open(url, crate::local::create_dir)
}

/// The same for reading: a local directory that is missing is not made.
///
/// # Errors
/// As [`open_store`]; [`StoreError::NoStream`] if there is no such directory.
pub fn open_existing_store(url: &str) -> Result<(Arc<dyn ObjectStore>, Path), StoreError> {
    open(url, |directory| {
        if directory.is_dir() {
            return Ok(());
        }
        Err(StoreError::NoStream { place: directory.display().to_string() })
    })
}

fn open(
    url: &str,
    prepare: impl Fn(&FilePath) -> Result<(), StoreError>,
) -> Result<(Arc<dyn ObjectStore>, Path), StoreError> {
    let open_directory = |path: &FilePath| {
        prepare(path)?;
        open_directory(path)
    };
    let bad = |what: &str| StoreError::Url { url: url.into(), what: what.into() };
    match url.split_once("://") {
        Some(("file", path)) if path.starts_with('/') => open_directory(FilePath::new(path)),
        Some(("file", _)) => {
            Err(bad("a file URL has three slashes and an absolute path, as file:///data/stream"))
        }
        Some((scheme, _)) => Err(bad(&format!("stores of the kind {scheme:?} are not supported"))),
        None if url.is_empty() => Err(bad("an empty path names no store")),
        None => open_directory(FilePath::new(url)),
    }
}

fn open_directory(path: &FilePath) -> Result<(Arc<dyn ObjectStore>, Path), StoreError> {
    let failed = |source| StoreError::Object { name: path.display().to_string(), source };
    let store = LocalFileSystem::new_with_prefix(path).map_err(failed)?.with_fsync(true);
    Ok((Arc::new(store), Path::default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_name_no_store_are_refused() {
        for url in ["", "file://relative/path", "carrier-pigeon://roof"] {
            assert!(matches!(open_store(url), Err(StoreError::Url { .. })), "{url}");
        }
    }

    #[test]
    fn a_directory_is_made_for_writing_and_not_for_reading() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stream");
        assert!(matches!(open_existing_store(path.to_str().unwrap()), Err(StoreError::NoStream { .. })));
        assert!(!path.exists());
        open_store(path.to_str().unwrap()).unwrap();
        open_existing_store(path.to_str().unwrap()).unwrap();
    }

    #[test]
    fn a_file_url_and_a_path_name_the_same_store() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a b/stream");
        let path = path.to_str().unwrap();
        for url in [path.to_owned(), format!("file://{path}")] {
            let (store, _) = open_store(&url).unwrap();
            assert!(store.to_string().contains("stream"), "{store}");
        }
    }
}
