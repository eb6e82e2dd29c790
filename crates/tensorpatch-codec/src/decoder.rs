//! Payloads back to chunks.

use tensorpatch_format::{CHUNK_BYTES, Encoding, LeafDigest, LeafHash};

use crate::element::{self, Element, Key};
use crate::kernels::{Marks, mark_changed};
use crate::pack::Unpacker;
use crate::scatter::{self, Changes};
use crate::sparse::{self, TargetBlocks};
use crate::{ChunkContext, CodecError, Level, leaf, xor};

/// Decodes chunks, one after the other, with scratch memory kept in between.
///
/// Every function accepts any payload and any base: the result is exactly a chunk, or an error. Whether it is
/// the right chunk is for the caller to see from the leaf digest.
#[derive(Debug, Default)]
pub struct ChunkDecoder {
    level: Level,
    sparse: sparse::Decoder,
    unpacker: Unpacker,
    plane: Vec<u8>,
    changes: Changes,
    buffer: Vec<u8>,
    scratch: Vec<u8>,
    marks: Marks,
}

impl ChunkDecoder {
    /// A decoder without scratch memory yet, for the highest level of this machine.
    pub fn new() -> Self {
        Self::default()
    }

    /// A decoder that uses no more than the instructions of `level`.
    pub fn with_level(level: Level) -> Self {
        Self { level, ..Self::default() }
    }

    /// Fills `target` completely and returns its leaf digest. `base` is `None` for a chunk of a fresh tensor.
    ///
    /// # Errors
    /// If the encoding is not allowed here, or the payload is none of exactly `target.len()` bytes on this
    /// base. The bytes of `target` are then unspecified.
    pub fn decode(
        &mut self,
        cx: ChunkContext,
        encoding: Encoding,
        payload: &[u8],
        base: Option<&[u8]>,
        target: &mut [u8],
    ) -> Result<LeafDigest, CodecError> {
        let base = base_for(encoding, base, target)?;
        let along = self.make(cx, encoding, payload, base, target, true)?;
        Ok(along.unwrap_or_else(|| leaf::digest(self.level, cx.leaf_hash, target)))
    }

    /// Fills `target` completely, as [`decode`](Self::decode) does, and computes no digest: for chunks that
    /// are only on the way to others, whose digests tell what was decoded.
    ///
    /// # Errors
    /// As for [`decode`](Self::decode).
    pub fn pass(
        &mut self,
        cx: ChunkContext,
        encoding: Encoding,
        payload: &[u8],
        base: Option<&[u8]>,
        target: &mut [u8],
    ) -> Result<(), CodecError> {
        let base = base_for(encoding, base, target)?;
        self.make(cx, encoding, payload, base, target, false).map(drop)
    }

    /// Turns `chunk` into the target as [`decode_in_place`](Self::decode_in_place) does, and computes no
    /// digest, as [`pass`](Self::pass).
    ///
    /// # Errors
    /// As for [`decode`](Self::decode); the bytes of `chunk` are then unspecified.
    pub fn pass_in_place(
        &mut self,
        cx: ChunkContext,
        encoding: Encoding,
        payload: &[u8],
        chunk: &mut [u8],
    ) -> Result<(), CodecError> {
        self.make(cx, encoding, payload, None, chunk, false).map(drop)
    }

    /// Turns `chunk`, which holds the base, into the target, and returns the target's leaf digest.
    ///
    /// # Errors
    /// As for [`decode`](Self::decode); the bytes of `chunk` are then unspecified.
    pub fn decode_in_place(
        &mut self,
        cx: ChunkContext,
        encoding: Encoding,
        payload: &[u8],
        chunk: &mut [u8],
    ) -> Result<LeafDigest, CodecError> {
        let along = self.make(cx, encoding, payload, None, chunk, true)?;
        Ok(along.unwrap_or_else(|| leaf::digest(self.level, cx.leaf_hash, chunk)))
    }

