//! A stream as a whole: creating and opening it, and writing its records.

mod anchor_check;
pub(crate) mod budget;
pub(crate) mod builder;
mod edges;
pub(crate) mod expected;
pub(crate) mod handover;
pub(crate) mod history;
mod keys;
pub(crate) mod lease;
pub(crate) mod log;
pub(crate) mod plan_attempts;
pub(crate) mod range_reader;
pub(crate) mod vacant;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use object_store::ObjectStore;
use object_store::path::Path;
use tensorpatch_checkpoint::{Places, Role};
use tensorpatch_format::LeafHash;
use tensorpatch_stream::record::MAX_RECORD_BYTES;
use tensorpatch_stream::sign::{is_signed, signed_by};
use tensorpatch_stream::{
    Authorship, Commit, CommitRecord, EdgeRecord, JsonRecord, NewVersion, ObjectDigest, RecordError, SignKey,
    StreamId, StreamRecord, Trust, TrustError, Version, Writers, names,
};

use crate::bucket::create::{Created, create};
use crate::bucket::probe::probe;
use crate::bucket::requests::RequestCounts;
use crate::bucket::{Bucket, buffered_all};
use crate::error::StoreError;
use crate::local;
use crate::settings::Policy;
use expected::Expected;
use keys::Keys;
use vacant::{check_directory, check_vacant};

/// How a stream is created.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct CreateOptions {
    /// The leaf hash of all its states [default: BLAKE3 where the record is signed, else XXH3]. Signed
    /// streams have BLAKE3 alone.
    pub leaf_hash: Option<LeafHash>,
    /// A promise that there is never more than one publisher at a time: then any store will do.
    pub single_writer: bool,
    /// Signs the stream record. Give it to [`Stream::signing`] too.
    pub sign_key: Option<SignKey>,
}

impl CreateOptions {
    /// The same with states hashed by `leaf_hash`.
    #[must_use]
    pub fn with_leaf_hash(mut self, leaf_hash: LeafHash) -> Self {
        self.leaf_hash = Some(leaf_hash);
        self
    }

    /// The same with the promise that there is one publisher at a time.
    #[must_use]
    pub fn for_single_writer(mut self) -> Self {
        self.single_writer = true;
        self
    }

    /// The same with the stream record signed.
    #[must_use]
    pub fn with_sign_key(mut self, key: SignKey) -> Self {
        self.sign_key = Some(key);
        self
    }
}

impl CreateOptions {
    /// The leaf hash that was chosen, or that the key asks for.
    fn settled_leaf_hash(&self, place: impl FnOnce() -> String) -> Result<LeafHash, StoreError> {
        let signed = self.sign_key.is_some();
        let default = if signed { LeafHash::Blake3 } else { LeafHash::Xxh3 };
        match self.leaf_hash.unwrap_or(default) {
            found if signed && !found.is_cryptographic() => {
                Err(StoreError::WeakLeafHash { place: place(), found })
            }
            settled => Ok(settled),
        }
    }
}

/// A sequence of versions of a checkpoint in an object store.
///
/// ```
/// use std::sync::Arc;
/// use tensorpatch_store::{CreateOptions, Stream};
///
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// let store = Arc::new(object_store::memory::InMemory::new());
/// let stream = Stream::create(store.clone(), "runs/7".into(), CreateOptions::default()).await?;
/// let again = Stream::open(store, "runs/7".into()).await?;
/// assert_eq!(stream.id(), again.id());
/// assert!(again.tip().await?.is_none());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Stream {
    bucket: Bucket,
    record: StreamRecord,
    /// Whether the record carries a signature, whoever made it.
    signed: bool,
    keys: Keys,
    expected: Expected,
    /// The records that were read, for a handle that reads each of them once.
    read: Option<Arc<Mutex<Read>>>,
}

/// Records that were read and found to be what their names say, with their bytes.
#[derive(Debug, Default)]
struct Read {
    commits: BTreeMap<Version, (Commit, u64)>,
    edges: BTreeMap<String, (EdgeRecord, u64)>,
}

impl Stream {
    /// Creates a stream below `prefix`, after probing the store.
    ///
    /// # Errors
    /// [`StoreError::NoConditionalCreate`] if the store lets two creators win and
    /// [`CreateOptions::single_writer`] is not set; [`StoreError::StreamExists`]; [`StoreError::Occupied`] if
    /// it is a local directory with something else; or if the store fails.
    ///
    /// # Cancel safety
    /// The future may be dropped at any time; the stream is then created or not.
    pub async fn create(
        store: Arc<dyn ObjectStore>,
        prefix: Path,
        options: CreateOptions,
    ) -> Result<Self, StoreError> {
        Self::create_in(Bucket::new(store, prefix), options).await
    }

