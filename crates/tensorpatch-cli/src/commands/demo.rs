//! `tensorpatch demo`: a training run published step by step, followed by a replica, and compared file by
//! file.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;
use tensorpatch::store::{
    PublishOptions, Published, Publisher, Replica, ReplicaOptions, Stream, settings::parse_size,
};
use tensorpatch_synthetic::{Config, Dtype, Run, write_run_sharded};

use crate::arguments::parse_number;
use crate::exit::Refusal;
use crate::output::{Report, count, fields, percent, ratio, seconds, size};
use crate::screen;
use crate::session::Session;
use crate::streams;
use crate::table::{Column, fitted};

/// Show all of it on this machine, with no set-up
///
/// Makes a checkpoint, trains it with Adam-like steps on f32 master weights cast to bf16, publishes every
/// step to a temporary stream, pulls it into a replica, and compares the two file by file.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Bytes of the checkpoint, as 64MiB or 1GiB. Training takes six times as much memory
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = parse_size)]
    size: u64,
    /// Training steps
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = parse_number)]
    steps: u64,
    /// The learning rate
    #[arg(long, value_name = "RATE", default_value_t = 3e-6, value_parser = parse_rate)]
    lr: f32,
    /// The same seed gives the same run
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = parse_number)]
    seed: u64,
    /// Work in this directory, which must be empty or missing, and keep it
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

/// Reads a learning rate.
fn parse_rate(text: &str) -> Result<f32, String> {
    text.parse().map_err(|_| "expected a number, such as 3e-6".into())
}

#[derive(Serialize)]
struct DemoReport {
    directory: Option<PathBuf>,
    checkpoint_bytes: u64,
    elements: u64,
    learning_rate: f32,
    seed: u64,
    threads: usize,
    versions: Vec<VersionReport>,
    /// Bytes of all patches.
    patch_bytes: u64,
    /// Bytes of as many whole checkpoints.
    full_bytes: u64,
    /// Whether the replica was the checkpoint, file by file, after every step. Anything else is an error.
    identical: bool,
    #[serde(skip)]
    width: usize,
}

#[derive(Serialize)]
struct VersionReport {
    version: u64,
    bytes: u64,
    changed_elements: Option<u64>,
    bytes_per_changed_element: Option<f64>,
    publish_seconds: f64,
    pull_seconds: f64,
}

impl Report for DemoReport {
    fn lines(&self) -> Vec<String> {
        let versions = || self.versions.iter();
        let changed = |told: &dyn Fn(&VersionReport, u64) -> String| -> Vec<String> {
            let told =
                |version: &VersionReport| version.changed_elements.map(|changed| told(version, changed));
            versions().map(|version| told(version).unwrap_or_else(|| "-".into())).collect()
        };
        let times = |taken: fn(&VersionReport) -> f64| {
            versions().map(move |version| seconds(Duration::from_secs_f64(taken(version))))
        };
        let columns = vec![
            Column::right("version", 0, versions().map(|version| version.version.to_string())),
            Column::right("bytes", 0, versions().map(|version| count(version.bytes))),
            Column::right(
                "of full",
                1,
                versions().map(|version| percent(version.bytes, self.checkpoint_bytes)),
            ),
            Column::right("changed", 4, changed(&|_, changed| count(changed)).into_iter()),
            Column::right("changed %", 3, changed(&|_, n| percent(n, self.elements)).into_iter()),
            Column::right("B/change", 5, changed(&|version, n| ratio(version.bytes, n)).into_iter()),
            Column::right("publish", 2, times(|version| version.publish_seconds)),
            Column::right("pull", 2, times(|version| version.pull_seconds)),
            Column::left("replica", 0, versions().map(|_| "identical".to_owned())),
        ];
        let mut lines = fitted(columns, self.width);
        lines.push(String::new());
        let mut summary = vec![(
            "patches",
            format!(
                "{} instead of {}: {}",
                size(self.patch_bytes),
                size(self.full_bytes),
                percent(self.patch_bytes, self.full_bytes)
            ),
        )];
        summary.extend(self.directory.as_ref().map(|directory| ("kept", directory.display().to_string())));
        lines.extend(fields(&summary));
        lines
    }
}

