//! What a publisher does on local disk before a version is committed. Blocking.

use std::collections::BTreeSet;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use tensorpatch_checkpoint::Checkpoint;
use tensorpatch_delta::{self as delta, LeafTable, Progress, State};
use tensorpatch_format::{Kind, Layout, TaggedStateDigest};
use tensorpatch_stream::names::is_plain_name;
use tensorpatch_stream::{Commit, DeltaKind, NamedObject, ObjectDigest, VersionContents};

use crate::bucket::upload::Outgoing;
use crate::error::StoreError;
use crate::local;
use crate::observe::{Observer, Phase};
use crate::replica::directory::{FileSwap, InstalledVersion, ReplicaDir};
use crate::replica::install::{self, InPlace};
use crate::stream::next_version;

/// The most bytes of one file beside the weights.
const MAX_COMPANION_BYTES: u64 = 256 << 20;

/// How the baseline is to advance once the version is committed. Both were verified to give the version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ready {
    /// The journal is written.
    Journal,
    /// The files lie in the staging directory.
    Staged,
}

/// A file beside the weights, as it was read once.
pub(super) struct Companion {
    pub(super) name: String,
    /// A private copy that nobody else alters.
    pub(super) copy: PathBuf,
    pub(super) digest: ObjectDigest,
    pub(super) bytes: u64,
}

/// Stages those companions that are new, from the private copies.
pub(super) fn install_companions(
    directory: &ReplicaDir,
    old: &[NamedObject],
    new: &[NamedObject],
) -> Result<FileSwap, StoreError> {
    let missing: Vec<(String, PathBuf)> = new
        .iter()
        .filter(|companion| !old.contains(companion))
        .map(|companion| (companion.name.clone(), directory.download(&companion.object.blake3)))
        .collect();
    install::stage(directory, &missing, true)?;
    let names: BTreeSet<&str> = new.iter().map(|companion| companion.name.as_str()).collect();
    let gone = old.iter().map(|companion| companion.name.clone());
    Ok(FileSwap {
        files: missing.into_iter().map(|(name, _)| name).collect(),
        remove: gone.filter(|name| !names.contains(name.as_str())).collect(),
    })
}

pub(super) fn copy_companion(directory: &ReplicaDir, path: &Path) -> Result<Companion, StoreError> {
    let name = path.file_name().and_then(|name| name.to_str()).filter(|name| is_plain_name(name));
    let name = name.ok_or_else(|| StoreError::FileName { path: path.into() })?.to_owned();
    let bytes = local::read_file(path, MAX_COMPANION_BYTES)?.ok_or_else(|| StoreError::Local {
        path: path.into(),
        source: std::io::ErrorKind::NotFound.into(),
    })?;
    let digest = ObjectDigest::of(&bytes);
    let copy = directory.download(&digest);
    local::write_file(&copy, &bytes)?;
    Ok(Companion { name, copy, digest, bytes: bytes.len() as u64 })
}

fn contents(checkpoint: &Checkpoint, state: TaggedStateDigest) -> VersionContents {
    let (schema, layout) = (checkpoint.schema(), checkpoint.layout());
    VersionContents {
        state,
        schema: schema.digest(),
        layout: layout.digest(),
        state_bytes: schema.state_bytes(),
        tensors: schema.tensors().len() as u64,
    }
}

/// A private copy of a checkpoint, in the staging directory.
pub(super) struct Staged {
    pub(super) files: Vec<(String, PathBuf)>,
    pub(super) leaves: LeafTable,
    pub(super) contents: VersionContents,
}

pub(super) fn stage_checkpoint(
    directory: &ReplicaDir,
    path: &Path,
    options: &delta::Options,
    observer: &Observer,
) -> Result<Staged, StoreError> {
    let source = delta::open_settled(path, &options.limits)?;
    let staging = directory.staging();
    local::create_dir(&staging)?;
    for file in source.layout().files() {
        let from = if source.is_directory() { path.join(&file.name) } else { path.to_owned() };
        local::copy_file(&from, &staging.join(&file.name))?;
    }
    if let Some(index) = source.layout().index() {
        local::write_file(&staging.join(Layout::INDEX_FILE), index)?;
    }
    drop(source);
    // Everything from here on is about the copy: the original may be altered meanwhile.
    let copy = Checkpoint::open(&staging, &options.limits)?;
    let state = State::of(&copy)?;
    observer.start(Phase::Hash, copy.schema().state_bytes());
    let advance = |bytes| observer.advance(Phase::Hash, bytes);
    let leaves = LeafTable::of(&state, options.leaf_hash, options.threads, Progress::new(&advance))?;
    let digest = leaves.state_digest(copy.schema());
    let mut names: Vec<String> = copy.layout().files().iter().map(|file| file.name.clone()).collect();
    names.extend(copy.layout().index().map(|_| Layout::INDEX_FILE.to_owned()));
    Ok(Staged {
        files: names.into_iter().map(|name| (name.clone(), staging.join(name))).collect(),
        contents: contents(&copy, TaggedStateDigest { leaf_hash: options.leaf_hash, digest }),
        leaves,
    })
}

