//! A publisher: appends versions to a stream, each as a patch from the one before (spec/stream.md section 5).

mod advance;
mod anchor;
pub(crate) mod anchor_policy;
mod baseline;
pub(crate) mod builder;
mod encode;
pub(crate) mod feed;
pub(crate) mod fold;
mod known;
mod lag;
mod local;
mod memory;
pub(crate) mod options;
mod place;
mod published;
pub mod ranks;
pub(crate) mod survey;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tensorpatch_checkpoint::{Checkpoint, LeftOut, Role};
use tensorpatch_delta::{DiffError, Durability, open_settled};
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
use crate::replica::directory::ReplicaDir;
use crate::stream::{Stream, next_version};

use advance::{Advance, Patched};
use anchor_policy::Chain;
use baseline::check_baseline;
use builder::PublisherBuilder;
use known::Known;
use lag::Lag;
use local::{
    Base, Checked, Companion, Staged, copy_companion, encode_and_check, same_companions, stage_checkpoint,
};
use options::PublishOptions;

pub use published::Published;

/// Publishes checkpoints as versions of a stream.
///
/// It keeps a baseline, a directory with the newest version or one before, which advances only after a
/// version is committed and is restored from the stream when it is missing. While the checkpoint that was
/// published last is there unaltered, patches are made from that, and the baseline stays behind. Checkpoints
/// are read, and never held in memory.
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
    /// What was read.
    target: Option<Checkpoint>,
}

/// A checkpoint that is to be published.
struct Opened {
    target: Checkpoint,
    /// Copies of the files beside its weights.
    companions: Vec<Companion>,
    /// What stays behind.
    left_out: Vec<LeftOut>,
}

