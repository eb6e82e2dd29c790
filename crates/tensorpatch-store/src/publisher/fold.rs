//! Folding: one patch across several versions, as another edge to the last of them (spec/stream.md section
//! 4.3).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use tensorpatch_checkpoint::{Checkpoint, ConfinedPath, Role};
use tensorpatch_delta::{Progress, Snapshot};
use tensorpatch_stream::{Commit, EdgeRecord, Nonce, PlanError, Version, names};

use super::encode::{Encoded, encode};
use super::options::PublishOptions;
use crate::error::StoreError;
use crate::local::{self, blocking, unix_now};
use crate::lock::Lock;
use crate::observe::Phase;
use crate::replica::Replica;
use crate::replica::options::ReplicaOptions;
use crate::stream::Stream;

/// What folding did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Folded {
    /// The version that the patch starts from.
    pub from: Version,
    /// The version that it leads to.
    pub to: Version,
    /// Bytes of the patch.
    pub bytes: u64,
    /// Bytes of the cheapest path without it.
    pub replaced_bytes: u64,
    /// Whether it was added: it is not if it would not be cheaper, or exists already.
    pub added: bool,
}

/// Makes folds of a stream in a working directory, which holds two replicas and may be used again and again.
#[derive(Debug)]
pub struct Folder {
    stream: Stream,
    work: PathBuf,
    options: PublishOptions,
}

impl Folder {
    /// A folder of `stream` that works in `work`. It needs room for two checkpoints.
    pub fn new(stream: Stream, work: impl Into<PathBuf>, mut options: PublishOptions) -> Self {
        options.diff = options.diff.with_leaf_hash(stream.record().leaf_hash);
        Self { stream, work: work.into(), options }
    }

    /// Folds the versions after `from` up to `to` into one patch, if that is cheaper than the paths there
    /// are.
    ///
    /// # Errors
    /// If one of the versions cannot be pulled, or the store fails. The stream is then as it was.
    ///
    /// # Cancel safety
    /// The future may be dropped at any time; the fold is then added or not. What was pulled and uploaded is
    /// used by the next call, or is garbage.
    pub async fn fold(&self, from: Version, to: Version) -> Result<Folded, StoreError> {
        self.stream.altered_places().altered(Role::Work, &self.work).check()?;
        let target = self.commit(to).await?;
        let base = self.commit(from).await?;
        if from >= to {
            return Err(StoreError::NoVersion { wanted: from, tip: to.previous() });
        }
        let history = self.stream.history(Some(from), &target, usize::MAX).await?;
        let id = base.id();
        let plan = self.stream.complete_plan(&history, Some(&id), to, usize::MAX, BTreeSet::new()).await;
        // A pin may have kept what is below the floor.
        if matches!(plan, Err(StoreError::Plan(PlanError::NoPath { .. })))
            && let Some(oldest) = self.stream.pruned().await?.filter(|floor| from < *floor)
        {
            return Err(StoreError::Collected { wanted: from, oldest });
        }
        let plan = plan?;
        let replaced_bytes = plan.bytes();
        if let [edge] = plan.edges.as_slice()
            && edge.base() == Some(&id)
        {
            return Ok(Folded { from, to, bytes: edge.bytes(), replaced_bytes, added: false });
        }
        // What lies in the directory is this fold's until it is published.
        local::create_private_dir(&self.work)?;
        let (lock, work) = Lock::wait(&self.work, "").await?;
        let lock = Arc::new(lock);
        let old = self.pull(&work.join("base"), from).await?;
        let new = self.pull(&work.join("target"), to).await?;
        let file = work.join("fold.tpatch");
        let encoded = self.encode(&old, &new, &file, &lock).await?;
        // The replicas are private and were verified, but may have rotted since.
        for (dir, found, commit) in [(old, encoded.base, &base), (new, encoded.target, &target)] {
            let expected = commit.record.contents.state;
            if found != expected {
                return Err(StoreError::WrongState { path: dir, expected, found });
            }
        }
        let bytes = local::file_len(&file)?;
        let folded = Folded { from, to, bytes, replaced_bytes, added: false };
        if bytes >= replaced_bytes {
            return Ok(folded);
        }
        let nonce = Nonce::random();
        self.options.observer.start(Phase::Upload, bytes);
        let key = names::fold(to, from, nonce)?;
        let object = self.stream.bucket().upload(key, &file, &self.options.observer).await?;
        let record = EdgeRecord {
            stream: self.stream.id(),
            publisher: self.options.publisher.clone(),
            nonce,
            created: unix_now(),
            target: target.id(),
            delta: Some(encoded.into_delta(base.id(), object)),
            anchor: None,
        };
        self.stream.add_edge(&record).await?;
        local::remove(&file)?;
        Ok(Folded { added: true, ..folded })
    }

    async fn commit(&self, version: Version) -> Result<Commit, StoreError> {
        match self.stream.commit(version).await? {
            Some(commit) => Ok(commit),
            None => {
                let tip = self.stream.tip().await?.map(|tip| tip.record.version);
                Err(StoreError::NoVersion { wanted: version, tip })
            }
        }
    }

    async fn pull(&self, dir: &ConfinedPath, version: Version) -> Result<PathBuf, StoreError> {
        // A replica may be a link, but not one that others have put here.
        local::make_dir(dir)?;
        let dir = dir.path();
        let options = ReplicaOptions::default()
            .with_apply(self.options.diff.clone())
            .allowing_code()
            .with_observer(self.options.observer.clone());
        Replica::of(self.stream.clone(), &dir, options).pull_version(version).await?;
        Ok(dir)
    }

    async fn encode(
        &self,
        old: &Path,
        new: &Path,
        file: &ConfinedPath,
        lock: &Arc<Lock>,
    ) -> Result<Encoded, StoreError> {
        let (old, new, place) = (old.to_owned(), new.to_owned(), file.clone());
        let (options, observer) = (self.options.diff.clone(), self.options.observer.clone());
        let lock = Arc::clone(lock);
        blocking(move || {
            let _until_the_end = lock;
            let old = Checkpoint::open(&old, &options.limits)?;
            let new = Checkpoint::open(&new, &options.limits)?;
            let file = place.replace().map_err(StoreError::at(&place))?;
            observer.start(Phase::Encode, new.schema().state_bytes());
            let advance = observer.steer(Phase::Encode);
            let (base, target) = (Snapshot::of(&old)?, Snapshot::of(&new)?);
            encode((&base, None), &target, file, &place.path(), &options, Progress::stoppable(&advance))
        })
        .await
    }
}
