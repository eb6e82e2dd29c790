//! From two states to the bytes of a patch.

use std::io::{self, Write};

use tensorpatch_checkpoint::CheckpointError;
use tensorpatch_codec::{ChunkContext, ChunkDecoder, ChunkEncoder, CodecError, Encoded, leaf_digest};
use tensorpatch_format::{
    BlockBuilder, CHUNK_BYTES, ChunkAddress, ElementFormat, Encoding, Ends, ErrorKind, FinishedBlock, Kind,
    Layout, LayoutDigest, LeafDigest, LeafHash, PatchHeader, Schema, StateDigest, TensorIndex, WriteError,
};

use crate::changes::{ByTensor, ChangesError, TensorChanges};
use crate::continuation::Continuation;
use crate::emit::{Emitter, Head};
use crate::parallel::ordered;
use crate::spans::Spans;
use crate::state::HashedChunk;
use crate::{Cancelled, LeafTable, Options, Progress, Snapshot, State, TensorsError};

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
    /// A state was altered while it was read: what was encoded does not decode to what was hashed.
    #[error("tensor {tensor:?}, chunk {}: it was altered while it was read", address.chunk.0)]
    Altered {
        /// The tensor.
        tensor: String,
        /// The chunk.
        address: ChunkAddress,
    },
    /// Content that the format has no room for.
    #[error("the patch cannot be encoded")]
    Encode(#[from] WriteError),
    /// A checkpoint could not be read, or the file of the patch not be written.
    #[error(transparent)]
    Checkpoint(Box<CheckpointError>),
    /// Tensors that make no state, or not one that continues the base.
    #[error(transparent)]
    Tensors(#[from] TensorsError),
    /// The changes of tensors that were given one at a time could not be kept in a temporary file.
    #[error("cannot keep changes in a temporary file")]
    Scratch(#[source] io::Error),
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
            Self::Write(_) | Self::Scratch(_) => ErrorKind::Io,
            Self::LeafHash { .. } | Self::NoChanges(_) | Self::Changes { .. } | Self::Encode(_) => {
                ErrorKind::Refused
            }
            Self::Altered { .. } => ErrorKind::Conflict,
            Self::Checkpoint(error) => error.kind(),
            Self::Tensors(error) => error.kind(),
            Self::Cancelled(_) => ErrorKind::Cancelled,
        }
    }
}

/// Writes the patch that turns `base` into `target`.
///
/// Both are read once. The bytes written depend on the states, the layouts, [`Options::profile`] and
/// [`Options::leaf_hash`] alone. If nothing changed, the patch says so ([`Kind::Empty`]).
///
/// However much changes, the patch has at most 400 bytes more than the tensors of `target`, 64 for each of
/// their chunks, and, where schema or layout are others than those of `base`, the canonical bytes of both.
/// The same holds for [`encode_full`].
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

/// Writes the same patch as [`encode_diff`], with the target given by what changes in `base`; tensors and
/// files stay the same.
///
/// Only chunks with changes are encoded; the others are not read at all if the leaf table of `base` is known.
///
/// # Errors
/// If the changes are none of the base, writing to `out` fails, or the base's leaf table does not fit the
/// options.
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
    if let Some(base) = base {
        base.check_leaves(options.leaf_hash)?;
    }
    let schema = target.tensors.schema();
    let mut assembly = Assembly::new(base, schema, target.layout, options, out);
    let spans = Spans::new(schema);
    let continuation = Continuation::new(base.map(|base| base.state.schema()), schema);
    let encoder = SpanEncoder {
        base,
        target: target.tensors,
        continuation: &continuation,
        spans: &spans,
        header: assembly.header(),
    };
    ordered(
        options.threads,
        spans.all().len(),
        || (ChunkEncoder::new(), options.checked.then(Check::new)),
        |(chunks, check), span| {
            let encoded = encoder.encode(chunks, check.as_mut(), span)?;
            progress.advance(spans.bytes(span))?;
            Ok(encoded)
        },
        |_, span| assembly.add(span),
    )?;
    assembly.finish(&continuation)
}

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

struct SpanEncoder<'a> {
    base: Option<&'a Snapshot<'a>>,
    target: Tensors<'a>,
    continuation: &'a Continuation,
    spans: &'a Spans<'a>,
    header: PatchHeader,
}

/// What decodes each chunk once it is encoded.
struct Check {
    decoder: ChunkDecoder,
    /// The base's chunk as it was hashed: the base may be altered meanwhile.
    base: Vec<u8>,
    target: Vec<u8>,
}

