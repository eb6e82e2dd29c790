//! Copying a stream to another store, so that the copy is at every moment a shorter stream (spec/stream.md
//! section 11).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use object_store::ObjectStore;
use object_store::path::Path;
use serde::Serialize;
use tensorpatch_checkpoint::{ConfinedPath, Places, Role};
use tensorpatch_stream::record::MAX_RECORD_BYTES;
use tensorpatch_stream::retention::Listed;
use tensorpatch_stream::{
    Commit, CommitRecord, History, JsonRecord, Key, ObjectDigest, ObjectRef, StreamRecord, Version, Writers,
    end_of_run, names,
};

use super::check::{Problem, runs};
use crate::bucket::create::{Created, create};
use crate::bucket::url::{directory, leaving_no_directory, open_for_writing};
use crate::bucket::{Bucket, buffered_all};
use crate::error::StoreError;
use crate::local;
use crate::lock::Lock;
use crate::observe::{Observer, Phase};
use crate::stream::Stream;
use crate::stream::budget::Budget;
use crate::stream::vacant::check_directory;

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
    /// Those of them that the copy had before, and had lost or had with another length.
    pub restored: u64,
    /// What is wrong with the stream that was copied, as far as that showed: it was not read again where the
    /// copy has it.
    pub problems: Vec<Problem>,
}

/// Copies a stream to the store at `url`, as [`mirror`] does. A local directory is made if it is missing, and
/// is not left behind if nothing could be copied.
///
/// # Errors
/// As [`mirror`] and [`open_store`](crate::open_store).
///
/// # Cancel safety
/// As [`mirror`].
pub async fn mirror_to(stream: &Stream, url: &str, options: &MirrorOptions) -> Result<Mirrored, StoreError> {
    // Before a directory is made.
    places(stream, directory(url)?, options).check()?;
    leaving_no_directory(url, async {
        let opened = open_for_writing(url, stream.policy())?;
        mirror_in(stream, Bucket::of(opened), options).await
    })
    .await
}

fn places(stream: &Stream, copy: Option<PathBuf>, options: &MirrorOptions) -> Places {
    let places = stream.read_places().altered(Role::Work, &options.work);
    copy.into_iter().fold(places, |places, copy| places.altered(Role::Copy, copy))
}

/// Copies what `store` does not have: for each version its objects, verified, and then its commit record,
/// byte for byte. What the copy had and has lost, or has with another length, is copied again; whether its
/// contents are right is for [`check`](super::check()) to find out.
///
/// The copy is the same stream, and can be mirrored to again. Where a record between the versions is lost, it
/// lacks that one, too.
///
/// # Errors
/// [`StoreError::AnotherCopy`] if another stream is at the place, [`StoreError::Occupied`] if it is a
/// directory with something else; if an object of a version that is new to the copy is damaged or missing
/// here; or if a store fails. The copy is then a whole stream up to some version. What is wrong with versions
/// that the copy has is no error: see [`Mirrored::problems`].
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
    mirror_in(stream, Bucket::new(store, prefix), options).await
}

