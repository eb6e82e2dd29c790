//! Altering a checkpoint where it lies, so that a crash at any instant leaves it at the old or the new
//! version.
//!
//! Nothing is altered before base and target are verified and a [`Journal`] is on disk. Whoever writes,
//! replays or removes one holds the locks of the checkpoint's files, which lie beside the journal, so that of
//! several processes only one does. Nobody else can open these, or read the journal.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

use tensorpatch_checkpoint::{
    Checkpoint, CheckpointError, CheckpointPatcher, ConfinedPath, FileKind, Found, MappedFile, Obstacle,
};
use tensorpatch_format::{Layout, StateDigest, TaggedStateDigest, TensorIndex};

use crate::chain::BoundChain;
use crate::journal::{Journal, journal_error, offset, write_journal};
use crate::pending::check_absent;
use crate::walk::{TargetChunk, Unchanged, Walk, Walked, bind};
use crate::{ApplyError, ApplyReport, Chain, Options, Progress, State};

/// What [`recover`] found and did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Recovery {
    /// No application was interrupted.
    Nothing,
    /// An application was interrupted before it altered anything; its beginnings were removed.
    Dropped,
    /// An application was interrupted while it altered the checkpoint; it is finished and verified now.
    Finished {
        /// The digest of the checkpoint now.
        target: StateDigest,
    },
}

/// Turns the checkpoint at `checkpoint` into the target of a patch, or of a [`Chain`] of them, in place: what
/// [`prepare_in_place`] and [`activate_in_place`] do, with nobody else let in between.
///
/// # Errors
/// As those two. If writing fails half way, the journal stays, and so does the duty to [`recover`].
/// `progress` can stop the preparation, which leaves the checkpoint as it was; once the journal is on disk it
/// is not asked any more.
pub fn apply_in_place<'p>(
    checkpoint: &Path,
    patches: impl Into<Chain<'p>>,
    journal: &Path,
    options: &Options,
    progress: Progress<'_>,
) -> Result<ApplyReport, ApplyError> {
    let (report, patcher) = prepare(checkpoint, patches.into(), (journal, None), options, progress)?;
    if report.base != report.target {
        let place = place_of(journal)?;
        let file = MappedFile::open_confined(&place)?;
        Journal::read(checkpoint, journal, &file, options, |journal| journal.replay(&patcher, options))?;
        remove_journal(&place, options)?;
    }
    Ok(report)
}

/// Turns the checkpoint at `checkpoint` into the target of a patch, or of a [`Chain`] of them, in one pass
/// and without a journal: for files that nobody else reads, and that are made again if this does not come to
/// its end. They are left to the caller to sync, who finds most of them on the disk if the options say that
/// it is to be done.
///
/// # Errors
/// As [`prepare_in_place`], but the files are then of no use.
pub fn rewrite<'p>(
    checkpoint: &Path,
    patches: impl Into<Chain<'p>>,
    options: &Options,
    progress: Progress<'_>,
) -> Result<ApplyReport, ApplyError> {
    let chain = patches.into();
    let base = Checkpoint::open(checkpoint, &options.limits)?;
    let patcher = CheckpointPatcher::open(&base, None)?;
    let state = State::of(&base)?;
    let bound = bind(chain, Some(&state), options)?;
    let (layout, same_layout) = chain.layout_over(base.layout());
    check_in_place(&base, &bound, layout, options)?;
    let write = |(): &mut (), chunk: TargetChunk<'_>, (): &mut ()| {
        if !chunk.changed {
            return Ok(());
        }
        Ok(patcher.write(chunk.address.tensor, offset(chunk.address), chunk.bytes)?)
    };
    let unchanged = Unchanged::Read(&patcher);
    let walk = Walk { base: Some(&state), chain: &bound, options, progress, unchanged };
    let walked = || walk.run(|| (), write, |()| Ok(()));
    let walked = if options.syncs() { patcher.syncing_files_behind(walked) } else { walked() }?;
    for (file, layout) in layout.files().iter().enumerate() {
        patcher.write_header(file, &layout.header)?;
    }
    Ok(report(walked, &base, same_layout))
}