    async fn create_in(bucket: Bucket, options: CreateOptions) -> Result<Self, StoreError> {
        let nobody = Trust::default();
        if let Some(existing) = read_stream(&bucket, &nobody).await? {
            return Err(StoreError::StreamExists { place: bucket.place(), stream: existing.stream });
        }
        check_vacant(&bucket).await?;
        check_directory(&bucket).await?;
        let leaf_hash = options.settled_leaf_hash(|| bucket.place())?;
        let writers = if options.single_writer {
            Writers::Single
        } else {
            match probe(&bucket).await? {
                None => Writers::Many,
                Some(why) => return Err(StoreError::NoConditionalCreate(why)),
            }
        };
        let record =
            StreamRecord { stream: StreamId::random(), created: local::unix_now(), leaf_hash, writers };
        let keys = Keys::signing(options.sign_key);
        let bytes = record_bytes(names::STREAM, &record, keys.sign.as_ref())?;
        let signed = keys.sign.is_some();
        match create(&bucket, names::STREAM, bytes, writers).await {
            Ok(Created::Mine) => {
                Ok(Self { bucket, record, signed, keys, expected: Expected::default(), read: None })
            }
            Ok(Created::Theirs(bytes)) => {
                let theirs: StreamRecord = parse(&bucket, names::STREAM, &bytes, &Trust::default())?;
                Err(StoreError::StreamExists { place: bucket.place(), stream: theirs.stream })
            }
            Err(error) => Err(error.for_name(names::STREAM)),
        }
    }

    /// The places of a call that reads the stream.
    pub(crate) fn read_places(&self) -> Places {
        let directory = self.bucket.directory();
        directory.map_or_else(Places::default, |path| Places::default().read(Role::Stream, path))
    }

    /// The places of a call that writes to the stream.
    pub(crate) fn altered_places(&self) -> Places {
        let directory = self.bucket.directory();
        directory.map_or_else(Places::default, |path| Places::default().altered(Role::Stream, path))
    }

    /// Opens the stream below `prefix`.
    ///
    /// # Errors
    /// [`StoreError::NoStream`] if there is none, or if the store fails.
    ///
    /// # Cancel safety
    /// The future may be dropped at any time; it only reads.
    pub async fn open(store: Arc<dyn ObjectStore>, prefix: Path) -> Result<Self, StoreError> {
        Self::open_in(Bucket::new(store, prefix)).await
    }

    pub(crate) async fn open_in(bucket: Bucket) -> Result<Self, StoreError> {
        let Some(bytes) = read_bytes(&bucket, names::STREAM).await? else {
            check_vacant(&bucket).await?;
            return Err(StoreError::NoStream { place: bucket.place() });
        };
        Ok(Self {
            record: parse(&bucket, names::STREAM, &bytes, &Trust::default())?,
            signed: is_signed(&bytes),
            bucket,
            keys: Keys::default(),
            expected: Expected::default(),
            read: None,
        })
    }

    /// Opens the stream below `prefix`, or creates it there; also when several do at the same time.
    ///
    /// # Errors
    /// As [`Stream::create`] and [`Stream::open`].
    ///
    /// # Cancel safety
    /// As [`Stream::create`].
    pub async fn open_or_create(
        store: Arc<dyn ObjectStore>,
        prefix: Path,
        options: CreateOptions,
    ) -> Result<Self, StoreError> {
        Self::open_or_create_in(Bucket::new(store, prefix), options).await
    }

    async fn open_or_create_in(bucket: Bucket, options: CreateOptions) -> Result<Self, StoreError> {
        match Self::open_in(bucket.clone()).await {
            Err(StoreError::NoStream { .. } | StoreError::StreamExists { .. }) => {}
            opened => return opened,
        }
        match Self::create_in(bucket.clone(), options).await {
            Err(StoreError::StreamExists { .. }) => Self::open_in(bucket).await,
            created => created,
        }
    }

    /// The same stream, read and written as `policy` says.
    #[must_use]
    pub fn with_policy(mut self, policy: Policy) -> Self {
        self.bucket = self.bucket.with_policy(policy);
        self
    }

    /// How the stream is read and written.
    pub fn policy(&self) -> &Policy {
        self.bucket.policy()
    }

    /// The stream that `original` is, in another place.
    pub(crate) fn of(bucket: Bucket, original: &Self) -> Self {
        Self { bucket, read: None, ..original.clone() }
    }

    /// The same stream for one command, which reads each record at most once: all that it decides, it decides
    /// by the same records.
    pub(crate) fn reading_once(&self) -> Self {
        Self { read: Some(Arc::default()), ..self.clone() }
    }

