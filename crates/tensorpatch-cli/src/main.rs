//! The tensorpatch command line.

mod arguments;
mod commands;
mod exit;
mod output;
mod patch_file;
mod progress;
mod session;
mod streams;

use clap::Parser;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::arguments::Arguments;
use crate::session::Session;

fn main() -> std::process::ExitCode {
    let arguments = Arguments::parse();
    let session = Session::new(&arguments.global);
    trace(arguments.global.quiet);
    match commands::run(arguments.command, &session) {
        Ok(()) => exit::Code::Success.into(),
        Err(error) => exit::report(&error, &session),
    }
}

/// Warnings of the lower layers go to standard error; `TENSORPATCH_LOG=debug` shows more.
fn trace(quiet: bool) {
    let filter = EnvFilter::builder()
        .with_default_directive(if quiet { LevelFilter::ERROR } else { LevelFilter::WARN }.into())
        .with_env_var("TENSORPATCH_LOG")
        .from_env_lossy();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).init();
}
