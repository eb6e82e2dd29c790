//! Which chunks of the target a patch may and must have records for (sections 2, 7.1, 7.4 and 9).

use std::fmt;

use crate::{
    Block, ChunkAddress, ChunkIndex, Encoding, Error, Index, Profile, Schema, SchemaDigest, TensorIndex,
};

/// The chunks of a target state, and which of its tensors have no base: the one home of the rules about both.
///
/// ```
/// use tensorpatch_format::{Dtype, Encoding, Grid, Schema, TensorIndex, TensorSpec};
///
/// let weight = |dims| TensorSpec::new("weight", Dtype::new("BF16").unwrap(), vec![dims]);
/// let base = Schema::new(vec![weight(4)?])?;
/// let target = Schema::new(vec![weight(8)?])?;
/// assert!(!Grid::new(&base, Some(&base)).is_fresh(TensorIndex(0)));
/// assert!(Grid::new(&target, Some(&base)).is_fresh(TensorIndex(0))); // resized
/// assert!(Grid::new(&base, None).is_fresh(TensorIndex(0)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Grid {
    target: Schema,
    digest: SchemaDigest,
    fresh: Vec<bool>,
}

/// What a record, or a missing one, has wrong about the grid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GridFault {
    field: &'static str,
    message: String,
}

/// A walk over the records of a whole file, in order.
#[derive(Debug, Clone)]
pub(crate) struct GridWalk {
    profile: Profile,
    /// The first address that may come next.
    tensor: u32,
    chunk: u32,
}

impl Grid {
    /// The grid of `target`, patched from a state with the schema `base`, or from nothing.
    ///
    /// Where the SCHEMA section says `same`, both are the base's.
    pub fn new(target: &Schema, base: Option<&Schema>) -> Self {
        let continued = |tensor: &crate::TensorSpec| {
            base.and_then(|base| base.get(base.find(&tensor.name)?))
                .is_some_and(|base| tensor.continues(base))
        };
        let fresh = target.tensors().iter().map(|tensor| !continued(tensor)).collect();
        Self { target: target.clone(), digest: target.digest(), fresh }
    }

    /// The target's schema.
    pub fn target(&self) -> &Schema {
        &self.target
    }

    /// The digest of the target's schema.
    pub fn digest(&self) -> SchemaDigest {
        self.digest
    }

    /// Whether the tensor has no base to be encoded against (section 7.1); false for one that is not in the
    /// target.
    pub fn is_fresh(&self, tensor: TensorIndex) -> bool {
        usize::try_from(tensor.0).ok().and_then(|at| self.fresh.get(at)).is_some_and(|fresh| *fresh)
    }

    fn name(&self, tensor: u32) -> &str {
        self.target.get(TensorIndex(tensor)).map_or("", |tensor| &tensor.name)
    }

    /// The chunks of a tensor of the target.
    fn chunks(&self, tensor: u32) -> Option<u32> {
        self.target.get(TensorIndex(tensor)).map(crate::TensorSpec::chunk_count)
    }
}

impl GridWalk {
    pub(crate) fn new(profile: Profile) -> Self {
        Self { profile, tensor: 0, chunk: 0 }
    }

    /// Checks every record of the next block.
    pub(crate) fn block(&mut self, grid: &Grid, block: &Block<'_>) -> Result<(), Error> {
        for record in block {
            self.step(grid, record.address).map_err(|fault| fault.at(record.offset))?;
            self.encoding(grid, record.address, record.encoding)
                .map_err(|fault| fault.at(record.encoding_offset))?;
        }
        Ok(())
    }

    /// Checks the chunks of all blocks by the index at `offset`. What their encodings are, it does not say.
    pub(crate) fn index(&mut self, grid: &Grid, index: &Index, offset: u64) -> Result<(), Error> {
        for address in index.addresses() {
            self.step(grid, *address).map_err(|fault| fault.at(offset))?;
        }
        self.finish(grid).map_err(|fault| fault.at(offset))
    }