async fn mirror_in(stream: &Stream, to: Bucket, options: &MirrorOptions) -> Result<Mirrored, StoreError> {
    let to = to.with_policy(Arc::clone(stream.bucket().policy()));
    places(stream, to.directory(), options).check()?;
    if to.size(names::STREAM).await?.is_none() {
        check_directory(&to).await?;
    }
    let Some(tip) = stream.tip().await? else {
        let mut report = Mirrored::default();
        let copied = to.get_small(names::STREAM, MAX_RECORD_BYTES).await?;
        let copied = copied.and_then(|bytes| StreamRecord::parse(&bytes).ok());
        if copied.is_some_and(|copied| copied.stream == stream.id()) {
            report.from = newest(&record_sizes(&to, names::COMMITS).await?);
            report.lost_versions(None);
        }
        return Ok(report);
    };
    let top = tip.record.version;
    // Lists first: what they lack a collector has taken before, which has written its floor down.
    let edges = stream.all_edges().await?;
    let source = sizes(stream).await?;
    let floor = stream.pruned().await?;
    let (commits, lost) = readable(stream, top).await?;

    local::create_private_dir(&options.work)?;
    let (_lock, work) = Lock::wait(&options.work, "").await?;
    copy_record(stream, &to, names::STREAM, None).await?;
    copy_handovers(stream, &to).await?;
    let copy = Stream::of(to.clone(), stream);
    let records = record_sizes(&to, names::COMMITS).await?;
    let from = newest(&records);
    let mut mirror = Mirror {
        stream,
        to: &to,
        work,
        observer: options.observer.clone(),
        source,
        there: sizes(&copy).await?,
        floor,
        copy_floor: copy.pruned().await?,
        report: Mirrored { from, problems: lost, ..Mirrored::default() },
    };
    let ours = record_sizes(stream.bucket(), names::COMMITS).await?;
    for commit in &commits {
        let (version, file) = (commit.record.version, names::commit_file(commit.record.version));
        mirror.report.to = Some(version);
        let age = if from >= Some(version) { Age::Old } else { Age::NewVersion };
        mirror.copy_objects(objects_of(&commit.record), age).await?;
        // What is there was compared when it was written; the newest is again.
        let is_whole = records.get(&file).is_some_and(|bytes| ours.get(&file) == Some(bytes));
        if !is_whole || from == Some(version) {
            copy_record(stream, &to, &names::commit(version), Some(commit.digest)).await?;
        }
    }
    mirror.report.lost_versions(Some(top));
    if let Some(version) = mirror.report.to.max(from) {
        copy.hint(version).await;
    }
    mirror.copy_edges(&edges, top).await?;
    let pruned = stream.bucket().list(names::PRUNED, None).await?;
    for pruned in pruned.iter().filter(|object| names::pruned_floor(&object.name).is_some()) {
        copy_record(stream, &to, &format!("{}/{}", names::PRUNED, pruned.name), None).await?;
    }
    Ok(mirror.report)
}

/// The commits whose records can be read, which is checked to be a chain as far as it goes; and what is wrong
/// with the others.
async fn readable(stream: &Stream, top: Version) -> Result<(Vec<Commit>, Vec<Problem>), StoreError> {
    let (mut commits, mut lost) = (Vec::new(), Vec::new());
    for (_, found) in stream.each_commit(top, &Budget::of(stream)).await? {
        match found {
            Ok(commit) => commits.push(commit),
            Err(error) if error.is_of_record() => lost.push(Problem::of(error)?),
            Err(error) => return Err(error),
        }
    }
    for run in runs(commits.clone()) {
        History::new(run, [])?;
    }
    Ok((commits, lost))
}

impl Mirrored {
    /// Writes down that the stream, which ends with `top`, has lost versions that the copy has.
    fn lost_versions(&mut self, top: Option<Version>) {
        let lost = top.map_or(Some(Version::FIRST), Version::next);
        let (Some(first), Some(last)) = (lost, self.from.filter(|from| Some(*from) > top)) else { return };
        let versions = if first == last {
            format!("version {last}, which the stream has")
        } else {
            format!("versions {first} to {last}, which the stream has")
        };
        let what = format!(
            "the copy has {versions} not: if they were lost, copy their records and objects back from the copy; if they \
             were given up, mirror to an empty place"
        );
        self.problems.push(Problem { name: names::commit(first), what });
    }
}

/// The newest version of a copy, by its records.
fn newest(records: &BTreeMap<String, u64>) -> Option<Version> {
    end_of_run(None, records.keys().filter_map(|name| names::commit_version(name)))
}

/// The sizes of all data objects, by key.
async fn sizes(stream: &Stream) -> Result<BTreeMap<Key, u64>, StoreError> {
    Ok(stream.data_objects().await?.into_iter().map(|(key, listed)| (key, listed.bytes)).collect())
}

