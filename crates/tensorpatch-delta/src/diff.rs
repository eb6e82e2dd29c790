//! From the paths of two checkpoints to a patch file.

use std::io::Write;
use std::path::Path;

use tensorpatch_checkpoint::Checkpoint;

use crate::patch_file::{PatchFile, failed};
use crate::pending::open_settled;
use crate::{DiffError, DiffReport, Options, Progress, Snapshot, encode_diff, encode_full};

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
    /// Opens the checkpoints within the limits of `options`: what [`diff()`] does with default ones, and [`full()`] without a
    /// base.
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
    /// The same with other options. Their limits say nothing any more: the checkpoints are open.
    #[must_use]
    pub fn with_options(self, options: Options) -> Self {
        Self { options, ..self }
    }

    /// The same, telling `progress` how far it is.
    #[must_use]
    pub fn with_progress(self, progress: Progress<'_>) -> Diff<'_> {
        let Self { base, target, options, .. } = self;
        Diff { base, target, options, progress }
    }

    /// The checkpoint that the patch is to make.
    pub fn target(&self) -> &Checkpoint {
        &self.target
    }

    /// Writes the patch to a file at `path`, which appears, or replaces the one there, when it is whole and on disk. A pipe is
    /// written directly.
    ///
    /// # Errors
    /// If `path` is no place for a file or is part of one of the checkpoints, there is no room, or the caller cancels. Then what was at
    /// `path` is as it was.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<DiffReport, DiffError> {
        let path = path.as_ref();
        let inputs = self.base.iter().chain([&self.target]).flat_map(Checkpoint::files);
        let mut file = PatchFile::create(path, inputs)?;
        let report = self.write_to(&mut file).map_err(|error| match error {
            DiffError::Write(source) => failed(path)(source).into(),
            error => error,
        })?;
        file.commit()?;
        Ok(report)
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
