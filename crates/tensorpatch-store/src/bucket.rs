//! The objects of one stream in a store, and nothing about what they mean: names below a prefix, bounded reads, bounded concurrency, retries.

pub(crate) mod create;
mod download;
pub(crate) mod probe;
pub(crate) mod upload;
pub(crate) mod url;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use tensorpatch_stream::retention::Listed;
use tensorpatch_stream::{Key, ObjectDigest, ObjectRef};

use crate::error::{StoreError, is_transient};

/// How often a request that failed for no lasting reason is made, on top of what the store's client does itself.
const ATTEMPTS: u32 = 5;
/// Half the pause before the second attempt; it doubles with each. The clients of real stores have longer ones of their own.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// Parts of an upload, or blocks of a download, in flight at once.
const IN_FLIGHT: usize = 4;

/// The part of a store below a prefix.
#[derive(Debug, Clone)]
pub(crate) struct Bucket {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
}

impl Bucket {
    pub(crate) fn new(store: Arc<dyn ObjectStore>, prefix: Path) -> Self {
        Self { store, prefix }
    }

    /// Where this is, for people.
    pub(crate) fn place(&self) -> String {
        let store = self.store.to_string();
        // A local directory is known by its path, not by what the program calls it.
        let local = store.strip_prefix("LocalFileSystem(").and_then(|rest| rest.strip_suffix(')'));
        let store = local.unwrap_or(&store);
        if self.prefix.as_ref().is_empty() { store.to_owned() } else { format!("{store}/{}", self.prefix) }
    }

    fn path(&self, name: &str) -> Path {
        below(&self.prefix, name)
    }

    /// Runs `request` until it succeeds, fails for good, or has failed [`ATTEMPTS`] times.
    async fn retry<T, F>(
        &self,
        name: &str,
        mut request: impl FnMut(Path) -> F,
    ) -> Result<T, object_store::Error>
    where
        F: Future<Output = Result<T, object_store::Error>>,
    {
        let path = self.path(name);
        let mut attempt = 1;
        loop {
            match request(path.clone()).await {
                Err(error) if attempt < ATTEMPTS && is_transient(&error) => {
                    tracing::debug!(name, attempt, %error, "request failed, trying again");
                    pause(attempt).await;
                    attempt = attempt.saturating_add(1);
                }
                result => return result,
            }
        }
    }

    /// The whole of a small object, or `None` if there is none.
    ///
    /// An object of more than `max` bytes is refused before its body is read.
    pub(crate) async fn get_small(&self, name: &str, max: u64) -> Result<Option<Bytes>, StoreError> {
        let result = self
            .retry(name, async |path| {
                let response = self.store.get(&path).await?;
                let size = response.meta.size;
                if size > max {
                    return Ok(Err(size));
                }
                Ok(Ok(response.bytes().await?))
            })
            .await;
        match result {
            // A body longer than what the response declared.
            Ok(Ok(bytes)) if bytes.len() as u64 > max => Err(too_large(name, bytes.len() as u64, max)),
            Ok(Ok(bytes)) => Ok(Some(bytes)),
            Ok(Err(size)) => Err(too_large(name, size, max)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(object_error(name, source)),
        }
    }

    /// Some bytes of an object.
    pub(crate) async fn get_range(
        &self,
        name: &str,
        range: std::ops::Range<u64>,
    ) -> Result<Bytes, StoreError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        self.retry(name, async |path| self.store.get_range(&path, range.clone()).await)
            .await
            .map_err(|source| missing_or(name, source))
    }

    /// Puts an object if the name is free. One attempt: what to make of a failure is the caller's to find out.
    pub(crate) async fn create(&self, name: &str, bytes: Bytes) -> Result<(), object_store::Error> {
        let options = PutOptions { mode: PutMode::Create, ..Default::default() };
        self.store.put_opts(&self.path(name), bytes.into(), options).await.map(|_| ())
    }

    /// Puts an object, whether there is one or not. One attempt, as for [`Bucket::create`].
    pub(crate) async fn put_once(&self, name: &str, bytes: Bytes) -> Result<(), object_store::Error> {
        self.store.put(&self.path(name), bytes.into()).await.map(|_| ())
    }

    /// Puts a small object, whether there is one or not.
    pub(crate) async fn put(&self, name: &str, bytes: Bytes) -> Result<(), StoreError> {
        self.retry(name, async |path| self.store.put(&path, PutPayload::from(bytes.clone())).await)
            .await
            .map(|_| ())
            .map_err(|source| object_error(name, source))
    }

