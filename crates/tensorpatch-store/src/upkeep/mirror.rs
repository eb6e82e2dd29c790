//! Copying a stream to another store, so that the copy is at every moment a shorter stream (spec/stream.md
//! section 11).

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use object_store::ObjectStore;
use object_store::path::Path;
use serde::Serialize;
use tensorpatch_checkpoint::{ConfinedPath, Places, Role};
use tensorpatch_stream::record::MAX_RECORD_BYTES;
use tensorpatch_stream::{ObjectDigest, ObjectRef, Version, Writers, names};

use crate::bucket::create::{Created, create};
use crate::bucket::url::{directory, open_store};
use crate::bucket::{Bucket, buffered_all};
use crate::error::StoreError;
use crate::local;
use crate::lock::Lock;
use crate::observe::{Observer, Phase};
use crate::stream::Stream;

/// Choices for mirroring.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct MirrorOptions {
    /// A directory through whose files objects pass.
    pub work: PathBuf,
    /// Who is told of progress.
    pub observer: Observer,
}

impl MirrorOptions {
    /// Mirroring through files in `work`, where an interrupted download goes on the next time.
    pub fn new(work: impl Into<PathBuf>) -> Self {
        Self { work: work.into(), observer: Observer::default() }
    }

    /// Tells `observer` of progress.
    #[must_use]
    pub fn with_observer(mut self, observer: Observer) -> Self {
        self.observer = observer;
        self
    }
}

