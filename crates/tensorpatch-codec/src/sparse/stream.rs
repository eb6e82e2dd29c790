//! Range coding (rANS) into streams.

#![expect(clippy::cast_possible_truncation, reason = "low parts of states are meant")]

use crate::CodecError;
use crate::element::{Element, Key};

use super::plan::Tables;
use super::shift::{LAST_NEAR, moved, near, shifted, shifted_cold};

/// One step of a serial stream: first the value of a symbol that takes `freq` of `2^scale` slots from `start` on, then `raw_len`
/// plain bits that the decoder sees before it. `scale + raw_len` is at most 32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) freq: u32,
    pub(super) start: u32,
    pub(super) raw: u32,
    pub(super) scale: u8,
    pub(super) raw_len: u8,
}

impl Step {
    /// Plain bits alone.
    pub(super) fn bits(value: u32, len: u8) -> Self {
        Self { freq: 1, start: 0, raw: value, scale: 0, raw_len: len }
    }

    /// A symbol alone.
    pub(super) fn symbol(start: u32, freq: u32, scale: u8) -> Self {
        Self { freq, start, raw: 0, scale, raw_len: 0 }
    }
}

/// The slots of a symbol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Slots {
    start: u16,
    freq: u16,
    /// Of the escape, which stands for a symbol without slots.
    pub(super) escape: bool,
}

impl Slots {
    pub(super) fn new((start, freq): (u32, u32), escape: bool) -> Self {
        Self { start: start as u16, freq: freq as u16, escape }
    }

    #[inline(always)]
    pub(super) fn start(self) -> u32 {
        u32::from(self.start)
    }

    #[inline(always)]
    pub(super) fn freq(self) -> u32 {
        u32::from(self.freq)
    }
}

/// A stream being written, from what is read last to what is read first.
#[derive(Debug, Default)]
pub(super) struct Writer {
    state: u64,
    /// The words put so far, and room for more, so that whether one is put takes no branch.
    words: Vec<u32>,
    len: usize,
}

impl Writer {
    /// Begins a stream of at most so many steps.
    pub(super) fn begin(&mut self, steps: usize) {
        self.state = 0;
        self.len = 0;
        if self.words.len() < steps {
            self.words.resize(steps, 0);
        }
    }

    /// Puts `step` before what was put already.
    #[inline(always)]
    pub(super) fn put(&mut self, step: Step) {
        let freq = u64::from(step.freq);
        let total = u32::from(step.scale) + u32::from(step.raw_len);
        self.make_room(total, freq);
        let (quotient, rest) = (self.state / freq, self.state % freq);
        let symbol = quotient << step.scale | (u64::from(step.start) + rest);
        self.state = symbol << step.raw_len | u64::from(step.raw);
    }

    /// As [`put`](Self::put), for a symbol alone.
    #[inline(always)]
    pub(super) fn put_symbol(&mut self, slots: Slots) {
        let freq = u64::from(slots.freq());
        self.make_room(SYMBOL_SCALE, freq);
        // A quotient from the reciprocal is at most one too low, and a division takes twice as long.
        let estimate = (u128::from(self.state)
            * u128::from(RECIPROCALS[slots.freq() as usize % RECIPROCALS.len()]))
            >> 64;
        let estimate = estimate as u64;
        let rest = self.state.wrapping_sub(estimate.wrapping_mul(freq));
        let over = rest >= freq;
        let quotient = estimate + u64::from(over);
        let rest = if over { rest - freq } else { rest };
        self.state = quotient << SYMBOL_SCALE | (u64::from(slots.start()) + rest);
    }

    /// Puts the low word of the state if it would not fit with what comes.
    #[inline(always)]
    fn make_room(&mut self, total: u32, freq: u64) {
        let full = self.state.unbounded_shr(64 - total) >= freq;
        if let Some(word) = self.words.get_mut(self.len) {
            *word = self.state as u32;
        }
        self.len += usize::from(full);
        self.state >>= 32 * u32::from(full);
    }

    /// The state so far.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn state(&self) -> u64 {
        self.state
    }

    /// Goes on with another state.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn set_state(&mut self, state: u64) {
        self.state = state;
    }

    /// Puts a word.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(super) fn put_word(&mut self, word: u32) {
        if let Some(place) = self.words.get_mut(self.len) {
            *place = word;
            self.len += 1;
        }
    }

    /// Appends the stream.
    pub(super) fn finish(&self, out: &mut Vec<u8>) {
        let len = (u64::BITS - self.state.leading_zeros()).div_ceil(8) as usize;
        out.extend(self.state.to_le_bytes().iter().take(len));
        for word in self.words.iter().take(self.len).rev() {
            out.extend_from_slice(&word.to_le_bytes());
        }
    }
}

