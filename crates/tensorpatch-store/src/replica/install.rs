//! Altering the files of a replica, so that a crash at any instant can be finished or undone. Blocking.

use std::fs::File;
use std::path::Path;

use tensorpatch_checkpoint::{Checkpoint, CheckpointError, ConfinedPath, sync_files};
use tensorpatch_delta::{self as delta, ApplyError, LeafTable, Progress, State};
use tensorpatch_format::{Layout, LayoutDigest, LeafHash, StateDigest, TaggedStateDigest};
use tensorpatch_stream::names::is_plain_name;
use tensorpatch_stream::{ObjectDigest, ObjectRef, StreamId};

use super::directory::{Condition, FileSwap, InstalledVersion, LocalState, ReplicaDir};
use super::places::{self, check_places};
use crate::error::StoreError;
use crate::local;

/// What a directory was found to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) state: TaggedStateDigest,
    pub(crate) layout: LayoutDigest,
}

/// Hashes the checkpoint at `path`; `None` if there is none.
pub(crate) fn examine(
    path: &Path,
    hash: LeafHash,
    options: &delta::Options,
) -> Result<Option<Found>, StoreError> {
    let checkpoint = match Checkpoint::open(path, &options.limits) {
        Ok(checkpoint) => checkpoint,
        Err(CheckpointError::NotACheckpoint { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let state = State::of(&checkpoint)?;
    let leaves = LeafTable::of(&state, hash, options.threads, Progress::none())?;
    let digest = leaves.state_digest(checkpoint.schema());
    Ok(Some(Found {
        state: TaggedStateDigest { leaf_hash: hash, digest },
        layout: checkpoint.layout().digest(),
    }))
}

/// Checks that the weights at `path` are those of a version.
pub(crate) fn is_version(
    path: &Path,
    version: &InstalledVersion,
    options: &delta::Options,
) -> Result<(), StoreError> {
    let id = &version.id;
    let found = match examine(path, id.state.leaf_hash, options)? {
        Some(found) if found.state == id.state && found.layout == id.layout => return Ok(()),
        Some(found) if found.state == id.state => {
            let what = "its weights lie in other files than those of the version".into();
            return Err(StoreError::LocalDamage { path: path.to_owned(), what });
        }
        found => found.map(|found| found.state),
    };
    let none = TaggedStateDigest { leaf_hash: id.state.leaf_hash, digest: StateDigest::NONE };
    let found = found.unwrap_or(none);
    Err(StoreError::WrongState { path: path.to_owned(), expected: id.state, found })
}

/// Brings what was interrupted to its end, and says what the replica is then (section 6, step R1).
pub(crate) fn recover(
    directory: &ReplicaDir,
    options: &delta::Options,
) -> Result<Option<LocalState>, StoreError> {
    let Some(mut state) = directory.load()? else { return Ok(None) };
    if !matches!(state.condition, Condition::Applying { .. }) {
        // One that was prepared and never activated.
        remove_journal(directory)?;
    }
    if let Condition::Applying { from, to, then } = &state.condition {
        // Finishes the journal if there is one. If not, either nothing was altered or all of it: the digest
        // tells.
        let (path, journal) = (directory.path(), directory.journal().path());
        let ends = [to.id.state.digest];
        let recovered =
            delta::recover_to(&path, &journal, &ends, options, Progress::none()).map_err(StoreError::from);
        let found = recovered.and_then(|_| examine(&path, to.id.state.leaf_hash, options));
        let found = match found {
            Ok(found) => found.map(|found| found.state),
            Err(error) if is_damage(&error) => {
                tracing::warn!("an interrupted update cannot be finished, the files are restored: {error}");
                remove_journal(directory)?;
                None
            }
            Err(error) => return Err(error),
        };
        state.condition = if found == Some(to.id.state) {
            Condition::Switching { to: to.clone(), install: then.clone() }
        } else if found == Some(from.id.state) {
            Condition::Held(from.clone())
        } else {
            Condition::Damaged { was: from.clone() }
        };
        directory.save(&state)?;
    }
    if let Condition::Switching { to, install } = &state.condition {
        let vanished = finish_switch(directory, install)?;
        state.condition = if are_whole(directory, to, &vanished, options)? {
            let (path, version) = (directory.path(), to.id.version);
            tracing::warn!("an interrupted update was finished: {} holds version {version}", path.display());
            Condition::Held(to.clone())
        } else {
            tracing::warn!("the files of an interrupted update are gone");
            Condition::Damaged { was: to.clone() }
        };
        directory.save(&state)?;
    }
    Ok(Some(state))
}

/// Whether the files that no longer were in the staging directory were renamed before the crash, and not
/// removed by somebody.
fn are_whole(
    directory: &ReplicaDir,
    to: &InstalledVersion,
    vanished: &[String],
    options: &delta::Options,
) -> Result<bool, StoreError> {
    let is_companion = |name: &&String| to.companions.iter().any(|companion| companion.name == **name);
    for companion in to.companions.iter().filter(|companion| vanished.contains(&companion.name)) {
        if !has_contents(&directory.root().join(&companion.name), &companion.object)? {
            return Ok(false);
        }
    }
    if vanished.iter().all(|name| is_companion(&name)) {
        return Ok(true);
    }
    match examine(&directory.path(), to.id.state.leaf_hash, options) {
        Ok(found) => Ok(found == Some(Found { state: to.id.state, layout: to.id.layout })),
        Err(error) if is_damage(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a file is there and has the contents of an object.
fn has_contents(place: &ConfinedPath, object: &ObjectRef) -> Result<bool, StoreError> {
    let failed = |e| StoreError::local(place.path(), e);
    match place.open() {
        Ok(file) => holds(file, object).map_err(failed),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(failed(e)),
    }
}

/// Whether an object is among the downloads, and nobody else can have kept a way to alter it: it may become a
/// file of the replica as it is.
pub(super) fn is_downloaded(place: &ConfinedPath, object: &ObjectRef) -> Result<bool, StoreError> {
    let failed = |e| StoreError::local(place.path(), e);
    let Some(found) = place.find().map_err(failed)? else { return Ok(false) };
    if !found.is_only_ours() {
        local::remove(place)?;
        return Ok(false);
    }
    has_contents(place, object)
}

/// Whether an open file has the contents of an object.
pub(super) fn holds(mut file: File, object: &ObjectRef) -> std::io::Result<bool> {
    if file.metadata()?.len() != object.bytes {
        return Ok(false);
    }
    let mut hasher = blake3::Hasher::new();
    std::io::copy(&mut file, &mut hasher)?;
    Ok(ObjectDigest::finish(&hasher) == object.blake3)
}

/// Whether an error says that local files are broken or gone, and not that they cannot be reached just now.
pub(crate) fn is_damage(error: &StoreError) -> bool {
    let checkpoint = match error {
        StoreError::Apply(
            ApplyError::DamagedJournal { .. }
            | ApplyError::AlteredSince { .. }
            | ApplyError::OtherJournal { .. },
        )
        | StoreError::LocalDamage { .. } => return true,
        StoreError::Apply(ApplyError::Checkpoint(error)) | StoreError::Checkpoint(error) => error,
        _ => return false,
    };
    match checkpoint {
        CheckpointError::Io { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
        CheckpointError::NotInPlace { .. }
        | CheckpointError::Misplaced(_)
        | CheckpointError::Limit { .. }
        | CheckpointError::NoRoom { .. }
        | CheckpointError::NotDurable { .. } => false,
        _ => true,
    }
}

/// Renames what is left to rename, and returns what was not there any more. May be repeated.
fn finish_switch(directory: &ReplicaDir, install: &FileSwap) -> Result<Vec<String>, StoreError> {
    let (root, mut vanished) = (directory.root(), Vec::new());
    for name in places::in_the_way(install) {
        places::remove(root, name)?;
    }
    for name in &install.files {
        places::make_parents(root, name)?;
        let (staged, file) = (directory.staging().join(name), root.join(name));
        match places::put(&staged, &file) {
            Ok(()) => {}
            // Done before the crash, or so it seems.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => vanished.push(name.clone()),
            Err(e) => return Err(StoreError::local(file.path(), e)),
        }
    }
    for name in &install.remove {
        places::remove(root, name)?;
    }
    if directory.syncs() {
        for parent in places::parents(root, install)? {
            local::sync_dir(&parent)?;
        }
    }
    Ok(vanished)
}

/// Renames complete files from the staging directory into place; from the first line on a crash is finished
/// by [`recover`].
pub(crate) fn switch(
    directory: &ReplicaDir,
    stream: StreamId,
    to: InstalledVersion,
    install: FileSwap,
) -> Result<(), StoreError> {
    check_places(directory, &install)?;
    if directory.syncs() {
        let staging = directory.staging();
        sync_files(install.files.iter().map(|name| staging.join(name)))?;
        // Where no file is staged, there is no such directory.
        if !install.files.is_empty() {
            for parent in places::parents(&staging, &install)? {
                local::sync_dir(&parent)?;
            }
        }
    }
    let condition = Condition::Switching { to: to.clone(), install: install.clone() };
    directory.save(&LocalState { stream, condition })?;
    let vanished = finish_switch(directory, &install)?;
    let condition = if vanished.is_empty() { Condition::Held(to) } else { Condition::Damaged { was: to } };
    directory.save(&LocalState { stream, condition })?;
    match vanished.first() {
        None => Ok(()),
        Some(name) => {
            let (path, what) = (directory.path(), format!("{name} vanished from the staging directory"));
            Err(StoreError::LocalDamage { path, what })
        }
    }
}

/// Alters the files as the journal says, then does the renames; from the first line on a crash is finished by
/// [`recover`].
pub(crate) fn activate_in_place(
    directory: &ReplicaDir,
    stream: StreamId,
    from: &InstalledVersion,
    to: &InstalledVersion,
    then: &FileSwap,
    options: &delta::Options,
) -> Result<(), StoreError> {
    check_places(directory, then)?;
    let condition = Condition::Applying { from: from.clone(), to: to.clone(), then: then.clone() };
    directory.save(&LocalState { stream, condition })?;
    let (path, journal) = (directory.path(), directory.journal().path());
    let activated = delta::activate_in_place(&path, &journal, options)?;
    // Without a journal nothing was altered, which is right where there was nothing to alter.
    let digest = activated.unwrap_or(from.id.state.digest);
    if digest != to.id.state.digest {
        let expected = to.id.state;
        let found = TaggedStateDigest { leaf_hash: expected.leaf_hash, digest };
        return Err(StoreError::WrongState { path, expected, found });
    }
    switch(directory, stream, to.clone(), then.clone())
}

pub(crate) fn remove_journal(directory: &ReplicaDir) -> Result<(), StoreError> {
    let journal = directory.journal();
    let mut partial = journal.file_name().to_owned();
    partial.push(".partial");
    local::remove(&journal.with_file_name(partial))?;
    local::remove(&journal)
}

/// Checks that the staged files are the version, as an anchor's are only known by the digests of its objects.
pub(crate) fn check_staged(
    directory: &ReplicaDir,
    to: &InstalledVersion,
    options: &delta::Options,
) -> Result<(), StoreError> {
    let staging = directory.staging();
    let expected = to.id.state;
    let none = TaggedStateDigest { leaf_hash: expected.leaf_hash, digest: StateDigest::NONE };
    let found = match examine(&staging.path(), expected.leaf_hash, options) {
        Ok(found) => found.map_or(none, |found| found.state),
        Err(error) if is_damage(&error) => {
            let what = format!("its anchor is no checkpoint: {error}");
            return Err(StoreError::PatchDiffers { version: to.id.version, what });
        }
        Err(error) => return Err(error),
    };
    if found != expected {
        // Its objects are what their record says, so it is the record that is wrong.
        let what = format!("the state of its anchor is {found}, the commit says {expected}");
        return Err(StoreError::PatchDiffers { version: to.id.version, what });
    }
    check_layout(directory, to, options)
}

/// Checks that the staged files have the names and headers that the commit speaks of.
pub(crate) fn check_layout(
    directory: &ReplicaDir,
    to: &InstalledVersion,
    options: &delta::Options,
) -> Result<(), StoreError> {
    let found = Checkpoint::open(&directory.staging().path(), &options.limits)?.layout().digest();
    if found == to.id.layout {
        return Ok(());
    }
    let what = format!("the layout of its files is {found}, the commit says {}", to.id.layout);
    Err(StoreError::PatchDiffers { version: to.id.version, what })
}

/// The weight and index files in `dir`, by name: those of the checkpoint, or, where there is no whole
/// checkpoint, all that could be taken for part of one.
pub(crate) fn weight_files(dir: &ConfinedPath, options: &delta::Options) -> Result<Vec<String>, StoreError> {
    if let Ok(checkpoint) = Checkpoint::open(&dir.path(), &options.limits) {
        let files = checkpoint.layout().files().iter().map(|file| file.name.clone());
        // The index last, because it is what makes shards a checkpoint.
        let index = checkpoint.layout().index().map(|_| Layout::INDEX_FILE.to_owned());
        return Ok(files.chain(index).collect());
    }
    let mut names = Vec::new();
    for name in dir.entries().map_err(StoreError::at(dir))? {
        if let Some(name) = name.to_str()
            && (name.ends_with(".safetensors") || name == Layout::INDEX_FILE)
            && is_plain_name(name)
        {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Moves or copies downloaded files into the staging directory under their names.
pub(crate) fn stage(
    directory: &ReplicaDir,
    files: &[(String, ConfinedPath)],
    copy: bool,
) -> Result<(), StoreError> {
    let staging = directory.staging();
    local::make_private_dir(&staging)?;
    for (name, source) in files {
        places::make_parents(&staging, name)?;
        let target = staging.join(name);
        if copy {
            local::copy_file(source.open().map_err(StoreError::at(source))?, &target)?;
        } else {
            local::rename(source, &target)?;
        }
    }
    Ok(())
}
