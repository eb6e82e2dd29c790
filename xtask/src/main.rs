//! The chores of the workspace: `cargo xtask` lists them.

mod ci;
mod shell;
mod tidy;

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The chores of the tensorpatch workspace.", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Check what continuous integration checks: all steps, or those named
    Ci {
        /// The steps, in the order given [default: all of them, in the order of this list]
        #[arg(value_enum)]
        steps: Vec<ci::Step>,
    },
    /// Check the house rules: layers, unsafe code, module docs, file lengths, licences, links
    Tidy,
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        None => Ok(Arguments::command().print_help()?),
        Some(Command::Ci { steps }) => ci::run(&steps),
        Some(Command::Tidy) => tidy::run(),
    }
}
