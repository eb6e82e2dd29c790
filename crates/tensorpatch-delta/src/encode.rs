//! From two states to the bytes of a patch.

use std::io::{self, Write};

use tensorpatch_checkpoint::CheckpointError;
use tensorpatch_codec::{ChunkContext, ChunkEncoder, CodecError, Encoded, leaf_digest};
use tensorpatch_format::{
    BlockBuilder, ChunkAddress, ElementFormat, Encoding, Ends, ErrorKind, FinishedBlock, Kind, Layout,
    LayoutDigest, LeafDigest, LeafHash, PatchHeader, Schema, StateDigest, TensorIndex, WriteError,
};

use crate::changes::{ByTensor, ChangesError, TensorChanges};
use crate::continuation::Continuation;
use crate::emit::{Emitter, Head};
use crate::parallel::ordered;
use crate::spans::Spans;
use crate::{Cancelled, LeafTable, Options, Progress, Snapshot, State};

/// What a patch holds, and the leaf table of its target.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DiffReport {
    /// Whether anything changed.
    pub kind: Kind,
    /// The digest of the base; [`StateDigest::NONE`] for a full patch.
    pub base: StateDigest,
    /// The digest of the target.
    pub target: StateDigest,
    /// Bytes of the patch file.
    pub patch_bytes: u64,
    /// Elements of the target.
    pub total_elements: u64,
    /// Elements whose bits differ from the base's; all elements of tensors that have no base.
    pub changed_elements: u64,
    /// Chunks of the target.
    pub total_chunks: u64,
    /// How many chunks took which encoding, and the bytes of their payloads, by [`Encoding::code`].
    pub encodings: Vec<EncodingUse>,
    /// The leaf table of the target.
    pub leaves: LeafTable,
}

/// How much of a patch took one encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncodingUse {
    /// The encoding.
    pub encoding: Encoding,
    /// Chunks that took it.
    pub chunks: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
}

/// Why no patch was made. Nothing that existed before was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiffError {
    /// The patch could not be written.
    #[error("cannot write the patch")]
    Write(#[from] io::Error),
    /// A leaf table that was made with another hash than the patch is to have.
    #[error("the leaf table of the base is made with {found}, the patch is to have {expected}")]
    LeafHash {
        /// The hash of the patch.
        expected: LeafHash,
        /// The hash of the table.
        found: LeafHash,
    },
    /// Listed changes that are none of the base.
    #[error("the changes do not fit the base")]
    NoChanges(#[from] ChangesError),
    /// Listed changes that cannot be encoded.
    #[error("tensor {}, chunk {}: the changes cannot be encoded", address.tensor.0, address.chunk.0)]
    Changes {
        /// The chunk.
        address: ChunkAddress,
        /// Why not.
        source: CodecError,
    },
    /// Content that the format has no room for.
    #[error("the patch cannot be encoded")]
    Encode(#[from] WriteError),
    /// A checkpoint could not be read, or the file of the patch not be written.
    #[error(transparent)]
    Checkpoint(Box<CheckpointError>),
    /// The caller's progress said to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl From<CheckpointError> for DiffError {
    fn from(error: CheckpointError) -> Self {
        Self::Checkpoint(Box::new(error))
    }
}

impl DiffError {
    /// Who must act on the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Write(_) => ErrorKind::Io,
            Self::LeafHash { .. } | Self::NoChanges(_) | Self::Changes { .. } | Self::Encode(_) => {
                ErrorKind::Refused
            }
            Self::Checkpoint(error) => error.kind(),
            Self::Cancelled(_) => ErrorKind::Cancelled,
        }
    }
}

/// Writes the patch that turns `base` into `target`.
///
/// Both are read once. The bytes written depend on the states, the layouts, [`Options::profile`] and
/// [`Options::leaf_hash`] alone. If nothing changed, the patch says so ([`Kind::Empty`]).
///
/// However much changes, the patch has at most 400 bytes more than the tensors of `target`, 64 for each of their chunks, and, where
/// schema or layout are others than those of `base`, the canonical bytes of both. The same holds for [`encode_full`].
///
/// # Errors
/// If writing to `out` fails, or the base's leaf table does not fit the options.
pub fn encode_diff(
    base: &Snapshot<'_>,
    target: &Snapshot<'_>,
    options: &Options,
    progress: Progress<'_>,
    out: &mut dyn Write,
) -> Result<DiffReport, DiffError> {
    encode(Some(base), target.into(), options, progress, out)
}

