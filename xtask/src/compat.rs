//! Keeps what a release writes, and the constants of the format.

use std::path::Path;

use anyhow::Result;
use clap::Subcommand;
use tensorpatch_conformance::compat;

use crate::shell;

#[derive(Subcommand)]
pub(crate) enum Compat {
    /// Keep what this version writes in tests/compat/VERSION, once and for ever
    Record {
        /// The version of the release
        version: String,
    },
    /// Write the constants of the format down in tests/compat, while it is a draft
    Constants,
}

pub(crate) fn run(what: Compat) -> Result<()> {
    let root = shell::root()?;
    match what {
        Compat::Record { version } => compat::record(&root, &version, keep_stream),
        Compat::Constants => compat::write_constants(&root),
    }
}

/// Puts a stream into the directory of a release, written by the command: the test that reads such streams
/// makes one, and leaves it there.
fn keep_stream(directory: &Path) -> Result<()> {
    let test = "kept::a_stream_that_is_kept_now_has_all_that_a_stream_can_have_and_is_read";
    let mut command = shell::cargo(&["test", "--workspace", "--test", "system", "--", "--exact", test])?;
    shell::run(command.env("TENSORPATCH_KEEP_STREAM", directory.join("stream")))
}
