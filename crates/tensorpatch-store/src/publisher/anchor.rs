//! Anchors of versions that exist already: when one is due, and how it is added (spec/stream.md sections 4.3 and 5).

use serde::Serialize;
use tensorpatch_checkpoint::Checkpoint;
use tensorpatch_delta::{LeafTable, Progress, State};
use tensorpatch_format::TaggedStateDigest;
use tensorpatch_stream::{Anchor, Commit, EdgeRecord, NamedObject, Nonce, Version, names};

use super::{Publisher, UPLOADS};
use crate::bucket::buffered_all;
use crate::error::StoreError;
use crate::local::{blocking, unix_now};
use crate::observe::Phase;
use crate::replica::directory::{InstalledVersion, ReplicaDir};
use crate::replica::install;

/// When a version gets an anchor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct AnchorPolicy {
    /// After so many versions without one.
    pub every: Option<u64>,
    /// When the deltas since the last one have as many bytes as it: then a newcomer would pay for two.
    pub by_cost: bool,
}

impl Default for AnchorPolicy {
    /// By cost, and long before the chain is longer than replicas take.
    fn default() -> Self {
        Self { every: Some(512), by_cost: true }
    }
}

impl AnchorPolicy {
    /// No anchor but the first version's.
    pub const NEVER: Self = Self { every: None, by_cost: false };

    /// One at the latest after so many versions, whatever the cost of the chain.
    pub const fn every(versions: u64) -> Self {
        Self { every: Some(versions), by_cost: false }
    }

    fn is_due(&self, since: u64, chain_bytes: u64, anchor_bytes: u64) -> bool {
        since > 0
            && (self.every.is_some_and(|every| since >= every)
                || (self.by_cost && chain_bytes >= anchor_bytes))
    }
}

/// An anchor that was added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct AnchorAdded {
    /// The version.
    pub version: Version,
    /// Bytes uploaded.
    pub bytes: u64,
}

impl Publisher {
    /// Adds an anchor of the newest version, from the baseline, if `policy` says that one is due.
    ///
    /// The version is visible and usable meanwhile: the anchor only saves newcomers the chain.
    ///
    /// # Errors
    /// If the baseline cannot be brought to the tip, is damaged, or the store fails. The stream is then as it was.
    pub async fn anchor_if_due(&self, policy: AnchorPolicy) -> Result<Option<AnchorAdded>, StoreError> {
        let Some(tip) = self.stream.tip().await? else { return Ok(None) };
        let mut history = self.stream.history(None, &tip, usize::MAX).await?;
        if history.anchors().next().is_none() {
            // What promised one was the record of another history.
            history = self.stream.whole_history(tip.record.version).await?;
        }
        let newest = history.anchors().max_by_key(|edge| edge.target.version);
        let Some(newest) = newest else { return Ok(None) };
        let after = |commit: &&Commit| commit.record.version > newest.target.version;
        let deltas = history.commits().filter(after).filter_map(|commit| commit.record.delta.as_ref());
        let objects = deltas.flat_map(|delta| delta.objects());
        let chain_bytes = objects.fold(0_u64, |sum, object| sum.saturating_add(object.bytes));
        let since = tip.record.version.get().saturating_sub(newest.target.version.get());
        if !policy.is_due(since, chain_bytes, newest.bytes()) {
            return Ok(None);
        }
        self.add_anchor().await.map(Some)
    }

