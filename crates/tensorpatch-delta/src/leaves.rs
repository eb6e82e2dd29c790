//! The leaf table of a state: the digest of each chunk (section 4 of the format).

use std::num::NonZeroUsize;

use tensorpatch_codec::leaf_digest;
use tensorpatch_format::{
    ChunkAddress, LeafDigest, LeafHash, Schema, StateDigest, TensorDigest, TensorIndex,
};

use crate::parallel::ordered;
use crate::spans::Spans;
use crate::{Cancelled, Progress, State};

/// The leaf digests of a state in grid order: 16 or 32 bytes for each MiB of model.
///
/// Whoever keeps it rehashes only the chunks that a patch touches, and can tell which chunk of a damaged
/// checkpoint is at fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafTable {
    hash: LeafHash,
    /// The number of the first leaf of each tensor, and the number of leaves at the end.
    starts: Vec<usize>,
    bytes: Vec<u8>,
}

impl LeafTable {
    /// Hashes every chunk of `state`.
    ///
    /// # Errors
    /// [`Cancelled`] if `progress` says to stop.
    pub fn of(
        state: &State<'_>,
        hash: LeafHash,
        threads: NonZeroUsize,
        progress: Progress<'_>,
    ) -> Result<Self, Cancelled> {
        let mut table = Self::empty(state.schema(), hash);
        let spans = Spans::new(state.schema());
        ordered(
            threads,
            spans.all().len(),
            || (),
            |(), span| {
                let leaf = |address| Some((address, leaf_digest(hash, state.chunk(address)?)));
                let leaves = spans.get(span).filter_map(leaf).collect::<Vec<_>>();
                progress.advance(spans.bytes(span)).map(|()| leaves)
            },
            |_, leaves| {
                leaves.into_iter().for_each(|(address, leaf)| table.set(address, leaf));
                Ok(())
            },
        )?;
        Ok(table)
    }

    /// A table for `schema` whose leaves are still to be set.
    pub(crate) fn empty(schema: &Schema, hash: LeafHash) -> Self {
        let mut starts = vec![0];
        let mut leaves = 0_usize;
        for tensor in schema.tensors() {
            leaves += tensor.chunk_count() as usize;
            starts.push(leaves);
        }
        Self { hash, starts, bytes: vec![0; leaves * hash.digest_len()] }
    }

    /// The table of `schema` from [`LeafTable::as_bytes`], or `None` if that many bytes are not there.
    pub fn from_bytes(schema: &Schema, hash: LeafHash, bytes: Vec<u8>) -> Option<Self> {
        let expected = schema.chunk_count().checked_mul(hash.digest_len() as u64)?;
        if bytes.len() as u64 != expected {
            return None;
        }
        Some(Self { bytes, ..Self::starts_only(schema, hash) })
    }

    fn starts_only(schema: &Schema, hash: LeafHash) -> Self {
        let mut table = Self::empty(schema, hash);
        table.bytes = Vec::new();
        table
    }

    /// The leaf digests one after the other, in grid order.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The hash over chunks.
    pub fn hash(&self) -> LeafHash {
        self.hash
    }

    /// The digest of a chunk, or `None` if the state has no such chunk.
    pub fn get(&self, address: ChunkAddress) -> Option<LeafDigest> {
        LeafDigest::from_bytes(self.hash, self.bytes.get(self.range(address)?)?)
    }

    /// Sets the digest of a chunk. A chunk that the state does not have, or a digest of another hash, is
    /// ignored: the state digest then tells.
    pub fn set(&mut self, address: ChunkAddress, leaf: LeafDigest) {
        if let Some(slot) = self.range(address).and_then(|range| self.bytes.get_mut(range))
            && slot.len() == leaf.as_bytes().len()
        {
            slot.copy_from_slice(leaf.as_bytes());
        }
    }

    fn range(&self, address: ChunkAddress) -> Option<std::ops::Range<usize>> {
        let tensor = address.tensor.0 as usize;
        let leaf = self.starts.get(tensor)?.checked_add(address.chunk.0 as usize)?;
        if leaf >= *self.starts.get(tensor + 1)? {
            return None;
        }
        let len = self.hash.digest_len();
        Some(leaf * len..(leaf + 1) * len)
    }

    /// The digest of each tensor, in the order of `schema`, which must be the one that the table was made
    /// for.
    pub fn tensor_digests(&self, schema: &Schema) -> Vec<TensorDigest> {
        (0..)
            .map(TensorIndex)
            .zip(schema.tensors())
            .map(|(index, spec)| self.tensor_digest(index, spec.byte_len))
            .collect()
    }

    fn tensor_digest(&self, tensor: TensorIndex, byte_len: u64) -> TensorDigest {
        let tensor = tensor.0 as usize;
        let len = self.hash.digest_len();
        let range = self
            .starts
            .get(tensor)
            .zip(self.starts.get(tensor + 1))
            .map(|(start, end)| start * len..end * len);
        let bytes = range.and_then(|range| self.bytes.get(range)).unwrap_or_default();
        let leaves: Vec<_> =
            bytes.chunks_exact(len).filter_map(|leaf| LeafDigest::from_bytes(self.hash, leaf)).collect();
        TensorDigest::of_leaves(self.hash, byte_len, &leaves)
    }

    /// The digest of the whole state of `schema`, which must be the one that the table was made for.
    pub fn state_digest(&self, schema: &Schema) -> StateDigest {
        StateDigest::of_tensors(schema.digest(), &self.tensor_digests(schema))
    }
}
