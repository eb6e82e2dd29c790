//! A model made ready for work: what a key means, and what a slot means in each class.

use crate::element::{Element, Key};

use super::model::{Class, MAX_CLASSES, Model, Symbol, Symbols};
use super::stream::SYMBOL_SCALE;

/// Marks the length of a hot class among those by class.
pub(crate) const HOT_MARK: u16 = 0x8000;
/// The bit that marks it among those by key: above the sum of the lengths of a group.
pub(crate) const HOT_BIT: u32 = 16;

/// Stands for the table of a class without symbols.
const NO_TABLE: u8 = u8::MAX;

/// Slots of a symbol table.
pub(super) const SLOTS: usize = 1 << SYMBOL_SCALE;

/// Lengths on the axis, by class and by key.
#[derive(Debug, Clone)]
pub(crate) struct Lengths {
    pub(crate) key: Key,
    pub(crate) first_key: u16,
    pub(crate) last_class: u16,
    /// The length of each class, with [`HOT_MARK`] for hot ones. Zero beyond the last class.
    pub(crate) by_class: [u16; MAX_CLASSES],
    /// The same for each key, marked by [`HOT_BIT`].
    by_key: [u32; 256],
}

impl Lengths {
    #[expect(clippy::cast_possible_truncation, reason = "lengths are below 2^11, classes 32 at most")]
    pub(super) fn new(model: &Model, key: Key, scale: u32) -> Self {
        let mut by_class = [0; MAX_CLASSES];
        for ((to, length), class) in by_class.iter_mut().zip(model.lengths(scale)).zip(&model.classes) {
            *to = if class.is_hot() { HOT_MARK } else { length as u16 };
        }
        let mut by_key = [0; 256];
        for (key, length) in by_key.iter_mut().enumerate() {
            let marked = by_class[model.class_of(key)];
            *length = u32::from(marked & !HOT_MARK) | u32::from(marked >> 15) << HOT_BIT;
        }
        let last_class = model.classes.len() as u16 - 1;
        Self { key, first_key: u16::from(model.first_key), last_class, by_class, by_key }
    }

    /// The length of each class, 0 for hot ones.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn cold_by_class(&self) -> [u16; MAX_CLASSES] {
        self.by_class.map(|length| if length == HOT_MARK { 0 } else { length })
    }

    /// The length of an element, 0 for a hot one.
    #[inline(always)]
    pub(crate) fn of<T: Element>(&self, element: T) -> u32 {
        self.marked(element) & 0xffff
    }

    /// The length of an element, and whether it is hot in [`HOT_BIT`].
    #[inline(always)]
    pub(crate) fn marked<T: Element>(&self, element: T) -> u32 {
        self.by_key[self.key.find(element) & 0xff]
    }
}

/// What a slot means: a symbol with its run of slots, packed to be found with one load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Entry(u32);

/// The code of the escape. `Unchanged` has 0, and `Moved` 1 + 2 · bits + down.
pub(super) const ESCAPE: u32 = 0x7ff;

impl Entry {
    fn new(symbol: Symbol, start: u32, freq: u32) -> Self {
        let code = match symbol {
            Symbol::Unchanged => 0,
            Symbol::Moved { bits, down } => 1 + 2 * bits + u32::from(down),
            Symbol::Escape => ESCAPE,
        };
        Self(code << 21 | start << 11 | freq)
    }

    #[inline(always)]
    pub(super) fn freq(self) -> u32 {
        self.0 & 0x7ff
    }

    #[inline(always)]
    pub(super) fn start(self) -> u32 {
        self.0 >> 11 & 0x3ff
    }

    #[inline(always)]
    pub(super) fn code(self) -> u32 {
        self.0 >> 21
    }
}

/// Symbols of a hot class that are told apart without a table: `unchanged`, and moves whose distance beyond one unit has 0 to 5 bits.
pub(super) const LADDER: usize = 7;

/// For each step of the ladder, and each hot class, the slot after the last of those symbols.
#[expect(clippy::cast_possible_truncation, reason = "at most 1024 slots")]
pub(super) fn ladder(model: &Model, width: usize) -> [[u16; MAX_CLASSES]; LADDER] {
    let mut ladder = [[SLOTS as u16; MAX_CLASSES]; LADDER];
    for (number, &class) in model.classes.iter().enumerate().filter(|(_, class)| class.is_hot()) {
        let symbols = Symbols::new(class, width);
        for (step, ends) in ladder.iter_mut().enumerate() {
            ends[number % MAX_CLASSES] = symbols.end_of_step(step) as u16;
        }
    }
    ladder
}