/// Writes the same patch as [`encode_diff`], with the target given by what changes in `base`; tensors and files stay the same.
///
/// Only chunks with changes are encoded; the others are not read at all if the leaf table of `base` is known.
///
/// # Errors
/// If the changes are none of the base, writing to `out` fails, or the base's leaf table does not fit the options.
pub fn encode_changes(
    base: &Snapshot<'_>,
    changes: &[TensorChanges<'_>],
    options: &Options,
    progress: Progress<'_>,
    out: &mut dyn Write,
) -> Result<DiffReport, DiffError> {
    let changes = ByTensor::new(base.state.schema(), changes)?;
    let target = Target { layout: base.layout, tensors: Tensors::Changes(&changes) };
    encode(Some(base), target, options, progress, out)
}

/// Writes a patch that holds the whole of `target` and needs no base.
///
/// # Errors
/// If writing to `out` fails.
pub fn encode_full(
    target: &Snapshot<'_>,
    options: &Options,
    progress: Progress<'_>,
    out: &mut dyn Write,
) -> Result<DiffReport, DiffError> {
    encode(None, target.into(), options, progress, out)
}

/// What is to become of the base.
#[derive(Clone, Copy)]
struct Target<'a> {
    layout: &'a Layout,
    tensors: Tensors<'a>,
}

/// Its tensors: all their bytes, or what changes in them.
#[derive(Clone, Copy)]
enum Tensors<'a> {
    State(&'a State<'a>),
    Changes(&'a ByTensor<'a>),
}

impl<'a> From<&'a Snapshot<'a>> for Target<'a> {
    fn from(version: &'a Snapshot<'a>) -> Self {
        Self { layout: version.layout, tensors: Tensors::State(&version.state) }
    }
}

impl<'a> Tensors<'a> {
    fn schema(self) -> &'a Schema {
        match self {
            Self::State(state) => state.schema(),
            Self::Changes(changes) => changes.schema(),
        }
    }
}

fn encode(
    base: Option<&Snapshot<'_>>,
    target: Target<'_>,
    options: &Options,
    progress: Progress<'_>,
    out: &mut dyn Write,
) -> Result<DiffReport, DiffError> {
    let hash = options.leaf_hash;
    let known = base.and_then(|base| base.leaves);
    if let Some(found) = known.map(LeafTable::hash).filter(|found| *found != hash) {
        return Err(DiffError::LeafHash { expected: hash, found });
    }
    let schema = target.tensors.schema();
    let same_schema = base.is_some_and(|base| base.state.schema() == schema);
    let base_layout = base.map_or(LayoutDigest::NONE, |base| base.layout.digest());
    let target_layout = target.layout.digest();
    let head = Head {
        full: base.is_none(),
        profile: options.profile,
        leaf_hash: hash,
        schema: (!same_schema).then_some(schema),
        layout: (!same_schema || base_layout != target_layout).then_some(target.layout),
    };

    let spans = Spans::new(schema);
    let continuation = Continuation::new(base.map(|base| base.state.schema()), schema);
    let encoder = SpanEncoder {
        base: base.map(|base| &base.state),
        base_leaves: known,
        target: target.tensors,
        continuation: &continuation,
        spans: &spans,
        header: head.header(true),
    };
    let mut emitter = Emitter::new(head, out);
    let mut leaves = LeafTable::empty(schema, hash);
    let mut base_leaves =
        base.map(|base| known.cloned().unwrap_or_else(|| LeafTable::empty(base.state.schema(), hash)));
    let mut tally = Tally::default();
    ordered(
        options.threads,
        spans.all().len(),
        ChunkEncoder::new,
        |chunks, span| {
            let encoded = encoder.encode(chunks, span)?;
            progress.advance(spans.bytes(span))?;
            Ok(encoded)
        },
        |_, span| {
            tally.add(&span.tally);
            span.target_leaves.iter().for_each(|(address, leaf)| leaves.set(*address, *leaf));
            if let Some(table) = &mut base_leaves {
                span.base_leaves.iter().for_each(|(address, leaf)| table.set(*address, *leaf));
            }
            span.block.map_or(Ok(()), |block| emitter.block(block))
        },
    )?;
    if let (Some(base), None, Some(table)) = (base, known, &mut base_leaves) {
        continuation.hash_left_behind(&base.state, table);
    }

    let ends = Ends {
        base_state: base
            .zip(base_leaves)
            .map_or(StateDigest::NONE, |(base, table)| table.state_digest(base.state.schema())),
        target_state: leaves.state_digest(schema),
        target_schema: schema.digest(),
        base_layout,
        target_layout,
    };
    let (kind, patch_bytes) = emitter.finish(&ends)?;
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
        changed_elements: tally.changed_elements,
        total_chunks: schema.chunk_count(),
        encodings: tally.uses(),
        leaves,
    })
}

