//! A target given by what changes in its base.

use tensorpatch_codec::{Changes, ChunkContext, ChunkEncoder, CodecError, Encoded};
use tensorpatch_format::{CHUNK_BYTES, ChunkAddress, LeafDigest, Schema, TensorIndex, TensorSpec};

/// What changes in a tensor, for callers whose accelerator has found it already.
#[derive(Debug, Clone, Copy)]
pub struct TensorChanges<'a> {
    /// The tensor, by its number in the base's schema.
    pub tensor: TensorIndex,
    /// The numbers of elements in the tensor, strictly ascending. Elements may be listed that keep their
    /// value.
    pub positions: &'a [u64],
    /// The new values in the same order, little-endian, each as many bytes as an element has.
    pub values: &'a [u8],
}

/// Why listed changes are none of the base.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChangesError {
    /// There is no tensor with this number.
    #[error("there is no tensor number {0}")]
    NoSuchTensor(u32),
    /// A tensor is listed twice.
    #[error("{tensor}: its changes are listed twice")]
    Twice {
        /// The name of the tensor.
        tensor: String,
    },
    /// Positions are not strictly ascending, or beyond the tensor.
    #[error(
        "{tensor}: position {position}, number {index} of those listed, is out of order or not below {elements}"
    )]
    Position {
        /// The name of the tensor.
        tensor: String,
        /// Where in the list it stands.
        index: usize,
        /// The position.
        position: u64,
        /// The elements of the tensor.
        elements: u64,
    },
    /// Values of another dtype than the tensor's.
    #[error("{tensor}: values of {found} for a tensor of {expected}")]
    Dtype {
        /// The name of the tensor.
        tensor: String,
        /// Its dtype.
        expected: String,
        /// The dtype of the values.
        found: String,
    },
    /// There are not as many values as positions.
    #[error("{tensor}: {found} bytes of values for {positions} positions, expected {expected}")]
    Values {
        /// The name of the tensor.
        tensor: String,
        /// How many positions are listed.
        positions: usize,
        /// The bytes that their values take.
        expected: u128,
        /// The bytes of values.
        found: usize,
    },
}

/// The changes of a state, checked, by tensor.
#[derive(Debug)]
pub(crate) struct ByTensor<'a> {
    schema: &'a Schema,
    tensors: Vec<Option<TensorChanges<'a>>>,
}

impl<'a> ByTensor<'a> {
    pub(crate) fn new(schema: &'a Schema, changes: &[TensorChanges<'a>]) -> Result<Self, ChangesError> {
        let mut tensors = vec![None; schema.tensors().len()];
        for change in changes {
            let number = change.tensor.0;
            let none = ChangesError::NoSuchTensor(number);
            let Some(spec) = schema.get(change.tensor) else { return Err(none) };
            let place = usize::try_from(number).ok().and_then(|number| tensors.get_mut(number));
            let Some(place) = place else { return Err(none) };
            check(spec, change)?;
            if place.replace(*change).is_some() {
                return Err(ChangesError::Twice { tensor: spec.name.clone() });
            }
        }
        Ok(Self { schema, tensors })
    }

    /// Encodes a chunk of which the base and its leaf digest are given. One without listed changes costs
    /// nothing.
    pub(crate) fn encode(
        &self,
        encoder: &mut ChunkEncoder,
        context: ChunkContext,
        address: ChunkAddress,
        (base, leaf): (&[u8], LeafDigest),
        payload: &mut Vec<u8>,
    ) -> Result<Encoded, CodecError> {
        let changes = self.chunk(address, context.format.width());
        if changes.positions.is_empty() {
            return Ok(Encoded { encoding: None, leaf, changed_elements: 0 });
        }
        encoder.encode_changes(context, base, &changes, Some(leaf), payload)
    }

    /// The changes of a chunk, by their numbers in it.
    fn chunk(&self, address: ChunkAddress, width: usize) -> Changes {
        let mut changes = Changes::default();
        let number = usize::try_from(address.tensor.0).ok();
        let Some(Some(listed)) = number.and_then(|number| self.tensors.get(number)) else { return changes };
        let per_chunk = (CHUNK_BYTES / width) as u64;
        let first = u64::from(address.chunk.0) * per_chunk;
        let from = listed.positions.partition_point(|&position| position < first);
        let to = listed.positions.partition_point(|&position| position < first + per_chunk);
        let positions = listed.positions.get(from..to).unwrap_or_default();
        // Below the elements of a chunk.
        changes
            .positions
            .extend(positions.iter().filter_map(|&position| u32::try_from(position - first).ok()));
        changes.values.extend_from_slice(listed.values.get(from * width..to * width).unwrap_or_default());
        changes
    }

    pub(crate) fn schema(&self) -> &'a Schema {
        self.schema
    }
}

fn check(spec: &TensorSpec, changes: &TensorChanges<'_>) -> Result<(), ChangesError> {
    let tensor = || spec.name.clone();
    let width = spec.dtype.element_format().width();
    let elements = spec.byte_len / width as u64;
    let mut next = 0;
    for (index, &position) in changes.positions.iter().enumerate() {
        if position < next || position >= elements {
            return Err(ChangesError::Position { tensor: tensor(), index, position, elements });
        }
        next = position + 1;
    }
    let (positions, found) = (changes.positions.len(), changes.values.len());
    let expected = positions as u128 * width as u128;
    if expected != found as u128 {
        return Err(ChangesError::Values { tensor: tensor(), positions, expected, found });
    }
    Ok(())
}
