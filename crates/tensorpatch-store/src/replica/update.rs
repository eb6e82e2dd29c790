//! Advancing a directory by one version: what is verified beforehand, and the short step afterwards. Replicas
//! and the baselines of publishers both advance this way. Blocking.

use std::path::{Path, PathBuf};

use tensorpatch_checkpoint::{Checkpoint, CheckpointError, MappedFile};
use tensorpatch_delta::{self as delta, ApplyError, Patch, Progress};
use tensorpatch_format::TaggedStateDigest;
use tensorpatch_stream::{NamedObject, StreamId, Version};

use super::directory::{Condition, FileSwap, InstalledVersion, LocalState, ReplicaDir};
use super::install::{self, is_damage, remove_journal, weight_files};
use crate::error::StoreError;
use crate::local;

/// How a directory becomes another version. Both were verified to give it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ready {
    /// The journal is written.
    Journal,
    /// The files are in the staging directory.
    Staged,
}

/// A patch on local disk from the version that a directory holds to another.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Update<'a> {
    pub(crate) directory: &'a ReplicaDir,
    pub(crate) stream: StreamId,
    pub(crate) from: &'a InstalledVersion,
    pub(crate) to: (Version, TaggedStateDigest),
    pub(crate) patch: &'a Path,
    pub(crate) options: &'a delta::Options,
}

impl Update<'_> {
    /// Makes the update ready without altering what is held (section 6, step R4): in place if that is
    /// possible, else beside.
    ///
    /// # Errors
    /// If the patch does not lead from the one version to the other. If the files are not the version held,
    /// the state file says so from then on.
    pub(crate) fn prepare(&self, progress: Progress<'_>) -> Result<Ready, StoreError> {
        if self.prepare_in_place(progress)? {
            return Ok(Ready::Journal);
        }
        self.apply_beside(progress)?;
        Ok(Ready::Staged)
    }

    /// Verifies the patch and writes the journal that applies it; `false` if the files have to be replaced,
    /// not written to.
    ///
    /// A journal alone means nothing: unless the state file says `applying`, [`install::recover`] removes it.
    pub(crate) fn prepare_in_place(&self, progress: Progress<'_>) -> Result<bool, StoreError> {
        let bytes = MappedFile::open(self.patch)?;
        let patch = parse(&bytes, self.from.id.state, self.to, self.options)?;
        remove_journal(self.directory)?;
        let (path, journal) = (self.directory.path(), self.directory.journal());
        let why = match delta::prepare_in_place(path, &patch, &journal, self.options, progress) {
            Ok(_) => return Ok(true),
            Err(ApplyError::NotInPlace(why)) => why,
            Err(ApplyError::Checkpoint(error @ CheckpointError::NotInPlace { .. })) => error.to_string(),
            Err(error) => return Err(self.refused(error.into())),
        };
        tracing::info!("the files cannot be patched in place, new ones are made: {why}");
        Ok(false)
    }

    /// Makes the target in the staging directory, from the files of the directory.
    pub(crate) fn apply_beside(&self, progress: Progress<'_>) -> Result<(), StoreError> {
        let bytes = MappedFile::open(self.patch)?;
        let patch = parse(&bytes, self.from.id.state, self.to, self.options)?;
        let staging = self.directory.staging();
        local::remove(&staging)?;
        let applied = Checkpoint::open(self.directory.path(), &self.options.limits)
            .map_err(ApplyError::from)
            .and_then(|base| delta::apply_weights_to(&base, &patch, &staging, self.options, progress));
        applied.map(|_| ()).map_err(|error| self.refused(error.into()))
    }

    fn refused(&self, error: StoreError) -> StoreError {
        damage_noted(self.directory, self.stream, self.from, error)
    }
}

/// Turns an error that says that the files of a directory are not `was` into one that says so, and writes it
/// into the state file.
pub(crate) fn damage_noted(
    directory: &ReplicaDir,
    stream: StreamId,
    was: &InstalledVersion,
    error: StoreError,
) -> StoreError {
    let path = directory.path().to_owned();
    let error = match error {
        StoreError::Apply(ApplyError::WrongBase { found, .. }) => {
            StoreError::WrongState { path, expected: was.id.state, found }
        }
        error @ (StoreError::WrongState { .. } | StoreError::LocalDamage { .. }) => error,
        error if is_damage(&error) => StoreError::LocalDamage { path, what: error.to_string() },
        error => return error,
    };
    let condition = Condition::Damaged { was: was.clone() };
    match directory.save(&LocalState { stream, condition }) {
        Ok(()) => error,
        Err(unsaved) => unsaved,
    }
}

