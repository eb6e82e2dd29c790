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
mod man;
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

/// What to do. Each command's arguments say what it is for: in a line for the list of commands, and whole.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Diff(diff::Arguments),
    Apply(apply::Arguments),
    Inspect(inspect::Arguments),
    Digest(digest::Arguments),
    Publish(publish::Arguments),
    Pull(pull::Arguments),
    Verify(verify::Arguments),
    Follow(follow::Arguments),
    Status(status::Arguments),
    Log(log::Arguments),
    Doctor(doctor::Arguments),
    Report(report::Arguments),
    Fsck(fsck::Arguments),
    Fold(fold::Arguments),
    Anchor(anchor::Arguments),
    Rollback(rollback::Arguments),
    Gc(gc::Arguments),
    Mirror(mirror::Arguments),
    Convert(convert::Arguments),
    Keygen(keygen::Arguments),
    Key(key::Arguments),
    Rotate(rotate::Arguments),
    Demo(demo::Arguments),
    Completions(completions::Arguments),
    Man(man::Arguments),
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
        Command::Man(arguments) => man::run(&arguments),
    }
}

/// The number of elements of all tensors; of bytes where the dtype has no width of its own.
fn elements(schema: &Schema) -> u64 {
    schema.tensors().iter().map(|tensor| tensor.byte_len / tensor.dtype.element_format().width() as u64).sum()
}
