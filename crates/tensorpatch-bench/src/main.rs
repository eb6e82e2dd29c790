//! Prints how small and how fast tensorpatch is on a pair of checkpoints, beside the encodings that others use.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Parser;
use serde::Serialize;
use tensorpatch_bench::floor::Floor;
use tensorpatch_bench::kernels;
use tensorpatch_bench::pair::Pair;
use tensorpatch_bench::table::{self, Row};
use tensorpatch_checkpoint::Checkpoint;
use tensorpatch_codec::Level;
use tensorpatch_delta::{Options, Progress, State, Version, diff};
use tensorpatch_format::{Limits, Profile};
use tensorpatch_synthetic::{Config, Dtype, write_pair};

/// Measures tensorpatch and the encodings of others on the same pair of checkpoints, in the same run.
#[derive(Parser)]
struct Arguments {
    /// The base: a .safetensors file or a checkpoint directory
    #[arg(long, requires = "target")]
    base: Option<PathBuf>,
    /// The target
    #[arg(long, requires = "base")]
    target: Option<PathBuf>,
    /// Make a realistic pair of about this size instead, as 256MiB or 1GiB
    #[arg(long, value_parser = parse_size)]
    synthetic: Option<u64>,
    /// The learning rate of the synthetic pair
    #[arg(long, default_value_t = 3e-6)]
    lr: f32,
    /// The optimiser steps between base and target of the synthetic pair
    #[arg(long, default_value_t = 1)]
    steps: u64,
    /// The seed of the synthetic pair
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The dtype of the synthetic pair: bf16 or f32
    #[arg(long, default_value = "bf16")]
    dtype: String,
    /// Timed passes; medians are printed
    #[arg(long, default_value_t = 5)]
    passes: usize,
    /// Only the codec's kernels, at every level of this machine
    #[arg(long)]
    kernels: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn parse_size(text: &str) -> Result<u64, String> {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10), ("", 0)];
    units
        .into_iter()
        .find_map(|(unit, shift)| text.strip_suffix(unit)?.parse::<u64>().ok()?.checked_shl(shift))
        .ok_or_else(|| "expected a size such as 256MiB or 1GiB".to_owned())
}

/// What is printed.
#[derive(Serialize)]
struct Report {
    machine: String,
    threads: usize,
    model_bytes: usize,
    elements: u64,
    changed: u64,
    floor_bytes: f64,
    floor_bytes_per_changed: f64,
    memcpy_gb_per_second: [f64; 2],
    rows: Vec<Row>,
    kernels: Vec<Kernel>,
}

/// One level of the codec, on one thread and prepared buffers.
#[derive(Serialize)]
struct Kernel {
    level: &'static str,
    payload_bytes: usize,
    payload_over_floor_percent: f64,
    memcpy_gb_per_second: f64,
    encode_gb_per_second: f64,
    apply_gb_per_second: f64,
    in_place_gb_per_second: f64,
    encode_per_memcpy: f64,
    apply_per_memcpy: f64,
    in_place_per_memcpy: f64,
}

fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or(std::env::consts::ARCH, |(_, model)| model).to_owned()
}

/// The size of a whole patch file.
fn file_bytes(base: &Path, target: &Path, profile: Profile) -> Result<u64> {
    let limits = Limits::default();
    let (base, target) = (Checkpoint::open(base, &limits)?, Checkpoint::open(target, &limits)?);
    let old = Version { state: State::of(&base)?, layout: base.layout(), leaves: None };
    let new = Version { state: State::of(&target)?, layout: target.layout(), leaves: None };
    let mut options = Options::default();
    options.profile = profile;
    let mut patch = Vec::new();
    diff(&old, &new, &options, Progress::none(), &mut patch)?;
    Ok(patch.len() as u64)
}

fn kernel(report: &kernels::Report, pair: &Pair, floor: &Floor) -> Kernel {
    let gbs = |seconds: f64| pair.bytes() as f64 / seconds / 1e9;
    Kernel {
        level: report.level.name(),
        payload_bytes: report.payload_bytes,
        payload_over_floor_percent: 100.0 * (report.payload_bytes as f64 / floor.bytes() - 1.0),
        memcpy_gb_per_second: gbs(report.best.memcpy),
        encode_gb_per_second: gbs(report.best.encode),
        apply_gb_per_second: gbs(report.best.apply),
        in_place_gb_per_second: gbs(report.best.in_place),
        encode_per_memcpy: report.ratios[0],
        apply_per_memcpy: report.ratios[1],
        in_place_per_memcpy: report.ratios[2],
    }
}

