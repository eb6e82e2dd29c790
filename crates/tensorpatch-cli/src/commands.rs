//! The commands, one module each.

mod anchor;
mod apply;
mod completions;
mod convert;
mod demo;
mod diff;
mod digest;
mod doctor;
mod fold;
mod follow;
mod fsck;
mod gc;
mod inspect;
mod key;
mod keygen;
mod log;
mod mirror;
mod publish;
mod pull;
mod report;
mod rollback;
mod rotate;
mod status;
mod verify;

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
    /// Publish a checkpoint as the next version of a stream
    Publish(publish::Arguments),
    /// Bring a local checkpoint to a version of a stream
    Pull(pull::Arguments),
    /// Compare every byte of a local checkpoint with the version that it holds
    Verify(verify::Arguments),
    /// Keep a local checkpoint at the newest version
    Follow(follow::Arguments),
    /// Say how far a local checkpoint is behind
    Status(status::Arguments),
    /// List the versions of a stream
    Log(log::Arguments),
    /// Find out what does not work between this machine and a store
    Doctor(doctor::Arguments),
    /// Write a page with figures of a stream
    Report(report::Arguments),
    /// Check every object of a stream
    Fsck(fsck::Arguments),
    /// Add one patch across many versions, for replicas that are far behind
    Fold(fold::Arguments),
    /// Add the whole checkpoint of the newest version
    Anchor(anchor::Arguments),
    /// Take back versions that nobody trusted has signed
    Rollback(rollback::Arguments),
    /// Remove what no replica can need
    Gc(gc::Arguments),
    /// Copy a stream to another place
    Mirror(mirror::Arguments),
    /// Convert between patches, checkpoints and the delta formats of other projects
    Convert(convert::Arguments),
    /// Make a key to sign with
    Keygen(keygen::Arguments),
    /// Tell about a key
    Key(key::Arguments),
    /// Let another key sign the versions of a stream from now on
    Rotate(rotate::Arguments),
    /// Show all of it on this machine, with no set-up
    Demo(demo::Arguments),
    /// Print the completions of a shell
    Completions(completions::Arguments),
    /// Write the man pages
    Man(completions::ManArguments),
}

/// Runs a command.
pub(crate) fn run(command: Command, session: &Session) -> Result<()> {
    match command {
        Command::Diff(arguments) => diff::run(&arguments, session),
        Command::Apply(arguments) => apply::run(&arguments, session),
        Command::Inspect(arguments) => inspect::run(&arguments, session),
        Command::Digest(arguments) => digest::run(&arguments, session),
        Command::Publish(arguments) => publish::run(&arguments, session),
        Command::Pull(arguments) => pull::run(&arguments, session),
        Command::Verify(arguments) => verify::run(&arguments, session),
        Command::Follow(arguments) => follow::run(&arguments, session),
        Command::Status(arguments) => status::run(&arguments, session),
        Command::Doctor(arguments) => doctor::run(&arguments, session),
        Command::Key(arguments) => key::run(&arguments, session),
        Command::Log(arguments) => log::run(&arguments, session),
        Command::Report(arguments) => report::run(&arguments, session),
        Command::Fsck(arguments) => fsck::run(&arguments, session),
        Command::Fold(arguments) => fold::run(&arguments, session),
        Command::Anchor(arguments) => anchor::run(&arguments, session),
        Command::Rollback(arguments) => rollback::run(&arguments, session),
        Command::Gc(arguments) => gc::run(&arguments, session),
        Command::Mirror(arguments) => mirror::run(&arguments, session),
        Command::Convert(arguments) => convert::run(&arguments, session),
        Command::Keygen(arguments) => keygen::run(&arguments, session),
        Command::Rotate(arguments) => rotate::run(&arguments, session),
        Command::Demo(arguments) => demo::run(&arguments, session),
        Command::Completions(arguments) => completions::run(&arguments),
        Command::Man(arguments) => completions::write_man_pages(&arguments),
    }
}

/// The number of elements of all tensors; of bytes where the dtype has no width of its own.
fn elements(schema: &Schema) -> u64 {
    schema.tensors().iter().map(|tensor| tensor.byte_len / tensor.dtype.element_format().width() as u64).sum()
}
