//! Where a patch is written: a file that gets its name when it is whole, or a pipe.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use tensorpatch_checkpoint::{AtomicFile, CheckpointError};

/// A patch on its way to a path.
pub(crate) enum PatchFile {
    /// A pipe or device, which is written directly.
    Special(PathBuf, BufWriter<File>),
    /// A file that gets its name when it is whole.
    Atomic(AtomicFile),
}

impl PatchFile {
    /// Begins a patch at `path`. `inputs` are files that must not be replaced by it.
    pub(crate) fn create<'a>(
        path: &Path,
        mut inputs: impl Iterator<Item = &'a Path>,
    ) -> Result<Self, CheckpointError> {
        if let Ok(found) = fs::metadata(path) {
            let kind = found.file_type();
            if kind.is_fifo() || kind.is_char_device() || kind.is_socket() {
                let file = OpenOptions::new().write(true).open(path).map_err(failed(path))?;
                return Ok(Self::Special(path.to_owned(), BufWriter::new(file)));
            }
            let same = |input: &Path| {
                fs::metadata(input)
                    .is_ok_and(|input| (input.dev(), input.ino()) == (found.dev(), found.ino()))
            };
            if inputs.any(same) {
                return Err(CheckpointError::Destination {
                    path: path.to_owned(),
                    found: "it is part of a checkpoint that is being read",
                    advice: "write the patch elsewhere",
                });
            }
        }
        AtomicFile::create(path).map(Self::Atomic)
    }

    /// Gives a finished file its name.
    pub(crate) fn commit(self) -> Result<(), CheckpointError> {
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

impl Write for PatchFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer().flush()
    }
}

/// The error of a patch that could not be written to `path`.
pub(crate) fn failed(path: &Path) -> impl FnOnce(io::Error) -> CheckpointError {
    let path = path.to_owned();
    move |source| CheckpointError::Io { action: "write the patch", path, source }
}