    /// Puts small bytes under a key that nobody else uses.
    pub(crate) async fn put_bytes(&self, key: Key, bytes: Bytes) -> Result<ObjectRef, StoreError> {
        let object = ObjectRef { blake3: ObjectDigest::of(&bytes), bytes: bytes.len() as u64, key };
        self.put(object.key.as_str(), bytes).await?;
        self.check_arrived(object).await
    }

    /// Asks for the size of what was put, before a record names it.
    async fn check_arrived(&self, object: ObjectRef) -> Result<ObjectRef, StoreError> {
        self.check_there(&object).await?;
        Ok(object)
    }

    /// Checks that an object exists with its size.
    pub(crate) async fn check_there(&self, object: &ObjectRef) -> Result<(), StoreError> {
        let name = object.key.as_str();
        match self.size(name).await? {
            None => Err(StoreError::Missing { name: name.into() }),
            Some(found) if found != object.bytes => Err(StoreError::Damaged {
                name: name.into(),
                what: format!("expected {} bytes, found {found}", object.bytes),
            }),
            Some(_) => Ok(()),
        }
    }

    /// The size of an object, or `None` if there is none.
    pub(crate) async fn size(&self, name: &str) -> Result<Option<u64>, StoreError> {
        Ok(self.head(name).await?.map(|meta| meta.size))
    }

    /// When an object was written, in seconds since 1970 by the store's clock; `None` if there is none.
    pub(crate) async fn modified(&self, name: &str) -> Result<Option<i64>, StoreError> {
        Ok(self.head(name).await?.map(|meta| meta.last_modified.timestamp()))
    }

    async fn head(&self, name: &str) -> Result<Option<ObjectMeta>, StoreError> {
        match self.retry(name, async |path| self.store.head(&path).await).await {
            Ok(meta) => Ok(Some(meta)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(object_error(name, source)),
        }
    }

    /// The objects in a folder, those after `after` (a name in it) if given; in no order.
    pub(crate) async fn list(&self, folder: &str, after: Option<&str>) -> Result<Vec<Listed>, StoreError> {
        let folder_path = self.path(folder);
        let objects: Vec<ObjectMeta> = self
            .retry(folder, async |path| match after {
                None => self.store.list(Some(&path)).try_collect().await,
                Some(after) => {
                    let offset = below(&path, after);
                    self.store.list_with_offset(Some(&path), &offset).try_collect().await
                }
            })
            .await
            .map_err(|source| object_error(folder, source))?;
        let listed = objects.into_iter().filter_map(|meta| {
            let name: Path = meta.location.prefix_match(&folder_path)?.collect();
            Some(Listed {
                name: name.to_string(),
                bytes: meta.size,
                modified: meta.last_modified.timestamp(),
            })
        });
        Ok(listed.collect())
    }

    /// Deletes an object; one that is not there is as good as deleted.
    pub(crate) async fn delete(&self, name: &str) -> Result<(), StoreError> {
        match self.retry(name, async |path| self.store.delete(&path).await).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(object_error(name, source)),
        }
    }
}

/// The path of `name` below `folder`, letter by letter: what is not ASCII stays as it is, or lists would show other names than
/// the records have.
fn below(folder: &Path, name: &str) -> Path {
    let name = Path::parse(name).unwrap_or_else(|_| Path::from(name));
    folder.parts().chain(name.parts()).collect()
}

fn too_large(name: &str, size: u64, max: u64) -> StoreError {
    StoreError::Damaged { name: name.into(), what: format!("it has {size} bytes: at most {max} are allowed") }
}

pub(crate) fn object_error(name: &str, source: object_store::Error) -> StoreError {
    StoreError::Object { name: name.into(), source }
}

fn missing_or(name: &str, source: object_store::Error) -> StoreError {
    match source {
        object_store::Error::NotFound { .. } => StoreError::Missing { name: name.into() },
        source => object_error(name, source),
    }
}

pub(crate) async fn pause(attempt: u32) {
    tokio::time::sleep(FIRST_PAUSE.saturating_mul(1 << attempt.min(6))).await;
}

/// Runs `work` for every item, a bounded number at a time, and returns the results in the order of the items.
///
/// The futures are boxed before any is awaited: a closure that is kept across an await makes the future of every caller one that
/// cannot be sent between threads.
pub(crate) fn buffered_all<'a, I, T, F>(
    items: I,
    at_once: usize,
    work: impl FnMut(I::Item) -> F,
) -> BoxFuture<'a, Result<Vec<T>, StoreError>>
where
    I: IntoIterator,
    T: Send + 'a,
    F: Future<Output = Result<T, StoreError>> + Send + 'a,
{
    let futures: Vec<_> = items.into_iter().map(work).map(FutureExt::boxed).collect();
    futures::stream::iter(futures).buffered(at_once.max(1)).try_collect().boxed()
}
