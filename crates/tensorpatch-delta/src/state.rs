//! A state as slices: a schema and the bytes of each of its tensors; with its layout it is a snapshot of a
//! checkpoint.

use safetensors::tensor::TensorView;
use tensorpatch_checkpoint::{Checkpoint, CheckpointError, ViewError, view_of};
use tensorpatch_codec::leaf_digest;
use tensorpatch_format::{ChunkAddress, Layout, LeafDigest, LeafHash, Schema, TensorIndex};

use crate::pending::check_settled;
use crate::{DiffError, LeafTable};

/// The tensors of a state, borrowed from wherever they lie: a memory map, an engine's buffers, a test.
///
/// Whoever holds one may rely on it that each slice has the length that the schema gives.
#[derive(Debug, Clone)]
pub struct State<'a> {
    schema: &'a Schema,
    tensors: Vec<&'a [u8]>,
}

/// Why slices are not the state of a schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// Not one slice for each tensor.
    #[error("the schema has {expected} tensors, but {found} were given")]
    Count {
        /// Tensors of the schema.
        expected: usize,
        /// Slices given.
        found: usize,
    },
    /// A slice of another length than the schema's.
    #[error("tensor {name:?} has {expected} bytes by its schema, but {found} were given")]
    Length {
        /// The tensor.
        name: String,
        /// Bytes by the schema.
        expected: u64,
        /// Bytes given.
        found: u64,
    },
}

impl<'a> State<'a> {
    /// The state of `schema` whose tensors are `tensors`, in the order of the schema.
    ///
    /// # Errors
    /// If a slice is missing, too many, or of another length than the schema gives.
    pub fn new(schema: &'a Schema, tensors: Vec<&'a [u8]>) -> Result<Self, StateError> {
        if schema.tensors().len() != tensors.len() {
            return Err(StateError::Count { expected: schema.tensors().len(), found: tensors.len() });
        }
        for (spec, bytes) in schema.tensors().iter().zip(&tensors) {
            if spec.byte_len != bytes.len() as u64 {
                let (name, expected, found) = (spec.name.clone(), spec.byte_len, bytes.len() as u64);
                return Err(StateError::Length { name, expected, found });
            }
        }
        Ok(Self { schema, tensors })
    }

    /// The state of an opened checkpoint.
    ///
    /// # Errors
    /// [`CheckpointError::Pending`] if an application in place to it was interrupted.
    pub fn of(checkpoint: &'a Checkpoint) -> Result<Self, CheckpointError> {
        check_settled(checkpoint)?;
        Ok(Self::unsettled(checkpoint))
    }

    /// The state of a checkpoint whose journal is in the caller's hands.
    pub(crate) fn unsettled(checkpoint: &'a Checkpoint) -> Self {
        // An opened checkpoint has every tensor, with the bytes that its schema gives.
        Self { schema: checkpoint.schema(), tensors: checkpoint.tensors() }
    }

    /// The state of tensors that are known to fit their schema.
    pub(crate) fn of_memory(schema: &'a Schema, tensors: Vec<&'a [u8]>) -> Self {
        Self { schema, tensors }
    }

    /// The tensors by name, to be handed to [`safetensors::serialize`].
    ///
    /// # Errors
    /// If the crate does not know a dtype or cannot hold a shape.
    pub fn views(&self) -> Result<Vec<(&'a str, TensorView<'a>)>, ViewError> {
        let specs = self.schema.tensors().iter().zip(&self.tensors);
        specs.map(|(spec, bytes)| Ok((spec.name.as_str(), view_of(spec, bytes)?))).collect()
    }

    /// The schema.
    pub fn schema(&self) -> &'a Schema {
        self.schema
    }

    /// The bytes of a tensor.
    pub fn tensor(&self, index: TensorIndex) -> Option<&'a [u8]> {
        self.tensors.get(usize::try_from(index.0).ok()?).copied()
    }

    /// The bytes of a chunk.
    pub fn chunk(&self, address: ChunkAddress) -> Option<&'a [u8]> {
        let range = self.schema.get(address.tensor)?.chunk_range(address.chunk)?;
        self.tensor(address.tensor)?.get(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?)
    }
}

/// A chunk and its digest.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HashedChunk<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) leaf: LeafDigest,
    /// Whether the leaf table had the digest.
    pub(crate) known: bool,
}

/// One version of a checkpoint, as a diff sees it: its tensors, and what its files look like.
#[derive(Debug, Clone)]
pub struct Snapshot<'a> {
    /// Its tensors.
    pub state: State<'a>,
    /// What its files look like.
    pub layout: &'a Layout,
    /// Its leaf table, if the caller knows it to be true. Unchanged chunks then cost one comparison and no
    /// hash.
    pub leaves: Option<&'a LeafTable>,
}

impl<'a> Snapshot<'a> {
    /// The snapshot of an opened checkpoint.
    ///
    /// # Errors
    /// [`CheckpointError::Pending`] if an application in place to it was interrupted.
    pub fn of(checkpoint: &'a Checkpoint) -> Result<Self, CheckpointError> {
        Ok(Self { state: State::of(checkpoint)?, layout: checkpoint.layout(), leaves: None })
    }

    /// Says that the leaf table, if there is one, is of the hash that a patch is to have.
    pub(crate) fn check_leaves(&self, expected: LeafHash) -> Result<(), DiffError> {
        match self.leaves.map(LeafTable::hash) {
            Some(found) if found != expected => Err(DiffError::LeafHash { expected, found }),
            _ => Ok(()),
        }
    }

    /// A chunk with its digest, which is computed if the leaf table does not have it.
    pub(crate) fn chunk(&self, address: ChunkAddress, hash: LeafHash) -> Option<HashedChunk<'a>> {
        let bytes = self.state.chunk(address)?;
        let known = self.leaves.and_then(|table| table.get(address));
        let leaf = known.unwrap_or_else(|| leaf_digest(hash, bytes));
        Some(HashedChunk { bytes, leaf, known: known.is_some() })
    }
}
