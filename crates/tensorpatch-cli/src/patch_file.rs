//! Patch files on disk: reading them whole, and writing them so that a name never shows half of one.

use std::fs::{self, File};
use std::io::{self, BufWriter, IsTerminal, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::NamedTempFile;
use tensorpatch::checkpoint::MappedFile;

use crate::exit::Refusal;
use crate::output::closed;

/// The name that stands for standard input or output.
pub(crate) const DASH: &str = "-";

/// The bytes of a patch: mapped where they are a file, so that large ones take no memory.
#[derive(Debug)]
pub(crate) enum PatchBytes {
    Mapped(MappedFile),
    Read(Vec<u8>),
}

impl PatchBytes {
    /// Opens a patch file, or reads standard input for `-`, or a pipe.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        if path == Path::new(DASH) {
            return Self::read(&mut io::stdin().lock()).context("cannot read the patch from standard input");
        }
        if fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo()) {
            let failed = || format!("{}: cannot read the patch", path.display());
            return Self::read(&mut File::open(path).with_context(failed)?).with_context(failed);
        }
        Ok(Self::Mapped(MappedFile::open(path)?))
    }

    fn read(from: &mut dyn Read) -> Result<Self> {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes)?;
        Ok(Self::Read(bytes))
    }

    /// The bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Mapped(file) => file.bytes(),
            Self::Read(bytes) => bytes,
        }
    }
}

/// Where a patch is written to.
pub(crate) enum PatchOutput {
    /// Standard output.
    Standard(BufWriter<io::Stdout>),
    /// A pipe or device, written directly.
    Special(BufWriter<File>),
    /// A file that gets its name when it is whole.
    Beside {
        /// The file so far.
        file: BufWriter<NamedTempFile>,
        /// Its name in the end.
        path: PathBuf,
    },
}

impl PatchOutput {
    /// Opens `path`, or standard output for `-`. `inputs` are files that must not be replaced.
    pub(crate) fn create(path: &Path, inputs: &[PathBuf]) -> Result<Self> {
        if path == Path::new(DASH) {
            if io::stdout().is_terminal() {
                let what = "a patch is binary and standard output is a terminal";
                return Err(Refusal::usage(what, "redirect it, or name a file with -o").into());
            }
            return Ok(Self::Standard(BufWriter::new(io::stdout())));
        }
        if let Ok(found) = fs::metadata(path) {
            if found.is_dir() {
                let what = format!("{}: is a directory", path.display());
                return Err(Refusal::usage(what, "give the name of a file, such as step.tpatch").into());
            }
            let kind = found.file_type();
            if kind.is_fifo() || kind.is_char_device() || kind.is_socket() {
                let file = fs::OpenOptions::new().write(true).open(path);
                return Ok(Self::Special(BufWriter::new(file.with_context(|| failed(path))?)));
            }
            let same = |input: &PathBuf| {
                fs::metadata(input)
                    .is_ok_and(|input| input.dev() == found.dev() && input.ino() == found.ino())
            };
            if inputs.iter().any(same) {
                let what = format!("{}: is part of a checkpoint that is being read", path.display());
                return Err(Refusal::usage(what, "write the patch elsewhere").into());
            }
        }
        require_parent(path)?;
        let file = tempfile::Builder::new()
            .prefix(".tensorpatch-")
            .suffix(".partial")
            // The umask takes away what it takes from any new file.
            .permissions(fs::Permissions::from_mode(0o666))
            .tempfile_in(parent(path))
            .with_context(|| failed(path))?;
        Ok(Self::Beside { file: BufWriter::with_capacity(1 << 20, file), path: path.to_owned() })
    }

    /// Where the bytes go.
    pub(crate) fn writer(&mut self) -> &mut dyn Write {
        match self {
            Self::Standard(out) => out,
            Self::Special(out) => out,
            Self::Beside { file, .. } => file,
        }
    }

    /// Gives a finished file its name.
    pub(crate) fn finish(self) -> Result<()> {
        match self {
            Self::Standard(mut out) => out.flush().map_err(closed),
            Self::Special(mut out) => out.flush().context("cannot write the patch"),
            Self::Beside { file, path } => {
                let file =
                    file.into_inner().map_err(|error| error.into_error()).with_context(|| failed(&path))?;
                file.as_file().sync_all().with_context(|| failed(&path))?;
                // Before the patch has its name: no error may be reported of one that is in place.
                let parent = File::open(parent(&path)).with_context(|| failed(&path))?;
                file.persist(&path).map_err(|error| error.error).with_context(|| failed(&path))?;
                parent.sync_all().with_context(|| failed(&path))
            }
        }
    }
}

fn failed(path: &Path) -> String {
    format!("{}: cannot write the patch", path.display())
}

/// Fails unless the directory is there that a new file or directory is to be in.
pub(crate) fn require_parent(path: &Path) -> Result<()> {
    if parent(path).is_dir() {
        return Ok(());
    }
    let error = io::Error::from(io::ErrorKind::NotFound);
    let what = format!("{}: there is no directory {}", path.display(), parent(path).display());
    Err(anyhow::Error::new(error).context(what))
}

/// The directory that a path is in.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}
