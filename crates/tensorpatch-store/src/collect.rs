//! Collecting what nobody can need any more (spec/stream.md section 11).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::bucket::{Listed, all};
use crate::error::StoreError;
use crate::names::{self, Key, Nonce, Version};
use crate::plan::{History, Way};
use crate::record::{NamedObject, ObjectRef};
use crate::stream::Stream;

/// Requests at once.
const AT_ONCE: usize = 16;
const PRUNED: &str = "pruned";

/// What to keep.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CollectPolicy {
    /// How many of the newest versions must stay reachable; at least the tip does.
    pub keep: u64,
    /// Versions that must stay reachable besides.
    pub pins: BTreeSet<Version>,
    /// How old abandoned objects must be whose making cannot be seen to be over.
    pub grace: Duration,
    /// Whether to delete, and not only to say what would be.
    pub delete: bool,
}

impl Default for CollectPolicy {
    /// A hundred versions, a day of grace, and nothing is deleted.
    fn default() -> Self {
        Self { keep: 100, pins: BTreeSet::new(), grace: Duration::from_secs(86_400), delete: false }
    }
}

impl CollectPolicy {
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

    /// The same, but really deleting.
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
    /// Who keeps it there: the holders of leases.
    pub leases: Vec<String>,
    /// Objects that are kept.
    pub kept_objects: u64,
    /// Their bytes.
    pub kept_bytes: u64,
    /// The objects that go.
    pub garbage: Vec<Garbage>,
    /// Their bytes.
    pub garbage_bytes: u64,
    /// Whether they were deleted.
    pub deleted: bool,
}

/// An object that goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Garbage {
    /// Its name.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Why it goes.
    pub why: &'static str,
}

/// A pruning record: what is below the floor may be gone.
#[derive(Debug, Serialize, Deserialize)]
struct Pruned {
    floor: Version,
}

impl Stream {
    /// Finds, and if the policy says so deletes, what neither the policy nor a lease can need.
    ///
    /// # Errors
    /// If the stream is empty, the store fails, or something that is to be kept is missing: then nothing is deleted.
    pub async fn collect(&self, policy: &CollectPolicy) -> Result<Collected, StoreError> {
        let tip = self.tip().await?.ok_or(StoreError::Empty)?;
        let top = tip.record.version;
        let history = self.whole_history(top).await?;
        let now = self.store_now().await?;
        let (leases, expired) = self.leases(now).await?;
        let listed = self.data_objects().await?;

        let lowest = Version::new(top.get().saturating_sub(policy.keep.max(1).saturating_sub(1)));
        let mut lowest = lowest.unwrap_or(Version::FIRST);
        // A lease from the future, or of a version that never was, holds nothing back.
        for lease in leases.iter().filter(|lease| lease.needs <= top) {
            lowest = lowest.min(lease.needs);
        }
        let mut floor = floor(&history, lowest)?;
        let mut keep = self.kept(&history, floor, &policy.pins).await?;
        match (self.check_complete(&keep, &listed).await, self.pruned().await?) {
            // What an earlier collector took is not missing. The record of it counts only where something is gone.
            (Err(StoreError::Missing { .. }), Some(pruned))
                if pruned > floor && history.anchors().any(|step| step.target.version == pruned) =>
            {
                floor = pruned;
                keep = self.kept(&history, floor, &policy.pins).await?;
                self.check_complete(&keep, &listed).await?;
            }
            (complete, _) => complete?,
        }

        let garbage = self.garbage(&history, floor, top, &keep, &listed, now, policy.grace).await?;
        let sum = |sizes: &mut dyn Iterator<Item = u64>| sizes.fold(0_u64, u64::saturating_add);
        let report = Collected {
            tip: top,
            floor,
            leases: leases.into_iter().map(|lease| lease.holder).collect(),
            kept_objects: keep.objects.len() as u64,
            kept_bytes: sum(&mut keep.objects.values().map(|object| object.bytes)),
            garbage_bytes: sum(&mut garbage.iter().map(|garbage| garbage.bytes)),
            garbage,
            deleted: policy.delete,
        };
        if policy.delete {
            self.prune(floor).await?;
            // Edges first: a plan must not find a way whose objects go.
            let edges = report.garbage.iter().filter(|garbage| garbage.name.starts_with(names::EDGES));
            all(edges, AT_ONCE, |garbage| self.bucket().delete(&garbage.name)).await?;
            let rest = report.garbage.iter().filter(|garbage| !garbage.name.starts_with(names::EDGES));
            all(rest, AT_ONCE, |garbage| self.bucket().delete(&garbage.name)).await?;
            all(expired, AT_ONCE, |name| async move { self.bucket().delete(&name).await }).await?;
        }
        Ok(report)
    }

    /// All commits and edges up to `top`.
    pub(crate) async fn whole_history(&self, top: Version) -> Result<History, StoreError> {
        let commits = self.commits(Version::FIRST, top).await?;
        let edges = self.edges(Version::FIRST, top).await?;
        Ok(History::new(commits, edges)?)
    }

    /// The sizes of all data objects, by key.
    pub(crate) async fn data_objects(&self) -> Result<BTreeMap<Key, Listed>, StoreError> {
        let mut objects = BTreeMap::new();
        for folder in names::DATA_FOLDERS {
            for object in self.bucket().list(folder, None).await? {
                // What has another name was not put there by this protocol, and is none of its business.
                if let Ok(key) = Key::new(format!("{folder}/{}", object.name)) {
                    objects.insert(key, object);
                }
            }
        }
        Ok(objects)
    }

