//! The choice of an encoding for a chunk, by cost.

use tensorpatch_format::{CHUNK_BYTES, ElementFormat, Encoding, LeafDigest, LeafHash, Profile};

use crate::element::{self, Element, Key};
use crate::kernels::{self, BLOCK_BYTES, Marks};
use crate::pack::Packer;
use crate::scatter::{self, Changes};
use crate::xxh3::Xxh3;
use crate::{CodecError, Level, leaf, sparse, xor};

/// The other encodings are tried once a payload is over one part in so many of the chunk.
const WORTH_TRYING_OTHERS: usize = 4;

/// What an encoder or decoder must know of a chunk besides its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkContext {
    /// How the bytes are cut into elements.
    pub format: ElementFormat,
    /// Which encodings are allowed.
    pub profile: Profile,
    /// The hash of the leaf digest.
    pub leaf_hash: LeafHash,
}

/// What became of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encoded {
    /// How the appended payload is encoded; `None` if the chunk is unchanged and nothing was appended.
    pub encoding: Option<Encoding>,
    /// The leaf digest of the target chunk.
    pub leaf: LeafDigest,
    /// Elements whose bits differ from the base's; all of them if there is no base.
    pub changed_elements: u64,
}

/// Encodes chunks, one after the other, with scratch memory kept in between.
///
/// The payload depends on nothing but the context and the bytes given: not on earlier chunks, not on the
/// machine.
///
/// ```
/// use tensorpatch_codec::{ChunkContext, ChunkDecoder, ChunkEncoder};
/// use tensorpatch_format::{ElementFormat, LeafHash, Profile};
///
/// let (format, leaf_hash) = (ElementFormat::Bf16, LeafHash::Xxh3);
/// let cx = ChunkContext { format, profile: Profile::Compact, leaf_hash };
/// let base = [0x3f80u16; 1000].map(u16::to_le_bytes).concat();
/// let mut target = base.clone();
/// target[500] ^= 1;
///
/// let mut payload = Vec::new();
/// let encoded = ChunkEncoder::new().encode(cx, &base, &target, None, &mut payload);
/// assert_eq!(encoded.changed_elements, 1);
///
/// let mut rebuilt = vec![0; base.len()];
/// let encoding = encoded.encoding.ok_or("unchanged")?;
/// let leaf = ChunkDecoder::new().decode(cx, encoding, &payload, Some(&base), &mut rebuilt)?;
/// assert_eq!(rebuilt, target);
/// assert_eq!(leaf, encoded.leaf);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Default)]
pub struct ChunkEncoder {
    level: Level,
    marks: Marks,
    sparse: sparse::Encoder,
    packer: Packer,
    plane: Vec<u8>,
    changes: Changes,
    candidate: Vec<u8>,
    target: Vec<u8>,
    /// The positions of what [`ChunkEncoder::find`] has found, as they stand in a payload.
    found: Vec<u8>,
}

impl ChunkEncoder {
    /// An encoder without scratch memory yet, for the highest level of this machine.
    pub fn new() -> Self {
        Self::default()
    }

    /// An encoder that uses no more than the instructions of `level`.
    pub fn with_level(level: Level) -> Self {
        Self { level, ..Self::default() }
    }

    /// Appends the smallest payload that turns `base` into `target` to `out`; nothing if they are equal.
    ///
    /// `base_leaf` is the digest of `base`, if it is known: it is returned for an unchanged chunk, which then
    /// costs one compare. Where `base` and `target` differ in length, or are no chunks of whole elements,
    /// `target` is encoded as a fresh one.
    pub fn encode(
        &mut self,
        cx: ChunkContext,
        base: &[u8],
        target: &[u8],
        base_leaf: Option<LeafDigest>,
        out: &mut Vec<u8>,
    ) -> Encoded {
        let whole = target.len().is_multiple_of(cx.format.width()) && target.len() <= CHUNK_BYTES;
        if base.len() != target.len() || !whole {
            return self.encode_fresh(cx, target, out);
        }
        match cx.format.width() {
            1 => self.compare::<u8>(cx, base, target, base_leaf, out),
            2 => self.compare::<u16>(cx, base, target, base_leaf, out),
            4 => self.compare::<u32>(cx, base, target, base_leaf, out),
            _ => self.compare::<u64>(cx, base, target, base_leaf, out),
        }
    }

