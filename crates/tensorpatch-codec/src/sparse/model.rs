//! The probability model of a chunk: classes of elements by key, a rate and a reach for each.

#![expect(
    clippy::cast_possible_truncation,
    reason = "levels, keys and classes are below 256, shares below 2^32"
)]

use crate::CodecError;
use crate::bits::{BitReader, BitWriter};

use super::stream::SYMBOL_SCALE;
use super::tables::{CHANGE_FROM, LEVELS, QUARTERS, SURVIVAL, log2};

/// The most classes of a chunk.
pub(super) const MAX_CLASSES: usize = 32;
/// The lowest rate of a hot class.
pub(super) const HOT: u8 = 68;
/// The highest reach. Level 96 minus the reach is the hazard per unit beyond the first.
const MAX_REACH: u8 = 255;
const MAX_RATE: u8 = (LEVELS - 1) as u8;

/// How often the elements of a class change, and how far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Class {
    /// The level of the hazard to change; 0 if no element does.
    pub(super) rate: u8,
    /// The level of the distance beyond one unit in the last place; 0 if all changes are by one unit.
    pub(super) reach: u8,
}

impl Class {
    pub(super) fn is_hot(self) -> bool {
        self.rate >= HOT
    }
}

/// The classes of a chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Model {
    /// The key of the first class; lower keys belong to it too.
    pub(super) first_key: u8,
    /// One for each key from the first on; keys above the last belong to the last.
    pub(super) classes: Vec<Class>,
}

impl Model {
    /// The number of the class with this key.
    #[inline]
    pub(super) fn class_of(&self, key: usize) -> usize {
        key.saturating_sub(usize::from(self.first_key)).min(self.classes.len() - 1)
    }

    pub(super) fn has_hot(&self) -> bool {
        self.classes.iter().any(|class| class.is_hot())
    }

    pub(super) fn has_cold(&self) -> bool {
        self.classes.iter().any(|class| class.rate > 0 && !class.is_hot())
    }

    /// The scale of the axis: the highest that keeps every length below 2^11.
    pub(super) fn axis_scale(&self) -> u32 {
        let highest =
            self.classes.iter().map(|class| class.rate).filter(|&rate| rate < HOT).max().unwrap_or(0);
        14 + (u32::from(HOT - 1 - highest) / 4).min(4)
    }

    /// How long an element of each class is on the axis of the given scale; 0 for those that are hot or never change.
    pub(super) fn lengths(&self, scale: u32) -> [u32; MAX_CLASSES] {
        let mut lengths = [0; MAX_CLASSES];
        for (length, class) in lengths.iter_mut().zip(&self.classes) {
            if class.rate == 0 || class.is_hot() {
                continue;
            }
            let quarter = QUARTERS[usize::from(class.rate % 4)];
            // 15 bits of the quarter, and a level of 80 is one half-life, that is 2^scale.
            let shift = 35 - u32::from(class.rate) / 4 - scale;
            *length = ((quarter + (1 << (shift - 1))) >> shift).max(1);
        }
        lengths
    }

    pub(super) fn write(&self, bits: &mut BitWriter<'_>) {
        let spread = self.classes.iter().rposition(|class| class.reach > 0).map_or(0, |last| last + 1);
        bits.put(self.classes.len() as u32 - 1, 5);
        bits.put(spread as u32, 6);
        bits.put(u32::from(self.first_key), 8);
        let mut expected = None;
        for class in &self.classes {
            put_level(bits, expected, class.rate, 7);
            expected = Some(class.rate.saturating_sub(4).max(1));
        }
        expected = None;
        for class in self.classes[..spread].iter().rev() {
            put_level(bits, expected, class.reach, 8);
            expected = Some(class.reach.saturating_add(4));
        }
    }

