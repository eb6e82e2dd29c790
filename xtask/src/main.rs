//! The chores of the workspace: `cargo xtask` lists them.

mod book;
mod ci;
mod compat;
mod fuzz;
mod public_api;
mod shell;
mod tidy;
mod vectors;

use std::process::ExitCode;

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
    /// Check the house rules: layers, reasons of dependencies, unsafe code, module docs, lengths, links
    Tidy,
    /// Write the conformance vectors to tests/conformance/v1, and hold both decoders against them
    Vectors {
        /// Write nothing, but fail if the vectors in the repository are not those that would be written
        #[arg(long)]
        check: bool,
        /// Check, and write an archive of the vectors that can be used without the repository
        #[arg(long, value_name = "FILE")]
        pack: Option<std::path::PathBuf>,
    },
    /// Keep what a release writes, for later versions to read
    Compat {
        #[command(subcommand)]
        what: compat::Compat,
    },
    /// Write the listings of the public API to docs/api; its change is then in the diff
    PublicApi {
        /// Write nothing, but fail if the listings are not those that would be written
        #[arg(long)]
        check: bool,
    },
    /// Run every fuzz target for a while; needs cargo-fuzz
    Fuzz {
        /// How long each runs
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// Start from this seed, so that a run can be repeated [default: another one each time]
        #[arg(long)]
        seed: Option<u32>,
        /// What watches the memory: `address` finds what unsafe code does wrong, and runs at half the speed
        #[arg(long, default_value = "none")]
        sanitizer: String,
        /// Run only this one
        target: Option<String>,
    },
    /// Build the book below target/book; it needs mdbook
    Book,
    /// Measure tensorpatch beside the encodings of others; `cargo xtask bench --help` tells what can be
    /// chosen
    #[command(disable_help_flag = true)]
    Bench {
        /// Arguments of the benchmark
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

#[expect(clippy::print_stderr, reason = "an error is told there")]
fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    match arguments.command {
        None => Ok(Arguments::command().print_help()?),
        Some(Command::Ci { steps }) => ci::run(&steps),
        Some(Command::Tidy) => tidy::run(),
        Some(Command::Compat { what }) => compat::run(what),
        Some(Command::PublicApi { check }) => public_api::run(check),
        Some(Command::Fuzz { seconds, seed, sanitizer, target }) => {
            fuzz::run(seconds, seed, &sanitizer, target.as_deref())
        }
        Some(Command::Book) => book::run(),
        Some(Command::Vectors { check, pack }) => vectors::run(check, pack),
        Some(Command::Bench { arguments }) => {
            let runs_commands =
                |argument: &String| argument.starts_with("--commands") || argument.starts_with("--system");
            if arguments.iter().any(runs_commands) {
                shell::run(&mut shell::cargo(&["build", "--release", "--package", "tensorpatch-cli"])?)?;
            }
            let mut command =
                shell::cargo(&["run", "--release", "--quiet", "--package", "tensorpatch-bench", "--"])?;
            shell::run(command.args(arguments))
        }
    }
}
