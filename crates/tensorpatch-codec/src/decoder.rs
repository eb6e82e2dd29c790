//! Payloads back to chunks.

use tensorpatch_format::{Encoding, LeafDigest};

use crate::element::{Element, Key};
use crate::pack::Unpacker;
use crate::scatter::{self, Changes};
use crate::{ChunkContext, CodecError, leaf_digest, sparse, xor};

/// Decodes chunks, one after the other, with scratch memory kept in between.
///
/// Every function accepts any payload and any base: the result is exactly a chunk, or an error. Whether it is the right
/// chunk is for the caller to see from the leaf digest.
#[derive(Debug, Default)]
pub struct ChunkDecoder {
    sparse: sparse::Decoder,
    unpacker: Unpacker,
    plane: Vec<u8>,
    changes: Changes,
}

impl ChunkDecoder {
    /// A decoder without scratch memory yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Fills `target` completely and returns its leaf digest. `base` is `None` for a chunk of a fresh tensor.
    ///
    /// # Errors
    /// If the encoding is not allowed here, or the payload is none of exactly `target.len()` bytes on this base. The bytes
    /// of `target` are then unspecified.
    pub fn decode(
        &mut self,
        cx: ChunkContext,
        encoding: Encoding,
        payload: &[u8],
        base: Option<&[u8]>,
        target: &mut [u8],
    ) -> Result<LeafDigest, CodecError> {
        match base {
            None if !encoding.allowed_for_fresh() => {
                return Err(CodecError::new("the encoding needs a base and the tensor is fresh", 0));
            }
            Some(base) if !encoding.allowed_for_fresh() => {
                if base.len() != target.len() {
                    return Err(CodecError::new("base and target differ in length", 0));
                }
                target.copy_from_slice(base);
            }
            _ => {}
        }
        self.decode_in_place(cx, encoding, payload, target)
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
        check(cx, encoding, chunk)?;
        match encoding {
            Encoding::Sparse => match cx.format.width() {
                1 => self.sparse.apply::<u8>(Key::of(cx.format), payload, chunk)?,
                2 => self.sparse.apply::<u16>(Key::of(cx.format), payload, chunk)?,
                4 => self.sparse.apply::<u32>(Key::of(cx.format), payload, chunk)?,
                _ => self.sparse.apply::<u64>(Key::of(cx.format), payload, chunk)?,
            },
            Encoding::Scatter => {
                let width = cx.format.width();
                let elements = chunk.len() / width;
                scatter::decode(
                    &mut self.unpacker,
                    &mut self.plane,
                    width,
                    elements,
                    payload,
                    &mut self.changes,
                )?;
                scatter::apply(width, &self.changes, chunk);
            }
            Encoding::Xor => {
                xor::decode(&mut self.unpacker, &mut self.plane, cx.format.width(), payload, chunk)?;
            }
            Encoding::Raw => {
                if payload.len() != chunk.len() {
                    return Err(CodecError::new(
                        "a raw chunk has another length",
                        payload.len().min(chunk.len()),
                    ));
                }
                chunk.copy_from_slice(payload);
            }
            Encoding::Zstd => self.unpacker.unpack(payload, 0, chunk)?,
        }
        Ok(leaf_digest(cx.leaf_hash, chunk))
    }

    /// Replaces `changes` by what a `sparse` or `scatter` payload changes: positions and new values.
    ///
    /// For receivers that write single elements. `base` is the base chunk; for a `scatter` payload only its length matters.
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
                let elements = base.len() / width;
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
        let found = self.sparse.changes::<T>(Key::of(cx.format), payload, base)?;
        changes.clear();
        for &(position, value) in found {
            changes.positions.push(position);
            changes.values.extend(value.to_le_bytes().iter().take(T::WIDTH));
        }
        Ok(())
    }
}

fn check(cx: ChunkContext, encoding: Encoding, chunk: &[u8]) -> Result<(), CodecError> {
    if !encoding.allowed_in(cx.profile) {
        return Err(CodecError::new("the profile does not allow the encoding", 0));
    }
    if !chunk.len().is_multiple_of(cx.format.width()) || u32::try_from(chunk.len()).is_err() {
        return Err(CodecError::new("the chunk is no whole number of elements, or too long", 0));
    }
    Ok(())
}
