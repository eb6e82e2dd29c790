//! The kernels for two-byte elements with NEON.
#![expect(unsafe_code, reason = "vector instructions; compared with the portable kernels in tests")]
#![expect(clippy::cast_possible_truncation, reason = "elements of two bytes, of groups of 32")]

use std::arch::aarch64::*;

use crate::sparse::Lengths;

use super::marks::push_bits;
use super::{GROUP, SLACK, portable};

/// Bytes of a group.
pub(crate) const STEP: usize = 64;

/// The four quarters of a group.
#[inline]
#[target_feature(enable = "neon")]
fn load(group: &[u8; STEP]) -> [uint16x8_t; 4] {
    let at = group.as_ptr();
    // SAFETY: four times 16 of the 64 bytes, at any alignment.
    let quarters =
        unsafe { [vld1q_u8(at), vld1q_u8(at.add(16)), vld1q_u8(at.add(32)), vld1q_u8(at.add(48))] };
    quarters.map(|quarter| vreinterpretq_u16_u8(quarter))
}

/// The low byte of each element of a group, in order.
#[inline]
#[target_feature(enable = "neon")]
fn bytes(quarters: [uint16x8_t; 4]) -> [uint8x16_t; 2] {
    let [first, second, third, fourth] = quarters.map(|quarter| vreinterpretq_u8_u16(quarter));
    [vuzp1q_u8(first, second), vuzp1q_u8(third, fourth)]
}

/// A bit for each element of a group, from a byte each that is 0 or 255.
#[inline]
#[target_feature(enable = "neon")]
fn bits([first, second]: [uint8x16_t; 2]) -> u32 {
    // Byte i keeps bit i % 8, and three rounds of adding neighbours bring eight of them into one byte.
    let places = vreinterpretq_u8_u64(vdupq_n_u64(0x8040_2010_0804_0201));
    let pairs = vpaddq_u8(vandq_u8(first, places), vandq_u8(second, places));
    let fours = vpaddq_u8(pairs, pairs);
    vgetq_lane_u32::<0>(vreinterpretq_u32_u8(vpaddq_u8(fours, fours)))
}

pub(super) fn changed(base: &[u8], target: &[u8], marks: &mut [u16]) -> usize {
    let groups = base.len().min(target.len()) / STEP;
    if marks.len() < groups * GROUP + SLACK {
        return portable::changed::<u16>(base, target, marks);
    }
    // SAFETY: called at the NEON level alone.
    let len = unsafe { changed_groups(base, target, marks) };
    portable::changed_from::<u16>(base, target, groups, marks, len)
}

/// Marks the elements that differ in the groups that are whole in both.
#[target_feature(enable = "neon")]
fn changed_groups(base: &[u8], target: &[u8], marks: &mut [u16]) -> usize {
    let mut len = 0;
    let groups = base.as_chunks::<STEP>().0.iter().zip(target.as_chunks::<STEP>().0);
    for (group, (olds, news)) in groups.enumerate() {
        let ([old0, old1, old2, old3], [new0, new1, new2, new3]) = (load(olds), load(news));
        let [xor0, xor1] = [veorq_u16(old0, new0), veorq_u16(old1, new1)];
        let [xor2, xor3] = [veorq_u16(old2, new2), veorq_u16(old3, new3)];
        let any = vorrq_u16(vorrq_u16(xor0, xor1), vorrq_u16(xor2, xor3));
        if vmaxvq_u32(vreinterpretq_u32_u16(any)) != 0 {
            let differs = [xor0, xor1, xor2, xor3].map(|xor| vtstq_u16(xor, xor));
            push_bits(marks, &mut len, group * GROUP, bits(bytes(differs)));
        }
    }
    len
}

/// The lengths of the classes of a chunk, in registers: low and high bytes, of 32 classes.
#[derive(Clone, Copy)]
pub(crate) struct Classes {
    /// How far keys are shifted to the left: not above 0.
    shift: int16x8_t,
    mask: uint16x8_t,
    first: uint16x8_t,
    last: uint16x8_t,
    low: uint8x16x2_t,
    high: uint8x16x2_t,
}

/// The lengths of a group, a byte for each element.
#[derive(Clone, Copy)]
struct Split {
    low: [uint8x16_t; 2],
    high: [uint8x16_t; 2],
    /// 255 for the hot elements, whose lengths are zero.
    hot: [uint8x16_t; 2],
}

impl Classes {
    #[inline]
    #[target_feature(enable = "neon")]
    pub(crate) fn load(lengths: &Lengths) -> Self {
        let table = |shift: u32| {
            let bytes = lengths.by_class.map(|length| (length >> shift) as u8);
            // SAFETY: twice 16 of 32 bytes.
            unsafe { uint8x16x2_t(vld1q_u8(bytes.as_ptr()), vld1q_u8(bytes.as_ptr().add(16))) }
        };
        Self {
            shift: vdupq_n_s16(-(lengths.key.shift as i16)),
            mask: vdupq_n_u16(lengths.key.mask as u16),
            first: vdupq_n_u16(lengths.first_key),
            last: vdupq_n_u16(lengths.last_class),
            low: table(0),
            high: table(8),
        }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    fn class(&self, elements: uint16x8_t) -> uint16x8_t {
        let key = vandq_u16(vshlq_u16(elements, self.shift), self.mask);
        vminq_u16(vqsubq_u16(key, self.first), self.last)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    fn of(&self, quarters: [uint16x8_t; 4]) -> Split {
        let classes = bytes(quarters.map(|quarter| self.class(quarter)));
        let high = classes.map(|class| vqtbl2q_u8(self.high, class));
        Split {
            low: classes.map(|class| vqtbl2q_u8(self.low, class)),
            high: high.map(|high| vandq_u8(high, vdupq_n_u8(0x7f))),
            hot: high.map(|high| vcgeq_u8(high, vdupq_n_u8(0x80))),
        }
    }
}

impl Split {
    /// The sum of the lengths: a group is shorter than 2^16.
    #[inline]
    #[target_feature(enable = "neon")]
    fn total(&self) -> u16 {
        let pairs = |[first, second]: [uint8x16_t; 2]| vpadalq_u8(vpaddlq_u8(first), second);
        vaddvq_u16(vaddq_u16(pairs(self.low), vshlq_n_u16::<8>(pairs(self.high))))
    }
}

pub(super) fn survey(lengths: &Lengths, block: &[u8], sums: &mut [u16], marks: &mut [u16]) -> usize {
    let groups = (block.len() / STEP).min(sums.len());
    if marks.len() < groups * GROUP + SLACK {
        return portable::survey::<u16>(lengths, block, sums, marks);
    }
    // SAFETY: called at the NEON level alone.
    let len = unsafe { survey_groups(lengths, block, sums, marks) };
    portable::survey_from::<u16>(lengths, block, groups, sums, marks, len)
}

/// Sums up and marks the groups that are whole and have a sum.
#[target_feature(enable = "neon")]
fn survey_groups(lengths: &Lengths, block: &[u8], sums: &mut [u16], marks: &mut [u16]) -> usize {
    let classes = Classes::load(lengths);
    let mut len = 0;
    for (group, (elements, sum)) in block.as_chunks::<STEP>().0.iter().zip(sums).enumerate() {
        let split = classes.of(load(elements));
        *sum = split.total();
        push_bits(marks, &mut len, group * GROUP, bits(split.hot));
    }
    len
}
