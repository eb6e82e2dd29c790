//! A publisher: appends versions to a stream, each as a patch from the one before (spec/stream.md section 5).

mod advance;
mod anchor;
pub(crate) mod anchor_policy;
pub(crate) mod builder;
mod encode;
pub(crate) mod feed;
pub(crate) mod fold;
mod known;
mod local;
mod memory;
pub(crate) mod options;
mod published;
pub mod ranks;
pub(crate) mod survey;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tensorpatch_checkpoint::{Checkpoint, LeftOut, Role};
use tensorpatch_delta::Durability;
use tensorpatch_stream::record::check_texts;
use tensorpatch_stream::{
    Anchor, Authorship, Commit, NamedObject, NewVersion, Nonce, Version, VersionId, names,
};
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::bucket::buffered_all;
use crate::bucket::upload::{Outgoing, Uploading};
use crate::error::StoreError;
use crate::local::{blocking, create_private_dir, file_len, unix_now};
use crate::observe::{Observer, Phase};
use crate::replica::directory::{LocalState, ReplicaDir, first_entry};
use crate::replica::install;
use crate::replica::options::Target;
use crate::stream::{Stream, next_version};

use advance::Advance;
use anchor_policy::Chain;
use builder::PublisherBuilder;
use known::Known;
use local::{
    Base, Checked, Companion, Staged, copy_companion, encode_and_check, same_companions, stage_checkpoint,
};
use options::PublishOptions;

pub use published::Published;

/// Publishes checkpoints as versions of a stream.
///
/// It keeps a baseline, a directory with the newest version, which advances only after a version is committed
/// and is restored from the stream when it is missing. One checkpoint is read, and never held in memory.
///
/// Clones are the same publisher: one call at a time does its work, and the others wait for it.
#[derive(Debug, Clone)]
pub struct Publisher {
    stream: Stream,
    baseline: PathBuf,
    options: PublishOptions,
    /// The newest version that this publisher knows of and builds on, and the nonce of its last attempt.
    known: Arc<Mutex<Known>>,
}

/// A version ready to be committed.
struct Prepared {
    version: NewVersion,
    /// Bytes uploaded.
    bytes: u64,
    advance: Advance,
}

/// A patch that is written and checked, and whose object appears once its upload is finished.
struct Patch {
    nonce: Nonce,
    checked: Checked,
    outgoing: Outgoing,
    uploading: Uploading,
}

impl Publisher {
    /// A publisher of the stream at `url`, which is created if there is none, with its baseline in the user's
    /// cache.
    ///
    /// [`Publisher::builder`] has everything that can be chosen.
    ///
    /// # Errors
    /// If the store fails or does not keep publishers apart ([`StoreError::NoConditionalCreate`]), or the
    /// baseline cannot be brought to the tip.
    ///
    /// # Cancel safety
    /// The future may be dropped at any time; an empty stream may then have been created.
    pub async fn open(url: impl Into<String>) -> Result<Self, StoreError> {
        Self::builder(url).open().await
    }

    /// Chooses how a publisher of the stream at `url` is opened.
    pub fn builder(url: impl Into<String>) -> PublisherBuilder {
        PublisherBuilder::new(url.into())
    }

    /// A publisher of a stream that is open already, with its baseline in `baseline`, brought to the tip of
    /// the stream.
    ///
    /// # Errors
    /// If the baseline belongs to another stream or holds something else, or cannot be brought to the tip.
    ///
    /// # Cancel safety
    /// The future may be dropped at any time. Work on the baseline that has begun runs to its end and keeps
    /// it locked until then.
    pub async fn on(
        stream: Stream,
        baseline: impl Into<PathBuf>,
        mut options: PublishOptions,
    ) -> Result<Self, StoreError> {
        check_texts(&options.publisher, None).map_err(StoreError::Text)?;
        // The baseline is made again from the stream when it is lost, so that nothing waits for the disk.
        options.diff =
            options.diff.with_leaf_hash(stream.record().leaf_hash).with_durability(Durability::None);
        let publisher = Self { stream, baseline: baseline.into(), options, known: Arc::default() };
        publisher.places().check()?;
        publisher.catch_up().await?;
        Ok(publisher)
    }

    /// The stream.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// The directory of the baseline.
    pub fn baseline(&self) -> &Path {
        &self.baseline
    }

