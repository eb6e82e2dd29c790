//! The objects of one stream in a store, and nothing about what they mean: names below a prefix, bounded
//! reads, bounded concurrency, retries.

pub(crate) mod create;
pub(crate) mod download;
#[cfg(feature = "hub")]
mod hub;
pub(crate) mod probe;
pub(crate) mod requests;
pub(crate) mod upload;
pub(crate) mod url;

use std::io::{Error as IoError, ErrorKind as IoErrorKind};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    GetOptions, GetResult, GetResultPayload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions,
    PutPayload,
};
use tensorpatch_stream::retention::Listed;
use tensorpatch_stream::{Key, ObjectDigest, ObjectRef};

use crate::cause::{NOT_THE_STORE, Told, is_absent};
use crate::error::{StoreError, is_transient};
use crate::settings::Policy;
use requests::{RequestCounts, Requests};
use url::Opened;

/// The part of a store below a prefix.
#[derive(Debug, Clone)]
pub(crate) struct Bucket {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    policy: Arc<Policy>,
    requests: Requests,
    /// The URL that it was opened by, where that is the name by which people know it.
    url: Option<Arc<str>>,
}

impl Bucket {
    pub(crate) fn new(store: Arc<dyn ObjectStore>, prefix: Path) -> Self {
        Self { store, prefix, policy: Arc::default(), requests: Requests::default(), url: None }
    }

    /// The part of a store that was opened by its URL.
    pub(crate) fn of(opened: Opened) -> Self {
        let Opened { store, prefix, requests, url, .. } = opened;
        Self { requests, url, ..Self::new(store, prefix) }
    }

    pub(crate) fn with_policy(mut self, policy: impl Into<Arc<Policy>>) -> Self {
        self.policy = policy.into();
        self
    }

    pub(crate) fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// Where this is, for people: a bucket by its URL, a local directory by its path.
    pub(crate) fn place(&self) -> String {
        self.url.as_ref().map_or_else(|| self.place_in_store(), ToString::to_string)
    }

    /// The same by what the store calls itself.
    fn place_in_store(&self) -> String {
        let store = self.store.to_string();
        let bare = |text: &str, open: &str| text.strip_prefix(open)?.strip_suffix(')').map(str::to_owned);
        let store = bare(&store, "Directory(")
            .or_else(|| bare(&store, "LimitStore(")?.split_once(", ").map(|(_, store)| store.to_owned()))
            .unwrap_or(store);
        if self.prefix.as_ref().is_empty() { store } else { format!("{store}/{}", self.prefix) }
    }

    /// The same, whatever way a directory is named; `None` for a store that a caller has brought, which may
    /// have another name each time.
    pub(crate) fn settled_place(&self) -> Option<String> {
        let settled = self.directory().map(|path| path.canonicalize().unwrap_or(path));
        settled.map(|path| path.display().to_string()).or_else(|| self.url.as_ref().map(ToString::to_string))
    }

    /// Where it is on local disk, if it is there.
    pub(crate) fn directory(&self) -> Option<PathBuf> {
        let store = self.store.to_string();
        let own = store.strip_prefix("Directory(").map(|root| Some(root.strip_suffix(')')?.into()));
        // A caller may have brought the one of the library.
        let other = || {
            let url = store.strip_prefix("LocalFileSystem(")?.strip_suffix(')')?;
            url::directory(url).ok().flatten()
        };
        let root: PathBuf = own.unwrap_or_else(other)?;
        Some(self.prefix.parts().fold(root, |path, part| path.join(part.as_ref())))
    }

    fn path(&self, name: &str) -> Path {
        below(&self.prefix, name)
    }

    /// The requests that were made so far, by all clones of this.
    pub(crate) fn requests(&self) -> RequestCounts {
        self.requests.counts()
    }

    /// Tells of a request to the store that is about to be made: `TENSORPATCH_LOG=requests=trace` shows them
    /// all.
    fn tell(&self, request: &str, name: &str) {
        self.requests.begin();
        tracing::trace!(target: "requests", name, "{request}");
    }

    /// Waits before the attempt after this one.
    pub(crate) async fn pause(&self, attempt: u32) {
        tokio::time::sleep(self.policy.retries.backoff(attempt)).await;
    }

    /// Runs a small request until it succeeds, fails for good, or has failed as often as the policy allows.
    async fn retry<T, F>(
        &self,
        what: &str,
        name: &str,
        request: impl FnMut(Path) -> F,
    ) -> Result<T, object_store::Error>
    where
        F: Future<Output = Result<T, object_store::Error>>,
    {
        self.retry_within(self.policy.timeouts.request_timeout, what, name, request).await
    }

