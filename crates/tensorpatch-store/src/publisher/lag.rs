//! What lets the baseline stay behind the newest version: the checkpoint of the caller's that is this
//! version, and the patches that lead there. Blocking.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tensorpatch_checkpoint::{Checkpoint, CheckpointReader, ConfinedPath};
use tensorpatch_format::Layout;
use tensorpatch_stream::{Commit, ObjectDigest, StreamId, Version, VersionId};

use crate::error::StoreError;
use crate::local;
use crate::replica::directory::{Condition, InstalledVersion, LocalState, ReplicaDir};
use crate::replica::update::Step;

/// The most patches that the baseline stays behind.
const MAX_STEPS: usize = 16;
/// They have at most one part in so many of the bytes of the model.
const PART_OF_MODEL: u64 = 4;
/// Versions for which checkpoints of the caller's are not read, after one was altered while it was.
const WARY_VERSIONS: u32 = 16;
/// Room for the paths of many shards.
const MAX_BYTES: u64 = 16 << 20;

/// How far the baseline is behind, kept beside it from one process to the next.
///
/// Nothing in it is believed: the checkpoint is hashed when it is used, and so is what the patches make.
/// Where it is lost or wrong, the baseline is brought to the newest version from the stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Lag {
    stream: StreamId,
    /// The newest version, and its commit.
    version: Version,
    tip: ObjectDigest,
    /// The commit of the version that the baseline holds.
    held: ObjectDigest,
    /// The newest version.
    source: Option<Source>,
    /// For how many versions more no source is kept.
    wary: u32,
    /// What leads from the one to the other.
    steps: Vec<LagStep>,
}

/// A patch among the downloads of the baseline, and where it leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LagStep {
    patch: ObjectDigest,
    to: VersionId,
}

/// A checkpoint of the caller's as it was when it was published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Source {
    path: PathBuf,
    files: Vec<SourceFile>,
}

/// What tells that a file was altered since. A hint: the digest decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SourceFile {
    path: PathBuf,
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl SourceFile {
    fn of(path: PathBuf) -> Option<Self> {
        let found = std::fs::metadata(&path).ok()?;
        let (device, inode, bytes) = (found.dev(), found.ino(), found.len());
        Some(Self { path, device, inode, bytes, modified: (found.mtime(), found.mtime_nsec()) })
    }
}

impl Source {
    /// A checkpoint as it is now; `None` if it cannot be found again.
    pub(super) fn of(checkpoint: &Checkpoint) -> Option<Self> {
        // Without links, which may lead elsewhere next time.
        let path = checkpoint.path().canonicalize().ok()?;
        let names = checkpoint.layout().files().iter().map(|file| file.name.as_str());
        let names = names.chain(checkpoint.layout().index().map(|_| Layout::INDEX_FILE));
        let place = |name| if checkpoint.is_directory() { path.join(name) } else { path.clone() };
        let files = names.map(|name| SourceFile::of(place(name))).collect::<Option<_>>()?;
        Some(Self { path, files })
    }

    fn is_unaltered(&self) -> bool {
        self.files.iter().all(|file| SourceFile::of(file.path.clone()).as_ref() == Some(file))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens it to read what `baseline` has in the same places.
    pub(super) fn open(&self, baseline: &Checkpoint) -> Result<CheckpointReader, StoreError> {
        Ok(CheckpointReader::open(&self.path, baseline.layout(), baseline.placement())?)
    }
}

impl Lag {
    /// How far a baseline that is as `local` says is behind `tip`, if it may stay there: there is a
    /// checkpoint that can take its place, by all that can be told without reading it.
    pub(super) fn load(directory: &ReplicaDir, local: Option<&LocalState>, tip: &Commit) -> Option<Self> {
        Self::of(directory, local, tip).filter(|lag| lag.source.as_ref().is_some_and(Source::is_unaltered))
    }

    /// The same, whether there is such a checkpoint or not.
    pub(super) fn of(directory: &ReplicaDir, local: Option<&LocalState>, tip: &Commit) -> Option<Self> {
        let mut lag = Self::read(directory)?;
        let Condition::Held(held) = &local?.condition else { return None };
        if lag.stream != tip.record.stream || lag.tip != tip.digest {
            return None;
        }
        if held.id.commit == tip.digest {
            (lag.held, lag.steps) = (tip.digest, Vec::new());
        }
        let is_there = |place: &ConfinedPath| matches!(place.find(), Ok(Some(_)));
        let is_whole = held.id.commit == lag.held && lag.patches(directory).iter().all(is_there);
        is_whole.then_some(lag)
    }

