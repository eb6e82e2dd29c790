//! From the paths of two checkpoints, or from a path and tensors in memory, to a patch file.

use std::io::Write;
use std::path::Path;

use safetensors::View;
use tensorpatch_checkpoint::{Checkpoint, Places, Role};

use crate::patch_file::write_file;
use crate::pending::open_settled;
use crate::{
    DiffError, DiffReport, Options, Others, Progress, Snapshot, TensorDiff, encode_diff, encode_full,
};

/// Opens two checkpoints, files or directories, to make the patch that turns `base` into `target`.
///
/// # Errors
/// If one cannot be read or is damaged, or an application in place to it was interrupted.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let path = |name: &str| dir.path().join(name);
/// # let write = |name: &str, weights: [u8; 4]| {
/// #     let header = br#"{"w":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}        "#;
/// #     std::fs::write(path(name), [&(header.len() as u64).to_le_bytes()[..], header, &weights].concat())
/// # };
/// # write("step-5", [1, 2, 3, 4])?;
/// # write("step-6", [1, 2, 3, 5])?;
/// let report = tensorpatch_delta::diff(path("step-5"), path("step-6"))?.write(path("step-6.tpatch"))?;
/// assert_eq!((report.changed_elements, report.total_elements), (1, 2));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn diff(base: impl AsRef<Path>, target: impl AsRef<Path>) -> Result<Diff<'static>, DiffError> {
    Diff::open(Some(base.as_ref()), target.as_ref(), Options::default())
}

/// Opens a checkpoint to make a patch that holds the whole of it and needs no base.
///
/// # Errors
/// As [`diff`].
pub fn full(target: impl AsRef<Path>) -> Result<Diff<'static>, DiffError> {
    Diff::open(None, target.as_ref(), Options::default())
}

/// A patch that is about to be made of opened checkpoints.
#[derive(Debug)]
pub struct Diff<'p> {
    base: Option<Checkpoint>,
    target: Checkpoint,
    options: Options,
    progress: Progress<'p>,
}

impl Diff<'static> {
    /// Opens the checkpoints within the limits of `options`: what [`diff()`] does with default ones, and
    /// [`full()`] without a base.
    ///
    /// # Errors
    /// As [`diff`].
    pub fn open(base: Option<&Path>, target: &Path, options: Options) -> Result<Self, DiffError> {
        let open = |path| open_settled(path, &options.limits);
        let (base, target) = (base.map(open).transpose()?, open(target)?);
        Ok(Self { base, target, options, progress: Progress::none() })
    }
}

impl Diff<'_> {
    /// Sets the options. Their limits have no effect: the checkpoints are open already.
    #[must_use]
    pub fn with_options(self, options: Options) -> Self {
        Self { options, ..self }
    }

    /// Sets who is told of progress, and may cancel.
    #[must_use]
    pub fn with_progress(self, progress: Progress<'_>) -> Diff<'_> {
        let Self { base, target, options, .. } = self;
        Diff { base, target, options, progress }
    }

    /// The checkpoint that the patch is to make.
    pub fn target(&self) -> &Checkpoint {
        &self.target
    }

    /// Writes the patch to a file at `path`, which appears, or replaces the one there, when it is whole and
    /// on disk. A pipe is written directly.
    ///
    /// # Errors
    /// If `path` is no place for a file or lies in one of the checkpoints, there is no room, or the caller
    /// cancels. Then what was at `path` is as it was.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<DiffReport, DiffError> {
        let inputs = places_of(self.base.as_ref()).read_checkpoint(Role::Target, &self.target);
        let sources: Vec<&Checkpoint> = self.base.iter().chain([&self.target]).collect();
        write_file(path.as_ref(), inputs, &sources, |out| self.write_to(out))
    }

    /// Writes the bytes of the patch to `out`.
    ///
    /// # Errors
    /// If writing fails, or the caller cancels. `out` may then have got a part.
    pub fn write_to(&self, mut out: impl Write) -> Result<DiffReport, DiffError> {
        let target = Snapshot::of(&self.target)?;
        match &self.base {
            Some(base) => encode_diff(&Snapshot::of(base)?, &target, &self.options, self.progress, &mut out),
            None => encode_full(&target, &self.options, self.progress, &mut out),
        }
    }
}

