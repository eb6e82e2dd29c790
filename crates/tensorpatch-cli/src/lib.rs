//! The tensorpatch command line, as a function: the binary and the script of the Python package both call it.

mod arguments;
mod commands;
mod config;
mod dates;
mod examples;
mod exit;
mod interrupt;
mod log;
mod output;
mod page;
mod patch_file;
mod progress;
mod prometheus;
mod screen;
mod serve;
mod session;
mod streams;
mod table;
mod terminal;
mod transfer;

use std::ffi::OsString;

use anyhow::Result;
use clap::{CommandFactory, FromArgMatches, Parser};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::arguments::Global;
use crate::commands::Command;
use crate::exit::Refusal;
use crate::session::Session;

/// Says what is logged.
pub(crate) const LOG_VARIABLE: &str = "TENSORPATCH_LOG";

/// Lines of help are read with ease up to here.
const MAX_HELP_COLUMNS: usize = 110;

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
    max_term_width = MAX_HELP_COLUMNS,
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
    let parsed = command_line().try_get_matches_from(&typed);
    let arguments = match parsed.and_then(|matches| Arguments::from_arg_matches(&matches)) {
        Ok(arguments) => arguments,
        Err(error) => return exit::report_usage(&error, &typed).number(),
    };
    let run = trace(&arguments.global)
        .map(|()| config::warn_of_unknown_variables())
        .and_then(|()| Session::new(&arguments.global))
        .and_then(|session| commands::run(arguments.command, &session));
    match run {
        Ok(()) => exit::Code::Success.number(),
        Err(error) => exit::report(&error, arguments.global.json).number(),
    }
}

/// All that can be typed, with an example in the help of each command.
fn command_line() -> clap::Command {
    let columns = screen::width();
    let line = examples::add(Arguments::command(), columns);
    // Terminals that state columns and no rows, as under `script`, are none to clap.
    match columns {
        usize::MAX => line,
        columns => line.term_width(columns.min(MAX_HELP_COLUMNS)),
    }
}

/// Warnings of the lower layers go to standard error, each once; with `-v` or `TENSORPATCH_LOG=info` they
/// tell what is done, with `-vv` or `debug` every request. The variable goes before the flag, since it can
/// say more.
fn trace(global: &Global) -> Result<()> {
    let level = match (global.quiet, global.verbose) {
        (true, _) => LevelFilter::ERROR,
        (_, 0) => LevelFilter::WARN,
        (_, 1) => LevelFilter::INFO,
        _ => LevelFilter::DEBUG,
    };
    let wanted = std::env::var_os(LOG_VARIABLE).unwrap_or_default();
    let wanted = wanted.to_string_lossy();
    let filter =
        EnvFilter::builder().with_default_directive(level.into()).parse(&wanted).map_err(|error| {
            Refusal::usage(
                format!("{LOG_VARIABLE} = {wanted:?}: {error}"),
                "docs/settings.md says what it may be",
            )
        })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(log::Once::default())
        .with_target(false)
        .init();
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_well_formed() {
        super::command_line().debug_assert();
    }
}
