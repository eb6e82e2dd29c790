//! The tensorpatch command line, as a function: the binary and the script of the Python package both call it.

mod arguments;
mod commands;
mod exit;
mod interrupt;
mod log;
mod output;
mod patch_file;
mod progress;
mod session;
mod streams;
mod terminal;
mod transfer;

use std::ffi::OsString;

use clap::Parser;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::arguments::Global;
use crate::commands::Command;
use crate::session::Session;

/// What a user types.
#[derive(Debug, Parser)]
#[command(
    name = "tensorpatch",
    version,
    about = "Delta weight sync for safetensors checkpoints.",
    long_about = "Delta weight sync for safetensors checkpoints.\n\n\
        A CHECKPOINT is a .safetensors file, or a directory in the manner of Hugging Face: model.safetensors.index.json \
        and its shards, or a single model.safetensors. A URL names a stream of versions in an object store: a path \
        or file:///PATH, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX, or \
        hf://buckets/NAMESPACE/BUCKET/PREFIX, with the credentials that each provider's own tools use.",
    after_long_help = exit::TABLE,
    max_term_width = 110,
)]
struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Runs the command line `arguments`, the first of which is the name of the program, and returns the code to
/// exit with. It writes to standard output and standard error.
///
/// For a process of its own: signals are waited for, and end it, and logs go to its standard error.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let typed: Vec<OsString> = arguments.into_iter().collect();
    let arguments = match Arguments::try_parse_from(&typed) {
        Ok(arguments) => arguments,
        Err(error) => return exit::report_usage(&error, &typed).number(),
    };
    trace(arguments.global.quiet);
    let run = Session::new(&arguments.global).and_then(|session| commands::run(arguments.command, &session));
    match run {
        Ok(()) => exit::Code::Success.number(),
        Err(error) => exit::report(&error, arguments.global.json).number(),
    }
}

/// Warnings of the lower layers go to standard error, each once; `TENSORPATCH_LOG=info` tells what is done,
/// and `debug` every request.
fn trace(quiet: bool) {
    let filter = EnvFilter::builder()
        .with_default_directive(if quiet { LevelFilter::ERROR } else { LevelFilter::WARN }.into())
        .with_env_var("TENSORPATCH_LOG")
        .from_env_lossy();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(log::Once::default())
        .with_target(false)
        .init();
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Arguments;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }
}
