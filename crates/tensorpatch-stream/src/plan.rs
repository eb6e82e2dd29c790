//! The shortest path from what a replica holds to a version (spec/stream.md section 10).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use tensorpatch_format::ErrorKind;

use crate::history::{ChainError, Commit, Edge, EdgeKind, History};
use crate::names::{Key, Version};
use crate::record::{ObjectRef, VersionId};

/// What no plan may use, as was found out.
#[derive(Debug, Clone, Default)]
pub struct Exclusions {
    /// Objects, with what was said of them: another record may say otherwise, and be right.
    pub objects: BTreeSet<ObjectRef>,
    /// Edges that lead elsewhere than they say.
    pub edges: Vec<Edge>,
}

/// The edges from what is held, or from nothing, to a version.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// The edges in order; none if the version is held already.
    pub edges: Vec<Edge>,
}

impl Plan {
    /// Bytes of all objects of all edges.
    pub fn bytes(&self) -> u64 {
        self.edges.iter().fold(0, |sum, edge| sum.saturating_add(edge.bytes()))
    }

    /// Whether it begins with an anchor.
    pub fn starts_from_nothing(&self) -> bool {
        self.edges.first().is_some_and(Edge::is_anchor)
    }

    /// The objects to fetch, in order.
    pub fn objects(&self) -> Vec<&ObjectRef> {
        self.edges.iter().flat_map(Edge::objects).collect()
    }

    /// Checks a plan on its own: that each edge starts where the one before ends, by all digests, and none
    /// comes back.
    fn check(&self, held: Option<VersionId>, goal: &VersionId) -> Result<(), ChainError> {
        let mut at = held;
        let mut seen = BTreeSet::new();
        for (index, edge) in self.edges.iter().enumerate() {
            let number = edge.target.version;
            match &edge.kind {
                EdgeKind::Anchor(_) if index == 0 => {}
                EdgeKind::Delta(delta) if Some(delta.base) == at => {}
                _ => {
                    return Err(ChainError(format!(
                        "the edge to version {number} does not start where the one before ends"
                    )));
                }
            }
            if !seen.insert(number) {
                return Err(ChainError(format!("version {number} occurs twice in a plan")));
            }
            at = Some(edge.target);
        }
        if at != Some(*goal) {
            return Err(ChainError(format!("the plan does not end at version {}", goal.version)));
        }
        Ok(())
    }
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The records do not form a chain.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// No path leads to the version.
    #[error("no path leads to version {target}{}", missing_text(.missing))]
    NoPath {
        /// The version.
        target: Version,
        /// Objects that are named but not there, each of which cuts a path off.
        missing: Vec<Key>,
    },
    /// All paths have too many edges.
    #[error("the path to version {target} has {edges} edges: at most {limit} are allowed")]
    TooLong {
        /// The version.
        target: Version,
        /// Edges of the cheapest path.
        edges: usize,
        /// The limit.
        limit: usize,
    },
}

impl PlanError {
    /// Who must act on it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Chain(error) => error.kind(),
            Self::NoPath { .. } => ErrorKind::BadInput,
            Self::TooLong { .. } => ErrorKind::Refused,
        }
    }
}

fn missing_text(missing: &[Key]) -> String {
    if missing.is_empty() {
        return String::new();
    }
    let names: Vec<&str> = missing.iter().take(8).map(Key::as_str).collect();
    let more = missing.len().saturating_sub(names.len());
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!(": missing are {}{rest}", names.join(", "))
}

