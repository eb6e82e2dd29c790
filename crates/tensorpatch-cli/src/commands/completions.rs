//! `tensorpatch completions`: what shells know of the command line.

use std::io::{self, Write};

use anyhow::Result;
use clap::Args;
use clap_complete::Shell;

use crate::output::closed;

/// Print the completions of a shell
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut crate::command_line(), "tensorpatch", &mut script);
    let mut out = io::stdout().lock();
    out.write_all(&script).and_then(|()| out.flush()).map_err(closed)
}
