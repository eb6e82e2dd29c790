//! Measures how small and how fast tensorpatch is on pairs of checkpoints, beside the encodings that others
//! use.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use tensorpatch_bench::commands::{self, Which};
use tensorpatch_bench::floor::Floor;
use tensorpatch_bench::inputs::{Input, Synthetic, learning_rate, name};
use tensorpatch_bench::kernels;
use tensorpatch_bench::pair::Pair;
use tensorpatch_bench::ratios;
use tensorpatch_bench::report::{Encodings, Kernels, Ratios, Report};
use tensorpatch_bench::series::Series;
use tensorpatch_bench::sizes::Sizes;
use tensorpatch_bench::{system, table};
use tensorpatch_codec::Level;
use tensorpatch_format::Profile;
use tensorpatch_synthetic::{Config, Dtype};

/// Measures tensorpatch on pairs of checkpoints, beside the encodings of others and in the same run.
///
/// Without one of --sizes, --kernels, --table, --commands and --system: all encodings side by side.
#[derive(Parser)]
#[command(max_term_width = 110)]
struct Arguments {
    /// The base: a .safetensors file or a checkpoint directory
    #[arg(long, requires = "target", help_heading = "What to measure on")]
    base: Option<PathBuf>,
    /// The target
    #[arg(long, requires = "base", help_heading = "What to measure on")]
    target: Option<PathBuf>,
    /// A recorded run: a directory with snapshot_000000.safetensors and so on. The sizes of all steps, the
    /// others of the last
    #[arg(long, conflicts_with = "base", help_heading = "What to measure on")]
    trace: Option<PathBuf>,
    /// Made-up pairs of about these sizes, such as 256MiB,1GiB
    #[arg(long, value_parser = parse_size, value_delimiter = ',', conflicts_with_all = ["base", "trace"],
        default_value = "256MiB", help_heading = "What to measure on")]
    synthetic: Vec<u64>,
    /// Made-up pairs of one tensor in a file of this size that is mostly a hole
    #[arg(long, value_parser = parse_size, conflicts_with_all = ["base", "trace", "synthetic"],
        help_heading = "What to measure on")]
    one_tensor: Option<u64>,
    /// Dtypes of made-up pairs: bf16, f16, f32, e4m3, e5m2, int8 or int4 (two to a byte)
    #[arg(long, value_parser = parse_dtype, value_delimiter = ',', default_value = "bf16",
        help_heading = "What to measure on")]
    dtype: Vec<Dtype>,
    /// Learning rates of made-up pairs
    #[arg(long, value_delimiter = ',', default_value = "3e-6", help_heading = "What to measure on")]
    lr: Vec<f32>,
    /// Instead of learning rates: how much of the elements a step is to change, such as 1%
    #[arg(long, value_parser = parse_percent, value_delimiter = ',', conflicts_with = "lr",
        help_heading = "What to measure on")]
    density: Vec<f64>,
    /// Optimiser steps from base to target of made-up pairs
    #[arg(long, value_delimiter = ',', default_value = "1", help_heading = "What to measure on")]
    steps: Vec<u64>,
    /// Seeds of made-up pairs
    #[arg(long, value_delimiter = ',', default_value = "0", help_heading = "What to measure on")]
    seed: Vec<u64>,
    /// Cut made-up pairs into so many tensors of the same length
    #[arg(long, help_heading = "What to measure on")]
    tensors: Option<usize>,
    /// Only sizes
    #[arg(long, group = "what")]
    sizes: bool,
    /// Only the codec on prepared buffers, at every level of instructions of this machine
    #[arg(long, group = "what")]
    kernels: bool,
    /// Only how many times as fast as the XOR of whole tensors the codec is, at every level; made-up pairs
    /// change by 1, 8 and 30 % unless it is said how much
    #[arg(long, group = "what")]
    table: bool,
    /// Only this level: portable, avx2, avx512 or neon
    #[arg(long, conflicts_with_all = ["sizes", "commands"])]
    level: Option<String>,
    /// Only whole commands on files in the page cache: all, or those named, such as diff,in-place
    #[arg(long, group = "what", value_enum, value_delimiter = ',', num_args = 0.., require_equals = true,
        default_missing_value = "diff,apply,in-place,digest")]
    commands: Option<Vec<Which>>,
    /// Only publishing six checkpoints to a stream and pulling from it, beside cp + sync of the same files
    #[arg(long, group = "what", conflicts_with_all = ["base", "one_tensor", "tensors"])]
    system: bool,
    /// The bucket in which the stream of --system is created, such as s3://bench [default: a directory]
    #[arg(long, requires = "system")]
    to: Option<String>,
    /// The program whose commands are measured [default: the one built beside this]
    #[arg(long)]
    cli: Option<PathBuf>,
    /// Where files are made [default: the directory for temporary files]
    #[arg(long)]
    scratch: Option<PathBuf>,
    /// Timed passes; medians are printed, and of --table what took the least time
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    passes: u16,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn parse_size(text: &str) -> Result<u64, String> {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10), ("", 0)];
    units
        .into_iter()
        .find_map(|(unit, shift)| text.strip_suffix(unit)?.parse::<u64>().ok()?.checked_mul(1 << shift))
        .ok_or_else(|| "expected a size such as 256MiB or 1GiB".to_owned())
}

