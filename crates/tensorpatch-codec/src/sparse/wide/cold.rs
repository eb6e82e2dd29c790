//! The cold changes of a whole block in all eight strips at once, with AVX-512.
//!
//! The same steps as in [`crate::sparse::chain`], with one strip in each 64-bit lane. Only the searches on the axis, for a group of
//! elements and for the element in it, go strip by strip.
#![expect(unsafe_code, reason = "vector instructions; compared with the portable steps in tests")]
#![expect(clippy::cast_possible_truncation, reason = "constants that fit")]

use std::arch::x86_64::*;

use crate::kernels::avx512::Classes;
use crate::kernels::{self, BLOCK_BYTES, GROUP, PADDING};

use crate::sparse::chain::{Chain, LookUp, Parts};
use crate::sparse::layout::{QUOTIENT_ESCAPE, STRIP_BYTES, STRIPS, slot_bits};
use crate::sparse::plan::{Near, Tables};
use crate::sparse::stream::SYMBOL_SCALE;

use super::classes::{by_class, table};
use super::states::{Each, LANES, States};

/// Groups in the part of a strip that lies in a whole block.
const GROUPS: usize = STRIP_BYTES / GROUP_BYTES;
const GROUP_BYTES: usize = 2 * GROUP;
/// Where the groups of a part start, and the padding behind.
const BORDERS: usize = GROUPS + 1 + PADDING;

/// Bytes of the next block that are called for in each round: all of them where one element in a hundred changes.
const CALL_FOR: usize = 2048;

const _: () = assert!(STRIPS == LANES && BLOCK_BYTES == STRIPS * STRIP_BYTES);
const _: () = assert!(GROUP == 32 && PADDING == 32, "two vectors are searched at once");

/// New values of elements of two bytes: the number of the element in the block below, the value above.
#[derive(Debug, Default)]
pub(in crate::sparse) struct Packed {
    items: Vec<u32>,
}

/// What the bucket and its slots look like at a scale.
#[derive(Clone, Copy)]
struct Axis {
    scale: u32,
    bucket: __m512i,
    quarter: __m512i,
}

impl Axis {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn new(scale: u32) -> Self {
        Self { scale, bucket: _mm512_set1_epi64(1 << scale), quarter: _mm512_set1_epi64(1 << (scale - 2)) }
    }

    /// [`crate::sparse::layout::slots_before`].
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn slots_before(&self, unit: __m512i) -> __m512i {
        let two = _mm512_add_epi64(unit, unit);
        let four = _mm512_add_epi64(two, two);
        let three = _mm512_add_epi64(_mm512_add_epi64(two, unit), self.bucket);
        let five = _mm512_add_epi64(four, unit);
        let four = _mm512_add_epi64(four, self.quarter);
        _mm512_min_epu64(five, _mm512_min_epu64(four, three))
    }

    /// [`crate::sparse::layout::unit_at`].
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn unit_at(&self, slot: __m512i) -> __m512i {
        let zero = _mm512_setzero_si512();
        let beyond = |start| _mm512_max_epi64(_mm512_sub_epi64(slot, start), zero);
        let fifth = _mm512_mul_epu32(slot, _mm512_set1_epi64(0xcccc_cccd));
        let fifth = _mm512_srli_epi64::<34>(fifth);
        let fourth = _mm512_srli_epi64::<2>(beyond(self.quarter));
        let third = _mm512_mul_epu32(beyond(self.bucket), _mm512_set1_epi64(0xaaaa_aaab));
        let third = _mm512_srli_epi64::<33>(third);
        _mm512_max_epu64(fifth, _mm512_max_epu64(fourth, third))
    }

    /// The slots before a place on the axis, of the bucket that begins at `bucket`.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn within(&self, place: __m512i, bucket: __m512i) -> __m512i {
        let unit = _mm512_sub_epi64(place, bucket);
        self.slots_before(_mm512_max_epi64(_mm512_min_epi64(unit, self.bucket), _mm512_setzero_si512()))
    }
}

/// What was looked at of the streams, as in [`Chain`].
#[derive(Clone, Copy)]
struct Places {
    point: __m512i,
    bucket: __m512i,
    slot: __m512i,
    down: __m512i,
    looked_at: __m512i,
}

