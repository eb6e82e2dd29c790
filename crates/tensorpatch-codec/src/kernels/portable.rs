//! The kernels for any machine and any width: what the others are compared with.

use crate::element::Element;
use crate::sparse::{HOT_BIT, Lengths};

use super::GROUP;

/// Free places for the marks of one group, and how many are taken.
struct Free<'a> {
    places: &'a mut [u16; GROUP],
    taken: usize,
}

impl Free<'_> {
    /// Writes `element` into the next place, and keeps it there if `keep` is 1 and not 0.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "a block has at most 2^15 elements")]
    fn push(&mut self, element: usize, keep: u32) {
        self.places[self.taken % GROUP] = element as u16;
        self.taken += keep as usize;
    }
}

/// The places behind `len` marks; there is [`SLACK`](super::SLACK) for them.
#[inline(always)]
fn free(marks: &mut [u16], len: usize) -> Option<Free<'_>> {
    let places = marks.get_mut(len..)?.first_chunk_mut()?;
    Some(Free { places, taken: 0 })
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
        if olds == news {
            continue;
        }
        let Some(mut free) = free(marks, len) else { break };
        let pairs = olds.chunks_exact(T::WIDTH).zip(news.chunks_exact(T::WIDTH));
        for (i, (old, new)) in pairs.enumerate() {
            free.push(group * GROUP + i, u32::from(T::load(old) != T::load(new)));
        }
        len += free.taken;
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
        let Some(mut free) = free(marks, len) else { break };
        for (i, bytes) in bytes.chunks_exact(T::WIDTH).enumerate() {
            free.push(group * GROUP + i, lengths.marked(T::load(bytes)) >> HOT_BIT);
        }
        len += free.taken;
    }
    len
}
