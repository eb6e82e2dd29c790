//! Objects on their way to local disk: taken up again where they broke off, and verified before they have
//! their name.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::PathBuf;
use std::time::Instant;

use tensorpatch_checkpoint::ConfinedPath;
use tensorpatch_format::{PatchHeader, Trailer};
use tensorpatch_stream::{ObjectDigest, ObjectRef};

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::{GetOptions, GetResultPayload};
use tokio::sync::mpsc;

use super::{Bucket, missing_or};
use crate::cause::Told;
use crate::error::{StoreError, is_transient};
use crate::local;
use crate::observe::{Observer, Phase};

/// Bytes that are hashed and written at once.
const PIECE_BYTES: usize = 1 << 20;

impl Bucket {
    /// Reads an object and compares it with what it must be, without keeping more of it than how it begins
    /// and ends.
    pub(crate) async fn check_contents(
        &self,
        object: &ObjectRef,
        observer: &Observer,
    ) -> Result<BothEnds, StoreError> {
        let (sender, receiver) = mpsc::channel::<Bytes>(self.policy.transfers.parts_in_flight());
        let (wanted, observer) = (object.clone(), observer.clone());
        let mut receiver = receiver;
        let reader = tokio::task::spawn_blocking(move || {
            let mut verifier = Verifier { object: wanted, hasher: blake3::Hasher::new(), len: 0 };
            let mut ends = BothEnds::default();
            while let Some(block) = receiver.blocking_recv() {
                verifier.take(&block)?;
                ends.take(&block);
                observer.advance(Phase::Download, block.len() as u64)?;
            }
            verifier.finish().map(|()| ends)
        });
        let fetched = self.fetch(object, 0, &sender).await;
        drop(sender);
        let verified = reader.await.map_err(|e| StoreError::Task(e.to_string()))?;
        fetched.map_err(|source| missing_or(object.key.as_str(), source))?;
        verified
    }

    /// Downloads an object to `file`, which appears only when it is complete and verified; returns the bytes
    /// that were fetched, without those that an earlier attempt has left.
    ///
    /// A connection that breaks is taken up again where it broke. The file is not synced: after a power cut
    /// it may hold anything.
    pub(crate) async fn download(
        &self,
        object: &ObjectRef,
        file: &ConfinedPath,
        observer: &Observer,
    ) -> Result<u64, StoreError> {
        let is_resumed = local::file_len(&local::partial(file)).is_ok_and(|len| len > 0);
        match self.download_once(object, file, observer).await {
            Err(error @ StoreError::Damaged { .. }) if is_resumed => {
                tracing::warn!("what was left of an earlier download is of no use: {error}");
                self.download_once(object, file, observer).await
            }
            result => result,
        }
    }

