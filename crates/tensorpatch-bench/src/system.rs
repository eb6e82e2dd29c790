//! Publishing and pulling as a whole, beside copying the same files: time, requests, bytes and memory.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::clock::median;
use crate::commands::{anonymous, arguments, children_seconds};
use crate::inputs::Input;

/// The newest version of the stream when pulls are measured: enough to be 16 behind of, and more.
const TIP: u64 = 18;

/// A step of the life of a stream, measured.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The pair whose checkpoints were published in turn, and where the stream is.
    pub input: String,
    /// The step.
    pub step: &'static str,
    /// Seconds on the clock on the wall, the median of the runs.
    pub wall: f64,
    /// Seconds until others could see the version that was published, where that can be observed.
    pub visible: Option<f64>,
    /// Seconds of processors, in the program and for it in the kernel of the system: the mean of the runs.
    pub processors: f64,
    /// Requests to the store in one run.
    pub requests: Option<u64>,
    /// Bytes read and written with system calls in one run. What is read through memory maps is not counted.
    pub transferred: [u64; 2],
    /// Bytes that were sent to the disk in one run.
    pub to_disk: u64,
    /// The most anonymous memory, looked at every millisecond in a run of its own.
    pub peak_anonymous: u64,
}

/// What one run of a program took.
#[derive(Debug, Clone, Copy, Default)]
struct Taken {
    wall: f64,
    visible: Option<f64>,
    processors: f64,
    requests: u64,
    transferred: [u64; 2],
    to_disk: u64,
    peak_anonymous: u64,
}

/// Publishes the two checkpoints of a pair in turn to a stream at `url`, or in a directory beside the pair,
/// and measures the steps of its life: `runs` times each, and once more to see memory and requests.
///
/// # Errors
/// If a command fails, or this system does not tell what a process takes.
pub fn measure(
    cli: &Path,
    input: &Input,
    url: Option<&str>,
    scratch: &Path,
    runs: usize,
) -> Result<Vec<Row>> {
    let directory = input.directory(scratch)?;
    let path = |name: &str| directory.path().join(name);
    let (place, stream) = match url {
        None => ("a directory", path("stream").into_os_string()),
        Some(url) => ("a bucket", format!("{}/{}", url.trim_end_matches('/'), std::process::id()).into()),
    };
    let pair = [as_directory(&input.base, &path("a"))?, as_directory(&input.target, &path("b"))?];
    let mut life = Life {
        cli,
        pair: [&pair[0], &pair[1]],
        commits: url.is_none().then(|| path("stream").join("commits")),
        stream,
        copy: path("copy"),
        patch: path("diff.tpatch"),
        baseline: path("baseline"),
        replica: path("replica"),
        published: 0,
        looking: false,
        rows: Vec::new(),
    };
    while life.published < TIP {
        life.publish()?;
    }
    for run in 0..=runs {
        life.looking = run == 0;
        life.all()?;
    }
    let label = format!("{}, in {place}", input.label);
    Ok(life.rows.iter().map(|(step, all)| row(&label, step, all)).collect())
}

/// The checkpoint at `path`, as a directory with weights of the usual name.
fn as_directory(path: &Path, new: &Path) -> Result<PathBuf> {
    if path.is_dir() {
        return Ok(path.to_owned());
    }
    std::fs::create_dir(new)?;
    std::fs::hard_link(path, new.join("model.safetensors"))?;
    Ok(new.to_owned())
}

/// The runs of a step as one row: the first is the one in which memory and requests were looked at.
fn row(input: &str, step: &'static str, all: &[Taken]) -> Row {
    let looked = all.first().copied().unwrap_or_default();
    let timed = all.get(1..).unwrap_or_default();
    let visible: Vec<f64> = timed.iter().filter_map(|taken| taken.visible).collect();
    Row {
        input: input.to_owned(),
        step,
        wall: median(timed.iter().map(|taken| taken.wall)),
        visible: (!visible.is_empty()).then(|| median(visible)),
        processors: timed.iter().map(|taken| taken.processors).sum::<f64>() / timed.len().max(1) as f64,
        requests: (looked.requests > 0).then_some(looked.requests),
        transferred: looked.transferred,
        to_disk: looked.to_disk,
        peak_anonymous: looked.peak_anonymous,
    }
}

