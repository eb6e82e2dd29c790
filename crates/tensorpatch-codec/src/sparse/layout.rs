//! What encoder and decoder share: the head of a payload, strips, and long plain values.

#[cfg(test)]
use std::ops::Range;

use crate::bits::{BitReader, BitWriter};
use crate::bytes::put_varint;
#[cfg(test)]
use crate::element::Element;

use super::stream::Step;

/// Strips whose cold changes go into streams of their own.
pub(super) const STRIPS: usize = 8;
/// Bytes of a chunk that go to one strip before the next one's turn.
pub(super) const STRIP_BYTES: usize = 8192;
/// The most streams of hot symbols.
pub(super) const MAX_HOT_STREAMS: usize = 16;
/// So many ones stand for a quotient that follows in plain bits, as many as `QUOTIENT_BITS`.
pub(super) const QUOTIENT_ESCAPE: u32 = 11;
pub(super) const QUOTIENT_BITS: u32 = 20;

/// How a payload is divided into streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Streams {
    /// One holds everything.
    One,
    /// Strips have their own, and so have the hot symbols: one stream, or several that take turns.
    Apart { hot: usize },
}

impl Streams {
    const ALL: [Self; 4] =
        [Self::One, Self::Apart { hot: 1 }, Self::Apart { hot: 8 }, Self::Apart { hot: MAX_HOT_STREAMS }];

    pub(super) fn write(self, bits: &mut BitWriter<'_>) {
        let code = (0..).zip(Self::ALL).find(|(_, other)| *other == self);
        bits.put(code.map_or(0, |(code, _)| code), 2);
    }

    pub(super) fn read(bits: &mut BitReader<'_>) -> Option<Self> {
        Self::ALL.get(bits.take(2)? as usize).copied()
    }
}

/// The bits of a slot of a bucket.
#[inline(always)]
pub(super) fn slot_bits(scale: u32) -> u32 {
    scale + 2
}

/// The slots of a bucket before a unit of it, or before its end.
///
/// A bucket is one half-life of the axis and has four slots a unit: five in its first quarter, four in the next two, three in the
/// last one, which is about in the proportion of the chances to meet the next change there.
#[inline(always)]
pub(super) fn slots_before(unit: u32, scale: u32) -> u32 {
    (5 * unit).min(4 * unit + (1 << (scale - 2))).min(3 * unit + (1 << scale))
}

/// The unit of a bucket that a slot belongs to: the last one with no more slots before it.
#[inline(always)]
pub(super) fn unit_at(slot: u32, scale: u32) -> u32 {
    // Divisions by five and three, exact for all of 32 bits.
    let fifth = ((u64::from(slot) * 0xcccc_cccd) >> 34) as u32;
    let fourth = slot.saturating_sub(1 << (scale - 2)) >> 2;
    let third = ((u64::from(slot.saturating_sub(1 << scale)) * 0xaaaa_aaab) >> 33) as u32;
    fifth.max(fourth).max(third)
}

#[cfg(test)]
/// The elements of some bytes, in order.
pub(super) fn elements<T: Element>(bytes: &[u8]) -> impl Iterator<Item = T> {
    bytes.chunks_exact(T::WIDTH).map(T::load)
}

#[cfg(test)]
/// The byte ranges of a chunk that belong to a strip.
pub(super) fn strip(len: usize, strip: usize, strips: usize) -> impl Iterator<Item = Range<usize>> {
    let step = STRIP_BYTES * strips;
    (strip * STRIP_BYTES..len).step_by(step).map(move |start| start..len.min(start + STRIP_BYTES))
}

/// Appends the lengths of streams, all but the last: each as the difference from an equal share of what is left.
pub(super) fn put_shares(lens: &[usize], out: &mut Vec<u8>) {
    let mut rest: usize = lens.iter().sum();
    for (i, &len) in lens.iter().enumerate().take(lens.len().saturating_sub(1)) {
        let share = rest / (lens.len() - i);
        put_varint(out, if len >= share { 2 * (len - share) } else { 2 * (share - len) - 1 });
        rest -= len;
    }
}

