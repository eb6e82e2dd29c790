//! The accumulation of whole blocks with AVX2 and AVX-512.
#![expect(unsafe_code, reason = "vector instructions; compared with twox-hash in tests")]

use std::arch::x86_64::*;

use super::{Accumulators, BLOCK, PRIME32_1, SECRET, STRIPE};
use crate::level::Kind;

pub(super) fn blocks(kind: Kind, accumulators: &mut Accumulators, blocks: &[[u8; BLOCK]]) {
    match kind {
        Kind::Portable => blocks.iter().for_each(|block| accumulators.block(block)),
        // SAFETY: the kind comes from a `Level`, which exists only where its instructions do.
        Kind::Avx2 => unsafe { avx2(accumulators, blocks) },
        // SAFETY: as above.
        Kind::Avx512 => unsafe { avx512(accumulators, blocks) },
    }
}

#[target_feature(enable = "avx512f")]
fn avx512(accumulators: &mut Accumulators, blocks: &[[u8; BLOCK]]) {
    // SAFETY: `Accumulators` is 64 bytes, aligned to as many.
    let mut acc = unsafe { _mm512_load_si512(accumulators.0.as_ptr().cast()) };
    let prime = _mm512_set1_epi64(PRIME32_1.cast_signed());
    for block in blocks {
        let (mut even, mut odd) = (acc, _mm512_setzero_si512());
        for i in 0..BLOCK / STRIPE {
            // SAFETY: 64 bytes from 64·i on, i below 16, lie in the block.
            let data = unsafe { _mm512_loadu_si512(block.as_ptr().add(STRIPE * i).cast()) };
            // SAFETY: 64 bytes from 8·i on, at most 184, lie in the 192 of the secret.
            let key = unsafe { _mm512_loadu_si512(SECRET.0.as_ptr().add(8 * i).cast()) };
            let key = _mm512_xor_si512(data, key);
            let product = _mm512_mul_epu32(key, _mm512_srli_epi64::<32>(key));
            even = _mm512_add_epi64(even, product);
            odd = _mm512_add_epi64(odd, _mm512_shuffle_epi32::<0x4e>(data));
        }
        acc = _mm512_add_epi64(even, odd);
        // SAFETY: the last 64 of 192 bytes.
        let key = unsafe { _mm512_loadu_si512(SECRET.0.as_ptr().add(192 - STRIPE).cast()) };
        let mixed = _mm512_ternarylogic_epi64::<0x96>(acc, _mm512_srli_epi64::<47>(acc), key);
        let low = _mm512_mul_epu32(mixed, prime);
        let high = _mm512_mul_epu32(_mm512_srli_epi64::<32>(mixed), prime);
        acc = _mm512_add_epi64(low, _mm512_slli_epi64::<32>(high));
    }
    // SAFETY: as for the load.
    unsafe { _mm512_store_si512(accumulators.0.as_mut_ptr().cast(), acc) };
}

#[target_feature(enable = "avx2")]
fn avx2(accumulators: &mut Accumulators, blocks: &[[u8; BLOCK]]) {
    let at = accumulators.0.as_mut_ptr().cast::<__m256i>();
    // SAFETY: `Accumulators` is two vectors of 32 bytes, aligned to 64.
    let (mut acc0, mut acc1) = unsafe { (_mm256_load_si256(at), _mm256_load_si256(at.add(1))) };
    let prime = _mm256_set1_epi64x(PRIME32_1.cast_signed());
    for block in blocks {
        for i in 0..BLOCK / STRIPE {
            // SAFETY: 64 bytes from 64·i on, i below 16, lie in the block; 64 from 8·i on in the 192 of the
            // secret.
            let (data0, data1, key0, key1) = unsafe {
                let data = block.as_ptr().add(STRIPE * i).cast::<__m256i>();
                let key = SECRET.0.as_ptr().add(8 * i).cast::<__m256i>();
                (
                    _mm256_loadu_si256(data),
                    _mm256_loadu_si256(data.add(1)),
                    _mm256_loadu_si256(key),
                    _mm256_loadu_si256(key.add(1)),
                )
            };
            acc0 = stripe(acc0, data0, key0);
            acc1 = stripe(acc1, data1, key1);
        }
        // SAFETY: the last 64 of 192 bytes.
        let (key0, key1) = unsafe {
            let key = SECRET.0.as_ptr().add(192 - STRIPE).cast::<__m256i>();
            (_mm256_loadu_si256(key), _mm256_loadu_si256(key.add(1)))
        };
        acc0 = scramble(acc0, key0, prime);
        acc1 = scramble(acc1, key1, prime);
    }
    // SAFETY: as for the load.
    unsafe {
        _mm256_store_si256(at, acc0);
        _mm256_store_si256(at.add(1), acc1);
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn stripe(acc: __m256i, data: __m256i, key: __m256i) -> __m256i {
    let key = _mm256_xor_si256(data, key);
    let product = _mm256_mul_epu32(key, _mm256_srli_epi64::<32>(key));
    _mm256_add_epi64(acc, _mm256_add_epi64(product, _mm256_shuffle_epi32::<0x4e>(data)))
}

#[inline]
#[target_feature(enable = "avx2")]
fn scramble(acc: __m256i, key: __m256i, prime: __m256i) -> __m256i {
    let mixed = _mm256_xor_si256(_mm256_xor_si256(acc, _mm256_srli_epi64::<47>(acc)), key);
    let low = _mm256_mul_epu32(mixed, prime);
    let high = _mm256_mul_epu32(_mm256_srli_epi64::<32>(mixed), prime);
    _mm256_add_epi64(low, _mm256_slli_epi64::<32>(high))
}
