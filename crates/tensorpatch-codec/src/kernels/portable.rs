//! The kernels for any machine and any width: what the others are compared with.

use crate::element::Element;
use crate::sparse::{HOT_BIT, Lengths};

use super::GROUP;

/// Marks the elements of group number `group` whose bits are set in `mask`, and returns how many marks there
/// are then.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "a block has at most 2^16 elements")]
fn push(marks: &mut [u16], mut len: usize, group: usize, mut mask: u32) -> usize {
    while mask != 0 {
        if let Some(free) = marks.get_mut(len) {
            *free = (group * GROUP + mask.trailing_zeros() as usize) as u16;
        }
        len += 1;
        mask &= mask - 1;
    }
    len
}

/// Whether two groups are the same: in pieces that are compared without a call.
#[inline(always)]
fn are_equal(olds: &[u8], news: &[u8]) -> bool {
    let ((olds, old_rest), (news, new_rest)) = (olds.as_chunks::<32>(), news.as_chunks::<32>());
    olds.iter().zip(news).all(|(old, new)| old == new) && old_rest == new_rest
}

pub(super) fn changed<T: Element>(base: &[u8], target: &[u8], marks: &mut [u16]) -> usize {
    changed_from::<T>(base, target, 0, marks, 0)
}

/// As [`changed`], of the part of a block from group `first` on, with `len` marks made.
#[inline(always)]
pub(super) fn changed_from<T: Element>(
    base: &[u8],
    target: &[u8],
    first: usize,
    marks: &mut [u16],
    mut len: usize,
) -> usize {
    let step = GROUP * T::WIDTH;
    for (group, (olds, news)) in base.chunks(step).zip(target.chunks(step)).enumerate().skip(first) {
        if are_equal(olds, news) {
            continue;
        }
        let pairs = olds.chunks_exact(T::WIDTH).zip(news.chunks_exact(T::WIDTH));
        let differ = (0..).zip(pairs).map(|(i, (old, new))| u32::from(T::load(old) != T::load(new)) << i);
        len = push(marks, len, group, differ.fold(0, |mask, bit| mask | bit));
    }
    len
}

pub(super) fn survey<T: Element>(
    lengths: &Lengths,
    block: &[u8],
    sums: &mut [u16],
    marks: &mut [u16],
) -> usize {
    survey_from::<T>(lengths, block, 0, sums, marks, 0)
}

/// As [`survey`], of the part of a block from group `first` on, with `len` marks made.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "a group is shorter than 2^16")]
pub(super) fn survey_from<T: Element>(
    lengths: &Lengths,
    block: &[u8],
    first: usize,
    sums: &mut [u16],
    marks: &mut [u16],
    mut len: usize,
) -> usize {
    let groups = block.chunks(GROUP * T::WIDTH).zip(sums).enumerate().skip(first);
    for (group, (bytes, sum)) in groups {
        let total = lengths.sum::<T>(bytes);
        // The marks of the hot elements are all above the sum of the lengths.
        *sum = total as u16;
        if total >> HOT_BIT == 0 {
            continue;
        }
        let hot = bytes.chunks_exact(T::WIDTH).map(|bytes| lengths.marked(T::load(bytes)) >> HOT_BIT);
        len = push(marks, len, group, (0..).zip(hot).fold(0, |mask, (i, hot)| mask | hot << i));
    }
    len
}