/// Verifies that a patch, or a [`Chain`] of them, turns the checkpoint into its target, and writes the
/// journal that does it, durably, to `journal`.
///
/// The checkpoint is only read, so that it may serve meanwhile. `journal` should lie on the file system of
/// the checkpoint, and be the same for all who alter it. Where nothing is to be altered, no journal is
/// written.
///
/// # Errors
/// If the patch does not fit, is broken, or moves tensors within the files ([`ApplyError::NotInPlace`]), or
/// the files must not be written, or another process is about to. Then this call leaves no journal.
pub fn prepare_in_place<'p>(
    checkpoint: &Path,
    patches: impl Into<Chain<'p>>,
    journal: &Path,
    options: &Options,
    progress: Progress<'_>,
) -> Result<ApplyReport, ApplyError> {
    prepare(checkpoint, patches.into(), (journal, None), options, progress).map(|(report, _)| report)
}

/// Does what [`prepare_in_place`] does, and writes the patch that leads back, from the target to what is
/// there now, to `inverse`, not durably. Where nothing is to be altered, what is there is of no use.
///
/// # Errors
/// As [`prepare_in_place`]; also if `inverse` cannot be written.
pub fn prepare_with_inverse<'p>(
    checkpoint: &Path,
    patches: impl Into<Chain<'p>>,
    journal: &Path,
    inverse: &Path,
    options: &Options,
    progress: Progress<'_>,
) -> Result<ApplyReport, ApplyError> {
    prepare(checkpoint, patches.into(), (journal, Some(inverse)), options, progress).map(|(report, _)| report)
}

/// The preparation, and the locks under which it was made.
fn prepare(
    checkpoint: &Path,
    chain: Chain<'_>,
    (journal, inverse): (&Path, Option<&Path>),
    options: &Options,
    progress: Progress<'_>,
) -> Result<(ApplyReport, CheckpointPatcher), ApplyError> {
    check_absent(journal)?;
    // Opened again under the locks: another process may have altered it before.
    let place = place_of(journal)?;
    let (opened, locks) = (Checkpoint::open(checkpoint, &options.limits)?, place.directory());
    let patcher = CheckpointPatcher::open(&opened, Some(&locks))?;
    drop(opened);
    let base = Checkpoint::open(checkpoint, &options.limits)?;
    let state = State::of(&base)?;
    let bound = bind(chain, Some(&state), options)?;
    let (layout, same_layout) = chain.layout_over(base.layout());
    check_in_place(&base, &bound, layout, options)?;

    let walked = if chain.changes_nothing() {
        check_something_altered(&base, layout)?;
        let (base, unchanged) = (Some(&state), Unchanged::InPlace);
        let walk = Walk { base, chain: &bound, options, progress, unchanged };
        walk.run(|| (), |(), _, (): &mut ()| Ok(()), |()| Ok(()))?
    } else {
        let partial = partial(&place);
        let file = begin(checkpoint, &partial)?;
        // Whatever an earlier run has left there, or somebody else.
        let replace =
            |path: &Path| place_of(path)?.replace_private().map_err(|error| journal_error(path, error));
        let back = inverse.map(replace).transpose()?;
        let inverse = inverse.zip(back.as_ref());
        let (at, failed) = (partial.path(), |error| journal_error(&partial.path(), error));
        let written = write_journal(&base, &bound, layout, (&at, &file), inverse, options, progress)
            // What another process has written meanwhile, where files have no locks, must not be replaced.
            .and_then(|walked| Ok(check_absent(journal).map(|()| walked)?))
            .and_then(|walked| {
                if walked.base == walked.target {
                    // The patches have taken back what they did.
                    check_something_altered(&base, layout)?;
                    partial.remove_file().map_err(failed)?;
                } else {
                    publish(&partial, &place, options)?;
                }
                Ok(walked)
            });
        written.inspect_err(|_| {
            // Best effort: only a finished journal gets the journal's name, and recovery sweeps this one.
            let _ = partial.remove_file();
        })?
    };
    Ok((report(walked, &base, same_layout), patcher))
}

fn report(walked: Walked, base: &Checkpoint, same_layout: bool) -> ApplyReport {
    ApplyReport {
        base: walked.base,
        target: walked.target,
        changed_chunks: walked.changed_chunks,
        state_bytes: base.schema().state_bytes(),
        same_layout,
        leaves: walked.leaves,
    }
}

/// Refuses to alter headers where no tensor is altered: a journal has no way to say so.
fn check_something_altered(base: &Checkpoint, layout: &Layout) -> Result<(), ApplyError> {
    if layout == base.layout() {
        return Ok(());
    }
    Err(ApplyError::NotInPlace("it alters nothing but headers".into()))
}

