//! Hot symbols written into eight streams at once, with AVX-512.
#![expect(unsafe_code, reason = "vector instructions; compared with the portable steps in tests")]
#![expect(clippy::cast_possible_truncation, reason = "numbers of slots, and the low halves of values")]

use std::arch::x86_64::*;

use crate::kernels::avx512::Classes;
use crate::sparse::distance::{Distance, SymbolTables};
use crate::sparse::plan::{LADDER, Lengths};
use crate::sparse::stream::{RECIPROCALS, SYMBOL_SCALE, Writer};

use super::classes::{by_class, ladder};
use super::states::{Each, LANES};

/// The bits of a state that are below the symbol's share of it.
const ROOM: u32 = 64 - SYMBOL_SCALE;

/// Puts the symbols of moves from `olds` to `news`, which take turns with the streams, from the last one on; there are `LANES` times `N` streams.
///
/// Both slices have a length that is a multiple of `LANES`; only the first `len` elements count.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512cd,bmi1,bmi2,lzcnt,popcnt")]
pub(super) fn run<const N: usize>(
    writers: &mut [[Writer; LANES]; N],
    lengths: &Lengths,
    symbols: &SymbolTables,
    olds: &[u16],
    news: &[u16],
    len: usize,
) {
    let classes = Classes::load(lengths);
    let ladder = ladder(symbols.ladder());
    let zero = _mm512_setzero_si512();
    let unit = _mm512_set1_epi64(1);
    let mut states: [__m512i; N] = [zero; N];
    for (state, writers) in states.iter_mut().zip(&*writers) {
        *state = Each(std::array::from_fn(|i| writers[i].state())).load();
    }

    let rounds = olds.as_chunks::<LANES>().0.iter().zip(news.as_chunks::<LANES>().0);
    for (round, (olds, news)) in rounds.enumerate().rev() {
        let writers = &mut writers[round % N];
        let state = &mut states[round % N];
        let valid = ((1u32 << len.saturating_sub(round * LANES).min(LANES)) - 1) as __mmask8;
        // SAFETY: 16 bytes each.
        let (old, new) = unsafe {
            let (old, new) = (_mm_loadu_si128(olds.as_ptr().cast()), _mm_loadu_si128(news.as_ptr().cast()));
            (_mm512_cvtepu16_epi64(old), _mm512_cvtepu16_epi64(new))
        };
        let class = classes.class(old);
        // The difference modulo 2^16.
        let difference = _mm512_srai_epi64::<48>(_mm512_slli_epi64::<48>(_mm512_sub_epi64(new, old)));
        let changed = _mm512_test_epi64_mask(difference, difference);
        let down = _mm512_movepi64_mask(difference);
        let beyond = _mm512_sub_epi64(_mm512_abs_epi64(difference), unit);
        let bits = _mm512_sub_epi64(_mm512_set1_epi64(64), _mm512_lzcnt_epi64(beyond));

        let mut ends = [zero; LADDER];
        for i in 0..LADDER {
            ends[i] = by_class(class, ladder[i]);
        }
        let (mut start, mut end) = (zero, ends[0]);
        for i in 0..LADDER - 1 {
            let here = _mm512_cmpeq_epi64_mask(bits, _mm512_set1_epi64(i as i64));
            start = _mm512_mask_mov_epi64(start, here, ends[i]);
            end = _mm512_mask_mov_epi64(end, here, ends[i + 1]);
        }
        let half = _mm512_srli_epi64::<1>(_mm512_add_epi64(_mm512_sub_epi64(end, start), unit));
        let middle = _mm512_add_epi64(start, half);
        start = _mm512_mask_mov_epi64(start, changed & down, middle);
        end = _mm512_mask_mov_epi64(end, changed & !down, middle);
        let freq = _mm512_sub_epi64(end, start);
        let far = _mm512_cmpge_epi64_mask(bits, _mm512_set1_epi64(LADDER as i64 - 1));
        let slow = valid & ((changed & far) | _mm512_testn_epi64_mask(freq, freq));
        let fast = valid & !slow;

        // The plain bits below the leading one come first, since they are read last.
        let plain = _mm512_maskz_sub_epi64(fast & changed, bits, unit);
        let plain = _mm512_max_epi64(plain, zero);
        let with_plain = _mm512_test_epi64_mask(plain, plain);
        if with_plain != 0 {
            let above = _mm512_srlv_epi64(*state, _mm512_sub_epi64(_mm512_set1_epi64(64), plain));
            *state = make_room(writers, *state, _mm512_mask_test_epi64_mask(with_plain, above, above));
            let value = _mm512_andnot_si512(_mm512_sllv_epi64(_mm512_set1_epi64(-1), plain), beyond);
            let put = _mm512_or_si512(_mm512_sllv_epi64(*state, plain), value);
            *state = _mm512_mask_mov_epi64(*state, with_plain, put);
        }

        let full = _mm512_mask_cmpge_epu64_mask(fast, _mm512_srli_epi64::<ROOM>(*state), freq);
        *state = make_room(writers, *state, full);
        // SAFETY: at most 1024 slots, and the table has one more number.
        let reciprocal =
            unsafe { _mm512_mask_i64gather_epi64::<8>(zero, fast, freq, RECIPROCALS.as_ptr().cast()) };
        let quotient = high_product(*state, reciprocal);
        let rest = _mm512_sub_epi64(*state, _mm512_mullo_epi64(quotient, freq));
        let over = _mm512_cmpge_epu64_mask(rest, freq);
        let quotient = _mm512_mask_add_epi64(quotient, over, quotient, unit);
        let rest = _mm512_mask_sub_epi64(rest, over, rest, freq);
        let put =
            _mm512_add_epi64(_mm512_slli_epi64::<SYMBOL_SCALE>(quotient), _mm512_add_epi64(start, rest));
        *state = _mm512_mask_mov_epi64(*state, fast, put);

        if slow != 0 {
            let mut each = Each::of(*state);
            for i in 0..LANES {
                if slow >> i & 1 == 1 {
                    let distance = Distance::between(olds[i], news[i]);
                    let class = symbols.class(lengths.key.find(olds[i]));
                    writers[i].set_state(each.0[i]);
                    symbols.put(class, distance.kind(), || Some(distance), &mut writers[i]);
                    each.0[i] = writers[i].state();
                }
            }
            *state = each.load();
        }
    }
    for (state, writers) in states.iter().zip(writers) {
        for (writer, state) in writers.iter_mut().zip(Each::of(*state).0) {
            writer.set_state(state);
        }
    }
}

