//! Patches from standard input and to standard output.

use std::io::{self, BufWriter, IsTerminal, Read, Write};
use std::path::Path;

use anyhow::{Context, Result};
use tensorpatch::delta::{Diff, DiffError, DiffReport, Patch};
use tensorpatch::format::Limits;

use crate::exit::Refusal;
use crate::output::closed;

/// The name that stands for standard input or output.
pub(crate) const DASH: &str = "-";

/// Whether a path stands for standard output.
pub(crate) fn is_stdout(path: &Path) -> bool {
    [DASH, "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"].iter().any(|name| path == Path::new(name))
}

/// Opens a patch file, or reads standard input for `-`.
pub(crate) fn open(path: &Path) -> Result<Patch<'static>> {
    if path.is_dir() {
        let what = format!("{}: it is a directory, and a patch is a file", path.display());
        let advice =
            "the base comes first: tensorpatch apply BASE PATCH; tensorpatch inspect PATCH --base BASE";
        return Err(Refusal::usage(what, advice).into());
    }
    if path != Path::new(DASH) {
        return Ok(Patch::open(path)?);
    }
    let mut bytes = Vec::new();
    io::stdin().lock().read_to_end(&mut bytes).context("cannot read the patch from standard input")?;
    Patch::from_vec(bytes, &Limits::default()).context(DASH)
}

/// Writes a patch to a file, or to standard output for `-`.
pub(crate) fn write(diff: &Diff<'_>, path: &Path) -> Result<DiffReport> {
    if !is_stdout(path) {
        return Ok(diff.write(path)?);
    }
    if io::stdout().is_terminal() {
        let what = "a patch is binary and standard output is a terminal";
        return Err(Refusal::usage(what, "redirect it, or name a file with -o").into());
    }
    let mut out = BufWriter::new(io::stdout());
    let report = diff.write_to(&mut out).map_err(|error| match error {
        DiffError::Write(error) => closed(error),
        error => error.into(),
    })?;
    out.flush().map_err(closed)?;
    Ok(report)
}
