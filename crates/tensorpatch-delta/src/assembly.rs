//! A patch put together of its spans.

use std::io::Write;

use tensorpatch_codec::Encoded;
use tensorpatch_format::{
    BlockBuilder, ChunkAddress, Encoding, Ends, FinishedBlock, Layout, LayoutDigest, LeafDigest, PatchHeader,
    Schema, StateDigest,
};

use crate::continuation::Continuation;
use crate::emit::{Emitter, Head};
use crate::{DiffError, DiffReport, EncodingUse, LeafTable, Options, Snapshot};

/// A patch that is put together of its spans, in grid order.
pub(crate) struct Assembly<'a> {
    base: Option<&'a Snapshot<'a>>,
    schema: &'a Schema,
    layout: &'a Layout,
    header: PatchHeader,
    emitter: Emitter<'a>,
    leaves: LeafTable,
    base_leaves: Option<LeafTable>,
    tally: Tally,
}

impl<'a> Assembly<'a> {
    /// A patch that makes a state of `schema`, in files of `layout`, of `base` or of nothing.
    pub(crate) fn new(
        base: Option<&'a Snapshot<'a>>,
        schema: &'a Schema,
        layout: &'a Layout,
        options: &Options,
        out: &'a mut dyn Write,
    ) -> Self {
        let hash = options.leaf_hash;
        let same_schema = base.is_some_and(|base| base.state.schema() == schema);
        let same_layout = same_schema && base.is_some_and(|base| base.layout == layout);
        let head = Head {
            full: base.is_none(),
            profile: options.profile,
            leaf_hash: hash,
            schema: (!same_schema).then_some(schema),
            layout: (!same_layout).then_some(layout),
        };
        let base_leaves = base
            .map(|base| base.leaves.cloned().unwrap_or_else(|| LeafTable::empty(base.state.schema(), hash)));
        Self {
            base,
            schema,
            layout,
            header: head.header(true),
            emitter: Emitter::new(head, out),
            leaves: LeafTable::empty(schema, hash),
            base_leaves,
            tally: Tally::default(),
        }
    }

    /// The header of a patch in which something changed: an empty patch has no blocks.
    pub(crate) fn header(&self) -> PatchHeader {
        self.header
    }

    /// Adds the next span of the grid.
    pub(crate) fn add(&mut self, span: EncodedSpan) -> Result<(), DiffError> {
        self.tally.add(&span.tally);
        span.target_leaves.iter().for_each(|(address, leaf)| self.leaves.set(*address, *leaf));
        if let Some(table) = &mut self.base_leaves {
            span.base_leaves.iter().for_each(|(address, leaf)| table.set(*address, *leaf));
        }
        span.block.map_or(Ok(()), |block| self.emitter.block(block))
    }

    /// Writes the end of the patch, after the last span.
    pub(crate) fn finish(mut self, continuation: &Continuation) -> Result<DiffReport, DiffError> {
        if let (Some(base), Some(table)) = (self.base, &mut self.base_leaves)
            && base.leaves.is_none()
        {
            continuation.hash_left_behind(&base.state, table);
        }
        let schema = self.schema;
        let ends = Ends {
            base_state: self
                .base
                .zip(self.base_leaves)
                .map_or(StateDigest::NONE, |(base, table)| table.state_digest(base.state.schema())),
            target_state: self.leaves.state_digest(schema),
            target_schema: schema.digest(),
            base_layout: self.base.map_or(LayoutDigest::NONE, |base| base.layout.digest()),
            target_layout: self.layout.digest(),
        };
        let (kind, patch_bytes) = self.emitter.finish(&ends)?;
        Ok(DiffReport {
            kind,
            base: ends.base_state,
            target: ends.target_state,
            patch_bytes,
            total_elements: schema
                .tensors()
                .iter()
                .map(|t| t.byte_len / t.dtype.element_format().width() as u64)
                .sum(),
            changed_elements: self.tally.changed_elements,
            total_chunks: schema.chunk_count(),
            encodings: self.tally.uses(),
            leaves: self.leaves,
        })
    }
}

/// The chunks of a span as they are encoded.
pub(crate) struct SpanBuilder {
    block: BlockBuilder,
    base_leaves: Vec<(ChunkAddress, LeafDigest)>,
    target_leaves: Vec<(ChunkAddress, LeafDigest)>,
    tally: Tally,
}

/// A span whose chunks are all encoded.
pub(crate) struct EncodedSpan {
    /// None if nothing changed.
    block: Option<FinishedBlock>,
    /// Of the base's chunks that were hashed on the way, by their address in the base.
    base_leaves: Vec<(ChunkAddress, LeafDigest)>,
    target_leaves: Vec<(ChunkAddress, LeafDigest)>,
    tally: Tally,
}

impl SpanBuilder {
    pub(crate) fn new(header: &PatchHeader) -> Self {
        Self {
            block: BlockBuilder::new(header),
            base_leaves: Vec::new(),
            target_leaves: Vec::new(),
            tally: Tally::default(),
        }
    }

    /// Keeps the digest of a chunk of the base.
    pub(crate) fn base_leaf(&mut self, address: ChunkAddress, leaf: LeafDigest) {
        self.base_leaves.push((address, leaf));
    }

    /// Adds the next chunk, whose payload `encode` appends.
    pub(crate) fn chunk(
        &mut self,
        address: ChunkAddress,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<Option<Encoded>, DiffError>,
    ) -> Result<(), DiffError> {
        let (tally, target_leaves) = (&mut self.tally, &mut self.target_leaves);
        let mut failed = Ok(());
        self.block.push_with(address, |payload| {
            let before = payload.len();
            let encoded = encode(payload).unwrap_or_else(|error| {
                failed = Err(error);
                None
            })?;
            target_leaves.push((address, encoded.leaf));
            tally.count(&encoded, (payload.len() - before) as u64);
            Some((encoded.encoding?, encoded.leaf))
        })?;
        failed
    }

    pub(crate) fn finish(self) -> Result<EncodedSpan, DiffError> {
        let Self { block, base_leaves, target_leaves, tally } = self;
        let block = if block.is_empty() { None } else { Some(block.finish()?) };
        Ok(EncodedSpan { block, base_leaves, target_leaves, tally })
    }
}

/// Counts of what chunks became.
#[derive(Debug, Default)]
struct Tally {
    changed_elements: u64,
    /// Chunks and payload bytes by the place of the encoding in [`Encoding::ALL`].
    uses: [(u64, u64); Encoding::ALL.len()],
}

impl Tally {
    fn count(&mut self, encoded: &Encoded, bytes: u64) {
        self.changed_elements += encoded.changed_elements;
        for (encoding, slot) in Encoding::ALL.iter().zip(&mut self.uses) {
            if encoded.encoding == Some(*encoding) {
                slot.0 += 1;
                slot.1 += bytes;
            }
        }
    }

    fn add(&mut self, other: &Self) {
        self.changed_elements += other.changed_elements;
        for (sum, more) in self.uses.iter_mut().zip(&other.uses) {
            sum.0 += more.0;
            sum.1 += more.1;
        }
    }

    fn uses(&self) -> Vec<EncodingUse> {
        let used = Encoding::ALL.iter().zip(&self.uses).filter(|(_, (chunks, _))| *chunks > 0);
        used.map(|(encoding, (chunks, bytes))| EncodingUse {
            encoding: *encoding,
            chunks: *chunks,
            bytes: *bytes,
        })
        .collect()
    }
}
