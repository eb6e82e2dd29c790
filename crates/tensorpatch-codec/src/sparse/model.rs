//! The probability model of a chunk: classes of elements by key, a rate and a reach for each.

#![expect(
    clippy::cast_possible_truncation,
    reason = "levels, keys and classes are below 256, shares below 2^32"
)]

use crate::CodecError;

use super::bits::BitWriter;
use super::payload::Input;
use super::tables::{CHANGE_FROM, LEVELS, SURVIVAL, log2};

/// The most classes of a chunk.
pub(super) const MAX_CLASSES: usize = 32;
/// The lowest rates of a hot class, by their code; with the first one all classes are hot.
const HOT_FROM: [u8; 4] = [0, 68, 72, 76];
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

/// Which classes are hot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HotFrom(u8);

impl HotFrom {
    /// All of them.
    pub(super) const DENSE: Self = Self(0);

    /// Those that change often; the lower the more of the chunk changes.
    pub(super) const RATES: [Self; 3] = [Self(1), Self(2), Self(3)];

    /// The lowest rate of a hot class.
    fn lowest(self) -> u8 {
        HOT_FROM[usize::from(self.0) % HOT_FROM.len()]
    }
}

/// The classes of a chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Model {
    pub(super) hot_from: HotFrom,
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

    /// Whether every element has a symbol.
    pub(super) fn is_dense(&self) -> bool {
        self.hot_from == HotFrom::DENSE
    }

    pub(super) fn is_hot(&self, class: Class) -> bool {
        self.is_dense() || class.rate >= self.hot_from.lowest()
    }

    /// The highest rate of the cold classes; 0 if there is none.
    pub(super) fn highest_cold_rate(&self) -> u8 {
        self.classes.iter().filter(|&&class| !self.is_hot(class)).map(|class| class.rate).max().unwrap_or(0)
    }

    pub(super) fn write(&self, bits: &mut BitWriter) {
        let reaching = self.classes.iter().rposition(|class| class.reach > 0).map_or(0, |last| last + 1);
        bits.put(u32::from(self.hot_from.0), 2);
        bits.put(self.classes.len() as u32 - 1, 5);
        bits.put(u32::from(reaching > 0), 1);
        if reaching > 0 {
            bits.put(reaching as u32 - 1, 5);
        }
        bits.put(u32::from(self.first_key), 8);
        let mut expected = None;
        for class in &self.classes {
            put_level(bits, expected, class.rate, 7);
            expected = Some(class.rate.saturating_sub(4).max(1));
        }
        expected = None;
        for class in self.classes[..reaching].iter().rev() {
            put_level(bits, expected, class.reach, 8);
            expected = Some(class.reach.saturating_add(5));
        }
    }

    /// Reads a model from the bits of a payload.
    #[deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
    pub(super) fn read(input: &mut Input<'_>) -> Result<Self, CodecError> {
        let bad = |what| CodecError::new(what, 0);
        let hot_from = HotFrom(input.bits(2) as u8);
        let count = (input.bits(5) as usize).saturating_add(1);
        let reaching = if input.bits(1) == 1 { (input.bits(5) as usize).saturating_add(1) } else { 0 };
        let first_key = input.bits(8) as u8;
        if reaching > count {
            return Err(bad("more classes with a reach than classes"));
        }
        let mut classes = vec![Class::default(); count];
        let mut expected = None;
        for class in &mut classes {
            class.rate = take_level(input, expected, 7, MAX_RATE).ok_or(bad("a rate is not from 0 to 95"))?;
            expected = Some(class.rate.saturating_sub(4).max(1));
        }
        expected = None;
        for class in classes.iter_mut().take(reaching).rev() {
            class.reach =
                take_level(input, expected, 8, MAX_REACH).ok_or(bad("a reach is not from 0 to 255"))?;
            expected = Some(class.reach.saturating_add(5));
        }
        Ok(Self { hot_from, first_key, classes })
    }
}