/// Applies one more patch to the files in the staging directory.
pub(crate) fn apply_to_staged(
    directory: &ReplicaDir,
    patch: &Path,
    from: TaggedStateDigest,
    to: (Version, TaggedStateDigest),
    options: &delta::Options,
    progress: Progress<'_>,
) -> Result<(), StoreError> {
    let bytes = MappedFile::open(patch)?;
    let patch = parse(&bytes, from, to, options)?;
    let (staging, journal) = (directory.staging(), directory.staging_journal());
    local::remove(&journal)?;
    match delta::apply_in_place(&staging, &patch, &journal, options, progress) {
        Ok(_) => Ok(()),
        Err(ApplyError::NotInPlace(_)) => {
            let next = staging.with_file_name("staging-next");
            local::remove(&next)?;
            let base = Checkpoint::open(&staging, &options.limits)?;
            delta::apply_weights_to(&base, &patch, &next, options, progress)?;
            drop(base);
            local::remove(&staging)?;
            std::fs::rename(&next, &staging).map_err(|e| StoreError::local(&staging, e))
        }
        Err(error) => Err(error.into()),
    }
}

/// A patch that says of itself what the commits say.
fn parse<'a>(
    bytes: &'a MappedFile,
    base: TaggedStateDigest,
    (version, target): (Version, TaggedStateDigest),
    options: &delta::Options,
) -> Result<Patch<'a>, StoreError> {
    let patch = Patch::parse(bytes.bytes(), &options.limits).map_err(ApplyError::from)?;
    let ends = [("base", patch.base_digest(), base.digest), ("target", patch.target_digest(), target.digest)];
    for (which, found, expected) in ends {
        if found != expected {
            let what = format!("its {which} state is {found}, the commit says {expected}");
            return Err(StoreError::PatchDiffers { version, what });
        }
    }
    if patch.leaf_hash() != target.leaf_hash {
        let what = format!("its leaf hash is {}", patch.leaf_hash());
        return Err(StoreError::PatchDiffers { version, what });
    }
    Ok(patch)
}

/// Stages the companions of `new` that are not there, from the downloads, and says which of `old` go.
pub(crate) fn stage_companions(
    directory: &ReplicaDir,
    old: &[NamedObject],
    new: &[NamedObject],
) -> Result<FileSwap, StoreError> {
    let missing: Vec<(String, PathBuf)> = new
        .iter()
        .filter(|companion| !old.contains(companion) || !directory.path().join(&companion.name).exists())
        .map(|companion| (companion.name.clone(), directory.download(&companion.object.blake3)))
        .collect();
    install::stage(directory, &missing, true)?;
    let is_gone = |old: &&NamedObject| !new.iter().any(|companion| companion.name == old.name);
    Ok(FileSwap {
        files: missing.into_iter().map(|(name, _)| name).collect(),
        remove: old.iter().filter(is_gone).map(|companion| companion.name.clone()).collect(),
    })
}

/// All staged weights and companions, and all old ones that the new version does not have.
pub(crate) fn stage_all(
    directory: &ReplicaDir,
    old: &[NamedObject],
    new: &[NamedObject],
    options: &delta::Options,
) -> Result<FileSwap, StoreError> {
    let mut swap = stage_companions(directory, old, new)?;
    let weights = weight_files(&directory.staging(), options)?;
    let gone = weight_files(directory.path(), options)?;
    swap.remove.extend(gone.into_iter().filter(|name| !weights.contains(name)));
    swap.files.extend(weights);
    Ok(swap)
}

/// Lets a directory that holds `from` become `to` with what was made ready. What is interrupted is completed
/// by [`install::recover`].
pub(crate) fn activate(
    directory: &ReplicaDir,
    stream: StreamId,
    from: Option<&InstalledVersion>,
    to: &InstalledVersion,
    ready: Ready,
    options: &delta::Options,
) -> Result<(), StoreError> {
    let old = from.map(|from| from.companions.as_slice()).unwrap_or_default();
    match (ready, from) {
        (Ready::Journal, Some(from)) => {
            let then = stage_companions(directory, old, &to.companions)?;
            install::activate_in_place(directory, stream, from, to, &then, options)
        }
        _ => {
            let swap = stage_all(directory, old, &to.companions, options)?;
            install::switch(directory, stream, to.clone(), swap)
        }
    }
}
