//! What a publisher does on local disk before a version is committed. Blocking.

use std::fs::File;
use std::path::{Path, PathBuf};

use tensorpatch_checkpoint::permissions::restrict;
use tensorpatch_checkpoint::{Checkpoint, ConfinedPath};
use tensorpatch_delta::{self as delta, LeafTable, Progress, Snapshot, State};
use tensorpatch_format::{Layout, LayoutDigest, TaggedStateDigest};
use tensorpatch_stream::{Commit, NamedObject, ObjectDigest, VersionContents};

use super::encode::{Encoded, contents, encode};
use super::lag::Source;
use super::survey::MAX_COMPANION_BYTES;
use crate::bucket::upload::Outgoing;
use crate::error::StoreError;
use crate::local;
use crate::observe::{Observer, Phase};
use crate::replica::directory::{InstalledVersion, ReplicaDir};
use crate::replica::update::{self, damage_noted};
use crate::stream::next_version;

/// A file beside the weights, as it was read once.
#[derive(Debug)]
pub(super) struct Companion {
    pub(super) name: String,
    /// A private copy that nobody else alters.
    pub(super) copy: ConfinedPath,
    pub(super) digest: ObjectDigest,
    pub(super) bytes: u64,
}

/// Copies a file that is open, and lies at `path`: by that path another one may be found by now.
pub(super) fn copy_companion(
    directory: &ReplicaDir,
    name: &str,
    (path, source): (&Path, &File),
) -> Result<Companion, StoreError> {
    let failed = |source| StoreError::Local { path: path.to_owned(), source };
    let stamp = || source.metadata().and_then(|meta| Ok((meta.len(), meta.modified()?))).map_err(failed);
    let before = stamp()?;
    let bytes = local::read_opened(source, path, MAX_COMPANION_BYTES)?;
    // What is written meanwhile would be published half old and half new.
    if stamp()? != before || bytes.len() as u64 != before.0 {
        let what = "it changed while it was read; publish again when nothing writes to it".into();
        return Err(StoreError::Unpublishable { path: path.to_owned(), what });
    }
    let companion = write_companion(directory, name.to_owned(), &bytes)?;
    restrict(&companion.copy.open().map_err(failed)?, source).map_err(failed)?;
    Ok(companion)
}

pub(super) fn write_companion(
    directory: &ReplicaDir,
    name: String,
    bytes: &[u8],
) -> Result<Companion, StoreError> {
    let digest = ObjectDigest::of(bytes);
    let copy = directory.download(&digest);
    // The upload hashes what it sends.
    local::write_unsynced(&copy, bytes)?;
    Ok(Companion { name, copy, digest, bytes: bytes.len() as u64 })
}

/// Whether a version has these files beside the weights, and no others.
pub(super) fn same_companions(companions: &[Companion], published: &[NamedObject]) -> bool {
    let is_published = |companion: &Companion| {
        let same = published.iter().find(|named| named.name == companion.name);
        same.is_some_and(|named| named.object.blake3 == companion.digest)
    };
    companions.len() == published.len() && companions.iter().all(is_published)
}

/// A private copy of a checkpoint, in the staging directory.
pub(super) struct Staged {
    /// The checkpoint, if it is one of the caller's.
    pub(super) source: Option<Source>,
    pub(super) files: Vec<(String, ConfinedPath)>,
    pub(super) leaves: LeafTable,
    pub(super) contents: VersionContents,
}

pub(super) fn stage_checkpoint(
    directory: &ReplicaDir,
    source: Checkpoint,
    options: &delta::Options,
    observer: &Observer,
) -> Result<Staged, StoreError> {
    let (staging, found) = (directory.staging(), Source::of(&source));
    local::make_private_dir(&staging)?;
    for (number, file) in source.layout().files().iter().enumerate() {
        local::copy_file(source.reopen(number)?, &staging.join(&file.name))?;
    }
    if let Some(index) = source.layout().index() {
        let copy = staging.join(Layout::INDEX_FILE);
        local::write_unsynced(&copy, index)?;
        source.restrict(&copy.open().map_err(StoreError::at(&copy))?)?;
    }
    drop(source);
    // Everything from here on is about the copy: the original may be altered meanwhile.
    let copy = Checkpoint::open(&staging.path(), &options.limits)?;
    let state = State::of(&copy)?;
    observer.start(Phase::Hash, copy.schema().state_bytes());
    let advance = observer.steer(Phase::Hash);
    let leaves = LeafTable::of(&state, options.leaf_hash, options.threads, Progress::stoppable(&advance))?;
    let digest = leaves.state_digest(copy.schema());
    let mut names: Vec<String> = copy.layout().files().iter().map(|file| file.name.clone()).collect();
    names.extend(copy.layout().index().map(|_| Layout::INDEX_FILE.to_owned()));
    Ok(Staged {
        source: found,
        files: names.into_iter().map(|name| (name.clone(), staging.join(name))).collect(),
        contents: contents(&copy, TaggedStateDigest { leaf_hash: options.leaf_hash, digest }),
        leaves,
    })
}

/// A patch on local disk, decoded once to see that it is right.
pub(super) struct Checked {
    pub(super) encoded: Encoded,
    pub(super) contents: VersionContents,
    /// The checkpoint that it leads to, if it is one of the caller's.
    pub(super) source: Option<Source>,
    /// The same, still open: to let go of the pages of a large one takes time, which nobody should wait for.
    pub(super) target: Option<Checkpoint>,
}

