//! A rank's share of a version from tensors in memory, one at a time.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tensorpatch_checkpoint::{Checkpoint, ConfinedPath, Form, MappedFile, Role};
use tensorpatch_delta::safetensors::View;
use tensorpatch_delta::{self as delta, ApplyError, LeafTable, Others, Patch, Progress, State, TensorDiff};
use tensorpatch_format::{Limits, TaggedStateDigest};
use tensorpatch_stream::{
    Commit, CommitRecord, Nonce, ObjectDigest, Rank, Receipt, ReceiptContent, VersionId,
};

use super::files::upload_files_by;
use super::patch::{check, upload, upload_patch_by};
use crate::error::StoreError;
use crate::local::{self, blocking};
use crate::lock::Lock;
use crate::observe::Phase;
use crate::publisher::encode::write_buffered;
use crate::publisher::options::PublishOptions;
use crate::stream::Stream;

/// Most bytes of a file of the rank's bookkeeping.
const MOST_BYTES: u64 = 64 << 10;

/// One of several ranks that publish together, with tensors from memory.
///
/// It keeps its own tensors of the newest version in a directory, to make patches from. What another rank
/// commits, this one notices when it begins the next version. If the directory is lost, damaged or behind,
/// the tensors are read from the stream.
///
/// The first version is made of whole files, as with [`upload_files`](super::upload_files), and so is
/// one that alters tensors, for which every rank begins with [`RankPublisher::feed_whole`]. The others
/// are patches, as with [`upload_patch`](super::upload_patch).
#[derive(Debug, Clone)]
pub struct RankPublisher {
    stream: Stream,
    rank: Rank,
    dir: PathBuf,
    options: PublishOptions,
}

/// A rank's share of the next version, fed with tensors one at a time and in any order. Dropping it uploads
/// nothing.
#[derive(Debug)]
pub struct RankFeed {
    publisher: RankPublisher,
    dir: RankDir,
    diff: TensorDiff<'static>,
    /// The rank's tensors of the tip, if they are on disk.
    own: Option<LeafTable>,
    tip: Option<Commit>,
    whole: bool,
    refused: bool,
    companions: Vec<PathBuf>,
    _lock: Lock,
}

/// The directory of a rank.
#[derive(Debug, Clone)]
struct RankDir(ConfinedPath);

impl RankDir {
    /// The rank's tensors of a version.
    fn held(&self) -> ConfinedPath {
        self.0.join("held")
    }

    /// What is uploaded, or was last.
    fn pending(&self) -> ConfinedPath {
        self.0.join("pending")
    }
}

/// Which version the tensors on disk are of, and what they are.
#[derive(Debug, Serialize, Deserialize)]
struct Held {
    version: VersionId,
    state: String,
}

/// What was uploaded last: the version that it follows, and the object by which a commit of it is known.
#[derive(Debug, Serialize, Deserialize)]
struct Pending {
    after: Option<VersionId>,
    object: ObjectDigest,
}

impl RankPublisher {
    /// A rank of a stream that is open, which keeps its tensors in `dir`: a directory of its own.
    pub fn new(stream: Stream, rank: Rank, dir: impl Into<PathBuf>, mut options: PublishOptions) -> Self {
        options.diff = options.diff.with_leaf_hash(stream.record().leaf_hash);
        Self { stream, rank, dir: dir.into(), options }
    }

    /// Begins the rank's share of the next version.
    ///
    /// # Errors
    /// If the store fails, or the directory cannot be read or written.
    ///
    /// # Cancel safety
    /// The future may be dropped at any time.
    pub async fn feed(&self) -> Result<RankFeed, StoreError> {
        self.begin(false).await
    }

    /// As [`RankPublisher::feed`], for a version whose tensors are others than before. All ranks must begin
    /// so.
    ///
    /// # Errors
    /// As [`RankPublisher::feed`].
    ///
    /// # Cancel safety
    /// As [`RankPublisher::feed`].
    pub async fn feed_whole(&self) -> Result<RankFeed, StoreError> {
        self.begin(true).await
    }