    async fn kept(
        &self,
        history: &History,
        floor: Version,
        pins: &BTreeSet<Version>,
    ) -> Result<Kept, StoreError> {
        let mut keep = Kept::default();
        for commit in history.commits().filter(|commit| commit.record.version >= floor) {
            keep.companions(&commit.record.companions);
        }
        for step in history.ways().iter().filter(|step| step.target.version >= floor) {
            // The delta into the floor, and folds from below it, lead from versions that are not kept.
            match &step.way {
                Way::Delta(delta) if delta.base.version < floor => {}
                Way::Delta(delta) => keep.all(delta.objects()),
                Way::Anchor(anchor) => keep.all(anchor.objects()),
            }
        }
        for pin in pins.iter().filter(|pin| **pin < floor) {
            let plan = self.plan(history, None, *pin, usize::MAX, BTreeSet::new()).await?;
            for step in &plan.steps {
                // In place a replica holds each of them for a moment.
                if let Some(commit) = history.commit(step.target.version) {
                    keep.companions(&commit.record.companions);
                }
                keep.edges.insert(step.target.version);
                match &step.way {
                    Way::Delta(delta) => keep.all(delta.objects()),
                    Way::Anchor(anchor) => keep.all(anchor.objects()),
                }
            }
        }
        Ok(keep)
    }

    /// What is to stay must be there: a stream that is damaged already is not for a collector to touch.
    async fn check_complete(&self, keep: &Kept, listed: &BTreeMap<Key, Listed>) -> Result<(), StoreError> {
        let doubtful = keep
            .objects
            .values()
            .filter(|object| listed.get(&object.key).is_none_or(|listed| listed.bytes != object.bytes));
        all(doubtful, AT_ONCE, |object| self.bucket().check_there(object)).await?;
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "the whole of what a decision about an object rests on")]
    async fn garbage(
        &self,
        history: &History,
        floor: Version,
        top: Version,
        keep: &Kept,
        listed: &BTreeMap<Key, Listed>,
        now: i64,
        grace: Duration,
    ) -> Result<Vec<Garbage>, StoreError> {
        let mut garbage = Vec::new();
        let mut goes = |name: String, bytes, why| garbage.push(Garbage { name, bytes, why });
        let named: BTreeSet<&Key> = history
            .ways()
            .iter()
            .flat_map(|step| match &step.way {
                Way::Delta(delta) => delta.objects().collect::<Vec<_>>(),
                Way::Anchor(anchor) => anchor.objects().collect(),
            })
            .map(|object| &object.key)
            .chain(history.commits().flat_map(|c| c.record.companions.iter().map(|n| &n.object.key)))
            .collect();
        for (key, object) in listed {
            // What is made for a version that is still to come is somebody's work in progress.
            if key.version().is_none_or(|version| version > top) {
                continue;
            }
            if keep.objects.contains_key(key) {
                continue;
            }
            if named.contains(key) {
                goes(key.to_string(), object.bytes, "no kept version needs it");
            } else if matches!(key.folder(), "parts" | "companions") {
                // The commit of its version exists and does not name it, so none ever will.
                goes(key.to_string(), object.bytes, "it was abandoned");
            } else if is_older(object.modified, now, grace) {
                goes(key.to_string(), object.bytes, "it was abandoned long ago");
            }
        }
        for edge in self.bucket().list(names::EDGES, None).await? {
            let Some((target, base, _)) = names::edge_ends(&edge.name) else { continue };
            let from = base.unwrap_or(target);
            if target <= top && from < floor && !keep.edges.contains(&target) {
                goes(format!("{}/{}", names::EDGES, edge.name), edge.bytes, "it starts below the floor");
            }
        }
        for probe in self.bucket().list("probe", None).await? {
            if is_older(probe.modified, now, grace) {
                goes(format!("probe/{}", probe.name), probe.bytes, "it was abandoned long ago");
            }
        }
        Ok(garbage)
    }

    /// Says that what is below the floor may be gone, before it goes.
    async fn prune(&self, floor: Version) -> Result<(), StoreError> {
        if self.pruned().await?.is_some_and(|known| known >= floor) || floor == Version::FIRST {
            return Ok(());
        }
        let name = format!("{PRUNED}/{}-{}.json", floor.digits(), Nonce::random());
        let bytes = serde_json::to_vec(&Pruned { floor })
            .map_err(|e| StoreError::Damaged { name: name.clone(), what: e.to_string() })?;
        self.bucket().put(&name, bytes.into()).await
    }

    /// The highest floor that a collector has written down; the records below it may name objects that are gone.
    pub(crate) async fn pruned(&self) -> Result<Option<Version>, StoreError> {
        let listed = self.bucket().list(PRUNED, None).await?;
        Ok(listed.iter().filter_map(|object| Version::from_digits(object.name.get(..20)?)).max())
    }
}

/// Objects that stay, and the targets of edges that stay although they start below the floor.
#[derive(Debug, Default)]
struct Kept {
    objects: BTreeMap<Key, ObjectRef>,
    edges: BTreeSet<Version>,
}

impl Kept {
    fn all<'a>(&mut self, objects: impl Iterator<Item = &'a ObjectRef>) {
        self.objects.extend(objects.map(|object| (object.key.clone(), object.clone())));
    }

    fn companions(&mut self, companions: &[NamedObject]) {
        self.all(companions.iter().map(|companion| &companion.object));
    }
}

/// The newest version not above `lowest` that has an anchor; that it is whole is checked with all that stays.
fn floor(history: &History, lowest: Version) -> Result<Version, StoreError> {
    let targets = history.anchors().map(|step| step.target.version).filter(|version| *version <= lowest);
    targets
        .max()
        .ok_or_else(|| StoreError::Missing { name: format!("an anchor at or below version {lowest}") })
}

fn is_older(modified: i64, now: i64, grace: Duration) -> bool {
    u64::try_from(now.saturating_sub(modified)).is_ok_and(|age| age > grace.as_secs())
}