/// The upper halves of products.
#[inline]
#[target_feature(enable = "avx512f")]
fn high_product(a: __m512i, b: __m512i) -> __m512i {
    let low = _mm512_set1_epi64(0xffff_ffff);
    let (a_high, b_high) = (_mm512_srli_epi64::<32>(a), _mm512_srli_epi64::<32>(b));
    let low_low = _mm512_mul_epu32(a, b);
    let low_high = _mm512_mul_epu32(a, b_high);
    let high_low = _mm512_mul_epu32(a_high, b);
    let high_high = _mm512_mul_epu32(a_high, b_high);
    let middle = _mm512_add_epi64(
        _mm512_srli_epi64::<32>(low_low),
        _mm512_add_epi64(_mm512_and_si512(low_high, low), _mm512_and_si512(high_low, low)),
    );
    let high = _mm512_add_epi64(_mm512_srli_epi64::<32>(low_high), _mm512_srli_epi64::<32>(high_low));
    _mm512_add_epi64(high_high, _mm512_add_epi64(high, _mm512_srli_epi64::<32>(middle)))
}

/// Puts the low words of full states.
#[inline]
#[target_feature(enable = "avx512f")]
fn make_room(writers: &mut [Writer; LANES], state: __m512i, mut full: __mmask8) -> __m512i {
    let shifted = _mm512_mask_srli_epi64::<32>(state, full, state);
    if full != 0 {
        let each = Each::of(state);
        while full != 0 {
            let lane = full.trailing_zeros() as usize % LANES;
            writers[lane].put_word(each.0[lane] as u32);
            full &= full - 1;
        }
    }
    shifted
}