    /// As [`encode`](Self::encode), with the target given by what changes in the base: for callers whose
    /// accelerator found the changes. The payload is the same, byte for byte. Listed elements may keep their
    /// values.
    ///
    /// # Errors
    /// If the base is no chunk of whole elements, the positions are not strictly ascending within it, or
    /// there are not as many values; the offset is then the number of the change. Nothing is appended.
    pub fn encode_changes(
        &mut self,
        cx: ChunkContext,
        base: &[u8],
        changes: &Changes,
        base_leaf: Option<LeafDigest>,
        out: &mut Vec<u8>,
    ) -> Result<Encoded, CodecError> {
        let width = cx.format.width();
        if !base.len().is_multiple_of(width) || base.len() > CHUNK_BYTES {
            return Err(CodecError::new("the base is no chunk of whole elements", 0));
        }
        if changes.positions.len().checked_mul(width) != Some(changes.values.len()) {
            return Err(CodecError::new(
                "there are not as many values as positions",
                changes.positions.len(),
            ));
        }
        let mut target = std::mem::take(&mut self.target);
        target.clear();
        target.extend_from_slice(base);
        let mut next = 0;
        for (i, (&position, value)) in
            changes.positions.iter().zip(changes.values.chunks_exact(width)).enumerate()
        {
            let range = element::range(position as usize, width);
            let element = range.and_then(|range| target.get_mut(range)).filter(|_| position >= next);
            let Some(element) = element else {
                return Err(CodecError::new("a position is out of order or outside the chunk", i));
            };
            element.copy_from_slice(value);
            next = position.saturating_add(1);
        }
        let encoded = self.encode(cx, base, &target, base_leaf, out);
        self.target = target;
        Ok(encoded)
    }

    /// Finds the elements in which two chunks differ, for [`encode_found`](Self::encode_found), and says
    /// whether there are any. Chunks of different lengths, or of no whole elements, do not differ here.
    pub fn find(&mut self, cx: ChunkContext, one: &[u8], other: &[u8]) -> bool {
        let width = cx.format.width();
        self.marks.reset(element::count(one, width));
        self.found.clear();
        if one.len() != other.len() || !one.len().is_multiple_of(width) || one.len() > CHUNK_BYTES {
            return false;
        }
        match width {
            1 => self.find_in::<u8>(one, other),
            2 => self.find_in::<u16>(one, other),
            4 => self.find_in::<u32>(one, other),
            _ => self.find_in::<u64>(one, other),
        }
    }

    fn find_in<T: Element>(&mut self, one: &[u8], other: &[u8]) -> bool {
        for (olds, news) in one.chunks(BLOCK_BYTES).zip(other.chunks(BLOCK_BYTES)) {
            self.marks.block(|free| kernels::changed::<T>(self.level, olds, news, free));
        }
        if self.marks.len() == 0 {
            return false;
        }
        self.changes.take_positions::<T>(&self.marks);
        let elements = element::count(one, T::WIDTH);
        scatter::put_positions(&mut self.plane, elements, &self.changes.positions, &mut self.found);
        true
    }

    /// Appends the payload of the `direct` profile that turns the one of two chunks that
    /// [`find`](Self::find) found to differ into the other, which is `target`. It is the one that
    /// [`encode`](Self::encode) makes; this is for whoever needs both directions, and knows the digests.
    pub fn encode_found(&mut self, cx: ChunkContext, target: &[u8], out: &mut Vec<u8>) -> Encoding {
        let (width, start) = (cx.format.width(), out.len());
        self.changes.take_values(width, target);
        out.extend_from_slice(&self.found);
        scatter::put_values(&mut self.packer, &mut self.plane, width, &self.changes.values, out);
        if !is_worth_trying_others(start, target, out) {
            return Encoding::Scatter;
        }
        self.try_whole(Encoding::Scatter, target, start, out)
    }

    /// Appends the smallest payload that gives `target` without a base.
    pub fn encode_fresh(&mut self, cx: ChunkContext, target: &[u8], out: &mut Vec<u8>) -> Encoded {
        let start = out.len();
        out.extend_from_slice(target);
        let encoding = self.try_zstd(Encoding::Raw, target, start, out);
        let changed_elements = element::count(target, cx.format.width()) as u64;
        Encoded {
            encoding: Some(encoding),
            leaf: leaf::digest(self.level, cx.leaf_hash, target),
            changed_elements,
        }
    }

