//! Writes, checks and packs the conformance vectors.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use tensorpatch_conformance::{check, example, vectors, write};

use crate::shell;

/// Writes the vectors, or checks them, or packs them into an archive; whatever it does, both decoders must
/// pass them.
#[expect(clippy::print_stdout, reason = "what was done is what this prints")]
pub(crate) fn run(only_check: bool, pack: Option<PathBuf>) -> Result<()> {
    let (states, vectors) = vectors();
    let faults = check::faults(&states, &vectors);
    if !faults.is_empty() {
        bail!("the decoders do not pass the vectors:\n{}", faults.join("\n"));
    }
    let root = shell::root()?;
    if only_check || pack.is_some() {
        write::check(&root)?;
        example::check(&root, &states)?;
    } else {
        write::write(&root)?;
        example::write(&root, &states)?;
    }
    println!("{} vectors in {}, passed by both decoders", vectors.len(), write::DIRECTORY);
    if let Some(path) = pack {
        let archive = write::pack(&root)?;
        std::fs::write(&path, &archive).with_context(|| path.display().to_string())?;
        println!("{} bytes in {}", archive.len(), path.display());
    }
    Ok(())
}
