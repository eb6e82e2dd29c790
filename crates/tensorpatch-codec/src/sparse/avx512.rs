//! [`Vector`] with AVX-512, in registers of 256 bits.
#![expect(clippy::cast_possible_truncation, reason = "masks of 16 bits and small constants")]
#![expect(
    unsafe_code,
    reason = "vector instructions; compared with the portable decoder and the reference in tests"
)]

use std::arch::x86_64::*;

use crate::kernels::avx512::Classes;

use super::lengths::Lengths;
use super::rans::{EVERY_SECOND, States};
use super::symbols::SYMBOL_BITS;
use super::vector::{GROUP_BYTES, Vector, WIDTH, shells};

#[derive(Clone, Copy)]
pub(super) struct Avx512(__m256i);

// SAFETY of all that follows: a value exists only at the AVX-512 level, which has AVX2, AVX-512 F, BW, VL and
// VBMI2, and BMI2. What is loaded and stored has the size of its reference.
impl Vector for Avx512 {
    type Mask = __mmask16;
    type Table = [__m256i; 2];
    type Index = __m256i;
    type Lengths = Classes;

    #[inline(always)]
    unsafe fn splat(value: u16) -> Self {
        Self(unsafe { _mm256_set1_epi16(value.cast_signed()) })
    }

    #[inline(always)]
    unsafe fn load(from: &[u16; WIDTH]) -> Self {
        Self(unsafe { _mm256_loadu_si256(from.as_ptr().cast()) })
    }

    #[inline(always)]
    unsafe fn load_bytes(from: &[u8; 2 * WIDTH]) -> Self {
        Self(unsafe { _mm256_loadu_si256(from.as_ptr().cast()) })
    }

    #[inline(always)]
    unsafe fn table(by_class: &[u16; 32]) -> Self::Table {
        let at = by_class.as_ptr();
        unsafe { [_mm256_loadu_si256(at.cast()), _mm256_loadu_si256(at.add(WIDTH).cast())] }
    }

    #[inline(always)]
    unsafe fn lengths(lengths: &Lengths) -> Self::Lengths {
        unsafe { Classes::load(lengths) }
    }

