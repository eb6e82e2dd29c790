//! How far an element moves, and the slots that say so.

use crate::element::Element;

use super::layout::halves;
use super::model::{Class, MAX_CLASSES, Model, Symbol, Symbols};
use super::plan::{LADDER, ladder};
use super::stream::{SYMBOL_SCALE, Slots, Step, Writer};

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

    /// The kind of symbol for the distance: twice the bits, and one more if it is down.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "at most 129")]
    pub(super) fn kind(self) -> u8 {
        self.bits() as u8 * 2 + u8::from(self.down)
    }

    /// Whether distances of a kind differ.
    #[inline(always)]
    pub(super) fn is_far_kind(kind: u8) -> bool {
        (4..128).contains(&kind)
    }

    /// Whether the kind alone does not tell the distance.
    #[inline(always)]
    pub(super) fn is_far(self) -> bool {
        Self::is_far_kind(self.kind())
    }

    /// The distance of a kind that is not far.
    pub(super) fn near(kind: u8) -> Self {
        Self { down: kind % 2 == 1, beyond: u64::from(kind / 2) }
    }

    /// The plain bits that follow a symbol for a change.
    #[expect(clippy::cast_possible_truncation, reason = "at most 64 bits")]
    pub(super) fn plain(self, slots: Slots, mut put: impl FnMut(u32, u32)) {
        let bits = self.bits() as u32;
        if slots.escape {
            put(bits | u32::from(self.down) << 6, 7);
        }
        self.extra(put);
    }

    /// The plain bits below the leading one.
    #[expect(clippy::cast_possible_truncation, reason = "at most 64 bits")]
    fn extra(self, mut put: impl FnMut(u32, u32)) {
        let len = (self.bits() as u32).saturating_sub(1);
        halves(self.beyond & ((1 << len) - 1), len).for_each(|(value, len)| put(value, len));
    }

    /// Whether the new value is the lower one.
    pub(super) fn is_down(self) -> bool {
        self.down
    }
}

const KINDS: usize = 65 * 2;
const UNCHANGED: usize = 64 * 2;

/// The slots of each kind of distance, by class.
#[derive(Debug, Clone)]
pub(super) struct SymbolTables {
    tables: Vec<[Slots; KINDS]>,
    by_class: [u8; MAX_CLASSES],
    /// Whether changes of a class go beyond one unit.
    reaches: [bool; MAX_CLASSES],
    by_key: [u8; 256],
    ladder: [[u16; MAX_CLASSES]; LADDER],
}

impl Default for SymbolTables {
    fn default() -> Self {
        Self {
            tables: vec![[Slots::default(); KINDS]; MAX_CLASSES],
            by_class: [0; MAX_CLASSES],
            reaches: [false; MAX_CLASSES],
            by_key: [0; 256],
            ladder: [[0; MAX_CLASSES]; LADDER],
        }
    }
}

impl SymbolTables {
    /// Makes the tables for a model, in the memory of those before.
    #[expect(clippy::cast_possible_truncation, reason = "32 classes at most")]
    pub(super) fn fill(&mut self, model: &Model, width: usize) {
        let mut made: Vec<Class> = Vec::with_capacity(MAX_CLASSES);
        for (by_class, &class) in self.by_class.iter_mut().zip(&model.classes) {
            // Cold classes differ in their tables by the reach alone.
            let class = if class.is_hot() { class } else { Class { rate: 0, ..class } };
            let known = made.iter().position(|&known| known == class);
            *by_class = known.unwrap_or(made.len()) as u8;
            if known.is_some() {
                continue;
            }
            let symbols = Symbols::new(class, width);
            let escape = Slots::new(symbols.slots(Symbol::Escape).unwrap_or((0, 1)), true);
            let table = &mut self.tables[made.len()];
            made.push(class);
            for (kind, slots) in table.iter_mut().enumerate().take(width * 16) {
                let symbol = Symbol::Moved { bits: kind as u32 / 2, down: kind % 2 == 1 };
                *slots = symbols.slots(symbol).map_or(escape, |own| Slots::new(own, false));
            }
            let unchanged = Slots::new(symbols.slots(Symbol::Unchanged).unwrap_or((0, 1)), false);
            table[UNCHANGED] = unchanged;
            table[UNCHANGED + 1] = unchanged;
        }
        self.ladder = ladder(model, width);
        for (reaches, class) in self.reaches.iter_mut().zip(&model.classes) {
            *reaches = class.reach > 0;
        }
        for (key, class) in self.by_key.iter_mut().enumerate() {
            *class = model.class_of(key) as u8;
        }
    }

    /// See [`ladder`].
    #[cfg(target_arch = "x86_64")]
    pub(super) fn ladder(&self) -> &[[u16; MAX_CLASSES]; LADDER] {
        &self.ladder
    }

    /// The class of a key.
    #[inline(always)]
    pub(super) fn class(&self, key: usize) -> u8 {
        self.by_key[key & 0xff]
    }

    /// The slots for a kind of distance.
    #[inline(always)]
    pub(super) fn find(&self, class: u8, kind: u8) -> Slots {
        let table = self.by_class[usize::from(class) % MAX_CLASSES];
        self.tables[usize::from(table)][usize::from(kind) % KINDS]
    }

    /// Puts the symbol of a kind of distance and its plain bits; `far` gives the distance if the kind does not tell it.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "lengths are at most 32")]
    pub(super) fn put(
        &self,
        class: u8,
        kind: u8,
        far: impl FnOnce() -> Option<Distance>,
        writer: &mut Writer,
    ) {
        let slots = self.find(class, kind);
        if Distance::is_far_kind(kind) || slots.escape {
            let distance = if Distance::is_far_kind(kind) { far() } else { None };
            let mut steps = [Step::bits(0, 0); 3];
            let mut len = 0;
            distance.unwrap_or(Distance::near(kind)).plain(slots, |value, bits| {
                steps[len] = Step::bits(value, bits as u8);
                len += 1;
            });
            steps[..len].iter().rev().for_each(|&step| writer.put(step));
        }
        writer.put_symbol(slots);
    }

    /// Appends the symbol of a cold change, if its class has symbols, and its plain bits; the direction stands elsewhere.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "scale and lengths are at most 32")]
    pub(super) fn push_cold(&self, class: u8, distance: Distance, steps: &mut Vec<Step>) {
        if !self.reaches[usize::from(class) % MAX_CLASSES] {
            return;
        }
        let slots = self.find(class, distance.kind() & !1);
        steps.push(Step::symbol(slots.start(), slots.freq(), SYMBOL_SCALE as u8));
        if slots.escape {
            steps.push(Step::bits(distance.bits() as u32, 6));
        }
        distance.extra(|value, len| steps.push(Step::bits(value, len as u8)));
    }
}
