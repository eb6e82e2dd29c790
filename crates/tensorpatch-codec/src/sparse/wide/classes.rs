//! Classes of elements of two bytes, and numbers by class.
#![expect(unsafe_code, reason = "vector instructions; compared with the portable steps in tests")]
#![expect(clippy::cast_possible_truncation, reason = "a key of an element of two bytes")]

use std::arch::x86_64::*;

use crate::sparse::plan::Lengths;

/// What the class of an element is found with, in registers.
#[derive(Clone, Copy)]
pub(super) struct Classes {
    shift: __m128i,
    mask: __m512i,
    first: __m512i,
    last: __m512i,
}

impl Classes {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn load(lengths: &Lengths) -> Self {
        Self {
            shift: _mm_cvtsi64_si128(i64::from(lengths.key.shift)),
            mask: _mm512_set1_epi16(lengths.key.mask as i16),
            first: _mm512_set1_epi16(lengths.first_key.cast_signed()),
            last: _mm512_set1_epi16(lengths.last_class.cast_signed()),
        }
    }

    /// The class of each element of two bytes.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn of(&self, elements: __m512i) -> __m512i {
        let key = _mm512_and_si512(_mm512_srl_epi16(elements, self.shift), self.mask);
        _mm512_min_epu16(_mm512_subs_epu16(key, self.first), self.last)
    }
}

/// Numbers of two bytes by class, in a register.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn table(of: &[u16; 32]) -> __m512i {
    // SAFETY: 64 bytes.
    unsafe { _mm512_loadu_si512(of.as_ptr().cast()) }
}

/// The numbers of classes that stand in 64-bit lanes.
#[inline]
#[target_feature(enable = "avx512bw")]
pub(super) fn by_class(class: __m512i, table: __m512i) -> __m512i {
    _mm512_maskz_permutexvar_epi16(0x1111_1111, class, table)
}
