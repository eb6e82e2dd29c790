//! The kernels for two-byte elements with AVX2.
#![expect(unsafe_code, reason = "vector instructions; compared with the portable kernels in tests")]
#![expect(clippy::cast_possible_truncation, reason = "elements of two bytes, of groups of 32")]

use std::arch::x86_64::*;

use crate::sparse::Lengths;

use super::{GROUP, SLACK, portable};

/// Bytes of a group.
pub(crate) const STEP: usize = 64;
/// How far ahead of the loops memory is called for.
const AHEAD: usize = 4096;

/// The two halves of a group.
///
/// # Safety
/// 64 bytes from `at` on must be readable.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load(at: *const u8) -> [__m256i; 2] {
    // SAFETY: as the caller says.
    unsafe { [_mm256_loadu_si256(at.cast()), _mm256_loadu_si256(at.add(32).cast())] }
}

/// One byte for each element of a group, in order, from words below 256.
#[inline]
#[target_feature(enable = "avx2")]
fn bytes([first, second]: [__m256i; 2]) -> __m256i {
    _mm256_permute4x64_epi64::<0xd8>(_mm256_packus_epi16(first, second))
}

pub(super) fn changed(base: &[u8], target: &[u8], marks: &mut [u16]) -> usize {
    let groups = base.len().min(target.len()) / STEP;
    if marks.len() < groups * GROUP + SLACK {
        return portable::changed::<u16>(base, target, marks);
    }
    // SAFETY: called at the AVX2 level or above alone; both inputs hold `groups` groups.
    let len = unsafe { changed_groups(base, target, marks, groups) };
    portable::changed_from::<u16>(base, target, groups, marks, len)
}

/// # Safety
/// `base` and `target` must have `groups` times 64 bytes.
#[target_feature(enable = "avx2,bmi1,popcnt")]
unsafe fn changed_groups(base: &[u8], target: &[u8], marks: &mut [u16], groups: usize) -> usize {
    let mut len = 0;
    for round in (0..groups).step_by(AT_ONCE) {
        let mut masks = [0; AT_ONCE];
        let mut any = 0;
        for (i, mask) in masks.iter_mut().enumerate().take(groups - round) {
            let at = (round + i) * STEP;
            // SAFETY: the group lies in both; a prefetch may point anywhere.
            let ([old0, old1], [new0, new1]) = unsafe {
                _mm_prefetch::<_MM_HINT_T0>(base.as_ptr().wrapping_add(at + AHEAD).cast());
                _mm_prefetch::<_MM_HINT_T0>(target.as_ptr().wrapping_add(at + AHEAD).cast());
                (load(base.as_ptr().add(at)), load(target.as_ptr().add(at)))
            };
            let same = _mm256_packs_epi16(_mm256_cmpeq_epi16(old0, new0), _mm256_cmpeq_epi16(old1, new1));
            *mask = !_mm256_movemask_epi8(_mm256_permute4x64_epi64::<0xd8>(same)).cast_unsigned();
            any |= u32::from(*mask != 0) << i;
        }
        // SAFETY: at most 32 marks for each group so far, and there is room for 32 more.
        len = unsafe { push_groups(marks, len, round, &masks, any) };
    }
    len
}

/// Groups that are looked at before the elements of any are marked.
const AT_ONCE: usize = 16;

/// Marks the elements of groups from number `first` on whose bits are set; `groups` are those that have any.
/// Returns how many marks there are then.
///
/// # Safety
/// There must be room for 32 marks behind those of each group.
#[inline]
#[target_feature(enable = "avx2,bmi1,popcnt")]
unsafe fn push_groups(
    marks: &mut [u16],
    mut len: usize,
    first: usize,
    masks: &[u32; AT_ONCE],
    mut groups: u32,
) -> usize {
    // Which groups have any cannot be foreseen: a branch for each would cost more than they do.
    while groups != 0 {
        let group = groups.trailing_zeros() as usize % AT_ONCE;
        groups &= groups - 1;
        for quarter in 0..4 {
            let bits = masks[group] >> (8 * quarter) & 0xff;
            let number = (first + group) * GROUP + 8 * quarter;
            let numbers =
                _mm_add_epi16(_mm_set1_epi16(number as i16), _mm_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7));
            // SAFETY: 16 bytes each, and room for them as the caller says.
            unsafe {
                let side_by_side = _mm_loadu_si128(SIDE_BY_SIDE[bits as usize].as_ptr().cast());
                let marked = _mm_shuffle_epi8(numbers, side_by_side);
                _mm_storeu_si128(marks.as_mut_ptr().add(len).cast(), marked);
            }
            len += bits.count_ones() as usize;
        }
    }
    len
}