    async fn begin(&self, whole: bool) -> Result<RankFeed, StoreError> {
        self.stream.altered_places().altered(Role::Work, &self.dir).check()?;
        local::create_private_dir(&self.dir)?;
        let (lock, dir) = Lock::wait(&self.dir, "").await?;
        let dir = RankDir(dir);
        let tip = self.stream.tip().await?;
        let whole = whole || tip.is_none();
        let (publisher, found, own_dir) = (self.clone(), tip.clone(), dir.clone());
        let (diff, own) = blocking(move || {
            let held = publisher.settle(&own_dir, found.as_ref())?;
            let options = &publisher.options.diff;
            let (diff, own) = match held.filter(|_| !whole) {
                None => (TensorDiff::new(None, options, Progress::none())?, None),
                Some((base, leaves)) => (TensorDiff::over(base, leaves.clone(), options)?, Some(leaves)),
            };
            publisher.options.observer.start(Phase::Encode, 0);
            Ok((diff.with_scratch_dir(&publisher.dir), own))
        })
        .await?;
        let (publisher, companions) = (self.clone(), Vec::new());
        Ok(RankFeed { publisher, dir, diff, own, tip, whole, refused: false, companions, _lock: lock })
    }

    /// The rank's tensors of the tip, verified, if they are on disk. What was uploaded last and is now part
    /// of the tip is applied to those of the version before. Blocking.
    fn settle(
        &self,
        dir: &RankDir,
        tip: Option<&Commit>,
    ) -> Result<Option<(Checkpoint, LeafTable)>, StoreError> {
        let pending: Option<Pending> = read(&dir.pending().join("receipt.json"))?;
        let held: Option<Held> = read(&dir.held().join("held.json"))?;
        let Some(tip) = tip else { return Ok(None) };
        let committed = pending.as_ref().is_some_and(|pending| names(&tip.record, pending));
        let found = match held {
            Some(held) if held.version == tip.id() => self.verified(dir, &held)?,
            held if committed => match self.advance(dir, tip, held.as_ref()) {
                Ok(advanced) => Some(advanced),
                Err(error) => {
                    tracing::info!(%error, "the rank's own tensors are read from the stream");
                    None
                }
            },
            _ => None,
        };
        local::remove(&dir.pending())?;
        Ok(found)
    }

    /// The tensors that are held, unless the directory was altered since.
    fn verified(&self, dir: &RankDir, held: &Held) -> Result<Option<(Checkpoint, LeafTable)>, StoreError> {
        let opened = self.open(&dir.held().join("weights"));
        Ok(opened.ok().filter(|(checkpoint, leaves)| self.state(checkpoint, leaves) == held.state))
    }

    /// Makes the tensors of the tip of what was uploaded.
    fn advance(
        &self,
        dir: &RankDir,
        tip: &Commit,
        held: Option<&Held>,
    ) -> Result<(Checkpoint, LeafTable), StoreError> {
        let (weights, options) = (dir.held().join("weights"), &self.options.diff);
        let (patch, whole) = (dir.pending().join("rank.tpatch"), dir.pending().join("weights"));
        if whole.find().map_err(StoreError::at(&whole))?.is_some() {
            local::remove(&dir.held())?;
            local::make_dir(&dir.held())?;
            local::rename(&whole, &weights)?;
        } else if held.is_some() {
            let (path, journal) = (weights.path(), dir.held().join("journal").path());
            let bytes = MappedFile::open_confined(&patch)?;
            let patch = Patch::parse(bytes.bytes(), &options.limits).map_err(ApplyError::from)?;
            delta::recover_to(&path, &journal, &[patch.target_digest()], options, Progress::none())?;
            let (checkpoint, leaves) = self.open(&weights)?;
            // An earlier call may have come as far as this.
            if leaves.state_digest(checkpoint.schema()) != patch.target_digest() {
                drop(checkpoint);
                delta::apply_in_place(&path, &patch, &journal, options, Progress::none())?;
            }
        }
        let (checkpoint, leaves) = self.open(&weights)?;
        let held = Held { version: tip.id(), state: self.state(&checkpoint, &leaves) };
        write(&dir.held().join("held.json"), &held)?;
        Ok((checkpoint, leaves))
    }

    fn open(&self, weights: &ConfinedPath) -> Result<(Checkpoint, LeafTable), StoreError> {
        let options = &self.options.diff;
        let checkpoint = delta::open_settled(&weights.path(), &options.limits)?;
        let state = State::of(&checkpoint)?;
        let leaves = LeafTable::of(&state, options.leaf_hash, options.threads, Progress::none())?;
        drop(state);
        Ok((checkpoint, leaves))
    }

    fn state(&self, checkpoint: &Checkpoint, leaves: &LeafTable) -> String {
        let digest = leaves.state_digest(checkpoint.schema());
        TaggedStateDigest { leaf_hash: leaves.hash(), digest }.to_string()
    }

