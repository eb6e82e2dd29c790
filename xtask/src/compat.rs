//! Keeps what a release writes, and the constants of the format.

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
        Compat::Record { version } => compat::record(&root, &version),
        Compat::Constants => compat::write_constants(&root),
    }
}
