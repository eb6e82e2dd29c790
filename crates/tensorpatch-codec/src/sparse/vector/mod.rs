//! Lanes side by side in vectors, for elements of two bytes: the phases of a block, written once for every
//! set of instructions.
#![expect(unsafe_code, reason = "vectors are made where their instructions are")]

mod decode;
mod encode;
mod shells;

pub(super) use decode::{Scratch, dense, find_cold, moves};
pub(super) use encode::{find_changes, put_flags, put_moves};
pub(super) use shells::shells;

use crate::kernels::GROUP;

use super::distance::Distance;
use super::lengths::{Chance, Lengths};
use super::payload::Input;
use super::rans::Steps;
use super::symbols::{NEAR, SYMBOL_BITS, Symbols};

/// Numbers in a vector.
pub(super) const WIDTH: usize = 16;

/// Bytes of a group.
pub(super) const GROUP_BYTES: usize = 2 * GROUP;

/// 16 numbers of 16 bits. A value, and one of the types that belong to it, exists only where its instructions
/// do.
pub(super) trait Vector: Copy {
    /// A bit for each number.
    type Mask: Copy;
    /// A number for each of 32 classes.
    type Table: Copy;
    /// Classes, made ready to be looked up in tables.
    type Index: Copy;
    /// How the lengths of a group are found.
    type Lengths: Copy;

    /// # Safety
    /// The instructions must be there.
    unsafe fn splat(value: u16) -> Self;
    /// # Safety
    /// As for [`splat`](Self::splat).
    unsafe fn load(from: &[u16; WIDTH]) -> Self;
    /// # Safety
    /// As for [`splat`](Self::splat).
    unsafe fn table(by_class: &[u16; 32]) -> Self::Table;
    /// # Safety
    /// As for [`splat`](Self::splat).
    unsafe fn lengths(lengths: &Lengths) -> Self::Lengths;

    /// # Safety
    /// As for [`splat`](Self::splat).
    unsafe fn load_bytes(from: &[u8; 2 * WIDTH]) -> Self;

    fn store(self, to: &mut [u16; WIDTH]);
    fn store_bytes(self, to: &mut [u8; 2 * WIDTH]);
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    /// The difference, or 0 if it is below.
    fn sub_or_zero(self, other: Self) -> Self;
    fn min(self, other: Self) -> Self;
    /// The low half of the product.
    fn mul_low(self, other: Self) -> Self;
    /// The high half of the product.
    fn mul_high(self, other: Self) -> Self;
    fn and(self, other: Self) -> Self;
    fn or(self, other: Self) -> Self;
    fn xor(self, other: Self) -> Self;
    fn shl<const N: i32>(self) -> Self;
    fn shr<const N: i32>(self) -> Self;
    /// To the right by as many bits as are stored once.
    fn shr_by(self, count: u32) -> Self;

    fn equals(self, other: Self) -> Self::Mask;
    /// Whether a number is greater, of numbers below 2^15.
    fn exceeds(self, other: Self) -> Self::Mask;
    /// The numbers of `self` where the mask is set, of `other` elsewhere.
    fn select(self, mask: Self::Mask, other: Self) -> Self;
    fn bits(mask: Self::Mask) -> u32;
    /// The numbers whose bit is set, 0 elsewhere.
    fn keep_bits(self, bits: u32) -> Self;
    /// All ones where a sum is below `part`, one of its terms.
    fn carry(self, part: Self) -> Self;

    /// The words at the start of `words` in the places whose bit is set, in order; 0 elsewhere.
    fn expand(self, words: &[u8; 2 * WIDTH], bits: u32) -> Self;
    /// Writes the numbers whose bit is set side by side. What is written behind them is of no meaning.
    fn compress(self, bits: u32, to: &mut [u16; WIDTH]);

    /// The low bits of `bits`, in order, where `mask` has ones.
    fn deposit(bits: u32, mask: u32) -> u32;
    /// The bits where `mask` has ones, side by side.
    fn extract(bits: u32, mask: u32) -> u32;

    fn index(self) -> Self::Index;
    fn look_up(table: &Self::Table, index: &Self::Index) -> Self;

    /// For each element of a group the sum of the lengths up to it, from element `first` on.
    fn sums(lengths: &Self::Lengths, group: &[u8; GROUP_BYTES], first: u16) -> [Self; 2];
}

/// The states of 16 lanes: their high and low halves.
#[derive(Clone, Copy)]
struct States<V> {
    high: V,
    low: V,
}

impl<V: Vector> States<V> {
    /// # Safety
    /// The instructions must be there.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "halves")]
    unsafe fn load(states: &[u32; WIDTH]) -> Self {
        // SAFETY: as the caller says.
        unsafe {
            Self {
                high: V::load(&states.map(|state| (state >> 16) as u16)),
                low: V::load(&states.map(|state| state as u16)),
            }
        }
    }

    #[inline(always)]
    fn store(self, states: &mut [u32; WIDTH]) {
        let (mut high, mut low) = ([0; WIDTH], [0; WIDTH]);
        self.high.store(&mut high);
        self.low.store(&mut low);
        for (state, (high, low)) in states.iter_mut().zip(high.into_iter().zip(low)) {
            *state = u32::from(high) << 16 | u32::from(low);
        }
    }

    /// Reads symbols of `freq` of the 2^12 slots. Lanes that are not among `read` take no words.
    #[inline(always)]
    fn take(&mut self, freq: V, offset: V, read: u32, input: &mut Input<'_>) {
        let (high, low) = (self.high, self.low);
        let quotient = low.shr::<12>().or(high.shl::<4>());
        let low = quotient.mul_low(freq).add(offset);
        let high = quotient.mul_high(freq).add(high.shr::<12>().mul_low(freq));
        *self = Self { high: high.sub(low.carry(offset)), low };
        self.refill(read, input);
    }