/// The length of the first of `left` streams that fill `rest` bytes; `None` if it is below zero or over `rest`.
#[deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
pub(super) fn take_share(zigzag: usize, rest: usize, left: usize) -> Option<usize> {
    let share = rest.checked_div(left)?;
    let half = zigzag.div_ceil(2);
    let len = if zigzag.is_multiple_of(2) { share.checked_add(half) } else { share.checked_sub(half) };
    len.filter(|&len| len <= rest)
}

/// A plain value of `len` bits in parts of at most 32, the low one first.
#[expect(clippy::cast_possible_truncation, reason = "at most 32 bits each")]
pub(super) fn halves(value: u64, len: u32) -> impl Iterator<Item = (u32, u32)> {
    let low = len.min(32);
    [(value as u32, low), ((value >> 32) as u32, len - low)].into_iter().filter(|&(_, len)| len > 0)
}

/// The place of a changed element, `gap` after the end of the last one on the axis and of the given length.
#[inline(always)]
pub(super) fn push_place(gap: u32, length: u32, down: bool, scale: u32, steps: &mut Vec<Step>) {
    let quotient = gap >> scale;
    let within = gap - (quotient << scale);
    let before = length.min((1 << scale) - within);
    let start = slots_before(within, scale);
    let own = slots_before(within + before, scale) - start;
    // An element across a border has two codes. The second costs a bit more, so it must be twice as likely.
    let after = slots_before(length - before, scale);
    if after > 2 * own {
        push_bucket(quotient + 1, 0, after, down, scale, steps);
    } else {
        push_bucket(quotient, start, own, down, scale, steps);
    }
}

/// The end of the axis, `gap` after the end of the last changed element: as if an element without end were there.
pub(super) fn push_end(gap: u32, scale: u32, steps: &mut Vec<Step>) {
    let quotient = gap >> scale;
    let within = gap - (quotient << scale);
    let all = 1 << slot_bits(scale);
    let start = slots_before(within, scale);
    if all - start < all / 2 {
        push_bucket(quotient + 1, 0, all, false, scale, steps);
    } else {
        push_bucket(quotient, start, all - start, false, scale, steps);
    }
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "a scale is at most 18")]
fn push_bucket(quotient: u32, start: u32, freq: u32, down: bool, scale: u32, steps: &mut Vec<Step>) {
    let scale = slot_bits(scale) as u8;
    let down = u32::from(down);
    if quotient < QUOTIENT_ESCAPE {
        let raw = ((1 << quotient) - 1) | (down << (quotient + 1));
        steps.push(Step { freq, start, raw, scale, raw_len: quotient as u8 + 2 });
    } else {
        steps.push(Step::bits((1 << QUOTIENT_ESCAPE) - 1, QUOTIENT_ESCAPE as u8));
        steps.push(Step::bits(quotient - QUOTIENT_ESCAPE, QUOTIENT_BITS as u8));
        steps.push(Step { freq, start, raw: down, scale, raw_len: 1 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_slot_belongs_to_the_last_unit_with_no_more_slots_before_it() {
        for scale in 14..=18 {
            assert_eq!(slots_before(0, scale), 0);
            assert_eq!(slots_before(1 << scale, scale), 4 << scale);
            let mut slot = 0;
            for unit in 0..1 << scale {
                let end = slots_before(unit + 1, scale);
                assert!(end > slot, "unit {unit} has a slot");
                for slot in slot..end {
                    assert_eq!(unit_at(slot, scale), unit, "slot {slot}");
                }
                slot = end;
            }
        }
    }

    #[test]
    fn the_lengths_of_streams_come_back_from_their_differences_to_equal_shares() {
        for lens in [vec![10, 20, 70], vec![0, 0, 0, 60], vec![60, 0, 0, 0], vec![33, 33, 34], vec![7]] {
            let mut out = Vec::new();
            put_shares(&lens, &mut out);
            assert_eq!(out.len(), lens.len() - 1);
            let mut rest = lens.iter().sum();
            for (i, (&len, &zigzag)) in lens.iter().zip(&out).enumerate() {
                assert_eq!(take_share(usize::from(zigzag), rest, lens.len() - i), Some(len));
                rest -= len;
            }
        }
        assert_eq!(take_share(51, 100, 4), None);
        assert_eq!(take_share(202, 100, 4), None);
    }
}