    /// Tensors of a version, read from the stream into a checkpoint at `to`.
    async fn restore(&self, tip: &Commit, names: Vec<String>, to: ConfinedPath) -> Result<(), StoreError> {
        let reader = self.stream.range_reader(tip, &Limits::default()).await?;
        let mut diff = TensorDiff::new(None, &self.options.diff, Progress::none())?;
        for name in names {
            let found = reader.schema().find(&name).and_then(|index| reader.schema().get(index));
            let Some(spec) = found.cloned() else { continue };
            let bytes = reader.read_tensor(&name).await?;
            diff = blocking(move || {
                diff.add(&name, &tensorpatch_checkpoint::view_of(&spec, &bytes).map_err(refused)?)?;
                Ok(diff)
            })
            .await?;
        }
        let options = self.options.diff.clone();
        blocking(move || unpack(diff, &to, &options)).await
    }
}

impl RankFeed {
    /// Compares a tensor with the rank's own of the version before, and keeps what changes. Nothing of it is
    /// needed afterwards. Blocks, as [`TensorFeed::add`](crate::TensorFeed::add) does.
    ///
    /// # Errors
    /// As [`TensorDiff::add`]. Then nothing can be uploaded with this feed.
    pub fn add(&mut self, name: &str, tensor: &impl View) -> Result<(), StoreError> {
        let added = self.diff.add(name, tensor).map_err(StoreError::from);
        self.added(added, tensor.data_len())
    }

    /// Changes a tensor of the rank, as [`TensorDiff::add_changed_values`] does.
    ///
    /// # Errors
    /// As there; also if the rank's tensors are not on disk, as in a first version. Then nothing can be
    /// uploaded with this feed.
    pub fn add_changed_values(
        &mut self,
        name: &str,
        positions: &[u64],
        values: &impl View,
    ) -> Result<(), StoreError> {
        let added = self.diff.add_changed_values(name, positions, values).map_err(StoreError::from);
        self.added(added, values.data_len())
    }

    fn added(&mut self, added: Result<(), StoreError>, bytes: usize) -> Result<(), StoreError> {
        let observer = &self.publisher.options.observer;
        let added = added.and_then(|()| Ok(observer.advance(Phase::Encode, bytes as u64)?));
        self.refused |= added.is_err();
        added
    }

    /// Adds a file beside the weights, from one of the ranks, to a version that is made of whole files.
    pub fn add_companion_file(&mut self, path: impl Into<PathBuf>) {
        self.companions.push(path.into());
    }

    /// Uploads the share, and returns the receipt for the committer. Nothing is visible before
    /// [`commit`](crate::ranks::commit).
    ///
    /// `attempt` is for a version that is made of whole files, and has no effect on others: a nonce that all
    /// ranks of this attempt have, and no earlier attempt had. `others` says what becomes of the rank's
    /// tensors of the version before that were not given.
    ///
    /// # Errors
    /// If a tensor was refused or is missing, the tensors are others than before, or the store fails.
    ///
    /// # Cancel safety
    /// The future may be dropped at any time. What was uploaded is garbage.
    pub async fn finish(self, attempt: Nonce, others: Others) -> Result<Receipt, StoreError> {
        let Self { publisher, dir, diff, own, tip, whole, refused, companions, _lock } = self;
        if refused {
            return Err(StoreError::Tensors("one of them was refused".into()));
        }
        let (pending, options) = (dir.pending(), publisher.options.clone());
        local::remove(&pending)?;
        local::make_dir(&pending)?;
        let (stream, rank) = (publisher.stream.clone(), publisher.rank);
        let receipt = match (own, &tip) {
            (Some(leaves), Some(tip)) => {
                let weights = dir.held().join("weights").path();
                let patch = pending.join("rank.tpatch");
                let write = move |outgoing: &mut _, file: &ConfinedPath, options: &delta::Options| {
                    let (encoded, _) =
                        write_buffered(outgoing, &file.path(), options, |out| diff.finish(others, out))?;
                    let base = delta::open_settled(&weights, &options.limits)?;
                    let base = State::of(&base)?;
                    check(file, &base, &leaves, encoded, options)
                };
                upload(&stream, tip, rank, Nonce::random(), &patch, &options, write).await?
            }
            (_, tip) => {
                let (weights, diff_options) = (pending.join("weights"), options.diff.clone());
                let to = weights.clone();
                let files = blocking(move || {
                    unpack(diff, &to, &diff_options)?;
                    Ok(Checkpoint::open(&to.path(), &diff_options.limits)?)
                });
                let opened = files.await?;
                match tip {
                    Some(tip) if !whole => {
                        let names = opened.schema().tensors().iter().map(|spec| spec.name.clone()).collect();
                        drop(opened);
                        let old = pending.join("old");
                        publisher.restore(tip, names, old.clone()).await?;
                        let (old, new) = ([old.path()], [weights.path()]);
                        upload_patch_by(&stream, tip, rank, (&old, &new), &pending, &options).await?
                    }
                    tip => {
                        let own = pending.join(file_name(rank));
                        let names = opened.layout().files().iter().map(|file| weights.join(&file.name));
                        let single: Vec<ConfinedPath> = names.collect();
                        drop(opened);
                        for file in single {
                            file.link(&own).map_err(StoreError::at(&own))?;
                        }
                        let files: Vec<PathBuf> = std::iter::once(own.path()).chain(companions).collect();
                        let tip = tip.as_ref();
                        upload_files_by(&stream, tip, rank, attempt, &files, &pending, &options).await?
                    }
                }
            }
        };
        let after = tip.as_ref().map(Commit::id);
        if let Some(object) = object_of(&receipt) {
            write(&pending.join("receipt.json"), &Pending { after, object })?;
        }
        Ok(receipt)
    }
}

