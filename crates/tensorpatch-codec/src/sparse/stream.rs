//! Range coding (rANS) into streams: the serial one, and lanes of interleaved states for symbols.

use crate::CodecError;

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

/// Appends the stream that a decoder reads `steps` from, in their order. `words` is scratch memory.
#[expect(clippy::cast_possible_truncation, reason = "the low half of the state is a word")]
pub(super) fn put_serial(steps: &[Step], words: &mut Vec<u32>, out: &mut Vec<u8>) {
    words.clear();
    let mut state = 0u64;
    for step in steps.iter().rev() {
        let freq = u64::from(step.freq);
        let total = u32::from(step.scale) + u32::from(step.raw_len);
        if state.unbounded_shr(64 - total) >= freq {
            words.push(state as u32);
            state >>= 32;
        }
        let symbol = (state / freq) << step.scale | (u64::from(step.start) + state % freq);
        state = symbol << step.raw_len | u64::from(step.raw);
    }
    let len = (u64::BITS - state.leading_zeros()).div_ceil(8) as usize;
    out.extend(state.to_le_bytes().iter().take(len));
    for word in words.iter().rev() {
        out.extend_from_slice(&word.to_le_bytes());
    }
}

/// A serial stream being read. Reading never fails; [`finish`](Self::finish) tells whether the stream was a whole one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Serial<'a> {
    state: u64,
    words: &'a [u8],
}

impl<'a> Serial<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        // With words behind it the state has five to eight bytes; without, all that there are.
        let len = if bytes.len() <= 8 { bytes.len() } else { (bytes.len() - 1) % 4 + 5 };
        let (head, words) = bytes.split_at(len);
        let state = head.iter().rev().fold(0, |state, &byte| state << 8 | u64::from(byte));
        Self { state, words }
    }

    /// The state, whose low bits hold what comes next.
    #[inline]
    pub(super) fn state(&self) -> u64 {
        self.state
    }

    /// Removes `total` bits, of which the symbol was `offset` slots into its `freq`.
    #[inline]
    pub(super) fn consume(&mut self, total: u32, freq: u32, offset: u32) {
        self.state = (self.state >> total) * u64::from(freq) + u64::from(offset);
        if self.state < 1 << 32
            && let Some((word, rest)) = self.words.split_first_chunk()
        {
            self.state = self.state << 32 | u64::from(u32::from_le_bytes(*word));
            self.words = rest;
        }
    }

    /// The next `len` plain bits, at most 32.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "at most 32 bits are left by the mask")]
    pub(super) fn bits(&mut self, len: u32) -> u32 {
        let value = self.state & ((1 << len) - 1);
        self.consume(len, 1, 0);
        value as u32
    }

    /// A stream that was read to its end leaves neither words nor a state.
    pub(super) fn finish(&self, offset: usize) -> Result<(), CodecError> {
        if self.state == 0 && self.words.is_empty() {
            return Ok(());
        }
        Err(CodecError::new("a stream does not end with what it encodes: broken, or another base", offset))
    }
}

/// The scale of symbols in lanes and in serial streams.
pub(super) const SYMBOL_SCALE: u32 = 10;

const LANE_BASE: u32 = 1 << 16;

/// Appends `symbols` as (start, frequency), symbol `i` in lane `i` modulo `lanes`. `words` is scratch memory.
#[expect(clippy::cast_possible_truncation, reason = "the low half of the state is a word")]
pub(super) fn put_lanes(symbols: &[(u32, u32)], lanes: usize, words: &mut Vec<u32>, out: &mut Vec<u8>) {
    words.clear();
    let mut states = vec![LANE_BASE; lanes];
    for (i, &(start, freq)) in symbols.iter().enumerate().rev() {
        let state = &mut states[i % lanes];
        if *state >> (32 - SYMBOL_SCALE) >= freq {
            words.push(*state);
            *state >>= 16;
        }
        *state = (*state / freq) << SYMBOL_SCALE | (start + *state % freq);
    }
    for state in states {
        out.extend_from_slice(&state.to_le_bytes());
    }
    for word in words.iter().rev() {
        out.extend_from_slice(&(*word as u16).to_le_bytes());
    }
}

/// Lanes being read.
#[derive(Debug)]
pub(super) struct Lanes<'a> {
    states: Vec<u32>,
    next: usize,
    words: &'a [u8],
    offset: usize,
}

impl<'a> Lanes<'a> {
    /// `bytes` lie at `offset` of the payload.
    pub(super) fn new(bytes: &'a [u8], lanes: usize, offset: usize) -> Result<Self, CodecError> {
        let (states, words) = bytes
            .split_at_checked(lanes * 4)
            .ok_or(CodecError::new("the states of the lanes are cut short", offset))?;
        let states = states.as_chunks().0.iter().map(|&state| u32::from_le_bytes(state)).collect();
        Ok(Self { states, next: 0, words, offset })
    }

    /// The slot of the next symbol: below `2^10`.
    #[inline]
    pub(super) fn slot(&self) -> u32 {
        self.states[self.next] & ((1 << SYMBOL_SCALE) - 1)
    }

    /// Removes the symbol that takes `freq` slots, of which [`slot`](Self::slot) was number `offset`.
    #[inline]
    pub(super) fn consume(&mut self, freq: u32, offset: u32) -> Result<(), CodecError> {
        let state = &mut self.states[self.next];
        // At most (2^22 - 1) * 2^10 + 2^10 - 1: no overflow.
        *state = (*state >> SYMBOL_SCALE) * freq + offset;
        if *state < LANE_BASE {
            let (word, rest) = self
                .words
                .split_first_chunk()
                .ok_or(CodecError::new("the lanes are cut short, or the base is another one", self.offset))?;
            *state = *state << 16 | u32::from(u16::from_le_bytes(*word));
            self.words = rest;
        }
        self.next = (self.next + 1) % self.states.len();
        Ok(())
    }

    pub(super) fn finish(&self) -> Result<(), CodecError> {
        if self.words.is_empty() && self.states.iter().all(|&state| state == LANE_BASE) {
            return Ok(());
        }
        Err(CodecError::new(
            "the lanes do not end with what they encode: broken, or another base",
            self.offset,
        ))
    }
}
