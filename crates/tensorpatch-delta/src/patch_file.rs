//! Where a patch is written: a file that gets its name when it is whole, or a pipe.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use tensorpatch_checkpoint::{AtomicFile, Checkpoint, CheckpointError, Places, Role};
use tensorpatch_format::MAGIC;

use crate::{DiffError, DiffReport};

/// Writes a patch with `encode` to a file at `path`, which appears, or replaces the one there, when it is
/// whole and on disk. It must be apart from what is read, `inputs`. A new file can be read by nobody who
/// could not read `sources`.
pub(crate) fn write_file(
    path: &Path,
    inputs: Places,
    sources: &[&Checkpoint],
    encode: impl FnOnce(&mut dyn Write) -> Result<DiffReport, DiffError>,
) -> Result<DiffReport, DiffError> {
    inputs.altered(Role::Output, path).check()?;
    let mut file = PatchFile::create(path)?;
    if let PatchFile::Atomic(file) = &file {
        sources.iter().try_for_each(|source| file.no_more_open_than(source))?;
    }
    let report = encode(file.writer()).map_err(|error| match error {
        DiffError::Write(source) => failed(path)(source).into(),
        error => error,
    })?;
    file.commit()?;
    Ok(report)
}

/// A patch on its way to a path.
enum PatchFile {
    /// A pipe or device, which is written directly.
    Special(PathBuf, BufWriter<File>),
    /// A file that gets its name when it is whole.
    Atomic(AtomicFile),
}

impl PatchFile {
    /// Begins a patch at `path`.
    fn create(path: &Path) -> Result<Self, CheckpointError> {
        if let Ok(found) = fs::metadata(path) {
            let kind = found.file_type();
            if kind.is_fifo() || kind.is_char_device() || kind.is_socket() {
                let file = OpenOptions::new().write(true).open(path).map_err(failed(path))?;
                return Ok(Self::Special(path.to_owned(), BufWriter::new(file)));
            }
        }
        AtomicFile::create_over(path, &MAGIC).map(Self::Atomic)
    }

    /// Gives a finished file its name.
    fn commit(self) -> Result<(), CheckpointError> {
        match self {
            Self::Special(path, mut out) => out.flush().map_err(failed(&path)),
            Self::Atomic(file) => file.commit(),
        }
    }

    fn writer(&mut self) -> &mut dyn Write {
        match self {
            Self::Special(_, out) => out,
            Self::Atomic(file) => file,
        }
    }
}

/// The error of a patch that could not be written to `path`.
fn failed(path: &Path) -> impl FnOnce(io::Error) -> CheckpointError {
    let path = path.to_owned();
    move |source| CheckpointError::Io { action: "write the patch", path, source }
}
