//! Advancing a directory to a later version: what is verified beforehand, and the short step afterwards.
//! Replicas and the baselines of publishers both advance this way. Blocking.

use tensorpatch_checkpoint::{Checkpoint, CheckpointError, ConfinedPath, MappedFile};
use tensorpatch_delta::{self as delta, ApplyError, Chain, Durability, Patch, Progress};
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

/// A patch on local disk, and the version that it leads to.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) patch: ConfinedPath,
    pub(crate) to: InstalledVersion,
}

/// Patches on local disk that lead from the version that a directory holds to others, one after the other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Update<'a> {
    pub(crate) directory: &'a ReplicaDir,
    pub(crate) stream: StreamId,
    pub(crate) from: &'a InstalledVersion,
    pub(crate) steps: &'a [Step],
    /// Whether the patch that leads back is kept.
    pub(crate) keeps_inverse: bool,
    pub(crate) options: &'a delta::Options,
}

impl Update<'_> {
    /// Makes ready as many steps as go in one pass, without altering what is held (section 6, step R4): in
    /// place if that is possible, else beside. Returns how many there are.
    ///
    /// # Errors
    /// If a patch does not lead from the one version to the other. If the files are not the version held,
    /// the state file says so from then on.
    pub(crate) fn prepare(&self, progress: Progress<'_>) -> Result<(Ready, usize), StoreError> {
        if let Some(steps) = self.prepare_in_place(progress)? {
            return Ok((Ready::Journal, steps));
        }
        Ok((Ready::Staged, self.apply_beside(progress)?))
    }

    /// Verifies the patches of as many steps as go in one pass, writes the journal that applies them, and
    /// returns how many there are; `None` if the files have to be replaced, not written to.
    ///
    /// A journal alone means nothing: unless the state file says `applying`, [`install::recover`] removes it.
    pub(crate) fn prepare_in_place(&self, progress: Progress<'_>) -> Result<Option<usize>, StoreError> {
        let patches = open_pass(self.from.id.state, self.steps, self.options)?;
        let chain = chain(&patches)?;
        remove_journal(self.directory)?;
        let (path, journal) = (self.directory.path(), self.directory.journal().path());
        let inverse = self.directory.next_inverse();
        local::remove(&inverse)?;
        let inverse = inverse.path();
        let prepared = if self.keeps_inverse {
            delta::prepare_with_inverse(&path, chain, &journal, &inverse, self.options, progress)
        } else {
            delta::prepare_in_place(&path, chain, &journal, self.options, progress)
        };
        let why = match prepared {
            Ok(_) => return Ok(Some(patches.len())),
            Err(ApplyError::NotInPlace(why)) => why,
            Err(ApplyError::Checkpoint(error @ CheckpointError::NotInPlace { .. })) => error.to_string(),
            Err(error) => return Err(self.refused(error.into())),
        };
        tracing::info!("the files cannot be patched in place, new ones are made: {why}");
        Ok(None)
    }

    /// Makes the target of as many steps as go in one pass in the staging directory, from the files of the
    /// directory, and returns how many there are.
    pub(crate) fn apply_beside(&self, progress: Progress<'_>) -> Result<usize, StoreError> {
        let patches = open_pass(self.from.id.state, self.steps, self.options)?;
        let chain = chain(&patches)?;
        let staging = self.directory.staging();
        local::remove(&staging)?;
        // What is staged is synced when it is switched to.
        let options = self.options.clone().with_durability(Durability::None);
        let applied = Checkpoint::open(&self.directory.path(), &self.options.limits)
            .map_err(ApplyError::from)
            .and_then(|base| delta::apply_weights_to(&base, chain, &staging.path(), &options, progress));
        applied.map(|_| patches.len()).map_err(|error| self.refused(error.into()))
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
    let path = directory.path();
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

/// Applies as many of `steps` as go in one pass to the files in the staging directory, which are to be
/// `from`, and returns how many there are.
pub(crate) fn apply_to_staged(
    directory: &ReplicaDir,
    from: &InstalledVersion,
    steps: &[Step],
    options: &delta::Options,
    progress: Progress<'_>,
) -> Result<usize, StoreError> {
    let patches = open_pass(from.id.state, steps, options)?;
    let (chain, staging) = (chain(&patches)?, directory.staging());
    let applied = match delta::rewrite(&staging.path(), chain, options, progress) {
        Err(ApplyError::NotInPlace(_)) => {
            let next = staging.with_file_name("staging-next");
            local::remove(&next)?;
            let unsynced = options.clone().with_durability(Durability::None);
            let base = Checkpoint::open(&staging.path(), &options.limits)?;
            let applied = delta::apply_weights_to(&base, chain, &next.path(), &unsynced, progress);
            drop(base);
            if applied.is_ok() {
                local::remove(&staging)?;
                local::rename(&next, &staging)?;
            }
            applied
        }
        applied => applied,
    };
    match applied {
        Ok(_) => Ok(patches.len()),
        // They are what their record says, so it is the record that is wrong.
        Err(ApplyError::WrongBase { expected, found, .. }) => {
            let what = format!("the state of its files is {found}, the commit says {expected}");
            Err(StoreError::PatchDiffers { version: from.id.version, what })
        }
        Err(error) => match StoreError::from(error) {
            error if is_damage(&error) => {
                let what = format!("its files are no checkpoint: {error}");
                Err(StoreError::PatchDiffers { version: from.id.version, what })
            }
            error => Err(error),
        },
    }
}

/// Opens the patches of as many of `steps`, from the first on, as go in one pass over the files.
fn open_pass(
    from: TaggedStateDigest,
    steps: &[Step],
    options: &delta::Options,
) -> Result<Vec<Patch<'static>>, StoreError> {
    let (mut patches, mut at) = (Vec::new(), from);
    for Step { patch, to } in steps {
        patches.push(open(patch, at, (to.id.version, to.id.state), options)?);
        if !Chain::begin(&patches).is_some_and(|(_, rest)| rest.is_empty()) {
            patches.pop();
            break;
        }
        at = to.id.state;
    }
    Ok(patches)
}

