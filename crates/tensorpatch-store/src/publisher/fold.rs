//! Folding: one patch across several versions, as another edge to the last of them (spec/stream.md section 4.3).

use std::collections::BTreeSet;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use tensorpatch_checkpoint::Checkpoint;
use tensorpatch_delta::{self as delta, Progress};
use tensorpatch_format::{Kind, TaggedStateDigest};
use tensorpatch_stream::{Commit, Delta, DeltaKind, EdgeRecord, Nonce, PatchObject, Version, names};

use super::options::PublishOptions;
use crate::error::StoreError;
use crate::local::{self, Lock, blocking, unix_now};
use crate::observe::Phase;
use crate::replica::Replica;
use crate::replica::options::{ReplicaOptions, Target};
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

    /// Folds the versions after `from` up to `to` into one patch, if that is cheaper than the paths there are.
    ///
    /// # Errors
    /// If one of the versions cannot be pulled, or the store fails. The stream is then as it was.
    pub async fn fold(&self, from: Version, to: Version) -> Result<Folded, StoreError> {
        let target = self.commit(to).await?;
        let base = self.commit(from).await?;
        if from >= to {
            return Err(StoreError::NoVersion { wanted: from, tip: to.previous() });
        }
        let history = self.stream.history(Some(from), &target, usize::MAX).await?;
        let id = base.id();
        let plan = self.stream.complete_plan(&history, Some(&id), to, usize::MAX, BTreeSet::new()).await?;
        let replaced_bytes = plan.bytes();
        if let [edge] = plan.edges.as_slice()
            && edge.base() == Some(&id)
        {
            return Ok(Folded { from, to, bytes: edge.bytes(), replaced_bytes, added: false });
        }
        // What lies in the directory is this fold's until it is published.
        let lock = Arc::new(Lock::wait(self.work.clone()).await?);
        let old = self.pull("base", from).await?;
        let new = self.pull("target", to).await?;
        let encoded = self.encode(&old, &new, &base, &target, &lock).await?;
        let folded = Folded { from, to, bytes: encoded.bytes, replaced_bytes, added: false };
        if encoded.bytes >= replaced_bytes {
            return Ok(folded);
        }
        let nonce = Nonce::random();
        self.options.observer.start(Phase::Upload, encoded.bytes);
        let key = names::fold(to, from, nonce)?;
        let object = self.stream.bucket().upload(key, &encoded.path, &self.options.observer).await?;
        let record = EdgeRecord {
            stream: self.stream.id(),
            publisher: self.options.publisher.clone(),
            nonce,
            created: unix_now(),
            target: target.id(),
            delta: Some(Delta {
                base: base.id(),
                kind: encoded.kind,
                changed_elements: encoded.changed_elements,
                total_elements: encoded.total_elements,
                patches: vec![PatchObject { object, schema: None }],
            }),
            anchor: None,
        };
        self.stream.add_edge(&record).await?;
        local::remove(&encoded.path)?;
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

    async fn pull(&self, name: &str, version: Version) -> Result<PathBuf, StoreError> {
        let dir = self.work.join(name);
        let options = ReplicaOptions::default()
            .with_apply(self.options.diff.clone())
            .with_observer(self.options.observer.clone());
        Replica::open(self.stream.clone(), &dir, options).pull(Target::Version(version)).await?;
        Ok(dir)
    }

    async fn encode(
        &self,
        old: &Path,
        new: &Path,
        base: &Commit,
        target: &Commit,
        lock: &Arc<Lock>,
    ) -> Result<Encoded, StoreError> {
        let (old, new, path) = (old.to_owned(), new.to_owned(), self.work.join("fold.tpatch"));
        let (options, observer) = (self.options.diff.clone(), self.options.observer.clone());
        let ends = (base.record.contents.state, target.record.contents.state);
        let lock = Arc::clone(lock);
        blocking(move || {
            let _until_the_end = lock;
            let old = Checkpoint::open(&old, &options.limits)?;
            let new = Checkpoint::open(&new, &options.limits)?;
            let failed = |source| StoreError::local(&path, source);
            let mut file = BufWriter::with_capacity(1 << 20, std::fs::File::create(&path).map_err(failed)?);
            observer.start(Phase::Encode, new.schema().state_bytes());
            let advance = |bytes| observer.advance(Phase::Encode, bytes);
            let (base, target) = (delta::Snapshot::of(&old)?, delta::Snapshot::of(&new)?);
            let report = delta::encode_diff(&base, &target, &options, Progress::new(&advance), &mut file)?;
            file.flush().map_err(failed)?;
            // The replicas are private and were verified, but may have rotted since.
            for (dir, digest, expected) in [(&old, report.base, ends.0), (&new, report.target, ends.1)] {
                let found = TaggedStateDigest { leaf_hash: options.leaf_hash, digest };
                if found != expected {
                    return Err(StoreError::WrongState { path: dir.path().to_owned(), expected, found });
                }
            }
            Ok(Encoded {
                bytes: local::file_len(&path)?,
                kind: if report.kind == Kind::Empty { DeltaKind::Empty } else { DeltaKind::Delta },
                changed_elements: report.changed_elements,
                total_elements: report.total_elements,
                path,
            })
        })
        .await
    }
}

struct Encoded {
    path: PathBuf,
    bytes: u64,
    kind: DeltaKind,
    changed_elements: u64,
    total_elements: u64,
}
