//! What encoder and decoder share: the head of a payload, strips, and long plain values.

use std::ops::Range;

use crate::bits::{BitReader, BitWriter};
use crate::element::Element;

/// Strips whose cold changes go into streams of their own.
pub(super) const STRIPS: usize = 4;
/// Bytes of a chunk that go to one strip before the next one's turn.
const STRIP_BYTES: usize = 8192;
/// Lanes for the hot symbols of a chunk, and for those of one with many.
pub(super) const FEW_LANES: usize = 4;
pub(super) const MANY_LANES: usize = 16;
/// So many ones stand for a quotient that follows in plain bits, as many as `QUOTIENT_BITS`.
pub(super) const QUOTIENT_ESCAPE: u32 = 12;
pub(super) const QUOTIENT_BITS: u32 = 20;

/// How the streams of a payload are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// All in one stream.
    pub(super) serial: bool,
    /// `MANY_LANES`.
    pub(super) many_lanes: bool,
}

impl Head {
    pub(super) fn write(self, bits: &mut BitWriter<'_>) {
        bits.put(u32::from(!self.serial), 1);
        bits.put(u32::from(self.many_lanes), 1);
    }

    pub(super) fn read(bits: &mut BitReader<'_>) -> Option<Self> {
        Some(Self { serial: bits.take(1)? == 0, many_lanes: bits.take(1)? == 1 })
    }

    pub(super) fn lanes(self) -> usize {
        if self.many_lanes { MANY_LANES } else { FEW_LANES }
    }
}

/// The elements of some bytes, in order.
pub(super) fn elements<T: Element>(bytes: &[u8]) -> impl Iterator<Item = T> {
    bytes.chunks_exact(T::WIDTH).map(T::load)
}

/// The byte ranges of a chunk that belong to a strip.
pub(super) fn strip(len: usize, strip: usize, strips: usize) -> impl Iterator<Item = Range<usize>> {
    let step = STRIP_BYTES * strips;
    (strip * STRIP_BYTES..len).step_by(step).map(move |start| start..len.min(start + STRIP_BYTES))
}

/// A plain value of `len` bits in parts of at most 32, the low one first.
#[expect(clippy::cast_possible_truncation, reason = "at most 32 bits each")]
pub(super) fn halves(value: u64, len: u32) -> impl Iterator<Item = (u32, u32)> {
    let low = len.min(32);
    [(value as u32, low), ((value >> 32) as u32, len - low)].into_iter().filter(|&(_, len)| len > 0)
}
