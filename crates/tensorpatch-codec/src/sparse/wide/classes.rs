//! Numbers by class, in registers.
#![expect(unsafe_code, reason = "vector instructions; compared with the portable steps in tests")]

use std::arch::x86_64::*;

use crate::sparse::plan::LADDER;

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

/// The steps of a ladder.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn ladder(of: &[[u16; 32]; LADDER]) -> [__m512i; LADDER] {
    let mut ladder = [_mm512_setzero_si512(); LADDER];
    for (step, ends) in ladder.iter_mut().zip(of) {
        *step = table(ends);
    }
    ladder
}