/// The sizes of the records in a folder, by file.
async fn record_sizes(bucket: &Bucket, folder: &str) -> Result<BTreeMap<String, u64>, StoreError> {
    let listed = bucket.list(folder, None).await?;
    Ok(listed.into_iter().map(|object| (object.name, object.bytes)).collect())
}

/// The objects of a version, each with the lowest version that it is of use for: below a floor it may be
/// gone.
fn objects_of(record: &CommitRecord) -> Vec<(&ObjectRef, Version)> {
    let start = record.delta.as_ref().map_or(record.version, |delta| delta.base.version);
    let delta = record.delta.iter().flat_map(|delta| delta.objects()).map(|object| (object, start));
    let anchor = record.anchor.iter().flat_map(|anchor| anchor.objects());
    let companions = record.companions.iter().map(|companion| &companion.object);
    delta.chain(anchor.chain(companions).map(|object| (object, record.version))).collect()
}

/// A copy that is brought up to date.
struct Mirror<'a> {
    stream: &'a Stream,
    to: &'a Bucket,
    work: ConfinedPath,
    observer: Observer,
    /// What the stream lists.
    source: BTreeMap<Key, u64>,
    /// What the copy lists, and what was copied since.
    there: BTreeMap<Key, u64>,
    /// Below this one objects of the stream may be gone,
    floor: Option<Version>,
    /// and below this one those of the copy.
    copy_floor: Option<Version>,
    report: Mirrored,
}

/// What became of an object.
enum Passed {
    Copied,
    /// A collector has taken it.
    Collected,
    Bad(StoreError),
}

/// What the objects are of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Age {
    /// A version that the copy does not have yet: without one of its objects it must not get it.
    NewVersion,
    /// An edge that the copy does not have: it is whole without.
    NewEdge,
    /// What the copy has had.
    Old,
}