pub(crate) fn run(arguments: &Arguments, session: &Session) -> Result<()> {
    check_memory(arguments.size)?;
    let temporary;
    let directory = match &arguments.keep {
        None => {
            temporary = tempfile::tempdir().context("cannot make a temporary directory")?;
            temporary.path()
        }
        Some(directory) => {
            prepare(directory)?;
            directory
        }
    };
    let report = streams::wait(session, demonstrate(arguments, directory, session))?;
    session.output.report(&report)
}

/// What masters, moments and states take for each byte of the checkpoint, as the help says.
const MEMORY_FACTOR: u64 = 6;

/// Refuses a run for which the memory that is free does not do: the system would kill it, or others.
fn check_memory(bytes: u64) -> Result<()> {
    let (needed, available) = (bytes.saturating_mul(MEMORY_FACTOR), available_memory());
    match available.filter(|available| needed > *available) {
        Some(available) => {
            let what = format!("training needs {}, of which {} are free", size(needed), size(available));
            Err(Refusal::usage(what, "name a smaller --size").into())
        }
        None => Ok(()),
    }
}

/// Bytes of memory that are free or can be made so, where the system tells.
fn available_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1 << 10)
}

/// Makes a directory, or checks that it is empty.
fn prepare(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("{}: cannot make it", directory.display()))?;
    let mut entries = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    if entries.next().is_some() {
        let what = format!("{}: is not empty", directory.display());
        return Err(Refusal::usage(what, "name a new directory with --keep").into());
    }
    Ok(())
}

async fn demonstrate(arguments: &Arguments, directory: &Path, session: &Session) -> Result<DemoReport> {
    let config = Config {
        bytes: arguments.size,
        dtype: Dtype::Bf16,
        learning_rate: arguments.lr,
        seed: arguments.seed,
        threads: session.threads(),
    };
    // It says itself what it is at.
    session.screen.settle();
    let start = Instant::now();
    let mut training = Run::new(&config);
    let elements = training.model().elements() as u64;
    let checkpoint_bytes = elements * Dtype::Bf16.bits() as u64 / 8;
    session.output.note(&format!(
        "model: {} bf16 weights, {}, in {} tensors (made in {})",
        count(elements),
        size(checkpoint_bytes),
        training.model().tensors.len(),
        seconds(start.elapsed())
    ))?;

    let actors = Actors::new(directory, session).await?;
    let mut versions = Vec::new();
    for step in 0..=arguments.steps {
        let start = Instant::now();
        if step > 0 {
            training.step();
        }
        write_checkpoint(&training, &actors.checkpoint, checkpoint_bytes)?;
        let trained = start.elapsed();
        let version = actors.follow(step).await?;
        session.output.note(&format!(
            "step {step}: trained and saved in {}, {} published in {}, pulled in {}, identical",
            seconds(trained),
            size(version.bytes),
            seconds(Duration::from_secs_f64(version.publish_seconds)),
            seconds(Duration::from_secs_f64(version.pull_seconds)),
        ))?;
        versions.push(version);
    }
    session.output.note("")?;
    Ok(DemoReport {
        directory: arguments.keep.clone(),
        checkpoint_bytes,
        elements,
        learning_rate: arguments.lr,
        seed: arguments.seed,
        threads: session.threads().get(),
        patch_bytes: versions.iter().skip(1).map(|version| version.bytes).sum(),
        full_bytes: checkpoint_bytes * arguments.steps,
        versions,
        identical: true,
        width: screen::width(),
    })
}

/// The trainer saves its checkpoint where the one before was: two shards, and a configuration beside them.
fn write_checkpoint(training: &Run, checkpoint: &Path, bytes: u64) -> Result<()> {
    let failed = || format!("{}: cannot write the checkpoint", checkpoint.display());
    write_run_sharded(training, checkpoint, bytes.div_ceil(2)).with_context(failed)?;
    fs::write(checkpoint.join("config.json"), "{\"model_type\": \"synthetic\"}\n").with_context(failed)
}