    /// Reads a model from the bits at the start of a payload.
    pub(super) fn read(bits: &mut BitReader<'_>) -> Result<Self, CodecError> {
        let bad = |what| move || CodecError::new(what, 0);
        let truncated = bad("the classes are cut short");
        let count = bits.take(5).ok_or_else(truncated)? as usize + 1;
        let spread = bits.take(6).ok_or_else(truncated)? as usize;
        let first_key = bits.take(8).ok_or_else(truncated)?;
        let first_key = u8::try_from(first_key).map_err(|_| truncated())?;
        if spread > count {
            return Err(bad("more classes with a reach than classes")());
        }
        let mut classes = vec![Class::default(); count];
        let mut expected = None;
        for class in &mut classes {
            class.rate =
                take_level(bits, expected, 7, MAX_RATE).ok_or_else(bad("a rate is not from 0 to 95"))?;
            expected = Some(class.rate.saturating_sub(4).max(1));
        }
        expected = None;
        for class in classes[..spread].iter_mut().rev() {
            class.reach =
                take_level(bits, expected, 8, MAX_REACH).ok_or_else(bad("a reach is not from 0 to 255"))?;
            expected = Some(class.reach.saturating_add(4));
        }
        Ok(Self { first_key, classes })
    }
}

/// The longest run of zeros in front of a level that is coded by its difference from the expected one.
const ESCAPE: u32 = 8;

/// A level: the zigzag difference from the expected one, Rice-coded with one plain bit; or after an escape, or if none is
/// expected, `len` plain bits.
fn put_level(bits: &mut BitWriter<'_>, expected: Option<u8>, level: u8, len: u32) {
    if let Some(expected) = expected {
        let difference = i32::from(level) - i32::from(expected);
        let zigzag = ((difference << 1) ^ (difference >> 31)).cast_unsigned();
        if zigzag >> 1 < ESCAPE {
            bits.put(0, zigzag >> 1);
            bits.put(1, 1);
            bits.put(zigzag & 1, 1);
            return;
        }
        bits.put(0, ESCAPE);
        bits.put(1, 1);
    }
    bits.put(u32::from(level), len);
}

fn take_level(bits: &mut BitReader<'_>, expected: Option<u8>, len: u32, max: u8) -> Option<u8> {
    if let Some(expected) = expected {
        let high = bits.zeros(ESCAPE)?;
        if high < ESCAPE {
            let zigzag = high << 1 | bits.take(1)?;
            let difference = (zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed();
            return u8::try_from(i32::from(expected) + difference).ok().filter(|&level| level <= max);
        }
    }
    u8::try_from(bits.take(len)?).ok().filter(|&level| level <= max)
}

/// What a symbol says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Symbol {
    /// The element keeps its value. In hot classes only.
    Unchanged,
    /// The distance beyond one unit has this many bits.
    Moved { bits: u32, down: bool },
    /// The number of bits and the direction follow, in six plain bits and one.
    Escape,
}

/// The slots of the symbols of a class: unchanged, then up and down by 0, 1, 2, ... bits, then the escape; each from its
/// start to that of the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Symbols {
    starts: Vec<u32>,
}

const SLOTS: u32 = 1 << SYMBOL_SCALE;

/// The chance, in 2^-16, that the distance beyond one unit is at least `2^bits`.
fn at_least(reach: u8, bits: u32) -> u32 {
    let level = 96 + 4 * i64::from(bits) - i64::from(reach);
    if level < 0 {
        return 1 << 16;
    }
    usize::try_from(level).ok().and_then(|level| SURVIVAL.get(level)).copied().unwrap_or(0)
}

impl Symbols {
    /// For elements of `width` bytes.
    pub(super) fn new(class: Class, width: usize) -> Self {
        let mut first = 0;
        if class.is_hot() {
            first = (SURVIVAL[usize::from(class.rate)] >> (16 - SYMBOL_SCALE)).max(1);
        }
        let mut starts = vec![0, first];
        let mut start = first;
        let mut split = |end: u32| {
            starts.extend([start + (end - start).div_ceil(2), end]);
            start = end;
        };
        if class.reach == 0 {
            split(SLOTS);
        } else {
            // One slot is kept for the escape, which also gets what lies beyond the longest distance.
            let room = SLOTS - 1 - first;
            for bits in 0..width as u32 * 8 {
                split(first + ((room * ((1 << 16) - at_least(class.reach, bits))) >> 16));
            }
        }
        starts.push(SLOTS);
        Self { starts }
    }

    /// The symbol at a slot, with its start and the number of its slots.
    pub(super) fn find(&self, slot: u32) -> (Symbol, u32, u32) {
        let next = self.starts.partition_point(|&start| start <= slot).clamp(1, self.starts.len() - 1);
        let index = next - 1;
        let symbol = match index {
            0 => Symbol::Unchanged,
            _ if index + 2 == self.starts.len() => Symbol::Escape,
            _ => Symbol::Moved { bits: (index as u32 - 1) / 2, down: index.is_multiple_of(2) },
        };
        (symbol, self.starts[index], self.starts[next] - self.starts[index])
    }

