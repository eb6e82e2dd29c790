//! How often elements change, as lengths: what a survey of a block adds up, and what the places of cold
//! changes go by.

use crate::element::{Element, Key};

use super::model::{MAX_CLASSES, Model};
use super::symbols::SYMBOL_BITS;
use super::tables::QUARTERS;

/// The place of a change in its group has slots of `2^PLACE_BITS`.
pub(super) const PLACE_BITS: u32 = 16;

/// Marks the length of a hot class among those by class.
pub(crate) const HOT_MARK: u16 = 0x8000;
/// The bit that marks it among those by key: above the sum of the lengths of a group.
pub(crate) const HOT_BIT: u32 = 16;

/// The lengths of the classes of a chunk: in proportion to the chance that an element changes, and below
/// 2^11.
#[derive(Debug, Clone)]
pub(crate) struct Lengths {
    pub(crate) key: Key,
    pub(crate) first_key: u16,
    pub(crate) last_class: u16,
    /// The length of each class, with [`HOT_MARK`] for hot ones. Zero beyond the last class.
    pub(crate) by_class: [u16; MAX_CLASSES],
    /// The same for each key, marked by [`HOT_BIT`].
    by_key: [u32; 256],
    pub(super) chance: Chance,
}

impl Lengths {
    #[expect(clippy::cast_possible_truncation, reason = "lengths are below 2^11, classes 32 at most")]
    pub(super) fn new(model: &Model, key: Key) -> Self {
        let highest = u32::from(model.highest_cold_rate());
        let length = |rate: u32| {
            let quarter = QUARTERS[rate as usize % 4];
            let shift = 5 + highest / 4 - rate / 4;
            ((quarter + (1 << (shift - 1))) >> shift).max(1)
        };
        let mut by_class = [0; MAX_CLASSES];
        for (to, &class) in by_class.iter_mut().zip(&model.classes) {
            *to = match u32::from(class.rate) {
                _ if model.is_hot(class) => HOT_MARK,
                0 => 0,
                rate => length(rate) as u16,
            };
        }
        let mut by_key = [0; 256];
        for (key, length) in by_key.iter_mut().enumerate() {
            let marked = by_class[model.class_of(key)];
            *length = u32::from(marked & !HOT_MARK) | u32::from(marked >> 15) << HOT_BIT;
        }
        let last_class = model.classes.len() as u16 - 1;
        let chance = Chance { factor: (5678 << (highest / 4) >> 15) as u16 };
        Self { key, first_key: u16::from(model.first_key), last_class, by_class, by_key, chance }
    }

    /// The length of an element, 0 for a hot one.
    #[inline(always)]
    pub(crate) fn of<T: Element>(&self, element: T) -> u32 {
        self.marked(element) & 0xffff
    }

    /// The sum of the lengths of some elements, with how many are hot from [`HOT_BIT`] on.
    #[inline(always)]
    pub(crate) fn sum<T: Element>(&self, bytes: &[u8]) -> u32 {
        let mut sum = 0;
        self.each::<T>(bytes, |marked| sum += marked);
        sum
    }

    /// Gives the length of each element, with whether it is hot in [`HOT_BIT`].
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "a key has eight bits")]
    pub(super) fn each<T: Element>(&self, bytes: &[u8], mut take: impl FnMut(u32)) {
        let Key { shift, mask } = self.key;
        let masks = (0..8 / T::WIDTH).fold(0, |masks, i| masks | mask << (8 * T::WIDTH * i));
        let (words, rest) = bytes.as_chunks();
        for word in words {
            let keys = (u64::from_le_bytes(*word) >> shift) & masks;
            for i in 0..8 / T::WIDTH {
                take(self.by_key[usize::from((keys >> (8 * T::WIDTH * i)) as u8)]);
            }
        }
        rest.chunks_exact(T::WIDTH).for_each(|old| take(self.marked(T::load(old))));
    }

    /// The length of an element, and whether it is hot in [`HOT_BIT`].
    #[inline(always)]
    pub(crate) fn marked<T: Element>(&self, element: T) -> u32 {
        self.by_key[self.key.find(element) & 0xff]
    }
}

/// The chance that nothing changes in a group, by the sum of its lengths.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chance {
    /// An eighth of the hazard of one unit of length, in 2^-33.
    pub(super) factor: u16,
}

impl Chance {
    /// How many slots, of `2^SYMBOL_BITS`, say that nothing changes.
    ///
    /// The eighth power of one minus an eighth is close to the exponential, and takes three products of 16
    /// bits.
    #[inline(always)]
    pub(super) fn unchanged(self, sum: u16) -> u16 {
        let high = |a: u16, b: u16| ((u32::from(a) * u32::from(b)) >> 16) as u16;
        let eighth = high(sum, self.factor);
        let mut kept = 65_535 - 2 * eighth.min(16_383);
        for _ in 0..3 {
            kept = high(kept, kept);
        }
        if sum == 0 { 1 << SYMBOL_BITS } else { kept >> 4 }
    }

    /// The same for many.
    pub(super) fn all_unchanged(self, sums: &[u16], unchanged: &mut Vec<u16>) {
        unchanged.clear();
        unchanged.extend(sums.iter().map(|&sum| self.unchanged(sum)));
    }
}

/// The slots of the elements of a group, whose lengths end where they end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places(u32);

impl Places {
    /// `sum` is that of the lengths of the group, and not 0.
    #[inline(always)]
    pub(super) fn new(sum: u32) -> Self {
        Self(u32::MAX / sum)
    }

    /// The slots before a length.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "below 2^16")]
    pub(super) fn before(self, length: u32) -> u32 {
        ((u64::from(length) * u64::from(self.0)) >> 16) as u32
    }

    #[cfg(target_arch = "x86_64")]
    pub(super) fn factor(self) -> u32 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_has_slots_and_none_lies_beyond_the_last() {
        for sum in (1..3000).chain((3000..55_168).step_by(71)).chain([55_168]) {
            let places = Places::new(sum);
            assert!(places.before(sum) < 1 << PLACE_BITS);
            assert!((0..sum).all(|length| places.before(length) < places.before(length + 1)), "{sum}");
        }
    }

    #[test]
    #[expect(clippy::cast_possible_truncation, reason = "below 2^16")]
    fn the_chance_is_close_to_the_exponential_and_never_nothing() {
        for quarter in [0_u32, 5, 14, 18] {
            let factor = (5678_u32 << quarter >> 15) as u16;
            for sum in (1..=55_168_u32).step_by(3) {
                let slots = Chance { factor }.unchanged(sum as u16);
                assert!((1..1 << SYMBOL_BITS).contains(&slots), "{sum}");
                let hazard = f64::from(sum) * f64::from(quarter).exp2() / f64::from(1 << 30);
                if quarter >= 14 && hazard < 2.0 {
                    let exact = 4096.0 * (-hazard).exp2();
                    assert!((f64::from(slots) / exact - 1.0).abs() < 0.14, "{sum}: {slots} for {exact}");
                }
            }
        }
    }
}
