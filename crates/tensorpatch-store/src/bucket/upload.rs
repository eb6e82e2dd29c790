//! Objects on their way to the store: files, and files that are still being written.

use std::fs::File;
use std::io::Write;
use std::time::Instant;

use tensorpatch_checkpoint::ConfinedPath;
use tensorpatch_stream::{Key, ObjectDigest, ObjectRef};

use bytes::Bytes;
use object_store::{ObjectStoreExt, WriteMultipart};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{Bucket, object_error};
use crate::cause::Told;
use crate::error::{StoreError, is_transient};
use crate::local;
use crate::observe::{Observer, Phase};

/// S3 allows 10,000 parts.
const MAX_PARTS: u64 = 9_000;
/// Bytes that pass from whoever writes an object to its upload in one piece.
const PIECE_BYTES: usize = 1 << 20;

impl Bucket {
    /// Uploads a file under a key that nobody else uses, in parts, hashing what is sent.
    pub(crate) async fn upload(
        &self,
        key: Key,
        file: &ConfinedPath,
        observer: &Observer,
    ) -> Result<ObjectRef, StoreError> {
        let (begun, mut attempt) = (Instant::now(), 1);
        loop {
            match self.upload_once(&key, file, observer).await {
                Err(StoreError::Object { name, source })
                    if attempt < self.policy.retries.attempts && is_transient(&source) =>
                {
                    self.tell_failure(&name, attempt, &source);
                    self.pause(attempt).await;
                    attempt = attempt.saturating_add(1);
                }
                Err(error) => return Err(error),
                Ok(object) => {
                    tell_arrival(&object, begun);
                    return self.check_arrived(object).await;
                }
            }
        }
    }

    async fn upload_once(
        &self,
        key: &Key,
        file: &ConfinedPath,
        observer: &Observer,
    ) -> Result<ObjectRef, StoreError> {
        let part_bytes = self.policy.transfers.part().max(local::file_len(file)?.div_ceil(MAX_PARTS));
        let place = file.clone();
        let mut blocks = local::read_blocks(move || place.open(), part_bytes);
        let mut sink = Sink::new(self, key, part_bytes);
        while let Some(block) = blocks.recv().await {
            let added = match block {
                Ok(block) => match observer.advance(Phase::Upload, block.len() as u64) {
                    Ok(()) => sink.add(block).await,
                    Err(cancelled) => Err(cancelled.into()),
                },
                Err(e) => Err(StoreError::local(file.path(), e)),
            };
            if let Err(error) = added {
                sink.abort().await;
                return Err(error);
            }
        }
        sink.finish().await
    }

    /// Begins the upload of an object that is still to be written: through `file`, from which it is uploaded
    /// once more if this fails.
    ///
    /// The writer waits when the store is slower than it is, so no more than a few parts of the object are in
    /// memory. Under its key the object appears when [`Uploading::finish`] is called, and never if that is
    /// not.
    pub(crate) fn upload_while_written(
        &self,
        key: Key,
        file: ConfinedPath,
        observer: &Observer,
    ) -> Result<(Outgoing, Uploading), StoreError> {
        let (sender, receiver) = mpsc::channel(self.policy.transfers.parts_in_flight());
        let created = file.replace_private().map_err(StoreError::at(&file))?;
        let task = tokio::spawn(upload_pieces(self.clone(), key.clone(), receiver));
        let (bucket, observer, begun) = (self.clone(), observer.clone(), Instant::now());
        let uploading = Uploading { bucket, key, file, observer, begun, task };
        Ok((Outgoing { file: created, sender }, uploading))
    }
}

fn tell_arrival(object: &ObjectRef, begun: Instant) {
    let ms = begun.elapsed().as_millis();
    tracing::info!("uploaded {}: {} bytes in {ms} ms", object.key, object.bytes);
}

/// What a writer hands to an upload.
enum Piece {
    Bytes(Bytes),
    /// The object is whole, and wanted.
    End,
}

/// Writes an object to local disk and hands it to its upload. Blocking: not for a thread of the runtime.
#[derive(Debug)]
pub(crate) struct Outgoing {
    file: File,
    sender: mpsc::Sender<Piece>,
}

