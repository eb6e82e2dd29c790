//! The kernels for two-byte elements with AVX-512.
#![expect(unsafe_code, reason = "vector instructions; compared with the portable kernels in tests")]
#![expect(clippy::cast_possible_truncation, reason = "elements of two bytes, of groups of 32")]

use std::arch::x86_64::*;

use crate::sparse::{HOT_MARK, Lengths};

use super::{GROUP, SLACK, portable};

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

/// Marks the elements of 16 groups from number `first` on whose bits are set, `elements` being those of a
/// group: returns how many marks there are then.
///
/// # Safety
/// There must be room for 32 marks behind those of each group.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,bmi1,popcnt")]
unsafe fn push_groups(
    marks: &mut [u16],
    mut len: usize,
    elements: __m512i,
    first: usize,
    masks: &[u32; 16],
) -> usize {
    // SAFETY: 64 bytes.
    let all = unsafe { _mm512_loadu_si512(masks.as_ptr().cast()) };
    // Which groups have any cannot be foreseen: a branch for each would cost more than they do.
    let mut groups = _mm512_test_epi32_mask(all, all);
    while groups != 0 {
        let group = groups.trailing_zeros() as usize % 16;
        groups &= groups - 1;
        let numbers = _mm512_add_epi16(elements, _mm512_set1_epi16(((first + group) * GROUP) as i16));
        let marked = _mm512_maskz_compress_epi16(masks[group], numbers);
        // SAFETY: 64 bytes, as the caller says.
        unsafe { _mm512_storeu_si512(marks.as_mut_ptr().add(len).cast(), marked) };
        len += masks[group].count_ones() as usize;
    }
    len
}

pub(super) fn changed(base: &[u8], target: &[u8], marks: &mut [u16]) -> usize {
    let groups = base.len().min(target.len()) / STEP;
    if marks.len() < groups * GROUP + SLACK {
        return portable::changed::<u16>(base, target, marks);
    }
    // SAFETY: called at the AVX-512 level alone; both inputs hold `groups` groups, and `marks` has room for
    // all and 32 more.
    let len = unsafe { changed_groups(base, target, marks, groups) };
    portable::changed_from::<u16>(base, target, groups, marks, len)
}

/// # Safety
/// `base` and `target` must have `groups` times 64 bytes, and `marks` room for 32 marks a group and 32 more.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,popcnt")]
unsafe fn changed_groups(base: &[u8], target: &[u8], marks: &mut [u16], groups: usize) -> usize {
    const AT_ONCE: usize = 16;
    let mut len = 0;
    let elements = iota();
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
        let masks = std::array::from_fn(|i| compare(round * AT_ONCE + i));
        // SAFETY: at most 32 marks for each group so far, and there is room for 32 more.
        len = unsafe { push_groups(marks, len, elements, round * AT_ONCE, &masks) };
    }
    for group in rounds * AT_ONCE..groups {
        let mut masks = [0; AT_ONCE];
        masks[0] = compare(group);
        // SAFETY: as above.
        len = unsafe { push_groups(marks, len, elements, group, &masks) };
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

impl Classes {
    /// For each element of a group the sum of the lengths up to it, from element `first` on.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(crate) fn sums(&self, group: &[u8; STEP], first: u16) -> [__m256i; 2] {
        // SAFETY: 64 bytes.
        let elements = unsafe { _mm512_loadu_si512(group.as_ptr().cast()) };
        let lengths = _mm512_and_si512(self.of(elements), _mm512_set1_epi16((!HOT_MARK).cast_signed()));
        let one = _mm512_maskz_mov_epi16(u32::MAX << (first % 32), lengths);
        let two = _mm512_add_epi16(one, _mm512_bslli_epi128::<2>(one));
        let four = _mm512_add_epi16(two, _mm512_bslli_epi128::<4>(two));
        let eight = _mm512_add_epi16(four, _mm512_bslli_epi128::<8>(four));
        let of_quarters = _mm512_shuffle_epi8(eight, _mm512_set1_epi16(0x0f0e));
        let zero = _mm512_setzero_si512();
        let (first, second) =
            (_mm512_alignr_epi64::<6>(of_quarters, zero), _mm512_alignr_epi64::<4>(of_quarters, zero));
        let third = _mm512_alignr_epi64::<2>(of_quarters, zero);
        let sums = _mm512_add_epi16(_mm512_add_epi16(eight, first), _mm512_add_epi16(second, third));
        [_mm512_castsi512_si256(sums), _mm512_extracti64x4_epi64::<1>(sums)]
    }
}

pub(super) fn survey(lengths: &Lengths, block: &[u8], sums: &mut [u16], marks: &mut [u16]) -> usize {
    let groups = (block.len() / STEP).min(sums.len());
    if marks.len() < groups * GROUP + SLACK {
        return portable::survey::<u16>(lengths, block, sums, marks);
    }
    let groups = groups / 16 * 16;
    // SAFETY: called at the AVX-512 level alone; `block` and `sums` hold `groups` groups, and `marks` has
    // room for all of them and 32 more.
    let len = unsafe { survey_groups(lengths, block, sums, marks, groups) };
    portable::survey_from::<u16>(lengths, block, groups, sums, marks, len)
}

/// # Safety
/// `block` must have `groups` times 64 bytes, `sums` as many items, and `marks` room for 32 marks a group and
/// 32 more; `groups` must be a multiple of 16.
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
    let elements = iota();
    let mut len = 0;
    for round in 0..groups / 16 {
        let mut hot = [0_u32; 16];
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
                hot[i * 4 + j] = _mm512_movepi16_mask(lengths);
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
        // SAFETY: at most 32 marks for each group so far, and there is room for 32 more.
        len = unsafe { push_groups(marks, len, elements, round * 16, &hot) };
    }
    len
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