    fn compare<T: Element>(
        &mut self,
        cx: ChunkContext,
        base: &[u8],
        target: &[u8],
        base_leaf: Option<LeafDigest>,
        out: &mut Vec<u8>,
    ) -> Encoded {
        self.marks.reset(element::count(target, T::WIDTH));
        let mut hash = (cx.leaf_hash == LeafHash::Xxh3).then(|| Xxh3::new(self.level));
        self.sparse.begin();
        let blocks = base.chunks(BLOCK_BYTES).zip(target.chunks(BLOCK_BYTES));
        for (i, (olds, news)) in blocks.enumerate() {
            let start = i.saturating_mul(BLOCK_BYTES);
            self.marks.block(|free| kernels::changed::<T>(self.level, olds, news, free));
            if self.marks.len() > 0 && cx.profile == Profile::Compact {
                self.sparse.observe::<T>(Key::of(cx.format), olds, news, self.marks.last_block());
            }
            // While nothing has changed, nothing is hashed: an unchanged chunk costs one compare.
            if self.marks.len() > 0
                && let Some(hash) = &mut hash
            {
                let from = hash.consumed();
                hash.blocks(
                    target.get(from..start.saturating_add(news.len())).unwrap_or_default(),
                    target.len(),
                );
            }
        }
        if self.marks.len() == 0 {
            let leaf = base_leaf.unwrap_or_else(|| leaf::digest(self.level, cx.leaf_hash, target));
            return Encoded { encoding: None, leaf, changed_elements: 0 };
        }
        let leaf = match hash {
            Some(hash) => LeafDigest::Xxh3(hash.finish(target).to_be_bytes()),
            None => leaf::digest(self.level, cx.leaf_hash, target),
        };
        let encoding = self.encode_marked::<T>(cx, base, target, out);
        Encoded { encoding: Some(encoding), leaf, changed_elements: self.marks.len() as u64 }
    }

    /// Encodes the marked elements, which are those that differ.
    fn encode_marked<T: Element>(
        &mut self,
        cx: ChunkContext,
        base: &[u8],
        target: &[u8],
        out: &mut Vec<u8>,
    ) -> Encoding {
        let start = out.len();
        let mut best = match cx.profile {
            Profile::Compact => {
                self.sparse.encode::<T>(self.level, Key::of(cx.format), base, target, &self.marks, out);
                Encoding::Sparse
            }
            Profile::Direct => {
                self.changes.take::<T>(&self.marks, target);
                let elements = element::count(target, T::WIDTH);
                scatter::encode(&mut self.packer, &mut self.plane, T::WIDTH, elements, &self.changes, out);
                Encoding::Scatter
            }
        };
        if is_worth_trying_others(start, target, out) {
            if cx.profile == Profile::Compact {
                self.candidate.clear();
                xor::encode(&mut self.packer, &mut self.plane, T::WIDTH, base, target, &mut self.candidate);
                best = self.keep_smaller(Encoding::Xor, best, start, out);
            }
            best = self.try_whole(best, target, start, out);
        }
        best
    }

    /// Replaces what stands in `out` after `start` by the whole of `target`, packed or not, if that is
    /// smaller.
    fn try_whole(&mut self, mut best: Encoding, target: &[u8], start: usize, out: &mut Vec<u8>) -> Encoding {
        if (target.len(), Encoding::Raw) < (out.len().saturating_sub(start), best) {
            out.truncate(start);
            out.extend_from_slice(target);
            best = Encoding::Raw;
        }
        self.try_zstd(best, target, start, out)
    }

    /// Replaces what stands in `out` after `start` by a frame of `target` if that is smaller.
    fn try_zstd(&mut self, best: Encoding, target: &[u8], start: usize, out: &mut Vec<u8>) -> Encoding {
        if let Some(frame) = self.packer.pack(target, out.len().saturating_sub(start)) {
            out.truncate(start);
            out.extend_from_slice(frame);
            return Encoding::Zstd;
        }
        best
    }

    /// Replaces what stands in `out` after `start` by the candidate if that is smaller, or as small with a
    /// lower code.
    fn keep_smaller(&self, encoding: Encoding, best: Encoding, start: usize, out: &mut Vec<u8>) -> Encoding {
        if (self.candidate.len(), encoding) < (out.len().saturating_sub(start), best) {
            out.truncate(start);
            out.extend_from_slice(&self.candidate);
            return encoding;
        }
        best
    }
}

/// What the others cost at the least is known well enough to leave them out where they cannot win.
fn is_worth_trying_others(start: usize, target: &[u8], out: &[u8]) -> bool {
    out.len().saturating_sub(start).saturating_mul(WORTH_TRYING_OTHERS) > target.len()
}
