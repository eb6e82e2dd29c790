//! A stream as a whole: creating and opening it, its tip, its history.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use object_store::ObjectStore;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use tensorpatch_format::LeafHash;

use crate::bucket::{Bucket, all};
use crate::commit::{self, Created};
use crate::digest::ObjectDigest;
use crate::error::StoreError;
use crate::names::{self, StreamId, Version};
use crate::plan::{Avoided, Commit, History, Plan, PlanError};
use crate::probe::probe;
use crate::record::{
    CommitRecord, EdgeRecord, MAX_RECORD_BYTES, ObjectRef, Record, StreamRecord, VersionId, Writers, now,
};
use crate::sign::{SignKey, TrustKey, distrust};

/// Requests for records at once.
const AT_ONCE: usize = 16;
/// Records for which requests are made ready.
const BATCH: u64 = 1024;
/// Records that are read at once when the history is walked back to an anchor.
const STRIDE: u64 = 64;

/// How a stream is created.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct CreateOptions {
    /// The leaf hash of all its states: BLAKE3 where checkpoints may be altered on purpose.
    pub leaf_hash: LeafHash,
    /// A promise that there is never more than one publisher at a time: then any store will do.
    pub single_writer: bool,
    /// Signs the stream record. Give it to [`Stream::signing`] too.
    pub sign_key: Option<SignKey>,
}

impl CreateOptions {
    /// The same with states hashed by `leaf_hash`.
    #[must_use]
    pub fn with_leaf_hash(mut self, leaf_hash: LeafHash) -> Self {
        self.leaf_hash = leaf_hash;
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
    keys: Keys,
}

/// Who signs and who is trusted.
#[derive(Debug, Clone, Default)]
struct Keys {
    sign: Option<SignKey>,
    trust: Vec<TrustKey>,
}

/// The hint of section 3.
#[derive(Debug, Serialize, Deserialize)]
struct Latest {
    version: Version,
}

impl Stream {
    /// Creates a stream below `prefix`, after probing the store.
    ///
    /// # Errors
    /// [`StoreError::NoConditionalCreate`] if the store lets two creators win and
    /// [`CreateOptions::single_writer`] is not set; [`StoreError::StreamExists`]; or if the store fails.
    pub async fn create(
        store: Arc<dyn ObjectStore>,
        prefix: Path,
        options: CreateOptions,
    ) -> Result<Self, StoreError> {
        let bucket = Bucket::new(store, prefix);
        if let Some(existing) = read_record::<StreamRecord>(&bucket, names::STREAM, &[]).await? {
            return Err(StoreError::StreamExists { place: bucket.place(), stream: existing.0.stream });
        }
        let writers = match probe(&bucket).await? {
            None => Writers::Many,
            Some(_) if options.single_writer => Writers::Single,
            Some(why) => return Err(StoreError::NoConditionalCreate(why)),
        };
        let record = StreamRecord {
            stream: StreamId::random(),
            created: now(),
            leaf_hash: options.leaf_hash,
            writers,
        };
        let keys = Keys { sign: options.sign_key, trust: Vec::new() };
        let bytes = record_bytes(names::STREAM, &record, keys.sign.as_ref())?;
        match commit::create(&bucket, names::STREAM, bytes, writers).await {
            Ok(Created::Mine) => Ok(Self { bucket, record, keys }),
            Ok(Created::Theirs(bytes)) => {
                let theirs: StreamRecord = parse(names::STREAM, &bytes, &[])?;
                Err(StoreError::StreamExists { place: bucket.place(), stream: theirs.stream })
            }
            Err(error) => Err(error.for_name(names::STREAM)),
        }
    }

    /// Opens the stream below `prefix`.
    ///
    /// # Errors
    /// [`StoreError::NoStream`] if there is none, or if the store fails.
    pub async fn open(store: Arc<dyn ObjectStore>, prefix: Path) -> Result<Self, StoreError> {
        let bucket = Bucket::new(store, prefix);
        match read_record(&bucket, names::STREAM, &[]).await? {
            Some((record, _)) => Ok(Self { bucket, record, keys: Keys::default() }),
            None => Err(StoreError::NoStream { place: bucket.place() }),
        }
    }

