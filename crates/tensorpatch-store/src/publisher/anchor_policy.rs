//! When a version gets an anchor.

use serde::{Deserialize, Serialize};
use tensorpatch_stream::{Anchor, Commit, CommitRecord, History, ObjectDigest, Version};

use crate::error::StoreError;
use crate::local;
use crate::replica::directory::ReplicaDir;

/// The most bytes of a chain on disk.
const MAX_CHAIN_BYTES: u64 = 4096;

/// What the file of a chain holds.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    /// The newest version of the chain.
    commit: ObjectDigest,
    chain: Chain,
}

/// When a version gets an anchor of its own, after it is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct AnchorPolicy {
    /// After this many versions without one.
    pub every: Option<u64>,
    /// When the deltas since the last anchor have as many bytes as it: then a newcomer would pay for two.
    pub by_cost: bool,
}

impl Default for AnchorPolicy {
    /// By cost, and after 512 versions: long before the chain is longer than replicas take.
    fn default() -> Self {
        Self { every: Some(512), by_cost: true }
    }
}

impl AnchorPolicy {
    /// No anchor but the first version's.
    pub const NEVER: Self = Self { every: None, by_cost: false };

    /// One at the latest after this many versions, whatever the cost of the chain.
    pub const fn every(versions: u64) -> Self {
        Self { every: Some(versions), by_cost: false }
    }

    pub(super) fn is_due(&self, chain: Chain) -> bool {
        chain.versions > 0
            && (self.every.is_some_and(|every| chain.versions >= every)
                || (self.by_cost && chain.bytes >= chain.anchor_bytes))
    }
}

/// The deltas since the newest anchor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Chain {
    versions: u64,
    bytes: u64,
    /// Bytes of the anchor.
    anchor_bytes: u64,
}

impl Chain {
    /// The chain to the newest version of a history; `None` if the history has no anchor.
    pub(super) fn of(history: &History) -> Option<Self> {
        let newest = history.anchors().max_by_key(|edge| edge.target.version)?;
        let start = Self::from_anchor(newest.bytes());
        let after = history.commits().filter(|commit| commit.record.version > newest.target.version);
        Some(after.fold(start, |chain, commit| chain.and(&commit.record)))
    }

    /// The chain behind an anchor of the newest version.
    pub(super) fn after(anchor: &Anchor) -> Self {
        let sizes = anchor.files.iter().map(|file| file.object.bytes);
        Self::from_anchor(sizes.fold(0, u64::saturating_add))
    }

    fn from_anchor(anchor_bytes: u64) -> Self {
        Self { versions: 0, bytes: 0, anchor_bytes }
    }

    /// The chain to `tip` that an earlier publisher has kept in its baseline.
    ///
    /// Anchors that others have added since are not in it: whether one is really due is looked up before it
    /// is made.
    pub(super) fn load(directory: &ReplicaDir, tip: &Commit) -> Option<Self> {
        let bytes = local::read_own(&directory.chain(), MAX_CHAIN_BYTES).ok()??;
        let kept: Kept = serde_json::from_slice(&bytes).ok()?;
        (kept.commit == tip.digest).then_some(kept.chain)
    }

    /// Keeps the chain to `tip` for the next publisher. Where it is lost the records are read once more.
    pub(super) fn keep(self, directory: &ReplicaDir, tip: &Commit) -> Result<(), StoreError> {
        let place = directory.chain();
        let bytes = serde_json::to_vec(&Kept { commit: tip.digest, chain: self })
            .map_err(|e| StoreError::LocalState { path: place.path(), what: e.to_string() })?;
        local::write_unsynced(&place, &bytes)
    }

    /// The chain with one more version.
    pub(super) fn and(self, record: &CommitRecord) -> Self {
        if let Some(anchor) = &record.anchor {
            return Self::after(anchor);
        }
        let sizes = record.delta.iter().flat_map(|delta| delta.objects()).map(|object| object.bytes);
        let bytes = sizes.fold(self.bytes, u64::saturating_add);
        let versions = self.versions.saturating_add(1);
        Self { versions, bytes, ..self }
    }
}

/// An anchor that was added, or was there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct AnchorAdded {
    /// The version.
    pub version: Version,
    /// Bytes uploaded.
    pub bytes: u64,
    /// Whether it was; otherwise the version had one already.
    pub added: bool,
}

impl AnchorAdded {
    pub(super) fn new(version: Version, bytes: u64) -> Self {
        Self { version, bytes, added: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_due(policy: AnchorPolicy, versions: u64, bytes: u64, anchor_bytes: u64) -> bool {
        policy.is_due(Chain { versions, bytes, anchor_bytes })
    }

    #[test]
    fn an_anchor_is_due_by_number_or_by_cost_and_never_twice_for_one_version() {
        assert!(is_due(AnchorPolicy::every(10), 10, 0, 1000));
        assert!(!is_due(AnchorPolicy::every(10), 9, 5000, 1000));
        let usual = AnchorPolicy::default();
        assert!(is_due(usual, 3, 1000, 1000));
        assert!(!is_due(usual, 300, 999, 1000));
        assert!(!is_due(usual, 0, 0, 0));
        let edges = crate::Policy::default().plans.max_edges as u64;
        assert!(is_due(usual, edges / 2, 0, 1 << 40));
        assert!(!is_due(AnchorPolicy::NEVER, 1_000_000, 1 << 40, 1));
    }
}