    /// Checks the encoding of a chunk of the grid.
    pub(crate) fn encoding(
        &self,
        grid: &Grid,
        address: ChunkAddress,
        encoding: Encoding,
    ) -> Result<(), GridFault> {
        if !encoding.allowed_in(self.profile) {
            return fault(
                "encoding",
                format_args!("{encoding} is not allowed in the profile {}", self.profile),
            );
        }
        if grid.is_fresh(address.tensor) && !encoding.allowed_for_fresh() {
            let name = grid.name(address.tensor.0);
            return fault("encoding", format_args!("{encoding} needs a base, and tensor {name:?} has none"));
        }
        Ok(())
    }

    /// Goes on to the next record's chunk.
    pub(crate) fn step(&mut self, grid: &Grid, address: ChunkAddress) -> Result<(), GridFault> {
        let ChunkAddress { tensor: TensorIndex(tensor), chunk: ChunkIndex(chunk) } = address;
        let Some(chunks) = grid.chunks(tensor) else {
            let count = grid.target.tensors().len();
            return fault("tensor_step", format_args!("tensor {tensor} of a state with {count}"));
        };
        if chunk >= chunks {
            let name = grid.name(tensor);
            return fault("chunk", format_args!("chunk {chunk} of tensor {name:?}, which has {chunks}"));
        }
        if (tensor, chunk) < (self.tensor, self.chunk) {
            return fault("tensor_step", format_args!("tensor {tensor}, chunk {chunk} is out of grid order"));
        }
        self.skip_to(grid, tensor, chunk)?;
        // Below `chunks`, so this does not overflow.
        self.chunk = chunk.saturating_add(1);
        Ok(())
    }

    /// Says that no record follows.
    pub(crate) fn finish(&mut self, grid: &Grid) -> Result<(), GridFault> {
        self.skip_to(grid, u32::MAX, 0)
    }

    /// Passes over the chunks up to this one, none of which may be fresh.
    fn skip_to(&mut self, grid: &Grid, tensor: u32, chunk: u32) -> Result<(), GridFault> {
        while self.tensor < tensor {
            let Some(chunks) = grid.chunks(self.tensor) else { break };
            self.check_skipped(grid, chunks)?;
            self.tensor = self.tensor.saturating_add(1);
            self.chunk = 0;
        }
        if self.tensor == tensor {
            self.check_skipped(grid, chunk)?;
        }
        Ok(())
    }

    /// Checks that the chunks from the next one up to `end` of the current tensor may be left out.
    fn check_skipped(&self, grid: &Grid, end: u32) -> Result<(), GridFault> {
        if self.chunk < end && grid.is_fresh(TensorIndex(self.tensor)) {
            let (name, chunk) = (grid.name(self.tensor), self.chunk);
            return fault(
                "tensor_step",
                format_args!("tensor {name:?} has no base, and its chunk {chunk} is left out"),
            );
        }
        Ok(())
    }
}

impl GridFault {
    pub(crate) fn at(self, offset: u64) -> Error {
        Error::invalid(self.message, self.field, offset)
    }
}

