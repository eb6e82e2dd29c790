//! The versions of a stream and the edges between them, checked against one another (spec/stream.md sections
//! 4 and 10).

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use tensorpatch_format::ErrorKind;

use crate::digest::ObjectDigest;
use crate::names::{Nonce, StreamId, Version};
use crate::record::{
    Anchor, CommitRecord, Delta, DeltaKind, EdgeRecord, Link, NamedObject, ObjectRef, VersionContents,
    VersionId,
};
use crate::sign::TrustKey;

/// A commit record and the digest of its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// The record.
    pub record: CommitRecord,
    /// The digest of the bytes that the store has.
    pub digest: ObjectDigest,
    /// The key that has signed the record, trusted or not.
    pub signer: Option<TrustKey>,
}

impl Commit {
    /// The identity of the version.
    pub fn id(&self) -> VersionId {
        self.record.id(self.digest)
    }

    /// The number after this one's; `None` at the end of all numbers.
    pub fn next_version(&self) -> Option<Version> {
        self.record.version.next()
    }
}

/// What a version was published as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum VersionKind {
    /// A whole checkpoint.
    Anchor,
    /// A patch.
    Delta,
    /// A patch that changes nothing.
    Empty,
}

impl CommitRecord {
    /// What the version was published as.
    pub fn kind(&self) -> VersionKind {
        match self.delta.as_ref().map(|delta| delta.kind) {
            None => VersionKind::Anchor,
            Some(DeltaKind::Delta) => VersionKind::Delta,
            Some(DeltaKind::Empty) => VersionKind::Empty,
        }
    }
}

/// A version whose objects are uploaded, ready to be committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewVersion {
    /// What it is.
    pub contents: VersionContents,
    /// The edge from the version before.
    pub delta: Option<Delta>,
    /// The edge from nothing.
    pub anchor: Option<Anchor>,
    /// The files beside the weights.
    pub companions: Vec<NamedObject>,
}

/// Who commits a version, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Authorship<'a> {
    /// The name of the publisher.
    pub publisher: &'a str,
    /// Tells this attempt from others.
    pub nonce: Nonce,
    /// The publisher's own mark, such as a training step.
    pub label: Option<&'a str>,
    /// Seconds since 1970 by the publisher's clock, for people.
    pub created: u64,
}

impl NewVersion {
    /// The record of the version after `tip`; `None` at the end of all numbers.
    pub fn into_record(
        self,
        stream: StreamId,
        tip: Option<&Commit>,
        author: Authorship<'_>,
    ) -> Option<CommitRecord> {
        Some(CommitRecord {
            stream,
            version: tip.map_or(Some(Version::FIRST), Commit::next_version)?,
            previous: tip.map(|tip| Link { version: tip.record.version, commit: tip.digest }),
            publisher: author.publisher.to_owned(),
            nonce: author.nonce,
            created: author.created,
            label: author.label.map(str::to_owned),
            contents: self.contents,
            delta: self.delta,
            anchor: self.anchor,
            companions: self.companions,
        })
    }
}

/// Where an edge starts, and what it consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EdgeKind {
    /// From an earlier version.
    Delta(Delta),
    /// From nothing.
    Anchor(Anchor),
}

/// An edge to a version: what makes its state, from an earlier version or from nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edge {
    /// The version that it leads to.
    pub target: VersionId,
    /// Where it starts, and what it consists of.
    pub kind: EdgeKind,
}

impl Edge {
    /// The version that it starts from; `None` for an anchor.
    pub fn base(&self) -> Option<&VersionId> {
        match &self.kind {
            EdgeKind::Delta(delta) => Some(&delta.base),
            EdgeKind::Anchor(_) => None,
        }
    }

    /// Whether it starts from nothing.
    pub fn is_anchor(&self) -> bool {
        matches!(self.kind, EdgeKind::Anchor(_))
    }

    /// The objects to fetch for it. The leaf table of an anchor is for range readers and repairs, and not
    /// among them.
    pub fn objects(&self) -> Vec<&ObjectRef> {
        match &self.kind {
            EdgeKind::Delta(delta) => delta.objects().collect(),
            EdgeKind::Anchor(anchor) => anchor.files.iter().map(|file| &file.object).collect(),
        }
    }

    /// All objects that it names, the leaf table of an anchor included.
    pub fn all_objects(&self) -> Vec<&ObjectRef> {
        match &self.kind {
            EdgeKind::Delta(delta) => delta.objects().collect(),
            EdgeKind::Anchor(anchor) => anchor.objects().collect(),
        }
    }

    /// Bytes of the objects to fetch.
    pub fn bytes(&self) -> u64 {
        self.objects().iter().fold(0, |sum: u64, object| sum.saturating_add(object.bytes))
    }
}

impl EdgeRecord {
    /// The edge that the record adds; `None` if it names none or two, which a record that was read cannot.
    pub fn edge(&self) -> Option<Edge> {
        let kind = match (&self.delta, &self.anchor) {
            (Some(delta), None) => EdgeKind::Delta(delta.clone()),
            (None, Some(anchor)) => EdgeKind::Anchor(anchor.clone()),
            _ => return None,
        };
        Some(Edge { target: self.target, kind })
    }
}

