//! Which state a checkpoint holds, or tensors in memory are.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::View;
use tensorpatch_checkpoint::{ViewError, spec_of_view};
use tensorpatch_format::{ChunkAddress, Schema, TaggedStateDigest, TensorIndex, TensorSpec};

use crate::pending::open_settled;
use crate::{ApplyError, DiffError, LeafTable, Options, Progress, State, TensorsError};

/// The digest of the state in the checkpoint at `path`: of every tensor's name, dtype, shape and bytes,
/// whatever its shards. With default options; [`LeafTable::of`] takes others.
///
/// # Errors
/// If the checkpoint cannot be read or is damaged, or an application in place to it was interrupted.
pub fn digest(path: impl AsRef<Path>) -> Result<TaggedStateDigest, ApplyError> {
    let options = Options::default();
    let checkpoint = open_settled(path.as_ref(), &options.limits)?;
    let state = State::of(&checkpoint)?;
    let leaves = LeafTable::of(&state, options.leaf_hash, options.threads, Progress::none())?;
    Ok(TaggedStateDigest { leaf_hash: options.leaf_hash, digest: leaves.state_digest(state.schema()) })
}

/// The digest of a state in memory whose tensors come one at a time and in any order. Nothing of a tensor is
/// kept but its leaf digests.
///
/// ```
/// use safetensors::{Dtype, tensor::TensorView};
/// use tensorpatch_delta::{Options, Progress, StateHasher};
///
/// let mut state = StateHasher::new(&Options::default(), Progress::none());
/// state.add("w", &TensorView::new(Dtype::BF16, vec![2], &[1, 2, 3, 4])?)?;
/// println!("{}", state.finish()?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct StateHasher<'p> {
    options: Options,
    progress: Progress<'p>,
    /// By name, as in the schema: each with its leaf digests.
    tensors: BTreeMap<String, (TensorSpec, LeafTable)>,
}

impl<'p> StateHasher<'p> {
    /// Begins a state, hashed with the leaf hash and the threads of `options`.
    pub fn new(options: &Options, progress: Progress<'p>) -> Self {
        Self { options: options.clone(), progress, tensors: BTreeMap::new() }
    }

    /// Adds a tensor.
    ///
    /// # Errors
    /// If a tensor of this name was added before, this one has other bytes than its dtype and shape give or
    /// breaks a rule of the format, or the caller cancels.
    pub fn add(&mut self, name: &str, tensor: &impl View) -> Result<(), DiffError> {
        let spec = spec_of_view(name, tensor).map_err(TensorsError::from)?;
        if self.tensors.contains_key(name) {
            return Err(TensorsError::Twice { tensor: spec.name }.into());
        }
        let schema = schema(vec![spec.clone()])?;
        let bytes = tensor.data();
        let state = State::new(&schema, vec![&*bytes]).map_err(TensorsError::from)?;
        let leaves = LeafTable::of(&state, self.options.leaf_hash, self.options.threads, self.progress)?;
        self.tensors.insert(spec.name.clone(), (spec, leaves));
        Ok(())
    }

    /// The digest of all that was added.
    ///
    /// # Errors
    /// If the tensors together are too large for the format.
    pub fn finish(self) -> Result<TaggedStateDigest, DiffError> {
        let (specs, tables): (Vec<TensorSpec>, Vec<LeafTable>) = self.tensors.into_values().unzip();
        let (schema, leaf_hash) = (schema(specs)?, self.options.leaf_hash);
        let mut leaves = LeafTable::empty(&schema, leaf_hash);
        for address in schema.grid() {
            let own = ChunkAddress { tensor: TensorIndex(0), ..address };
            let table = tables.get(address.tensor.0 as usize);
            if let Some(leaf) = table.and_then(|table| table.get(own)) {
                leaves.set(address, leaf);
            }
        }
        Ok(TaggedStateDigest { leaf_hash, digest: leaves.state_digest(&schema) })
    }
}

fn schema(specs: Vec<TensorSpec>) -> Result<Schema, DiffError> {
    Schema::new(specs).map_err(|error| TensorsError::from(ViewError::from(error)).into())
}