impl Places {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn of(chains: &[Chain<'_>; STRIPS]) -> Self {
        let each = |of: fn(&Chain<'_>) -> u64| Each(std::array::from_fn(|i| of(&chains[i]))).load();
        Self {
            point: each(|chain| chain.point),
            bucket: each(|chain| chain.bucket.cast_unsigned()),
            slot: each(|chain| u64::from(chain.slot)),
            down: each(|chain| u64::from(chain.down)),
            looked_at: each(|chain| u64::from(chain.looked_at)),
        }
    }

    /// Gives them back to the chains.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn save(&self, chains: &mut [Chain<'_>; STRIPS]) {
        let (point, bucket) = (Each::of(self.point), Each::of(self.bucket));
        let (slot, down, looked_at) = (Each::of(self.slot), Each::of(self.down), Each::of(self.looked_at));
        for (i, chain) in chains.iter_mut().enumerate() {
            chain.point = point.0[i];
            chain.bucket = bucket.0[i].cast_signed();
            chain.slot = slot.0[i] as u32;
            chain.down = down.0[i] == 1;
            chain.looked_at = looked_at.0[i] as u32;
        }
    }

    /// The next places after `end` in the lanes that work, and which lanes have an escape there and must look again.
    #[inline]
    #[target_feature(enable = "avx512f,avx512cd")]
    fn next(&self, working: __mmask8, state: __m512i, end: __m512i, axis: &Axis) -> (Self, __mmask8) {
        let one = _mm512_set1_epi64(1);
        let not = _mm512_xor_si512(state, _mm512_set1_epi64(-1));
        let lowest = _mm512_and_si512(not, _mm512_sub_epi64(_mm512_setzero_si512(), not));
        // No bit at all gives the greatest number, which is as much an escape.
        let ones = _mm512_sub_epi64(_mm512_set1_epi64(63), _mm512_lzcnt_epi64(lowest));
        let escapes = _mm512_set1_epi64(i64::from(QUOTIENT_ESCAPE));
        let escape = _mm512_mask_cmpge_epu64_mask(working, ones, escapes);
        let bits = i64::from(slot_bits(axis.scale));
        let scale = _mm_cvtsi64_si128(i64::from(axis.scale));
        let bucket = _mm512_add_epi64(end, _mm512_sll_epi64(ones, scale));
        let seen = _mm512_srlv_epi64(state, _mm512_add_epi64(ones, one));
        let slot = _mm512_and_si512(_mm512_srli_epi64::<1>(seen), _mm512_set1_epi64((1 << bits) - 1));
        let point = _mm512_add_epi64(bucket, axis.unit_at(slot));
        let looked_at = _mm512_add_epi64(ones, _mm512_set1_epi64(2 + bits));
        let next = Self {
            point: _mm512_mask_mov_epi64(self.point, working, point),
            bucket: _mm512_mask_mov_epi64(self.bucket, working, bucket),
            slot: _mm512_mask_mov_epi64(self.slot, working, slot),
            down: _mm512_mask_and_epi64(self.down, working, seen, one),
            looked_at: _mm512_mask_mov_epi64(self.looked_at, working, looked_at),
        };
        (next, escape)
    }
}

/// The symbols of cold changes, in registers.
#[derive(Clone, Copy)]
struct Symbols {
    one: __m512i,
    two: __m512i,
    /// In most chunks no cold element moves by more than one unit, and there are none to read.
    any: bool,
}

impl Symbols {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load(tables: &Tables) -> Self {
        let near = tables.near_by_class();
        let any = near.iter().any(|near| *near != Near::NO_SYMBOLS);
        Self { one: table(&near.map(|near| near.one)), two: table(&near.map(|near| near.two)), any }
    }

    /// Reads how far elements move, beyond one unit, in the lanes that work: 0 or 1. And which lanes have another symbol, and have not
    /// read it.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn read(&self, working: __mmask8, class: __m512i, states: &mut States<'_>) -> (__m512i, __mmask8) {
        let (one, two) = (by_class(class, self.one), by_class(class, self.two));
        let slot = _mm512_and_si512(states.state, _mm512_set1_epi64((1 << SYMBOL_SCALE) - 1));
        let far = _mm512_mask_cmpge_epu64_mask(working, slot, two);
        let second = _mm512_cmpge_epu64_mask(slot, one);
        let before = _mm512_maskz_mov_epi64(second, one);
        let freq = _mm512_mask_sub_epi64(one, second, two, one);
        let rest = _mm512_srli_epi64::<SYMBOL_SCALE>(states.state);
        states.consume(working & !far, rest, freq, _mm512_sub_epi64(slot, before));
        (_mm512_maskz_set1_epi64(second, 1), far)
    }
}

