//! The symbol of each slot, to be looked up: what takes the place of comparisons where there are no vectors.

use super::model::MAX_CLASSES;
use super::symbols::{SLOTS, Symbols};

/// The step of the symbol of each slot, for the classes that were asked for.
#[derive(Debug, Default)]
pub(super) struct Slots {
    steps: Vec<[u8; SLOTS as usize]>,
    /// The classes whose steps are known: one bit each.
    known: u32,
}

impl Slots {
    /// Forgets everything, for a chunk with other symbols.
    pub(super) fn clear(&mut self) {
        self.known = 0;
    }

    /// The step of the symbol that has a slot.
    #[inline(always)]
    pub(super) fn step(&mut self, symbols: &Symbols, class: usize, slot: u32) -> u8 {
        if self.known >> (class % MAX_CLASSES) & 1 == 0 {
            self.learn(symbols, class);
        }
        self.steps.get(class).map_or(0, |steps| steps[slot as usize % steps.len()])
    }

    #[cold]
    #[inline(never)]
    fn learn(&mut self, symbols: &Symbols, class: usize) {
        self.steps.resize(MAX_CLASSES, [0; SLOTS as usize]);
        if let Some(steps) = self.steps.get_mut(class) {
            for (step, run) in (0..).zip(symbols.runs(class)) {
                let start = usize::from(run.start);
                steps[start..start + usize::from(run.slots)].fill(step);
            }
        }
        self.known |= 1 << (class % MAX_CLASSES);
    }
}