/// The longest run of zeros in front of a level that is coded by its difference from the expected one.
const ESCAPE: u32 = 8;

/// A level: the zigzag difference from the expected one, Rice-coded with one plain bit; or after an escape,
/// or if none is expected, `len` plain bits.
fn put_level(bits: &mut BitWriter, expected: Option<u8>, level: u8, len: u32) {
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

#[deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
fn take_level(input: &mut Input<'_>, expected: Option<u8>, len: u32, max: u8) -> Option<u8> {
    if let Some(expected) = expected {
        let high = input.zeros(ESCAPE)?;
        if high < ESCAPE {
            let zigzag = high << 1 | input.bits(1);
            let difference = (zigzag >> 1).cast_signed() ^ (zigzag & 1).cast_signed().saturating_neg();
            let level = i32::from(expected).checked_add(difference)?;
            return u8::try_from(level).ok().filter(|&level| level <= max);
        }
    }
    u8::try_from(input.bits(len)).ok().filter(|&level| level <= max)
}

/// The chance, in 2^-16, that the distance beyond one unit is at least `2^bits`.
pub(super) fn at_least(reach: u8, bits: u32) -> u32 {
    let level = 96 + 5 * i64::from(bits) - i64::from(reach);
    if level < 0 {
        return 1 << 16;
    }
    usize::try_from(level).ok().and_then(|level| SURVIVAL.get(level)).copied().unwrap_or(0)
}

/// What an encoder has counted of a key: the elements, and the changed ones by the bits of their distance
/// beyond one.
#[derive(Debug, Clone, Copy)]
struct Count {
    elements: u64,
    changes: u32,
    by_bits: [u32; 64],
}

impl Count {
    const ZERO: Self = Self { elements: 0, changes: 0, by_bits: [0; 64] };

    fn add(&mut self, other: &Self) {
        self.elements += other.elements;
        self.changes += other.changes;
        if other.changes > 0 {
            for (to, from) in self.by_bits.iter_mut().zip(&other.by_bits) {
                *to += from;
            }
        }
    }

    /// The level nearest to the share of changed elements.
    fn rate(&self) -> u8 {
        if self.changes == 0 {
            return 0;
        }
        let changes = u64::from(self.changes);
        let share = ((changes << 32) / self.elements.max(changes)).min(u64::from(u32::MAX)) as u32;
        CHANGE_FROM.partition_point(|&from| from <= share).max(1) as u8
    }

    /// The level that costs least where `expected` costs least to write.
    fn cheapest_rate(&self, expected: Option<u8>) -> u8 {
        let nearest = self.rate();
        let Some(expected) = expected else { return nearest.max(1) };
        if nearest == 0 {
            return expected;
        }
        // A level off costs 0.0217 bits a change, and as the square; a level from the expected one about half
        // a bit.
        let cost = |rate: u8| {
            let off = u64::from(rate.abs_diff(nearest));
            let written = (u64::from(rate.abs_diff(expected))).div_ceil(2).min(12);
            22 * u64::from(self.changes) * off * off + 500 * written
        };
        (nearest.saturating_sub(4).max(1)..=(nearest + 4).min(MAX_RATE))
            .min_by_key(|&rate| cost(rate))
            .unwrap_or(nearest)
    }

    /// The cheapest reach for the distances.
    fn reach(&self, width: usize) -> u8 {
        if self.by_bits[0] == self.changes {
            return 0;
        }
        let highest = self.by_bits.iter().rposition(|&count| count > 0).unwrap_or(0);
        // The slots of a distance in each direction, in 2^-8, of the 4094 that are shared.
        let cost = |reach: u8| -> u64 {
            let mut cost = 0;
            let mut above = 1 << 16;
            let kept = (4094 * at_least(reach, width as u32 * 8 - 1)) >> 17;
            let escape = (18 << 12) - log2(u64::from(kept + 1));
            for (bits, &count) in (0u32..).zip(&self.by_bits[..=highest]) {
                let below = at_least(reach, bits);
                let slots = (4094 * (above - below)) >> 9;
                let own = if slots < 256 { escape } else { (20 << 12) - log2(u64::from(slots)) };
                cost += own * u64::from(count);
                above = below;
            }
            cost
        };
        // Where half of the distances or less lie beyond, the law tells the reach well enough to look only
        // near it: from there on uphill on both sides.
        let (mut bits, mut beyond) = (0, self.changes - self.by_bits[0]);
        while beyond > self.changes / 2 {
            bits += 1;
            beyond -= self.by_bits[bits];
        }
        let share = ((u64::from(beyond) << 16) / u64::from(self.changes)) as u32;
        let level = SURVIVAL.partition_point(|&survival| survival > share);
        let start = (96 + 5 * bits).saturating_sub(level).clamp(1, usize::from(MAX_REACH)) as u8;
        let mut best = (cost(start), start);
        for step in [1, -1] {
            let mut worse = 0;
            let mut reach = start;
            while worse < 6
                && let Some(next) = reach.checked_add_signed(step).filter(|&next| next > 0)
            {
                reach = next;
                let found = (cost(reach), reach);
                worse = if found < best { 0 } else { worse + 1 };
                best = best.min(found);
            }
        }
        best.1
    }
}

/// What a symbol of a hot element takes, and what a cold change does, in times of a symbol of a chunk that
/// has one for each element.
const HOT_COST: u64 = 2;
const COLD_COST: u64 = 12;

/// What an encoder has counted, by key.
#[derive(Debug, Clone)]
pub(super) struct Counts {
    counts: Box<[Count; 256]>,
    /// Whether there are changes that were not looked at.
    is_sample: bool,
}

impl Default for Counts {
    fn default() -> Self {
        Self { counts: Box::new([Count::ZERO; 256]), is_sample: false }
    }
}

impl Counts {
    pub(super) fn reset(&mut self) {
        let used = self.counts.iter_mut().filter(|count| count.elements > 0 || count.changes > 0);
        used.for_each(|count| *count = Count::ZERO);
        self.is_sample = false;
    }

    /// Adds an element that changed by a distance of so many bits beyond one unit, which stands for `weight`
    /// of them.
    #[inline(always)]
    pub(super) fn add_change(&mut self, key: usize, bits: usize, weight: u32) {
        let count = &mut self.counts[key & 0xff];
        count.changes += weight;
        count.by_bits[bits % 64] += weight;
        self.is_sample |= weight > 1;
    }

    /// Sets how many elements each key has.
    pub(super) fn set_elements(&mut self, elements: impl Iterator<Item = u64>) {
        self.counts.iter_mut().zip(elements).for_each(|(count, elements)| count.elements = elements);
    }

    /// Which classes are to be hot. Where many elements would have a symbol, or many changes be cold, a
    /// symbol for each element takes less time.
    pub(super) fn hot_from(&self) -> HotFrom {
        let [few, some, many] = [HotFrom::RATES[2], HotFrom::RATES[1], HotFrom::RATES[0]];
        let changes: u64 = self.counts.iter().map(|count| u64::from(count.changes)).sum();
        let elements: u64 = self.counts.iter().map(|count| count.elements).sum();
        let hot_from = match changes * 1000 / elements.max(1) {
            0..25 => few,
            25..50 => some,
            50..100 => many,
            _ => HotFrom::DENSE,
        };
        // In symbols of a chunk that has one for each element.
        let cost = |count: &Count| {
            let is_hot = count.rate() >= hot_from.lowest();
            if is_hot { HOT_COST * count.elements } else { COLD_COST * u64::from(count.changes) }
        };
        if self.counts.iter().map(cost).sum::<u64>() > elements { HotFrom::DENSE } else { hot_from }
    }

    /// What belongs to each class of keys from `first` to `last`.
    fn merged(&self, first: usize, last: usize) -> impl Iterator<Item = Count> {
        (first..=last).map(move |key| {
            let mut merged = self.counts[key];
            if key == first {
                self.counts[..key].iter().for_each(|lower| merged.add(lower));
            }
            if key == last {
                self.counts[key + 1..].iter().for_each(|higher| merged.add(higher));
            }
            merged
        })
    }
}

/// The fewest changes that make a class of their own worth its description, at the ends of the range.
const WORTH_A_CLASS: u32 = 12;

impl Model {
    /// The model for what was counted. At least one element must have changed.
    pub(super) fn fit(counts: &Counts, hot_from: HotFrom, width: usize) -> Self {
        let changed = |key: &usize| counts.counts[*key].changes > 0;
        let highest = (0..256).rfind(changed).unwrap_or(0);
        let mut below = 0;
        let lowest = (0..highest).find(|&key| {
            below += counts.counts[key].changes;
            below >= WORTH_A_CLASS
        });
        let first = lowest.unwrap_or(highest).max((highest + 1).saturating_sub(MAX_CLASSES));
        let mut model = Self { hot_from, first_key: first as u8, classes: Vec::with_capacity(MAX_CLASSES) };
        let mut expected = None;
        for merged in counts.merged(first, highest) {
            let rate = merged.cheapest_rate(expected);
            expected = Some(rate.saturating_sub(4).max(1));
            // A change that was not looked at may be by more than one unit.
            let least = u8::from(counts.is_sample);
            model.classes.push(Class { rate, reach: merged.reach(width).max(least) });
        }
        model
    }

    /// Sets the rates of the hot classes by how many elements they really have.
    pub(super) fn refit_hot(&mut self, counts: &Counts, elements: &[u64; MAX_CLASSES]) {
        let first = usize::from(self.first_key);
        let last = first + self.classes.len() - 1;
        let lowest = self.hot_from.lowest();
        for ((class, merged), &elements) in
            self.classes.iter_mut().zip(counts.merged(first, last)).zip(elements)
        {
            let rate = Count { elements, ..merged }.rate();
            if class.rate >= lowest && rate > 0 {
                class.rate = rate.max(lowest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key of so many elements and changes by so many bits each.
    fn count(elements: u64, by_bits: &[u32]) -> Count {
        let mut count = Count { elements, ..Count::ZERO };
        for (to, &from) in count.by_bits.iter_mut().zip(by_bits) {
            *to = from;
            count.changes += from;
        }
        count
    }

    fn counts(keys: &[Count]) -> Counts {
        let mut counts = Counts::default();
        counts.counts[100..100 + keys.len()].copy_from_slice(keys);
        counts
    }

    #[test]
    fn all_classes_are_hot_where_symbols_and_cold_changes_would_take_longer() {
        let few = counts(&[count(1000, &[300]), count(99_000, &[500])]);
        assert!(few.hot_from() != HotFrom::DENSE);
        let mostly_hot = counts(&[count(60_000, &[6000]), count(40_000, &[100])]);
        assert!(mostly_hot.hot_from() == HotFrom::DENSE);
        let both = counts(&[count(25_000, &[2500]), count(75_000, &[5000])]);
        assert!(both.hot_from() == HotFrom::DENSE);
    }

    #[test]
    fn a_few_far_moves_do_not_hide_what_the_others_are_like() {
        let near = count(1000, &[900, 60, 3]).reach(2);
        let with_far = count(1000, &[900, 60, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]).reach(2);
        assert!(near.abs_diff(with_far) <= 2, "{near} and {with_far}");
    }

    #[test]
    fn every_class_has_a_reach_where_not_all_changes_were_looked_at() {
        for weight in [1, 4] {
            let mut counts = Counts::default();
            counts.set_elements(std::iter::repeat_n(1000, 256));
            (0..100).for_each(|_| counts.add_change(100, 0, weight));
            let model = Model::fit(&counts, HotFrom::DENSE, 2);
            assert_eq!(model.classes.iter().all(|class| class.reach > 0), weight > 1);
        }
    }
}
