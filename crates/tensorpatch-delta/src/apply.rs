//! A patch applied to the checkpoint at a path: which form the result has, which journal is kept, and what
//! must not be altered.

use std::path::Path;

use tensorpatch_checkpoint::{Checkpoint, Form, Places, Role, replica};

use crate::pending::open_settled;
use crate::{
    ApplyError, ApplyReport, Chain, Options, Patch, Progress, Recovery, apply_full, apply_in_place, apply_to,
    journal_path, recover_to,
};

/// A patch, or a [`Chain`] of them, that is about to be applied, with options.
///
/// ```no_run
/// use tensorpatch_delta::{Apply, Options, Patch, Progress};
///
/// let patch = Patch::open("step-6.tpatch")?;
/// let advance = |bytes| println!("{bytes} more bytes");
/// let apply = Apply::new(&patch)
///     .with_options(Options::default().with_threads(std::num::NonZeroUsize::MIN))
///     .with_progress(Progress::new(&advance));
/// apply.to("step-5", "rebuilt")?;
/// # Ok::<(), tensorpatch_delta::ApplyError>(())
/// ```
#[derive(Debug)]
pub struct Apply<'a> {
    chain: Chain<'a>,
    options: Options,
    progress: Progress<'a>,
}

/// What became of a checkpoint that was to be altered in place.
#[derive(Debug, Clone)]
pub enum AppliedInPlace {
    /// The patch was applied.
    Applied(ApplyReport),
    /// The patch had been applied by an interrupted run, which is finished now.
    #[non_exhaustive]
    Finished {
        /// Bytes of model in the checkpoint.
        state_bytes: u64,
        /// Whether the files are the same as the publisher's byte for byte.
        same_layout: bool,
    },
}

impl<'a> Apply<'a> {
    /// An application of patches with default options.
    pub fn new(patches: impl Into<Chain<'a>>) -> Self {
        Self { chain: patches.into(), options: Options::default(), progress: Progress::none() }
    }

    /// Sets the options.
    #[must_use]
    pub fn with_options(self, options: Options) -> Self {
        Self { options, ..self }
    }

    /// Sets who is told of progress, and may cancel.
    #[must_use]
    pub fn with_progress(self, progress: Progress<'a>) -> Self {
        Self { progress, ..self }
    }

    /// Writes the checkpoint that the patch makes of the one at `base` to `dest`, which appears when it is
    /// whole and verified.
    ///
    /// The result is a file if `dest` ends in `.safetensors`; else a directory if it has several files or an
    /// index, or `base` is a directory, whose files beside the weights are then copied along; else a file.
    ///
    /// # Errors
    /// If the patch is broken or does not fit `base`, `base` cannot be read or waits for an interrupted
    /// application, `dest` is or lies in `base` or the patch, the result cannot be written, or the caller
    /// cancels. Then there is nothing at `dest` that was not there before.
    pub fn to(&self, base: impl AsRef<Path>, dest: impl AsRef<Path>) -> Result<ApplyReport, ApplyError> {
        let base = open_settled(base.as_ref(), &self.options.limits)?;
        self.places().read_checkpoint(Role::Base, &base).altered(Role::Output, dest.as_ref()).check()?;
        let form = self.form(Some(&base), dest.as_ref());
        apply_to(&base, self.chain, dest.as_ref(), form, &self.options, self.progress)
    }

    /// Writes the checkpoint that a full patch holds to `dest`: a directory if it has several files or an
    /// index and `dest` does not end in `.safetensors`, else a file.
    ///
    /// # Errors
    /// If the patch is broken or needs a base, the result cannot be written, or the caller cancels. Then
    /// there is nothing at `dest` that was not there before.
    pub fn unpack(&self, dest: impl AsRef<Path>) -> Result<ApplyReport, ApplyError> {
        self.places().altered(Role::Output, dest.as_ref()).check()?;
        let form = self.form(None, dest.as_ref());
        apply_full(self.chain.first(), dest.as_ref(), form, &self.options, self.progress)
    }