    /// As [`take`](Self::take), of 2^16 slots.
    #[inline(always)]
    fn take_place(&mut self, freq: V, offset: V, read: u32, input: &mut Input<'_>) {
        let quotient = self.high;
        let low = quotient.mul_low(freq).add(offset);
        *self = Self { high: quotient.mul_high(freq).sub(low.carry(offset)), low };
        self.refill(read, input);
    }

    #[inline(always)]
    fn refill(&mut self, read: u32, input: &mut Input<'_>) {
        let empty = self.high.equals(self.high.xor(self.high));
        let bits = V::bits(empty) & read;
        let words = self.low.expand(input.words(), bits);
        input.taken += 2 * bits.count_ones() as usize;
        self.high = self.low.select(empty, self.high);
        self.low = words.select(empty, self.low);
    }

    /// The states of `self` in the lanes that were read, those of `before` in the others.
    #[inline(always)]
    fn only(self, read: u32, before: Self) -> Self {
        let pick = |new: V, old: V| old.xor(new.xor(old).keep_bits(read));
        Self { high: pick(self.high, before.high), low: pick(self.low, before.low) }
    }
}

/// [`Chance`] in vectors.
#[derive(Clone, Copy)]
struct Chances<V> {
    factor: V,
    most: V,
    zero: V,
    one: V,
    full: V,
}

impl<V: Vector> Chances<V> {
    /// # Safety
    /// The instructions must be there.
    #[inline(always)]
    unsafe fn new(chance: Chance) -> Self {
        // SAFETY: as the caller says.
        unsafe {
            Self {
                factor: V::splat(chance.factor),
                most: V::splat(16_383),
                zero: V::splat(0),
                one: V::splat(1),
                full: V::splat(1 << SYMBOL_BITS),
            }
        }
    }

    /// [`Chance::unchanged`].
    #[inline(always)]
    fn unchanged(&self, sums: V) -> V {
        let eighth = sums.mul_high(self.factor).min(self.most);
        let kept = self.zero.sub(eighth.add(eighth).add(self.one));
        let kept = kept.mul_high(kept);
        let kept = kept.mul_high(kept);
        let kept = kept.mul_high(kept).shr::<4>();
        self.full.select(sums.equals(self.zero), kept)
    }

    /// Puts for each of some groups whether something changes in it.
    #[inline(always)]
    fn put(&self, sums: &[u16; WIDTH], changed: &[u16; WIDTH], first: usize, steps: &mut Steps) {
        // SAFETY: a vector exists only where the instructions do.
        let (changed, sums) = unsafe { (V::load(changed), V::load(sums)) };
        let unchanged = self.unchanged(sums);
        let freq = unchanged.xor(unchanged.xor(self.full.sub(unchanged)).and(changed));
        if let Some((starts, freqs)) = steps.room(first) {
            unchanged.and(changed).store(starts);
            freq.store(freqs);
        }
    }
}

#[inline(always)]
fn at<const N: usize>(list: &[u16], start: usize) -> &[u16; N] {
    list.get(start..).and_then(<[u16]>::first_chunk).unwrap_or(&[0; N])
}

#[inline(always)]
fn at_mut<T>(list: &mut [T], start: usize) -> Option<&mut [T; WIDTH]> {
    list.get_mut(start..).and_then(<[T]>::first_chunk_mut)
}

#[inline(always)]
fn low_bits(count: usize) -> u32 {
    u32::MAX.unbounded_shl(u32::try_from(count).unwrap_or(u32::MAX)) ^ u32::MAX
}

#[inline(always)]
fn group_of(block: &[u8], number: usize) -> [u8; GROUP_BYTES] {
    let rest = block.get(number * GROUP_BYTES..).unwrap_or_default();
    rest.first_chunk().copied().unwrap_or_else(|| {
        let mut group = [0; GROUP_BYTES];
        group.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        group
    })
}

/// The symbols of all classes in vectors.
struct Ladder<'a, V: Vector> {
    near: [V::Table; NEAR],
    shift: u32,
    mask: V,
    first_key: V,
    last_class: V,
    slot_mask: V,
    zero: V,
    one: V,
    lengths: &'a Lengths,
    symbols: &'a Symbols,
}

impl<'a, V: Vector> Ladder<'a, V> {
    /// # Safety
    /// The instructions must be there.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "elements of two bytes")]
    unsafe fn new(lengths: &'a Lengths, symbols: &'a Symbols) -> Self {
        let mut by_step = [[0; 32]; NEAR];
        for (class, ends) in symbols.near().iter().enumerate() {
            for (step, end) in by_step.iter_mut().zip(ends) {
                step[class] = *end;
            }
        }
        // SAFETY: as the caller says.
        unsafe {
            Self {
                near: by_step.each_ref().map(|step| V::table(step)),
                shift: lengths.key.shift,
                mask: V::splat(lengths.key.mask as u16),
                first_key: V::splat(lengths.first_key),
                last_class: V::splat(lengths.last_class),
                slot_mask: V::splat((1 << SYMBOL_BITS) - 1),
                zero: V::splat(0),
                one: V::splat(1),
                lengths,
                symbols,
            }
        }
    }

    #[inline(always)]
    fn class(&self, elements: V) -> V {
        elements.shr_by(self.shift).and(self.mask).sub_or_zero(self.first_key).min(self.last_class)
    }

    /// The class of an element, and how far it moves.
    fn far_move(&self, old: u16, new: u16) -> (usize, Distance) {
        (self.symbols.class(self.lengths.key.find(old)), Distance::between(old, new))
    }
}