/// [`crate::sparse::chain::run`] for all strips in a whole block of two-byte elements, and applied to it.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
pub(super) fn run(
    chains: &mut [Chain<'_>; STRIPS],
    look_up: LookUp<'_>,
    block: &mut [u8; BLOCK_BYTES],
    parts: &Parts,
    packed: &mut Packed,
    ahead: *const u8,
) -> Option<()> {
    let borders: &[[u32; BORDERS]; STRIPS] = parts.borders().as_chunks().0.first_chunk()?;
    let classes = Classes::load(look_up.lengths);
    let lengths = table(&look_up.lengths.cold_by_class());
    let symbols = Symbols::load(look_up.tables);
    let axis = Axis::new(look_up.scale);
    let (groups_of, _) = block.as_chunks::<GROUP_BYTES>();
    packed.items.clear();

    let part_ends = Each(borders.map(|borders| u64::from(borders[GROUPS])));
    for (chain, &end) in chains.iter_mut().zip(&part_ends.0) {
        chain.begin(end, look_up.scale);
    }
    let mut places = Places::of(chains);
    let mut states = States::new(std::array::from_fn(|i| chains[i].stream));
    let unit = _mm512_set1_epi64(1);
    let part_end = part_ends.load();
    let last_point = _mm512_sub_epi64(_mm512_max_epu64(part_end, unit), unit);
    let mut groups = [0usize; STRIPS];
    let mut called_for = 0;

    loop {
        let working = _mm512_cmplt_epu64_mask(places.point, part_end);
        if working == 0 {
            break;
        }
        // Memory would idle here, and the next block is wanted soon.
        if called_for < BLOCK_BYTES {
            kernels::call_for(ahead.wrapping_add(called_for), CALL_FOR);
            called_for += CALL_FOR;
        }
        // A strip that has come to its end stays at its last element, and nothing of it is kept.
        let points = Each::of(_mm512_min_epu64(places.point, last_point));
        let mut positions = [0u32; STRIPS];
        let mut found = [_mm_setzero_si128(); STRIPS];
        // Written out, so that what is found stays in registers.
        macro_rules! strips {
            ($($i:literal)*) => {$({
                const I: usize = $i;
                let group = find_group(&borders[I], groups[I], points.0[I] as u32);
                groups[I] = group;
                let start = borders[I][group];
                let group = I * GROUPS + group;
                let (index, own) = locate(&classes, lengths, &groups_of[group], points.0[I] as u16, start as u16);
                positions[I] = (group * GROUP) as u32 + index;
                found[I] = _mm_unpacklo_epi32(own, _mm_cvtsi32_si128(start.cast_signed()));
            })*};
        }
        strips!(0 1 2 3 4 5 6 7);
        // In each lane: the end of the element in its group, the element, and the start of the group.
        let found = join(found);
        let element = _mm512_and_si512(_mm512_srli_epi64::<16>(found), _mm512_set1_epi64(0xffff));
        let end = _mm512_and_si512(found, _mm512_set1_epi64(0xffff));
        let end = _mm512_add_epi64(end, _mm512_srli_epi64::<32>(found));
        let class = classes.class(element);
        let start = _mm512_sub_epi64(end, by_class(class, lengths));
        let (from, to) = (axis.within(start, places.bucket), axis.within(end, places.bucket));
        let rest = _mm512_srlv_epi64(states.state, places.looked_at);
        states.consume(working, rest, _mm512_sub_epi64(to, from), _mm512_sub_epi64(places.slot, from));

        let down = _mm512_cmpeq_epi64_mask(places.down, unit);
        let (mut distance, mut far) = (unit, 0);
        if symbols.any {
            let (beyond, others) = symbols.read(working, class, &mut states);
            (distance, far) = (_mm512_add_epi64(unit, beyond), others);
        }
        let signed = _mm512_mask_sub_epi64(distance, down, _mm512_setzero_si512(), distance);
        let mut value = _mm512_add_epi64(element, signed);
        if far != 0 {
            let (olds, mut values) = (Each::of(element), Each::of(value));
            let mut streams = states.streams();
            for (i, stream) in streams.iter_mut().enumerate().filter(|(i, _)| far >> i & 1 == 1) {
                let old = olds.0[i] as u16;
                let key = look_up.lengths.key.find(old);
                values.0[i] = u64::from(stream.cold(look_up.tables, key, old, down >> i & 1 == 1)?);
            }
            value = values.load();
            states = States::new(streams);
        }
        packed.push(working, &positions, value);

        let escape;
        (places, escape) = places.next(working, states.state, end, &axis);
        if escape != 0 {
            let (ends, streams) = (Each::of(end), states.streams());
            places.save(chains);
            for (i, chain) in chains.iter_mut().enumerate() {
                chain.stream = streams[i];
                if escape >> i & 1 == 1 {
                    chain.look(ends.0[i] as u32, axis.scale);
                }
            }
            places = Places::of(chains);
            states = States::new(std::array::from_fn(|i| chains[i].stream));
        }
    }

    places.save(chains);
    let streams = states.streams();
    for (i, chain) in chains.iter_mut().enumerate() {
        chain.stream = streams[i];
        chain.leave(part_ends.0[i]);
    }
    packed.apply(block);
    Some(())
}

/// The low halves of eight registers.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn join(of: [__m128i; STRIPS]) -> __m512i {
    let pair = |i: usize| _mm_unpacklo_epi64(of[i], of[i + 1]);
    let four = |i: usize| _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(pair(i)), pair(i + 2));
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(four(0)), four(4))
}