/// What a patch starts from.
#[derive(Debug, Clone)]
pub(super) enum Base {
    /// The baseline.
    Baseline,
    /// A checkpoint that the caller says is the newest version.
    Checkpoint(PathBuf),
    /// The checkpoint that was published as the newest version: the baseline is behind.
    Source(Source),
}

/// Writes the patch from `base` to `target`.
///
/// A checkpoint that is altered while it is read would give a patch that nobody can apply, and a published
/// patch cannot be taken back. So each chunk is decoded as soon as it is encoded, before its upload is
/// brought to an end.
pub(super) fn encode_and_check(
    directory: &ReplicaDir,
    base: &Base,
    target: Checkpoint,
    tip: &Commit,
    options: &delta::Options,
    observer: &Observer,
    outgoing: &mut Outgoing,
) -> Result<Checked, StoreError> {
    let opened = match base {
        Base::Baseline => open_baseline(directory, tip, options)?,
        Base::Checkpoint(path) => delta::open_settled(path, &options.limits)?,
        // It is behind, and has the same tensors in the same places.
        Base::Source(source) => Checkpoint::open(&directory.path(), &options.limits)
            .map_err(|error| unusable(source, &error.into()))?,
    };
    let files = match base {
        Base::Source(source) => Some(source.open(&opened).map_err(|error| unusable(source, &error))?),
        Base::Baseline | Base::Checkpoint(_) => None,
    };
    let (patch, source) = (directory.outgoing(), Source::of(&target));
    observer.start(Phase::Encode, target.schema().state_bytes());
    let advance = observer.steer(Phase::Encode);
    let (from, to) = ((&Snapshot::of(&opened)?, files.as_ref()), Snapshot::of(&target)?);
    let checked = options.clone().checked();
    let encoded = encode(from, &to, outgoing, &patch.path(), &checked, Progress::stoppable(&advance))?;
    match base {
        Base::Baseline => check_state(directory, tip, encoded.base)?,
        Base::Checkpoint(path) => check_base(path, opened.layout().digest(), tip, encoded.base)?,
        Base::Source(source) => {
            let checked = check_base(source.path(), opened.layout().digest(), tip, encoded.base);
            checked.map_err(|error| unusable(source, &error))?;
        }
    }
    let contents = contents(&target, encoded.target);
    // Header, sections, index and checksums, as a reader will find them.
    let version = next_version(Some(tip))?;
    let written = update::open(&patch, encoded.base, (version, encoded.target), options)?;
    written.bind(Some(opened.schema())).map_err(StoreError::from)?;
    Ok(Checked { encoded, contents, source, target: Some(target) })
}

/// Says that a patch cannot be made from a checkpoint that was published.
fn unusable(source: &Source, why: &StoreError) -> StoreError {
    StoreError::LocalDamage { path: source.path().to_owned(), what: why.to_string() }
}

/// Says that a caller's checkpoint, which was read and has the state `found`, is the newest version.
pub(super) fn check_base(
    path: &Path,
    layout: LayoutDigest,
    tip: &Commit,
    found: TaggedStateDigest,
) -> Result<(), StoreError> {
    let contents = &tip.record.contents;
    let what = if found != contents.state {
        format!("its state is {found}, not {}", contents.state)
    } else if layout != contents.layout {
        "its files have other names or headers".into()
    } else {
        return Ok(());
    };
    Err(StoreError::WrongBase { path: path.to_owned(), version: tip.record.version, what })
}

/// The weights of the baseline, which holds `tip`. Damage is written into its state file.
pub(super) fn open_baseline(
    directory: &ReplicaDir,
    tip: &Commit,
    options: &delta::Options,
) -> Result<Checkpoint, StoreError> {
    let broken = |error| damage_noted(directory, tip.record.stream, &InstalledVersion::of(tip), error);
    let base = Checkpoint::open(&directory.path(), &options.limits).map_err(|error| broken(error.into()))?;
    if base.layout().digest() != tip.record.contents.layout {
        let what = "its files have other names or headers than the version".into();
        return Err(broken(StoreError::LocalDamage { path: directory.path(), what }));
    }
    Ok(base)
}

/// Says that the state found in the baseline is that of `tip`. If not, its state file says so from then on.
pub(super) fn check_state(
    directory: &ReplicaDir,
    tip: &Commit,
    found: TaggedStateDigest,
) -> Result<(), StoreError> {
    let expected = tip.record.contents.state;
    if found == expected {
        return Ok(());
    }
    let error = StoreError::WrongState { path: directory.path(), expected, found };
    Err(damage_noted(directory, tip.record.stream, &InstalledVersion::of(tip), error))
}

/// Verifies a patch of tensors in memory that was written, by decoding it over the baseline.
pub(super) fn check(
    directory: &ReplicaDir,
    tip: &Commit,
    encoded: Encoded,
    contents: VersionContents,
    options: &delta::Options,
    observer: &Observer,
) -> Result<Checked, StoreError> {
    observer.start(Phase::Check, contents.state_bytes);
    let advance = observer.steer(Phase::Check);
    let version = next_version(Some(tip))?;
    let patch = update::open(&directory.outgoing(), encoded.base, (version, encoded.target), options)?;
    let base = open_baseline(directory, tip, options)?;
    let state = State::of(&base)?;
    let applied =
        delta::apply_chunks(Some(&state), &patch, options, Progress::stoppable(&advance), &|_, _| ());
    match applied {
        Ok(_) => Ok(Checked { encoded, contents, source: None, target: None }),
        Err(error) => {
            Err(damage_noted(directory, tip.record.stream, &InstalledVersion::of(tip), error.into()))
        }
    }
}