/// Alters the checkpoint as a prepared journal says, and removes the journal. Returns the digest of what the
/// checkpoint was made, or `None` where there is no journal: then nothing was altered, which is right only
/// after preparing a patch that alters nothing.
///
/// Each chunk that is altered is verified before it is written; the others are not looked at. If the process
/// dies on the way, the journal stays, and [`recover`] finishes the work.
///
/// # Errors
/// [`ApplyError::DamagedJournal`] or [`ApplyError::AlteredSince`] if the journal, or a chunk that it alters,
/// is not as it was when it was prepared; or if the operating system refuses. The journal then stays.
pub fn activate_in_place(
    checkpoint: &Path,
    journal: &Path,
    options: &Options,
) -> Result<Option<StateDigest>, ApplyError> {
    finish(checkpoint, journal, None, options, |journal, patcher| {
        journal.replay(patcher, options)?;
        Ok(journal.target().digest)
    })
}

/// Finishes an in-place application that was interrupted, or removes its beginnings.
///
/// Safe to call at any time, any number of times. Nothing is altered unless the whole checkpoint becomes the
/// target by it: a copy of another version that was put in its place since stays as it is.
///
/// # Errors
/// [`ApplyError::DamagedJournal`] if the journal is not what was written, [`ApplyError::AlteredSince`] if the
/// checkpoint cannot become the target, [`ApplyError::Cancelled`] if `progress` says to stop, which is heeded
/// until the first byte is altered. The journal then stays where it is.
pub fn recover(
    checkpoint: &Path,
    journal: &Path,
    options: &Options,
    progress: Progress<'_>,
) -> Result<Recovery, ApplyError> {
    recover_towards(checkpoint, journal, None, options, progress)
}

/// Does what [`recover`] does, if the journal leads to one of the states `ends`: for those whose journal lies
/// where others may have put one.
///
/// # Errors
/// [`ApplyError::OtherJournal`] if it leads to another state, and then nothing is altered; as [`recover`].
pub fn recover_to(
    checkpoint: &Path,
    journal: &Path,
    ends: &[StateDigest],
    options: &Options,
    progress: Progress<'_>,
) -> Result<Recovery, ApplyError> {
    recover_towards(checkpoint, journal, Some(ends), options, progress)
}

fn recover_towards(
    checkpoint: &Path,
    journal: &Path,
    ends: Option<&[StateDigest]>,
    options: &Options,
    progress: Progress<'_>,
) -> Result<Recovery, ApplyError> {
    let begun = match ConfinedPath::of(journal) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Recovery::Nothing),
        place => {
            let place = place.map_err(|error| journal_error(journal, error))?;
            remove_beginnings(checkpoint, &partial(&place))?
        }
    };
    let finished = finish(checkpoint, journal, ends, options, |journal, patcher| {
        journal.foresee(patcher, options, progress)?;
        journal.replay(patcher, options)?;
        journal.verify(options)
    })?;
    Ok(match finished {
        Some(target) => Recovery::Finished { target },
        None if begun => Recovery::Dropped,
        None => Recovery::Nothing,
    })
}