    async fn retry_within<T, F>(
        &self,
        limit: Duration,
        what: &str,
        name: &str,
        mut request: impl FnMut(Path) -> F,
    ) -> Result<T, object_store::Error>
    where
        F: Future<Output = Result<T, object_store::Error>>,
    {
        let path = self.path(name);
        let (begun, mut attempt) = (Instant::now(), 1);
        loop {
            self.tell(what, name);
            // All attempts together: a server that answers byte by byte is not waited for again and again.
            let left = limit.saturating_sub(begun.elapsed());
            match within(left, request(path.clone())).await {
                Err(error) if begun.elapsed() < limit && self.may_try_again(begun, attempt, &error) => {
                    self.tell_failure(name, attempt, &error);
                    self.pause(attempt).await;
                    attempt = attempt.saturating_add(1);
                }
                result => return result,
            }
        }
    }

    /// Whether a request that failed is worth another attempt: the client below has made its own, so that
    /// the time for all of them counts as well as their number.
    pub(crate) fn may_try_again(&self, begun: Instant, attempt: u32, error: &object_store::Error) -> bool {
        attempt < self.policy.retries.attempts
            && is_transient(error)
            && begun.elapsed() < self.policy.retries.client_retry_timeout
    }

    pub(crate) fn tell_failure(&self, name: &str, attempt: u32, error: &object_store::Error) {
        self.requests.fail();
        let (of, why) = (self.policy.retries.attempts, Told(error));
        tracing::info!("{name}: attempt {attempt} of {of} failed, trying again: {why}");
    }

    /// The whole of a small object, or `None` if there is none.
    ///
    /// An object of more than `max` bytes is refused before its body is read.
    pub(crate) async fn get_small(&self, name: &str, max: u64) -> Result<Option<Bytes>, StoreError> {
        let result = self
            .retry("get", name, async |path| {
                let response = self.store.get(&path).await?;
                let size = response.meta.size;
                if size > max {
                    return Ok(Err(size));
                }
                let bytes = collect(response, max).await?;
                check_answer(&bytes)?;
                Ok(Ok(bytes))
            })
            .await;
        match result {
            Ok(Ok(bytes)) => Ok(Some(bytes)),
            Ok(Err(size)) => Err(too_large(name, size, max)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(source) => Err(object_error(name, source)),
        }
    }

    /// Some bytes of an object.
    pub(crate) async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        self.range(name, range).await.map_err(|source| missing_or(name, source))
    }

    async fn range(&self, name: &str, range: Range<u64>) -> Result<Bytes, object_store::Error> {
        let most = range.end.saturating_sub(range.start);
        let options = GetOptions { range: Some(range.into()), ..Default::default() };
        self.retry("get", name, async |path| {
            collect(self.store.get_opts(&path, options.clone()).await?, most).await
        })
        .await
    }

    /// Puts an object if the name is free. One attempt: what to make of a failure is the caller's to find
    /// out.
    pub(crate) async fn create(&self, name: &str, bytes: Bytes) -> Result<(), object_store::Error> {
        self.tell("create", name);
        let options = PutOptions { mode: PutMode::Create, ..Default::default() };
        let path = self.path(name);
        within(self.policy.timeouts.request_timeout, self.store.put_opts(&path, bytes.into(), options))
            .await
            .map(|_| ())
    }

    /// Puts an object, whether there is one or not. One attempt, as for [`Bucket::create`].
    pub(crate) async fn put_once(&self, name: &str, bytes: Bytes) -> Result<(), object_store::Error> {
        self.tell("put", name);
        let path = self.path(name);
        within(self.policy.timeouts.request_timeout, self.store.put(&path, bytes.into())).await.map(|_| ())
    }

