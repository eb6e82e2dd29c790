//! Range coding (rANS) in lanes: states that take turns, and share one stream of words.

use super::payload::Input;

/// The states of the lanes, of which the first `lanes` are used.
pub(super) type States = [u32; MAX_LANES];

/// The most lanes of a payload.
pub(super) const MAX_LANES: usize = 32;
/// A state is at least this, except within a step.
pub(super) const LEAST: u32 = 1 << 16;

/// Lanes that are read.
#[derive(Debug, Clone)]
pub(super) struct Lanes {
    pub(super) states: States,
    /// How many there are.
    pub(super) count: usize,
}

impl Lanes {
    /// The slot of the next symbol of a lane, one of `2^bits`.
    #[inline(always)]
    pub(super) fn slot(&self, lane: usize, bits: u32) -> u32 {
        self.states[lane % MAX_LANES] & ((1 << bits) - 1)
    }

    /// Reads a symbol of `freq` of the `2^bits` slots, where the slot of the lane is number `offset` of them.
    #[inline(always)]
    pub(super) fn take(&mut self, lane: usize, bits: u32, freq: u32, offset: u32, input: &mut Input<'_>) {
        let state = &mut self.states[lane % MAX_LANES];
        *state = (*state >> bits).wrapping_mul(freq).wrapping_add(offset);
        input.refill(state);
    }
}

/// The most numbers of a vector.
pub(super) const VECTOR: usize = 16;
/// Added to the start of a run of slots, of `2^12`: the symbol has every second of them.
pub(super) const EVERY_SECOND: u16 = 1 << 15;

/// The symbols of a phase, of `2^bits` slots, end where they end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Phase {
    pub(super) end: usize,
    pub(super) bits: u32,
}

/// The runs of slots of symbols, in the order in which these are read, in phases of whole rows.
#[derive(Debug, Default)]
pub(super) struct Steps {
    /// The first slots, with [`EVERY_SECOND`] for some.
    pub(super) starts: Vec<u16>,
    /// How many slots there are; 0 leaves a state as it is.
    pub(super) freqs: Vec<u16>,
    pub(super) phases: Vec<Phase>,
}

impl Steps {
    pub(super) fn clear(&mut self) {
        self.starts.clear();
        self.freqs.clear();
        self.phases.clear();
    }

    /// Makes room for so many steps, and vectors that reach beyond the last: returns where the first one
    /// goes.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn make_room(&mut self, steps: usize) -> usize {
        let first = self.freqs.len();
        self.starts.resize(first + steps + VECTOR, 0);
        self.freqs.resize(first + steps + VECTOR, 0);
        first
    }

    /// Room for 16 steps from number `first` on: for the starts, and for the numbers of slots.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(super) fn room(&mut self, first: usize) -> Option<(&mut [u16; 16], &mut [u16; 16])> {
        let starts = self.starts.get_mut(first..)?.first_chunk_mut()?;
        Some((starts, self.freqs.get_mut(first..)?.first_chunk_mut()?))
    }

    /// Gives back the room from number `end` on.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn truncate(&mut self, end: usize) {
        self.starts.truncate(end);
        self.freqs.truncate(end);
    }

    /// Ends a phase of symbols of `2^bits` slots: its last row is filled up.
    pub(super) fn end_phase(&mut self, bits: u32, lanes: usize) {
        let end = self.freqs.len().next_multiple_of(lanes);
        self.starts.resize(end, 0);
        self.freqs.resize(end, 0);
        self.phases.push(Phase { end, bits });
    }
}
