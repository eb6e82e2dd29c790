//! Publishing and pulling as a whole, beside copying the same files: time, requests, bytes and memory.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

use crate::clock::median;
use crate::commands::{anonymous, arguments, children_seconds};
use crate::series::Series;

/// The versions that there are before anything is measured, and a multiple of what it takes to publish the
/// six checkpoints forth and back. Pulls are measured where the newest version is such a multiple: the
/// versions 4 and 16 before it, and those on the way, are other states.
const VERSIONS: u64 = 20;

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

/// How many times as long as another step one takes.
#[derive(Debug, Clone, Serialize)]
pub struct TimesAsLong {
    /// The input and the place, as in [`Row`].
    pub input: String,
    /// The step, and that which it is held against.
    pub steps: [&'static str; 2],
    /// Whether it is the time until a version is visible that is meant, rather than until the program ends.
    pub visible: bool,
    /// The quotient of their times.
    pub ratio: f64,
    /// What it should be at most.
    pub target: f64,
}

/// The steps that are held against others, whether until visible, and the targets.
const TARGETS: [([&str; 2], bool, f64); 7] = [
    ([step::PULL_1, step::COPY_OVER], false, 1.0),
    ([step::PULL_UNSYNCED, step::COPY_UNSYNCED], false, 0.8),
    ([step::PULL_4, step::PULL_1], false, 1.3),
    ([step::JOIN_4, step::COPY], false, 1.5),
    ([step::BACK, step::PULL_1], false, 1.5),
    ([step::PUBLISH, step::DIFF], true, 1.15),
    ([step::PUBLISH, step::DIFF], false, 1.25),
];

/// The rows of a series held against each other.
pub fn times_as_long(rows: &[Row]) -> Vec<TimesAsLong> {
    let mut all = Vec::new();
    for (steps, visible, target) in TARGETS {
        for row in rows.iter().filter(|row| row.step == steps[0]) {
            let other = rows.iter().find(|other| other.step == steps[1] && other.input == row.input);
            let time = if visible { row.visible } else { Some(row.wall) };
            if let Some((time, other)) = time.zip(other) {
                let ratio = time / other.wall;
                all.push(TimesAsLong { input: row.input.clone(), steps, visible, ratio, target });
            }
        }
    }
    all
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

/// Publishes the checkpoints of a series forth and back to a stream at `url`, or in a directory beside
/// them, and measures the steps of its life: `runs` times each, and once more to see memory and
/// requests.
///
/// # Errors
/// If a command fails, or this system does not tell what a process takes.
pub fn measure(cli: &Path, series: &Series, url: Option<&str>, runs: usize) -> Result<Vec<Row>> {
    let (place, stream) = match url {
        None => ("a directory", series.beside("stream").into_os_string()),
        Some(url) => ("a bucket", format!("{}/{}", url.trim_end_matches('/'), std::process::id()).into()),
    };
    let mut life = Life {
        cli,
        checkpoints: &series.checkpoints,
        commits: url.is_none().then(|| series.beside("stream").join("commits")),
        stream,
        copy: series.beside("copy"),
        patch: series.beside("diff.tpatch"),
        baseline: series.beside("baseline"),
        replica: series.beside("replica"),
        published: 0,
        looking: false,
        rows: Vec::new(),
    };
    while life.published < VERSIONS {
        life.publish()?;
    }
    for run in 0..=runs {
        life.looking = run == 0;
        life.all()?;
    }
    let label = format!("{}, in {place}", series.label);
    Ok(life.rows.iter().map(|(step, all)| row(&label, step, all)).collect())
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
    checkpoints: &'a [PathBuf],
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

/// The steps, as they are called in tables and as [`TARGETS`] name them.
mod step {
    pub(super) const COPY: &str = "cp to a new file + sync";
    pub(super) const COPY_OVER: &str = "cp over existing + sync";
    pub(super) const COPY_UNSYNCED: &str = "cp over existing";
    pub(super) const DIFF: &str = "diff alone";
    pub(super) const PUBLISH: &str = "publish";
    pub(super) const PUBLISH_FROM_BASELINE: &str = "publish, the checkpoint before altered";
    pub(super) const JOIN: &str = "join at the anchor";
    pub(super) const JOIN_4: &str = "join at anchor + 4";
    pub(super) const PULL_16: &str = "pull, 16 behind";
    pub(super) const PULL_4: &str = "pull, 4 behind";
    pub(super) const PULL_1: &str = "pull, 1 behind";
    pub(super) const PULL_UNSYNCED: &str = "pull, 1 behind, durability none";
    pub(super) const BACK: &str = "pull, back one";
    pub(super) const NONE: &str = "pull, nothing to do";
}

impl Life<'_> {
    /// Every step once.
    fn all(&mut self) -> Result<()> {
        let [base, target, ..] = self.checkpoints else { bail!("there are no two checkpoints") };
        let (copy, patch) = (self.copy.clone(), self.patch.clone());
        for (step, from, is_synced) in
            [(step::COPY, base, true), (step::COPY_OVER, target, true), (step::COPY_UNSYNCED, base, false)]
        {
            let copied = self.copied(from, &copy, is_synced)?;
            self.add(step, copied);
        }
        std::fs::remove_dir_all(&copy)?;
        let diff =
            arguments(&["diff"], &[base.as_os_str(), target.as_os_str(), "-o".as_ref(), patch.as_os_str()]);
        let diff = self.tensorpatch(&diff, None)?;
        self.add(step::DIFF, diff);
        let publish = self.publish()?;
        self.add(step::PUBLISH, publish);
        // The first of them brings the baseline along.
        for step in [None, Some(step::PUBLISH_FROM_BASELINE)] {
            self.touch_published()?;
            let publish = self.publish()?;
            if let Some(step) = step {
                self.add(step, publish);
            }
        }

        while !self.published.is_multiple_of(self.period()) {
            self.publish()?;
        }
        let tip = self.published;
        for (version, step) in [(1, Some(step::JOIN)), (5, Some(step::JOIN_4)), (tip - 16, None)] {
            std::fs::remove_dir_all(&self.replica).or_else(|error| match error.kind() {
                std::io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            })?;
            self.pull(version, step)?;
        }
        for (version, step) in [
            (tip, Some(step::PULL_16)),
            (tip - 1, None),
            (tip, Some(step::PULL_1)),
            (tip - 1, Some(step::BACK)),
            (tip, Some(step::PULL_UNSYNCED)),
            (tip - 4, None),
            (tip, Some(step::PULL_4)),
            (tip, Some(step::NONE)),
        ] {
            self.pull(version, step)?;
        }
        Ok(())
    }

    fn add(&mut self, step: &'static str, taken: Taken) {
        match self.rows.iter_mut().find(|(found, _)| *found == step) {
            Some((_, all)) => all.push(taken),
            None => self.rows.push((step, vec![taken])),
        }
    }

    /// The checkpoint of a version, counted from 0: forth and back.
    fn checkpoint(&self, version: u64) -> Result<&Path> {
        let number = version % self.period();
        Ok(&self.checkpoints[usize::try_from(number.min(self.period() - number))?])
    }

    /// How many versions it takes to publish all checkpoints forth and back.
    fn period(&self) -> u64 {
        2 * (self.checkpoints.len() as u64 - 1)
    }

    /// Lets the checkpoint that was published last look altered, so that none takes the place of the
    /// baseline.
    fn touch_published(&self) -> Result<()> {
        for entry in std::fs::read_dir(self.checkpoint(self.published - 1)?)? {
            File::options().append(true).open(entry?.path())?.set_modified(SystemTime::now())?;
        }
        Ok(())
    }

    /// Publishes the next checkpoint.
    fn publish(&mut self) -> Result<Taken> {
        let checkpoint = self.checkpoint(self.published)?;
        let options =
            ["--to".as_ref(), self.stream.as_os_str(), "--baseline".as_ref(), self.baseline.as_os_str()];
        let command =
            [arguments(&["publish", "--no-anchors"], &[checkpoint.as_os_str()]), arguments(&[], &options)];
        self.published += 1;
        let commit =
            self.commits.as_ref().map(|commits| commits.join(format!("{:020}.json", self.published)));
        self.tensorpatch(&command.concat(), commit.as_deref())
    }

    fn pull(&mut self, version: u64, step: Option<&'static str>) -> Result<()> {
        let number = version.to_string();
        let words = [self.stream.as_os_str(), self.replica.as_os_str()];
        let mut command = arguments(&["pull"], &words);
        if version != self.published {
            command.extend(["--version", &number].map(Into::into));
        }
        if step == Some(step::PULL_UNSYNCED) {
            command.extend(["--durability", "none"].map(Into::into));
        }
        let pulled = self.tensorpatch(&command, None)?;
        if let Some(step) = step {
            self.add(step, pulled);
        }
        Ok(())
    }

    fn tensorpatch(&self, words: &[OsString], appears: Option<&Path>) -> Result<Taken> {
        let mut command = Command::new(self.cli);
        command.args(words).arg("--quiet");
        self.run(&mut command, appears)
    }

    /// Copies a checkpoint and, if it is to be synced, waits until the copy is on disk, as `cp` and
    /// `sync` do.
    fn copied(&self, from: &Path, to: &Path, is_synced: bool) -> Result<Taken> {
        let mut command = Command::new("sh");
        let script =
            r#"mkdir -p "$1" && cp --reflink=never "$0"/* "$1" && { [ "$2" = false ] || sync "$1"/* "$1"; }"#;
        let is_synced = OsStr::new(if is_synced { "true" } else { "false" });
        let words = [OsStr::new("-c"), script.as_ref(), from.as_ref(), to.as_ref(), is_synced];
        self.run(command.args(words), None)
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