fn fault(field: &'static str, message: fmt::Arguments<'_>) -> Result<(), GridFault> {
    Err(GridFault { field, message: message.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CHUNK_BYTES, Dtype, TensorSpec};

    fn tensor(name: &str, bytes: u64) -> TensorSpec {
        TensorSpec::new(name, Dtype::new("U8").unwrap(), vec![bytes]).unwrap()
    }

    /// Chunks: a has 1, b has 3, c none, d 1. Only b is fresh: it was smaller.
    fn grid() -> Grid {
        let chunk = CHUNK_BYTES as u64;
        let tensors = |b| vec![tensor("a", 5), tensor("b", b), tensor("c", 0), tensor("d", 1)];
        let base = Schema::new(tensors(7)).unwrap();
        Grid::new(&Schema::new(tensors(3 * chunk)).unwrap(), Some(&base))
    }

    fn walk(records: &[(u32, u32)]) -> Result<(), String> {
        let grid = grid();
        let mut walk = GridWalk::new(Profile::Compact);
        for (tensor, chunk) in records {
            let address = ChunkAddress { tensor: TensorIndex(*tensor), chunk: ChunkIndex(*chunk) };
            walk.step(&grid, address).map_err(|fault| format!("{}: {}", fault.field, fault.message))?;
        }
        walk.finish(&grid).map_err(|fault| fault.message)
    }

    #[test]
    fn fresh_tensors_are_complete_and_others_need_not_be() {
        walk(&[(1, 0), (1, 1), (1, 2)]).unwrap();
        walk(&[(0, 0), (1, 0), (1, 1), (1, 2), (3, 0)]).unwrap();
        for (records, missing) in [
            (&[][..], 0),
            (&[(0, 0)], 0),
            (&[(0, 0), (3, 0)], 0),
            (&[(1, 1), (1, 2)], 0),
            (&[(1, 0), (1, 2)], 1),
            (&[(1, 0), (1, 1)], 2),
            (&[(1, 0), (1, 1), (3, 0)], 2),
        ] {
            let error = walk(records).unwrap_err();
            assert!(
                error.contains(&format!("\"b\" has no base, and its chunk {missing} is left out")),
                "{error}"
            );
        }
    }

    #[test]
    fn chunks_outside_the_grid_or_out_of_order_are_refused() {
        assert!(walk(&[(4, 0)]).unwrap_err().contains("tensor 4 of a state with 4"));
        assert!(walk(&[(0, 1)]).unwrap_err().contains("chunk 1 of tensor \"a\", which has 1"));
        assert!(walk(&[(2, 0)]).unwrap_err().contains("chunk 0 of tensor \"c\", which has 0"));
        let all = [(0, 0), (1, 0), (1, 1), (1, 2), (3, 0)];
        for (later, earlier) in [(0, 0), (1, 0), (3, 1), (3, 3), (4, 0), (4, 4)] {
            let mut records = all[..=later].to_vec();
            records.push(all[earlier]);
            assert!(walk(&records).unwrap_err().contains("out of grid order"), "{records:?}");
        }
    }

    #[test]
    fn encodings_need_what_their_tensor_and_profile_give() {
        let grid = grid();
        let allowed = |profile, tensor, encoding| {
            let address = ChunkAddress { tensor: TensorIndex(tensor), chunk: ChunkIndex(0) };
            GridWalk::new(profile).encoding(&grid, address, encoding).is_ok()
        };
        use Encoding::{Raw, Scatter, Sparse, Xor, Zstd};
        for encoding in [Sparse, Scatter, Xor, Raw, Zstd] {
            assert!(allowed(Profile::Compact, 0, encoding));
            assert_eq!(allowed(Profile::Direct, 0, encoding), !matches!(encoding, Sparse | Xor));
            assert_eq!(allowed(Profile::Compact, 1, encoding), matches!(encoding, Raw | Zstd));
            assert_eq!(allowed(Profile::Direct, 1, encoding), matches!(encoding, Raw | Zstd));
        }
    }

    #[test]
    fn a_renamed_or_retyped_tensor_is_fresh_and_a_reshaped_one_is_not() {
        let spec =
            |dtype, shape: &[u64]| TensorSpec::new("t", Dtype::new(dtype).unwrap(), shape.to_vec()).unwrap();
        let base = Schema::new(vec![spec("BF16", &[2, 6])]).unwrap();
        let fresh =
            |tensor| Grid::new(&Schema::new(vec![tensor]).unwrap(), Some(&base)).is_fresh(TensorIndex(0));
        assert!(!fresh(spec("BF16", &[3, 4])));
        assert!(fresh(spec("F16", &[2, 6])));
        assert!(fresh(spec("BF16", &[2, 7])));
        assert!(fresh(tensor("u", 24)));
    }
}