/// What mirroring did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
#[non_exhaustive]
pub struct Mirrored {
    /// The newest version of the copy before.
    pub from: Option<Version>,
    /// The newest version of the copy now.
    pub to: Option<Version>,
    /// Edges copied.
    pub edges: u64,
    /// Objects copied.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Copies a stream to the store at `url`, as [`mirror`] does. A local directory is made if it is missing.
///
/// # Errors
/// As [`mirror`] and [`open_store`].
///
/// # Cancel safety
/// As [`mirror`].
pub async fn mirror_to(stream: &Stream, url: &str, options: &MirrorOptions) -> Result<Mirrored, StoreError> {
    // Before a directory is made.
    places(stream, directory(url)?, options).check()?;
    let (store, prefix) = open_store(url, stream.policy())?;
    mirror(stream, store, prefix, options).await
}

fn places(stream: &Stream, copy: Option<PathBuf>, options: &MirrorOptions) -> Places {
    let places = stream.read_places().altered(Role::Work, &options.work);
    copy.into_iter().fold(places, |places, copy| places.altered(Role::Copy, copy))
}

/// Copies what `store` does not have yet: for each version its objects, verified, and then its commit record,
/// byte for byte.
///
/// The copy is the same stream, and can be mirrored to again.
///
/// # Errors
/// [`StoreError::AnotherStream`] or [`StoreError::HistoryRewritten`] if something else is at the place; if an
/// object is damaged or missing here; or if a store fails. The copy is then a whole stream up to some
/// version.
///
/// # Cancel safety
/// The future may be dropped at any time. The copy is then a whole stream up to some version, and downloads
/// are resumed.
pub async fn mirror(
    stream: &Stream,
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    options: &MirrorOptions,
) -> Result<Mirrored, StoreError> {
    let to = Bucket::new(store, prefix).with_policy(Arc::clone(stream.bucket().policy()));
    places(stream, to.directory(), options).check()?;
    let mut report = Mirrored::default();
    let Some(tip) = stream.tip().await? else { return Ok(report) };
    let top = tip.record.version;
    let floor = stream.pruned().await?.unwrap_or(Version::FIRST);
    let history = stream.whole_history(top).await?;

    local::create_private_dir(&options.work)?;
    let (_lock, work) = Lock::wait(&options.work, "").await?;
    let work = &Work { dir: work, observer: options.observer.clone() };
    copy_record(stream, &to, names::STREAM, None).await?;
    copy_handovers(stream, &to).await?;
    let copy = Stream::of(to.clone(), stream);
    report.from = copy.tip().await?.map(|tip| tip.record.version);
    for commit in history.commits() {
        let version = commit.record.version;
        report.to = Some(version);
        if report.from.is_some_and(|from| version <= from) {
            // What is there was checked to be the same by `copy_record` when it was written; the newest one
            // again.
            if report.from == Some(version) {
                copy_record(stream, &to, &names::commit(version), Some(commit.digest)).await?;
            }
            continue;
        }
        let delta = commit.record.delta.iter().flat_map(|delta| delta.objects());
        let anchor = commit.record.anchor.iter().flat_map(|anchor| anchor.objects());
        let companions = commit.record.companions.iter().map(|companion| &companion.object);
        let objects: Vec<&ObjectRef> = delta.chain(anchor).chain(companions).collect();
        // What a collector has taken here is not missing there.
        copy_objects(stream, &to, objects, version < floor, work, &mut report).await?;
        copy_record(stream, &to, &names::commit(version), Some(commit.digest)).await?;
    }
    if let Some(version) = report.to {
        copy.hint(version).await;
    }
    copy_edges(stream, &to, top, work, &mut report).await?;
    let pruned = stream.bucket().list(names::PRUNED, None).await?;
    for pruned in pruned.iter().filter(|object| names::pruned_floor(&object.name).is_some()) {
        copy_record(stream, &to, &format!("{}/{}", names::PRUNED, pruned.name), None).await?;
    }
    Ok(report)
}

/// The working directory, and who is told.
struct Work {
    dir: ConfinedPath,
    observer: Observer,
}

/// Before the versions that the next key has signed: without it they are of nobody whom readers trust.
async fn copy_handovers(stream: &Stream, to: &Bucket) -> Result<(), StoreError> {
    for (name, bytes) in stream.handover_records().await? {
        put_record(to, &name, bytes).await?;
    }
    Ok(())
}

async fn copy_edges(
    stream: &Stream,
    to: &Bucket,
    top: Version,
    work: &Work,
    report: &mut Mirrored,
) -> Result<(), StoreError> {
    for listed in stream.all_edges().await? {
        let name = format!("{}/{}", names::EDGES, listed.name);
        let is_known = names::edge_ends(&listed.name).is_some_and(|(target, ..)| target <= top);
        if !is_known || to.size(&name).await?.is_some() {
            continue;
        }
        let edge = match stream.edge(&listed.name).await {
            Ok(Some((edge, _))) => edge,
            Ok(None) => continue,
            Err(error @ StoreError::Object { .. }) => return Err(error),
            Err(error) => {
                tracing::warn!("{name} is not copied: {error}");
                continue;
            }
        };
        let Some(edge) = edge.edge() else { continue };
        let objects = edge.all_objects();
        match copy_objects(stream, to, objects, false, work, report).await {
            Ok(()) => {}
            // Collected since it was listed.
            Err(StoreError::Missing { .. }) => continue,
            Err(error) => return Err(error),
        }
        copy_record(stream, to, &name, None).await?;
        report.edges = report.edges.saturating_add(1);
    }
    Ok(())
}

async fn copy_objects(
    stream: &Stream,
    to: &Bucket,
    objects: Vec<&ObjectRef>,
    may_be_missing: bool,
    work: &Work,
    report: &mut Mirrored,
) -> Result<(), StoreError> {
    let total = objects.iter().fold(0_u64, |sum, object| sum.saturating_add(object.bytes));
    work.observer.start(Phase::Download, total);
    let copied = buffered_all(objects, stream.policy().transfers.parallel_downloads, |object| async move {
        if to.size(object.key.as_str()).await? == Some(object.bytes) {
            return Ok(0);
        }
        // By name: a companion has the same contents twice, under `companions/` and in the anchor.
        let file = work.dir.join(ObjectDigest::of(object.key.as_str().as_bytes()).to_string());
        match stream.bucket().download(object, &file, &work.observer).await {
            Err(StoreError::Missing { .. }) if may_be_missing => return Ok(0),
            result => drop(result?),
        }
        let uploaded = to.upload(object.key.clone(), &file, &Observer::default()).await?;
        local::remove(&file)?;
        if uploaded != *object {
            // Left there it would be taken for the object the next time, as it has its name and size.
            to.delete(object.key.as_str()).await?;
            let what = "its copy on local disk was altered".into();
            return Err(StoreError::Damaged { name: object.key.to_string(), what });
        }
        Ok(object.bytes)
    })
    .await?;
    for bytes in copied.into_iter().filter(|bytes| *bytes > 0) {
        report.objects = report.objects.saturating_add(1);
        report.bytes = report.bytes.saturating_add(bytes);
    }
    Ok(())
}

/// Copies a record, byte for byte, or checks that the one that is there is the same.
async fn copy_record(
    stream: &Stream,
    to: &Bucket,
    name: &str,
    expected: Option<ObjectDigest>,
) -> Result<(), StoreError> {
    let bytes = stream.bucket().get_small(name, MAX_RECORD_BYTES).await?;
    let bytes = bytes.ok_or_else(|| StoreError::Missing { name: name.into() })?;
    if expected.is_some_and(|expected| expected != ObjectDigest::of(&bytes)) {
        let what = "it was replaced while it was copied".into();
        return Err(StoreError::Damaged { name: name.into(), what });
    }
    put_record(to, name, bytes).await
}

async fn put_record(to: &Bucket, name: &str, bytes: Bytes) -> Result<(), StoreError> {
    match create(to, name, bytes, Writers::Single).await.map_err(|e| e.for_name(name))? {
        Created::Mine => Ok(()),
        Created::Theirs(_) => Err(StoreError::HistoryRewritten(format!(
            "{} has another {name}: it is no copy of this stream",
            to.place()
        ))),
    }
}
