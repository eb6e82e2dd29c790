//! Anchors of versions that exist already, added as edges (spec/stream.md sections 4.3 and 5).

use std::path::Path;

use tensorpatch_delta::LeafTable;
use tensorpatch_stream::{Anchor, Commit, EdgeRecord, NamedObject, Nonce, names};

use super::anchor_policy::{AnchorAdded, AnchorPolicy, Chain};
use super::known::Known;
use super::local::{check_base, same_companions};
use super::memory::verify_baseline;
use super::{Opened, Published, Publisher};
use crate::bucket::buffered_all;
use crate::error::StoreError;
use crate::local::{blocking, unix_now};
use crate::observe::Phase;
use crate::replica::directory::{InstalledVersion, ReplicaDir};
use crate::replica::install;
use crate::replica::options::Target;
use crate::replica::update::damage_noted;
use crate::stream::Stream;

/// Whether an anchor of `tip`, the newest version, is due, as far as `chain` is not known already.
pub(super) async fn read_chain(stream: &Stream, tip: &Commit) -> Result<Option<Chain>, StoreError> {
    let history = stream.history(None, tip, usize::MAX).await?;
    if let Some(chain) = Chain::of(&history) {
        return Ok(Some(chain));
    }
    // The edge record that promised an anchor was one of another history.
    Ok(Chain::of(&stream.whole_history(tip.record.version).await?))
}

impl Publisher {
    /// Adds an anchor of the version that was just published if the policy says that one is due, and reports
    /// it.
    ///
    /// The version is published whatever becomes of its anchor, which only saves newcomers the chain. One
    /// that could not be added is due again with the next version.
    pub(super) async fn anchor_if_due(
        &self,
        directory: &ReplicaDir,
        known: &mut Known,
        published: &mut Published,
    ) {
        match self.due_anchor(directory, known).await {
            Ok(added) => published.anchor = added,
            // Another publisher was faster, and looks after anchors too.
            Err(StoreError::NotAtTip { .. }) => {}
            Err(error) => {
                tracing::warn!(
                    "an anchor is due and could not be added, the next version tries again: {error}"
                );
                published.anchor_error = Some(error.to_string());
            }
        }
    }

    async fn due_anchor(
        &self,
        directory: &ReplicaDir,
        known: &mut Known,
    ) -> Result<Option<AnchorAdded>, StoreError> {
        let adds = self.options.anchors != AnchorPolicy::NEVER && self.options.base.is_none();
        let Some(tip) = known.tip.clone().filter(|_| adds) else { return Ok(None) };
        let is_due = |chain: Option<Chain>| chain.is_some_and(|chain| self.options.anchors.is_due(chain));
        let counted = known.chain.is_some();
        if !counted || is_due(known.chain) {
            // Somebody else may have added an anchor since the versions were counted.
            known.chain = read_chain(&self.stream.reading_once(), &tip).await?;
        }
        let mut added = None;
        if is_due(known.chain) {
            known.settle().await;
            let tip = self.to_tip_if_own(directory, known).await?.ok_or(StoreError::Empty)?;
            added = Some(self.anchor(directory, known, &tip).await?);
        }
        if let Some(chain) = known.chain {
            chain.keep(directory, &tip)?;
        }
        Ok(added)
    }

    /// Adds an anchor of the newest version, from the baseline or from the checkpoint of
    /// [`PublishOptions::with_base`](super::PublishOptions::with_base), unless it has one all of whose
    /// objects are there. [`Publisher::add_another_anchor`] is for one whose contents are damaged.
    ///
    /// # Errors
    /// As [`Publisher::add_another_anchor`].
    ///
    /// # Cancel safety
    /// As [`Publisher::add_another_anchor`].
    pub async fn add_anchor(&self) -> Result<AnchorAdded, StoreError> {
        self.stream.check_signing()?;
        if let Some(tip) = self.stream.tip().await?
            && self.has_anchor(&tip).await?
        {
            return Ok(AnchorAdded { version: tip.record.version, bytes: 0, added: false });
        }
        self.add_another_anchor().await
    }