/// What brings the words of 16 bytes whose bit is set side by side.
pub(crate) static SIDE_BY_SIDE: [[u8; 16]; 256] = side_by_side(false);

/// For each set of bits, the shuffle that brings the words whose bit is set side by side, at the start of the
/// 16 bytes or at their end.
pub(crate) const fn side_by_side(at_end: bool) -> [[u8; 16]; 256] {
    let mut all = [[0x80; 16]; 256];
    let mut bits = 0_usize;
    while bits < 256 {
        let mut word = if at_end { 8 - bits.count_ones() as usize } else { 0 };
        let mut place = 0;
        while place < 8 {
            if bits >> place & 1 == 1 {
                all[bits][2 * word] = 2 * place;
                all[bits][2 * word + 1] = 2 * place + 1;
                word += 1;
            }
            place += 1;
        }
        bits += 1;
    }
    all
}

/// The lengths of the classes of a chunk, in registers: low and high bytes, of 16 classes each.
#[derive(Clone, Copy)]
pub(crate) struct Classes {
    shift: __m128i,
    mask: __m256i,
    first: __m256i,
    last: __m256i,
    low: [__m256i; 2],
    high: [__m256i; 2],
}

/// The lengths of a group, a byte for each element.
struct Split {
    low: __m256i,
    high: __m256i,
    /// The hot elements, whose lengths are zero.
    hot: u32,
}

impl Classes {
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(crate) fn load(lengths: &Lengths) -> Self {
        let table = |half: usize, shift: u32| {
            let mut bytes = [0u8; 16];
            for (byte, length) in bytes.iter_mut().zip(lengths.by_class.iter().skip(16 * half)) {
                *byte = (length >> shift) as u8;
            }
            // SAFETY: 16 bytes.
            unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(bytes.as_ptr().cast())) }
        };
        Self {
            shift: _mm_cvtsi64_si128(i64::from(lengths.key.shift)),
            mask: _mm256_set1_epi16(lengths.key.mask as i16),
            first: _mm256_set1_epi16(lengths.first_key.cast_signed()),
            last: _mm256_set1_epi16(lengths.last_class.cast_signed()),
            low: [table(0, 0), table(1, 0)],
            high: [table(0, 8), table(1, 8)],
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn class(&self, elements: __m256i) -> __m256i {
        let key = _mm256_and_si256(_mm256_srl_epi16(elements, self.shift), self.mask);
        _mm256_min_epu16(_mm256_subs_epu16(key, self.first), self.last)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn of(&self, [first, second]: [__m256i; 2]) -> Split {
        let class = bytes([self.class(first), self.class(second)]);
        // A shuffle gives 0 where the high bit of a byte is set, which it is here for classes of the other
        // half.
        let lower = _mm256_add_epi8(class, _mm256_set1_epi8(0x70));
        let upper = _mm256_sub_epi8(class, _mm256_set1_epi8(16));
        let pick = |table: [__m256i; 2]| {
            _mm256_or_si256(_mm256_shuffle_epi8(table[0], lower), _mm256_shuffle_epi8(table[1], upper))
        };
        let high = pick(self.high);
        Split {
            low: pick(self.low),
            high: _mm256_and_si256(high, _mm256_set1_epi8(0x7f)),
            hot: _mm256_movemask_epi8(high).cast_unsigned(),
        }
    }
}

impl Classes {
    /// For each element of a group the sum of the lengths up to it, from element `first` on.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(crate) fn sums(&self, group: &[u8; STEP], first: u16) -> [__m256i; 2] {
        // SAFETY: 64 bytes.
        let Split { low, high, .. } = self.of(unsafe { load(group.as_ptr()) });
        // The bytes are in order; halves of registers are put together with those of their own.
        let (low, high) = (_mm256_permute4x64_epi64::<0xd8>(low), _mm256_permute4x64_epi64::<0xd8>(high));
        let lengths = [_mm256_unpacklo_epi8(low, high), _mm256_unpackhi_epi8(low, high)];
        let iota = _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        let numbers = [iota, _mm256_add_epi16(iota, _mm256_set1_epi16(16))];
        let before = _mm256_set1_epi16(first as i16);
        let last = _mm256_set1_epi16(0x0f0e);
        let mut sums = [iota; 2];
        let mut total = _mm256_setzero_si256();
        for ((sum, lengths), numbers) in sums.iter_mut().zip(lengths).zip(numbers) {
            let one = _mm256_andnot_si256(_mm256_cmpgt_epi16(before, numbers), lengths);
            let two = _mm256_add_epi16(one, _mm256_bslli_epi128::<2>(one));
            let four = _mm256_add_epi16(two, _mm256_bslli_epi128::<4>(two));
            let eight = _mm256_add_epi16(four, _mm256_bslli_epi128::<8>(four));
            let of_halves = _mm256_shuffle_epi8(eight, last);
            *sum = _mm256_add_epi16(eight, _mm256_permute2x128_si256::<0x08>(of_halves, of_halves));
            *sum = _mm256_add_epi16(*sum, total);
            let swapped = _mm256_permute2x128_si256::<0x01>(of_halves, of_halves);
            total = _mm256_add_epi16(of_halves, swapped);
        }
        sums
    }
}

