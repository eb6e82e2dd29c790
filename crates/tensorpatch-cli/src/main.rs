//! The `tensorpatch` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(tensorpatch_cli::run(std::env::args_os()))
}