    /// Makes the target; with a base, it need not be there yet. Returns its digest if `hash` says that it is
    /// wanted and it can be had along the way.
    fn make(
        &mut self,
        cx: ChunkContext,
        encoding: Encoding,
        payload: &[u8],
        base: Option<&[u8]>,
        target: &mut [u8],
        hash: bool,
    ) -> Result<Option<LeafDigest>, CodecError> {
        check(cx, encoding, target)?;
        let width = cx.format.width();
        if encoding == Encoding::Sparse {
            return match width {
                1 => self.sparse::<u8>(cx, payload, base, target, hash),
                2 => self.sparse::<u16>(cx, payload, base, target, hash),
                4 => self.sparse::<u32>(cx, payload, base, target, hash),
                _ => self.sparse::<u64>(cx, payload, base, target, hash),
            };
        }
        if let Some(base) = base {
            target.copy_from_slice(base);
        }
        match encoding {
            Encoding::Sparse | Encoding::Scatter => {
                let elements = element::count(target, width);
                let (unpacker, plane) = (&mut self.unpacker, &mut self.plane);
                scatter::decode(unpacker, plane, width, elements, payload, &mut self.changes)?;
                scatter::apply(width, &self.changes, target);
            }
            Encoding::Xor => xor::decode(&mut self.unpacker, &mut self.plane, width, payload, target)?,
            Encoding::Raw => {
                if payload.len() != target.len() {
                    let offset = payload.len().min(target.len());
                    return Err(CodecError::new("a raw chunk has another length", offset));
                }
                target.copy_from_slice(payload);
            }
            Encoding::Zstd => self.unpacker.unpack(payload, 0, target)?,
        }
        Ok(None)
    }

    fn sparse<T: Element>(
        &mut self,
        cx: ChunkContext,
        payload: &[u8],
        base: Option<&[u8]>,
        target: &mut [u8],
        hash: bool,
    ) -> Result<Option<LeafDigest>, CodecError> {
        let hash = hash && cx.leaf_hash == LeafHash::Xxh3;
        let mut work = TargetBlocks::new(self.level, base, target, &mut self.buffer, hash);
        self.sparse.apply::<T>(self.level, Key::of(cx.format), payload, &mut work)?;
        Ok(work.finish().map(|hash| LeafDigest::Xxh3(hash.to_be_bytes())))
    }

    /// Replaces `changes` by what a `sparse` or `scatter` payload changes: positions and new values.
    ///
    /// For receivers that write single elements. `base` is the base chunk; for a `scatter` payload only its
    /// length matters.
    ///
    /// # Errors
    /// If the payload is of another encoding, or none for this base; `changes` is then unspecified.
    pub fn changes(
        &mut self,
        cx: ChunkContext,
        encoding: Encoding,
        payload: &[u8],
        base: &[u8],
        changes: &mut Changes,
    ) -> Result<(), CodecError> {
        check(cx, encoding, base)?;
        let width = cx.format.width();
        match encoding {
            Encoding::Sparse => match width {
                1 => self.sparse_changes::<u8>(cx, payload, base, changes),
                2 => self.sparse_changes::<u16>(cx, payload, base, changes),
                4 => self.sparse_changes::<u32>(cx, payload, base, changes),
                _ => self.sparse_changes::<u64>(cx, payload, base, changes),
            },
            Encoding::Scatter => {
                let elements = element::count(base, width);
                scatter::decode(&mut self.unpacker, &mut self.plane, width, elements, payload, changes)
            }
            Encoding::Xor | Encoding::Raw | Encoding::Zstd => {
                Err(CodecError::new("only sparse and scatter payloads list their changes", 0))
            }
        }
    }

    fn sparse_changes<T: Element>(
        &mut self,
        cx: ChunkContext,
        payload: &[u8],
        base: &[u8],
        changes: &mut Changes,
    ) -> Result<(), CodecError> {
        self.scratch.resize(base.len(), 0);
        let mut work = TargetBlocks::new(self.level, Some(base), &mut self.scratch, &mut self.buffer, false);
        self.sparse.apply::<T>(self.level, Key::of(cx.format), payload, &mut work)?;
        mark_changed::<T>(self.level, base, &self.scratch, &mut self.marks);
        changes.take::<T>(&self.marks, &self.scratch);
        Ok(())
    }
}

/// The base, if the encoding needs one.
fn base_for<'b>(
    encoding: Encoding,
    base: Option<&'b [u8]>,
    target: &[u8],
) -> Result<Option<&'b [u8]>, CodecError> {
    if encoding.allowed_for_fresh() {
        return Ok(None);
    }
    let base = base.ok_or(CodecError::new("the encoding needs a base and the tensor is fresh", 0))?;
    if base.len() != target.len() {
        return Err(CodecError::new("base and target differ in length", 0));
    }
    Ok(Some(base))
}

fn check(cx: ChunkContext, encoding: Encoding, chunk: &[u8]) -> Result<(), CodecError> {
    if !encoding.allowed_in(cx.profile) {
        return Err(CodecError::new("the profile does not allow the encoding", 0));
    }
    if !chunk.len().is_multiple_of(cx.format.width()) || chunk.len() > CHUNK_BYTES {
        return Err(CodecError::new("the chunk is no whole number of elements, or too long", 0));
    }
    Ok(())
}
