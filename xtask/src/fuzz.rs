//! Runs the fuzz targets, each for a while.

use std::process::Command;

use anyhow::{Context, Result, bail};
use tensorpatch_testkit::fuzz::{TARGETS, Target};

use crate::shell;

/// Inputs are kept small: what is tried often finds more than what is large.
const MOST_BYTES: usize = 16_384;

/// Over this many MiB a target counts as failed: none may take more memory than its inputs can explain.
const MOST_MEMORY: u32 = 2048;

/// Writes the seeds, builds the targets, and runs each of them, or the one named, for so many seconds.
#[expect(clippy::print_stderr, reason = "a heading for each target is what this prints")]
pub(crate) fn run(seconds: u64, seed: Option<u32>, sanitizer: &str, only: Option<&str>) -> Result<()> {
    let targets: Vec<&Target> =
        TARGETS.iter().filter(|target| only.is_none_or(|name| target.name == name)).collect();
    if targets.is_empty() {
        bail!("no fuzz target is called {}", only.unwrap_or_default());
    }
    let fuzz = shell::root()?.join("fuzz");
    for target in &targets {
        let corpus = fuzz.join("corpus").join(target.name);
        std::fs::create_dir_all(&corpus).with_context(|| corpus.display().to_string())?;
        for (name, bytes) in target.inputs()? {
            std::fs::write(corpus.join(name), bytes)?;
        }
    }
    for Target { name, .. } in &targets {
        eprintln!("== {name}");
        let mut command = cargo_fuzz("run", &fuzz);
        command.args(["--sanitizer", sanitizer, name, "--"]);
        let dictionary = fuzz.join("dictionaries").join(name).with_extension("dict");
        if dictionary.is_file() {
            command.arg(format!("-dict={}", dictionary.display()));
        }
        command.args([
            format!("-max_total_time={seconds}"),
            format!("-max_len={MOST_BYTES}"),
            format!("-rss_limit_mb={MOST_MEMORY}"),
            "-timeout=10".to_owned(),
            "-verbosity=0".to_owned(),
            "-print_final_stats=1".to_owned(),
        ]);
        command.args(seed.map(|seed| format!("-seed={seed}")));
        shell::run(&mut command)?;
    }
    Ok(())
}

/// The flags of the sanitizers are for nightly toolchains; the bootstrap variable lets a stable one pass
/// them.
fn cargo_fuzz(verb: &str, fuzz: &std::path::Path) -> Command {
    let mut command = Command::new("cargo");
    command.args(["fuzz", verb]).current_dir(fuzz).env("RUSTC_BOOTSTRAP", "1");
    command
}
