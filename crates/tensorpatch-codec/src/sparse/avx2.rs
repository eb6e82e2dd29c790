//! [`Vector`] with AVX2.
#![expect(clippy::cast_possible_truncation, reason = "masks of 16 bits and small constants")]
#![expect(
    unsafe_code,
    reason = "vector instructions; compared with the portable decoder and the reference in tests"
)]

use std::arch::x86_64::*;

use crate::kernels::avx2::{Classes, SIDE_BY_SIDE, side_by_side};

use super::lengths::Lengths;
use super::rans::{EVERY_SECOND, States};
use super::symbols::SYMBOL_BITS;
use super::vector::{GROUP_BYTES, Vector, WIDTH, shells};

#[derive(Clone, Copy)]
pub(super) struct Avx2(__m256i);

/// What spreads the first words of 16 bytes to the places whose bit is set: the inverse of [`SIDE_BY_SIDE`].
static SPREAD: [[u8; 16]; 256] = {
    let gathered = side_by_side(false);
    let mut all = [[0x80; 16]; 256];
    let mut bits = 0;
    while bits < 256 {
        let mut to = 0;
        while to < 16 {
            let from = gathered[bits][to] as usize;
            if from < 16 {
                all[bits][from] = to as u8;
            }
            to += 1;
        }
        bits += 1;
    }
    all
};

/// What brings the words of 16 bytes whose bit is set side by side, at the end.
static AT_END: [[u8; 16]; 256] = side_by_side(true);

/// One of the tables for eight bits.
///
/// # Safety
/// SSE2 must be there.
#[inline(always)]
unsafe fn shuffle(table: &[[u8; 16]; 256], bits: u32) -> __m128i {
    unsafe { _mm_loadu_si128(table[(bits & 0xff) as usize].as_ptr().cast()) }
}

