//! The objects of one stream in a store: bounded reads, verified downloads, hashed uploads, and nothing about what they mean.

use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    GetOptions, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, WriteMultipart,
};
use tokio::sync::mpsc;

use crate::digest::ObjectDigest;
use crate::error::{StoreError, is_transient};
use crate::local;
use crate::names::Key;
use crate::observe::{Observer, Phase};
use crate::record::ObjectRef;

/// How often a request that failed for no lasting reason is made, on top of what the store's client does itself.
const ATTEMPTS: u32 = 5;
/// Half the pause before the second attempt; it doubles with each. The clients of real stores have longer ones of their own.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// Bytes of one part of a multipart upload, if the object is not so large that more are needed.
const PART_BYTES: u64 = 8 << 20;
/// S3 allows 10,000 parts.
const MAX_PARTS: u64 = 9_000;
/// Parts of an upload, or blocks of a download, in flight at once.
const IN_FLIGHT: usize = 4;

/// The part of a store below a prefix.
#[derive(Debug, Clone)]
pub(crate) struct Bucket {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
}

/// An object that a list has shown.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    /// The name below the folder that was listed.
    pub(crate) name: String,
    pub(crate) bytes: u64,
    /// Seconds since 1970 by the store's clock.
    pub(crate) modified: i64,
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
        self.prefix.parts().chain(Path::from(name).parts()).collect()
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

    /// Uploads a file under a key that nobody else uses, in parts, hashing what is sent.
    pub(crate) async fn upload(
        &self,
        key: Key,
        file: &FilePath,
        observer: &Observer,
    ) -> Result<ObjectRef, StoreError> {
        let mut attempt = 1;
        loop {
            match self.upload_once(&key, file, observer).await {
                Err(StoreError::Object { name, source }) if attempt < ATTEMPTS && is_transient(&source) => {
                    tracing::debug!(name, attempt, %source, "upload failed, trying again");
                    pause(attempt).await;
                    attempt = attempt.saturating_add(1);
                }
                Err(error) => return Err(error),
                Ok(object) => return self.check_arrived(object).await,
            }
        }
    }

    async fn upload_once(
        &self,
        key: &Key,
        file: &FilePath,
        observer: &Observer,
    ) -> Result<ObjectRef, StoreError> {
        let len = local::file_len(file)?;
        let part_bytes = PART_BYTES.max(len.div_ceil(MAX_PARTS));
        let mut blocks = read_blocks(file.to_owned(), part_bytes);
        let mut hasher = blake3::Hasher::new();
        let mut bytes = 0_u64;
        let path = self.path(key.as_str());
        let failed = |source| object_error(key.as_str(), source);
        if len <= part_bytes {
            let mut body = Vec::new();
            while let Some(block) = blocks.recv().await {
                let block = block.map_err(|e| StoreError::local(file, e))?;
                hasher.update(&block);
                bytes = bytes.saturating_add(block.len() as u64);
                observer.advance(Phase::Upload, block.len() as u64);
                body.push(block);
            }
            self.store.put(&path, body.into_iter().collect()).await.map_err(failed)?;
        } else {
            let upload = self.store.put_multipart(&path).await.map_err(failed)?;
            let chunk = usize::try_from(part_bytes).unwrap_or(usize::MAX);
            let mut writer = WriteMultipart::new_with_chunk_size(upload, chunk);
            let mut result = Ok(());
            while let Some(block) = blocks.recv().await {
                let block = match block {
                    Ok(block) => block,
                    Err(e) => {
                        result = Err(StoreError::local(file, e));
                        break;
                    }
                };
                hasher.update(&block);
                bytes = bytes.saturating_add(block.len() as u64);
                observer.advance(Phase::Upload, block.len() as u64);
                if let Err(source) = writer.wait_for_capacity(IN_FLIGHT).await {
                    result = Err(failed(source));
                    break;
                }
                writer.put(block);
            }
            if let Err(error) = result {
                // What is left of the upload is invisible and expires; the first error is the one that matters.
                if let Err(abort) = writer.abort().await {
                    tracing::debug!(%key, %abort, "could not abort an upload");
                }
                return Err(error);
            }
            writer.finish().await.map_err(failed)?;
        }
        Ok(ObjectRef { key: key.clone(), bytes, blake3: ObjectDigest::finish(&hasher) })
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

    /// Reads an object and compares it with what it must be, without keeping it.
    pub(crate) async fn check_contents(
        &self,
        object: &ObjectRef,
        observer: &Observer,
    ) -> Result<(), StoreError> {
        let (sender, receiver) = mpsc::channel::<Bytes>(IN_FLIGHT);
        let (wanted, observer) = (object.clone(), observer.clone());
        let mut receiver = receiver;
        let reader = tokio::task::spawn_blocking(move || {
            let mut verifier = Verifier { object: wanted, hasher: blake3::Hasher::new(), len: 0 };
            while let Some(block) = receiver.blocking_recv() {
                verifier.take(&block)?;
                observer.advance(Phase::Download, block.len() as u64);
            }
            verifier.finish()
        });
        let fetched = self.fetch(object, 0, &sender).await;
        drop(sender);
        let verified = reader.await.map_err(|e| StoreError::Task(e.to_string()))?;
        fetched.map_err(|source| missing_or(object.key.as_str(), source))?;
        verified
    }

    /// Downloads an object to `file`, which appears only when it is complete, verified and synced.
    ///
    /// A connection that breaks is taken up again where it broke.
    pub(crate) async fn download(
        &self,
        object: &ObjectRef,
        file: &FilePath,
        observer: &Observer,
    ) -> Result<(), StoreError> {
        let name = object.key.as_str();
        let (wanted, target) = (object.clone(), file.to_owned());
        let begun = tokio::task::spawn_blocking(move || {
            let mut hasher = blake3::Hasher::new();
            let resumed = local::NewFile::resume(&target, wanted.bytes, |bytes| {
                hasher.update(bytes);
            });
            resumed.map(|(file, len)| (file, Verifier { object: wanted, hasher, len }))
        });
        let (mut output, mut verifier) = begun.await.map_err(|e| StoreError::Task(e.to_string()))??;
        let start = verifier.len;
        observer.advance(Phase::Resumed, start);
        let (sender, mut receiver) = mpsc::channel::<Bytes>(IN_FLIGHT);
        let observer = observer.clone();
        let writer = tokio::task::spawn_blocking(move || {
            let mut result = Ok(());
            while let (Ok(()), Some(block)) = (&result, receiver.blocking_recv()) {
                result = verifier.take(&block).and_then(|()| output.write(&block));
                observer.advance(Phase::Download, block.len() as u64);
            }
            (result, verifier, output)
        });
        let fetched = self.fetch(object, start, &sender).await;
        drop(sender);
        let (written, verifier, output) = writer.await.map_err(|e| StoreError::Task(e.to_string()))?;
        // If the writer gave up early, `fetch` has returned without an error and the writer says why.
        if let Err(source) = fetched {
            output.keep_partial();
            return Err(missing_or(name, source));
        }
        written?;
        tokio::task::spawn_blocking(move || {
            verifier.finish()?;
            output.commit()
        })
        .await
        .map_err(|e| StoreError::Task(e.to_string()))?
    }

    async fn fetch(
        &self,
        object: &ObjectRef,
        start: u64,
        sink: &mpsc::Sender<Bytes>,
    ) -> Result<(), object_store::Error> {
        let path = self.path(object.key.as_str());
        let mut done = start;
        let mut attempt = 1;
        loop {
            match self.fetch_from(&path, &mut done, object.bytes, sink).await {
                Err(error) if attempt < ATTEMPTS && is_transient(&error) => {
                    tracing::debug!(%path, done, attempt, %error, "download broke, taking it up again");
                    pause(attempt).await;
                    attempt = attempt.saturating_add(1);
                }
                result => return result,
            }
        }
    }

    async fn fetch_from(
        &self,
        path: &Path,
        done: &mut u64,
        len: u64,
        sink: &mpsc::Sender<Bytes>,
    ) -> Result<(), object_store::Error> {
        let mut options = GetOptions::default();
        if *done > 0 {
            if *done >= len {
                return Ok(());
            }
            options = options.with_range(Some(*done..len));
        }
        let mut stream = self.store.get_opts(path, options).await?.into_stream();
        while let Some(block) = stream.try_next().await? {
            *done = done.saturating_add(block.len() as u64);
            if sink.send(block).await.is_err() {
                // The writer has given up and says why.
                return Ok(());
            }
        }
        Ok(())
    }

    /// The objects in a folder, those after `after` (a name in it) if given; in no order.
    pub(crate) async fn list(&self, folder: &str, after: Option<&str>) -> Result<Vec<Listed>, StoreError> {
        let folder_path = self.path(folder);
        let objects: Vec<ObjectMeta> = self
            .retry(folder, async |path| match after {
                None => self.store.list(Some(&path)).try_collect().await,
                Some(after) => {
                    let offset: Path = path.parts().chain(Path::from(after).parts()).collect();
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

/// Reads a file block by block on a blocking thread, never more than a few blocks ahead.
fn read_blocks(file: PathBuf, block_bytes: u64) -> mpsc::Receiver<std::io::Result<Bytes>> {
    use std::io::Read;
    let (sender, receiver) = mpsc::channel(1);
    tokio::task::spawn_blocking(move || {
        let mut reader = match std::fs::File::open(&file) {
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
            // The receiver is gone when the upload has failed.
            if sender.blocking_send(message).is_err() || failed {
                return;
            }
        }
    });
    receiver
}

/// Sees the bytes of an object go by, and says at the end whether they were those of the object.
struct Verifier {
    object: ObjectRef,
    hasher: blake3::Hasher,
    len: u64,
}

impl Verifier {
    fn take(&mut self, block: &[u8]) -> Result<(), StoreError> {
        self.len = self.len.saturating_add(block.len() as u64);
        if self.len > self.object.bytes {
            return Err(self.damaged(format!("it goes on after {} bytes", self.object.bytes)));
        }
        self.hasher.update(block);
        Ok(())
    }

    fn finish(&self) -> Result<(), StoreError> {
        if self.len < self.object.bytes {
            let (found, expected) = (self.len, self.object.bytes);
            return Err(self.damaged(format!("it ends after {found} bytes instead of {expected}")));
        }
        let found = ObjectDigest::finish(&self.hasher);
        if found != self.object.blake3 {
            return Err(self.damaged(format!("expected BLAKE3 {}, found {found}", self.object.blake3)));
        }
        Ok(())
    }

    fn damaged(&self, what: String) -> StoreError {
        StoreError::Damaged { name: self.object.key.to_string(), what }
    }
}

/// Runs `work` for every item, a bounded number at a time, and returns the results in the order of the items.
///
/// The futures are boxed before any is awaited: a closure that is kept across an await makes the future of every caller one that
/// cannot be sent between threads.
pub(crate) fn all<'a, I, T, F>(
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Event;
    use object_store::memory::InMemory;
    use std::sync::atomic::{AtomicU64, Ordering};
    use tensorpatch_testkit::{Call, Fault, FaultyStore};

    fn object(bytes: &[u8]) -> ObjectRef {
        let key = Key::new("parts/1/x").unwrap();
        ObjectRef { key, bytes: bytes.len() as u64, blake3: ObjectDigest::of(bytes) }
    }

    fn counted() -> (Observer, Arc<AtomicU64>) {
        let count = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&count);
        let observer = Observer::new(move |event| {
            if let Event::Advanced(Phase::Download, bytes) = event {
                counter.fetch_add(bytes, Ordering::SeqCst);
            }
        });
        (observer, count)
    }

    /// A store with one object whose gets break after 1000 bytes, and then fail, until `healthy` is set.
    async fn ailing(bytes: &[u8], healthy: Arc<std::sync::atomic::AtomicBool>) -> Bucket {
        let inner = Arc::new(InMemory::new());
        inner.put(&Path::from("parts/1/x"), bytes.to_vec().into()).await.unwrap();
        let mut gets = 0;
        let store = FaultyStore::new(inner, move |call| match call {
            Call::Get(_) if !healthy.load(Ordering::SeqCst) => {
                gets += 1;
                if gets == 1 { Fault::Broken(1000) } else { Fault::BeforeEffect }
            }
            _ => Fault::None,
        });
        Bucket::new(Arc::new(store), Path::default())
    }

    #[tokio::test]
    async fn a_download_that_broke_off_is_taken_up_where_it_was_also_by_another_process() {
        let dir = tempfile::tempdir().unwrap();
        let (file, bytes) = (dir.path().join("x"), vec![7_u8; 5000]);
        let healthy = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let bucket = ailing(&bytes, Arc::clone(&healthy)).await;
        let (observer, count) = counted();
        assert!(bucket.download(&object(&bytes), &file, &observer).await.is_err());
        assert_eq!(count.swap(0, Ordering::SeqCst), 1000);
        assert!(!file.exists());
        healthy.store(true, Ordering::SeqCst);
        bucket.download(&object(&bytes), &file, &observer).await.unwrap();
        assert_eq!(count.load(Ordering::SeqCst), 4000);
        assert!(std::fs::read(&file).unwrap() == bytes);
    }

    #[tokio::test]
    async fn a_beginning_that_is_not_the_objects_costs_one_attempt_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let (file, bytes) = (dir.path().join("x"), vec![7_u8; 5000]);
        let healthy = Arc::new(std::sync::atomic::AtomicBool::new(true));
        let bucket = ailing(&bytes, healthy).await;
        std::fs::write(local::partial(&file), vec![0; 3000]).unwrap();
        let (observer, _) = counted();
        let error = bucket.download(&object(&bytes), &file, &observer).await.unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        bucket.download(&object(&bytes), &file, &observer).await.unwrap();
        // One that is too long is not of this object.
        std::fs::remove_file(&file).unwrap();
        std::fs::write(local::partial(&file), vec![7; 6000]).unwrap();
        bucket.download(&object(&bytes), &file, &observer).await.unwrap();
        assert!(std::fs::read(&file).unwrap() == bytes);
    }
}