#[expect(clippy::print_stdout, reason = "the tables are what this prints")]
fn print(report: &Report) {
    println!("{}, {} threads", report.machine, report.threads);
    println!(
        "{} MB of tensors, {} of {} elements changed ({:.3} %), floor {:.4} B/changed, memcpy {:.1} GB/s on one thread, {:.1} on all\n",
        report.model_bytes / 1_000_000,
        report.changed,
        report.elements,
        100.0 * report.changed as f64 / report.elements as f64,
        report.floor_bytes_per_changed,
        report.memcpy_gb_per_second[0],
        report.memcpy_gb_per_second[1],
    );
    if !report.rows.is_empty() {
        println!(
            "| encoding | bytes | B/changed | over floor | encode GB/s | apply + verify GB/s | encode, all | apply, all |"
        );
        println!("|---|---|---|---|---|---|---|---|");
    }
    for row in &report.rows {
        println!(
            "| {} | {} | {:.3} | {:+.1} % | {:.2} | {:.2} | {:.2} | {:.2} |",
            row.name,
            row.bytes,
            row.bytes_per_changed,
            row.over_floor_percent,
            row.one_thread.encode,
            row.one_thread.apply_verify,
            row.all_threads.encode,
            row.all_threads.apply_verify,
        );
    }
    if !report.kernels.is_empty() {
        println!(
            "| level | payload over floor | encode GB/s | apply | in place | encode x memcpy | apply | in place |"
        );
        println!("|---|---|---|---|---|---|---|---|");
    }
    for kernel in &report.kernels {
        println!(
            "| {} | {:+.2} % | {:.2} | {:.2} | {:.2} | {:.3} | {:.3} | {:.3} |",
            kernel.level,
            kernel.payload_over_floor_percent,
            kernel.encode_gb_per_second,
            kernel.apply_gb_per_second,
            kernel.in_place_gb_per_second,
            kernel.encode_per_memcpy,
            kernel.apply_per_memcpy,
            kernel.in_place_per_memcpy,
        );
    }
}

#[expect(clippy::print_stdout, reason = "the report is what this prints")]
fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let scratch = tempfile::tempdir()?;
    let (base, target) = match (&arguments.base, &arguments.target, arguments.synthetic) {
        (Some(base), Some(target), None) => (base.clone(), target.clone()),
        (None, None, size) => {
            let dtype = match &*arguments.dtype {
                "bf16" => Dtype::Bf16,
                "f32" => Dtype::F32,
                other => bail!("--dtype {other}: expected bf16 or f32"),
            };
            let (learning_rate, seed) = (arguments.lr, arguments.seed);
            let bytes = size.unwrap_or(256 << 20);
            let config = Config { bytes, dtype, learning_rate, seed, ..Config::default() };
            let pair = (scratch.path().join("base.safetensors"), scratch.path().join("target.safetensors"));
            write_pair(&config, arguments.steps, &pair.0, &pair.1)
                .context("cannot write the synthetic pair")?;
            pair
        }
        _ => bail!("give --base and --target, or --synthetic, not both"),
    };
    let pair = Pair::open(&base, &target)?;
    let floor = Floor::of(&pair);
    let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let (mut rows, mut levels) = (Vec::new(), Vec::new());
    if arguments.kernels {
        for level in Level::available() {
            let report = kernels::run(&pair, level, Profile::Compact, arguments.passes);
            levels.push(kernel(&report, &pair, &floor));
        }
    } else {
        let files =
            [file_bytes(&base, &target, Profile::Compact)?, file_bytes(&base, &target, Profile::Direct)?];
        rows = table::rows(&pair, &floor, files, threads, arguments.passes)?;
    }
    let report = Report {
        machine: machine(),
        threads: threads.get(),
        model_bytes: pair.bytes(),
        elements: floor.elements,
        changed: floor.changed,
        floor_bytes: floor.bytes(),
        floor_bytes_per_changed: floor.bytes() / floor.changed as f64,
        memcpy_gb_per_second: table::memcpy(&pair, threads, arguments.passes)?,
        rows,
        kernels: levels,
    };
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print(&report);
    }
    Ok(())
}
