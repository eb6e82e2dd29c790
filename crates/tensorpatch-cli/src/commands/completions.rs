//! `tensorpatch completions` and `tensorpatch man`: what shells and man(1) know of the command line.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use clap_complete::Shell;
use tensorpatch::checkpoint::AtomicFile;

use crate::output::closed;

/// Print the completions of a shell
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Write the man pages
///
/// A page for each command, into a directory.
#[derive(Debug, Args)]
pub(crate) struct ManArguments {
    /// The directory; created if need be
    dir: PathBuf,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut crate::command_line(), "tensorpatch", &mut script);
    let mut out = io::stdout().lock();
    out.write_all(&script).and_then(|()| out.flush()).map_err(closed)
}

pub(crate) fn write_man_pages(arguments: &ManArguments) -> Result<()> {
    let dir = &arguments.dir;
    let failed = || format!("{}: cannot write the man pages", dir.display());
    // Written elsewhere first: what has the name of a page may be a link that somebody has put there.
    fs::create_dir_all(dir).with_context(failed)?;
    let pages = tempfile::tempdir().with_context(failed)?;
    clap_mangen::generate_to(crate::command_line(), pages.path()).with_context(failed)?;
    for page in fs::read_dir(pages.path()).with_context(failed)? {
        let page = page.with_context(failed)?;
        let mut file = AtomicFile::create(&dir.join(page.file_name()))?;
        file.write_all(&fs::read(page.path()).with_context(failed)?).with_context(failed)?;
        file.commit()?;
    }
    Ok(())
}