/// Opens a checkpoint to make the patch that turns it into a state in memory, given as tensors with their
/// names.
///
/// The tensors may come in any order, and each is compared with the checkpoint while it is alive: an iterator
/// that makes them one at a time needs memory for one at a time. [`TensorDiff`] says what the files of the
/// target look like; it is what to use where making a tensor can fail.
///
/// # Errors
/// If the checkpoint cannot be read or is damaged, or an application in place to it was interrupted.
///
/// ```
/// use safetensors::SafeTensors;
/// use tensorpatch_delta::{Patch, diff_tensors};
/// # let dir = tempfile::tempdir()?;
/// # let path = |name: &str| dir.path().join(name);
/// # let file = |weights: [u8; 4]| {
/// #     let header = br#"{"w":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}        "#;
/// #     [&(header.len() as u64).to_le_bytes()[..], header, &weights].concat()
/// # };
/// # std::fs::write(path("step-5"), file([1, 2, 3, 4]))?;
/// # let bytes = file([1, 2, 3, 5]);
///
/// let state = SafeTensors::deserialize(&bytes)?;
/// diff_tensors(path("step-5"), state.iter())?.write(path("step-6.tpatch"))?;
///
/// Patch::open(path("step-6.tpatch"))?.apply(path("step-5"), path("rebuilt"))?;
/// assert_eq!(std::fs::read(path("rebuilt"))?, bytes);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn diff_tensors<I: IntoIterator>(
    base: impl AsRef<Path>,
    tensors: I,
) -> Result<DiffTensors<'static, I::IntoIter>, DiffError> {
    let options = Options::default();
    let base = Some(open_settled(base.as_ref(), &options.limits)?);
    let (others, progress, tensors) = (Others::default(), Progress::none(), tensors.into_iter());
    Ok(DiffTensors { base, tensors, others, options, progress })
}

/// Prepares a patch that holds a whole state in memory, given as tensors with their names, and needs no base.
pub fn full_tensors<I: IntoIterator>(tensors: I) -> DiffTensors<'static, I::IntoIter> {
    let (others, progress, tensors) = (Others::default(), Progress::none(), tensors.into_iter());
    DiffTensors { base: None, tensors, others, options: Options::default(), progress }
}

/// A patch that is about to be made of tensors in memory.
#[derive(Debug)]
pub struct DiffTensors<'p, I> {
    base: Option<Checkpoint>,
    tensors: I,
    others: Others,
    options: Options,
    progress: Progress<'p>,
}

impl<I> DiffTensors<'_, I> {
    /// Sets the options. Their limits have no effect: the checkpoint is open already.
    #[must_use]
    pub fn with_options(self, options: Options) -> Self {
        Self { options, ..self }
    }

    /// Sets what becomes of tensors of the base that are not given. By default there must be none.
    #[must_use]
    pub fn with_others(self, others: Others) -> Self {
        Self { others, ..self }
    }

    /// Sets who is told of progress, and may cancel.
    #[must_use]
    pub fn with_progress(self, progress: Progress<'_>) -> DiffTensors<'_, I> {
        let Self { base, tensors, others, options, .. } = self;
        DiffTensors { base, tensors, others, options, progress }
    }
}

impl<N: AsRef<str>, V: View, I: Iterator<Item = (N, V)>> DiffTensors<'_, I> {
    /// Writes the patch to a file at `path`, as [`Diff::write`] does.
    ///
    /// # Errors
    /// As [`Diff::write`] and [`TensorDiff::finish`].
    pub fn write(mut self, path: impl AsRef<Path>) -> Result<DiffReport, DiffError> {
        let base = self.base.take();
        let sources: Vec<&Checkpoint> = base.iter().collect();
        let encode = |out: &mut dyn Write| self.encode(base.as_ref(), out);
        write_file(path.as_ref(), places_of(base.as_ref()), &sources, encode)
    }

    /// Writes the bytes of the patch to `out`.
    ///
    /// # Errors
    /// As [`Diff::write_to`] and [`TensorDiff::finish`].
    pub fn write_to(mut self, mut out: impl Write) -> Result<DiffReport, DiffError> {
        let base = self.base.take();
        self.encode(base.as_ref(), &mut out)
    }

    fn encode(self, base: Option<&Checkpoint>, out: &mut dyn Write) -> Result<DiffReport, DiffError> {
        let base = base.map(Snapshot::of).transpose()?;
        let mut diff = TensorDiff::new(base.as_ref(), &self.options, self.progress)?;
        for (name, tensor) in self.tensors {
            diff.add(name.as_ref(), &tensor)?;
        }
        diff.finish(self.others, out)
    }
}

fn places_of(base: Option<&Checkpoint>) -> Places {
    base.map_or_else(Places::default, |base| Places::default().read_checkpoint(Role::Base, base))
}