impl History {
    /// The cheapest plan from `held`, or from nothing, to `target`, with no object of `missing` and at most
    /// `max_edges` edges.
    ///
    /// # Errors
    /// If there is none.
    pub fn plan(
        &self,
        held: Option<&VersionId>,
        target: Version,
        missing: &BTreeSet<ObjectRef>,
        max_edges: usize,
    ) -> Result<Plan, PlanError> {
        // A state and layout that are the target's are the target, whichever number they were published
        // under.
        let no_path = || {
            let missing = missing.iter().map(|object| object.key.clone()).collect();
            PlanError::NoPath { target, missing }
        };
        let goal = self.commit(target).ok_or_else(no_path)?.id();
        if held.is_some_and(|held| held.version == target && held.commit == goal.commit) {
            return Ok(Plan::default());
        }
        let usable: Vec<(&Edge, u64)> = self
            .edges()
            .iter()
            .filter(|edge| edge.target.version <= target)
            .filter(|edge| !edge.objects().iter().any(|object| missing.contains(*object)))
            .map(|edge| (edge, edge.bytes()))
            .collect();
        let mut from: BTreeMap<Node, Vec<usize>> = BTreeMap::new();
        for (index, (edge, _)) in usable.iter().enumerate() {
            from.entry(edge.base().map(|base| base.version)).or_default().push(index);
        }
        // Costs are compared as (bytes, edges, index of the last edge), so equal paths give one plan
        // everywhere.
        let mut best: BTreeMap<Node, (u64, usize)> = BTreeMap::new();
        let mut via: BTreeMap<Node, usize> = BTreeMap::new();
        let mut queue = BinaryHeap::new();
        let held = held.filter(|held| self.agrees(held)).map(|held| held.version);
        for start in [Some(None), held.map(Some)].into_iter().flatten() {
            best.insert(start, (0, 0));
            queue.push(Reverse((0_u64, 0_usize, start)));
        }
        while let Some(Reverse((bytes, count, node))) = queue.pop() {
            if best.get(&node).is_some_and(|known| *known < (bytes, count)) {
                continue;
            }
            if node == Some(target) {
                break;
            }
            for &index in from.get(&node).map(Vec::as_slice).unwrap_or_default() {
                let Some((edge, cost)) = usable.get(index) else { continue };
                let next = Some(edge.target.version);
                let reached = (bytes.saturating_add(*cost), count.saturating_add(1));
                if best.get(&next).is_none_or(|known| reached < *known) {
                    best.insert(next, reached);
                    via.insert(next, index);
                    queue.push(Reverse((reached.0, reached.1, next)));
                }
            }
        }
        let mut edges = Vec::new();
        let mut node = Some(target);
        while let Some(index) = via.get(&node) {
            let (edge, _) = usable.get(*index).ok_or_else(no_path)?;
            edges.push((*edge).clone());
            node = edge.base().map(|base| base.version);
        }
        if edges.is_empty() {
            return Err(no_path());
        }
        edges.reverse();
        if edges.len() > max_edges {
            return Err(PlanError::TooLong { target, edges: edges.len(), limit: max_edges });
        }
        let plan = Plan { edges };
        plan.check(held.and_then(|version| self.commit(version)).map(Commit::id), &goal)?;
        Ok(plan)
    }
}

