//! The symbols of a class: whether an element changes, and how far.

use super::model::{Class, MAX_CLASSES, Model, at_least};
use super::tables::SURVIVAL;

/// A symbol has slots of `2^SYMBOL_BITS`.
pub(super) const SYMBOL_BITS: u32 = 12;
pub(super) const SLOTS: u32 = 1 << SYMBOL_BITS;

/// Symbols that are told apart by comparisons: `unchanged`, and moves whose distance beyond one unit has 0 to
/// 6 bits.
pub(super) const NEAR: usize = 8;

/// A symbol of more than this many bits is not among them.
pub(super) const NEAR_BITS: u32 = 6;

/// The other symbols of an element of two bytes.
#[cfg(target_arch = "x86_64")]
const FAR: usize = 10;

/// The most symbols of a class: `unchanged`, `moved(b)` for each bit of an element, and the escape.
const STEPS: usize = 66;

/// Some slots: the first one, and how many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Run {
    pub(super) start: u16,
    pub(super) slots: u16,
}

/// The slot after the last of each symbol of a class: `unchanged`, then `moved(b)` for `b = 0, 1, 2, ...`,
/// then the escape.
#[expect(clippy::cast_possible_truncation, reason = "at most 4096 slots, of 66 symbols")]
fn ends(class: Class, hot: bool, width: usize) -> impl Iterator<Item = u16> {
    let unchanged = match (hot, class) {
        (false, _) => 0,
        (true, Class { rate: 0, .. }) => SLOTS,
        (true, Class { rate, reach }) => {
            let most = if reach > 0 { SLOTS - 4 } else { SLOTS - 2 };
            (2 * (SURVIVAL[usize::from(rate)] >> 5).max(1)).min(most)
        }
    };
    // Two slots are kept for the escape, which also gets what lies beyond the longest distance.
    let room = (SLOTS - 2).saturating_sub(unchanged) / 2;
    let end = move |bits| unchanged + 2 * ((room * ((1 << 16) - at_least(class.reach, bits))) >> 16);
    let moved = if class.reach > 0 { 8 * width as u32 } else { 0 };
    std::iter::once(unchanged).chain((0..moved).map(end)).chain([SLOTS]).map(|end| end as u16)
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
#[derive(Debug, Clone)]
pub(super) struct Symbols {
    /// The first ends of each class, the last one repeated.
    near: [[u16; NEAR]; MAX_CLASSES],
    /// The slots of each symbol, by its step.
    runs: [[Run; STEPS]; MAX_CLASSES],
    by_key: ByKey,
    bits: u32,
    /// The cold classes with a reach: one bit each.
    reaching: u32,
}

/// The class of each key.
type ByKey = [u8; 256];

impl Default for Symbols {
    fn default() -> Self {
        Self {
            near: Default::default(),
            runs: [[Run::default(); STEPS]; MAX_CLASSES],
            by_key: [0; 256],
            bits: 0,
            reaching: 0,
        }
    }
}

impl Symbols {
    /// Makes the symbols of a model for elements of `width` bytes, in the memory of those before.
    #[expect(clippy::cast_possible_truncation, reason = "32 classes at most")]
    pub(super) fn fill(&mut self, model: &Model, width: usize) {
        self.bits = 8 * width as u32;
        let classes = self.near.iter_mut().zip(&mut self.runs).zip(&model.classes);
        for ((near, runs), &class) in classes {
            *near = [SLOTS as u16; NEAR];
            *runs = [Run { start: SLOTS as u16, slots: 0 }; STEPS];
            let mut start = 0;
            for (step, end) in ends(class, model.is_hot(class), width).enumerate() {
                if let Some(near) = near.get_mut(step) {
                    *near = end;
                }
                runs[step] = Run { start, slots: end - start };
                start = end;
            }
        }
        let reaches = |class: &Class| class.reach > 0 && !model.is_hot(*class);
        let reaching = (0..).zip(&model.classes).filter(|(_, class)| reaches(class));
        self.reaching = reaching.fold(0, |reaching, (number, _)| reaching | 1_u32.unbounded_shl(number));
        for (key, class) in self.by_key.iter_mut().enumerate() {
            *class = model.class_of(key) as u8;
        }
    }

    /// The class of a key.
    #[inline(always)]
    pub(super) fn class(&self, key: usize) -> usize {
        usize::from(self.by_key[key & 0xff]) % MAX_CLASSES
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

    /// The slots of a symbol.
    #[inline(always)]
    pub(super) fn run(&self, class: usize, step: u8) -> Run {
        self.runs[class % MAX_CLASSES].get(usize::from(step)).copied().unwrap_or_default()
    }

    /// The slots of all symbols of a class, by their step.
    pub(super) fn runs(&self, class: usize) -> &[Run] {
        &self.runs[class % MAX_CLASSES]
    }

    /// The symbol of a slot that is not near.
    #[cfg(target_arch = "x86_64")]
    #[expect(clippy::cast_possible_truncation, reason = "few symbols")]
    pub(super) fn far_at(&self, class: usize, slot: u32) -> Symbol {
        // Where it ends cannot be foreseen: so all are counted that end before.
        let far = &self.runs[class % MAX_CLASSES][NEAR..NEAR + FAR];
        let before = |run: &&Run| u32::from(run.start) + u32::from(run.slots) <= slot;
        self.symbol(class, (NEAR + far.iter().filter(before).count()) as u32)
    }

    /// The symbol of a step, which may have no slots.
    #[inline(always)]
    fn symbol(&self, class: usize, step: u32) -> Symbol {
        let runs = &self.runs[class % MAX_CLASSES];
        let Run { start, slots } = runs[step as usize % STEPS];
        Symbol { step, start: u32::from(start), end: u32::from(start) + u32::from(slots) }
    }

    /// The symbol that an encoder puts for an element that moves by a distance of so many bits beyond one
    /// unit.
    #[inline(always)]
    pub(super) fn moved(&self, class: usize, bits: u32) -> Symbol {
        let own = self.symbol(class, bits + 1);
        if own.end > own.start { own } else { self.symbol(class, self.bits + 1) }
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