    #[inline(always)]
    fn store(self, to: &mut [u16; WIDTH]) {
        unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), self.0) }
    }

    #[inline(always)]
    fn store_bytes(self, to: &mut [u8; 2 * WIDTH]) {
        unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), self.0) }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self(unsafe { _mm256_add_epi16(self.0, other.0) })
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Self(unsafe { _mm256_sub_epi16(self.0, other.0) })
    }

    #[inline(always)]
    fn sub_or_zero(self, other: Self) -> Self {
        Self(unsafe { _mm256_subs_epu16(self.0, other.0) })
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        Self(unsafe { _mm256_min_epu16(self.0, other.0) })
    }

    #[inline(always)]
    fn mul_low(self, other: Self) -> Self {
        Self(unsafe { _mm256_mullo_epi16(self.0, other.0) })
    }

    #[inline(always)]
    fn mul_high(self, other: Self) -> Self {
        Self(unsafe { _mm256_mulhi_epu16(self.0, other.0) })
    }

    #[inline(always)]
    fn and(self, other: Self) -> Self {
        Self(unsafe { _mm256_and_si256(self.0, other.0) })
    }

    #[inline(always)]
    fn or(self, other: Self) -> Self {
        Self(unsafe { _mm256_or_si256(self.0, other.0) })
    }

    #[inline(always)]
    fn xor(self, other: Self) -> Self {
        Self(unsafe { _mm256_xor_si256(self.0, other.0) })
    }

    #[inline(always)]
    fn shl<const N: i32>(self) -> Self {
        Self(unsafe { _mm256_slli_epi16::<N>(self.0) })
    }

    #[inline(always)]
    fn shr<const N: i32>(self) -> Self {
        Self(unsafe { _mm256_srli_epi16::<N>(self.0) })
    }

    #[inline(always)]
    fn shr_by(self, count: u32) -> Self {
        Self(unsafe { _mm256_srl_epi16(self.0, _mm_cvtsi64_si128(i64::from(count))) })
    }

    #[inline(always)]
    fn equals(self, other: Self) -> Self::Mask {
        unsafe { _mm256_cmpeq_epu16_mask(self.0, other.0) }
    }

    #[inline(always)]
    fn exceeds(self, other: Self) -> Self::Mask {
        unsafe { _mm256_cmpgt_epu16_mask(self.0, other.0) }
    }

    #[inline(always)]
    fn select(self, mask: Self::Mask, other: Self) -> Self {
        Self(unsafe { _mm256_mask_mov_epi16(other.0, mask, self.0) })
    }

    #[inline(always)]
    fn bits(mask: Self::Mask) -> u32 {
        u32::from(mask)
    }

    #[inline(always)]
    fn keep_bits(self, bits: u32) -> Self {
        Self(unsafe { _mm256_maskz_mov_epi16(bits as __mmask16, self.0) })
    }

    #[inline(always)]
    fn carry(self, part: Self) -> Self {
        Self(unsafe { _mm256_movm_epi16(_mm256_cmplt_epu16_mask(self.0, part.0)) })
    }

    #[inline(always)]
    fn expand(self, words: &[u8; 2 * WIDTH], bits: u32) -> Self {
        Self(unsafe {
            _mm256_maskz_expand_epi16(bits as __mmask16, _mm256_loadu_si256(words.as_ptr().cast()))
        })
    }

    #[inline(always)]
    fn compress(self, bits: u32, to: &mut [u16; WIDTH]) {
        Self(unsafe { _mm256_maskz_compress_epi16(bits as __mmask16, self.0) }).store(to);
    }

    #[inline(always)]
    fn deposit(bits: u32, mask: u32) -> u32 {
        unsafe { _pdep_u32(bits, mask) }
    }

    #[inline(always)]
    fn extract(bits: u32, mask: u32) -> u32 {
        unsafe { _pext_u32(bits, mask) }
    }

    #[inline(always)]
    fn index(self) -> Self::Index {
        self.0
    }

    #[inline(always)]
    fn look_up(table: &Self::Table, index: &Self::Index) -> Self {
        Self(unsafe { _mm256_permutex2var_epi16(table[0], *index, table[1]) })
    }

    #[inline(always)]
    fn sums(lengths: &Self::Lengths, group: &[u8; GROUP_BYTES], first: u16) -> [Self; 2] {
        let [low, high] = unsafe { lengths.sums(group, first) };
        [Self(low), Self(high)]
    }
}

shells!(Avx512, "AVX-512", "avx2,bmi1,bmi2,lzcnt,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi2");

/// Puts the symbols of a phase, of `2^bits` slots, before what `words` ends with: returns where the words
/// begin then.
///
/// # Safety
/// The AVX-512 level must be there.
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi2")]
pub(super) unsafe fn put(
    states: &mut States,
    lanes: usize,
    starts: &[u16],
    freqs: &[u16],
    bits: u32,
    words: &mut [u16],
) -> usize {
    // SAFETY: as the caller says.
    unsafe {
        match (lanes, bits == SYMBOL_BITS) {
            (8, true) => put_rows::<1, 8, 12>(states, starts, freqs, words),
            (8, false) => put_rows::<1, 8, 16>(states, starts, freqs, words),
            (16, true) => put_rows::<1, 16, 12>(states, starts, freqs, words),
            (16, false) => put_rows::<1, 16, 16>(states, starts, freqs, words),
            (_, true) => put_rows::<2, 32, 12>(states, starts, freqs, words),
            (_, false) => put_rows::<2, 32, 16>(states, starts, freqs, words),
        }
    }
}

