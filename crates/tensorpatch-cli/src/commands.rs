//! The commands, one module each.

mod apply;
mod diff;
mod digest;
mod inspect;

use anyhow::Result;
use clap::Subcommand;
use tensorpatch::format::Schema;

use crate::session::Session;

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a patch from two checkpoints
    Diff(diff::Arguments),
    /// Make the target checkpoint from its base and a patch, bit for bit
    Apply(apply::Arguments),
    /// Show what is in a patch
    Inspect(inspect::Arguments),
    /// Compute the state digest of a checkpoint
    Digest(digest::Arguments),
}

/// Runs a command.
pub(crate) fn run(command: Command, session: &Session) -> Result<()> {
    match command {
        Command::Diff(arguments) => diff::run(&arguments, session),
        Command::Apply(arguments) => apply::run(&arguments, session),
        Command::Inspect(arguments) => inspect::run(&arguments, session),
        Command::Digest(arguments) => digest::run(&arguments, session),
    }
}

/// The number of elements of all tensors; of bytes where the dtype has no width of its own.
fn elements(schema: &Schema) -> u64 {
    schema.tensors().iter().map(|tensor| tensor.byte_len / tensor.dtype.element_format().width() as u64).sum()
}
