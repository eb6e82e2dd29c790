//! How far an element moves, and the slots that say so.

use crate::element::Element;

use super::layout::halves;
use super::model::{Class, Model, Symbol, Symbols};
use super::stream::{SYMBOL_SCALE, Slots, Step};

/// From the old value of an element to the new one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Distance {
    down: bool,
    /// The distance beyond one unit; all ones if there is none.
    beyond: u64,
}

impl Distance {
    #[inline(always)]
    pub(super) fn between<T: Element>(old: T, new: T) -> Self {
        let difference = new.minus(old);
        Self { down: difference < 0, beyond: difference.unsigned_abs().wrapping_sub(1) }
    }

    /// The bits of the distance beyond one unit; 64 if the element keeps its value.
    #[inline(always)]
    pub(super) fn bits(self) -> usize {
        (u64::BITS - self.beyond.leading_zeros()) as usize
    }

    /// The plain bits that follow a symbol for a change.
    #[expect(clippy::cast_possible_truncation, reason = "at most 64 bits")]
    pub(super) fn plain(self, slots: Slots, mut put: impl FnMut(u32, u32)) {
        let bits = self.bits() as u32;
        if slots.escape {
            put(bits | u32::from(self.down) << 6, 7);
        }
        let len = bits.saturating_sub(1);
        halves(self.beyond & ((1 << len) - 1), len).for_each(|(value, len)| put(value, len));
    }
}

const KINDS: usize = 65 * 2;

/// The slots of each symbol, by class.
#[derive(Debug, Clone, Default)]
pub(super) struct SymbolTables {
    by_class: Vec<[Slots; KINDS]>,
    by_key: Vec<u8>,
}

impl SymbolTables {
    /// Makes the tables for a model, in the memory of those before.
    #[expect(clippy::cast_possible_truncation, reason = "32 classes at most")]
    pub(super) fn fill(&mut self, model: &Model, width: usize) {
        self.by_class.clear();
        for &class in &model.classes {
            let class = if class.is_hot() { class } else { Class { rate: 0, ..class } };
            let symbols = Symbols::new(class, width);
            let escape = symbols.slots(Symbol::Escape).unwrap_or((0, 1));
            let mut kinds = [Slots::new(escape, true); KINDS];
            for (kind, slots) in kinds.iter_mut().enumerate() {
                let bits = kind as u32 / 2;
                let symbol = match bits {
                    64 => Symbol::Unchanged,
                    _ => Symbol::Moved { bits, down: kind % 2 == 1 },
                };
                if let Some(own) = symbols.slots(symbol) {
                    *slots = Slots::new(own, false);
                }
            }
            self.by_class.push(kinds);
        }
        self.by_key.clear();
        self.by_key.extend((0..256).map(|key| model.class_of(key) as u8));
    }

    /// The slots for a distance, and whether no plain bits follow them.
    #[inline(always)]
    pub(super) fn find(&self, key: usize, distance: &Distance) -> (Slots, bool) {
        let bits = distance.bits();
        let kinds = &self.by_class[usize::from(self.by_key[key])];
        let slots = kinds[bits * 2 + usize::from(distance.down)];
        (slots, !slots.escape && (bits < 2 || bits == 64))
    }

    /// Appends the symbol of a distance and its plain bits.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "scale and lengths are at most 32")]
    pub(super) fn push(&self, key: usize, distance: &Distance, steps: &mut Vec<Step>) {
        let (slots, is_near) = self.find(key, distance);
        steps.push(Step::symbol(slots.start(), slots.freq(), SYMBOL_SCALE as u8));
        if !is_near {
            distance.plain(slots, |value, len| steps.push(Step::bits(value, len as u8)));
        }
    }
}
