//! Collecting what nobody can need any more (spec/stream.md section 11).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tensorpatch_stream::lease::LiveLease;
use tensorpatch_stream::retention::{Garbage, Kept, Listed, floor, garbage_probes, lowest_needed};
use tensorpatch_stream::{Commit, Edge, EdgeKind, History, Key, Nonce, ObjectRef, PlanError, Version, names};

use crate::bucket::buffered_all;
use crate::error::StoreError;
use crate::local::unix_now;
use crate::observe::counted;
use crate::stream::Stream;

/// What to keep, and whether to delete the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CollectOptions {
    /// How many of the newest versions must stay reachable; at least the tip does.
    pub keep: u64,
    /// Other versions that must stay reachable.
    pub pins: BTreeSet<Version>,
    /// How old abandoned objects must be whose making cannot be seen to be over.
    pub grace: Duration,
    /// Whether to delete, and not only to say what would be.
    pub delete: bool,
}

impl Default for CollectOptions {
    /// A hundred versions, a day of grace, and nothing is deleted.
    fn default() -> Self {
        Self { keep: 100, pins: BTreeSet::new(), grace: Duration::from_secs(86_400), delete: false }
    }
}

impl CollectOptions {
    /// The same with the newest `versions` kept.
    #[must_use]
    pub fn keeping(mut self, versions: u64) -> Self {
        self.keep = versions;
        self
    }

    /// The same with `version` kept.
    #[must_use]
    pub fn pinning(mut self, version: Version) -> Self {
        self.pins.insert(version);
        self
    }

    /// The same with this grace time.
    #[must_use]
    pub fn with_grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Deletes what is found.
    #[must_use]
    pub fn deleting(mut self) -> Self {
        self.delete = true;
        self
    }
}

/// What was, or would be, collected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Collected {
    /// The newest version.
    pub tip: Version,
    /// The version from which on everything is kept.
    pub floor: Version,
    /// The leases that live, each with the lowest version that it needs.
    pub leases: Vec<LiveLease>,
    /// Objects that are kept.
    pub kept_objects: u64,
    /// Their bytes.
    pub kept_bytes: u64,
    /// The objects that go.
    pub garbage: Vec<Garbage>,
    /// Their bytes.
    pub garbage_bytes: u64,
    /// Objects that no record names and that are too young to go: they may be of a version that is being
    /// published.
    pub young_objects: u64,
    /// Their bytes.
    pub young_bytes: u64,
    /// Whether the garbage was deleted.
    pub deleted: bool,
}

/// A pruning record: what is below the floor may be gone.
#[derive(Debug, Serialize, Deserialize)]
struct Pruned {
    floor: Version,
}