/// A patch on local disk, decoded once to see that it is right.
pub(super) struct Encoded {
    pub(super) ready: Ready,
    pub(super) kind: DeltaKind,
    pub(super) contents: VersionContents,
    pub(super) changed_elements: u64,
    pub(super) total_elements: u64,
}

pub(super) fn encode(
    directory: &ReplicaDir,
    path: &Path,
    tip: &Commit,
    options: &delta::Options,
    observer: &Observer,
    outgoing: &mut Outgoing,
) -> Result<Encoded, StoreError> {
    let was = InstalledVersion { id: tip.id(), companions: tip.record.companions.clone() };
    let broken = |error: StoreError| {
        if !install::is_damage(&error) {
            return error;
        }
        let (path, what) = (directory.path().to_owned(), error.to_string());
        match install::damaged(directory, tip.record.stream, &was) {
            Ok(()) => StoreError::LocalDamage { path, what },
            Err(error) => error,
        }
    };
    let base = Checkpoint::open(directory.path(), &options.limits).map_err(|error| broken(error.into()))?;
    if base.layout().digest() != tip.record.contents.layout {
        return Err(broken(StoreError::LocalDamage {
            path: directory.path().to_owned(),
            what: "its files have other names or headers than the version".into(),
        }));
    }
    let target = delta::open_settled(path, &options.limits)?;
    let (from, to) = (delta::Snapshot::of(&base)?, delta::Snapshot::of(&target)?);
    let patch = directory.outgoing();
    observer.start(Phase::Encode, target.schema().state_bytes());
    let report = {
        let mut out = BufWriter::with_capacity(1 << 20, outgoing);
        let advance = |bytes| observer.advance(Phase::Encode, bytes);
        let report = delta::encode_diff(&from, &to, options, Progress::new(&advance), &mut out)?;
        out.flush().map_err(|source| StoreError::local(&patch, source))?;
        report
    };
    let tagged = |digest| TaggedStateDigest { leaf_hash: options.leaf_hash, digest };
    if tagged(report.base) != tip.record.contents.state {
        install::damaged(
            directory,
            tip.record.stream,
            &InstalledVersion { id: tip.id(), companions: tip.record.companions.clone() },
        )?;
        let (path, expected) = (directory.path().to_owned(), tip.record.contents.state);
        return Err(StoreError::WrongState { path, expected, found: tagged(report.base) });
    }
    let mut encoded = Encoded {
        ready: Ready::Journal,
        kind: if report.kind == Kind::Empty { DeltaKind::Empty } else { DeltaKind::Delta },
        contents: contents(&target, tagged(report.target)),
        changed_elements: report.changed_elements,
        total_elements: report.total_elements,
    };
    drop((base, target));
    // A checkpoint that is altered while it is read would give a patch that nobody can apply, and a published patch cannot
    // be taken back. So what it does to the baseline is worked out and verified before its upload is brought to an end.
    observer.start(Phase::Check, encoded.contents.state_bytes);
    let advance = |bytes| observer.advance(Phase::Check, bytes);
    let progress = Progress::new(&advance);
    let to = (next_version(Some(tip))?, encoded.contents.state);
    let from = InstalledVersion { id: tip.id(), companions: tip.record.companions.clone() };
    match install::prepare_in_place(directory, tip.record.stream, &patch, &from, to, options, progress)? {
        InPlace::Ready => {}
        InPlace::WrongBase(found) => {
            let (path, expected) = (directory.path().to_owned(), tip.record.contents.state);
            return Err(StoreError::WrongState { path, expected, found });
        }
        InPlace::Broken(what) => {
            return Err(StoreError::LocalDamage { path: directory.path().to_owned(), what });
        }
        InPlace::Refused(_) => {
            install::apply_beside(directory, &patch, from.id.state, to, false, options, progress)?;
            encoded.ready = Ready::Staged;
        }
    }
    Ok(encoded)
}
