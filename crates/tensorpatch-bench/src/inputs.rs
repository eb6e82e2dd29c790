//! Pairs of checkpoints to measure on: given, of a recorded run, or made up.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tensorpatch_synthetic::{Config, Dtype, Run, write_pair};

/// A pair, and what it is.
#[derive(Debug)]
pub struct Input {
    /// What it is, as in tables.
    pub label: String,
    /// The base.
    pub base: PathBuf,
    /// The target.
    pub target: PathBuf,
    /// Where it was made, if it was; gone with the input.
    scratch: Option<TempDir>,
}

/// What a made-up pair is like.
#[derive(Debug, Clone)]
pub struct Synthetic {
    /// The run.
    pub config: Config,
    /// Optimiser steps from base to target.
    pub steps: u64,
    /// The same bytes as so many tensors of one dimension, equal in length.
    pub tensors: Option<usize>,
}

impl Synthetic {
    /// What it is, as in tables.
    pub fn label(&self) -> String {
        let Self { config, steps, tensors } = self;
        let label = format!(
            "{} {}, lr {:.2e}, {steps} step{}, seed {}",
            size(config.bytes),
            name(config.dtype),
            config.learning_rate,
            if *steps == 1 { "" } else { "s" },
            config.seed,
        );
        tensors.map_or(label.clone(), |tensors| format!("{label}, as {tensors} tensors"))
    }
}

impl Input {
    /// Two checkpoints that lie there.
    pub fn files(base: &Path, target: &Path) -> Self {
        let name = |path: &Path| {
            path.file_name()
                .map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
        };
        let label = format!("{} to {}", name(base), name(target));
        Self { label, base: base.to_owned(), target: target.to_owned(), scratch: None }
    }

    /// The steps of a recorded run, `snapshot_000000.safetensors` and so on, and behind them all steps as
    /// one.
    ///
    /// # Errors
    /// If there are no two snapshots.
    pub fn trace(directory: &Path) -> Result<Vec<Self>> {
        let snapshots = snapshots(directory);
        ensure!(snapshots.len() > 1, "{}: no two snapshots", directory.display());
        let mut inputs: Vec<_> = (1..)
            .zip(snapshots.windows(2))
            .map(|(number, pair)| Self {
                label: format!("recorded step {number}"),
                ..Self::files(&pair[0], &pair[1])
            })
            .collect();
        if let [first, _, .., last] = &*snapshots {
            let label = format!("recorded steps 1 to {}", inputs.len());
            inputs.push(Self { label, ..Self::files(first, last) });
        }
        Ok(inputs)
    }

    /// A pair made in a new directory below `scratch`.
    ///
    /// # Errors
    /// If it cannot be written there.
    pub fn synthetic(what: &Synthetic, scratch: &Path) -> Result<Self> {
        let Synthetic { config, steps, tensors } = what;
        let directory = TempDir::new_in(scratch).context("no room for the synthetic pair")?;
        let path = |name: &str| directory.path().join(name);
        let (base, target) = (path("base.safetensors"), path("target.safetensors"));
        write_pair(config, *steps, &base, &target).context("cannot write the synthetic pair")?;
        if let Some(tensors) = tensors {
            for pair in [&base, &target] {
                recut(pair, config.dtype.name(), config.dtype.bits().div_ceil(8), *tensors)?;
            }
        }
        Ok(Self { label: what.label(), base, target, scratch: Some(directory) })
    }

    /// One bf16 tensor in files that are nothing but holes, apart from one part in 256, which is as the
    /// config says.
    ///
    /// # Errors
    /// If it cannot be written below `scratch`.
    pub fn one_tensor(bytes: u64, config: &Config, scratch: &Path) -> Result<Self> {
        const ISLAND: u64 = 1 << 20;
        const EVERY: u64 = 256 << 20;
        let islands = bytes.div_ceil(EVERY);
        let config = Config { bytes: (islands + 1) * ISLAND, dtype: Dtype::Bf16, ..config.clone() };
        let islands = Self::synthetic(&Synthetic { config, steps: 1, tensors: None }, scratch)?;
        let header = tensors_header("BF16", 2, bytes / 2 * 2, 1);
        let path = |from: &Path| from.with_extension("one.safetensors");
        for from in [&islands.base, &islands.target] {
            let mut data = body(from)?.0;
            let file = File::create(path(from))?;
            file.set_len(header.len() as u64 + bytes / 2 * 2)?;
            file.write_all_at(&header, 0)?;
            // The last island ends where the tensor does.
            let ends = (1..=bytes / EVERY).map(|number| number * EVERY).chain([bytes / 2 * 2]);
            for end in ends {
                let mut island = Vec::new();
                data.by_ref().take(ISLAND.min(end)).read_to_end(&mut island)?;
                file.write_all_at(&island, header.len() as u64 + end - island.len() as u64)?;
            }
        }
        let label = format!("one sparse bf16 tensor of {}", size(bytes));
        Ok(Self { label, base: path(&islands.base), target: path(&islands.target), scratch: islands.scratch })
    }