    /// The same publisher, whose next versions are made from the checkpoint at `base`, as
    /// [`PublishOptions::base`] says, or from its baseline: for trainers that have another checkpoint before
    /// each time.
    #[must_use]
    pub fn with_base(&self, base: Option<PathBuf>) -> Self {
        let mut publisher = self.clone();
        publisher.options.base = base;
        publisher
    }

    /// Brings the baseline to the tip, whoever published it, so that the next version builds on that.
    ///
    /// # Errors
    /// As [`Publisher::on`].
    ///
    /// # Cancel safety
    /// As [`Publisher::on`].
    pub async fn catch_up(&self) -> Result<Option<VersionId>, StoreError> {
        let (directory, mut known) = self.lock().await?;
        let tip = self.to_tip(&directory).await?;
        let id = tip.as_ref().map(Commit::id);
        *known = Known::of(tip);
        Ok(id)
    }

    /// Locks the publisher and its baseline, which has settled then.
    async fn lock(&self) -> Result<(ReplicaDir, OwnedMutexGuard<Known>), StoreError> {
        let mut known = Arc::clone(&self.known).lock_owned().await;
        known.settle().await;
        create_private_dir(&self.baseline)?;
        let directory = ReplicaDir::lock(&self.baseline, self.options.diff.durability).await?;
        Ok((directory, known))
    }

    /// Waits until the baseline has come to the version that was published last.
    ///
    /// A version is published when [`Publisher::publish`] returns; its baseline follows in the background.
    /// Nobody has to wait for that: the next call does, and so does the next process, which finishes what
    /// this one has not.
    ///
    /// # Cancel safety
    /// The future may be dropped at any time.
    pub async fn settle(&self) {
        self.known.lock().await.settle().await;
    }

    /// Steps P1 and P2 of section 5.
    async fn to_tip(&self, directory: &ReplicaDir) -> Result<Option<Commit>, StoreError> {
        let held = self.recovered(directory).await?.map(|state| state.condition.version());
        let tip = self.stream.tip_after(held).await?;
        self.to_version(directory, tip).await
    }

    /// What the baseline holds, once an interrupted step is brought to its end.
    async fn recovered(&self, directory: &ReplicaDir) -> Result<Option<LocalState>, StoreError> {
        let (directory, options) = (directory.clone(), self.options.diff.clone());
        blocking(move || install::recover(&directory, &options)).await
    }

    /// Brings the baseline to `tip`, the newest version.
    async fn to_version(
        &self,
        directory: &ReplicaDir,
        tip: Option<Commit>,
    ) -> Result<Option<Commit>, StoreError> {
        let local = self.recovered(directory).await?;
        let Some(tip) = tip else {
            return match local {
                None => match first_entry(&self.baseline)? {
                    None => Ok(None),
                    Some(name) => Err(StoreError::ForeignDirectory {
                        path: self.baseline.clone(),
                        what: format!("it has {name:?}"),
                    }),
                },
                Some(local) => {
                    local.check_stream(self.stream.id(), &self.baseline)?;
                    Err(StoreError::HistoryRewritten("the baseline holds a version, the stream none".into()))
                }
            };
        };
        let is_there =
            local.is_some_and(|local| local.stream == self.stream.id() && local.condition.holds(&tip));
        if !is_there && self.options.base.is_none() {
            self.replica().pull_locked(directory, Target::Version(tip.record.version)).await?;
        }
        Ok(Some(tip))
    }

    /// Publishes the checkpoint at `checkpoint` as the next version, unless it is the newest version already.
    ///
    /// # Errors
    /// [`StoreError::LostRace`] and [`StoreError::NotAtTip`] if another publisher was there first: then
    /// [`Publisher::catch_up`] and publish again. [`StoreError::OutcomeUnknown`] if the store did not say:
    /// publishing the same again finds out. In every case the baseline holds a version of the stream.
    ///
    /// # Cancel safety
    /// The future may be dropped at any time. The version is then published or not, as if the process had
    /// died: publishing the same again finds out. Work on local disk that has begun runs to its end and keeps
    /// the baseline locked until then.
    pub async fn publish(&self, checkpoint: impl AsRef<Path>) -> Result<Published, StoreError> {
        self.publish_labelled(checkpoint, None).await
    }

