//! The kernels for two-byte elements with AVX-512.
#![expect(unsafe_code, reason = "vector instructions; compared with the portable kernels in tests")]
#![expect(clippy::cast_possible_truncation, reason = "elements of two bytes, of groups of 32")]

use std::arch::x86_64::*;

use crate::sparse::{HOT_MARK, Lengths};

use super::{Found, GROUP, SLACK, portable};

/// Bytes of a group.
pub(crate) const STEP: usize = 64;
/// How far ahead of the loops memory is called for.
const AHEAD: usize = 4096;

/// Elements `0, 1, 2, …` of a group.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn iota() -> __m512i {
    const IOTA: [u16; GROUP] = {
        let mut iota = [0; GROUP];
        let mut i = 0;
        while i < GROUP {
            iota[i] = i as u16;
            i += 1;
        }
        iota
    };
    // SAFETY: 32 elements of two bytes.
    unsafe { _mm512_loadu_si512(IOTA.as_ptr().cast()) }
}

/// Marks the elements of `group` in `mask`.
///
/// # Safety
/// There must be room for 32 marks behind `marks`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,popcnt")]
unsafe fn push(marks: *mut u16, elements: __m512i, mask: u32) -> usize {
    let marked = _mm512_maskz_compress_epi16(mask, elements);
    // SAFETY: 64 bytes, as the caller says.
    unsafe { _mm512_storeu_si512(marks.cast(), marked) };
    mask.count_ones() as usize
}

pub(super) fn changed(base: &[u8], target: &[u8], marks: &mut [u16]) -> usize {
    let groups = base.len().min(target.len()) / STEP;
    if marks.len() < groups * GROUP + SLACK {
        return portable::changed::<u16>(base, target, marks);
    }
    // SAFETY: called at the AVX-512 level alone; both inputs hold `groups` groups, and `marks` has room for all and 32 more.
    let len = unsafe { changed_groups(base, target, marks, groups) };
    portable::changed_from::<u16>(base, target, groups, marks, len)
}

/// # Safety
/// `base` and `target` must have `groups` times 64 bytes, and `marks` room for 32 marks a group and 32 more.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,popcnt")]
unsafe fn changed_groups(base: &[u8], target: &[u8], marks: &mut [u16], groups: usize) -> usize {
    const AT_ONCE: usize = 8;
    let mut len = 0;
    let mut elements = iota();
    let step = _mm512_set1_epi16(GROUP as i16);
    let compare = |group: usize| {
        // SAFETY: the caller has so many groups; a prefetch may point anywhere.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(base.as_ptr().wrapping_add(group * STEP + AHEAD).cast());
            _mm_prefetch::<_MM_HINT_T0>(target.as_ptr().wrapping_add(group * STEP + AHEAD).cast());
            let old = _mm512_loadu_si512(base.as_ptr().add(group * STEP).cast());
            let new = _mm512_loadu_si512(target.as_ptr().add(group * STEP).cast());
            _mm512_cmpneq_epu16_mask(old, new)
        }
    };
    let rounds = groups / AT_ONCE;
    for round in 0..rounds {
        let mut masks = [0; AT_ONCE];
        let mut any = 0;
        for (i, mask) in masks.iter_mut().enumerate() {
            *mask = compare(round * AT_ONCE + i);
            any |= *mask;
        }
        if any == 0 {
            elements = _mm512_add_epi16(elements, _mm512_set1_epi16((GROUP * AT_ONCE) as i16));
            continue;
        }
        for mask in masks {
            // SAFETY: at most 32 marks for each group so far, and there is room for 32 more.
            len += unsafe { push(marks.as_mut_ptr().add(len), elements, mask) };
            elements = _mm512_add_epi16(elements, step);
        }
    }
    for group in rounds * AT_ONCE..groups {
        let mask = compare(group);
        // SAFETY: as above.
        len += unsafe { push(marks.as_mut_ptr().add(len), elements, mask) };
        elements = _mm512_add_epi16(elements, step);
    }
    len
}

/// The lengths of the classes of a chunk, in registers.
#[derive(Clone, Copy)]
pub(crate) struct Classes {
    shift: __m128i,
    mask: __m512i,
    first: __m512i,
    last: __m512i,
    lengths: __m512i,
}

impl Classes {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(crate) fn load(lengths: &Lengths) -> Self {
        Self {
            shift: _mm_cvtsi64_si128(i64::from(lengths.key.shift)),
            mask: _mm512_set1_epi16(lengths.key.mask as i16),
            first: _mm512_set1_epi16(lengths.first_key.cast_signed()),
            last: _mm512_set1_epi16(lengths.last_class.cast_signed()),
            // SAFETY: 32 classes of two bytes.
            lengths: unsafe { _mm512_loadu_si512(lengths.by_class.as_ptr().cast()) },
        }
    }

    /// The class of each element.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(crate) fn class(&self, elements: __m512i) -> __m512i {
        let key = _mm512_and_si512(_mm512_srl_epi16(elements, self.shift), self.mask);
        _mm512_min_epu16(_mm512_subs_epu16(key, self.first), self.last)
    }

    /// The lengths of the elements of a group, with the marks of the hot ones.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn of(&self, elements: __m512i) -> __m512i {
        _mm512_permutexvar_epi16(self.class(elements), self.lengths)
    }
}

