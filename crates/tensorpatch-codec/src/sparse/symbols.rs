//! The symbols of a class: whether an element changes, and how far.

use super::model::{Class, MAX_CLASSES, Model, at_least};
use super::tables::SURVIVAL;

/// A symbol has slots of `2^SYMBOL_BITS`.
pub(super) const SYMBOL_BITS: u32 = 12;
const SLOTS: u32 = 1 << SYMBOL_BITS;

/// Symbols that are told apart by comparisons: `unchanged`, and moves whose distance beyond one unit has 0 to
/// 6 bits.
pub(super) const NEAR: usize = 8;

/// A symbol of more than this many bits is not among them.
pub(super) const NEAR_BITS: u32 = 6;

/// Symbols of a class, each with the slot after its last: `unchanged`, then `moved(b)` for
/// `b = 0, 1, 2, ...`, then `escape`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Ends(Vec<u16>);

impl Ends {
    #[expect(clippy::cast_possible_truncation, reason = "at most 4096 slots")]
    fn fill(&mut self, class: Class, hot: bool, width: usize) {
        self.0.clear();
        let unchanged = match (hot, class) {
            (false, _) => 0,
            (true, Class { rate: 0, .. }) => SLOTS,
            (true, Class { rate, reach }) => {
                let most = if reach > 0 { SLOTS - 4 } else { SLOTS - 2 };
                (2 * (SURVIVAL[usize::from(rate)] >> 5).max(1)).min(most)
            }
        };
        self.0.push(unchanged as u16);
        if class.reach > 0 {
            // Two slots are kept for the escape, which also gets what lies beyond the longest distance.
            let room = (SLOTS - 2).saturating_sub(unchanged) / 2;
            let end = |bits| unchanged + 2 * ((room * ((1 << 16) - at_least(class.reach, bits))) >> 16);
            self.0.extend((0..8 * width as u32).map(|bits| end(bits) as u16));
        }
        self.0.push(SLOTS as u16);
    }
}

/// What is told by a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Symbol {
    /// 0 for `unchanged`, `1 + b` for `moved(b)`; for the escape more than an element has bits.
    pub(super) step: u32,
    pub(super) start: u32,
    pub(super) end: u32,
}

/// The symbols of all classes.
#[derive(Debug, Clone, Default)]
pub(super) struct Symbols {
    /// The first ends of each class, the last one repeated.
    near: [[u16; NEAR]; MAX_CLASSES],
    all: [Ends; MAX_CLASSES],
    by_key: ByKey,
    bits: u32,
    /// The cold classes with a reach: one bit each.
    reaching: u32,
}

/// The class of each key.
#[derive(Debug, Clone)]
struct ByKey([u8; 256]);

impl Default for ByKey {
    fn default() -> Self {
        Self([0; 256])
    }
}

impl Symbols {
    /// Makes the symbols of a model for elements of `width` bytes, in the memory of those before.
    #[expect(clippy::cast_possible_truncation, reason = "32 classes at most")]
    pub(super) fn fill(&mut self, model: &Model, width: usize) {
        self.bits = 8 * width as u32;
        for ((near, all), &class) in self.near.iter_mut().zip(&mut self.all).zip(&model.classes) {
            all.fill(class, model.is_hot(class), width);
            for (i, end) in near.iter_mut().enumerate() {
                *end = all.0.get(i).copied().unwrap_or(SLOTS as u16);
            }
        }
        let reaches = |class: &Class| class.reach > 0 && !model.is_hot(*class);
        let reaching = (0..).zip(&model.classes).filter(|(_, class)| reaches(class));
        self.reaching = reaching.fold(0, |reaching, (number, _)| reaching | 1_u32.unbounded_shl(number));
        for (key, class) in self.by_key.0.iter_mut().enumerate() {
            *class = model.class_of(key) as u8;
        }
    }

    /// The class of a key.
    #[inline(always)]
    pub(super) fn class(&self, key: usize) -> usize {
        usize::from(self.by_key.0[key & 0xff]) % MAX_CLASSES
    }

    /// Whether cold changes of any class have a symbol.
    pub(super) fn any_cold_reach(&self) -> bool {
        self.reaching != 0
    }

    /// Whether cold changes of a class have a symbol: otherwise they are by one unit.
    #[inline(always)]
    pub(super) fn reaches(&self, class: usize) -> bool {
        self.reaching >> (class % MAX_CLASSES) & 1 == 1
    }

    /// For each class the slots after the last of each near symbol.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn near(&self) -> &[[u16; NEAR]; MAX_CLASSES] {
        &self.near
    }

    /// The symbol of a slot.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "few symbols")]
    pub(super) fn at(&self, class: usize, slot: u32) -> Symbol {
        let near = &self.near[class % MAX_CLASSES];
        let below = near.iter().filter(|&&end| u32::from(end) <= slot).count();
        match near.get(below) {
            Some(&end) => {
                let start = if below > 0 { near[below - 1] } else { 0 };
                Symbol { step: below as u32, start: u32::from(start), end: u32::from(end) }
            }
            None => self.far_at(class, slot),
        }
    }

    /// The same, of a symbol that is not near.
    #[cold]
    #[expect(clippy::cast_possible_truncation, reason = "few symbols")]
    pub(super) fn far_at(&self, class: usize, slot: u32) -> Symbol {
        let Ends(ends) = &self.all[class % MAX_CLASSES];
        let step = ends.partition_point(|&end| u32::from(end) <= slot);
        self.symbol(class, step as u32)
    }

    /// The symbol of a step, which may have no slots.
    #[inline(always)]
    fn symbol(&self, class: usize, step: u32) -> Symbol {
        let Ends(ends) = &self.all[class % MAX_CLASSES];
        let end = |step: u32| ends.get(step as usize).map_or(SLOTS, |&end| u32::from(end));
        Symbol { step, start: step.checked_sub(1).map_or(0, end), end: end(step) }
    }

    /// The symbol that an encoder puts for an element that moves by a distance of so many bits beyond one
    /// unit.
    pub(super) fn moved(&self, class: usize, bits: u32) -> Symbol {
        let own = self.symbol(class, bits + 1);
        // Where reach is 0 there is only `moved(0)`, and the model of an encoder has no farther moves there.
        if own.end > own.start && (bits == 0 || self.all[class % MAX_CLASSES].0.len() > 2) {
            return own;
        }
        self.symbol(class, self.bits + 1)
    }

    /// The symbol of an element that keeps its value.
    #[inline(always)]
    pub(super) fn unchanged(&self, class: usize) -> Symbol {
        self.symbol(class, 0)
    }

    /// Whether a symbol is the escape.
    #[inline(always)]
    pub(super) fn is_escape(&self, symbol: Symbol) -> bool {
        symbol.step > self.bits
    }
}