    async fn download_once(
        &self,
        object: &ObjectRef,
        file: &ConfinedPath,
        observer: &Observer,
    ) -> Result<u64, StoreError> {
        let name = object.key.as_str();
        let (wanted, target) = (object.clone(), file.clone());
        let started = Instant::now();
        let begun = tokio::task::spawn_blocking(move || {
            let mut hasher = blake3::Hasher::new();
            let resumed = local::NewFile::resume(&target, wanted.bytes, |bytes| {
                hasher.update(bytes);
            });
            resumed.map(|(file, len)| (file, Verifier { object: wanted, hasher, len }))
        });
        let (mut output, mut verifier) = begun.await.map_err(|e| StoreError::Task(e.to_string()))??;
        let start = verifier.len;
        observer.advance(Phase::Resumed, start)?;
        let (sender, mut receiver) = mpsc::channel::<Bytes>(self.policy.transfers.parts_in_flight());
        let observer = observer.clone();
        let writer = tokio::task::spawn_blocking(move || {
            let mut result = Ok(());
            while let (Ok(()), Some(block)) = (&result, receiver.blocking_recv()) {
                result = verifier.take(&block).and_then(|()| {
                    output.write(&block)?;
                    Ok(observer.advance(Phase::Download, block.len() as u64)?)
                });
            }
            (result, verifier, output)
        });
        let fetched = self.fetch(object, start, &sender).await;
        drop(sender);
        let (written, verifier, output) = writer.await.map_err(|e| StoreError::Task(e.to_string()))?;
        // If the writer gave up early, `fetch` has returned without an error and the writer says why.
        fetched.map_err(|source| missing_or(name, source))?;
        let fetched_bytes = object.bytes.saturating_sub(start);
        let told = format!("downloaded {name}: {fetched_bytes} of {} bytes", object.bytes);
        tokio::task::spawn_blocking(move || match written.and_then(|()| verifier.finish()) {
            Ok(()) => {
                output.commit_unsynced()?;
                tracing::info!("{told} in {} ms", started.elapsed().as_millis());
                Ok(fetched_bytes)
            }
            // What is there is right, and is where the next call goes on.
            Err(error @ StoreError::Cancelled(_)) => Err(error),
            Err(error) => {
                output.discard();
                Err(error)
            }
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
        let path = object.key.as_str();
        let mut done = start;
        let mut attempt = 1;
        loop {
            let before = done;
            let fetched = self.fetch_from(object, &mut done, sink).await;
            if done > before {
                // However often a long way breaks off, it ends if each attempt gets further.
                attempt = 1;
            }
            match fetched {
                Err(error) if attempt < self.policy.retries.attempts && is_transient(&error) => {
                    self.requests.fail();
                    tracing::info!(
                        "{path}: attempt {attempt} broke after {done} bytes, taking it up again: {}",
                        Told(&error)
                    );
                    self.pause(attempt).await;
                    attempt = attempt.saturating_add(1);
                }
                result => return result,
            }
        }
    }

    async fn fetch_from(
        &self,
        object: &ObjectRef,
        done: &mut u64,
        sink: &mpsc::Sender<Bytes>,
    ) -> Result<(), object_store::Error> {
        let (name, len) = (object.key.as_str(), object.bytes);
        let path = self.path(name);
        if *done > 0 && *done >= len {
            return Ok(());
        }
        // The beginning of a large object, or the whole of a small one.
        let first = *done..len.min(done.saturating_add(self.policy.transfers.part()));
        let mut options = GetOptions::default();
        if first != (0..len) {
            options = options.with_range(Some(first.clone()));
        }
        self.tell("get", name);
        let response = self.store.get_opts(&path, options).await?;
        let mut stream = match response.payload {
            GetResultPayload::File(file, path) => {
                let end = if first.end < len { len } else { response.range.end };
                read_file(file, path, response.range.start..end)
            }
            GetResultPayload::Stream(stream) => stream.chain(self.parts(name, first.end..len)).boxed(),
        };
        // A network gives small pieces. Hashed and written one by one they take twice the time, and leave the
        // page cache in small pieces too, for every later reader of the file.
        let mut gathered = Vec::new();
        loop {
            let next = stream.try_next().await;
            let piece = match &next {
                Ok(Some(piece)) if gathered.is_empty() && piece.len() >= PIECE_BYTES => piece.clone(),
                Ok(Some(piece)) => {
                    gathered.reserve(PIECE_BYTES.saturating_sub(gathered.len()));
                    gathered.extend_from_slice(piece);
                    if gathered.len() < PIECE_BYTES {
                        continue;
                    }
                    Bytes::from(std::mem::take(&mut gathered))
                }
                _ => Bytes::from(std::mem::take(&mut gathered)),
            };
            if !piece.is_empty() {
                *done = done.saturating_add(piece.len() as u64);
                if sink.send(piece).await.is_err() {
                    // The writer has given up and says why.
                    return Ok(());
                }
            }
            if next?.is_none() {
                return Ok(());
            }
        }
    }
}

impl Bucket {
    /// Bytes of an object in parts, of which several are on their way at once.
    fn parts<'a>(
        &'a self,
        name: &'a str,
        range: Range<u64>,
    ) -> impl futures::Stream<Item = Result<Bytes, object_store::Error>> + Send + 'a {
        let part = self.policy.transfers.part();
        let count = range.end.saturating_sub(range.start).div_ceil(part);
        let parts = (0..count).map(move |number| {
            let start = range.start.saturating_add(number.saturating_mul(part));
            start..range.end.min(start.saturating_add(part))
        });
        futures::stream::iter(parts)
            .map(move |part| self.range(name, part))
            .buffered(self.policy.transfers.parts_in_flight())
    }
}

/// The bytes of a file of a local store: the store's own stream reads 8 KiB at a time.
fn read_file(
    mut file: File,
    path: PathBuf,
    range: Range<u64>,
) -> BoxStream<'static, Result<Bytes, object_store::Error>> {
    let open = move || {
        file.seek(SeekFrom::Start(range.start))?;
        Ok(file.take(range.end.saturating_sub(range.start)))
    };
    let blocks = local::read_blocks(open, PIECE_BYTES as u64);
    futures::stream::unfold((blocks, path), async |(mut blocks, path)| {
        let block = blocks.recv().await?.map_err(|source| {
            let source = format!("cannot read {}: {source}", path.display());
            object_store::Error::Generic { store: "local", source: source.into() }
        });
        Some((block, (blocks, path)))
    })
    .boxed()
}