// SAFETY of all that follows: a value exists only at the AVX2 level and above, which have AVX2 and BMI2.
// What is loaded and stored has the size of its reference.
impl Vector for Avx2 {
    type Mask = __m256i;
    type Table = [__m256i; 4];
    type Index = [__m256i; 4];
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
        let (quarters, _) = by_class.as_chunks::<8>();
        std::array::from_fn(|i| unsafe {
            _mm256_broadcastsi128_si256(_mm_loadu_si128(quarters[i].as_ptr().cast()))
        })
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
        unsafe { _mm256_cmpeq_epi16(self.0, other.0) }
    }

    #[inline(always)]
    fn exceeds(self, other: Self) -> Self::Mask {
        unsafe { _mm256_cmpgt_epi16(self.0, other.0) }
    }

    #[inline(always)]
    fn select(self, mask: Self::Mask, other: Self) -> Self {
        Self(unsafe { _mm256_blendv_epi8(other.0, self.0, mask) })
    }

    #[inline(always)]
    fn bits(mask: Self::Mask) -> u32 {
        unsafe {
            let halves = _mm_packs_epi16(_mm256_castsi256_si128(mask), _mm256_extracti128_si256::<1>(mask));
            _mm_movemask_epi8(halves).cast_unsigned()
        }
    }

    #[inline(always)]
    fn keep_bits(self, bits: u32) -> Self {
        unsafe {
            let places = _mm256_setr_epi16(
                1,
                2,
                4,
                8,
                16,
                32,
                64,
                128,
                256,
                512,
                1024,
                2048,
                4096,
                8192,
                16_384,
                i16::MIN,
            );
            let set = _mm256_and_si256(_mm256_set1_epi16(bits as i16), places);
            Self(_mm256_and_si256(_mm256_cmpeq_epi16(set, places), self.0))
        }
    }

    #[inline(always)]
    fn carry(self, part: Self) -> Self {
        unsafe {
            let reaches = _mm256_cmpeq_epi16(_mm256_max_epu16(self.0, part.0), self.0);
            Self(_mm256_xor_si256(reaches, _mm256_set1_epi16(-1)))
        }
    }

    #[inline(always)]
    fn expand(self, words: &[u8; 2 * WIDTH], bits: u32) -> Self {
        let of_first = 2 * (bits & 0xff).count_ones() as usize;
        unsafe {
            let (first, second) = (words.as_ptr().cast(), words.as_ptr().add(of_first).cast());
            let first = _mm_shuffle_epi8(_mm_loadu_si128(first), shuffle(&SPREAD, bits));
            let second = _mm_shuffle_epi8(_mm_loadu_si128(second), shuffle(&SPREAD, bits >> 8));
            Self(_mm256_inserti128_si256::<1>(_mm256_castsi128_si256(first), second))
        }
    }

    #[inline(always)]
    fn compress(self, bits: u32, to: &mut [u16; WIDTH]) {
        let of_first = (bits & 0xff).count_ones() as usize;
        unsafe {
            let first = _mm_shuffle_epi8(_mm256_castsi256_si128(self.0), shuffle(&SIDE_BY_SIDE, bits));
            let second = _mm256_extracti128_si256::<1>(self.0);
            let second = _mm_shuffle_epi8(second, shuffle(&SIDE_BY_SIDE, bits >> 8));
            _mm_storeu_si128(to.as_mut_ptr().cast(), first);
            _mm_storeu_si128(to.as_mut_ptr().add(of_first).cast(), second);
        }
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
        unsafe {
            // Two bytes of a number each, of 64 in all. What is not among the 16 of a quarter gets a high
            // bit.
            let bytes = _mm256_mullo_epi16(self.0, _mm256_set1_epi16(0x0202));
            let bytes = _mm256_add_epi16(bytes, _mm256_set1_epi16(0x0100));
            std::array::from_fn(|quarter| {
                let of_quarter = _mm256_sub_epi8(bytes, _mm256_set1_epi8(16 * quarter as i8));
                _mm256_adds_epu8(of_quarter, _mm256_set1_epi8(0x70))
            })
        }
    }

    #[inline(always)]
    fn look_up(table: &Self::Table, index: &Self::Index) -> Self {
        unsafe {
            let quarter = |i: usize| _mm256_shuffle_epi8(table[i], index[i]);
            Self(_mm256_or_si256(
                _mm256_or_si256(quarter(0), quarter(1)),
                _mm256_or_si256(quarter(2), quarter(3)),
            ))
        }
    }

    #[inline(always)]
    fn sums(lengths: &Self::Lengths, group: &[u8; GROUP_BYTES], first: u16) -> [Self; 2] {
        let [low, high] = unsafe { lengths.sums(group, first) };
        [Self(low), Self(high)]
    }
}

shells!(Avx2, "AVX2", "avx2,bmi1,bmi2,lzcnt,popcnt");

/// Puts the symbols of a phase, of `2^bits` slots, before what `words` ends with: returns where the words
/// begin then.
///
/// # Safety
/// The AVX2 level must be there.
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
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
            (8, true) => put_rows::<1, 12>(states, starts, freqs, words),
            (8, false) => put_rows::<1, 16>(states, starts, freqs, words),
            (16, true) => put_rows::<2, 12>(states, starts, freqs, words),
            (16, false) => put_rows::<2, 16>(states, starts, freqs, words),
            (_, true) => put_rows::<4, 12>(states, starts, freqs, words),
            (_, false) => put_rows::<4, 16>(states, starts, freqs, words),
        }
    }
}

/// An unsigned number as the nearest float.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn float(numbers: __m256i) -> __m256 {
    let high = _mm256_cvtepi32_ps(_mm256_srli_epi32::<16>(numbers));
    let low = _mm256_cvtepi32_ps(_mm256_and_si256(numbers, _mm256_set1_epi32(0xffff)));
    _mm256_add_ps(_mm256_mul_ps(high, _mm256_set1_ps(65_536.0)), low)
}