impl Check {
    fn new() -> Self {
        Self { decoder: ChunkDecoder::new(), base: Vec::new(), target: vec![0; CHUNK_BYTES] }
    }
}

/// Whether `payload` makes the chunk of which `encoded` has the digest, of `len` bytes, of `base`.
fn is_sound(
    (decoder, target): (&mut ChunkDecoder, &mut [u8]),
    context: ChunkContext,
    base: Option<(&[u8], LeafDigest)>,
    encoded: &Encoded,
    payload: &[u8],
    len: usize,
) -> bool {
    let (Some(encoding), Some(target)) = (encoded.encoding, target.get_mut(..len)) else {
        // Nothing changed, which is so where the digests are the same.
        return base.is_some_and(|(_, leaf)| leaf == encoded.leaf);
    };
    let decoded = decoder.decode(context, encoding, payload, base.map(|(bytes, _)| bytes), target);
    decoded.is_ok_and(|leaf| leaf == encoded.leaf)
}

impl SpanEncoder<'_> {
    fn encode(
        &self,
        encoder: &mut ChunkEncoder,
        mut check: Option<&mut Check>,
        span: usize,
    ) -> Result<EncodedSpan, DiffError> {
        let mut out = SpanBuilder::new(&self.header);
        let mut encode = |address| self.encode_chunk(encoder, check.as_deref_mut(), address, &mut out);
        self.spans.get(span).try_for_each(&mut encode)?;
        out.finish()
    }

    fn encode_chunk(
        &self,
        encoder: &mut ChunkEncoder,
        check: Option<&mut Check>,
        address: ChunkAddress,
        out: &mut SpanBuilder,
    ) -> Result<(), DiffError> {
        let context = self.context(address.tensor);
        let at = self.continuation.base_chunk(address);
        let base = at.zip(self.base);
        let mut decoder = None;
        let base = match check {
            None => base.and_then(|(at, base)| base.chunk(at, context.leaf_hash)),
            Some(Check { decoder: checking, base: copy, target }) => {
                decoder = Some((checking, target.as_mut_slice()));
                copy.clear();
                base.and_then(|(at, base)| base.state.chunk(at)).map(|bytes| {
                    copy.extend_from_slice(bytes);
                    HashedChunk { bytes: copy, leaf: leaf_digest(context.leaf_hash, copy), known: false }
                })
            }
        };
        if let Some((at, chunk)) = at.zip(base.as_ref()).filter(|(_, chunk)| !chunk.known) {
            out.base_leaf(at, chunk.leaf);
        }
        let base = base.map(|chunk| (chunk.bytes, chunk.leaf));
        out.chunk(address, |payload| match (self.target, base) {
            (Tensors::State(target), base) => {
                let Some(target) = target.chunk(address) else { return Ok(None) };
                let before = payload.len();
                let encoded = encode_over(encoder, context, base, target, payload);
                let payload = payload.get(before..).unwrap_or_default();
                let is_altered = decoder.is_some_and(|decoder| {
                    !is_sound(decoder, context, base, &encoded, payload, target.len())
                });
                if is_altered {
                    let spec = self.spans.schema().get(address.tensor);
                    let tensor = spec.map(|spec| spec.name.clone()).unwrap_or_default();
                    return Err(DiffError::Altered { tensor, address });
                }
                Ok(Some(encoded))
            }
            (Tensors::Changes(_), None) => Ok(None),
            (Tensors::Changes(changes), Some(base)) => {
                let encoded = changes.encode(encoder, context, address, base, payload);
                encoded.map(Some).map_err(|source| DiffError::Changes { address, source })
            }
        })
    }

    fn context(&self, tensor: TensorIndex) -> ChunkContext {
        let spec = self.spans.schema().get(tensor);
        let format = spec.map_or(ElementFormat::W8, |spec| spec.dtype.element_format());
        ChunkContext { format, profile: self.header.profile, leaf_hash: self.header.leaf_hash }
    }
}

/// Encodes a chunk over that of the base, of which the digest is given, or over nothing.
pub(crate) fn encode_over(
    encoder: &mut ChunkEncoder,
    context: ChunkContext,
    base: Option<(&[u8], LeafDigest)>,
    target: &[u8],
    payload: &mut Vec<u8>,
) -> Encoded {
    match base {
        Some((base, leaf)) => encoder.encode(context, base, target, Some(leaf), payload),
        None => encoder.encode_fresh(context, target, payload),
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
