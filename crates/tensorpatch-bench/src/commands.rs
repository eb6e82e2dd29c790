//! Whole commands on files in the page cache: how long, where the time goes, and how much memory.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde::Serialize;

use crate::clock::median;
use crate::inputs::Input;
use crate::kernels;

/// A command that can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Which {
    /// `tensorpatch diff BASE TARGET -o PATCH`
    Diff,
    /// `tensorpatch apply BASE PATCH -o NEW`
    Apply,
    /// `tensorpatch apply COPY PATCH --in-place`, there and back again
    InPlace,
    /// `tensorpatch digest BASE`
    Digest,
}

/// One command, measured.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The pair.
    pub input: String,
    /// The command.
    pub command: &'static str,
    /// Seconds on the clock on the wall, the median of the runs.
    pub wall: f64,
    /// GB of model a second by that.
    pub gb_per_second: f64,
    /// Seconds of processors in the program, the mean of the runs: the kernel of the system counts in
    /// hundredths.
    pub user: f64,
    /// Seconds of processors in the kernel of the system, the mean of the runs.
    pub system: f64,
    /// Seconds of a processor that the codec takes for the same work on prepared buffers.
    pub kernels: Option<f64>,
    /// The most anonymous memory in a run of its own, looked at every millisecond, in bytes.
    pub peak_anonymous: u64,
    /// Bytes of the patch.
    pub patch_bytes: u64,
    /// Elements that differ.
    pub changed: u64,
    /// Bytes of all tensors.
    pub model_bytes: u64,
}

/// What the commands take of the codec on one thread: one report for each profile.
#[derive(Debug, Clone)]
pub struct Kernels {
    /// Of the profile `compact`.
    pub compact: kernels::Report,
    /// Of the profile `direct`, which journals have.
    pub direct: kernels::Report,
}

impl Kernels {
    fn seconds(&self, which: Which) -> f64 {
        let (compact, direct) = (&self.compact.seconds, &self.direct.seconds);
        // All hash the base; in place, the new bytes go into a journal first and from there into the files.
        compact.hash
            + match which {
                Which::Diff => compact.encode,
                Which::Apply => compact.apply,
                Which::InPlace => compact.apply + direct.encode + direct.in_place,
                Which::Digest => 0.0,
            }
    }
}

/// A program that measures itself against files in `directory`.
struct Bench<'a> {
    cli: &'a Path,
    directory: PathBuf,
    runs: usize,
}

/// Measures commands of the program at `cli` on a pair, `runs` times each. What they write is written in a
/// directory beside the pair if it was made up, else below `scratch`.
///
/// # Errors
/// If a command fails, or this system does not tell what a process takes.
pub fn measure(
    cli: &Path,
    which: &[Which],
    input: &Input,
    scratch: &Path,
    runs: usize,
    kernels: Option<&Kernels>,
) -> Result<Vec<Row>> {
    let directory = input.directory(scratch)?;
    let bench = Bench { cli, directory: directory.path().to_owned(), runs };
    for file in [&input.base, &input.target] {
        // What still has to go to disk would go there meanwhile.
        if file.is_file() {
            File::open(file)?.sync_all()?;
        }
    }
    let path = |name: &str| directory.path().join(name).into_os_string();
    let (patch, back) = (path("there.tpatch"), path("back.tpatch"));
    let (base, target) = (input.base.as_os_str(), input.target.as_os_str());
    let made = bench.json(&arguments(&["diff"], &[base, target, OsStr::new("-o"), &patch]))?;
    let number = |key: &str| made[key].as_u64().with_context(|| format!("diff --json says no {key}"));
    let (patch_bytes, changed) = (number("patch_bytes")?, number("changed_elements")?);
    let model_bytes = number("checkpoint_bytes")?;
    let mut rows = Vec::new();
    for &which in which {
        let (command, there, undo) = match which {
            Which::Diff => {
                ("diff", arguments(&["diff"], &[base, target, OsStr::new("-o"), &path("new.tpatch")]), None)
            }
            Which::Apply => {
                let new = path("new.safetensors");
                ("apply", arguments(&["apply"], &[base, &patch, OsStr::new("-o"), &new]), None)
            }
            Which::InPlace => {
                let copy = path("copy.safetensors");
                ensure!(input.base.is_file(), "in place is measured on single files only");
                copy_sparsely(&input.base, Path::new(&copy))?;
                bench.json(&arguments(&["diff"], &[target, base, OsStr::new("-o"), &back]))?;
                let apply = |patch| arguments(&["apply", "--in-place"], &[&copy, patch]);
                ("apply --in-place", apply(&patch), Some(apply(&back)))
            }
            Which::Digest => ("digest", arguments(&["digest"], &[base]), None),
        };
        let written = ["new.tpatch", "new.safetensors"].map(|name| directory.path().join(name));
        let taken = bench.taken(&there, undo.as_deref(), &written)?;
        rows.push(Row {
            input: input.label.clone(),
            command,
            wall: taken.wall,
            gb_per_second: model_bytes as f64 / taken.wall / 1e9,
            user: taken.user,
            system: taken.system,
            kernels: kernels.map(|kernels| kernels.seconds(which)),
            peak_anonymous: taken.peak_anonymous,
            patch_bytes,
            changed,
            model_bytes,
        });
    }
    Ok(rows)
}

