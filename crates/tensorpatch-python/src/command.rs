//! The command line, for the script of the package.

use std::ffi::OsString;

use pyo3::prelude::*;

/// Runs the command line with these arguments, the first of which is the name of the program, and returns the
/// code to exit with.
#[pyfunction]
pub(crate) fn run_command(py: Python<'_>, arguments: Vec<OsString>) -> u8 {
    py.detach(|| tensorpatch_cli::run(arguments))
}