fn parse_dtype(text: &str) -> Result<Dtype, String> {
    let names = || Dtype::ALL.map(name).join(", ");
    Dtype::ALL
        .into_iter()
        .find(|dtype| name(*dtype) == text)
        .ok_or_else(|| format!("expected one of {}", names()))
}

fn parse_percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
    match number {
        Some(percent) if (0.001..=40.0).contains(&percent) => Ok(percent / 100.0),
        _ => Err("expected a share from 0.001% to 40%".to_owned()),
    }
}

impl Arguments {
    /// What each made-up pair is like.
    fn configs(&self) -> Vec<Synthetic> {
        let mut all = Vec::new();
        for &bytes in &self.synthetic {
            for &dtype in &self.dtype {
                for &seed in &self.seed {
                    let config = Config { bytes, dtype, seed, ..Config::default() };
                    let densities = if self.table && self.density.is_empty() {
                        TABLE_DENSITIES.as_slice()
                    } else {
                        &self.density
                    };
                    let rates = if densities.is_empty() {
                        self.lr.clone()
                    } else {
                        densities.iter().map(|&density| learning_rate(density, &config)).collect()
                    };
                    for learning_rate in rates {
                        for &steps in &self.steps {
                            let config = Config { learning_rate, ..config.clone() };
                            all.push(Synthetic { config, steps, tensors: self.tensors });
                        }
                    }
                }
            }
        }
        all
    }

    /// Does something on each pair, one after the other: made-up ones are gone before the next is made.
    fn each(&self, scratch: &Path, mut work: impl FnMut(&Input) -> Result<()>) -> Result<()> {
        if let Some((base, target)) = self.base.as_ref().zip(self.target.as_ref()) {
            return work(&Input::files(base, target));
        }
        if let Some(directory) = &self.trace {
            let mut inputs = Input::trace(directory)?;
            if !self.sizes {
                // The last step; behind it stand all as one.
                inputs.truncate(inputs.len().max(2) - 1);
                inputs.drain(..inputs.len() - 1);
            }
            return inputs.iter().try_for_each(work);
        }
        if let Some(bytes) = self.one_tensor {
            let config = self.configs().into_iter().next().context("no seed")?.config;
            return work(&Input::one_tensor(bytes, &config, scratch)?);
        }
        self.configs().iter().try_for_each(|config| work(&Input::synthetic(config, scratch)?))
    }

    /// Measures publishing and pulling on each series, one after the other.
    fn measure_system(&self, scratch: &Path, report: &mut Report) -> Result<()> {
        let mut measure = |series: &Series| {
            let passes = usize::from(self.passes);
            let rows = system::measure(&self.cli()?, series, self.to.as_deref(), passes)?;
            report.times_as_long.extend(system::times_as_long(&rows));
            report.system.extend(rows);
            Ok(())
        };
        match &self.trace {
            Some(recorded) => measure(&Series::trace(recorded, scratch)?),
            None => self.configs().iter().try_for_each(|what| measure(&Series::synthetic(what, scratch)?)),
        }
    }