pub(super) fn survey(lengths: &Lengths, block: &[u8], sums: &mut [u16], marks: &mut [u16]) -> usize {
    let groups = (block.len() / STEP).min(sums.len());
    if marks.len() < groups * GROUP + SLACK {
        return portable::survey::<u16>(lengths, block, sums, marks);
    }
    let groups = groups / 16 * 16;
    // SAFETY: called at the AVX-512 level alone; `block` and `sums` hold `groups` groups, and `marks` has room for all of
    // them and 32 more.
    let len = unsafe { survey_groups(lengths, block, sums, marks, groups) };
    portable::survey_from::<u16>(lengths, block, groups, sums, marks, len)
}

/// # Safety
/// `block` must have `groups` times 64 bytes, `sums` as many items, and `marks` room for 32 marks a group and 32 more;
/// `groups` must be a multiple of 16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi2,popcnt")]
unsafe fn survey_groups(
    lengths: &Lengths,
    block: &[u8],
    sums: &mut [u16],
    marks: &mut [u16],
    groups: usize,
) -> usize {
    let classes = Classes::load(lengths);
    let ones = _mm512_set1_epi16(1);
    let unmarked = _mm512_set1_epi16((!HOT_MARK).cast_signed());
    let step = _mm512_set1_epi16(GROUP as i16);
    let mut elements = iota();
    let mut len = 0;
    for round in 0..groups / 16 {
        // Of each four groups: the sums over the 8 elements of each 128 bits.
        let mut quarters = [_mm512_setzero_si512(); 4];
        for (i, quarter) in quarters.iter_mut().enumerate() {
            let mut pairs = [_mm512_setzero_si512(); 4];
            for (j, pair) in pairs.iter_mut().enumerate() {
                let at = (round * 16 + i * 4 + j) * STEP;
                // SAFETY: the group lies in the block; a prefetch may point anywhere.
                let group = unsafe {
                    _mm_prefetch::<_MM_HINT_T0>(block.as_ptr().wrapping_add(at + AHEAD).cast());
                    _mm512_loadu_si512(block.as_ptr().add(at).cast())
                };
                let lengths = classes.of(group);
                // SAFETY: at most 32 marks for each group so far, and there is room for 32 more.
                len += unsafe { push(marks.as_mut_ptr().add(len), elements, _mm512_movepi16_mask(lengths)) };
                elements = _mm512_add_epi16(elements, step);
                *pair = _mm512_madd_epi16(_mm512_and_si512(lengths, unmarked), ones);
            }
            // Sums of two elements, then of four, then of eight; sixteen times 2047 still fits 16 bits.
            let low = _mm512_madd_epi16(_mm512_packus_epi32(pairs[0], pairs[1]), ones);
            let high = _mm512_madd_epi16(_mm512_packus_epi32(pairs[2], pairs[3]), ones);
            *quarter = _mm512_madd_epi16(_mm512_packus_epi32(low, high), ones);
        }
        let [a, b, c, d] = quarters;
        let ab = _mm512_add_epi32(_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0xee>(a, b));
        let cd = _mm512_add_epi32(_mm512_shuffle_i32x4::<0x44>(c, d), _mm512_shuffle_i32x4::<0xee>(c, d));
        let sum =
            _mm512_add_epi32(_mm512_shuffle_i32x4::<0x88>(ab, cd), _mm512_shuffle_i32x4::<0xdd>(ab, cd));
        // SAFETY: sixteen sums of two bytes, and there are as many as groups.
        unsafe {
            _mm256_storeu_si256(sums.as_mut_ptr().add(round * 16).cast(), _mm512_cvtepi32_epi16(sum));
        }
    }
    len
}

/// [`portable::before`], of a whole group.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(crate) fn before(classes: &Classes, lengths: &Lengths, group: &[u8], index: usize) -> Found {
    let Some(group) = group.first_chunk::<STEP>() else {
        return portable::before::<u16>(lengths, group, index);
    };
    // SAFETY: 64 bytes.
    let elements = unsafe { _mm512_loadu_si512(group.as_ptr().cast()) };
    let unmarked = _mm512_set1_epi16((!HOT_MARK).cast_signed());
    let earlier = (1u32 << (index % GROUP)) - 1;
    let own = _mm512_maskz_mov_epi16(earlier, _mm512_and_si512(classes.of(elements), unmarked));
    let before = _mm512_reduce_add_epi32(_mm512_madd_epi16(own, _mm512_set1_epi16(1))).cast_unsigned();
    let element = group.as_chunks::<2>().0[index % GROUP];
    let element = u16::from_le_bytes(element);
    Found { index, before, length: lengths.of(element), element: u64::from(element) }
}

pub(super) fn stream(block: &[u8], target: &mut [u8]) {
    if block.len() != target.len() {
        return;
    }
    // SAFETY: called at the AVX-512 level alone; the lengths are equal.
    unsafe { stream_lines(block, target) }
}

/// # Safety
/// `block` and `target` must have the same length.
#[target_feature(enable = "avx512f")]
unsafe fn stream_lines(block: &[u8], target: &mut [u8]) {
    let head = target.as_ptr().align_offset(STEP).min(target.len());
    let (first, rest) = target.split_at_mut(head);
    let (from_first, from_rest) = block.split_at(head);
    first.copy_from_slice(from_first);
    let (lines, last) = rest.as_chunks_mut::<STEP>();
    let (from_lines, from_last) = from_rest.as_chunks::<STEP>();
    for (line, from) in lines.iter_mut().zip(from_lines) {
        // SAFETY: both have 64 bytes, and the lines begin where the target is aligned to as many.
        unsafe { _mm512_stream_si512(line.as_mut_ptr().cast(), _mm512_loadu_si512(from.as_ptr().cast())) };
    }
    // What follows may be read by another thread.
    _mm_sfence();
    last.copy_from_slice(from_last);
}
