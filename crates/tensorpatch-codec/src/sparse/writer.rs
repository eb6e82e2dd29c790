//! Range coding into lanes, from what is read last to what is read first.

use super::rans::{EVERY_SECOND, LEAST, MAX_LANES, States, Steps, VECTOR};
use super::simd::Simd;
use super::symbols::SYMBOL_BITS;

/// Lanes that are written, from what is read last to what is read first.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    states: States,
    count: usize,
    /// The words put so far, at the end.
    words: Vec<u16>,
    start: usize,
}

impl Default for Writer {
    fn default() -> Self {
        Self { states: [LEAST; MAX_LANES], count: 1, words: Vec::new(), start: 0 }
    }
}

impl Writer {
    /// Begins with what the states are in the end. At most so many symbols will follow.
    pub(super) fn begin(&mut self, count: usize, states: States, symbols: usize) {
        self.states = states;
        self.count = count;
        if self.words.len() < symbols + VECTOR {
            self.words.resize(symbols + VECTOR, 0);
        }
        self.start = self.words.len();
    }

    /// Puts `steps` before what was put already.
    pub(super) fn put(&mut self, simd: Option<Simd>, steps: &Steps) {
        let mut end = steps.freqs.len();
        for (i, phase) in steps.phases.iter().enumerate().rev() {
            let start = if i > 0 { steps.phases[i - 1].end } else { 0 };
            let (starts, freqs) = (&steps.starts[start..end], &steps.freqs[start..end]);
            match simd {
                Some(simd) => {
                    let (states, words) = (&mut self.states, &mut self.words[..self.start]);
                    self.start = simd.put(states, starts, freqs, phase.bits, words);
                }
                None => self.put_phase(starts, freqs, phase.bits),
            }
            end = start;
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "the low word of a state")]
    fn put_phase(&mut self, starts: &[u16], freqs: &[u16], bits: u32) {
        let marked = if bits == SYMBOL_BITS { EVERY_SECOND } else { 0 };
        let rows = starts.chunks_exact(self.count).zip(freqs.chunks_exact(self.count));
        for (starts, freqs) in rows.rev() {
            let row = self.states[..self.count].iter_mut().zip(starts.iter().zip(freqs));
            for (state, (&start, &freq)) in row.rev().filter(|(_, (_, freq))| **freq > 0) {
                let (freq, shift) = (u32::from(freq), u32::from(start & marked) >> 15);
                if *state >> (32 - bits) >= freq {
                    self.start -= 1;
                    self.words[self.start] = *state as u16;
                    *state >>= 16;
                }
                let slot = u32::from(start & !marked) + ((*state % freq) << shift);
                *state = (*state / freq) << bits | slot;
            }
        }
    }

    /// The states that a decoder begins with.
    pub(super) fn states(&self) -> &[u32] {
        &self.states[..self.count]
    }

    /// Appends the words.
    pub(super) fn finish(&self, out: &mut Vec<u8>) {
        out.extend(self.words[self.start..].iter().flat_map(|word| word.to_le_bytes()));
    }
}
