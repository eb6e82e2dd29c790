//! Which tensors of a target may be encoded against a base (section 7.1 of the format).

use tensorpatch_codec::leaf_digest;
use tensorpatch_format::{ChunkAddress, Schema, TensorIndex, TensorSpec};

use crate::{LeafTable, State};

/// For each tensor of a target the tensor of the base that it continues, if there is one.
#[derive(Debug)]
pub(crate) struct Continuation {
    of_target: Vec<Option<TensorIndex>>,
    base_is_continued: Vec<bool>,
}

impl Continuation {
    /// Without a base every tensor is fresh.
    pub(crate) fn new(base: Option<&Schema>, target: &Schema) -> Self {
        let mut base_is_continued = vec![false; base.map_or(0, |base| base.tensors().len())];
        let of_target: Vec<_> =
            target.tensors().iter().map(|spec| base.and_then(|base| base_of(base, spec))).collect();
        for index in of_target.iter().flatten() {
            if let Some(flag) = base_is_continued.get_mut(index.0 as usize) {
                *flag = true;
            }
        }
        Self { of_target, base_is_continued }
    }

    /// The chunk of the base that lies where `target` does.
    pub(crate) fn base_chunk(&self, target: ChunkAddress) -> Option<ChunkAddress> {
        let tensor = (*self.of_target.get(target.tensor.0 as usize)?)?;
        Some(ChunkAddress { tensor, chunk: target.chunk })
    }

    /// Hashes the chunks of the base that no tensor of the target continues (removed, retyped or resized):
    /// nothing else reads them, yet the base's digest covers them.
    pub(crate) fn hash_left_behind(&self, base: &State<'_>, table: &mut LeafTable) {
        let left_behind =
            |address: &ChunkAddress| self.base_is_continued.get(address.tensor.0 as usize) == Some(&false);
        for address in base.schema().grid().filter(left_behind) {
            if let Some(bytes) = base.chunk(address) {
                table.set(address, leaf_digest(table.hash(), bytes));
            }
        }
    }
}

/// The tensor of the base that a tensor of a target continues, if there is one.
pub(crate) fn base_of(base: &Schema, spec: &TensorSpec) -> Option<TensorIndex> {
    let index = base.find(&spec.name)?;
    base.get(index).is_some_and(|base| spec.continues(base)).then_some(index)
}