    fn levels(&self) -> Result<Vec<Level>> {
        let mut levels = Level::available();
        if let Some(name) = &self.level {
            let names: Vec<_> = levels.iter().map(|level| level.name()).collect();
            levels.retain(|level| level.name() == name);
            ensure!(!levels.is_empty(), "--level {name}: this machine has {}", names.join(", "));
        }
        Ok(levels)
    }

    /// The program whose commands are measured.
    fn cli(&self) -> Result<PathBuf> {
        if let Some(cli) = &self.cli {
            return cli.canonicalize().with_context(|| cli.display().to_string());
        }
        let cli = std::env::current_exe()?.with_file_name("tensorpatch");
        if !cli.exists() {
            bail!("{}: build it with cargo build --release, or give --cli", cli.display());
        }
        Ok(cli)
    }
}

/// How much of the made-up pairs of --table changes.
const TABLE_DENSITIES: [f64; 3] = [0.01, 0.08, 0.3];

/// Pairs are loaded to measure the codec apart from commands up to this size; twice as much memory is taken.
const LOADED: u64 = 1 << 30;

fn measure(arguments: &Arguments, input: &Input, scratch: &Path, report: &mut Report) -> Result<()> {
    let threads = NonZeroUsize::new(report.threads).unwrap_or(NonZeroUsize::MIN);
    let passes = usize::from(arguments.passes);
    if let Some(which) = &arguments.commands {
        let mut kernels = None;
        let small = |path: &Path| {
            path.metadata().is_ok_and(|file| file.is_file() && file.len() <= LOADED + (LOADED >> 4))
        };
        if small(&input.base) {
            let pair = Pair::open(&input.base, &input.target)?;
            let run = |profile| kernels::run(&pair, Level::best(), profile, NonZeroUsize::MIN, 3);
            kernels =
                Some(commands::Kernels { compact: run(Profile::Compact)?, direct: run(Profile::Direct)? });
        }
        let rows = commands::measure(&arguments.cli()?, which, input, scratch, passes, kernels.as_ref())?;
        report.commands.extend(rows);
        return Ok(());
    }
    let pair = Pair::open(&input.base, &input.target)?;
    let floor = Floor::of(&pair);
    if arguments.kernels {
        let levels = arguments.levels()?;
        let run = |level| kernels::run(&pair, level, Profile::Compact, threads, passes);
        report.kernels.push(Kernels {
            input: input.label.clone(),
            density: floor.changed as f64 / floor.elements as f64,
            floor_bytes: floor.bytes(),
            levels: levels.into_iter().map(run).collect::<Result<_>>()?,
        });
        return Ok(());
    }
    if arguments.table {
        report.ratios.push(Ratios {
            input: input.label.clone(),
            density: floor.changed as f64 / floor.elements as f64,
            floor_bytes: floor.bytes(),
            levels: ratios::run(&pair, &arguments.levels()?, passes)?,
        });
        return Ok(());
    }
    let sizes = Sizes::of(input, &pair, &floor)?;
    if arguments.sizes {
        report.sizes.push(sizes);
        return Ok(());
    }
    let files = [sizes.compact.file_bytes, sizes.direct.file_bytes];
    let rows = table::rows(&pair, files, threads, passes)?;
    let memcpy = table::memcpy(&pair, threads, passes)?;
    report.encodings.push(Encodings { sizes, memcpy, rows });
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the report is what this prints")]
fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let scratch = arguments.scratch.clone().unwrap_or_else(std::env::temp_dir);
    let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let mut report = Report::new(threads.get(), usize::from(arguments.passes));
    if arguments.system {
        arguments.measure_system(&scratch, &mut report)?;
    } else {
        arguments.each(&scratch, |input| measure(&arguments, input, &scratch, &mut report))?;
    }
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", report.tables());
    }
    Ok(())
}
