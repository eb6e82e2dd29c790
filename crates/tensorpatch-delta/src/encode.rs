//! From two states to the bytes of a patch.

use std::io::{self, Write};

use tensorpatch_checkpoint::{CheckpointError, CheckpointReader};
use tensorpatch_codec::{ChunkContext, ChunkDecoder, ChunkEncoder, CodecError, Encoded, leaf_digest};
use tensorpatch_format::{
    CHUNK_BYTES, ChunkAddress, ElementFormat, Encoding, ErrorKind, Kind, Layout, LeafDigest, LeafHash,
    PatchHeader, Schema, StateDigest, TensorIndex, WriteError,
};

use crate::assembly::{Assembly, EncodedSpan, SpanBuilder};
use crate::changes::{ByTensor, ChangesError, TensorChanges};
use crate::continuation::Continuation;
use crate::journal::offset;
use crate::parallel::ordered;
use crate::spans::{Spans, chunk_len};
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

/// Whether room is what lacks: all messages have the same words for it.
fn is_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Why no patch was made. Nothing that existed before was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiffError {
    /// The patch could not be written.
    #[error("cannot write{}", if is_room(.0) { ", no room" } else { "" })]
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
    encode(Some(base.into()), target.into(), options, progress, out)
}

/// Writes the same patch as [`encode_diff`], checked as with [`Options::checked`], with the tensors of the
/// base read through `files`, which others may alter meanwhile: each chunk is read once and hashed, so that
/// [`DiffReport::base`] tells what the patch starts from.
///
/// What `base` and `target` have in common comes from `files`, and only that: of a base with other tensors
/// the digest is not the one of `files`.
///
/// # Errors
/// As [`encode_diff`]; also if `files` cannot be read.
pub fn encode_diff_reading(
    (base, files): (&Snapshot<'_>, &CheckpointReader),
    target: &Snapshot<'_>,
    options: &Options,
    progress: Progress<'_>,
    out: &mut dyn Write,
) -> Result<DiffReport, DiffError> {
    let base = Base { files: Some(files), ..base.into() };
    encode(Some(base), target.into(), &options.clone().checked(), progress, out)
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
    encode(Some(base.into()), target, options, progress, out)
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

/// What a patch starts from.
#[derive(Clone, Copy)]
struct Base<'a> {
    snapshot: &'a Snapshot<'a>,
    /// Where the bytes of its tensors are read, if not in the snapshot.
    files: Option<&'a CheckpointReader>,
}

impl<'a> From<&'a Snapshot<'a>> for Base<'a> {
    fn from(snapshot: &'a Snapshot<'a>) -> Self {
        Self { snapshot, files: None }
    }
}

impl Base<'_> {
    /// Makes `copy` the chunk `address`, if there is one.
    fn copy(&self, address: ChunkAddress, copy: &mut Vec<u8>) -> Result<Option<()>, CheckpointError> {
        let Self { snapshot: Snapshot { state, .. }, files } = self;
        let Some(files) = files else {
            let Some(bytes) = state.chunk(address) else { return Ok(None) };
            copy.clear();
            copy.extend_from_slice(bytes);
            return Ok(Some(()));
        };
        copy.resize(chunk_len(state.schema(), address), 0);
        files.read(address.tensor, offset(address), copy).map(Some)
    }
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
    base: Option<Base<'_>>,
    target: Target<'_>,
    options: &Options,
    progress: Progress<'_>,
    out: &mut dyn Write,
) -> Result<DiffReport, DiffError> {
    let snapshot = base.map(|base| base.snapshot);
    if let Some(base) = snapshot {
        base.check_leaves(options.leaf_hash)?;
    }
    let schema = target.tensors.schema();
    let mut assembly = Assembly::new(snapshot, schema, target.layout, options, out);
    let spans = Spans::new(schema);
    let continuation = Continuation::new(snapshot.map(|base| base.state.schema()), schema);
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

struct SpanEncoder<'a> {
    base: Option<Base<'a>>,
    target: Tensors<'a>,
    continuation: &'a Continuation,
    spans: &'a Spans<'a>,
    header: PatchHeader,
}