    /// Publishes with a mark of the caller's, such as a training step.
    ///
    /// If the tip has the same mark and the same state, it is taken for published, and returned: so a caller
    /// that died before it saw the end may simply repeat the call.
    ///
    /// # Errors
    /// As [`Publisher::publish`].
    ///
    /// # Cancel safety
    /// As [`Publisher::publish`].
    pub async fn publish_labelled(
        &self,
        checkpoint: impl AsRef<Path>,
        label: Option<&str>,
    ) -> Result<Published, StoreError> {
        let checkpoint = checkpoint.as_ref();
        check_texts(&self.options.publisher, label).map_err(StoreError::Text)?;
        self.places().read(Role::Checkpoint, checkpoint).check()?;
        let (directory, mut known) = self.lock().await?;
        let mut published = self.publish_locked(&directory, checkpoint, label, &mut known).await?;
        self.anchor_if_due(&directory, &mut known, &mut published).await;
        Ok(published)
    }

    async fn publish_locked(
        &self,
        directory: &ReplicaDir,
        checkpoint: &Path,
        label: Option<&str>,
        known: &mut Known,
    ) -> Result<Published, StoreError> {
        let Some(tip) = self.to_tip_if_own(directory, known).await? else {
            let nonce = Nonce::random();
            let (companions, left_out) = self.copy_companions(directory, checkpoint).await?;
            let prepared = self.first(directory, checkpoint, &companions, nonce).await?;
            let published = self.commit(directory, None, prepared, nonce, label, known).await?;
            return Ok(Published { left_out, ..published });
        };
        let (mut companions, mut left_out) = self.copy_companions(directory, checkpoint).await?;
        let patch = match self.encode(directory, checkpoint, &tip).await {
            // The baseline was damaged on disk, and now says so: it is restored from the stream.
            Err(StoreError::WrongState { .. } | StoreError::LocalDamage { .. })
                if self.options.base.is_none() =>
            {
                self.to_tip(directory).await?;
                (companions, left_out) = self.copy_companions(directory, checkpoint).await?;
                self.encode(directory, checkpoint, &tip).await?
            }
            encoded => encoded?,
        };
        let published = self.publish_patch(directory, &tip, &companions, patch, label, known).await?;
        Ok(Published { left_out, ..published })
    }

    /// Publishes a patch that is checked, if the tip is not its version already.
    async fn publish_patch(
        &self,
        directory: &ReplicaDir,
        tip: &Commit,
        companions: &[Companion],
        patch: Patch,
        label: Option<&str>,
        known: &mut Known,
    ) -> Result<Published, StoreError> {
        let (new, old) = (&patch.checked.contents, &tip.record.contents);
        let same_attempt = known.attempt == Some(tip.record.nonce);
        let same_label = label.is_some() && tip.record.label.as_deref() == label;
        let same_files = same_companions(companions, &tip.record.companions);
        let unchanged = label.is_none() && !self.options.allow_unchanged;
        let is_same = new.state == old.state && new.layout == old.layout && same_files;
        if is_same && (same_attempt || same_label || unchanged) {
            *known = Known::of(Some(tip.clone()));
            drop(patch.outgoing);
            patch.uploading.give_up().await;
            let mut published = Published::of(tip, 0, same_attempt || same_label);
            published.unchanged = !published.resumed;
            return Ok(published);
        }
        let nonce = patch.nonce;
        let prepared = self.next(companions, patch, tip).await?;
        self.commit(directory, Some(tip), prepared, nonce, label, known).await
    }

    /// The tip, if it is the one that is known, or this publisher's own attempt whose end it did not see.
    async fn to_tip_if_own(
        &self,
        directory: &ReplicaDir,
        known: &mut Known,
    ) -> Result<Option<Commit>, StoreError> {
        let held = known.tip.as_ref().map(|tip| tip.record.version);
        let tip = self.stream.tip_after(held).await?;
        let unchanged = tip == known.tip;
        let own = tip.as_ref().is_some_and(|tip| known.attempt == Some(tip.record.nonce));
        if !unchanged && !own {
            return Err(match &tip {
                Some(tip) if held.is_none_or(|held| held < tip.record.version) => {
                    StoreError::NotAtTip { held, tip: tip.record.version }
                }
                _ => StoreError::HistoryRewritten(format!(
                    "version {} was the newest, and is no longer",
                    held.map_or(0, Version::get)
                )),
            });
        }
        self.to_version(directory, tip).await
    }