struct Taken {
    wall: f64,
    user: f64,
    system: f64,
    peak_anonymous: u64,
}

impl Bench<'_> {
    /// Runs a command once to see its memory and to warm up, and then as often as asked. What is at `written`
    /// is removed before each run, and `undo` run after each.
    fn taken(&self, command: &[OsString], undo: Option<&[OsString]>, written: &[PathBuf]) -> Result<Taken> {
        let (mut wall, mut user, mut system) = (Vec::new(), 0.0, 0.0);
        let mut peak_anonymous = 0;
        for run in 0..=self.runs {
            for path in written.iter().filter(|path| path.exists()) {
                std::fs::remove_file(path)?;
            }
            let before = children_seconds()?;
            let (seconds, peak) = self.run(command, run == 0)?;
            let after = children_seconds()?;
            if run == 0 {
                peak_anonymous = peak;
            } else {
                wall.push(seconds);
                user += (after[0] - before[0]) / self.runs as f64;
                system += (after[1] - before[1]) / self.runs as f64;
            }
            if let Some(undo) = undo {
                self.run(undo, false)?;
            }
        }
        for path in written.iter().filter(|path| path.exists()) {
            std::fs::remove_file(path)?;
        }
        Ok(Taken { wall: median(wall), user, system, peak_anonymous })
    }

    fn command(&self, command: &[OsString]) -> Command {
        let mut child = Command::new(self.cli);
        child.args(command).arg("--json").stdin(Stdio::null()).current_dir(&self.directory);
        child
    }

    /// Seconds on the wall, and the most anonymous memory if it is looked at.
    fn run(&self, command: &[OsString], look: bool) -> Result<(f64, u64)> {
        let start = Instant::now();
        let mut child = self
            .command(command)
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot run {}", self.cli.display()))?;
        let mut peak = 0;
        while look && child.try_wait()?.is_none() {
            peak = peak.max(anonymous(child.id()));
            std::thread::sleep(Duration::from_millis(1));
        }
        let status = child.wait()?;
        let seconds = start.elapsed().as_secs_f64();
        ensure!(status.success(), "{} {command:?} failed: {status}", self.cli.display());
        Ok((seconds, peak))
    }

    fn json(&self, command: &[OsString]) -> Result<serde_json::Value> {
        let output =
            self.command(command).output().with_context(|| format!("cannot run {}", self.cli.display()))?;
        ensure!(
            output.status.success(),
            "{} {command:?} failed: {}",
            self.cli.display(),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

pub(crate) fn arguments(words: &[&str], paths: &[&OsStr]) -> Vec<OsString> {
    words.iter().map(OsStr::new).chain(paths.iter().copied()).map(OsStr::to_owned).collect()
}

/// `RssAnon` of a process in bytes; 0 once it has none.
pub(crate) fn anonymous(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let kib = status.lines().find_map(|line| {
        line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()
    });
    kib.unwrap_or(0) * 1024
}

/// Seconds that processors spent for children that have ended: in them, and for them in the kernel of the
/// system.
pub(crate) fn children_seconds() -> Result<[f64; 2]> {
    let stat =
        std::fs::read_to_string("/proc/self/stat").context("this system does not tell what children take")?;
    // The fields after the name of the program, which may have anything in it: the first is number 3.
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    let ticks = |number: usize| fields.split(' ').nth(number - 3)?.parse::<f64>().ok();
    let (user, system) = ticks(16).zip(ticks(17)).context("/proc/self/stat is not as it should be")?;
    let second = rustix::param::clock_ticks_per_second() as f64;
    Ok([user / second, system / second])
}

/// Copies a file, and leaves a hole wherever a MiB of it is zero.
fn copy_sparsely(from: &Path, to: &Path) -> Result<()> {
    use std::io::Read;
    use std::os::unix::fs::FileExt;
    let (mut source, copy) = (File::open(from)?, File::create(to)?);
    let len = source.metadata()?.len();
    copy.set_len(len)?;
    let (mut at, mut buffer) = (0, Vec::new());
    while at < len {
        buffer.clear();
        source.by_ref().take(1 << 20).read_to_end(&mut buffer)?;
        ensure!(!buffer.is_empty(), "{} became shorter", from.display());
        if buffer.iter().any(|&byte| byte != 0) {
            copy.write_all_at(&buffer, at)?;
        }
        at += buffer.len() as u64;
    }
    Ok(copy.sync_all()?)
}