impl Write for Outgoing {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let piece = bytes.get(..PIECE_BYTES).unwrap_or(bytes);
        self.file.write_all(piece)?;
        // An upload that has failed is made again from the file.
        let _ = self.sender.blocking_send(Piece::Bytes(Bytes::copy_from_slice(piece)));
        Ok(piece.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

/// An upload that is under way.
#[derive(Debug)]
pub(crate) struct Uploading {
    bucket: Bucket,
    key: Key,
    file: ConfinedPath,
    observer: Observer,
    begun: Instant,
    task: JoinHandle<Result<Option<ObjectRef>, StoreError>>,
}

impl Uploading {
    /// Ends the upload without an object; whoever writes it has stopped. Until this is over the store keeps
    /// what was uploaded.
    pub(crate) async fn give_up(self) {
        if let Err(error) = self.task.await {
            tracing::debug!(key = %self.key, %error, "an upload that was given up ended early");
        }
    }

    /// Lets the object appear, now that all of it is written.
    pub(crate) async fn finish(self, outgoing: Outgoing) -> Result<ObjectRef, StoreError> {
        let Self { bucket, key, file, observer, begun, task } = self;
        observer.start(Phase::Upload, local::file_len(&file)?);
        // An upload that has failed says why below.
        let _ = outgoing.sender.send(Piece::End).await;
        drop(outgoing);
        match task.await.map_err(|e| StoreError::Task(e.to_string()))? {
            Ok(Some(object)) => {
                tell_arrival(&object, begun);
                observer.advance(Phase::Upload, object.bytes)?;
                return bucket.check_arrived(object).await;
            }
            Ok(None) => {}
            Err(StoreError::Object { name, source }) if is_transient(&source) => {
                let why = Told(&source);
                tracing::info!("{name}: the upload failed, it is made again from the file: {why}");
            }
            Err(error) => return Err(error),
        }
        bucket.upload(key, &file, &observer).await
    }
}

/// Uploads what comes until the end is said; `None` if it never is, or the object has more bytes than parts
/// are allowed for.
async fn upload_pieces(
    bucket: Bucket,
    key: Key,
    mut pieces: mpsc::Receiver<Piece>,
) -> Result<Option<ObjectRef>, StoreError> {
    let part_bytes = bucket.policy.transfers.part();
    let mut sink = Sink::new(&bucket, &key, part_bytes);
    while let Some(piece) = pieces.recv().await {
        match piece {
            Piece::End => return sink.finish().await.map(Some),
            Piece::Bytes(block) => {
                if let Err(error) = sink.add(block).await {
                    sink.abort().await;
                    return Err(error);
                }
            }
        }
        if sink.bytes > part_bytes.saturating_mul(MAX_PARTS) {
            break;
        }
    }
    sink.abort().await;
    Ok(None)
}

/// An object on its way to the store, in one request if it is small and in parts if not, hashed as it goes.
struct Sink<'a> {
    bucket: &'a Bucket,
    key: &'a Key,
    part_bytes: u64,
    hasher: blake3::Hasher,
    bytes: u64,
    /// The beginning, until it is too large for one request.
    head: Vec<Bytes>,
    parts: Option<WriteMultipart>,
}

impl<'a> Sink<'a> {
    fn new(bucket: &'a Bucket, key: &'a Key, part_bytes: u64) -> Self {
        let hasher = blake3::Hasher::new();
        Self { bucket, key, part_bytes, hasher, bytes: 0, head: Vec::new(), parts: None }
    }

    /// Takes the next bytes; waits while as many parts are on their way as may be.
    async fn add(&mut self, block: Bytes) -> Result<(), StoreError> {
        self.hasher.update(&block);
        self.bytes = self.bytes.saturating_add(block.len() as u64);
        if let Some(parts) = &mut self.parts {
            let room = parts.wait_for_capacity(self.bucket.policy.transfers.parts_in_flight()).await;
            room.map_err(|source| object_error(self.key.as_str(), source))?;
            parts.put(block);
            return Ok(());
        }
        self.head.push(block);
        if self.bytes > self.part_bytes {
            self.bucket.tell("begin parts of", self.key.as_str());
            let upload = self.bucket.store.put_multipart(&self.bucket.path(self.key.as_str())).await;
            let upload = upload.map_err(|source| object_error(self.key.as_str(), source))?;
            let chunk = usize::try_from(self.part_bytes).unwrap_or(usize::MAX);
            let mut parts = WriteMultipart::new_with_chunk_size(upload, chunk);
            self.head.drain(..).for_each(|block| parts.put(block));
            self.parts = Some(parts);
        }
        Ok(())
    }

