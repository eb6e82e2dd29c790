//! A payload as it is read: words from its start, bits from its end.

use crate::bits::low_bits;

use super::rans::LEAST;

/// Bytes behind a payload that may be read with it.
pub(super) const PADDING: usize = 64;

/// A payload in memory that goes on behind its end, so that a vector can be loaded wherever a word begins.
#[derive(Debug, Default)]
pub(super) struct Padded(Vec<u8>);

impl Padded {
    /// Copies a payload.
    pub(super) fn fill(&mut self, payload: &[u8]) -> Input<'_> {
        self.0.clear();
        self.0.extend_from_slice(payload);
        self.0.resize(payload.len().saturating_add(PADDING), 0);
        Input::new(&self.0, payload.len())
    }
}

/// What has not been read of a payload.
///
/// Reading on when nothing is left gives something; only [`is_used_up`](Self::is_used_up) tells.
#[derive(Debug, Clone, Copy)]
pub(super) struct Input<'a> {
    bytes: &'a [u8],
    /// Bytes of words that were read.
    pub(super) taken: usize,
    /// Bits before those that were read; below 0 if there were too few.
    left: i64,
}

impl<'a> Input<'a> {
    /// `bytes` must have [`PADDING`] behind its first `len`, which are the payload.
    #[expect(clippy::cast_possible_wrap, reason = "the bits of bytes in memory")]
    pub(super) fn new(bytes: &'a [u8], len: usize) -> Self {
        Self { bytes, taken: 0, left: len.saturating_mul(8) as i64 }
    }

    /// Takes the next word into a state that is too small.
    #[inline(always)]
    pub(super) fn refill(&mut self, state: &mut u32) {
        let next = self.bytes.get(self.taken..).and_then(<[u8]>::first_chunk).copied().unwrap_or_default();
        // When one is cannot be foreseen: so no branch depends on it.
        let is_small = *state < LEAST;
        *state = if is_small { *state << 16 | u32::from(u16::from_le_bytes(next)) } else { *state };
        self.taken = self.taken.saturating_add(if is_small { 2 } else { 0 });
    }

    /// The next bytes of words, with what stands behind them; zeros beyond the end.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(super) fn words<const N: usize>(&self) -> &'a [u8; N] {
        self.bytes.get(self.taken..).and_then(<[u8]>::first_chunk).unwrap_or(&[0; N])
    }

    /// The next `len` bits as a number, at most 32.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "at most 32 bits are left by the mask")]
    pub(super) fn bits(&mut self, len: u32) -> u32 {
        self.left = self.left.saturating_sub(i64::from(len));
        let Ok(left) = usize::try_from(self.left) else { return 0 };
        let bytes = self.bytes.get(left / 8..).and_then(<[u8]>::first_chunk).copied().unwrap_or_default();
        (u64::from_le_bytes(bytes) >> (left % 8) & low_bits(len)) as u32
    }

    /// As [`bits`](Self::bits), of at most 64.
    pub(super) fn wide_bits(&mut self, len: u32) -> u64 {
        let high = if len > 32 { u64::from(self.bits(len.saturating_sub(32))) << 32 } else { 0 };
        high | u64::from(self.bits(len.min(32)))
    }

    /// The number of zeros before the next one, which is read too; `None` if there are more than `max`.
    pub(super) fn zeros(&mut self, max: u32) -> Option<u32> {
        (0..=max).find(|_| self.bits(1) == 1)
    }

    /// Whether everything was read, and nothing beyond: words and bits meet in a byte whose other bits are
    /// zero.
    #[expect(clippy::cast_possible_wrap, reason = "the bits of bytes in memory")]
    pub(super) fn is_used_up(&self) -> bool {
        let words = self.taken.saturating_mul(8) as i64;
        let between = u32::try_from(self.left.saturating_sub(words)).unwrap_or(u32::MAX);
        between < 8 && self.clone().bits(between) == 0
    }
}