    /// The bytes of a record to store, signed if this handle signs.
    pub(crate) fn record_bytes<T: JsonRecord>(&self, name: &str, record: &T) -> Result<Bytes, StoreError> {
        record_bytes(name, record, self.keys.sign.as_ref())
    }

    /// The versions that records are listed of, whatever the records say, from the newest down.
    pub(crate) async fn listed_from_newest(&self) -> Result<Vec<Version>, StoreError> {
        let listed = self.bucket.list(names::COMMITS, None).await?;
        let mut versions: Vec<Version> =
            listed.iter().filter_map(|object| names::commit_version(&object.name)).collect();
        versions.sort_unstable();
        versions.reverse();
        Ok(versions)
    }

    /// The identity of the stream.
    pub fn id(&self) -> StreamId {
        self.record.stream
    }

    /// The stream record.
    pub fn record(&self) -> &StreamRecord {
        &self.record
    }

    /// Whether the stream record carries a signature, whoever made it.
    pub fn is_signed(&self) -> bool {
        self.signed
    }

    /// Where the stream is, for people.
    pub fn place(&self) -> String {
        self.bucket.place()
    }

    /// The requests that were made to the store so far, by all clones of this.
    pub fn requests(&self) -> RequestCounts {
        self.bucket.requests()
    }

    pub(crate) fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    /// The commit of `version`, or `None` if the stream has none.
    ///
    /// # Errors
    /// If the record is not one of this stream and version, or the store fails.
    ///
    /// # Cancel safety
    /// The future may be dropped at any time; it only reads.
    pub async fn commit(&self, version: Version) -> Result<Option<Commit>, StoreError> {
        Ok(self.sized_commit(version).await?.map(|(commit, _)| commit))
    }

    /// The commit of `version`, and the bytes of its record.
    pub(crate) async fn sized_commit(&self, version: Version) -> Result<Option<(Commit, u64)>, StoreError> {
        if let Some(commit) = self.read_before().and_then(|read| read.commits.get(&version).cloned()) {
            return Ok(Some(commit));
        }
        let Some(bytes) = read_bytes(&self.bucket, &names::commit(version)).await? else { return Ok(None) };
        let commit = (self.parse_commit(version, &bytes)?, bytes.len() as u64);
        if let Some(mut read) = self.read_before() {
            read.commits.insert(version, commit.clone());
        }
        Ok(Some(commit))
    }