    async fn finish(self) -> Result<ObjectRef, StoreError> {
        let done = match self.parts {
            Some(parts) => {
                for _ in 0..self.bytes.div_ceil(self.part_bytes) {
                    self.bucket.tell("put a part of", self.key.as_str());
                }
                self.bucket.tell("complete", self.key.as_str());
                parts.finish().await
            }
            None => {
                self.bucket.tell("put", self.key.as_str());
                let path = self.bucket.path(self.key.as_str());
                self.bucket.store.put(&path, self.head.into_iter().collect()).await
            }
        };
        done.map_err(|source| object_error(self.key.as_str(), source))?;
        let blake3 = ObjectDigest::finish(&self.hasher);
        Ok(ObjectRef { key: self.key.clone(), bytes: self.bytes, blake3 })
    }

    /// What is left of an upload is invisible and expires; the error that led here is the one that matters.
    async fn abort(self) {
        if let Some(parts) = self.parts
            && let Err(error) = parts.abort().await
        {
            tracing::debug!(key = %self.key, %error, "could not abort an upload");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faulty_store::{Call, Fault, FaultyStore};
    use object_store::memory::InMemory;
    use object_store::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::time::Duration;

    #[tokio::test]
    async fn what_a_link_leads_to_is_not_uploaded() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("secret"), "a secret").unwrap();
        std::os::unix::fs::symlink("secret", dir.path().join("x")).unwrap();
        let store = Arc::new(InMemory::new());
        let bucket = Bucket::new(store.clone(), Path::default());
        let file = ConfinedPath::root(dir.path()).unwrap().join("x");
        let key = Key::new("patches/1/x").unwrap();
        let refused = bucket.upload(key, &file, &Observer::default()).await;
        assert!(matches!(refused, Err(StoreError::Misplaced(_))), "{refused:?}");
        assert!(store.get(&Path::from("patches/1/x")).await.is_err());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_store_that_takes_nothing_holds_the_writer_back_and_then_gets_everything() {
        const WHOLE: u64 = 96 << 20;
        let (open, reached) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let gate = Arc::clone(&open);
        let store = FaultyStore::new(Arc::new(InMemory::new()), move |call| match call {
            // Parts that fail are no parts that arrive: the first wait, until the writer has come to a halt.
            Call::Part(_) if !gate.load(Ordering::SeqCst) => Fault::Slow(Duration::from_secs(5)),
            _ => Fault::None,
        });
        let bucket = Bucket::new(Arc::new(store), Path::default());
        let dir = tempfile::tempdir().unwrap();
        let file = ConfinedPath::root(dir.path()).unwrap().join("x");
        let key = Key::new("patches/1/x").unwrap();
        let (mut outgoing, uploading) =
            bucket.upload_while_written(key.clone(), file.clone(), &Observer::default()).unwrap();
        let count = Arc::clone(&reached);
        let writer = tokio::task::spawn_blocking(move || {
            let block = vec![7; 1 << 20];
            while count.load(Ordering::SeqCst) < WHOLE {
                outgoing.write_all(&block).unwrap();
                count.fetch_add(block.len() as u64, Ordering::SeqCst);
            }
            outgoing
        });
        let mut before = 0;
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let now = reached.load(Ordering::SeqCst);
            if now > 0 && now == before {
                break;
            }
            before = now;
        }
        let policy = bucket.policy();
        let in_flight = policy.transfers.bytes_in_flight + 2 * policy.transfers.part_bytes;
        assert!(before <= in_flight, "{before} bytes were taken of which none had arrived");
        open.store(true, Ordering::SeqCst);
        let object = uploading.finish(writer.await.unwrap()).await.unwrap();
        assert_eq!(object.bytes, WHOLE);
        assert_eq!(object.blake3, ObjectDigest::of(&std::fs::read(file.path()).unwrap()));
        bucket.check_contents(&object, &Observer::default()).await.unwrap();
    }
}