fn chain<'p>(patches: &'p [Patch<'static>]) -> Result<Chain<'p>, StoreError> {
    // Who asks for an update has a step to make.
    Chain::begin(patches).map(|(chain, _)| chain).ok_or(StoreError::Empty)
}

/// Opens a patch that says of itself what the commits say.
pub(crate) fn open(
    patch: &ConfinedPath,
    base: TaggedStateDigest,
    (version, target): (Version, TaggedStateDigest),
    options: &delta::Options,
) -> Result<Patch<'static>, StoreError> {
    let patch =
        Patch::of_file(MappedFile::open_confined(patch)?, &options.limits).map_err(ApplyError::from)?;
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
    let missing: Vec<(String, ConfinedPath)> = new
        .iter()
        .filter(|companion| !old.contains(companion) || !directory.has(&companion.name))
        .map(|companion| (companion.name.clone(), directory.download(&companion.object.blake3)))
        .collect();
    install::stage(directory, &missing, true)?;
    let is_gone = |old: &&NamedObject| !new.iter().any(|companion| companion.name == old.name);
    Ok(FileSwap {
        files: missing.into_iter().map(|(name, _)| name).collect(),
        remove: old.iter().filter(is_gone).map(|companion| companion.name.clone()).collect(),
    })
}

/// The same, or nothing where the files beside the weights stay as they are.
fn stage_beside(
    directory: &ReplicaDir,
    old: Option<&[NamedObject]>,
    new: &[NamedObject],
) -> Result<FileSwap, StoreError> {
    old.map_or_else(|| Ok(FileSwap::default()), |old| stage_companions(directory, old, new))
}

/// All staged weights and companions, and all old ones that the new version does not have. Without `old` the
/// files beside the weights stay as they are.
pub(crate) fn stage_all(
    directory: &ReplicaDir,
    old: Option<&[NamedObject]>,
    new: &[NamedObject],
    options: &delta::Options,
) -> Result<FileSwap, StoreError> {
    let mut swap = stage_beside(directory, old, new)?;
    let weights = weight_files(&directory.staging(), options)?;
    let gone = weight_files(directory.root(), options)?;
    swap.remove.extend(gone.into_iter().filter(|name| !weights.contains(name)));
    swap.files.extend(weights);
    Ok(swap)
}

/// Lets a directory that holds `from` become `to` with what was made ready. What is interrupted is completed
/// by [`install::recover`].
///
/// The files beside the weights are `old`, as they are in fact; without that they stay.
pub(crate) fn activate(
    directory: &ReplicaDir,
    stream: StreamId,
    from: Option<&InstalledVersion>,
    to: &InstalledVersion,
    old: Option<&[NamedObject]>,
    ready: Ready,
    options: &delta::Options,
) -> Result<(), StoreError> {
    match (ready, from) {
        (Ready::Journal, Some(from)) => {
            let then = stage_beside(directory, old, &to.companions)?;
            install::activate_in_place(directory, stream, from, to, &then, options)?;
            keep_inverse(directory, options)
        }
        _ => {
            let swap = stage_all(directory, old, &to.companions, options)?;
            install::switch(directory, stream, to.clone(), swap)
        }
    }
}

/// Keeps the patch that leads back from what is held now in the place of the one before. It is small beside
/// the weights, or it is not kept.
fn keep_inverse(directory: &ReplicaDir, options: &delta::Options) -> Result<(), StoreError> {
    let (next, inverse) = (directory.next_inverse(), directory.inverse());
    local::remove(&inverse)?;
    let weights = weight_files(directory.root(), options)?;
    let lens = weights.iter().map(|name| local::file_len(&directory.root().join(name)));
    let most = lens.sum::<Result<u64, _>>()?.div_euclid(4);
    if local::file_len(&next).is_ok_and(|len| len <= most) {
        return local::rename(&next, &inverse);
    }
    local::remove(&next)
}