/// How an object begins and how it ends, as far as the header and the trailer of a patch go.
#[derive(Debug, Default)]
pub(crate) struct BothEnds {
    pub(crate) first: Vec<u8>,
    pub(crate) last: Vec<u8>,
}

impl BothEnds {
    fn take(&mut self, block: &[u8]) {
        let room = PatchHeader::LEN.saturating_sub(self.first.len());
        self.first.extend(block.iter().take(room));
        let kept = Trailer::LEN.saturating_sub(block.len()).min(self.last.len());
        self.last.drain(..self.last.len().saturating_sub(kept));
        self.last.extend_from_slice(block.get(block.len().saturating_sub(Trailer::LEN)..).unwrap_or(block));
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faulty_store::{Call, Fault, FaultyStore};
    use crate::observe::Event;
    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;
    use object_store::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use tensorpatch_stream::Key;

    fn object(bytes: &[u8]) -> ObjectRef {
        let key = Key::new("patches/1/x").unwrap();
        ObjectRef { key, bytes: bytes.len() as u64, blake3: ObjectDigest::of(bytes) }
    }

    fn at(dir: &tempfile::TempDir) -> ConfinedPath {
        ConfinedPath::root(dir.path()).unwrap().join("x")
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
        inner.put(&Path::from("patches/1/x"), bytes.to_vec().into()).await.unwrap();
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

    #[test]
    fn both_ends_of_an_object_are_kept_whatever_pieces_it_comes_in() {
        let bytes: Vec<u8> = (0..600).map(|number| u8::try_from(number % 251).unwrap()).collect();
        for piece in [1, 7, 100, 200, 599, 600] {
            let mut ends = BothEnds::default();
            bytes.chunks(piece).for_each(|block| ends.take(block));
            assert_eq!(ends.first, bytes[..PatchHeader::LEN], "{piece}");
            assert_eq!(ends.last, bytes[600 - Trailer::LEN..], "{piece}");
        }
        let mut short = BothEnds::default();
        short.take(b"short");
        assert_eq!((short.first.as_slice(), short.last.as_slice()), (&b"short"[..], &b"short"[..]));
    }

    #[tokio::test]
    async fn a_download_that_broke_off_is_taken_up_where_it_was_also_by_another_process() {
        let dir = tempfile::tempdir().unwrap();
        let (file, bytes) = (at(&dir), vec![7_u8; 5000]);
        let healthy = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let bucket = ailing(&bytes, Arc::clone(&healthy)).await;
        let (observer, count) = counted();
        assert!(bucket.download(&object(&bytes), &file, &observer).await.is_err());
        assert_eq!(count.swap(0, Ordering::SeqCst), 1000);
        assert!(!file.path().exists());
        healthy.store(true, Ordering::SeqCst);
        assert_eq!(bucket.download(&object(&bytes), &file, &observer).await.unwrap(), 4000);
        assert_eq!(count.load(Ordering::SeqCst), 4000);
        assert!(std::fs::read(file.path()).unwrap() == bytes);
    }

    #[tokio::test]
    async fn an_object_that_goes_on_beyond_its_length_is_refused_there_and_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let (file, bytes) = (at(&dir), vec![7_u8; 3 * PIECE_BYTES]);
        let bucket = ailing(&bytes, Arc::new(std::sync::atomic::AtomicBool::new(true))).await;
        let (wanted, (observer, count)) = (object(&bytes[..5000]), counted());
        for refused in [
            bucket.download(&wanted, &file, &observer).await.map(drop),
            bucket.check_contents(&wanted, &observer).await.map(drop),
        ] {
            let error = refused.unwrap_err().to_string();
            assert!(error.contains("it goes on after 5000 bytes"), "{error}");
        }
        assert_eq!(count.load(Ordering::SeqCst), 0);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_beginning_that_is_not_the_objects_costs_time_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let (file, bytes) = (at(&dir), vec![7_u8; 5000]);
        let healthy = Arc::new(std::sync::atomic::AtomicBool::new(true));
        let bucket = ailing(&bytes, healthy).await;
        std::fs::write(local::partial(&file).path(), vec![0; 3000]).unwrap();
        let (observer, _) = counted();
        bucket.download(&object(&bytes), &file, &observer).await.unwrap();
        // An object that is damaged is, also the second time.
        file.remove_file().unwrap();
        std::fs::write(local::partial(&file).path(), vec![7; 3000]).unwrap();
        let error = bucket.download(&object(&vec![8; 5000]), &file, &observer).await.unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }) && !file.path().exists(), "{error}");
        bucket.download(&object(&bytes), &file, &observer).await.unwrap();
        // One that is too long is not of this object.
        file.remove_file().unwrap();
        std::fs::write(local::partial(&file).path(), vec![7; 6000]).unwrap();
        bucket.download(&object(&bytes), &file, &observer).await.unwrap();
        assert!(std::fs::read(file.path()).unwrap() == bytes);
    }

    #[tokio::test]
    async fn a_download_that_breaks_again_and_again_ends_if_each_attempt_gets_further() {
        let dir = tempfile::tempdir().unwrap();
        let (file, bytes) = (at(&dir), vec![7_u8; 20_000]);
        let inner = Arc::new(InMemory::new());
        inner.put(&Path::from("patches/1/x"), bytes.clone().into()).await.unwrap();
        let store = FaultyStore::new(inner, |call| match call {
            Call::Get(_) => Fault::Broken(1000),
            _ => Fault::None,
        });
        let bucket = Bucket::new(Arc::new(store), Path::default());
        bucket.download(&object(&bytes), &file, &Observer::default()).await.unwrap();
        assert!(std::fs::read(file.path()).unwrap() == bytes);
    }

    #[tokio::test]
    async fn a_large_object_is_fetched_in_parts_side_by_side_and_also_when_some_of_them_fail() {
        let dir = tempfile::tempdir().unwrap();
        let (file, bytes) = (at(&dir), (0..100_003_u32).map(|i| i.to_le_bytes()[0]).collect::<Vec<_>>());
        let inner = Arc::new(InMemory::new());
        inner.put(&Path::from("patches/1/x"), bytes.clone().into()).await.unwrap();
        let gets = Arc::new(AtomicU64::new(0));
        let made = Arc::clone(&gets);
        let store = FaultyStore::new(inner, move |call| match call {
            Call::Get(_) => match made.fetch_add(1, Ordering::SeqCst) % 3 {
                1 => Fault::Broken(100),
                2 => Fault::BeforeEffect,
                _ => Fault::None,
            },
            _ => Fault::None,
        });
        let mut policy = crate::Policy::default();
        (policy.transfers.part_bytes, policy.transfers.bytes_in_flight) = (10_000, 40_000);
        let bucket = Bucket::new(Arc::new(store), Path::default()).with_policy(policy);
        let (observer, count) = counted();
        bucket.download(&object(&bytes), &file, &observer).await.unwrap();
        assert!(std::fs::read(file.path()).unwrap() == bytes);
        assert!(gets.load(Ordering::SeqCst) >= 11 && count.load(Ordering::SeqCst) == 100_003);
        bucket.check_contents(&object(&bytes), &observer).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_download_that_is_given_up_is_taken_up_where_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let (file, bytes) = (at(&dir), vec![7_u8; 5000]);
        let inner = Arc::new(InMemory::new());
        inner.put(&Path::from("patches/1/x"), bytes.clone().into()).await.unwrap();
        let gets = Arc::new(AtomicU64::new(0));
        let made = Arc::clone(&gets);
        let store = FaultyStore::new(inner, move |call| match call {
            Call::Get(_) => match made.fetch_add(1, Ordering::SeqCst) {
                0 => Fault::Broken(1000),
                1 => Fault::Slow(std::time::Duration::from_secs(3600)),
                _ => Fault::None,
            },
            _ => Fault::None,
        });
        let bucket = Bucket::new(Arc::new(store), Path::default());
        let (observer, count) = counted();
        let object = object(&bytes);
        {
            let download = bucket.download(&object, &file, &observer);
            tokio::pin!(download);
            while gets.load(Ordering::SeqCst) < 2 || count.load(Ordering::SeqCst) < 1000 {
                let pause = std::time::Duration::from_millis(20);
                assert!(tokio::time::timeout(pause, &mut download).await.is_err());
            }
        }
        let partial = local::partial(&file);
        while local::file_len(&partial).is_ok_and(|len| len < 1000) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        count.store(0, Ordering::SeqCst);
        bucket.download(&object, &file, &observer).await.unwrap();
        assert_eq!(count.load(Ordering::SeqCst), 4000);
        assert!(std::fs::read(file.path()).unwrap() == bytes);
    }
}
