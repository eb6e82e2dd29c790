//! Hot symbols of eight streams at once, with AVX-512.
#![expect(unsafe_code, reason = "vector instructions; compared with the portable steps in tests")]
#![expect(clippy::cast_possible_truncation, reason = "numbers of slots, and the low halves of values")]

use std::arch::x86_64::*;

use crate::kernels::avx512::Classes;
use crate::sparse::plan::{LADDER, Lengths, Tables};
use crate::sparse::shift::shifted;
use crate::sparse::stream::{SYMBOL_SCALE, Serial};

use super::classes::{by_class, ladder};
use super::states::{Each, LANES, States};

/// Reads the symbols of elements that take turns with the streams, of which there are `LANES` times `N`, and moves them.
///
/// `elements[i]` belongs to stream `i` modulo their number; only those of `range` are read. `None` if one cannot be moved so.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512cd,bmi1,bmi2,lzcnt,popcnt")]
pub(super) fn run<const N: usize>(
    streams: &mut [[Serial<'_>; LANES]; N],
    lengths: &Lengths,
    tables: &Tables,
    elements: &mut [u16],
    range: std::ops::Range<usize>,
) -> Option<()> {
    let classes = Classes::load(lengths);
    let ladder = ladder(tables.ladder());
    let mut states = [States::new(streams[0]); N];
    for (states, streams) in states.iter_mut().zip(&*streams) {
        *states = States::new(*streams);
    }
    let unit = _mm512_set1_epi64(1);
    let zero = _mm512_setzero_si512();

    for (round, elements) in elements.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
        let states = &mut states[round % N];
        let at = round * LANES;
        // The lanes of this round that are in the range.
        let from = range.start.saturating_sub(at).min(LANES);
        let to = range.end.saturating_sub(at).min(LANES);
        let read = ((1u32 << to) - 1) as __mmask8 & !((1u32 << from) - 1) as __mmask8;
        // SAFETY: 16 bytes.
        let old = _mm512_cvtepu16_epi64(unsafe { _mm_loadu_si128(elements.as_ptr().cast()) });
        let class = classes.class(old);

        // Which step of the ladder the slot is on: from the last end at or below it to the first one above. All comparisons stand
        // side by side: one after the other they would be most of a round's time.
        let slot = _mm512_and_si512(states.state, _mm512_set1_epi64((1 << SYMBOL_SCALE) - 1));
        let (mut ends, mut beyond) = ([zero; LADDER], [0; LADDER]);
        for i in 0..LADDER {
            ends[i] = by_class(class, ladder[i]);
            beyond[i] = _mm512_cmpge_epu64_mask(slot, ends[i]);
        }
        let changed = beyond[0];
        let far = read & beyond[LADDER - 1];
        let mut start = zero;
        let mut end = ends[0];
        // One more than the bits of the distance beyond one unit.
        let mut bits = zero;
        for i in 1..LADDER {
            start = _mm512_mask_mov_epi64(start, beyond[i - 1], ends[i - 1]);
            end = _mm512_mask_mov_epi64(end, beyond[i - 1], ends[i]);
            bits = _mm512_mask_add_epi64(bits, beyond[i - 1], bits, unit);
        }
        let half = _mm512_srli_epi64::<1>(_mm512_add_epi64(_mm512_sub_epi64(end, start), unit));
        let middle = _mm512_add_epi64(start, half);
        let down = _mm512_mask_cmpge_epu64_mask(changed, slot, middle);
        let start = _mm512_mask_mov_epi64(start, down, middle);
        let end = _mm512_mask_mov_epi64(end, changed & !down, middle);
        let rest = _mm512_srli_epi64::<SYMBOL_SCALE>(states.state);
        states.consume(read & !far, rest, _mm512_sub_epi64(end, start), _mm512_sub_epi64(slot, start));

        // The distance beyond one unit: nothing if it has no bits, otherwise a leading one and plain bits.
        let plain =
            _mm512_mask_sub_epi64(zero, _mm512_cmpgt_epu64_mask(bits, unit), bits, _mm512_set1_epi64(2));
        let leading = _mm512_maskz_sllv_epi64(_mm512_cmpgt_epu64_mask(bits, unit), unit, plain);
        let mut distance = _mm512_add_epi64(unit, leading);
        let with_plain = _mm512_mask_cmpneq_epi64_mask(read & !far, plain, zero);
        if with_plain != 0 {
            let below = _mm512_andnot_si512(_mm512_sllv_epi64(_mm512_set1_epi64(-1), plain), states.state);
            distance = _mm512_add_epi64(distance, below);
            states.state = _mm512_mask_srlv_epi64(states.state, with_plain, states.state, plain);
            states.refill(with_plain);
        }
        let distance = _mm512_maskz_mov_epi64(changed & read, distance);
        let new = _mm512_mask_sub_epi64(_mm512_add_epi64(old, distance), down, old, distance);
        // SAFETY: 16 bytes.
        unsafe { _mm_storeu_si128(elements.as_mut_ptr().cast(), _mm512_cvtepi64_epi16(new)) };
        if far != 0 {
            let (olds, mut now) = (Each::of(old), states.streams());
            for i in 0..LANES {
                if far >> i & 1 == 1 {
                    let old = olds.0[i] as u16;
                    let code = now[i].symbol(tables, lengths.key.find(old));
                    elements[i] = shifted(old, code, &mut now[i])?;
                }
            }
            *states = States::new(now);
        }
    }
    for (states, streams) in states.iter().zip(streams) {
        *streams = states.streams();
    }
    Some(())
}
