//! How small the patch of a pair is, beside the entropy floor.

use std::path::Path;

use anyhow::Result;
use serde::Serialize;
use tensorpatch_delta::{Diff, DiffReport, Options};
use tensorpatch_format::Profile;

use crate::floor::Floor;
use crate::inputs::Input;
use crate::pair::Pair;

/// The sizes of one pair.
#[derive(Debug, Clone, Serialize)]
pub struct Sizes {
    /// The pair.
    pub input: String,
    /// Bytes of all tensors.
    pub model_bytes: usize,
    /// Elements of all tensors.
    pub elements: u64,
    /// Elements that differ.
    pub changed: u64,
    /// The entropy floor.
    pub floor_bytes: f64,
    /// The patch of the profile `compact`.
    pub compact: Patch,
    /// The patch of the profile `direct`.
    pub direct: Patch,
}

/// One patch.
#[derive(Debug, Clone, Serialize)]
pub struct Patch {
    /// Bytes of the whole file, headers and digests included.
    pub file_bytes: u64,
    /// Bytes of the payloads of all chunks.
    pub payload_bytes: u64,
    /// Chunks without a change.
    pub unchanged_chunks: u64,
    /// The encodings of the others, and how many chunks took each.
    pub encodings: Vec<(&'static str, u64)>,
}

impl Sizes {
    /// Measures a pair whose tensors are in memory and whose files are at `input`.
    ///
    /// # Errors
    /// If a checkpoint cannot be opened.
    pub fn of(input: &Input, pair: &Pair, floor: &Floor) -> Result<Self> {
        Ok(Self {
            input: input.label.clone(),
            model_bytes: pair.bytes(),
            elements: floor.elements,
            changed: floor.changed,
            floor_bytes: floor.bytes(),
            compact: patch(&input.base, &input.target, Profile::Compact)?,
            direct: patch(&input.base, &input.target, Profile::Direct)?,
        })
    }

    /// The share of the elements that differ.
    pub fn density(&self) -> f64 {
        self.changed as f64 / self.elements as f64
    }

    /// Bytes for each changed element.
    pub fn per_changed(&self, bytes: f64) -> f64 {
        bytes / self.changed as f64
    }

    /// Percent above the floor.
    pub fn over_floor(&self, bytes: u64) -> f64 {
        100.0 * (bytes as f64 / self.floor_bytes - 1.0)
    }
}

fn patch(base: &Path, target: &Path, profile: Profile) -> Result<Patch> {
    let options = Options::default().with_profile(profile);
    let DiffReport { patch_bytes, total_chunks, encodings, .. } =
        Diff::open(Some(base), target, options)?.write_to(std::io::sink())?;
    Ok(Patch {
        file_bytes: patch_bytes,
        payload_bytes: encodings.iter().map(|used| used.bytes).sum(),
        unchanged_chunks: total_chunks - encodings.iter().map(|used| used.chunks).sum::<u64>(),
        encodings: encodings.iter().map(|used| (used.encoding.name(), used.chunks)).collect(),
    })
}