impl Split {
    /// The sums of eight elements each.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn sums(&self) -> __m256i {
        let zero = _mm256_setzero_si256();
        let high = _mm256_slli_epi64::<8>(_mm256_sad_epu8(self.high, zero));
        _mm256_add_epi64(_mm256_sad_epu8(self.low, zero), high)
    }
}

/// The sum of the four.
#[inline]
#[target_feature(enable = "avx2")]
fn total(sums: __m256i) -> u32 {
    let halves = _mm_add_epi64(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
    _mm_cvtsi128_si32(_mm_add_epi64(halves, _mm_unpackhi_epi64(halves, halves))).cast_unsigned()
}

pub(super) fn survey(lengths: &Lengths, block: &[u8], sums: &mut [u16], marks: &mut [u16]) -> usize {
    let groups = (block.len() / STEP).min(sums.len());
    if marks.len() < groups * GROUP + SLACK {
        return portable::survey::<u16>(lengths, block, sums, marks);
    }
    // SAFETY: called at the AVX2 level or above alone; `block` holds `groups` groups.
    let len = unsafe { survey_groups(lengths, block, sums, marks, groups) };
    portable::survey_from::<u16>(lengths, block, groups, sums, marks, len)
}

/// # Safety
/// `block` must have `groups` times 64 bytes.
#[target_feature(enable = "avx2,bmi1,popcnt")]
unsafe fn survey_groups(
    lengths: &Lengths,
    block: &[u8],
    sums: &mut [u16],
    marks: &mut [u16],
    groups: usize,
) -> usize {
    let classes = Classes::load(lengths);
    let mut len = 0;
    for (round, sums) in sums[..groups].chunks_mut(AT_ONCE).enumerate() {
        let first = round * AT_ONCE;
        let mut masks = [0; AT_ONCE];
        let mut any = 0;
        for (i, sum) in sums.iter_mut().enumerate() {
            let at = (first + i) * STEP;
            // SAFETY: the group lies in the block; a prefetch may point anywhere.
            let elements = unsafe {
                _mm_prefetch::<_MM_HINT_T0>(block.as_ptr().wrapping_add(at + AHEAD).cast());
                load(block.as_ptr().add(at))
            };
            let split = classes.of(elements);
            *sum = total(split.sums()) as u16;
            masks[i] = split.hot;
            any |= u32::from(split.hot != 0) << i;
        }
        // SAFETY: at most 32 marks for each group so far, and there is room for 32 more.
        len = unsafe { push_groups(marks, len, first, &masks, any) };
    }
    len
}

pub(super) fn stream(block: &[u8], target: &mut [u8]) {
    if block.len() != target.len() {
        return;
    }
    // SAFETY: called at the AVX2 level or above alone.
    unsafe { stream_lines(block, target) }
}

#[target_feature(enable = "avx")]
fn stream_lines(block: &[u8], target: &mut [u8]) {
    let head = target.as_ptr().align_offset(STEP).min(target.len());
    let (first, rest) = target.split_at_mut(head);
    let (from_first, from_rest) = block.split_at(head);
    first.copy_from_slice(from_first);
    let (lines, last) = rest.as_chunks_mut::<STEP>();
    let (from_lines, from_last) = from_rest.as_chunks::<STEP>();
    for (line, from) in lines.iter_mut().zip(from_lines) {
        let (to, from) = (line.as_mut_ptr().cast::<__m256i>(), from.as_ptr().cast::<__m256i>());
        // SAFETY: both have 64 bytes, and the lines begin where the target is aligned to as many.
        unsafe {
            _mm256_stream_si256(to, _mm256_loadu_si256(from));
            _mm256_stream_si256(to.add(1), _mm256_loadu_si256(from.add(1)));
        }
    }
    // What follows may be read by another thread.
    _mm_sfence();
    last.copy_from_slice(from_last);
}