    /// Opens the stream below `prefix`, or creates it there; also when several do at the same time.
    ///
    /// # Errors
    /// As [`Stream::create`] and [`Stream::open`].
    pub async fn open_or_create(
        store: Arc<dyn ObjectStore>,
        prefix: Path,
        options: CreateOptions,
    ) -> Result<Self, StoreError> {
        match Self::open(Arc::clone(&store), prefix.clone()).await {
            Err(StoreError::NoStream { .. }) => {}
            opened => return opened,
        }
        match Self::create(Arc::clone(&store), prefix.clone(), options).await {
            Err(StoreError::StreamExists { .. }) => Self::open(store, prefix).await,
            created => created,
        }
    }

    /// The same stream, with every record that is written through this handle signed.
    #[must_use]
    pub fn signing(mut self, key: SignKey) -> Self {
        self.keys.sign = Some(key);
        self
    }

    /// The same stream, with every record refused that is not signed by one of `keys`; the stream record is read again.
    ///
    /// # Errors
    /// [`StoreError::Untrusted`] if the stream record is not, or if the store fails.
    pub async fn trusting(mut self, keys: Vec<TrustKey>) -> Result<Self, StoreError> {
        self.keys.trust = keys;
        self.record = self.record_now().await?;
        Ok(self)
    }

    /// The stream that `original` is, in another place.
    pub(crate) fn of(bucket: Bucket, original: &Self) -> Self {
        Self { bucket, record: original.record.clone(), keys: original.keys.clone() }
    }

    /// The bytes of a record to store, signed if this handle signs.
    pub(crate) fn record_bytes<T: Record>(&self, name: &str, record: &T) -> Result<Bytes, StoreError> {
        record_bytes(name, record, self.keys.sign.as_ref())
    }

    /// The identity of the stream.
    pub fn id(&self) -> StreamId {
        self.record.stream
    }

    /// The stream record.
    pub fn record(&self) -> &StreamRecord {
        &self.record
    }

    /// Where the stream is, for people.
    pub fn place(&self) -> String {
        self.bucket.place()
    }

    pub(crate) fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    /// The commit of `version`, or `None` if the stream has none.
    ///
    /// # Errors
    /// If the record is not one of this stream and version, or the store fails.
    pub async fn commit(&self, version: Version) -> Result<Option<Commit>, StoreError> {
        let name = names::commit(version);
        let Some((record, digest)) =
            read_record::<CommitRecord>(&self.bucket, &name, &self.keys.trust).await?
        else {
            return Ok(None);
        };
        self.check_commit(&name, version, &record)?;
        Ok(Some(Commit { record, digest }))
    }

    /// Reads the bytes of a commit record that stands under the name of `version`.
    pub(crate) fn parse_commit(&self, version: Version, bytes: &[u8]) -> Result<Commit, StoreError> {
        let name = names::commit(version);
        let record = parse(&name, bytes, &self.keys.trust)?;
        self.check_commit(&name, version, &record)?;
        Ok(Commit { record, digest: ObjectDigest::of(bytes) })
    }

    fn check_commit(&self, name: &str, version: Version, record: &CommitRecord) -> Result<(), StoreError> {
        let what = if record.stream != self.record.stream {
            format!("it belongs to the stream {}", record.stream)
        } else if record.version != version {
            format!("it is the record of version {}", record.version)
        } else if record.state.leaf_hash != self.record.leaf_hash {
            format!("its state digest is of {}, not of {}", record.state.leaf_hash, self.record.leaf_hash)
        } else {
            return Ok(());
        };
        Err(StoreError::Damaged { name: name.into(), what })
    }

    /// The newest version, or `None` if there is none yet (section 9).
    ///
    /// # Errors
    /// If the store fails, or the record is damaged.
    pub async fn tip(&self) -> Result<Option<Commit>, StoreError> {
        self.tip_after(None).await
    }