    fn read_before(&self) -> Option<MutexGuard<'_, Read>> {
        self.read.as_deref().map(|read| read.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the bytes of a commit record that stands under the name of `version`.
    pub(crate) fn parse_commit(&self, version: Version, bytes: &[u8]) -> Result<Commit, StoreError> {
        let name = names::commit(version);
        let record = parse(&self.bucket, &name, bytes, self.trust())?;
        self.check_commit(&name, version, &record)?;
        Ok(commit_of(record, bytes))
    }

    fn check_commit(&self, name: &str, version: Version, record: &CommitRecord) -> Result<(), StoreError> {
        let what = if record.stream != self.record.stream {
            format!(
                "it belongs to the stream {}, and stream.json is of {}",
                record.stream, self.record.stream
            )
        } else if record.version != version {
            format!("it is the record of version {}", record.version)
        } else if record.contents.state.leaf_hash != self.record.leaf_hash {
            format!(
                "its state digest is of {}, not of {}",
                record.contents.state.leaf_hash, self.record.leaf_hash
            )
        } else {
            return Ok(());
        };
        Err(StoreError::Damaged { name: name.into(), what })
    }

    /// The stream record as it is in the store now.
    pub(crate) async fn record_now(&self) -> Result<StreamRecord, StoreError> {
        let found = read_stream(&self.bucket, self.trust()).await?;
        found.ok_or_else(|| StoreError::NoStream { place: self.bucket.place() })
    }

    /// An edge record, and its bytes.
    pub(crate) async fn edge(&self, file: &str) -> Result<Option<(EdgeRecord, u64)>, StoreError> {
        if let Some(edge) = self.read_before().and_then(|read| read.edges.get(file).cloned()) {
            return Ok(Some(edge));
        }
        let name = format!("{}/{file}", names::EDGES);
        // One that was listed may be deleted by now.
        let Some(bytes) = read_bytes(&self.bucket, &name).await? else { return Ok(None) };
        let record: EdgeRecord = parse(&self.bucket, &name, &bytes, self.trust())?;
        let base = record.delta.as_ref().map(|delta| delta.base.version);
        let ends = Some((record.target.version, base, record.nonce));
        let what = if record.stream != self.record.stream {
            "it belongs to another stream"
        } else if names::edge_ends(file) != ends {
            "its name does not agree with its contents"
        } else {
            let edge = (record, bytes.len() as u64);
            if let Some(mut read) = self.read_before() {
                read.edges.insert(file.to_owned(), edge.clone());
            }
            return Ok(Some(edge));
        };
        Err(StoreError::Damaged { name, what: what.into() })
    }

    /// Commits the version after `tip`, of which everything is uploaded.
    ///
    /// # Errors
    /// [`StoreError::LostRace`] if another publisher has the number, [`StoreError::OutcomeUnknown`] if the
    /// store did not say.
    pub(crate) async fn commit_version(
        &self,
        tip: Option<&Commit>,
        version: NewVersion,
        author: Authorship<'_>,
    ) -> Result<Commit, StoreError> {
        self.check_signing()?;
        let number = next_version(tip)?;
        let record = version.into_record(self.id(), tip, author).ok_or_else(|| no_next(tip))?;
        let name = names::commit(number);
        let bytes = self.record_bytes(&name, &record)?;
        self.check_key().await?;
        let created = create(&self.bucket, &name, bytes.clone(), self.record.writers).await;
        match created.map_err(|error| error.for_version(number))? {
            Created::Mine => {
                let commit = commit_of(record, &bytes);
                self.remember_signed(&commit).await;
                Ok(commit)
            }
            Created::Theirs(theirs) => {
                let winner = self.parse_commit(number, &theirs)?.record.publisher;
                Err(StoreError::LostRace { version: number, winner })
            }
        }
    }

    /// Writes an edge whose objects are uploaded, and takes it back if one of them has vanished meanwhile.
    pub(crate) async fn add_edge(&self, record: &EdgeRecord) -> Result<(), StoreError> {
        self.check_signing()?;
        let base = record.delta.as_ref().map(|delta| delta.base.version);
        let name = names::edge(record.target.version, base, record.nonce);
        let bytes = self.record_bytes(&name, record)?;
        let writers = self.record.writers;
        match create(&self.bucket, &name, bytes, writers).await.map_err(|e| e.for_name(&name))? {
            Created::Mine => {}
            Created::Theirs(_) => {
                return Err(StoreError::Damaged {
                    name,
                    what: "a record with this nonce exists already".into(),
                });
            }
        }
        let anchor = record.anchor.iter().flat_map(|anchor| anchor.objects());
        let objects = anchor.chain(record.delta.iter().flat_map(|delta| delta.objects()));
        let there = buffered_all(objects, self.policy().transfers.parallel_requests, |object| {
            self.bucket.check_there(object)
        })
        .await;
        if let Err(error) = there {
            self.bucket.delete(&name).await?;
            return Err(error);
        }
        Ok(())
    }
}

/// The commit whose record has these bytes.
fn commit_of(record: CommitRecord, bytes: &[u8]) -> Commit {
    Commit { record, digest: ObjectDigest::of(bytes), signer: signed_by(CommitRecord::FORMAT, bytes) }
}

/// The number after that of `tip`, or the first.
pub(crate) fn next_version(tip: Option<&Commit>) -> Result<Version, StoreError> {
    tip.map_or(Some(Version::FIRST), Commit::next_version).ok_or_else(|| no_next(tip))
}

fn no_next(tip: Option<&Commit>) -> StoreError {
    let tip = tip.map(|tip| tip.record.version);
    StoreError::NoVersion { wanted: tip.unwrap_or(Version::FIRST), tip }
}

fn record_bytes<T: JsonRecord>(name: &str, record: &T, sign: Option<&SignKey>) -> Result<Bytes, StoreError> {
    let bytes = record.to_bytes().map_err(|source| StoreError::Record { name: name.into(), source })?;
    Ok(match sign {
        None => bytes.into(),
        Some(key) => key.sign(T::FORMAT, bytes).into(),
    })
}

fn parse<T: JsonRecord>(bucket: &Bucket, name: &str, bytes: &[u8], trust: &Trust) -> Result<T, StoreError> {
    trust.read(bytes).map_err(|error| match error {
        TrustError::WeakLeafHash(found) => StoreError::WeakLeafHash { place: bucket.place(), found },
        TrustError::Record(RecordError::NotJson(why)) => {
            StoreError::Damaged { name: name.into(), what: format!("not JSON ({why})") }
        }
        TrustError::Record(source) => StoreError::Record { name: name.into(), source },
        untrusted => StoreError::Untrusted { name: name.into(), what: untrusted.to_string() },
    })
}

async fn read_bytes(bucket: &Bucket, name: &str) -> Result<Option<Bytes>, StoreError> {
    bucket.get_small(name, MAX_RECORD_BYTES).await
}

async fn read_stream(bucket: &Bucket, trust: &Trust) -> Result<Option<StreamRecord>, StoreError> {
    let Some(bytes) = read_bytes(bucket, names::STREAM).await? else { return Ok(None) };
    parse(bucket, names::STREAM, &bytes, trust).map(Some)
}