    /// The content of a first version: private copies of the files, their digest, and the objects (steps P3
    /// and P4).
    async fn first(
        &self,
        directory: &ReplicaDir,
        checkpoint: &Path,
        companions: &[Companion],
        nonce: Nonce,
    ) -> Result<Prepared, StoreError> {
        let (directory, checkpoint, options) =
            (directory.clone(), checkpoint.to_owned(), self.options.diff.clone());
        let observer = self.options.observer.clone();
        let staged = blocking(move || stage_checkpoint(&directory, &checkpoint, &options, &observer)).await?;
        self.upload_first(companions, staged, nonce).await
    }

    /// The objects of a first version (step P4).
    async fn upload_first(
        &self,
        companions: &[Companion],
        staged: Staged,
        nonce: Nonce,
    ) -> Result<Prepared, StoreError> {
        let version = Version::FIRST;
        let bytes = staged.files.iter().map(|(_, path)| file_len(path)).sum::<Result<u64, _>>()?;
        self.options.observer.start(Phase::Upload, bytes);
        let mut files = buffered_all(
            staged.files.clone(),
            self.stream.policy().transfers.parallel_uploads,
            |(name, path)| async move {
                let key = names::anchor(version, nonce, &name)?;
                let object = self.stream.bucket().upload(key, &path, &self.options.observer).await?;
                Ok(NamedObject { name, object })
            },
        )
        .await?;
        for companion in companions {
            let key = names::anchor(version, nonce, &companion.name)?;
            let object = self.stream.bucket().upload(key, &companion.copy, &Observer::default()).await?;
            files.push(NamedObject { name: companion.name.clone(), object });
        }
        let key = names::leaves(version, nonce)?;
        let leaves = self.stream.bucket().put_bytes(key, staged.leaves.as_bytes().to_vec().into()).await?;
        let companions = self.upload_companions(version, nonce, companions, &[]).await?;
        let anchor = Anchor { files, leaves };
        let bytes = anchor.objects().chain(companions.iter().map(|c| &c.object)).map(|o| o.bytes).sum();
        let version = NewVersion { contents: staged.contents, delta: None, anchor: Some(anchor), companions };
        Ok(Prepared { version, bytes, advance: Advance::Staged })
    }

    /// The patch of a later version from the baseline, checked by decoding it, and its upload, which has
    /// begun (step P3).
    async fn encode(
        &self,
        directory: &ReplicaDir,
        checkpoint: &Path,
        tip: &Commit,
    ) -> Result<Patch, StoreError> {
        let (checkpoint, options) = (checkpoint.to_owned(), self.options.diff.clone());
        let (base, observer) = (self.options.base.clone(), self.options.observer.clone());
        self.upload_patch(directory, tip, move |directory, tip, outgoing| {
            let base = base.as_deref().map_or(Base::Baseline, Base::Checkpoint);
            encode_and_check(directory, base, &checkpoint, tip, &options, &observer, outgoing)
        })
        .await
    }

    /// The patch that `write` writes and checks, on a thread that may block, while its upload has begun.
    async fn upload_patch(
        &self,
        directory: &ReplicaDir,
        tip: &Commit,
        write: impl FnOnce(&ReplicaDir, &Commit, &mut Outgoing) -> Result<Checked, StoreError> + Send + 'static,
    ) -> Result<Patch, StoreError> {
        let nonce = Nonce::random();
        let key = names::patch(next_version(Some(tip))?, nonce, "delta.tpatch")?;
        let bucket = self.stream.bucket();
        let (mut outgoing, uploading) =
            bucket.upload_while_written(key, directory.outgoing(), &self.options.observer)?;
        let (directory, tip) = (directory.clone(), tip.clone());
        let encoded = blocking(move || {
            let checked = write(&directory, &tip, &mut outgoing)?;
            Ok((checked, outgoing))
        });
        match encoded.await {
            Ok((checked, outgoing)) => Ok(Patch { nonce, checked, outgoing, uploading }),
            Err(error) => {
                uploading.give_up().await;
                Err(error)
            }
        }
    }