    /// The newest version, given one that is known to exist.
    pub(crate) async fn tip_after(&self, known: Option<Version>) -> Result<Option<Commit>, StoreError> {
        let hint = self.bucket.get_small(names::LATEST, 1024).await?;
        // A hint that cannot be read is as good as none.
        let hint =
            hint.and_then(|bytes| serde_json::from_slice::<Latest>(&bytes).ok()).map(|hint| hint.version);
        let mut tip = None;
        for version in [hint, known].into_iter().flatten() {
            if tip.as_ref().is_some_and(|tip: &Commit| tip.record.version >= version) {
                continue;
            }
            if let Some(commit) = self.commit(version).await? {
                tip = Some(commit);
            }
        }
        let after = tip.as_ref().map(|tip: &Commit| names::commit_file(tip.record.version));
        let listed = self.bucket.list(names::COMMITS, after.as_deref()).await?;
        if let Some(newest) = listed.iter().filter_map(|object| names::commit_version(&object.name)).max()
            && tip.as_ref().is_none_or(|tip| newest > tip.record.version)
        {
            tip = self.commit(newest).await?;
        }
        // A stale list ends early; a get does not lie.
        loop {
            let next = match &tip {
                None => Some(Version::FIRST),
                Some(tip) => tip.record.version.next(),
            };
            let Some(next) = next else { return Ok(tip) };
            match self.commit(next).await? {
                None => return Ok(tip),
                Some(commit) => tip = Some(commit),
            }
        }
    }

    /// Overwrites the hint. It being wrong costs requests and nothing else, so a failure is none of the caller's.
    pub(crate) async fn hint(&self, version: Version) {
        let Ok(bytes) = serde_json::to_vec(&Latest { version }) else { return };
        if let Err(error) = self.bucket.put(names::LATEST, bytes.into()).await {
            tracing::debug!(%error, "could not write the hint");
        }
    }

    /// The stream record as it is in the store now.
    pub(crate) async fn record_now(&self) -> Result<StreamRecord, StoreError> {
        let found = read_record(&self.bucket, names::STREAM, &self.keys.trust).await?;
        found.map(|(record, _)| record).ok_or_else(|| StoreError::NoStream { place: self.bucket.place() })
    }

    /// All commits from `from` to `to`, both included.
    pub(crate) async fn commits(&self, from: Version, to: Version) -> Result<Vec<Commit>, StoreError> {
        let mut commits = Vec::new();
        for numbers in batches(from, to) {
            let batch = all(numbers, AT_ONCE, |version| async move {
                let commit = self.commit(version).await?;
                commit.ok_or_else(|| StoreError::Missing { name: names::commit(version) })
            });
            commits.extend(batch.await?);
        }
        Ok(commits)
    }

    /// The edges whose ends are between `from` and `to`; those that cannot be read are left out with a warning, as the
    /// stream is whole without them.
    pub(crate) async fn edges(&self, from: Version, to: Version) -> Result<Vec<EdgeRecord>, StoreError> {
        let listed = self.bucket.list(names::EDGES, None).await?;
        let wanted = listed.into_iter().filter(|object| {
            names::edge_ends(&object.name).is_some_and(|(target, base, _)| {
                target <= to && target >= from && base.is_none_or(|base| base >= from)
            })
        });
        let read = all(wanted, AT_ONCE, |object| async move { self.readable_edge(&object.name).await });
        Ok(read.await?.into_iter().flatten().collect())
    }

    /// An edge that was listed, unless it is gone by now, or cannot be read and is ignored.
    async fn readable_edge(&self, file: &str) -> Result<Option<EdgeRecord>, StoreError> {
        match self.edge(file).await {
            Err(error @ StoreError::Object { .. }) => Err(error),
            Err(error) => {
                tracing::warn!(name = file, %error, "an edge record is ignored");
                Ok(None)
            }
            edge => edge,
        }
    }