/// A patch that is written and checked, and whose object appears once its upload is finished.
struct Patch {
    nonce: Nonce,
    checked: Checked,
    outgoing: Outgoing,
    uploading: Uploading,
    /// How far the baseline is behind, if a checkpoint took its place.
    lag: Option<Lag>,
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
        let (directory, mut known) = publisher.lock().await?;
        publisher.check_place(&directory).await?;
        let tip = publisher.tip(&directory).await?;
        *known = Known::of(publisher.to_version_or_source(&directory, tip).await?.0);
        drop(known);
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
        check_baseline(&self.baseline)?;
        create_private_dir(&self.baseline)?;
        let directory = ReplicaDir::lock(&self.baseline, self.options.diff.durability).await?;
        directory.mark_baseline_if_new()?;
        Ok((directory, known))
    }

    /// Waits until what goes on in the background is done.
    ///
    /// A version is published when [`Publisher::publish`] returns; then the baseline follows, unless it may
    /// stay behind because the checkpoints that were published are still there, and the next version can be
    /// made from the last of them. Nobody has to wait for that: the next call does, and so does the next
    /// process, which finishes what this one has not. [`Publisher::catch_up`] brings the baseline to the
    /// newest version in any case.
    ///
    /// # Cancel safety
    /// The future may be dropped at any time.
    pub async fn settle(&self) {
        self.known.lock().await.settle().await;
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
        let tip = self.tip_if_own(known).await?;
        let (tip, lag) = self.to_version_or_source(directory, tip).await?;
        let Some(tip) = tip else {
            let nonce = Nonce::random();
            let Opened { target, companions, left_out } =
                self.open_target(directory, checkpoint, None).await?;
            let prepared = self.first(directory, target, &companions, nonce).await?;
            let published = self.commit(directory, None, prepared, nonce, label, known).await?;
            return Ok(Published { left_out, ..published });
        };
        let Opened { target, mut companions, mut left_out } =
            self.open_target(directory, checkpoint, lag.as_ref()).await?;
        let patch = match self.encode(directory, target, &tip, lag.clone()).await {
            // The baseline was damaged on disk, and now says so: it is restored from the stream. Or what took
            // its place is not what it was.
            Err(
                error @ (StoreError::WrongState { .. }
                | StoreError::LocalDamage { .. }
                | StoreError::Diff(DiffError::Checkpoint(_))),
            ) if self.options.base.is_none() => {
                tracing::info!("what the patch was to be made from is not the newest version: {error}");
                if let Some(lag) = lag {
                    lag.distrust(directory)?;
                }
                self.to_tip(directory).await?;
                let target;
                Opened { target, companions, left_out } =
                    self.open_target(directory, checkpoint, None).await?;
                self.encode(directory, target, &tip, None).await?
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

    /// The content of a first version: private copies of the files, their digest, and the objects (steps P3
    /// and P4).
    async fn first(
        &self,
        directory: &ReplicaDir,
        target: Checkpoint,
        companions: &[Companion],
        nonce: Nonce,
    ) -> Result<Prepared, StoreError> {
        let staged = self.stage(directory, target).await?;
        self.upload_first(companions, staged, nonce).await
    }

    async fn stage(&self, directory: &ReplicaDir, target: Checkpoint) -> Result<Staged, StoreError> {
        let (directory, options) = (directory.clone(), self.options.diff.clone());
        let observer = self.options.observer.clone();
        blocking(move || stage_checkpoint(&directory, target, &options, &observer)).await
    }

    /// The objects of a first version (step P4).
    async fn upload_first(
        &self,
        companions: &[Companion],
        staged: Staged,
        nonce: Nonce,
    ) -> Result<Prepared, StoreError> {
        let version = Version::FIRST;
        let anchor = self.upload_staged(version, nonce, &staged, companions).await?;
        let companions = self.upload_companions(version, nonce, companions, &[]).await?;
        let bytes = anchor.objects().chain(companions.iter().map(|c| &c.object)).map(|o| o.bytes).sum();
        let version = NewVersion { contents: staged.contents, delta: None, anchor: Some(anchor), companions };
        Ok(Prepared { version, bytes, advance: Advance::Staged(staged.source), target: None })
    }

    /// The objects of an anchor of `version`.
    async fn upload_staged(
        &self,
        version: Version,
        nonce: Nonce,
        staged: &Staged,
        companions: &[Companion],
    ) -> Result<Anchor, StoreError> {
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
        Ok(Anchor { files, leaves })
    }

    /// The patch of a later version, from the baseline or from what takes its place, checked by decoding it,
    /// and its upload, which has begun (step P3).
    async fn encode(
        &self,
        directory: &ReplicaDir,
        target: Checkpoint,
        tip: &Commit,
        lag: Option<Lag>,
    ) -> Result<Patch, StoreError> {
        let (options, observer) = (self.options.diff.clone(), self.options.observer.clone());
        let source = lag.as_ref().and_then(Lag::source);
        let base = match (self.options.base.clone(), source.cloned()) {
            (Some(path), _) => Base::Checkpoint(path),
            (None, Some(source)) => Base::Source(source),
            (None, None) => Base::Baseline,
        };
        let write = move |directory: &ReplicaDir, tip: &Commit, outgoing: &mut _| {
            encode_and_check(directory, &base, target, tip, &options, &observer, outgoing)
        };
        Ok(Patch { lag, ..self.upload_patch(directory, tip, write).await? })
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
            Ok((checked, outgoing)) => Ok(Patch { nonce, checked, outgoing, uploading, lag: None }),
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
        let Patch { nonce, checked, outgoing, uploading, lag } = patch;
        let object = uploading.finish(outgoing).await?;
        let known = &tip.record.companions;
        let companions = self.upload_companions(version, nonce, companions, known).await?;
        let new = companions.iter().filter(|companion| !known.contains(companion));
        let bytes = new.map(|companion| companion.object.bytes).sum::<u64>().saturating_add(object.bytes);
        let Checked { encoded, contents, source, target } = checked;
        let advance = Advance::Patch(Patched { digest: object.blake3, source, lag });
        let delta = Some(encoded.into_delta(tip.id(), object));
        let version = NewVersion { contents, delta, anchor: None, companions };
        Ok(Prepared { version, bytes, advance, target })
    }

    /// Opens the checkpoint that is to be published, and copies the files beside the weights, because they
    /// may change between being hashed and being uploaded. Of earlier runs only what `lag` needs stays.
    async fn open_target(
        &self,
        directory: &ReplicaDir,
        checkpoint: &Path,
        lag: Option<&Lag>,
    ) -> Result<Opened, StoreError> {
        let (directory, checkpoint, options) =
            (directory.clone(), checkpoint.to_owned(), self.options.clone());
        let keep = lag.map(|lag| lag.patches(&directory)).unwrap_or_default();
        blocking(move || {
            directory.sweep(&keep)?;
            let target = open_settled(&checkpoint, &options.diff.limits)?;
            let found = survey::companions(&target, &options)?;
            let copy = |found: &tensorpatch_checkpoint::Companion| {
                let file = found.open().map_err(|error| StoreError::local(&found.path, error))?;
                copy_companion(&directory, &found.name, (&found.path, &file))
            };
            let companions = found.carried.iter().map(copy).collect::<Result<_, _>>()?;
            Ok(Opened { target, companions, left_out: found.left_out })
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
        let Prepared { version, bytes, advance, target } = prepared;
        let publisher = self.options.publisher.as_str();
        let author = Authorship { publisher, nonce, label, created: unix_now() };
        known.attempt = Some(nonce);
        let created = self.stream.commit_version(tip, version, author).await;
        if let Err(StoreError::LostRace { .. }) = &created {
            known.attempt = None;
        }
        let commit = created?;
        drop(tokio::task::spawn_blocking(move || drop(target)));
        let chain =
            known.chain.or_else(|| Chain::load(directory, tip?)).map(|chain| chain.and(&commit.record));
        *known = Known { chain, ..Known::of(Some(commit.clone())) };
        let record = &commit.record;
        tracing::info!(
            "committed version {} as {:?}: {bytes} bytes uploaded",
            record.version,
            record.publisher
        );
        self.note_place(directory).await;
        let hint = self.stream.hint(commit.record.version);
        if self.options.base.is_some() {
            hint.await;
            let directory = directory.clone();
            blocking(move || directory.sweep(&[])).await?;
            return Ok(Published::of(&commit, bytes, false));
        }
        let is_first = matches!(advance, Advance::Staged(_));
        let advancing = advance.bring(directory, &commit, &self.options.diff);
        known.advancing = Some(tokio::spawn(async move {
            if let Err(error) = advancing.await {
                // The version is published all the same. The next call catches up.
                tracing::warn!(%error, "the baseline could not be advanced");
            }
        }));
        hint.await;
        if is_first {
            known.settle().await;
        }
        Ok(Published::of(&commit, bytes, false))
    }
}