    /// Turns the checkpoint at `checkpoint` into the target of the patch, in place. Finishes what an
    /// interrupted run has left first.
    ///
    /// A crash at any instant leaves the checkpoint as it was, or a journal ([`journal_path`]), with which
    /// the same call finishes. A caller who cancels while the patch is verified leaves it as it was; once the
    /// journal is on disk the work is finished.
    ///
    /// # Errors
    /// If the patch is broken, does not fit, or moves tensors within the files ([`ApplyError::NotInPlace`]);
    /// if an interrupted run has left the journal of another patch ([`ApplyError::OtherJournal`]);
    /// if the files must not be written, or belong to the replica of a stream ([`ApplyError::Replica`]); or
    /// if the caller cancels.
    pub fn in_place(&self, checkpoint: impl AsRef<Path>) -> Result<AppliedInPlace, ApplyError> {
        let checkpoint = checkpoint.as_ref();
        check_no_replica(checkpoint)?;
        let journal = journal_path(checkpoint);
        // Whoever may write beside the checkpoint may have put the journal there: only what this patch
        // vouches for is made.
        let ends = [self.chain.first().base_digest(), self.chain.last().target_digest()];
        let recovery = recover_to(checkpoint, &journal, &ends, &self.options, self.progress)?;
        if let Recovery::Finished { target } = recovery
            && target == self.chain.last().target_digest()
        {
            let opened = open_settled(checkpoint, &self.options.limits)?;
            let same_layout = opened.layout().digest() == self.chain.last().trailer().ends.target_layout;
            return Ok(AppliedInPlace::Finished { state_bytes: opened.schema().state_bytes(), same_layout });
        }
        apply_in_place(checkpoint, self.chain, &journal, &self.options, self.progress)
            .map(AppliedInPlace::Applied)
    }

    fn places(&self) -> Places {
        let patches = self.chain.patches().filter_map(Patch::path);
        patches.fold(Places::default(), |places, path| places.read(Role::Patch, path))
    }

    /// A file if the name says so; else a directory if the target needs one, or the base is one.
    fn form(&self, base: Option<&Checkpoint>, dest: &Path) -> Form {
        let named_file = dest.extension().is_some_and(|extension| extension == "safetensors");
        let layout = self.chain.listed_layout().or(base.map(Checkpoint::layout));
        let needs_directory =
            layout.is_some_and(|layout| layout.files().len() > 1 || layout.index().is_some());
        let from_directory = base.is_some_and(Checkpoint::is_directory);
        if !named_file && (needs_directory || from_directory) { Form::Directory } else { Form::File }
    }
}

impl Patch<'_> {
    /// Writes the checkpoint that the patch makes of the one at `base` to `dest`: [`Apply::to`] with default
    /// options.
    ///
    /// # Errors
    /// As [`Apply::to`].
    pub fn apply(&self, base: impl AsRef<Path>, dest: impl AsRef<Path>) -> Result<ApplyReport, ApplyError> {
        Apply::new(self).to(base, dest)
    }

    /// Turns the checkpoint at `checkpoint` into the target of the patch: [`Apply::in_place`] with default
    /// options.
    ///
    /// # Errors
    /// As [`Apply::in_place`].
    pub fn apply_in_place(&self, checkpoint: impl AsRef<Path>) -> Result<AppliedInPlace, ApplyError> {
        Apply::new(self).in_place(checkpoint)
    }

    /// Writes the checkpoint that a full patch holds to `dest`: [`Apply::unpack`] with default options.
    ///
    /// # Errors
    /// As [`Apply::unpack`].
    pub fn unpack(&self, dest: impl AsRef<Path>) -> Result<ApplyReport, ApplyError> {
        Apply::new(self).unpack(dest)
    }
}

/// Refuses a checkpoint whose files only its stream may alter: its state file would not say any more what it
/// holds.
fn check_no_replica(checkpoint: &Path) -> Result<(), ApplyError> {
    replica::directory_of(checkpoint).map_or(Ok(()), |path| Err(ApplyError::Replica { path }))
}