/// # Safety
/// The AVX2 level must be there.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
unsafe fn put_rows<const N: usize, const BITS: u32>(
    states: &mut States,
    starts: &[u16],
    freqs: &[u16],
    words: &mut [u16],
) -> usize {
    let mut at = words.len();
    let (of_lanes, _) = states.as_chunks_mut::<8>();
    // SAFETY: eight states of four bytes each.
    let mut all: [__m256i; N] =
        std::array::from_fn(|n| unsafe { _mm256_loadu_si256(of_lanes[n].as_ptr().cast()) });
    let (one, zero) = (_mm256_set1_epi32(1), _mm256_setzero_si256());
    for (starts, freqs) in starts.rchunks_exact(8 * N).zip(freqs.rchunks_exact(8 * N)) {
        let (starts, freqs) = (starts.as_chunks::<8>().0, freqs.as_chunks::<8>().0);
        for n in (0..N).rev() {
            // SAFETY: 16 bytes each.
            let (mut start, freq) = unsafe {
                let start = _mm_loadu_si128(starts[n].as_ptr().cast());
                let freq = _mm_loadu_si128(freqs[n].as_ptr().cast());
                (_mm256_cvtepu16_epi32(start), _mm256_cvtepu16_epi32(freq))
            };
            let put = _mm256_cmpgt_epi32(freq, zero);
            let state = all[n];
            let high = if BITS == SYMBOL_BITS {
                _mm256_srli_epi32::<20>(state)
            } else {
                _mm256_srli_epi32::<16>(state)
            };
            let full = _mm256_andnot_si256(_mm256_cmpgt_epi32(freq, high), put);
            let bits = _mm256_movemask_ps(_mm256_castsi256_ps(full)).cast_unsigned();
            let low = _mm256_and_si256(state, _mm256_set1_epi32(0xffff));
            let low = _mm256_permute4x64_epi64::<0x08>(_mm256_packus_epi32(low, low));
            // SAFETY: eight words end where those so far begin, and there is room for as many before them.
            unsafe {
                let low = _mm_shuffle_epi8(_mm256_castsi256_si128(low), shuffle(&AT_END, bits));
                let to = words[at - 8..at].as_mut_ptr();
                _mm_storeu_si128(to.cast(), low);
            }
            at -= bits.count_ones() as usize;
            let state = _mm256_srlv_epi32(state, _mm256_and_si256(full, _mm256_set1_epi32(16)));
            let divisor = _mm256_max_epi32(freq, one);
            // The quotient is below 2^20, so that it is at most one off.
            let quotient = _mm256_div_ps(float(state), _mm256_cvtepi32_ps(divisor));
            let mut quotient = _mm256_cvttps_epi32(quotient);
            let mut rest = _mm256_sub_epi32(state, _mm256_mullo_epi32(quotient, divisor));
            let below = _mm256_srai_epi32::<31>(rest);
            quotient = _mm256_add_epi32(quotient, below);
            rest = _mm256_add_epi32(rest, _mm256_and_si256(below, divisor));
            let within = _mm256_cmpgt_epi32(divisor, rest);
            quotient = _mm256_add_epi32(quotient, _mm256_andnot_si256(within, one));
            rest = _mm256_sub_epi32(rest, _mm256_andnot_si256(within, divisor));
            let next = if BITS == SYMBOL_BITS {
                rest = _mm256_sllv_epi32(rest, _mm256_srli_epi32::<15>(start));
                start = _mm256_and_si256(start, _mm256_set1_epi32(i32::from(!EVERY_SECOND)));
                _mm256_slli_epi32::<12>(quotient)
            } else {
                _mm256_slli_epi32::<16>(quotient)
            };
            let next = _mm256_add_epi32(next, _mm256_add_epi32(start, rest));
            all[n] = _mm256_blendv_epi8(state, next, put);
        }
    }
    for (states, of_lanes) in all.into_iter().zip(of_lanes) {
        // SAFETY: eight states of four bytes.
        unsafe { _mm256_storeu_si256(of_lanes.as_mut_ptr().cast(), states) };
    }
    at
}