    /// Whether the version has an anchor all of whose objects are there, with their lengths.
    async fn has_anchor(&self, version: &Commit) -> Result<bool, StoreError> {
        let stream = self.stream.reading_once();
        let number = version.record.version;
        let history = stream.history_between(number, number).await?;
        for edge in history.anchors().filter(|edge| edge.target == version.id()) {
            let at_once = stream.policy().transfers.parallel_requests;
            let objects = edge.all_objects();
            let there = buffered_all(objects, at_once, |object| stream.bucket().check_there(object)).await;
            match there {
                Ok(_) => return Ok(true),
                Err(StoreError::Missing { .. } | StoreError::Damaged { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Adds an anchor of the newest version, as [`Publisher::add_anchor`], whatever anchors it has.
    ///
    /// The version is visible and usable meanwhile: the anchor only saves newcomers the chain.
    ///
    /// # Errors
    /// If the stream is empty, the baseline cannot be brought to the tip or is damaged,
    /// [`StoreError::WrongBase`] if the checkpoint is not the newest version, or if the store fails. The
    /// stream is then as it was.
    ///
    /// # Cancel safety
    /// The future may be dropped at any time; the anchor is then added or not. What was uploaded of it is
    /// garbage.
    pub async fn add_another_anchor(&self) -> Result<AnchorAdded, StoreError> {
        let (directory, mut known) = self.lock().await?;
        let tip = self.to_tip_if_own(&directory, &mut known).await?.ok_or(StoreError::Empty)?;
        known.tip = Some(tip.clone());
        match self.options.base.clone() {
            Some(base) => self.anchor_of(&base, &directory, &mut known, &tip).await,
            None => self.anchor(&directory, &mut known, &tip).await,
        }
    }

    /// Adds an anchor of `tip` from a checkpoint of the caller's that is this version, and from nothing of
    /// the stream: there may be no way to the version any more.
    async fn anchor_of(
        &self,
        base: &Path,
        directory: &ReplicaDir,
        known: &mut Known,
        tip: &Commit,
    ) -> Result<AnchorAdded, StoreError> {
        let Opened { target, mut companions, .. } = self.open_target(directory, base, None).await?;
        let staged = self.stage(directory, target).await?;
        check_base(base, staged.contents.layout, tip, staged.contents.state)?;
        companions.retain(|found| tip.record.companions.iter().any(|named| named.name == found.name));
        if !same_companions(&companions, &tip.record.companions) {
            let what = "the files beside its weights are not those that were published with it".into();
            return Err(StoreError::WrongBase { path: base.to_owned(), version: tip.record.version, what });
        }
        let nonce = Nonce::random();
        let anchor = self.upload_staged(tip.record.version, nonce, &staged, &companions).await?;
        let added = self.add_anchor_record(known, tip, nonce, anchor).await?;
        let directory = directory.clone();
        blocking(move || directory.sweep(&[])).await?;
        Ok(added)
    }

    async fn anchor(
        &self,
        directory: &ReplicaDir,
        known: &mut Known,
        tip: &Commit,
    ) -> Result<AnchorAdded, StoreError> {
        // With the files beside the weights, which nothing else needs.
        self.replica().pull_locked(directory, Target::Version(tip.record.version)).await?;
        let nonce = Nonce::random();
        let anchor = match self.leaves(directory, tip).await {
            Ok(leaves) => self.upload_anchor(directory, tip, nonce, leaves).await,
            Err(error) => Err(error),
        };
        let anchor = match anchor {
            Ok(anchor) => anchor,
            // The next call makes good what is wrong.
            Err(error) => {
                let (directory, stream, was) =
                    (directory.clone(), self.stream.id(), InstalledVersion::of(tip));
                return Err(blocking(move || Ok(damage_noted(&directory, stream, &was, error))).await?);
            }
        };
        self.add_anchor_record(known, tip, nonce, anchor).await
    }

    async fn add_anchor_record(
        &self,
        known: &mut Known,
        tip: &Commit,
        nonce: Nonce,
        anchor: Anchor,
    ) -> Result<AnchorAdded, StoreError> {
        let bytes = anchor.objects().fold(0_u64, |sum, object| sum.saturating_add(object.bytes));
        let chain = Chain::after(&anchor);
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
        known.chain = Some(chain);
        Ok(AnchorAdded::new(tip.record.version, bytes))
    }

    /// Hashes the baseline once more: what has rotted on disk must not become an anchor.
    async fn leaves(&self, directory: &ReplicaDir, tip: &Commit) -> Result<LeafTable, StoreError> {
        let (directory, options, tip) = (directory.clone(), self.options.diff.clone(), tip.clone());
        let observer = self.options.observer.clone();
        blocking(move || verify_baseline(&directory, &tip, &options, &observer).map(|(_, leaves)| leaves))
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
        let (dir, options) = (directory.root().clone(), self.options.diff.clone());
        let mut files = blocking(move || install::weight_files(&dir, &options)).await?;
        files.extend(tip.record.companions.iter().map(|companion| companion.name.clone()));
        self.options.observer.start(Phase::Upload, tip.record.contents.state_bytes);
        let files = buffered_all(files, self.stream.policy().transfers.parallel_uploads, |name| async move {
            let key = names::anchor(version, nonce, &name)?;
            let path = directory.root().join(&name);
            let object = self.stream.bucket().upload(key, &path, &self.options.observer).await?;
            Ok(NamedObject { name, object })
        })
        .await?;
        // The companions were written long ago, and are no part of the state.
        for companion in &tip.record.companions {
            let copy = files.iter().find(|file| file.name == companion.name);
            if copy.is_none_or(|copy| copy.object.blake3 != companion.object.blake3) {
                return Err(StoreError::LocalDamage {
                    path: directory.path(),
                    what: format!("{} is not the file that was published with the version", companion.name),
                });
            }
        }
        let key = names::leaves(version, nonce)?;
        let leaves = self.stream.bucket().put_bytes(key, leaves.as_bytes().to_vec().into()).await?;
        Ok(Anchor { files, leaves })
    }
}