struct Life<'a> {
    cli: &'a Path,
    pair: [&'a Path; 2],
    stream: OsString,
    /// Where commits can be seen to appear.
    commits: Option<PathBuf>,
    copy: PathBuf,
    patch: PathBuf,
    baseline: PathBuf,
    replica: PathBuf,
    published: u64,
    /// Whether memory and requests are looked at, instead of time.
    looking: bool,
    rows: Vec<(&'static str, Vec<Taken>)>,
}

impl Life<'_> {
    /// Every step once.
    fn all(&mut self) -> Result<()> {
        let [base, target] = self.pair;
        let (copy, patch) = (self.copy.clone(), self.patch.clone());
        for step in ["cp to a new file + sync", "cp over existing + sync"] {
            let copied = self.copied(target, &copy)?;
            self.add(step, copied);
        }
        std::fs::remove_dir_all(&copy)?;
        let diff =
            arguments(&["diff"], &[base.as_os_str(), target.as_os_str(), "-o".as_ref(), patch.as_os_str()]);
        let diff = self.tensorpatch(&diff, None)?;
        self.add("diff alone", diff);
        let publish = self.publish()?;
        self.add("publish", publish);

        for (step, version) in [("join at the anchor", 1), ("join at anchor + 4", 5), ("", 2)] {
            std::fs::remove_dir_all(&self.replica).or_else(|error| match error.kind() {
                std::io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            })?;
            let joined = self.pull(version)?;
            if !step.is_empty() {
                self.add(step, joined);
            }
        }
        let sixteen = self.pull(TIP)?;
        self.add("pull, 16 behind", sixteen);
        self.pull(TIP - 4)?;
        let four = self.pull(TIP)?;
        self.add("pull, 4 behind", four);
        let back = self.pull(TIP - 1)?;
        self.add("pull, back one", back);
        let one = self.pull(TIP)?;
        self.add("pull, 1 behind", one);
        let none = self.pull(TIP)?;
        self.add("pull, nothing to do", none);
        Ok(())
    }

    fn add(&mut self, step: &'static str, taken: Taken) {
        match self.rows.iter_mut().find(|(found, _)| *found == step) {
            Some((_, all)) => all.push(taken),
            None => self.rows.push((step, vec![taken])),
        }
    }

    /// Publishes one of the pair, by turns.
    fn publish(&mut self) -> Result<Taken> {
        let checkpoint = self.pair[usize::from(!self.published.is_multiple_of(2))];
        let options =
            ["--to".as_ref(), self.stream.as_os_str(), "--baseline".as_ref(), self.baseline.as_os_str()];
        let command =
            [arguments(&["publish", "--no-anchors"], &[checkpoint.as_os_str()]), arguments(&[], &options)];
        self.published += 1;
        let commit =
            self.commits.as_ref().map(|commits| commits.join(format!("{:020}.json", self.published)));
        self.tensorpatch(&command.concat(), commit.as_deref())
    }

    fn pull(&self, version: u64) -> Result<Taken> {
        let version = version.to_string();
        let words = [self.stream.as_os_str(), self.replica.as_os_str()];
        self.tensorpatch(&arguments(&["pull", "--version", &version], &words), None)
    }

    fn tensorpatch(&self, words: &[OsString], appears: Option<&Path>) -> Result<Taken> {
        let mut command = Command::new(self.cli);
        command.args(words).arg("--quiet");
        self.run(&mut command, appears)
    }

    /// Copies a checkpoint and waits until the copy is on disk, as `cp` and `sync` do.
    fn copied(&self, from: &Path, to: &Path) -> Result<Taken> {
        let mut command = Command::new("sh");
        let script = r#"mkdir -p "$1" && cp --reflink=never "$0"/* "$1" && sync "$1"/* "$1""#;
        self.run(command.args([OsStr::new("-c"), script.as_ref(), from.as_ref(), to.as_ref()]), None)
    }

    /// Runs a command when nothing is left to be written to the disk.
    fn run(&self, command: &mut Command, appears: Option<&Path>) -> Result<Taken> {
        rustix::fs::sync();
        let log = tempfile::tempfile()?;
        if self.looking {
            command.env("TENSORPATCH_LOG", "requests=trace").stderr(log.try_clone()?);
        }
        let (processors, io) = (children_seconds()?, transferred()?);
        let start = Instant::now();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot run {command:?}"))?;
        let mut taken = Taken::default();
        while (self.looking || (appears.is_some() && taken.visible.is_none())) && child.try_wait()?.is_none()
        {
            if self.looking {
                taken.peak_anonymous = taken.peak_anonymous.max(anonymous(child.id()));
            }
            if taken.visible.is_none() && appears.is_some_and(Path::exists) {
                taken.visible = Some(start.elapsed().as_secs_f64());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let status = child.wait()?;
        taken.wall = start.elapsed().as_secs_f64();
        ensure!(status.success(), "{command:?} failed: {status}");
        let (processors_after, io_after) = (children_seconds()?, transferred()?);
        taken.processors = processors_after.iter().sum::<f64>() - processors.iter().sum::<f64>();
        let [read, written, to_disk] = [0, 1, 2].map(|field: usize| io_after[field] - io[field]);
        (taken.transferred, taken.to_disk) = ([read, written], to_disk);
        taken.requests = requests(log)?;
        Ok(taken)
    }
}

/// Lines of a log that tell of requests.
fn requests(mut log: File) -> Result<u64> {
    use std::io::{Read, Seek};
    let mut text = String::new();
    log.rewind()?;
    log.read_to_string(&mut text)?;
    Ok(text.lines().filter(|line| line.contains(" TRACE ")).count() as u64)
}

/// Bytes that this process and its children that have ended have read and written with system calls, and sent
/// to the disk.
fn transferred() -> Result<[u64; 3]> {
    let text = std::fs::read_to_string("/proc/self/io").context("this system does not tell what is read")?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.and_then(|number| number.parse().ok()).with_context(|| format!("/proc/self/io has no {name}"))
    };
    Ok([field("rchar")?, field("wchar")?, field("write_bytes")?])
}