struct SpanEncoder<'a> {
    base: Option<&'a State<'a>>,
    base_leaves: Option<&'a LeafTable>,
    target: Tensors<'a>,
    continuation: &'a Continuation,
    spans: &'a Spans<'a>,
    /// Of a patch in which something changed: an empty patch has no blocks.
    header: PatchHeader,
}

struct EncodedSpan {
    /// None if nothing changed.
    block: Option<FinishedBlock>,
    /// Of the base's chunks that were hashed on the way, by their address in the base.
    base_leaves: Vec<(ChunkAddress, LeafDigest)>,
    target_leaves: Vec<(ChunkAddress, LeafDigest)>,
    tally: Tally,
}

impl SpanEncoder<'_> {
    fn encode(&self, encoder: &mut ChunkEncoder, span: usize) -> Result<EncodedSpan, DiffError> {
        let mut block = BlockBuilder::new(&self.header);
        let mut out = EncodedSpan {
            block: None,
            base_leaves: Vec::new(),
            target_leaves: Vec::new(),
            tally: Tally::default(),
        };
        self.spans
            .get(span)
            .try_for_each(|address| self.encode_chunk(encoder, address, &mut block, &mut out))?;
        if !block.is_empty() {
            out.block = Some(block.finish()?);
        }
        Ok(out)
    }

    fn encode_chunk(
        &self,
        encoder: &mut ChunkEncoder,
        address: ChunkAddress,
        block: &mut BlockBuilder,
        out: &mut EncodedSpan,
    ) -> Result<(), DiffError> {
        let context = self.context(address.tensor);
        let base = self.continuation.base_chunk(address);
        let base = base.and_then(|address| Some((address, self.base?.chunk(address)?)));
        let base = base.map(|(address, bytes)| {
            let known = self.base_leaves.and_then(|table| table.get(address));
            let leaf = known.unwrap_or_else(|| leaf_digest(context.leaf_hash, bytes));
            if known.is_none() {
                out.base_leaves.push((address, leaf));
            }
            (bytes, leaf)
        });
        let (tally, target_leaves) = (&mut out.tally, &mut out.target_leaves);
        let mut failed = None;
        block.push_with(address, |payload| {
            let before = payload.len();
            let encoded = match (self.target, base) {
                (Tensors::State(target), None) => {
                    encoder.encode_fresh(context, target.chunk(address)?, payload)
                }
                (Tensors::State(target), Some((base, leaf))) => {
                    encoder.encode(context, base, target.chunk(address)?, Some(leaf), payload)
                }
                (Tensors::Changes(changes), base) => {
                    let encoded = changes.encode(encoder, context, address, base?, payload);
                    encoded.map_err(|error| failed = Some(error)).ok()?
                }
            };
            target_leaves.push((address, encoded.leaf));
            tally.count(&encoded, (payload.len() - before) as u64);
            Some((encoded.encoding?, encoded.leaf))
        })?;
        failed.map_or(Ok(()), |error| Err(DiffError::Changes { address, source: error }))
    }

    fn context(&self, tensor: TensorIndex) -> ChunkContext {
        let spec = self.spans.schema().get(tensor);
        let format = spec.map_or(ElementFormat::W8, |spec| spec.dtype.element_format());
        ChunkContext { format, profile: self.header.profile, leaf_hash: self.header.leaf_hash }
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
