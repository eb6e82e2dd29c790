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
    crate::local::create_dir(path)?;
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