    /// The content of a later version, its objects uploaded (step P4).
    async fn next(
        &self,
        companions: &[Companion],
        patch: Patch,
        tip: &Commit,
    ) -> Result<Prepared, StoreError> {
        let version = next_version(Some(tip))?;
        let Patch { nonce, checked, outgoing, uploading } = patch;
        let object = uploading.finish(outgoing).await?;
        let known = &tip.record.companions;
        let companions = self.upload_companions(version, nonce, companions, known).await?;
        let new = companions.iter().filter(|companion| !known.contains(companion));
        let bytes = new.map(|companion| companion.object.bytes).sum::<u64>().saturating_add(object.bytes);
        let Checked { encoded, contents } = checked;
        let advance = Advance::Patch(object.blake3);
        let delta = Some(encoded.into_delta(tip.id(), object));
        let version = NewVersion { contents, delta, anchor: None, companions };
        Ok(Prepared { version, bytes, advance })
    }

    /// Copies the files beside the weights, because they may change between being hashed and being uploaded;
    /// and what stays behind.
    async fn copy_companions(
        &self,
        directory: &ReplicaDir,
        checkpoint: &Path,
    ) -> Result<(Vec<Companion>, Vec<LeftOut>), StoreError> {
        let (directory, checkpoint, options) =
            (directory.clone(), checkpoint.to_owned(), self.options.clone());
        blocking(move || {
            directory.sweep(&[])?;
            let checkpoint = Checkpoint::open(&checkpoint, &options.diff.limits)?;
            let found = survey::companions(&checkpoint, &options)?;
            let copies = found.carried.iter().map(|file| copy_companion(&directory, &file.name, &file.path));
            Ok((copies.collect::<Result<_, _>>()?, found.left_out))
        })
        .await
    }

    /// Uploads those companions that the version before does not have with the same contents.
    async fn upload_companions(
        &self,
        version: Version,
        nonce: Nonce,
        companions: &[Companion],
        known: &[NamedObject],
    ) -> Result<Vec<NamedObject>, StoreError> {
        buffered_all(companions, self.stream.policy().transfers.parallel_uploads, |companion| async move {
            let same = known.iter().find(|known| {
                known.object.blake3 == companion.digest && known.object.bytes == companion.bytes
            });
            let object = match same {
                Some(known) => known.object.clone(),
                None => {
                    let key = names::companion(version, nonce, &companion.name)?;
                    self.stream.bucket().upload(key, &companion.copy, &Observer::default()).await?
                }
            };
            Ok(NamedObject { name: companion.name.clone(), object })
        })
        .await
    }

    /// Steps P5 to P7 of section 5.
    async fn commit(
        &self,
        directory: &ReplicaDir,
        tip: Option<&Commit>,
        prepared: Prepared,
        nonce: Nonce,
        label: Option<&str>,
        known: &mut Known,
    ) -> Result<Published, StoreError> {
        let Prepared { version, bytes, advance } = prepared;
        let publisher = self.options.publisher.as_str();
        let author = Authorship { publisher, nonce, label, created: unix_now() };
        known.attempt = Some(nonce);
        let created = self.stream.commit_version(tip, version, author).await;
        if let Err(StoreError::LostRace { .. }) = &created {
            known.attempt = None;
        }
        let commit = created?;
        let chain =
            known.chain.or_else(|| Chain::load(directory, tip?)).map(|chain| chain.and(&commit.record));
        *known = Known { chain, ..Known::of(Some(commit.clone())) };
        let record = &commit.record;
        tracing::info!(
            "committed version {} as {:?}: {bytes} bytes uploaded",
            record.version,
            record.publisher
        );
        self.stream.hint(commit.record.version).await;
        if self.options.base.is_some() {
            let directory = directory.clone();
            blocking(move || directory.sweep(&[])).await?;
            return Ok(Published::of(&commit, bytes, false));
        }
        let advancing = advance.bring(directory, tip, &commit, &self.options.diff);
        known.advancing = Some(tokio::spawn(async move {
            if let Err(error) = advancing.await {
                // The version is published all the same. The next call catches up.
                tracing::warn!(%error, "the baseline could not be advanced");
            }
        }));
        if let Advance::Staged = advance {
            known.settle().await;
        }
        Ok(Published::of(&commit, bytes, false))
    }
}