/// Finds, and if the options say so deletes, what neither the options nor a lease can need. Where nothing is
/// deleted nothing is written: the age of objects is then by this machine's clock, else by the store's.
///
/// # Errors
/// If the stream is empty, a pinned version does not exist, or the store fails; [`StoreError::NotKept`] if
/// nothing whole leads to a version that is to be kept, or something else of it is missing; if something is
/// to be deleted, also if the stream is signed and read without a trusted key, or the anchor that takes the
/// place of an older one is not the version that it should be. Nothing is deleted then.
///
/// # Cancel safety
/// The future may be dropped at any time. Some of the garbage is then deleted, edges before objects; the next
/// call deletes the rest.
pub async fn collect(stream: &Stream, options: &CollectOptions) -> Result<Collected, StoreError> {
    if options.delete {
        stream.require_keys("deleting what is not needed")?;
    }
    let tip = stream.tip().await?.ok_or(StoreError::Empty)?.record.version;
    if let Some(wanted) = options.pins.iter().copied().find(|pin| *pin > tip) {
        return Err(StoreError::NoVersion { wanted, tip: Some(tip) });
    }
    let edge_records = stream.all_edges().await?;
    let (mut history, lost) = stream.readable_history(tip).await?;
    let first = history.commits().next().map_or(tip, |commit| commit.record.version);
    if let Some(pin) = options.pins.range(..first).next() {
        return Err(lost.unwrap_or(StoreError::NoVersion { wanted: *pin, tip: Some(tip) }));
    }
    // Where nothing is deleted nothing is written either, and this machine's clock has to do.
    let now = if options.delete { stream.store_now().await? } else { local_now() };
    let listed = stream.data_objects().await?;
    let newest = listed.values().map(|object| object.modified).max().unwrap_or(now);
    let (leases, expired) = stream.leases(now, newest.max(now)).await?;
    let broken = broken_edges(stream, &history, &listed).await?;
    history.leave_out(&broken);

    let lowest = lowest_needed(tip, options.keep, leases.iter().map(|lease| lease.needs));
    let wanted = floor(&history, lowest).ok_or_else(|| not_kept(&history, lowest))?;
    let mut floor = wanted;
    let mut kept = kept(stream, &history, floor, &options.pins).await?;
    match (check_complete(stream, &kept, &listed).await, stream.pruned().await?) {
        // What an earlier collector took is not missing. The record of it counts only where something is
        // gone, and releases nothing that is there.
        (Err(StoreError::Missing { .. }), Some(pruned))
            if pruned > floor && history.anchors().any(|edge| edge.target.version == pruned) =>
        {
            floor = pruned;
            kept = self::kept(stream, &history, floor, &options.pins).await?;
            check_complete(stream, &kept, &listed).await?;
            let is_there = |object: &ObjectRef| listed.contains_key(&object.key);
            kept.add_what_is_there(&history, wanted, is_there);
        }
        (complete, _) => complete?,
    }
    if !broken.is_empty() {
        check_goes_around(&history, floor, &broken)?;
        let objects = broken.iter().flat_map(Edge::all_objects);
        kept.add_objects(objects.filter(|object| listed.contains_key(&object.key)));
    }
    if options.delete {
        check_successor(stream, &history, floor, &kept, &listed).await?;
    }

    let edges = kept.garbage_edges(tip, &edge_records);
    let probes = stream.bucket().list(names::PROBE, None).await?;
    let older_than = |grace| {
        let mut garbage = kept.garbage(&history, tip, &listed, now, grace);
        garbage.extend(garbage_probes(&probes, now, grace));
        garbage
    };
    let (mut objects, of_any_age) = (older_than(options.grace), older_than(Duration::ZERO));
    let young_objects = of_any_age.len().saturating_sub(objects.len()) as u64;
    let young_bytes = bytes_of(&of_any_age).saturating_sub(bytes_of(&objects));
    if options.delete {
        prune(stream, floor).await?;
        // Edges first: a plan must not find one whose objects go.
        let delete = |garbage: &Garbage| {
            let name = garbage.name.clone();
            async move { stream.bucket().delete(&name).await }
        };
        let at_once = stream.policy().transfers.parallel_requests;
        buffered_all(&edges, at_once, delete).await?;
        buffered_all(&objects, at_once, delete).await?;
        buffered_all(&expired, at_once, |name| stream.bucket().delete(name)).await?;
    }
    objects.extend(edges);
    Ok(Collected {
        tip,
        floor,
        leases,
        kept_objects: kept.objects().count() as u64,
        kept_bytes: kept.objects().fold(0, |sum, object| sum.saturating_add(object.bytes)),
        garbage_bytes: bytes_of(&objects),
        garbage: objects,
        young_objects,
        young_bytes,
        deleted: options.delete,
    })
}

fn bytes_of(garbage: &[Garbage]) -> u64 {
    garbage.iter().fold(0, |sum, garbage| sum.saturating_add(garbage.bytes))
}

fn local_now() -> i64 {
    i64::try_from(unix_now()).unwrap_or(i64::MAX)
}

/// The edges that cannot be taken, since objects of them are gone, without those that a collector took.
async fn broken_edges(
    stream: &Stream,
    history: &History,
    listed: &BTreeMap<Key, Listed>,
) -> Result<Vec<Edge>, StoreError> {
    let pruned = stream.pruned().await?.unwrap_or(Version::FIRST);
    let starts = |edge: &&Edge| edge.base().map_or(edge.target.version, |base| base.version) >= pruned;
    let is_doubtful =
        |object: &&ObjectRef| listed.get(&object.key).is_none_or(|listed| listed.bytes != object.bytes);
    let edges = history.edges().iter().filter(starts);
    let doubtful: BTreeSet<&ObjectRef> = edges.flat_map(Edge::objects).filter(is_doubtful).collect();
    let at_once = stream.policy().transfers.parallel_requests;
    let missing = buffered_all(doubtful, at_once, |object| async move {
        match stream.bucket().check_there(object).await {
            Ok(()) => Ok(None),
            Err(StoreError::Missing { .. } | StoreError::Damaged { .. }) => Ok(Some(object)),
            Err(error) => Err(error),
        }
    })
    .await?;
    let missing: BTreeSet<&ObjectRef> = missing.into_iter().flatten().collect();
    let edges = history.edges().iter().filter(starts);
    Ok(edges.filter(|edge| edge.objects().iter().any(|object| missing.contains(object))).cloned().collect())
}