/// The symbols of all classes by slot.
#[derive(Debug, Clone)]
pub(super) struct Tables {
    entries: Box<[[Entry; SLOTS]; MAX_CLASSES]>,
    by_key: [u8; 256],
    cold: [Near; 256],
    near_by_class: [Near; MAX_CLASSES],
    ladder: [[u16; MAX_CLASSES]; LADDER],
}

/// The first two symbols of a cold class: a move by one unit, and by two.
///
/// Nearly all cold changes are one of these, and are told apart by two comparisons instead of a load from a large table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Near {
    /// The slots of the first symbol.
    pub(super) one: u16,
    /// The slots of both.
    pub(super) two: u16,
}

impl Near {
    /// Where all changes are by one unit, and so all slots say that: to read one leaves the state as it is.
    #[expect(clippy::cast_possible_truncation, reason = "at most 1024 slots")]
    pub(super) const NO_SYMBOLS: Self = Self { one: SLOTS as u16, two: SLOTS as u16 };
}

impl Default for Tables {
    fn default() -> Self {
        let entries = vec![[Entry::default(); SLOTS]; MAX_CLASSES].into_boxed_slice();
        Self {
            entries: entries
                .try_into()
                .unwrap_or_else(|_| Box::new([[Entry::default(); SLOTS]; MAX_CLASSES])),
            by_key: [0; 256],
            cold: [Near::NO_SYMBOLS; 256],
            near_by_class: [Near::NO_SYMBOLS; MAX_CLASSES],
            ladder: [[0; MAX_CLASSES]; LADDER],
        }
    }
}

impl Tables {
    /// Makes the tables for a model, in the memory of those before.
    #[expect(clippy::cast_possible_truncation, reason = "32 classes at most")]
    pub(super) fn fill(&mut self, model: &Model, width: usize) {
        let mut made: Vec<(Class, u8)> = Vec::new();
        let mut near = [Near::NO_SYMBOLS; MAX_CLASSES];
        let mut of_class = Vec::new();
        self.ladder = ladder(model, width);
        for &class in &model.classes {
            // Cold classes differ in their tables by the reach alone.
            let class = if class.is_hot() { class } else { Class { rate: 0, ..class } };
            if class.rate == 0 && class.reach == 0 {
                of_class.push(NO_TABLE);
                continue;
            }
            let known = made.iter().find(|(known, _)| *known == class).map(|&(_, table)| table);
            of_class.push(known.unwrap_or_else(|| {
                let table = made.len() as u8;
                made.push((class, table));
                let entries = &mut self.entries[usize::from(table) % MAX_CLASSES];
                let symbols = Symbols::new(class, width);
                let end = |bits| {
                    symbols
                        .slots(Symbol::Moved { bits, down: false })
                        .map(|(start, freq)| (start + freq) as u16)
                };
                let one = end(0).unwrap_or(0);
                near[usize::from(table) % MAX_CLASSES] = Near { one, two: end(1).unwrap_or(one) };
                symbols.for_each(|symbol, start, freq| {
                    let run = start as usize..(start + freq) as usize;
                    entries[run].fill(Entry::new(symbol, start, freq));
                });
                table
            }));
        }
        self.near_by_class = [Near::NO_SYMBOLS; MAX_CLASSES];
        for (by_class, &table) in self.near_by_class.iter_mut().zip(&of_class) {
            *by_class = near.get(usize::from(table)).copied().unwrap_or(Near::NO_SYMBOLS);
        }
        for (key, (table, cold)) in self.by_key.iter_mut().zip(&mut self.cold).enumerate() {
            *table = of_class[model.class_of(key)];
            *cold = near.get(usize::from(*table)).copied().unwrap_or(Near::NO_SYMBOLS);
        }
    }

    /// See [`ladder`].
    #[cfg(target_arch = "x86_64")]
    pub(super) fn ladder(&self) -> &[[u16; MAX_CLASSES]; LADDER] {
        &self.ladder
    }

    /// The near symbols by class.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn near_by_class(&self) -> [Near; MAX_CLASSES] {
        self.near_by_class
    }

    /// The near symbols of a cold element with this key.
    #[inline(always)]
    pub(super) fn near(&self, key: usize) -> Near {
        self.cold[key & 0xff]
    }

    /// The entry of a slot below 1024 for an element with this key.
    #[inline(always)]
    pub(super) fn find(&self, key: usize, slot: u32) -> Entry {
        self.entries[usize::from(self.by_key[key & 0xff]) % MAX_CLASSES][slot as usize % SLOTS]
    }
}