/// A version, or nothing.
type Node = Option<Version>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::ObjectDigest;
    use crate::names::Nonce;
    use crate::record::tests::{sample, state};
    use crate::record::{Anchor, Delta, DeltaKind, EdgeRecord, JsonRecord, NamedObject, PatchObject};
    use proptest::prelude::*;

    fn object(key: String, bytes: u64) -> ObjectRef {
        ObjectRef { blake3: ObjectDigest::of(key.as_bytes()), key: Key::new(key).unwrap(), bytes }
    }

    /// Versions 1 to `n`: an anchor of 1000 bytes and deltas of 10.
    fn commits(n: u64) -> Vec<Commit> {
        let mut all: Vec<Commit> = Vec::new();
        for version in 1..=n {
            let before = all.last().map_or(ObjectDigest::of(b""), |commit| commit.digest);
            let mut record = sample(version, before);
            if let Some(anchor) = &mut record.anchor {
                anchor.files[0].object = object("anchors/1/m".into(), 1000);
            }
            if let Some(delta) = &mut record.delta {
                delta.patches[0].object = object(format!("patches/{version}/d"), 10);
            }
            let digest = ObjectDigest::of(&record.to_bytes().unwrap());
            all.push(Commit { record, digest, signer: None });
        }
        all
    }

    fn id(commits: &[Commit], version: u64) -> VersionId {
        commits[usize::try_from(version).unwrap() - 1].id()
    }

    fn fold(commits: &[Commit], from: u64, to: u64, bytes: u64) -> EdgeRecord {
        let (base, target) = (id(commits, from), id(commits, to));
        EdgeRecord {
            stream: commits[0].record.stream,
            publisher: "p".into(),
            nonce: Nonce::random(),
            created: 0,
            target,
            delta: Some(Delta {
                base,
                kind: DeltaKind::Delta,
                changed_elements: 0,
                total_elements: 0,
                patches: vec![PatchObject {
                    object: object(format!("folds/{to}-{from}/d"), bytes),
                    schema: None,
                }],
            }),
            anchor: None,
        }
    }

    fn anchor(commits: &[Commit], version: u64, bytes: u64) -> EdgeRecord {
        let mut edge = fold(commits, version - 1, version, 1);
        edge.delta = None;
        let file = object(format!("anchors/{version}/m"), bytes);
        edge.anchor = Some(Anchor {
            files: vec![NamedObject { name: "model.safetensors".into(), object: file }],
            leaves: object(format!("patches/{version}/leaves"), 7),
        });
        edge
    }

    fn targets(plan: &Plan) -> Vec<u64> {
        plan.edges.iter().map(|edge| edge.target.version.get()).collect()
    }

    fn v(n: u64) -> Version {
        Version::new(n).unwrap()
    }

    fn none() -> BTreeSet<ObjectRef> {
        BTreeSet::new()
    }

    #[test]
    fn a_newcomer_takes_the_anchor_and_the_deltas_and_a_follower_the_deltas() {
        let commits = commits(5);
        let history = History::new(commits.clone(), []).unwrap();
        let plan = history.plan(None, v(3), &none(), 100).unwrap();
        assert_eq!((targets(&plan), plan.bytes()), (vec![1, 2, 3], 1020));
        let plan = history.plan(Some(&id(&commits, 3)), v(5), &none(), 100).unwrap();
        assert_eq!((targets(&plan), plan.bytes()), (vec![4, 5], 20));
        assert!(history.plan(Some(&id(&commits, 5)), v(5), &none(), 100).unwrap().edges.is_empty());
    }

    #[test]
    fn going_back_starts_from_an_anchor() {
        let commits = commits(5);
        let history = History::new(commits.clone(), []).unwrap();
        let plan = history.plan(Some(&id(&commits, 5)), v(2), &none(), 100).unwrap();
        assert_eq!(targets(&plan), [1, 2]);
    }

    #[test]
    fn folds_and_anchors_are_taken_when_they_are_cheaper() {
        let commits = commits(9);
        let edges = [fold(&commits, 1, 5, 25), fold(&commits, 5, 9, 45), anchor(&commits, 8, 1005)];
        let history = History::new(commits.clone(), edges).unwrap();
        let plan = history.plan(Some(&id(&commits, 1)), v(9), &none(), 100).unwrap();
        assert_eq!((targets(&plan), plan.bytes()), (vec![5, 6, 7, 8, 9], 65));
        let plan = history.plan(None, v(9), &none(), 100).unwrap();
        assert_eq!((targets(&plan), plan.bytes()), (vec![8, 9], 1015));
    }

    #[test]
    fn an_edge_with_a_missing_object_is_left_out_and_named_when_none_is_left() {
        let commits = commits(4);
        let history = History::new(commits.clone(), [fold(&commits, 1, 4, 500)]).unwrap();
        let missing: BTreeSet<ObjectRef> = [object("patches/3/d".into(), 10)].into();
        let plan = history.plan(Some(&id(&commits, 2)), v(4), &missing, 100).unwrap();
        assert_eq!((targets(&plan), plan.bytes()), (vec![1, 4], 1500));
        let error = history.plan(None, v(3), &missing, 100).unwrap_err();
        assert!(error.to_string().contains("patches/3/d"), "{error}");
        // What is said of the object by somebody else is not missing.
        let other: BTreeSet<ObjectRef> = [object("patches/3/d".into(), 11)].into();
        assert_eq!(targets(&history.plan(None, v(3), &other, 100).unwrap()), [1, 2, 3]);
    }

    #[test]
    fn what_can_be_reached_of_a_long_history_is_found_in_one_walk() {
        // With a plan for each version this would not end before somebody asks why.
        const VERSIONS: u64 = 20_000;
        let history = History::new(commits(VERSIONS), []).unwrap();
        assert_eq!(history.reachable(&none()).len() as u64, VERSIONS);
    }

    #[test]
    fn a_path_that_is_too_long_is_refused() {
        let history = History::new(commits(9), []).unwrap();
        let error = history.plan(None, v(9), &none(), 5).unwrap_err();
        assert_eq!(error, PlanError::TooLong { target: v(9), edges: 9, limit: 5 });
    }

    #[test]
    fn records_that_are_no_chain_are_refused() {
        let good = commits(4);
        let mut gap = good.clone();
        gap.remove(2);
        assert!(matches!(History::new(gap, []), Err(ChainError(_))));
        let mut swapped = good.clone();
        swapped.swap(1, 2);
        assert!(matches!(History::new(swapped, []), Err(ChainError(_))));
        let mut replaced = good.clone();
        replaced[1].digest = ObjectDigest::of(b"another record");
        assert!(matches!(History::new(replaced, []), Err(ChainError(_))));
        // The bases of deltas tell nothing of versions that have none.
        let mut anchors = good.clone();
        for commit in anchors.iter_mut().skip(1) {
            commit.record.delta = None;
        }
        assert!(History::new(anchors.clone(), []).is_ok());
        anchors[2].digest = ObjectDigest::of(b"another record");
        assert!(matches!(History::new(anchors, []), Err(ChainError(_))));
        let mut wrong_base = good;
        wrong_base[3].record.delta.as_mut().unwrap().base.state = state(77);
        assert!(matches!(History::new(wrong_base, []), Err(ChainError(_))));
    }

    #[test]
    fn edges_that_do_not_agree_with_the_commits_are_ignored() {
        let commits = commits(4);
        let mut foreign_target = fold(&commits, 1, 4, 1);
        foreign_target.target.state = state(77);
        let mut foreign_base = fold(&commits, 1, 4, 1);
        foreign_base.delta.as_mut().unwrap().base.commit = ObjectDigest::of(b"x");
        let history = History::new(commits.clone(), [foreign_target, foreign_base]).unwrap();
        let plan = history.plan(Some(&id(&commits, 1)), v(4), &none(), 100).unwrap();
        assert_eq!(targets(&plan), [2, 3, 4]);
    }

    #[test]
    fn a_replica_of_another_history_starts_from_an_anchor() {
        let commits = commits(4);
        let history = History::new(commits.clone(), []).unwrap();
        let mut foreign = id(&commits, 3);
        foreign.commit = ObjectDigest::of(b"another run");
        let plan = history.plan(Some(&foreign), v(4), &none(), 100).unwrap();
        assert_eq!(targets(&plan), [1, 2, 3, 4]);
    }

    proptest! {
        #[test]
        fn the_plan_is_the_cheapest_path(
            n in 2_u64..10,
            folds in prop::collection::vec((1_u64..10, 1_u64..10, 1_u64..60), 0..6),
            anchors in prop::collection::vec((2_u64..10, 900_u64..1100), 0..3),
            held in 0_u64..10,
            target in 1_u64..10,
        ) {
            let commits = commits(n);
            let (held, target) = (held.min(n), target.min(n));
            let mut edges = Vec::new();
            let mut costs = vec![(0, 1, 1000)];
            costs.extend((2..=n).map(|to| (to - 1, to, 10)));
            for (a, b, bytes) in folds {
                if a < b && b <= n {
                    edges.push(fold(&commits, a, b, bytes));
                    costs.push((a, b, bytes));
                }
            }
            for (a, bytes) in anchors {
                if a <= n {
                    edges.push(anchor(&commits, a, bytes));
                    costs.push((0, a, bytes));
                }
            }
            // Bellman and Ford, over all nodes at once.
            let mut best = vec![u64::MAX; usize::try_from(n + 1).unwrap()];
            best[0] = 0;
            best[usize::try_from(held).unwrap()] = 0;
            for _ in 0..=n {
                for &(a, b, bytes) in &costs {
                    let reached = best[usize::try_from(a).unwrap()].saturating_add(bytes);
                    let b = usize::try_from(b).unwrap();
                    best[b] = best[b].min(reached);
                }
            }
            let history = History::new(commits.clone(), edges).unwrap();
            let gone: BTreeSet<ObjectRef> = [object("patches/3/d".into(), 10)].into();
            let planned = (1..=n).map(v).filter(|to| history.plan(None, *to, &gone, usize::MAX).is_ok());
            prop_assert_eq!(history.reachable(&gone), planned.collect());
            let held = (held > 0).then(|| id(&commits, held));
            let plan = history.plan(held.as_ref(), v(target), &none(), 100).unwrap();
            prop_assert_eq!(plan.bytes(), best[usize::try_from(target).unwrap()]);
        }
    }
}
