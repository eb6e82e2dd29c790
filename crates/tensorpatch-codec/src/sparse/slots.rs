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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sparse::model::{Class, HotFrom, Model};
    use crate::sparse::symbols::Run;

    #[test]
    fn each_slot_belongs_to_the_symbol_in_whose_run_it_lies() {
        let class = |rate, reach| Class { rate, reach };
        let classes = vec![class(0, 0), class(95, 0), class(70, 1), class(85, 40), class(1, 255)];
        let model = Model { hot_from: HotFrom::DENSE, first_key: 0, classes };
        let (mut symbols, mut slots) = (Symbols::default(), Slots::default());
        for width in [1, 2, 4, 8] {
            symbols.fill(&model, width);
            slots.clear();
            for class in 0..model.classes.len() {
                for slot in 0..SLOTS {
                    let step = slots.step(&symbols, class, slot);
                    let Run { start, slots } = symbols.run(class, step);
                    let run = u32::from(start)..u32::from(start) + u32::from(slots);
                    assert!(run.contains(&slot), "slot {slot} of class {class}: {run:?}");
                }
            }
        }
    }
}