    /// The version of `stream` that was published last, and its commit.
    pub(super) fn published(directory: &ReplicaDir, stream: StreamId) -> Option<(Version, ObjectDigest)> {
        let lag = Self::read(directory).filter(|lag| lag.stream == stream)?;
        Some((lag.version, lag.tip))
    }

    fn read(directory: &ReplicaDir) -> Option<Self> {
        let bytes = local::read_own(&directory.lag(), MAX_BYTES).ok()??;
        serde_json::from_slice(&bytes).ok()
    }

    pub(super) fn into_source(self) -> Option<Source> {
        self.source
    }

    /// The checkpoint that is the newest version.
    pub(super) fn source(&self) -> Option<&Source> {
        self.source.as_ref()
    }

    /// The patches among the downloads.
    pub(super) fn patches(&self, directory: &ReplicaDir) -> Vec<ConfinedPath> {
        self.steps.iter().map(|step| directory.download(&step.patch)).collect()
    }

    /// How far a baseline that holds `held` is behind a version that was just published, from `source`, by
    /// the patch `patch`; `before` is how far it was behind the version before.
    pub(super) fn after(
        before: Option<Self>,
        held: &InstalledVersion,
        patch: ObjectDigest,
        commit: &Commit,
        source: Option<Source>,
    ) -> Self {
        let mut steps = before.map(|before| before.steps).unwrap_or_default();
        steps.push(LagStep { patch, to: commit.id() });
        Self { held: held.id.commit, steps, ..Self::none(commit, source) }
    }

    /// The same for a baseline that holds the version itself.
    pub(super) fn none(commit: &Commit, source: Option<Source>) -> Self {
        let (stream, version, tip) = (commit.record.stream, commit.record.version, commit.digest);
        Self { stream, version, tip, held: tip, source, wary: 0, steps: Vec::new() }
    }

    /// Whether the baseline, which holds `held`, may stay behind, and a checkpoint take its place.
    pub(super) fn is_bearable(
        &self,
        directory: &ReplicaDir,
        held: &InstalledVersion,
        commit: &Commit,
    ) -> bool {
        let lens = self.patches(directory).iter().map(local::file_len).sum::<Result<u64, _>>();
        let most = commit.record.contents.state_bytes.div_euclid(PART_OF_MODEL);
        self.source.is_some()
            && held.id.layout == commit.id().layout
            && self.steps.len() <= MAX_STEPS
            && lens.is_ok_and(|lens| lens <= most)
    }

    /// The steps from `held` to the version of `commit`. On the way the files beside the weights stay.
    pub(super) fn into_steps(
        self,
        directory: &ReplicaDir,
        held: &InstalledVersion,
        commit: &Commit,
    ) -> Vec<Step> {
        let step = |LagStep { patch, to }| {
            let is_last = to.commit == commit.digest;
            let companions = if is_last { &commit.record.companions } else { &held.companions };
            let to = InstalledVersion { id: to, companions: companions.clone() };
            Step { patch: directory.download(&patch), to }
        };
        self.steps.into_iter().map(step).collect()
    }

    /// Keeps it for the next publisher; after a time in which none is to be kept, without the source.
    pub(super) fn keep(mut self, directory: &ReplicaDir) -> Result<(), StoreError> {
        self.wary = Self::read(directory).map_or(0, |kept| kept.wary.saturating_sub(1));
        if self.wary > 0 {
            self.source = None;
        }
        self.write(directory)
    }

    /// Notes that the checkpoint that was read is another one, though it did not look so: for a while none is
    /// taken for what it was.
    pub(super) fn distrust(self, directory: &ReplicaDir) -> Result<(), StoreError> {
        Self { source: None, wary: WARY_VERSIONS, ..self }.write(directory)
    }

    fn write(&self, directory: &ReplicaDir) -> Result<(), StoreError> {
        let place = directory.lag();
        match serde_json::to_vec(self) {
            Ok(bytes) => local::write_unsynced(&place, &bytes),
            // The paths are no text.
            Err(_) if self.source.is_some() => Self { source: None, ..self.clone() }.write(directory),
            Err(error) => Err(StoreError::LocalState { path: place.path(), what: error.to_string() }),
        }
    }
}
