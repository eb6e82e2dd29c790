//! Checkpoints of one run in their order, to be published one after the other.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tensorpatch_synthetic::write_series;

use crate::inputs::{Synthetic, snapshots};

/// Consecutive checkpoints, each a directory with weights of the usual name.
#[derive(Debug)]
pub struct Series {
    /// What it is, as in tables.
    pub label: String,
    /// A directory for each checkpoint.
    pub checkpoints: Vec<PathBuf>,
    /// Where they are; gone with the series.
    directory: TempDir,
}

impl Series {
    /// So many checkpoints are published by turns. With fewer, versions that lie a few steps apart would
    /// be the same state.
    pub const CHECKPOINTS: usize = 6;

    /// The newest checkpoints of a recorded run.
    ///
    /// # Errors
    /// If there are too few of them, or they cannot be copied to a directory below `scratch`.
    pub fn trace(recorded: &Path, scratch: &Path) -> Result<Self> {
        let all = snapshots(recorded);
        let newest = all.len().checked_sub(Self::CHECKPOINTS).and_then(|skipped| all.get(skipped..));
        let newest = newest.with_context(|| format!("{}: too few snapshots", recorded.display()))?;
        let mut series = Self::empty("recorded steps".to_owned(), scratch)?;
        for path in newest {
            let weights = series.add()?;
            std::fs::copy(path, weights)?;
        }
        Ok(series)
    }

    /// Checkpoints made in a new directory below `scratch`.
    ///
    /// # Errors
    /// If they cannot be written there.
    pub fn synthetic(what: &Synthetic, scratch: &Path) -> Result<Self> {
        ensure!(what.tensors.is_none(), "a series is not cut into other tensors");
        let mut series = Self::empty(what.label(), scratch)?;
        let weights = (0..Self::CHECKPOINTS).map(|_| series.add()).collect::<Result<Vec<_>>>()?;
        let paths: Vec<&Path> = weights.iter().map(PathBuf::as_path).collect();
        write_series(&what.config, what.steps, &paths).context("cannot write the checkpoints")?;
        Ok(series)
    }

    /// A place beside the checkpoints that is gone with them.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn empty(label: String, scratch: &Path) -> Result<Self> {
        let directory = TempDir::new_in(scratch).context("no room for the checkpoints")?;
        Ok(Self { label, checkpoints: Vec::new(), directory })
    }

    /// Makes the directory of the next checkpoint, and returns where its weights are to lie.
    fn add(&mut self) -> Result<PathBuf> {
        let directory = self.beside(&format!("checkpoint-{}", self.checkpoints.len()));
        std::fs::create_dir(&directory)?;
        let weights = directory.join("model.safetensors");
        self.checkpoints.push(directory);
        Ok(weights)
    }
}