    /// Adds an anchor of the newest version, from the baseline.
    ///
    /// # Errors
    /// As [`Publisher::anchor_if_due`]; also if the stream is empty.
    pub async fn add_anchor(&self) -> Result<AnchorAdded, StoreError> {
        let mut known = self.known.lock().await;
        let directory = ReplicaDir::lock(&self.baseline).await?;
        let tip = self.to_tip_if_own(&directory, &mut known).await?.ok_or(StoreError::Empty)?;
        known.tip = Some(tip.id());
        let nonce = Nonce::random();
        let version = tip.record.version;
        let anchor = match self.leaves(&directory, &tip).await {
            Ok(leaves) => self.upload_anchor(&directory, &tip, nonce, leaves).await,
            Err(error) => Err(error),
        };
        if let Err(StoreError::WrongState { .. } | StoreError::LocalDamage { .. }) = &anchor {
            // The next call makes good what is wrong.
            let was = InstalledVersion { id: tip.id(), companions: tip.record.companions.clone() };
            let (directory, stream) = (directory.clone(), self.stream.id());
            blocking(move || install::damaged(&directory, stream, &was)).await?;
        }
        let anchor = anchor?;
        let bytes = anchor.objects().fold(0_u64, |sum, object| sum.saturating_add(object.bytes));
        let record = EdgeRecord {
            stream: self.stream.id(),
            publisher: self.options.publisher.clone(),
            nonce,
            created: unix_now(),
            target: tip.id(),
            delta: None,
            anchor: Some(anchor),
        };
        self.stream.add_edge(&record).await?;
        Ok(AnchorAdded { version, bytes })
    }

    /// Hashes the baseline once more: what has rotted on disk must not become an anchor.
    async fn leaves(&self, directory: &ReplicaDir, tip: &Commit) -> Result<LeafTable, StoreError> {
        let (directory, options, expected) =
            (directory.clone(), self.options.diff.clone(), tip.record.contents.state);
        let observer = self.options.observer.clone();
        blocking(move || {
            let checkpoint = Checkpoint::open(directory.path(), &options.limits)?;
            let state = State::of(&checkpoint)?;
            observer.start(Phase::Hash, checkpoint.schema().state_bytes());
            let advance = |bytes| observer.advance(Phase::Hash, bytes);
            let hash = expected.leaf_hash;
            let leaves = LeafTable::of(&state, hash, options.threads, Progress::new(&advance))?;
            let digest = leaves.state_digest(checkpoint.schema());
            let found = TaggedStateDigest { leaf_hash: hash, digest };
            if found != expected {
                return Err(StoreError::WrongState { path: directory.path().to_owned(), expected, found });
            }
            Ok(leaves)
        })
        .await
    }

    async fn upload_anchor(
        &self,
        directory: &ReplicaDir,
        tip: &Commit,
        nonce: Nonce,
        leaves: LeafTable,
    ) -> Result<Anchor, StoreError> {
        let version = tip.record.version;
        let (dir, options) = (directory.path().to_owned(), self.options.diff.clone());
        let mut files = blocking(move || install::weight_files(&dir, &options)).await?;
        files.extend(tip.record.companions.iter().map(|companion| companion.name.clone()));
        self.options.observer.start(Phase::Upload, tip.record.contents.state_bytes);
        let files = buffered_all(files, UPLOADS, |name| async move {
            let key = names::anchor(version, nonce, &name)?;
            let path = directory.path().join(&name);
            let object = self.stream.bucket().upload(key, &path, &self.options.observer).await?;
            Ok(NamedObject { name, object })
        })
        .await?;
        // The companions were written long ago, and are no part of the state.
        for companion in &tip.record.companions {
            let copy = files.iter().find(|file| file.name == companion.name);
            if copy.is_none_or(|copy| copy.object.blake3 != companion.object.blake3) {
                return Err(StoreError::LocalDamage {
                    path: directory.path().to_owned(),
                    what: format!("{} is not the file that was published with the version", companion.name),
                });
            }
        }
        let key = names::leaves(version, nonce)?;
        let leaves = self.stream.bucket().put_bytes(key, leaves.as_bytes().to_vec().into()).await?;
        Ok(Anchor { files, leaves })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_anchor_is_due_by_number_or_by_cost_and_never_twice_for_one_version() {
        assert!(AnchorPolicy::every(10).is_due(10, 0, 1000));
        assert!(!AnchorPolicy::every(10).is_due(9, 5000, 1000));
        assert!(AnchorPolicy::default().is_due(3, 1000, 1000));
        assert!(!AnchorPolicy::default().is_due(300, 999, 1000));
        assert!(!AnchorPolicy::default().is_due(0, 0, 0));
        let edges = crate::ReplicaOptions::default().max_edges as u64;
        assert!(AnchorPolicy::default().is_due(edges / 2, 0, 1 << 40));
        assert!(!AnchorPolicy::NEVER.is_due(1_000_000, 1 << 40, 1));
    }
}
