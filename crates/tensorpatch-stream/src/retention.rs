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

    /// Keeps the path to a pinned version too, with the companions of every version on it: in place a replica
    /// holds each of them for a moment.
    pub fn add_path(&mut self, history: &History, plan: &Plan) {
        for edge in &plan.edges {
            if let Some(commit) = history.commit(edge.target.version) {
                self.companions(&commit.record.companions);
            }
            self.pinned_edges.insert(edge.target.version);
            self.all(edge.all_objects());
        }
    }

    /// Keeps the edges from `floor` on, and the companions of these versions, of which everything is there.
    ///
    /// What an earlier collector took does not come back; what it left stays, although nothing leads to it
    /// any more: the pruning record that says so may be anybody's.
    pub fn add_what_is_there(
        &mut self,
        history: &History,
        floor: Version,
        is_there: impl Fn(&ObjectRef) -> bool,
    ) {
        let rest = Self::from_floor(history, floor);
        self.floor = rest.floor;
        for edge in history.edges() {
            let objects = edge.all_objects();
            if objects.iter().all(|object| rest.objects.contains_key(&object.key) && is_there(object)) {
                self.all(objects);
            }
        }
        for commit in history.commits().filter(|commit| commit.record.version >= floor) {
            let companions = commit.record.companions.iter().map(|companion| &companion.object);
            self.all(companions.filter(|object| is_there(object)));
        }
    }

    /// Keeps these objects too.
    pub fn add_objects<'a>(&mut self, objects: impl IntoIterator<Item = &'a ObjectRef>) {
        self.all(objects);
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

    /// The edge records up to `tip` among `listed` that go: those that start below the floor and that no pin
    /// needs.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::ObjectDigest;
    use crate::history::Commit;
    use crate::record::tests::sample;
    use crate::record::{Anchor, EdgeRecord, JsonRecord};

    fn v(number: u64) -> Version {
        Version::new(number).unwrap()
    }

    fn object(key: String) -> ObjectRef {
        ObjectRef { blake3: ObjectDigest::of(key.as_bytes()), key: Key::new(key).unwrap(), bytes: 5 }
    }

    /// Versions 1 to 6 with an anchor of 1 and, as an edge, of 4. Each has a patch and a companion of its
    /// own.
    fn history() -> History {
        let mut commits: Vec<Commit> = Vec::new();
        for version in 1..=6 {
            let before = commits.last().map_or(ObjectDigest::of(b""), |commit| commit.digest);
            let mut record = sample(version, before);
            record.companions[0].object = object(format!("companions/{version:020}-a/config.json"));
            if let Some(anchor) = &mut record.anchor {
                anchor.files[0].object = object(format!("anchors/{version:020}-a/m"));
                anchor.leaves = object(format!("anchors/{version:020}-a.leaves"));
            }
            if let Some(delta) = &mut record.delta {
                delta.patches[0].object = object(format!("patches/{version:020}-a/p"));
            }
            let digest = ObjectDigest::of(&record.to_bytes().unwrap());
            commits.push(Commit { record, digest, signer: None });
        }
        let mut files = commits[0].record.anchor.clone().unwrap().files;
        files[0].object = object(format!("anchors/{:020}-b/m", 4));
        let edge = EdgeRecord {
            stream: commits[0].record.stream,
            publisher: "p".into(),
            nonce: commits[0].record.nonce,
            created: 0,
            target: commits[3].id(),
            delta: None,
            anchor: Some(Anchor { files, leaves: object(format!("anchors/{:020}-b.leaves", 4)) }),
        };
        History::new(commits, [edge]).unwrap()
    }

    /// Every object of the history, and one that nobody names of each folder and version.
    fn listed(history: &History, modified: i64) -> BTreeMap<Key, Listed> {
        let edges =
            history.edges().iter().flat_map(|edge| edge.all_objects()).map(|object| object.key.clone());
        let companions = history.commits().map(|commit| commit.record.companions[0].object.key.clone());
        let folders = ["patches", "companions", "anchors", "folds"];
        let lost = folders.iter().flat_map(|folder| {
            [6, 7].map(|version| Key::new(format!("{folder}/{version:020}-lost/x")).unwrap())
        });
        let listed = |key: Key| (key.clone(), Listed { name: key.to_string(), bytes: 5, modified });
        edges.chain(companions).chain(lost).map(listed).collect()
    }

    fn names(garbage: &[Garbage]) -> Vec<&str> {
        garbage.iter().map(|garbage| garbage.name.as_str()).collect()
    }

    #[test]
    fn the_lowest_version_needed_is_that_of_the_policy_or_of_a_lease() {
        for (tip, keep, leases, lowest) in [
            (9, 1, vec![], 9),
            (9, 3, vec![], 7),
            (9, 0, vec![], 9),
            (9, 100, vec![], 1),
            (9, 1, vec![5, 7], 5),
            (9, 1, vec![10], 9),
        ] {
            let leases = leases.into_iter().map(v);
            assert_eq!(lowest_needed(v(tip), keep, leases), v(lowest), "{tip} {keep}");
        }
    }

    #[test]
    fn the_floor_is_the_newest_anchor_that_is_not_above_what_is_needed() {
        let history = history();
        for (lowest, expected) in [(1, 1), (3, 1), (4, 4), (6, 4)] {
            assert_eq!(floor(&history, v(lowest)), Some(v(expected)), "{lowest}");
        }
        assert_eq!(floor(&History::default(), v(3)), None);
    }

    #[test]
    fn what_is_below_the_floor_goes_and_what_nobody_names_once_it_is_old_enough() {
        let history = history();
        let kept = Kept::from_floor(&history, v(4));
        let lost = ["companions/00000000000000000006-lost/x", "patches/00000000000000000006-lost/x"];
        let below: Vec<String> = (1..=3)
            .map(|version| format!("companions/{version:020}-a/config.json"))
            .chain((2..=4).map(|version| format!("patches/{version:020}-a/p")))
            .chain(["-a/m", "-a.leaves"].map(|name| format!("anchors/{:020}{name}", 1)))
            .collect();
        let mut expected: Vec<&str> = below.iter().map(String::as_str).chain(lost).collect();
        let grace = Duration::from_secs(60);
        let young = kept.garbage(&history, v(6), &listed(&history, 1000), 1060, grace);
        let mut found = names(&young);
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected);
        // Anchors and folds that nobody names go when no publisher can be at work on them any more.
        let old = kept.garbage(&history, v(6), &listed(&history, 1000), 1061, grace);
        let late: Vec<&str> = names(&old).into_iter().filter(|name| !expected.contains(name)).collect();
        assert_eq!(late, ["anchors/00000000000000000006-lost/x", "folds/00000000000000000006-lost/x"]);
    }

    #[test]
    fn the_path_to_a_pinned_version_stays_with_the_companions_on_it() {
        let history = history();
        let mut kept = Kept::from_floor(&history, v(4));
        kept.add_path(&history, &history.plan(None, v(2), &BTreeSet::new(), 9).unwrap());
        let garbage = kept.garbage(&history, v(6), &listed(&history, 0), 0, Duration::from_secs(60));
        let found = names(&garbage);
        for name in ["companions/00000000000000000003-a/config.json", "patches/00000000000000000003-a/p"] {
            assert!(found.contains(&name), "{name} stays");
        }
        for version in [1, 2] {
            assert!(!found.iter().any(|name| name.contains(&format!("{version:020}-a"))), "{found:?}");
        }
        let edge = |target: u64, base: u64| Listed {
            name: format!("{target:020}-{base:020}-{}.json", "0".repeat(32)),
            bytes: 5,
            modified: 0,
        };
        let edges = [edge(2, 0), edge(3, 0), edge(5, 3), edge(5, 4), edge(4, 0), edge(7, 1)];
        let garbage = kept.garbage_edges(v(6), &edges);
        assert_eq!(names(&garbage), [format!("edges/{}", edges[1].name), format!("edges/{}", edges[2].name)]);
    }
}