/// # Safety
/// The AVX-512 level must be there.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi2")]
unsafe fn put_rows<const N: usize, const LANES: usize, const BITS: u32>(
    states: &mut States,
    starts: &[u16],
    freqs: &[u16],
    words: &mut [u16],
) -> usize {
    let mut at = words.len();
    let (of_lanes, _) = states.as_chunks_mut::<WIDTH>();
    // SAFETY: 16 states of four bytes each.
    let mut all: [__m512i; N] =
        std::array::from_fn(|n| unsafe { _mm512_loadu_si512(of_lanes[n].as_ptr().cast()) });
    let (one, zero) = (_mm512_set1_epi32(1), _mm512_setzero_si512());
    for (starts, freqs) in starts.rchunks_exact(LANES).zip(freqs.rchunks_exact(LANES)) {
        for n in (0..N).rev() {
            let of_vector = n * WIDTH..LANES.min((n + 1) * WIDTH);
            let mask = ((1_u32 << of_vector.len()) - 1) as __mmask16;
            let (start, freq) = (&starts[of_vector.clone()], &freqs[of_vector]);
            // SAFETY: two bytes for each bit of the mask.
            let (start, freq) = unsafe {
                let start = _mm256_maskz_loadu_epi16(mask, start.as_ptr().cast());
                (start, _mm256_maskz_loadu_epi16(mask, freq.as_ptr().cast()))
            };
            let (mut start, freq) = (_mm512_cvtepu16_epi32(start), _mm512_cvtepu16_epi32(freq));
            let put = _mm512_cmpneq_epi32_mask(freq, zero);
            let state = all[n];
            let high = if BITS == SYMBOL_BITS {
                _mm512_srli_epi32::<20>(state)
            } else {
                _mm512_srli_epi32::<16>(state)
            };
            let full = _mm512_mask_cmpge_epu32_mask(put, high, freq);
            let count = full.count_ones() as usize;
            at -= count;
            let low = _mm256_maskz_compress_epi16(full, _mm512_cvtepi32_epi16(state));
            // SAFETY: `count` words are written, and there is room for them: the slice was taken to be long
            // enough.
            unsafe {
                let to = words[at..at + count].as_mut_ptr();
                _mm256_mask_storeu_epi16(to.cast(), ((1_u32 << count) - 1) as __mmask16, low);
            }
            let state = _mm512_mask_srli_epi32::<16>(state, full, state);
            let divisor = _mm512_max_epu32(freq, one);
            // The quotient is below 2^20, so that it is at most one off.
            let quotient = _mm512_div_ps(_mm512_cvtepu32_ps(state), _mm512_cvtepu32_ps(divisor));
            let mut quotient = _mm512_cvttps_epu32(quotient);
            let mut rest = _mm512_sub_epi32(state, _mm512_mullo_epi32(quotient, divisor));
            let below = _mm512_movepi32_mask(rest);
            quotient = _mm512_mask_sub_epi32(quotient, below, quotient, one);
            rest = _mm512_mask_add_epi32(rest, below, rest, divisor);
            let above = _mm512_cmpge_epu32_mask(rest, divisor);
            quotient = _mm512_mask_add_epi32(quotient, above, quotient, one);
            rest = _mm512_mask_sub_epi32(rest, above, rest, divisor);
            let next = if BITS == SYMBOL_BITS {
                let spread = _mm512_test_epi32_mask(start, _mm512_set1_epi32(i32::from(EVERY_SECOND)));
                start = _mm512_andnot_si512(_mm512_set1_epi32(i32::from(EVERY_SECOND)), start);
                rest = _mm512_mask_add_epi32(rest, spread, rest, rest);
                _mm512_slli_epi32::<12>(quotient)
            } else {
                _mm512_slli_epi32::<16>(quotient)
            };
            let next = _mm512_add_epi32(next, _mm512_add_epi32(start, rest));
            all[n] = _mm512_mask_mov_epi32(state, put, next);
        }
    }
    for (states, of_lanes) in all.into_iter().zip(of_lanes) {
        // SAFETY: 16 states of four bytes.
        unsafe { _mm512_storeu_si512(of_lanes.as_mut_ptr().cast(), states) };
    }
    at
}
