//! The kernels for any machine and any width: what the others are compared with.

use crate::element::Element;
use crate::sparse::{HOT_BIT, Lengths};

use super::{Found, GROUP};

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
        let Some(mut free) = free(marks, len) else { break };
        let mut total = 0;
        for (i, bytes) in bytes.chunks_exact(T::WIDTH).enumerate() {
            let marked = lengths.marked(T::load(bytes));
            total += marked;
            free.push(group * GROUP + i, marked >> HOT_BIT);
        }
        // The marks of the hot elements are all above the sum of the lengths.
        *sum = total as u16;
        len += free.taken;
    }
    len
}

/// The first group from `from` on that ends beyond `point`; the padding behind `ends` does.
#[inline(always)]
pub(crate) fn find_group(ends: &[u32], from: usize, point: u32) -> usize {
    let later = ends.get(from..).unwrap_or_default();
    from + later.iter().take_while(|&&end| end <= point).count()
}

/// The element of a group that `rest` lies on, counted from the group's start on the axis.
#[inline(always)]
pub(crate) fn locate<T: Element>(lengths: &Lengths, group: &[u8], rest: u32) -> Found {
    let mut before = 0;
    let mut found = Found { index: 0, before: 0, length: 0, element: 0 };
    for (index, bytes) in group.chunks_exact(T::WIDTH).enumerate() {
        let element = T::load(bytes);
        let length = lengths.of(element);
        found = Found { index, before, length, element: element.to_u64() };
        before += length;
        if before > rest {
            break;
        }
    }
    found
}

/// The element of a group with this index.
#[inline(always)]
pub(crate) fn before<T: Element>(lengths: &Lengths, group: &[u8], index: usize) -> Found {
    let mut found = Found { index, before: 0, length: 0, element: 0 };
    for bytes in group.chunks_exact(T::WIDTH).take(index + 1) {
        let element = T::load(bytes);
        found.before += found.length;
        found.length = lengths.of(element);
        found.element = element.to_u64();
    }
    found
}