/// The name of a rank's file among those of a checkpoint; the usual one if there is only one rank.
fn file_name(rank: Rank) -> String {
    if rank.count == 1 {
        return "model.safetensors".into();
    }
    format!("model-{:05}-of-{:05}.safetensors", u64::from(rank.index).saturating_add(1), rank.count)
}

/// The object by which a record that takes the receipt up is known.
fn object_of(receipt: &Receipt) -> Option<ObjectDigest> {
    match &receipt.content {
        ReceiptContent::Patch { patch, .. } => Some(patch.blake3),
        ReceiptContent::Files { leaves, files, .. } => {
            files.first().map(|file| file.object.blake3).or(Some(leaves.blake3))
        }
    }
}

/// Whether a version was made of what is pending.
fn names(record: &CommitRecord, pending: &Pending) -> bool {
    let of_delta = record.delta.iter().flat_map(|delta| &delta.patches);
    let patched = of_delta.map(|patch| &patch.object).any(|object| object.blake3 == pending.object);
    let of_anchor = record.anchor.iter().flat_map(|anchor| &anchor.files);
    let whole = record.delta.is_none()
        && of_anchor.map(|file| &file.object).any(|object| object.blake3 == pending.object);
    let follows = match (&record.delta, &pending.after) {
        (Some(delta), after) => after.as_ref() == Some(&delta.base),
        (None, after) => after.as_ref().is_none_or(|after| after.version < record.version),
    };
    (patched || whole) && follows
}

/// Writes the tensors of a comparison with nothing to a directory, through a patch that holds all of it.
fn unpack(diff: TensorDiff<'_>, to: &ConfinedPath, options: &delta::Options) -> Result<(), StoreError> {
    let mut name = to.file_name().to_owned();
    name.push(".tpatch");
    let place = to.with_file_name(name);
    local::remove(to)?;
    let file = place.replace().map_err(StoreError::at(&place))?;
    write_buffered(file, &place.path(), options, |out| diff.finish(Others::Refused, out))?;
    let bytes = MappedFile::open_confined(&place)?;
    let patch = Patch::parse(bytes.bytes(), &options.limits).map_err(ApplyError::from)?;
    delta::apply_full(&patch, &to.path(), Form::Directory, options, Progress::none())?;
    local::remove(&place)
}

fn refused(error: tensorpatch_checkpoint::ViewError) -> StoreError {
    StoreError::Tensors(error.into())
}

fn read<T: for<'d> Deserialize<'d>>(place: &ConfinedPath) -> Result<Option<T>, StoreError> {
    // What cannot be read says nothing, as if it were not there: the stream has everything.
    Ok(local::read_own(place, MOST_BYTES)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

fn write(place: &ConfinedPath, value: &impl Serialize) -> Result<(), StoreError> {
    let bytes = serde_json::to_vec(value).map_err(|e| StoreError::local(place.path(), e.into()))?;
    local::write_file(place, &bytes)
}
