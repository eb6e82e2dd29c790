//! The tensorpatch command line.

mod arguments;
mod commands;
mod exit;
mod output;
mod patch_file;
mod progress;
mod session;

use clap::Parser;

use crate::arguments::Arguments;
use crate::session::Session;

fn main() -> std::process::ExitCode {
    let arguments = Arguments::parse();
    let session = Session::new(&arguments.global);
    match commands::run(arguments.command, &session) {
        Ok(()) => exit::Code::Success.into(),
        Err(error) => exit::report(&error, &session),
    }
}