impl Mirror<'_> {
    /// Copies those objects that the copy lacks, and says whether it has all of them then. Without one of a
    /// new version it fails; else what cannot be copied is written down.
    async fn copy_objects(
        &mut self,
        objects: Vec<(&ObjectRef, Version)>,
        age: Age,
    ) -> Result<bool, StoreError> {
        let has = |listed: &BTreeMap<Key, u64>, object: &ObjectRef| {
            listed.get(&object.key).is_some_and(|bytes| *bytes == object.bytes)
        };
        let mut lacking = Vec::new();
        for (object, start) in objects {
            if !has(&self.there, object) {
                // What a collector has taken from the copy stays away.
                if age != Age::Old || Some(start) >= self.copy_floor {
                    lacking.push((object, start));
                }
            } else if age == Age::Old && Some(start) >= self.floor && !has(&self.source, object) {
                let what = "it is not in the store, or has another length; the copy has it";
                self.problem(object.key.to_string(), what);
            }
        }
        let total = lacking.iter().fold(0_u64, |sum, (object, _)| sum.saturating_add(object.bytes));
        self.observer.start(Phase::Download, total);
        let (this, at_once) = (&*self, self.stream.policy().transfers.parallel_downloads);
        let passed = buffered_all(lacking, at_once, |(object, start)| async move {
            let passed = match this.copy_object(object).await {
                Ok(()) => Passed::Copied,
                Err(StoreError::Missing { .. }) if Some(start) < this.floor => Passed::Collected,
                Err(error @ (StoreError::Missing { .. } | StoreError::Damaged { .. }))
                    if age != Age::NewVersion =>
                {
                    Passed::Bad(error)
                }
                Err(error) => return Err(error),
            };
            Ok((object, passed))
        })
        .await?;
        let mut is_whole = true;
        for (object, passed) in passed {
            match passed {
                Passed::Copied => {
                    let report = &mut self.report;
                    report.objects = report.objects.saturating_add(1);
                    report.bytes = report.bytes.saturating_add(object.bytes);
                    report.restored = report.restored.saturating_add(u64::from(age == Age::Old));
                    self.there.insert(object.key.clone(), object.bytes);
                    continue;
                }
                Passed::Collected => {}
                Passed::Bad(StoreError::Damaged { name, what }) => self.problem(name, what),
                Passed::Bad(_) => self.problem(object.key.to_string(), "it is not in the store"),
            }
            is_whole = false;
        }
        Ok(is_whole)
    }

    async fn copy_object(&self, object: &ObjectRef) -> Result<(), StoreError> {
        // By name: a companion has the same contents twice, under `companions/` and in the anchor.
        let file = self.work.join(ObjectDigest::of(object.key.as_str().as_bytes()).to_string());
        self.stream.bucket().download(object, &file, &self.observer).await?;
        let uploaded = self.to.upload(object.key.clone(), &file, &Observer::default()).await?;
        local::remove(&file)?;
        if uploaded != *object {
            // Left there it would be taken for the object the next time, as it has its name and size.
            self.to.delete(object.key.as_str()).await?;
            let what = "its copy on local disk was altered".into();
            return Err(StoreError::Damaged { name: object.key.to_string(), what });
        }
        Ok(())
    }

    async fn copy_edges(&mut self, listed: &[Listed], top: Version) -> Result<(), StoreError> {
        let records = record_sizes(self.to, names::EDGES).await?;
        for listed in listed {
            let name = format!("{}/{}", names::EDGES, listed.name);
            if names::edge_ends(&listed.name).is_none_or(|(target, ..)| target > top) {
                continue;
            }
            let edge = match self.stream.edge(&listed.name).await {
                Ok(Some((edge, _))) => edge,
                // Collected since it was listed.
                Ok(None) => continue,
                Err(error @ StoreError::Object { .. }) => return Err(error),
                Err(error) => {
                    self.problem(name, error);
                    continue;
                }
            };
            let Some(edge) = edge.edge() else { continue };
            let is_there = records.get(&listed.name) == Some(&listed.bytes);
            let age = if is_there { Age::Old } else { Age::NewEdge };
            let start = edge.base().map_or(edge.target.version, |base| base.version);
            let objects = edge.all_objects().into_iter().map(|object| (object, start)).collect();
            if self.copy_objects(objects, age).await? && !is_there {
                copy_record(self.stream, self.to, &name, None).await?;
                self.report.edges = self.report.edges.saturating_add(1);
            }
        }
        Ok(())
    }

    /// Writes down what is wrong with the stream that is copied.
    fn problem(&mut self, name: String, what: impl ToString) {
        self.report.problems.push(Problem { name, what: what.to_string() });
    }
}

/// Before the versions that the next key has signed: without it they are of nobody whom readers trust.
async fn copy_handovers(stream: &Stream, to: &Bucket) -> Result<(), StoreError> {
    for (name, bytes) in stream.handover_records().await? {
        put_record(to, &name, bytes).await?;
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

/// Puts a record where none is, or what is left of one that was damaged.
async fn put_record(to: &Bucket, name: &str, bytes: Bytes) -> Result<(), StoreError> {
    let created = create(to, name, bytes.clone(), Writers::Single).await.map_err(|e| e.for_name(name))?;
    let Created::Theirs(found) = created else { return Ok(()) };
    if serde_json::from_slice::<serde::de::IgnoredAny>(&found).is_err() {
        tracing::warn!("{name} of the copy is damaged: not JSON. It is copied again");
        return to.put(name, bytes).await;
    }
    let place = to.place();
    let what = match StreamRecord::parse(&found) {
        Ok(theirs) if name == names::STREAM => format!("holds another stream, {}", theirs.stream),
        _ => format!("has another {name}: it is no copy of this stream"),
    };
    Err(StoreError::AnotherCopy { place, what })
}