/// The last of the versions after `known`, or from the first on, that follow one another without a gap among
/// those `listed`. Versions have no gaps, so whatever stands behind one is no version.
pub fn end_of_run(known: Option<Version>, listed: impl IntoIterator<Item = Version>) -> Option<Version> {
    let listed: BTreeSet<Version> = listed.into_iter().filter(|version| Some(*version) > known).collect();
    let mut next = known.map_or(Some(Version::FIRST), Version::next);
    let mut last = None;
    for version in listed {
        if Some(version) != next {
            break;
        }
        last = next;
        next = version.next();
    }
    last
}

/// The records do not form a chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the commit records are no chain: {0}")]
pub struct ChainError(pub(crate) String);

impl ChainError {
    /// Who must act on it.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Conflict
    }
}

/// Consecutive commits, checked to be a chain, and the edges between them.
#[derive(Debug, Clone, Default)]
pub struct History {
    commits: BTreeMap<Version, Commit>,
    edges: Vec<Edge>,
}

impl History {
    /// A history of consecutive commits and of those of `edges` that agree with them.
    ///
    /// # Errors
    /// If a number is missing or doubled, a record does not name the digest of the one before, or a delta's
    /// base is not what its commit says.
    pub fn new(
        commits: impl IntoIterator<Item = Commit>,
        edges: impl IntoIterator<Item = EdgeRecord>,
    ) -> Result<Self, ChainError> {
        let mut history = Self::default();
        let mut before: Option<VersionId> = None;
        for commit in commits {
            let record = &commit.record;
            if let Some(before) = before {
                let link = record.previous.map(|link| (link.version, link.commit));
                if before.version.next() != Some(record.version)
                    || link != Some((before.version, before.commit))
                {
                    return Err(ChainError(format!(
                        "version {} does not follow the record of version {} that is there",
                        record.version, before.version
                    )));
                }
            }
            before = Some(commit.id());
            history.commits.insert(record.version, commit);
        }
        let mut inline = Vec::new();
        for commit in history.commits.values() {
            if let Some(delta) = &commit.record.delta {
                // A base below the window cannot be checked, nor used.
                if history.commits.contains_key(&delta.base.version) && !history.agrees(&delta.base) {
                    return Err(ChainError(format!(
                        "the delta of version {} has another base than version {}",
                        commit.record.version, delta.base.version
                    )));
                }
                inline.push(Edge { target: commit.id(), kind: EdgeKind::Delta(delta.clone()) });
            }
            if let Some(anchor) = &commit.record.anchor {
                inline.push(Edge { target: commit.id(), kind: EdgeKind::Anchor(anchor.clone()) });
            }
        }
        history.edges = inline;
        for edge in edges.into_iter().filter_map(|record| record.edge()) {
            let base_agrees = edge.base().is_none_or(|base| history.agrees(base));
            if history.agrees(&edge.target) && base_agrees {
                history.edges.push(edge);
            }
        }
        Ok(history)
    }

    /// Whether the commits have this version, by all that identifies it.
    pub(crate) fn agrees(&self, id: &VersionId) -> bool {
        self.commits.get(&id.version).is_some_and(|commit| commit.id() == *id)
    }

    /// The commit of `version`, if it is in the history.
    pub fn commit(&self, version: Version) -> Option<&Commit> {
        self.commits.get(&version)
    }

    /// All commits, in order.
    pub fn commits(&self) -> impl DoubleEndedIterator<Item = &Commit> {
        self.commits.values()
    }

    /// Removes edges that have turned out to lead elsewhere.
    pub fn leave_out(&mut self, edges: &[Edge]) {
        self.edges.retain(|edge| !edges.contains(edge));
    }

    /// All edges to all versions.
    pub fn edges(&self) -> &[Edge] {
        &self.edges
    }

    /// The versions that can be reached from nothing with no object of `missing`.
    pub fn reachable(&self, missing: &BTreeSet<ObjectRef>) -> BTreeSet<Version> {
        let mut reached = BTreeSet::new();
        let mut onward: BTreeMap<Version, Vec<Version>> = BTreeMap::new();
        let mut queue = Vec::new();
        for edge in &self.edges {
            if edge.objects().iter().any(|object| missing.contains(*object)) {
                continue;
            }
            match edge.base() {
                None => queue.push(edge.target.version),
                Some(base) => onward.entry(base.version).or_default().push(edge.target.version),
            }
        }
        while let Some(version) = queue.pop() {
            if reached.insert(version) {
                queue.extend(onward.remove(&version).unwrap_or_default());
            }
        }
        reached
    }

    /// The edges that start from nothing.
    pub fn anchors(&self) -> impl Iterator<Item = &Edge> {
        self.edges.iter().filter(|edge| edge.is_anchor())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_versions_ends_at_the_first_gap_whatever_stands_behind_it() {
        let version = |number| Version::new(number).unwrap();
        let run = |known: Option<u64>, listed: &[u64]| {
            let listed = listed.iter().map(|number| version(*number));
            end_of_run(known.map(version), listed).map(Version::get)
        };
        assert_eq!(run(None, &[3, 1, 2, 9_007_199_254_740_991, 5]), Some(3));
        assert_eq!(run(Some(3), &[1, 2, 4, 5, 7]), Some(5));
        assert_eq!(run(Some(3), &[1, 2, 5, 6]), None);
        assert_eq!(run(None, &[2]), None);
        assert_eq!(run(None, &[]), None);
    }
}
