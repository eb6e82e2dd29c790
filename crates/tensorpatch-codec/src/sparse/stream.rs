//! Range coding (rANS) into streams: the serial one, and lanes of interleaved states for symbols.

#![expect(clippy::cast_possible_truncation, reason = "low parts of states are meant")]

use crate::CodecError;
use crate::bits::BitReader;
use crate::element::{Element, Key};

use super::plan::Tables;
use super::shift::{LAST_NEAR, near, shifted};

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

/// Appends the stream that a decoder reads `steps` from, in their order. `words` is scratch memory.
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
        // Half of the steps are directions, whose two halves need no division.
        let (quotient, rest) = if freq.is_power_of_two() {
            (state >> freq.trailing_zeros(), state & (freq - 1))
        } else {
            (state / freq, state % freq)
        };
        let symbol = quotient << step.scale | (u64::from(step.start) + rest);
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
    words: &'a [[u8; 4]],
    next: usize,
}

impl<'a> Serial<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        // With words behind it the state has five to eight bytes; without, all that there are.
        let len = if bytes.len() <= 8 { bytes.len() } else { (bytes.len() - 1) % 4 + 5 };
        let (head, words) = bytes.split_at(len);
        let state = head.iter().rev().fold(0, |state, &byte| state << 8 | u64::from(byte));
        Self { state, words: words.as_chunks().0, next: 0 }
    }

    /// The state, whose low bits hold what comes next.
    #[inline(always)]
    pub(super) fn state(&self) -> u64 {
        self.state
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

    /// Reads the symbols of the marked elements of a block and moves them; `None` if one cannot be moved so.
    pub(super) fn run<T: Element>(
        &mut self,
        tables: &Tables,
        key: Key,
        block: &mut [u8],
        marks: &[u16],
    ) -> Option<()> {
        for &mark in marks {
            let at = usize::from(mark) * T::WIDTH;
            let bytes = block.get_mut(at..at + T::WIDTH)?;
            let old = T::load(bytes);
            let code = self.symbol(tables, key.find(old));
            if code > LAST_NEAR {
                shifted(old, code, self)?.store(bytes);
            } else {
                near(old, code).store(bytes);
            }
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

/// The scale of symbols in lanes and in serial streams.
pub(super) const SYMBOL_SCALE: u32 = 10;
const SLOTS: u32 = 1 << SYMBOL_SCALE;

const LANE_BASE: u32 = 1 << 16;

/// Appends the slots of symbols, symbol `i` in lane `i` modulo `N`. `words` is scratch memory.
pub(super) fn put_lanes<const N: usize>(symbols: &[Slots], words: &mut Vec<u32>, out: &mut Vec<u8>) {
    words.clear();
    let mut states = [LANE_BASE; N];
    let (rounds, rest) = symbols.as_chunks::<N>();
    let mut put = |state: &mut u32, slots: &Slots| {
        let (start, freq) = (slots.start(), slots.freq());
        if *state >> (32 - SYMBOL_SCALE) >= freq {
            words.push(*state);
            *state >>= 16;
        }
        *state = (*state / freq.max(1)) << SYMBOL_SCALE | (start + *state % freq.max(1));
    };
    for (state, slots) in states.iter_mut().zip(rest).rev() {
        put(state, slots);
    }
    for round in rounds.iter().rev() {
        for (state, slots) in states.iter_mut().zip(round).rev() {
            put(state, slots);
        }
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
pub(super) struct Lanes<'a, const N: usize> {
    /// The lane of the next symbol comes first.
    states: [u32; N],
    words: &'a [u8],
    /// Words were called for that are not there.
    short: bool,
    offset: usize,
}

impl<'a, const N: usize> Lanes<'a, N> {
    /// `bytes` lie at `offset` of the payload.
    pub(super) fn new(bytes: &'a [u8], offset: usize) -> Result<Self, CodecError> {
        let (head, words) = bytes
            .split_at_checked(N * 4)
            .ok_or(CodecError::new("the states of the lanes are cut short", offset))?;
        let mut states = [0; N];
        for (state, bytes) in states.iter_mut().zip(head.as_chunks().0) {
            *state = u32::from_le_bytes(*bytes);
        }
        Ok(Self { states, words, short: false, offset })
    }

    /// Reads the symbols of the marked elements of a block and moves them; `None` if one cannot be moved so.
    #[inline(always)]
    pub(super) fn run<T: Element>(
        &mut self,
        tables: &Tables,
        key: Key,
        block: &mut [u8],
        marks: &[u16],
        plain: &mut BitReader<'_>,
    ) -> Option<()> {
        let mut lanes =
            Self { states: self.states, words: self.words, short: self.short, offset: self.offset };
        let mut states = lanes.states;
        let (rounds, rest) = marks.as_chunks::<N>();
        for round in rounds {
            for (state, &mark) in states.iter_mut().zip(round) {
                lanes.step::<T>(state, tables, key, block, mark, plain)?;
            }
        }
        for (state, &mark) in states.iter_mut().zip(rest) {
            lanes.step::<T>(state, tables, key, block, mark, plain)?;
        }
        states.rotate_left(rest.len());
        lanes.states = states;
        *self = lanes;
        Some(())
    }

    /// One symbol, from a lane whose state is held by the caller.
    #[inline(always)]
    fn step<T: Element>(
        &mut self,
        state: &mut u32,
        tables: &Tables,
        key: Key,
        block: &mut [u8],
        mark: u16,
        plain: &mut BitReader<'_>,
    ) -> Option<()> {
        let at = usize::from(mark) * T::WIDTH;
        let bytes = block.get_mut(at..at + T::WIDTH)?;
        let old = T::load(bytes);
        let slot = *state & (SLOTS - 1);
        let entry = tables.find(key.find(old), slot);
        // At most (2^22 - 1) * 2^10 + 2^10 - 1: no overflow.
        *state = (*state >> SYMBOL_SCALE) * entry.freq() + slot.wrapping_sub(entry.start());
        if *state < LANE_BASE {
            match self.words.split_first_chunk() {
                Some((word, rest)) => {
                    *state = *state << 16 | u32::from(u16::from_le_bytes(*word));
                    self.words = rest;
                }
                None => self.short = true,
            }
        }
        // Whether an element changes cannot be foreseen: so it is written either way.
        let code = entry.code();
        if code > LAST_NEAR {
            shifted(old, code, plain)?.store(bytes);
        } else {
            near(old, code).store(bytes);
        }
        Some(())
    }

    pub(super) fn finish(&self) -> Result<(), CodecError> {
        if !self.short && self.words.is_empty() && self.states.iter().all(|&state| state == LANE_BASE) {
            return Ok(());
        }
        Err(CodecError::new(
            "the lanes do not end with what they encode: broken, or another base",
            self.offset,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::{Class, Model, Symbol, Symbols};
    use super::*;
    use tensorpatch_format::ElementFormat;

    const CLASS: Class = Class { rate: 80, reach: 0 };

    /// The lanes of 2003 symbols, every third a move up by one.
    fn lanes() -> Vec<u8> {
        let symbols = Symbols::new(CLASS, 2);
        let slots: Vec<Slots> = (0..2003)
            .map(|i| if i % 3 == 0 { Symbol::Moved { bits: 0, down: false } } else { Symbol::Unchanged })
            .map(|symbol| Slots::new(symbols.slots(symbol).unwrap(), false))
            .collect();
        let mut out = Vec::new();
        put_lanes::<4>(&slots, &mut Vec::new(), &mut out);
        out
    }

    /// Whether lanes hold those symbols, and nothing else.
    fn read(bytes: &[u8]) -> Result<bool, CodecError> {
        let mut tables = Tables::default();
        tables.fill(&Model { first_key: 0, classes: vec![CLASS] }, 2);
        let marks: Vec<u16> = (0..2003).collect();
        let mut block = vec![0; 2 * marks.len()];
        let mut lanes = Lanes::<4>::new(bytes, 0)?;
        // In two parts, so that the second begins with another lane than the first.
        let (first, second) = marks.split_at(1001);
        for marks in [first, second] {
            let key = Key::of(ElementFormat::W16);
            lanes.run::<u16>(&tables, key, &mut block, marks, &mut BitReader::new(&[])).unwrap();
        }
        lanes.finish()?;
        Ok(block
            .as_chunks()
            .0
            .iter()
            .enumerate()
            .all(|(i, e)| u16::from_le_bytes(*e) == u16::from(i % 3 == 0)))
    }

    #[test]
    fn lanes_give_their_symbols_back_in_any_number_of_parts() {
        assert_eq!(read(&lanes()), Ok(true));
    }

    #[test]
    fn lanes_cut_short_prolonged_or_damaged_are_refused() {
        let whole = lanes();
        for len in [0, 15, 16, whole.len() - 4, whole.len() - 2, whole.len() - 1] {
            assert!(read(&whole[..len]).is_err(), "{len} bytes of {}", whole.len());
        }
        let mut longer = whole.clone();
        longer.extend([0, 0]);
        assert!(read(&longer).is_err());
        for at in [0, 7, 20, whole.len() / 2, whole.len() - 1] {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            // Other symbols may end well too: then the digest of the chunk tells.
            assert_ne!(read(&damaged), Ok(true), "byte {at}");
        }
        let mut other_end = whole;
        other_end[14] ^= 1;
        assert!(read(&other_end).is_err());
    }

    #[test]
    fn words_that_are_missing_are_noticed_though_the_states_end_well() {
        // All symbols take all slots but one, and all states are at the base: a word is called for, and none is there.
        let mut lanes = Lanes::<4>::new(&[0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0], 0).unwrap();
        assert_eq!(lanes.finish(), Ok(()));
        lanes.short = true;
        assert!(lanes.finish().is_err());
    }
}