    pub(crate) async fn edge(&self, file: &str) -> Result<Option<EdgeRecord>, StoreError> {
        let name = format!("{}/{file}", names::EDGES);
        // One that was listed may be deleted by now.
        let Some((record, _)) = read_record::<EdgeRecord>(&self.bucket, &name, &self.keys.trust).await?
        else {
            return Ok(None);
        };
        let base = record.delta.as_ref().map(|delta| delta.base.version);
        let ends = Some((record.target.version, base, record.nonce));
        let what = if record.stream != self.record.stream {
            "it belongs to another stream"
        } else if names::edge_ends(file) != ends {
            "its name does not agree with its contents"
        } else {
            return Ok(Some(record));
        };
        Err(StoreError::Damaged { name, what: what.into() })
    }

    /// Writes an edge whose objects are uploaded, and takes it back if one of them has vanished meanwhile.
    pub(crate) async fn add_edge(&self, record: &EdgeRecord) -> Result<(), StoreError> {
        let base = record.delta.as_ref().map(|delta| delta.base.version);
        let name = names::edge(record.target.version, base, record.nonce);
        let bytes = self.record_bytes(&name, record)?;
        let writers = self.record.writers;
        match commit::create(&self.bucket, &name, bytes, writers).await.map_err(|e| e.for_name(&name))? {
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
        let there = all(objects, AT_ONCE, |object| self.bucket.check_there(object)).await;
        if let Err(error) = there {
            self.bucket.delete(&name).await?;
            return Err(error);
        }
        Ok(())
    }

    /// What a plan from `held` to `target` may need: back to the newest anchor, and to `held` if it is near enough.
    pub(crate) async fn history(
        &self,
        held: Option<Version>,
        target: &Commit,
        max_steps: usize,
    ) -> Result<History, StoreError> {
        let to = target.record.version;
        let reach = u64::try_from(max_steps).unwrap_or(u64::MAX);
        let near = |held: &Version| *held < to && to.get().saturating_sub(held.get()) <= reach;
        let held = held.filter(near);
        let mut anchor = self.newest_anchor_edge(to).await?;
        let mut commits: BTreeMap<Version, Commit> = BTreeMap::new();
        let mut low = to.next().unwrap_or(to);
        loop {
            let enough = |anchor: Option<Version>| {
                anchor.is_some_and(|anchor| low <= anchor) && held.is_none_or(|held| low <= held)
            };
            if enough(anchor) || low == Version::FIRST {
                break;
            }
            let end = Version::new(low.get().saturating_sub(1)).unwrap_or(Version::FIRST);
            // Not further than is known to be needed: an anchor that the records hold is found on the way.
            let stride = Version::new(low.get().saturating_sub(STRIDE)).unwrap_or(Version::FIRST);
            let needed = anchor.into_iter().chain(held).min().map_or(stride, |needed| needed.max(stride));
            for commit in self.commits(needed.min(end), end).await? {
                if commit.record.anchor.is_some() {
                    anchor = anchor.max(Some(commit.record.version));
                }
                commits.insert(commit.record.version, commit);
            }
            low = needed.min(end);
        }
        let edges = self.edges(low, to).await?;
        Ok(History::new(commits.into_values(), edges)?)
    }

    /// The newest version up to `to` that an edge which can be read gives an anchor.
    async fn newest_anchor_edge(&self, to: Version) -> Result<Option<Version>, StoreError> {
        let listed = self.bucket.list(names::EDGES, None).await?;
        let ends = listed.iter().filter_map(|object| Some((object, names::edge_ends(&object.name)?)));
        let mut anchors: Vec<(Version, &str)> = ends
            .filter(|(_, (target, base, _))| base.is_none() && *target <= to)
            .map(|(object, (target, ..))| (target, object.name.as_str()))
            .collect();
        anchors.sort_unstable();
        for (target, name) in anchors.into_iter().rev() {
            if self.readable_edge(name).await?.is_some() {
                return Ok(Some(target));
            }
        }
        Ok(None)
    }

    /// The cheapest plan from `held`, or from nothing, to `target` without the objects of `avoided`, and the records that it is of.
    pub(crate) async fn way(
        &self,
        held: Option<VersionId>,
        target: &Commit,
        max_steps: usize,
        avoided: Avoided,
    ) -> Result<(History, Plan), StoreError> {
        let number = target.record.version;
        let mut history = self.history(held.map(|held| held.version), target, max_steps).await?;
        history.leave_out(&avoided.ways);
        let plan = match self.plan(&history, held.as_ref(), number, max_steps, avoided.objects.clone()).await
        {
            // Objects of the nearest ways are missing: perhaps an older anchor is whole.
            Err(StoreError::Plan(PlanError::NoWay { .. })) => {
                history = self.whole_history(number).await?;
                history.leave_out(&avoided.ways);
                self.plan(&history, held.as_ref(), number, max_steps, avoided.objects).await?
            }
            plan => plan?,
        };
        if history.commit(number).map(Commit::id) != Some(target.id()) {
            let what = format!("the record of version {number} was replaced while it was read");
            return Err(StoreError::HistoryRewritten(what));
        }
        Ok((history, plan))
    }

    /// The cheapest plan all of whose objects exist (section 10), and are not among those to avoid.
    pub(crate) async fn plan(
        &self,
        history: &History,
        held: Option<&VersionId>,
        target: Version,
        max_steps: usize,
        avoided: BTreeSet<ObjectRef>,
    ) -> Result<Plan, StoreError> {
        let mut missing = avoided;
        loop {
            let plan = history.plan(held, target, &missing, max_steps)?;
            let absent = all(plan.objects(), AT_ONCE, |object| async move {
                match self.bucket.check_there(object).await {
                    Ok(()) => Ok(None),
                    Err(StoreError::Missing { .. } | StoreError::Damaged { .. }) => Ok(Some(object.clone())),
                    Err(error) => Err(error),
                }
            })
            .await?;
            let before = missing.len();
            missing.extend(absent.into_iter().flatten());
            if missing.len() == before {
                return Ok(plan);
            }
            tracing::warn!(?missing, "objects of the plan are missing, looking for another way");
        }
    }
}

/// The numbers from `from` to `to`, some at a time: nothing is made ready for those that may not exist.
pub(crate) fn batches(from: Version, to: Version) -> impl Iterator<Item = Vec<Version>> {
    Batches { next: Some(from), to }
}

struct Batches {
    next: Option<Version>,
    to: Version,
}

impl Iterator for Batches {
    type Item = Vec<Version>;

