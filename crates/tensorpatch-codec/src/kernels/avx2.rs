//! The kernels for two-byte elements with AVX2.
#![expect(unsafe_code, reason = "vector instructions; compared with the portable kernels in tests")]
#![expect(clippy::cast_possible_truncation, reason = "elements of two bytes, of groups of 32")]

use std::arch::x86_64::*;

use crate::sparse::Lengths;

use super::marks::push_bits;
use super::{Found, GROUP, PADDING, SLACK, portable};

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
    for group in 0..groups {
        let at = group * STEP;
        // SAFETY: the group lies in both; a prefetch may point anywhere.
        let ([old0, old1], [new0, new1]) = unsafe {
            _mm_prefetch::<_MM_HINT_T0>(base.as_ptr().wrapping_add(at + AHEAD).cast());
            _mm_prefetch::<_MM_HINT_T0>(target.as_ptr().wrapping_add(at + AHEAD).cast());
            (load(base.as_ptr().add(at)), load(target.as_ptr().add(at)))
        };
        let same0 = _mm256_cmpeq_epi16(old0, new0);
        let same1 = _mm256_cmpeq_epi16(old1, new1);
        if _mm256_movemask_epi8(_mm256_and_si256(same0, same1)) != -1 {
            let same = _mm256_permute4x64_epi64::<0xd8>(_mm256_packs_epi16(same0, same1));
            push_bits(marks, &mut len, group * GROUP, !_mm256_movemask_epi8(same).cast_unsigned());
        }
    }
    len
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
        let upper = _mm256_cmpgt_epi8(class, _mm256_set1_epi8(15));
        let pick = |[lower, higher]: [__m256i; 2]| {
            _mm256_blendv_epi8(_mm256_shuffle_epi8(lower, class), _mm256_shuffle_epi8(higher, class), upper)
        };
        let high = pick(self.high);
        Split {
            low: pick(self.low),
            high: _mm256_and_si256(high, _mm256_set1_epi8(0x7f)),
            hot: _mm256_movemask_epi8(high).cast_unsigned(),
        }
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
    for (group, sum) in sums.iter_mut().enumerate().take(groups) {
        let at = group * STEP;
        // SAFETY: the group lies in the block; a prefetch may point anywhere.
        let elements = unsafe {
            _mm_prefetch::<_MM_HINT_T0>(block.as_ptr().wrapping_add(at + AHEAD).cast());
            load(block.as_ptr().add(at))
        };
        let split = classes.of(elements);
        *sum = total(split.sums()) as u16;
        push_bits(marks, &mut len, group * GROUP, split.hot);
    }
    len
}

/// [`portable::find_group`].
#[inline]
#[target_feature(enable = "avx2,bmi1")]
pub(crate) fn find_group(ends: &[u32], from: usize, point: u32) -> usize {
    const SIGN: i32 = i32::MIN;
    let wanted = _mm256_set1_epi32(point.cast_signed() ^ SIGN);
    let mut group = from;
    while let Some(later) = ends.get(group..).and_then(|later| later.first_chunk::<PADDING>()) {
        let mut beyond = 0;
        for (i, eight) in later.as_chunks::<8>().0.iter().enumerate() {
            // SAFETY: eight ends of four bytes.
            let eight = unsafe { _mm256_loadu_si256(eight.as_ptr().cast()) };
            let mask = _mm256_cmpgt_epi32(_mm256_xor_si256(eight, _mm256_set1_epi32(SIGN)), wanted);
            beyond |= _mm256_movemask_ps(_mm256_castsi256_ps(mask)).cast_unsigned() << (8 * i);
        }
        if beyond != 0 {
            return group + beyond.trailing_zeros() as usize;
        }
        group += PADDING;
    }
    group
}

/// [`super::locate`], of a whole group.
#[inline]
#[target_feature(enable = "avx2,bmi1")]
pub(crate) fn locate(classes: &Classes, lengths: &Lengths, group: &[u8; STEP], rest: u32) -> Found {
    // SAFETY: 64 bytes.
    let split = classes.of(unsafe { load(group.as_ptr()) });
    let mut sums = [0u64; 4];
    // SAFETY: 32 bytes.
    unsafe { _mm256_storeu_si256(sums.as_mut_ptr().cast(), split.sums()) };
    // First the eight elements, then the one of them.
    let (mut before, mut index) = (0, 0);
    let mut end = 0;
    for sum in &sums[..3] {
        end += *sum as u32;
        let beyond = end <= rest;
        before = if beyond { end } else { before };
        index += 8 * usize::from(beyond);
    }
    let (elements, _) = group.as_chunks::<2>();
    let mut end = before;
    let mut last = before;
    let first = index % GROUP;
    for element in elements.iter().skip(first).take(7) {
        end += lengths.of(u16::from_le_bytes(*element));
        let beyond = end <= rest;
        last = if beyond { end } else { last };
        index += usize::from(beyond);
    }
    let element = u16::from_le_bytes(elements[index % GROUP]);
    Found { index, before: last, length: lengths.of(element), element: u64::from(element) }
}

/// [`portable::before`], of a whole group.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn before(classes: &Classes, lengths: &Lengths, group: &[u8], index: usize) -> Found {
    let Some(group) = group.first_chunk::<STEP>() else {
        return portable::before::<u16>(lengths, group, index);
    };
    // SAFETY: 64 bytes.
    let split = classes.of(unsafe { load(group.as_ptr()) });
    let iota = _mm256_setr_epi8(
        0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27,
        28, 29, 30, 31,
    );
    let earlier = _mm256_cmpgt_epi8(_mm256_set1_epi8(index as i8), iota);
    let part = Split {
        low: _mm256_and_si256(split.low, earlier),
        high: _mm256_and_si256(split.high, earlier),
        hot: 0,
    };
    let element = u16::from_le_bytes(group.as_chunks::<2>().0[index % GROUP]);
    Found { index, before: total(part.sums()), length: lengths.of(element), element: u64::from(element) }
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