/// The publisher and the replica, which share nothing but the stream.
struct Actors {
    checkpoint: PathBuf,
    publisher: Publisher,
    replica: Replica,
}

impl Actors {
    async fn new(directory: &Path, session: &Session) -> Result<Self> {
        let url = directory.join("stream");
        let url = url.to_str().with_context(|| format!("{}: not UTF-8", url.display()))?;
        let stream = Stream::builder(url).open_or_create().await?;
        let options = PublishOptions::default().with_diff(session.options()).with_publisher("demo");
        let publisher = Publisher::on(stream.clone(), directory.join("baseline"), options).await?;
        let options = ReplicaOptions::default().with_apply(session.options());
        let replica = Replica::of(stream, directory.join("replica"), options);
        Ok(Self { checkpoint: directory.join("checkpoint"), publisher, replica })
    }

    /// Publishes the checkpoint as it is now, pulls it, and compares.
    async fn follow(&self, step: u64) -> Result<VersionReport> {
        let start = Instant::now();
        let label = format!("step {step}");
        let published: Published = self.publisher.publish_labelled(&self.checkpoint, Some(&label)).await?;
        let publish_seconds = start.elapsed().as_secs_f64();
        let start = Instant::now();
        self.replica.pull().await?;
        let pull_seconds = start.elapsed().as_secs_f64();
        compare(&self.checkpoint, self.replica.dir())?;
        Ok(VersionReport {
            version: published.version.get(),
            bytes: published.bytes,
            changed_elements: published.changed_elements,
            bytes_per_changed_element: published
                .changed_elements
                .filter(|changed| *changed > 0)
                .map(|changed| published.bytes as f64 / changed as f64),
            publish_seconds,
            pull_seconds,
        })
    }
}

/// Fails unless both directories hold the same files, byte for byte. Hidden ones do not count.
fn compare(expected: &Path, found: &Path) -> Result<()> {
    let names = |directory: &Path| -> Result<BTreeSet<OsString>> {
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
            let name = entry?.file_name();
            if !name.to_string_lossy().starts_with('.') {
                names.insert(name);
            }
        }
        Ok(names)
    };
    let (expected_names, found_names) = (names(expected)?, names(found)?);
    if expected_names != found_names {
        bail!("the replica has the files {found_names:?}, the checkpoint {expected_names:?}");
    }
    for name in expected_names {
        let (one, other) = (expected.join(&name), found.join(&name));
        if !same_bytes(&one, &other).with_context(|| other.display().to_string())? {
            bail!("{} differs from {}", other.display(), one.display());
        }
    }
    Ok(())
}

fn same_bytes(one: &Path, other: &Path) -> Result<bool> {
    let open = |path| File::open(path).map(|file| BufReader::with_capacity(1 << 18, file));
    let (mut one, mut other) = (open(one)?, open(other)?);
    loop {
        let (left, right) = (one.fill_buf()?, other.fill_buf()?);
        let length = left.len().min(right.len());
        if length == 0 {
            return Ok(left.is_empty() && right.is_empty());
        }
        if left[..length] != right[..length] {
            return Ok(false);
        }
        one.consume(length);
        other.consume(length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comparison_sees_every_difference() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (dir.path().join("one"), dir.path().join("other"));
        for directory in [&one, &other] {
            fs::create_dir(directory).unwrap();
            fs::write(directory.join("a"), vec![7; 600_000]).unwrap();
            fs::write(directory.join(".hidden"), directory.to_str().unwrap()).unwrap();
        }
        compare(&one, &other).unwrap();
        let mut changed = vec![7; 600_000];
        changed[599_999] = 8;
        for contents in [changed, vec![7; 599_999], vec![7; 600_001], Vec::new()] {
            fs::write(other.join("a"), contents).unwrap();
            assert!(compare(&one, &other).is_err());
        }
        fs::write(other.join("a"), vec![7; 600_000]).unwrap();
        fs::write(other.join("b"), "").unwrap();
        assert!(compare(&one, &other).is_err());
    }
}
