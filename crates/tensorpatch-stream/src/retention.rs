//! What a collector keeps, and what it deletes (spec/stream.md section 11).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;

use crate::history::History;
use crate::names::{self, Key, Version};
use crate::plan::Plan;
use crate::record::{NamedObject, ObjectRef};

/// An object that a list has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The name below the folder that was listed.
    pub name: String,
    /// The size.
    pub bytes: u64,
    /// Seconds since 1970 by the store's clock.
    pub modified: i64,
}

impl Listed {
    /// Whether it was written more than `grace` before `now`, both by the store's clock.
    pub fn is_older(&self, now: i64, grace: Duration) -> bool {
        u64::try_from(now.saturating_sub(self.modified)).is_ok_and(|age| age > grace.as_secs())
    }
}

/// An object to delete.
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

/// The lowest version that is needed: the `keep` newest up to `tip` are, and those of live leases.
///
/// A lease from the future, or of a version that never was, holds nothing back.
pub fn lowest_needed(tip: Version, keep: u64, leases: impl IntoIterator<Item = Version>) -> Version {
    let kept =
        Version::new(tip.get().saturating_sub(keep.max(1).saturating_sub(1))).unwrap_or(Version::FIRST);
    leases.into_iter().filter(|needed| *needed <= tip).fold(kept, Version::min)
}

/// The newest version not above `lowest` that has an anchor; `None` if there is none.
pub fn floor(history: &History, lowest: Version) -> Option<Version> {
    history.anchors().map(|edge| edge.target.version).filter(|version| *version <= lowest).max()
}

/// The test objects among `listed` that go.
pub fn garbage_probes<'a>(
    listed: impl IntoIterator<Item = &'a Listed>,
    now: i64,
    grace: Duration,
) -> Vec<Garbage> {
    let abandoned = listed.into_iter().filter(|probe| probe.is_older(now, grace));
    let garbage = |probe: &Listed| Garbage {
        name: format!("{}/{}", names::PROBE, probe.name),
        bytes: probe.bytes,
        why: "it was abandoned long ago",
    };
    abandoned.map(garbage).collect()
}

/// What stays.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    floor: Option<Version>,
    objects: BTreeMap<Key, ObjectRef>,
    /// The targets of edges that stay although they start below the floor.
    pinned_edges: BTreeSet<Version>,
}

impl Kept {
    /// Everything at or above `floor`.
    pub fn from_floor(history: &History, floor: Version) -> Self {
        let mut kept = Self { floor: Some(floor), ..Self::default() };
        for commit in history.commits().filter(|commit| commit.record.version >= floor) {
            kept.companions(&commit.record.companions);
        }
        for edge in history.edges().iter().filter(|edge| edge.target.version >= floor) {
            // The delta into the floor, and folds from below it, lead from versions that are not kept.
            if edge.base().is_none_or(|base| base.version >= floor) {
                kept.all(edge.all_objects());
            }
        }
        kept
    }

    /// Keeps the path to a pinned version too, with the companions of every version on it: in place a replica holds each
    /// of them for a moment.
    pub fn add_path(&mut self, history: &History, plan: &Plan) {
        for edge in &plan.edges {
            if let Some(commit) = history.commit(edge.target.version) {
                self.companions(&commit.record.companions);
            }
            self.pinned_edges.insert(edge.target.version);
            self.all(edge.all_objects());
        }
    }

    /// The objects that stay.
    pub fn objects(&self) -> impl Iterator<Item = &ObjectRef> {
        self.objects.values()
    }

    /// The data objects up to `tip` among `listed` that go.
    pub fn garbage<'a>(
        &self,
        history: &History,
        tip: Version,
        listed: impl IntoIterator<Item = (&'a Key, &'a Listed)>,
        now: i64,
        grace: Duration,
    ) -> Vec<Garbage> {
        let edges = history.edges().iter().flat_map(|edge| edge.all_objects());
        let companions = history.commits().flat_map(|commit| &commit.record.companions);
        let named: BTreeSet<&Key> =
            edges.map(|object| &object.key).chain(companions.map(|named| &named.object.key)).collect();
        let mut garbage = Vec::new();
        for (key, object) in listed {
            // What is made for a version that is still to come is somebody's work in progress.
            if key.version().is_none_or(|version| version > tip) || self.objects.contains_key(key) {
                continue;
            }
            let why = if named.contains(key) {
                "no kept version needs it"
            } else if matches!(key.folder(), "patches" | "companions") {
                // The commit of its version exists and does not name it, so none ever will.
                "it was abandoned"
            } else if object.is_older(now, grace) {
                "it was abandoned long ago"
            } else {
                continue;
            };
            garbage.push(Garbage { name: key.to_string(), bytes: object.bytes, why });
        }
        garbage
    }

    /// The edge records up to `tip` among `listed` that go: those that start below the floor and that no pin needs.
    pub fn garbage_edges<'a>(
        &self,
        tip: Version,
        listed: impl IntoIterator<Item = &'a Listed>,
    ) -> Vec<Garbage> {
        let mut garbage = Vec::new();
        for edge in listed {
            let Some((target, base, _)) = names::edge_ends(&edge.name) else { continue };
            let is_below = self.floor.is_some_and(|floor| base.unwrap_or(target) < floor);
            if target <= tip && is_below && !self.pinned_edges.contains(&target) {
                let name = format!("{}/{}", names::EDGES, edge.name);
                garbage.push(Garbage { name, bytes: edge.bytes, why: "it starts below the floor" });
            }
        }
        garbage
    }

    fn all<'a>(&mut self, objects: impl IntoIterator<Item = &'a ObjectRef>) {
        self.objects.extend(objects.into_iter().map(|object| (object.key.clone(), object.clone())));
    }

    fn companions(&mut self, companions: &[NamedObject]) {
        self.all(companions.iter().map(|companion| &companion.object));
    }
}