    /// A directory on the same file system that is gone with the input, or below `scratch`.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn directory(&self, scratch: &Path) -> Result<TempDir> {
        let parent = self.scratch.as_ref().map_or(scratch, TempDir::path);
        TempDir::new_in(parent).context("no room for what is made of the pair")
    }
}

/// The checkpoints of a recorded run: `snapshot_000000.safetensors` and so on.
pub fn snapshots(directory: &Path) -> Vec<PathBuf> {
    let snapshot = |number| directory.join(format!("snapshot_{number:06}.safetensors"));
    (0_u32..).map(snapshot).take_while(|snapshot| snapshot.exists()).collect()
}

/// The learning rate at which one step changes about this share of the elements.
pub fn learning_rate(density: f64, config: &Config) -> f32 {
    let mut config = Config { bytes: config.bytes.min(8 << 20), learning_rate: 4e-6, ..config.clone() };
    for _ in 0..12 {
        let found = measured_density(&config);
        if (found / density - 1.0).abs() < 0.01 {
            break;
        }
        #[expect(clippy::cast_possible_truncation, reason = "a learning rate needs few digits")]
        let factor = (density / found.max(1e-6)) as f32;
        config.learning_rate *= factor.clamp(0.1, 10.0);
    }
    config.learning_rate
}

/// The share of elements that one step changes.
fn measured_density(config: &Config) -> f64 {
    let mut run = Run::new(config);
    let bytes =
        |run: &Run| (0..run.model().tensors.len()).flat_map(|i| run.tensor_bytes(i)).collect::<Vec<_>>();
    let before = bytes(&run);
    run.step();
    let after = bytes(&run);
    let width = config.dtype.bits().div_ceil(8);
    let changed = before.chunks(width).zip(after.chunks(width)).filter(|(old, new)| old != new).count();
    (changed * width) as f64 / before.len().max(1) as f64
}

/// The name of a dtype as an argument, and in labels.
pub fn name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::Bf16 => "bf16",
        Dtype::F16 => "f16",
        Dtype::F32 => "f32",
        Dtype::F8E4m3 => "e4m3",
        Dtype::F8E5m2 => "e5m2",
        Dtype::I8 => "int8",
        Dtype::PackedInt4 => "int4",
    }
}

/// Bytes, in the unit that makes them whole.
pub fn size(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let unit = units.into_iter().find(|(_, shift)| bytes > 0 && bytes.trailing_zeros() >= *shift);
    unit.map_or_else(|| format!("{bytes} B"), |(unit, shift)| format!("{} {unit}", bytes >> shift))
}

/// A reader of the tensors of a safetensors file, and their length.
fn body(path: &Path) -> Result<(BufReader<File>, u64)> {
    let file = File::open(path)?;
    let len = file.metadata()?.len();
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut header = [0; 8];
    reader.read_exact(&mut header)?;
    let header = u64::from_le_bytes(header);
    std::io::copy(&mut reader.by_ref().take(header), &mut std::io::sink())?;
    Ok((reader, len - 8 - header))
}

/// Replaces a safetensors file by one with the same bytes in so many tensors; what is left over is dropped.
fn recut(path: &Path, dtype: &str, width: usize, tensors: usize) -> Result<()> {
    let (data, len) = body(path)?;
    let each = len / tensors.max(1) as u64 / width as u64 * width as u64;
    ensure!(each > 0, "{tensors} tensors are more than there are elements");
    let other = path.with_extension("recut");
    let mut out = BufWriter::new(File::create(&other)?);
    out.write_all(&tensors_header(dtype, width, each, tensors))?;
    std::io::copy(&mut data.take(each * tensors as u64), &mut out)?;
    out.flush()?;
    std::fs::rename(other, path)?;
    Ok(())
}

/// The header of a safetensors file of tensors of one dimension and of `each` bytes.
fn tensors_header(dtype: &str, width: usize, each: u64, tensors: usize) -> Vec<u8> {
    let elements = each / width as u64;
    let tensors: Vec<String> = (0..tensors as u64)
        .map(|number| {
            let (start, end) = (number * each, (number + 1) * each);
            format!(
                "\"t{number:07}\":{{\"dtype\":\"{dtype}\",\"shape\":[{elements}],\"data_offsets\":[{start},{end}]}}"
            )
        })
        .collect();
    let mut json = format!("{{{}}}", tensors.join(","));
    json.extend(std::iter::repeat_n(' ', json.len().next_multiple_of(8) - json.len()));
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.extend(json.into_bytes());
    header
}
