//! Two checkpoints in memory, cut into chunks as a patch cuts them.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use tensorpatch_checkpoint::Checkpoint;
use tensorpatch_format::{CHUNK_BYTES, ElementFormat, Limits};

/// One tensor of both checkpoints: where it lies in the buffers.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// The name, as in the checkpoints.
    pub name: String,
    /// How the bytes are cut into elements.
    pub format: ElementFormat,
    /// The bytes in [`Pair::base`] and [`Pair::target`].
    pub range: std::ops::Range<usize>,
}

/// Base and target, on prepared pages.
#[derive(Debug, Clone, Default)]
pub struct Pair {
    /// All tensors of the base, one after the other.
    pub base: Vec<u8>,
    /// All tensors of the target at the same places.
    pub target: Vec<u8>,
    /// Where each tensor lies.
    pub tensors: Vec<Tensor>,
}

impl Pair {
    /// Loads the tensors that two checkpoints have in common.
    ///
    /// # Errors
    /// If a checkpoint cannot be opened, or their schemas differ.
    pub fn open(base: &Path, target: &Path) -> Result<Self> {
        let limits = Limits::default();
        let base = Checkpoint::open(base, &limits).with_context(|| base.display().to_string())?;
        let target = Checkpoint::open(target, &limits).with_context(|| target.display().to_string())?;
        ensure!(base.schema() == target.schema(), "the checkpoints have different tensors");
        let mut pair = Self::default();
        for ((spec, old), new) in base.schema().tensors().iter().zip(base.tensors()).zip(target.tensors()) {
            // Tensors of a file lie at multiples of eight bytes; so do these, at more.
            let start = pair.base.len().next_multiple_of(64);
            for (buffer, bytes) in [(&mut pair.base, old), (&mut pair.target, new)] {
                buffer.resize(start, 0);
                buffer.extend_from_slice(bytes);
            }
            let range = start..start + old.len();
            pair.tensors.push(Tensor {
                name: spec.name.to_string(),
                format: spec.dtype.element_format(),
                range,
            });
        }
        Ok(pair)
    }

    /// The chunks of all tensors: format and bytes in the buffers.
    pub fn chunks(&self) -> impl Iterator<Item = (ElementFormat, std::ops::Range<usize>)> {
        self.tensors.iter().flat_map(|tensor| {
            let range = tensor.range.clone();
            range
                .clone()
                .step_by(CHUNK_BYTES)
                .map(move |start| (tensor.format, start..range.end.min(start + CHUNK_BYTES)))
        })
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> usize {
        self.tensors.iter().map(|tensor| tensor.range.len()).sum()
    }
}