/// Does `replay` with the journal at `path`, if there is one and it leads to one of `ends`, and removes
/// it, all under the locks of the checkpoint.
fn finish<T>(
    checkpoint: &Path,
    path: &Path,
    ends: Option<&[StateDigest]>,
    options: &Options,
    replay: impl Fn(&Journal<'_>, &CheckpointPatcher) -> Result<T, ApplyError>,
) -> Result<Option<T>, ApplyError> {
    let place = match ConfinedPath::of(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        place => place.map_err(|error| journal_error(path, error))?,
    };
    let exists = || Ok::<_, ApplyError>(place.find().map_err(|error| journal_error(path, error))?.is_some());
    while exists()? {
        let file = match MappedFile::open_confined(&place) {
            // Another process has finished it.
            Err(CheckpointError::Io { source, .. })
                if source.kind() == io::ErrorKind::NotFound && !exists()? =>
            {
                break;
            }
            opened => opened?,
        };
        let done = Journal::read(checkpoint, path, &file, options, |journal| {
            let found = journal.target();
            if ends.is_some_and(|ends| !ends.contains(&found.digest)) {
                return Err(other_journal(checkpoint, path, found));
            }
            let patcher = journal.open(&place.directory())?;
            // Finished by another process before the locks were had; what is there now, if anything, is
            // another one.
            if !file.is_at(path) {
                return Ok(None);
            }
            let done = replay(journal, &patcher)?;
            remove_journal(&place, options)?;
            Ok(Some(done))
        })?;
        if done.is_some() {
            return Ok(done);
        }
    }
    Ok(None)
}

fn other_journal(checkpoint: &Path, journal: &Path, found: TaggedStateDigest) -> ApplyError {
    ApplyError::OtherJournal { checkpoint: checkpoint.to_owned(), journal: journal.to_owned(), found }
}

/// Refuses a patch that would move tensors within the files: then there is no place to alter.
fn check_in_place(
    base: &Checkpoint,
    bound: &BoundChain<'_>,
    layout: &Layout,
    options: &Options,
) -> Result<(), ApplyError> {
    let schema = bound.schema();
    if schema != base.schema() {
        return Err(ApplyError::NotInPlace("it adds, removes or reshapes tensors".into()));
    }
    let target = bound.chain().placement(schema, layout, &options.limits)?;
    let names = |layout: &Layout| layout.files().iter().map(|file| file.name.clone()).collect::<Vec<_>>();
    let mut tensors = (0..).map(TensorIndex).take(schema.tensors().len());
    let same_places = tensors.all(|tensor| target.locate(tensor) == base.placement().locate(tensor));
    if names(layout) != names(base.layout()) || !same_places {
        return Err(ApplyError::NotInPlace("it moves tensors within the files or between them".into()));
    }
    if layout.index() != base.layout().index() {
        return Err(ApplyError::NotInPlace("it alters the index of the checkpoint".into()));
    }
    Ok(())
}

/// A file of the journal in its directory.
fn place_of(path: &Path) -> Result<ConfinedPath, ApplyError> {
    ConfinedPath::of(path).map_err(|error| journal_error(path, error))
}

/// Where the journal is while it is written. Only a finished journal has the journal's name.
fn partial(journal: &ConfinedPath) -> ConfinedPath {
    let mut name = journal.file_name().to_owned();
    name.push(".partial");
    journal.with_file_name(name)
}

/// A new file at `partial`, never one behind a link, and locked for as long as it is written.
fn begin(checkpoint: &Path, partial: &ConfinedPath) -> Result<File, ApplyError> {
    const ATTEMPTS: usize = 16;
    for _ in 0..ATTEMPTS {
        remove_beginnings(checkpoint, partial)?;
        let file = partial.create_private().map_err(|error| journal_error(&partial.path(), error))?;
        // Where there are no locks, recovery takes what is being written for what was left behind. Where
        // there are, it may have come between making and locking.
        if !is_locked_by_others(&file) && leads_to(partial, &file) {
            return Ok(file);
        }
    }
    Err(busy(checkpoint))
}

/// Removes what a dead process has left at `partial`; says whether there was anything.
fn remove_beginnings(checkpoint: &Path, partial: &ConfinedPath) -> Result<bool, ApplyError> {
    let failed = |error| journal_error(&partial.path(), error);
    let Some(found) = partial.find().map_err(failed)? else { return Ok(false) };
    // Locked until it is removed, so that whoever has just made it sees that.
    let file = (found.kind == FileKind::File).then(|| partial.open_to_alter());
    if let Some(Ok(file)) = &file {
        if is_locked_by_others(file) {
            return Err(busy(checkpoint));
        }
        if !leads_to(partial, file) {
            return Ok(false);
        }
    }
    match partial.remove_file() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        removed => removed.map(|()| true).map_err(failed),
    }
}

/// Locks `file` for as long as it is open, unless another process has.
fn is_locked_by_others(file: &File) -> bool {
    matches!(file.try_lock(), Err(TryLockError::WouldBlock))
}

fn leads_to(place: &ConfinedPath, file: &File) -> bool {
    match (place.find(), Found::of_open(file)) {
        (Ok(Some(there)), Ok(ours)) => there.identity == ours.identity,
        _ => false,
    }
}

fn busy(checkpoint: &Path) -> ApplyError {
    CheckpointError::NotInPlace { path: checkpoint.to_owned(), obstacle: Obstacle::Busy }.into()
}

/// Gives the finished journal its name, durably.
fn publish(partial: &ConfinedPath, journal: &ConfinedPath, options: &Options) -> Result<(), ApplyError> {
    let failed = |error| journal_error(&journal.path(), error);
    partial.rename(journal).map_err(failed)?;
    if !options.syncs() {
        return Ok(());
    }
    journal.sync_parent().map_err(|error| {
        // The caller is told that nothing was prepared, so nothing may be found later.
        let _ = journal.remove_file();
        failed(error)
    })
}

fn remove_journal(journal: &ConfinedPath, options: &Options) -> Result<(), ApplyError> {
    let sync = || if options.syncs() { journal.sync_parent() } else { Ok(()) };
    journal.remove_file().and_then(|()| sync()).map_err(|source| journal_error(&journal.path(), source))
}