    fn next(&mut self) -> Option<Vec<Version>> {
        let start = self.next.filter(|start| *start <= self.to)?;
        let end = start.get().saturating_add(BATCH).min(self.to.get().saturating_add(1));
        self.next = Version::new(end);
        Some((start.get()..end).filter_map(Version::new).collect())
    }
}

fn record_bytes<T: Record>(name: &str, record: &T, sign: Option<&SignKey>) -> Result<Bytes, StoreError> {
    let bytes = record.to_bytes().map_err(|source| StoreError::Record { name: name.into(), source })?;
    Ok(match sign {
        None => bytes.into(),
        Some(key) => key.sign(T::FORMAT, bytes).into(),
    })
}

fn parse<T: Record>(name: &str, bytes: &[u8], trust: &[TrustKey]) -> Result<T, StoreError> {
    if !trust.is_empty()
        && let Some(what) = distrust(T::FORMAT, bytes, trust)
    {
        return Err(StoreError::Untrusted { name: name.into(), what });
    }
    T::parse(bytes).map_err(|source| StoreError::Record { name: name.into(), source })
}

async fn read_record<T: Record>(
    bucket: &Bucket,
    name: &str,
    trust: &[TrustKey],
) -> Result<Option<(T, ObjectDigest)>, StoreError> {
    match bucket.get_small(name, MAX_RECORD_BYTES).await? {
        None => Ok(None),
        Some(bytes) => Ok(Some((parse(name, &bytes, trust)?, ObjectDigest::of(&bytes)))),
    }
}