    /// The start and the number of slots of a symbol; `None` if it has no slots.
    pub(super) fn slots(&self, symbol: Symbol) -> Option<(u32, u32)> {
        let index = match symbol {
            Symbol::Unchanged => 0,
            Symbol::Moved { bits, down } => bits as usize * 2 + 1 + usize::from(down),
            Symbol::Escape => self.starts.len() - 2,
        };
        if matches!(symbol, Symbol::Moved { .. }) && index + 2 >= self.starts.len() {
            return None;
        }
        let (start, end) = (*self.starts.get(index)?, *self.starts.get(index + 1)?);
        (end > start).then_some((start, end - start))
    }
}

/// What an encoder has counted in a class: the elements, and the changed ones by the bits of their distance beyond one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counts {
    pub(super) elements: u64,
    pub(super) changed: [u64; 64],
}

impl Default for Counts {
    fn default() -> Self {
        Self { elements: 0, changed: [0; 64] }
    }
}

impl Counts {
    fn total_changed(&self) -> u64 {
        self.changed.iter().sum()
    }

    fn add(&mut self, other: &Self) {
        self.elements += other.elements;
        for (to, from) in self.changed.iter_mut().zip(&other.changed) {
            *to += from;
        }
    }

    /// The level nearest to the share of changed elements.
    fn rate(&self) -> u8 {
        let changed = self.total_changed();
        if changed == 0 {
            return 0;
        }
        let share =
            ((u128::from(changed) << 32) / u128::from(self.elements.max(1))).min(u128::from(u32::MAX)) as u32;
        CHANGE_FROM.partition_point(|&from| from <= share).max(1) as u8
    }

    /// The cheapest reach for the distances.
    fn reach(&self, width: usize) -> u8 {
        let total = self.total_changed();
        if self.changed[0] == total {
            return 0;
        }
        let highest = self.changed.iter().rposition(|&count| count > 0).unwrap_or(0);
        let cost = |reach: u8| -> u64 {
            let symbols = Symbols::new(Class { rate: 0, reach }, width);
            let escape = symbols.slots(Symbol::Escape).map_or(0, |(_, slots)| u64::from(slots));
            (0u32..).zip(&self.changed[..=highest]).filter(|&(_, &count)| count > 0).fold(
                0,
                |cost, (bits, &count)| {
                    let up = symbols.slots(Symbol::Moved { bits, down: false });
                    let own = match symbols.slots(Symbol::Moved { bits, down: true }).or(up) {
                        Some((_, slots)) => (10 << 12) - log2(u64::from(slots)),
                        None => (17 << 12) - log2(escape.max(1)),
                    };
                    cost + own * count
                },
            )
        };
        (1..=MAX_REACH).min_by_key(|&reach| cost(reach)).unwrap_or(1)
    }
}

impl Model {
    /// The model for what was counted by key. At least one element must have changed.
    pub(super) fn fit(counts: &[Counts; 256], width: usize) -> Self {
        let changed = |key: &usize| counts[*key].total_changed() > 0;
        let lowest = (0..256).find(changed).unwrap_or(0);
        let highest = (0..256).rfind(changed).unwrap_or(0);
        let first = lowest.max((highest + 1).saturating_sub(MAX_CLASSES));
        // Unchanged keys above the last changed one: worth a class of its own if there are many of them.
        let above: u64 = counts[highest + 1..].iter().map(|count| count.elements).sum();
        let last = if above > 0 && highest + 1 < first + MAX_CLASSES { highest + 1 } else { highest };

        let mut model = Self { first_key: first as u8, classes: Vec::new() };
        for key in first..=last {
            let mut merged = counts[key];
            if key == first {
                counts[..key].iter().for_each(|lower| merged.add(lower));
            }
            if key == last {
                counts[key + 1..].iter().for_each(|higher| merged.add(higher));
            }
            let mut class = Class { rate: merged.rate(), reach: merged.reach(width) };
            if class.rate == 0 && merged.elements < 64 {
                class.rate = model.classes.last().map_or(0, |before| before.rate.saturating_sub(4).max(1));
            }
            model.classes.push(class);
        }
        model
    }
}