/// Checks that every version from `floor` on can be reached without the broken edges, from what is kept
/// alone.
fn check_goes_around(history: &History, floor: Version, broken: &[Edge]) -> Result<(), StoreError> {
    let is_below = |edge: &&Edge| edge.base().map_or(edge.target.version, |base| base.version) < floor;
    let below: Vec<Edge> = history.edges().iter().filter(is_below).cloned().collect();
    let mut kept = history.clone();
    kept.leave_out(&below);
    let reachable = kept.reachable(&BTreeSet::new());
    let mut versions = history.commits().map(|commit| commit.record.version);
    if let Some(lost) = versions.find(|version| *version >= floor && !reachable.contains(version)) {
        return Err(not_kept(history, lost));
    }
    let broken = counted(broken.len(), "edge is", "edges are");
    tracing::warn!("{broken} broken: every version can be reached without");
    Ok(())
}

/// Says that a version which is to stay cannot be reached, and from which on everything can.
fn not_kept(history: &History, wanted: Version) -> StoreError {
    let reachable = history.reachable(&BTreeSet::new());
    let lost = |commit: &&Commit| !reachable.contains(&commit.record.version);
    let last = history.commits().filter(lost).map(|commit| commit.record.version).max();
    let anchors = history.anchors().map(|edge| edge.target.version);
    let from = anchors.filter(|anchor| *anchor >= wanted && last.is_none_or(|last| *anchor > last)).min();
    StoreError::NotKept { wanted, from, tip: history.commits().last().map(|commit| commit.record.version) }
}

/// Everything from `floor` on, and the paths to pinned versions below it.
async fn kept(
    stream: &Stream,
    history: &History,
    floor: Version,
    pins: &BTreeSet<Version>,
) -> Result<Kept, StoreError> {
    let mut kept = Kept::from_floor(history, floor);
    for pin in pins.range(..floor) {
        let plan = match stream.complete_plan(history, None, *pin, usize::MAX, BTreeSet::new()).await {
            Err(error @ StoreError::Plan(PlanError::NoPath { .. })) => {
                let collected = stream.pruned().await?.filter(|oldest| pin < oldest);
                return Err(collected.map_or(error, |oldest| StoreError::Collected { wanted: *pin, oldest }));
            }
            plan => plan?,
        };
        kept.add_path(history, &plan);
    }
    Ok(kept)
}

/// Checks that what is to stay is there: a stream that is damaged already is not for a collector to touch.
async fn check_complete(
    stream: &Stream,
    kept: &Kept,
    listed: &BTreeMap<Key, Listed>,
) -> Result<(), StoreError> {
    let is_doubtful =
        |object: &&ObjectRef| listed.get(&object.key).is_none_or(|listed| listed.bytes != object.bytes);
    let at_once = stream.policy().transfers.parallel_requests;
    buffered_all(kept.objects().filter(is_doubtful), at_once, |object| stream.bucket().check_there(object))
        .await?;
    Ok(())
}

/// Reads the anchor that everything rests on from now on, before anything goes that leads to a version.
async fn check_successor(
    stream: &Stream,
    history: &History,
    floor: Version,
    kept: &Kept,
    listed: &BTreeMap<Key, Listed>,
) -> Result<(), StoreError> {
    let stays: BTreeSet<&Key> = kept.objects().map(|object| &object.key).collect();
    let goes = |object: &&ObjectRef| !stays.contains(&object.key) && listed.contains_key(&object.key);
    // What the records before the history name may go, too.
    let begins = history.commits().next().map(|commit| commit.record.version);
    if begins == Some(Version::FIRST)
        && !history.edges().iter().any(|edge| edge.all_objects().iter().any(goes))
    {
        return Ok(());
    }
    let mut first = None;
    for edge in history.anchors().filter(|edge| edge.target.version == floor) {
        let (EdgeKind::Anchor(anchor), Some(commit)) = (&edge.kind, history.commit(floor)) else { continue };
        match stream.check_anchor(commit, anchor).await {
            Ok(()) => return Ok(()),
            Err(error @ (StoreError::Object { .. } | StoreError::Cancelled(_))) => return Err(error),
            Err(error) => {
                tracing::warn!("an anchor of version {floor} is not what it should be: {error}");
                first.get_or_insert(error);
            }
        }
    }
    Err(first.unwrap_or_else(|| StoreError::Missing { name: format!("an anchor of version {floor}") }))
}

/// Says that what is below the floor may be gone, before it goes.
async fn prune(stream: &Stream, floor: Version) -> Result<(), StoreError> {
    if stream.pruned().await?.is_some_and(|known| known >= floor) || floor == Version::FIRST {
        return Ok(());
    }
    let name = format!("{}/{}-{}.json", names::PRUNED, floor.digits(), Nonce::random());
    let bytes = serde_json::to_vec(&Pruned { floor })
        .map_err(|e| StoreError::Damaged { name: name.clone(), what: e.to_string() })?;
    stream.bucket().put(&name, bytes.into()).await
}