/// The first group from `from` on that ends beyond `point`, or the last.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn find_group(borders: &[u32; BORDERS], from: usize, point: u32) -> usize {
    let wanted = _mm512_set1_epi32(point.cast_signed());
    let mut group = from;
    while let Some(later) = borders.get(group + 1..).and_then(|later| later.first_chunk::<PADDING>()) {
        // SAFETY: 32 numbers of four bytes.
        let (first, second) = unsafe {
            let at = later.as_ptr().cast::<__m512i>();
            (_mm512_loadu_si512(at), _mm512_loadu_si512(at.add(1)))
        };
        let beyond = _mm512_kunpackw(
            u32::from(_mm512_cmpgt_epu32_mask(second, wanted)),
            u32::from(_mm512_cmpgt_epu32_mask(first, wanted)),
        );
        if beyond != 0 {
            return (group + beyond.trailing_zeros() as usize).min(GROUPS - 1);
        }
        group += PADDING;
    }
    GROUPS - 1
}

/// The number of the element that `point` lies on in the group that starts at `start`, both modulo 2^16; and in the low half of the register the end of that
/// element in the group, then the element.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi2")]
fn locate(
    classes: &Classes,
    lengths: __m512i,
    group: &[u8; GROUP_BYTES],
    point: u16,
    start: u16,
) -> (u32, __m128i) {
    // SAFETY: 64 bytes.
    let elements = unsafe { _mm512_loadu_si512(group.as_ptr().cast()) };
    let own = _mm512_permutexvar_epi16(classes.class(elements), lengths);
    // Sums from the start of each 128 bits, then of all the 128 bits before.
    let sums = _mm512_add_epi16(own, _mm512_bslli_epi128::<2>(own));
    let sums = _mm512_add_epi16(sums, _mm512_bslli_epi128::<4>(sums));
    let sums = _mm512_add_epi16(sums, _mm512_bslli_epi128::<8>(sums));
    let totals = _mm512_shuffle_epi8(sums, _mm512_set1_epi16(0x0f0e));
    let zero = _mm512_setzero_si512();
    let one = _mm512_alignr_epi64::<6>(totals, zero);
    let two = _mm512_alignr_epi64::<4>(totals, zero);
    let three = _mm512_alignr_epi64::<2>(totals, zero);
    let sums = _mm512_add_epi16(_mm512_add_epi16(sums, one), _mm512_add_epi16(two, three));
    let rest =
        _mm512_sub_epi16(_mm512_set1_epi16(point.cast_signed()), _mm512_set1_epi16(start.cast_signed()));
    let beyond = _mm512_cmpgt_epu16_mask(sums, rest);
    let end = _mm512_castsi512_si128(_mm512_maskz_compress_epi16(beyond, sums));
    let element = _mm512_castsi512_si128(_mm512_maskz_compress_epi16(beyond, elements));
    // Without an element beyond the point, which happens in strips that do not work, any number will do.
    (beyond.trailing_zeros() % GROUP as u32, _mm_unpacklo_epi16(end, element))
}

impl Packed {
    /// Appends the new values of the lanes that work.
    #[inline]
    #[target_feature(enable = "avx512f,avx512vl,popcnt")]
    fn push(&mut self, working: __mmask8, positions: &[u32; STRIPS], values: __m512i) {
        // SAFETY: 32 bytes.
        let positions = unsafe { _mm256_loadu_si256(positions.as_ptr().cast()) };
        let values = _mm256_slli_epi32::<16>(_mm512_cvtepi64_epi32(values));
        let kept = _mm256_maskz_compress_epi32(working, _mm256_or_si256(positions, values));
        self.items.reserve(STRIPS);
        let len = self.items.len();
        // SAFETY: there is room for eight more items, and as many as work are initialised by the store.
        unsafe {
            _mm256_storeu_si256(self.items.as_mut_ptr().add(len).cast(), kept);
            self.items.set_len(len + working.count_ones() as usize);
        }
    }

    /// Writes the new values.
    fn apply(&self, block: &mut [u8; BLOCK_BYTES]) {
        let (elements, _) = block.as_chunks_mut::<2>();
        for item in &self.items {
            // Both halves are meant.
            if let Some(element) = elements.get_mut((item & 0xffff) as usize) {
                *element = ((item >> 16) as u16).to_le_bytes();
            }
        }
    }
}