    /// Puts a small object, whether there is one or not.
    pub(crate) async fn put(&self, name: &str, bytes: Bytes) -> Result<(), StoreError> {
        self.retry("put", name, async |path| self.store.put(&path, PutPayload::from(bytes.clone())).await)
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
        match self.retry("head", name, async |path| self.store.head(&path).await).await {
            Ok(meta) => Ok(Some(meta)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(source) => Err(object_error(name, source)),
        }
    }

    /// The objects in a folder, those after `after` (a name in it) if given; in no order.
    pub(crate) async fn list(&self, folder: &str, after: Option<&str>) -> Result<Vec<Listed>, StoreError> {
        let folder_path = self.path(folder);
        let (most, limit) = (self.policy.plans.max_listed, self.policy.timeouts.request_timeout);
        let listed = self
            // However long the list is: each of its objects has its time.
            .retry_within(Duration::MAX, "list", folder, async |path| {
                let mut objects = match after {
                    None => self.store.list(Some(&path)),
                    Some(after) => self.store.list_with_offset(Some(&path), &below(&path, after)),
                };
                let (mut listed, mut count) = (Vec::new(), 0_usize);
                // A page may be empty, and name another: each object must come in time.
                while let Some(meta) = within(limit, objects.try_next()).await? {
                    if count >= most {
                        return Ok(None);
                    }
                    // Those that do not belong there count, too.
                    count = count.saturating_add(1);
                    listed.extend(listed_in(&folder_path, &meta));
                }
                Ok(Some(listed))
            })
            .await;
        let listed = match listed {
            // A store that has no such folder.
            Err(error) if is_absent(&error) => Some(Vec::new()),
            listed => listed.map_err(|source| object_error(folder, source))?,
        };
        listed.ok_or_else(|| StoreError::Damaged {
            name: folder.into(),
            what: format!("it has more than {most} objects (max_listed)"),
        })
    }

    /// The same for a list that a reader can do without: one that cannot be read counts as empty, since an
    /// object with a name that none can have would otherwise stop every reader. `what` is said of it then.
    pub(crate) async fn list_if_readable(
        &self,
        folder: &str,
        after: Option<&str>,
        what: &str,
    ) -> Result<Vec<Listed>, StoreError> {
        match self.list(folder, after).await {
            Err(StoreError::Object { source: source @ object_store::Error::InvalidPath { .. }, .. }) => {
                tracing::warn!("{what}: {source}");
                Ok(Vec::new())
            }
            listed => listed,
        }
    }

    /// Deletes an object; one that is not there is as good as deleted.
    pub(crate) async fn delete(&self, name: &str) -> Result<(), StoreError> {
        match self.retry("delete", name, async |path| self.store.delete(&path).await).await {
            Ok(()) => Ok(()),
            Err(error) if is_absent(&error) => Ok(()),
            Err(source) => Err(object_error(name, source)),
        }
    }
}

fn listed_in(folder: &Path, meta: &ObjectMeta) -> Option<Listed> {
    let name: Path = meta.location.prefix_match(folder)?.collect();
    Some(Listed { name: name.to_string(), bytes: meta.size, modified: meta.last_modified.timestamp() })
}

/// The path of `name` below `folder`, letter by letter: what is not ASCII stays as it is, or lists would show
/// other names than the records have.
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
    if is_absent(&source) { StoreError::Missing { name: name.into() } } else { object_error(name, source) }
}

/// The bytes of an answer of at most `most` bytes, whatever it says of its length.
async fn collect(answer: GetResult, most: u64) -> Result<Bytes, object_store::Error> {
    if matches!(answer.payload, GetResultPayload::File(..)) {
        // Of a file no more is read than there was.
        return answer.bytes().await;
    }
    let mut blocks = answer.into_stream();
    let mut bytes = BytesMut::new();
    while let Some(block) = blocks.try_next().await? {
        if bytes.len().saturating_add(block.len()) as u64 > most {
            return Err(not_the_store(&format!("it has more than {most} bytes")));
        }
        bytes.extend_from_slice(&block);
    }
    Ok(bytes.freeze())
}

/// Refuses what something between here and the store has put in the place of a record, or has packed.
fn check_answer(bytes: &[u8]) -> Result<(), object_store::Error> {
    let head = bytes.get(..bytes.len().min(64)).unwrap_or_default().trim_ascii_start().to_ascii_lowercase();
    let what = if head.starts_with(b"<!doctype html") || head.starts_with(b"<html") {
        "it is a web page"
    } else if head.starts_with(&[0x1f, 0x8b]) {
        "it was compressed on its way"
    } else {
        return Ok(());
    };
    Err(not_the_store(what))
}

fn not_the_store(what: &str) -> object_store::Error {
    object_store::Error::Generic { store: "HTTP", source: format!("{NOT_THE_STORE}: {what}").into() }
}

/// A request that takes longer than `limit` has failed in a way that may pass.
async fn within<T>(
    limit: Duration,
    request: impl Future<Output = Result<T, object_store::Error>>,
) -> Result<T, object_store::Error> {
    tokio::time::timeout(limit, request).await.unwrap_or_else(|_| {
        let source = IoError::new(IoErrorKind::TimedOut, format!("no answer within {limit:?}"));
        Err(object_store::Error::Generic { store: "timeout", source: source.into() })
    })
}

/// Runs `work` for every item, a bounded number at a time, and returns the results in the order of the items.
///
/// The futures are boxed before any is awaited: a closure that is kept across an await makes the future of
/// every caller one that cannot be sent between threads.
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