/// What decodes each chunk once it is encoded.
struct Check {
    decoder: ChunkDecoder,
    /// The base's chunk as it was hashed, which the base itself may no longer be; then what is made of it.
    chunk: Vec<u8>,
}

impl Check {
    fn new() -> Self {
        Self { decoder: ChunkDecoder::new(), chunk: Vec::with_capacity(CHUNK_BYTES) }
    }

    /// Whether `payload` makes the chunk of which `encoded` has the digest, of `len` bytes, of the base's, of
    /// which `base` is the digest.
    fn is_sound(
        &mut self,
        context: ChunkContext,
        base: Option<LeafDigest>,
        encoded: &Encoded,
        payload: &[u8],
        len: usize,
    ) -> bool {
        let Some(encoding) = encoded.encoding else {
            // Nothing changed, which is so where the digests are the same.
            return base == Some(encoded.leaf);
        };
        let decoded = match base {
            Some(_) if self.chunk.len() == len => {
                self.decoder.decode_in_place(context, encoding, payload, &mut self.chunk)
            }
            _ => {
                self.chunk.resize(len, 0);
                self.decoder.decode(context, encoding, payload, None, &mut self.chunk)
            }
        };
        decoded.is_ok_and(|leaf| leaf == encoded.leaf)
    }
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
        let Some(check) = check else { return self.encode_unchecked(encoder, address, out) };
        let (context, at) = (self.context(address.tensor), self.continuation.base_chunk(address));
        let copied = at.zip(self.base).map(|(at, base)| base.copy(at, &mut check.chunk)).transpose()?;
        let base = copied.flatten().map(|()| leaf_digest(context.leaf_hash, &check.chunk));
        if let Some((at, leaf)) = at.zip(base) {
            out.base_leaf(at, leaf);
        }
        out.chunk(address, |payload| {
            let before = payload.len();
            let over = base.map(|leaf| (check.chunk.as_slice(), leaf));
            let Some((encoded, len)) = self.encode_over(encoder, context, address, over, payload)? else {
                return Ok(None);
            };
            let payload = payload.get(before..).unwrap_or_default();
            if check.is_sound(context, base, &encoded, payload, len) {
                return Ok(Some(encoded));
            }
            let spec = self.spans.schema().get(address.tensor);
            let tensor = spec.map(|spec| spec.name.clone()).unwrap_or_default();
            Err(DiffError::Altered { tensor, address })
        })
    }

    fn encode_unchecked(
        &self,
        encoder: &mut ChunkEncoder,
        address: ChunkAddress,
        out: &mut SpanBuilder,
    ) -> Result<(), DiffError> {
        let (context, at) = (self.context(address.tensor), self.continuation.base_chunk(address));
        let base = at.zip(self.base).and_then(|(at, base)| base.snapshot.chunk(at, context.leaf_hash));
        if let Some((at, chunk)) = at.zip(base.as_ref()).filter(|(_, chunk)| !chunk.known) {
            out.base_leaf(at, chunk.leaf);
        }
        let base = base.map(|chunk| (chunk.bytes, chunk.leaf));
        out.chunk(address, |payload| {
            Ok(self.encode_over(encoder, context, address, base, payload)?.map(|(encoded, _)| encoded))
        })
    }

    /// Encodes a chunk over that of the base, of which the digest is given, or over nothing; `None` if there
    /// is no such chunk. Also says how many bytes it has.
    fn encode_over(
        &self,
        encoder: &mut ChunkEncoder,
        context: ChunkContext,
        address: ChunkAddress,
        base: Option<(&[u8], LeafDigest)>,
        payload: &mut Vec<u8>,
    ) -> Result<Option<(Encoded, usize)>, DiffError> {
        match (self.target, base) {
            (Tensors::State(target), base) => {
                let Some(target) = target.chunk(address) else { return Ok(None) };
                Ok(Some((encode_over(encoder, context, base, target, payload), target.len())))
            }
            (Tensors::Changes(_), None) => Ok(None),
            (Tensors::Changes(changes), Some(base)) => {
                let encoded = changes.encode(encoder, context, address, base, payload);
                let encoded = encoded.map_err(|source| DiffError::Changes { address, source })?;
                Ok(Some((encoded, base.0.len())))
            }
        }
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