/// `2^64 / freq`, rounded down or one less, for each number of slots.
pub(super) static RECIPROCALS: [u64; 1025] = {
    let mut reciprocals = [0; 1025];
    let mut freq = 1;
    while freq < reciprocals.len() {
        reciprocals[freq] = u64::MAX / freq as u64;
        freq += 1;
    }
    reciprocals
};

/// A serial stream being read. Reading never fails; [`finish`](Self::finish) tells whether the stream was a whole one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Serial<'a> {
    state: u64,
    words: &'a [[u8; 4]],
    next: usize,
}

impl<'a> Serial<'a> {
    /// `bytes` lie at `offset` of the payload.
    pub(super) fn new(bytes: &'a [u8], offset: usize) -> Result<Self, CodecError> {
        // With words behind it the state has five to eight bytes; without, all that there are.
        let len = if bytes.len() <= 8 { bytes.len() } else { (bytes.len() - 1) % 4 + 5 };
        let (head, words) = bytes.split_at(len);
        if head.last() == Some(&0) {
            return Err(CodecError::new("the state of a stream is longer than it need be", offset));
        }
        let state = head.iter().rev().fold(0, |state, &byte| state << 8 | u64::from(byte));
        Ok(Self { state, words: words.as_chunks().0, next: 0 })
    }

    /// The state, whose low bits hold what comes next.
    #[inline(always)]
    pub(super) fn state(&self) -> u64 {
        self.state
    }

    /// The words that were not taken yet.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(super) fn words_left(&self) -> &'a [[u8; 4]] {
        self.words.get(self.next..).unwrap_or_default()
    }

    /// Goes on with a state that was reached by taking so many words.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(super) fn skip_to(&mut self, state: u64, taken: usize) {
        self.state = state;
        self.next += taken;
    }

    /// Removes `total` bits, of which the symbol was `offset` slots into its `freq`.
    #[inline(always)]
    pub(super) fn consume(&mut self, total: u32, freq: u32, offset: u32) {
        let state = (self.state >> total) * u64::from(freq) + u64::from(offset);
        // About every fourth change takes a word, which no processor can foresee: so no branch depends on it.
        let (word, there) =
            self.words.get(self.next).map_or((0, 0), |word| (u64::from(u32::from_le_bytes(*word)), 1));
        let takes = u32::from(state < 1 << 32) & there;
        self.state = state << (32 * takes) | (word & u64::from(takes).wrapping_neg());
        self.next += takes as usize;
    }

    /// The next `len` plain bits, at most 32.
    #[inline(always)]
    pub(super) fn bits(&mut self, len: u32) -> u32 {
        let value = self.state & ((1 << len) - 1);
        self.consume(len, 1, 0);
        value as u32
    }

    /// The code of the next symbol, for an element with this key.
    #[inline(always)]
    pub(super) fn symbol(&mut self, tables: &Tables, key: usize) -> u32 {
        let slot = self.state as u32 & (SLOTS - 1);
        let entry = tables.find(key, slot);
        self.consume(SYMBOL_SCALE, entry.freq(), slot.wrapping_sub(entry.start()));
        entry.code()
    }

    /// The new value of a cold element that moves up or `down`; `None` if it cannot be moved so.
    #[inline(always)]
    pub(super) fn cold<T: Element>(&mut self, tables: &Tables, key: usize, old: T, down: bool) -> Option<T> {
        let slot = self.state as u32 & (SLOTS - 1);
        let near = tables.near(key);
        let (one, two) = (u32::from(near.one), u32::from(near.two));
        if slot >= two {
            let code = self.symbol(tables, key);
            return shifted_cold(old, code, down, self);
        }
        let second = slot >= one;
        let (start, end) = if second { (one, two) } else { (0, one) };
        self.consume(SYMBOL_SCALE, end - start, slot - start);
        Some(moved(old, 1 + u64::from(second), down))
    }

    /// Reads the symbol of an element and moves it; `None` if it cannot be moved so.
    #[inline(always)]
    pub(super) fn hot<T: Element>(&mut self, tables: &Tables, key: Key, bytes: &mut [u8]) -> Option<()> {
        let old = T::load(bytes);
        // Whether an element changes cannot be foreseen: so it is written either way.
        let code = self.symbol(tables, key.find(old));
        if code > LAST_NEAR {
            shifted(old, code, self)?.store(bytes);
        } else {
            near(old, code).store(bytes);
        }
        Some(())
    }

    /// A stream that was read to its end leaves neither words nor a state.
    pub(super) fn finish(&self, offset: usize) -> Result<(), CodecError> {
        if self.state == 0 && self.next == self.words.len() {
            return Ok(());
        }
        Err(CodecError::new("a stream does not end with what it encodes: broken, or another base", offset))
    }
}

/// The scale of symbols.
pub(super) const SYMBOL_SCALE: u32 = 10;
const SLOTS: u32 = 1 << SYMBOL_SCALE;
