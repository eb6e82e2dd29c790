//! Cold changes: points on the axis of a strip, found one after the other, in several strips at once.

use crate::element::Element;
use crate::kernels::{self, Found, GROUP, PADDING};
use crate::level::{Kind, Level};

use super::layout::{QUOTIENT_BITS, QUOTIENT_ESCAPE, slot_bits, slots_before, unit_at};
use super::plan::{Lengths, Tables};
use super::stream::Serial;

/// A new value for an element.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Patch {
    pub(super) position: u32,
    pub(super) value: u64,
}

impl Patch {
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "a chunk has at most 2^20 elements")]
    pub(super) fn new<T: Element>(position: usize, value: T) -> Self {
        Self { position: position as u32, value: value.to_u64() }
    }
}

/// New values, in the order in which they are found.
#[derive(Debug, Default)]
pub(super) struct Patches {
    /// More than are there.
    items: Vec<Patch>,
    len: usize,
}

impl Patches {
    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    /// Makes room for so many more.
    #[inline(always)]
    pub(super) fn make_room(&mut self, more: usize) {
        if self.items.len() < self.len + more {
            self.items.resize((self.len + more).max(2 * self.items.len()), Patch::default());
        }
    }

    /// Appends a patch. There must be room.
    #[inline(always)]
    pub(super) fn put(&mut self, patch: Patch) {
        if let Some(place) = self.items.get_mut(self.len) {
            *place = patch;
            self.len += 1;
        }
    }

    pub(super) fn apply<T: Element>(&self, bytes: &mut [u8]) {
        for patch in self.items.get(..self.len).unwrap_or_default() {
            let at = patch.position as usize * T::WIDTH;
            if let Some(element) = bytes.get_mut(at..at + T::WIDTH) {
                T::from_u64(patch.value).store(element);
            }
        }
    }
}

/// Where the groups of a strip end on its axis, within the part of it that is worked on.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Part<'a> {
    /// The number of the first group.
    first: usize,
    /// Where each group starts, and the last one ends; then [`PADDING`] times the greatest of all numbers.
    borders: &'a [u32],
    /// The last end of a group.
    end: u32,
}

/// The parts of some strips, one behind the other in memory.
#[derive(Debug, Default)]
pub(super) struct Parts {
    borders: Vec<u32>,
    groups: usize,
}

impl Parts {
    /// Parts of at most `groups` groups each, which have these sums.
    pub(super) fn fill(&mut self, sums: &[u16], groups: usize) {
        self.borders.clear();
        self.groups = groups;
        // A chunk without elements has no groups.
        for sums in sums.chunks(groups.max(1)) {
            let mut border = 0;
            self.borders.push(border);
            self.borders.extend(sums.iter().map(|&sum| {
                border += u32::from(sum);
                border
            }));
            self.borders.extend([u32::MAX; PADDING]);
        }
    }

    /// Where the groups of the parts start, each with its padding.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn borders(&self) -> &[u32] {
        &self.borders
    }

    /// Part number `index`; an empty one beyond the last.
    pub(super) fn part(&self, index: usize) -> Part<'_> {
        let len = self.groups + 1 + PADDING;
        let borders = self.borders.get(index * len..).unwrap_or_default();
        let borders = borders.get(..len).unwrap_or(borders);
        let last = borders.len().checked_sub(PADDING + 1).and_then(|last| borders.get(last));
        Part { first: index * self.groups, borders, end: last.copied().unwrap_or(0) }
    }
}

/// The changes of a strip being read: the next point on its axis, looked at but not yet removed from the stream.
#[derive(Debug, Clone)]
pub(super) struct Chain<'a> {
    pub(super) stream: Serial<'a>,
    /// The point, counted from the start of the part that is worked on. Meaningless until the strip has begun.
    pub(super) point: u64,
    /// Where its bucket begins; before the start if the point was looked at in an earlier part.
    pub(super) bucket: i64,
    /// The direction of the change there.
    pub(super) down: bool,
    /// The slot of the bucket that the point is made from.
    pub(super) slot: u32,
    /// The bits of the state that were looked at.
    pub(super) looked_at: u32,
    /// An element with a length was met.
    begun: bool,
}

impl<'a> Chain<'a> {
    pub(super) fn new(stream: Serial<'a>) -> Self {
        Self { stream, point: 0, bucket: 0, down: false, slot: 0, looked_at: 0, begun: false }
    }

    /// Looks at the first point, if the part is the first with elements that have a length.
    pub(super) fn begin(&mut self, end: u64, scale: u32) {
        if !self.begun && end > 0 {
            self.begun = true;
            self.look(0, scale);
        }
    }

    /// Leaves a part that ends at `end`: what follows is counted from there.
    pub(super) fn leave(&mut self, end: u64) {
        if self.begun {
            self.point -= end;
            self.bucket -= end.cast_signed();
        }
    }

    /// Looks at the next point, after `from`.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "a slot has at most 20 bits")]
    pub(super) fn look(&mut self, from: u32, scale: u32) {
        let ones = self.stream.state().trailing_ones();
        let (quotient, below) = if ones < QUOTIENT_ESCAPE {
            (ones, ones + 1)
        } else {
            self.stream.bits(QUOTIENT_ESCAPE);
            (QUOTIENT_ESCAPE + self.stream.bits(QUOTIENT_BITS), 0)
        };
        let bucket = u64::from(from) + (u64::from(quotient) << scale);
        let seen = self.stream.state() >> below;
        self.down = seen & 1 == 1;
        self.slot = (seen >> 1) as u32 & ((1 << slot_bits(scale)) - 1);
        self.point = bucket + u64::from(unit_at(self.slot, scale));
        self.bucket = bucket.cast_signed();
        self.looked_at = below + 1 + slot_bits(scale);
    }

    /// Removes the point from the stream: it lies in what spans `start..end`.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "neither is more than a bucket")]
    fn take(&mut self, start: i64, end: i64, scale: u32) {
        let start = slots_before((start - self.bucket).max(0) as u32, scale);
        let end = slots_before((end - self.bucket).min(1 << scale) as u32, scale);
        self.stream.consume(self.looked_at, end - start, self.slot.wrapping_sub(start));
    }

    /// Ends the axis where the last part ended, and gives the stream back.
    pub(super) fn finish(&mut self, scale: u32) -> Serial<'a> {
        if self.begun {
            // Beyond any bucket, and far from overflow.
            self.take(0, 1 << 62, scale);
        }
        self.stream
    }
}

/// Finds the changes of `N` strips in one part of each, all in `bytes`. `None` if one is no change of an element.
pub(super) fn run<T: Element, const N: usize>(
    level: Level,
    chains: &mut [Chain<'_>; N],
    look_up: LookUp<'_>,
    bytes: &[u8],
    parts: &[Part<'_>; N],
    patches: &mut Patches,
) -> Option<()> {
    match level.kind() {
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 | Kind::Avx512 if T::WIDTH == 2 => run_avx2(chains, look_up, bytes, parts, patches),
        #[cfg(target_arch = "aarch64")]
        Kind::Neon if T::WIDTH == 2 => run_neon(chains, look_up, bytes, parts, patches),
        _ => run_with::<T, N>(chains, look_up, parts, patches, kernels::find_group, |group, rest| {
            locate_in::<T>(look_up.lengths, bytes, group, rest)
        }),
    }
}

/// [`run_with`] for elements of two bytes, with the searches of a level and all that its instructions can do.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! run_at {
    ($name:ident, $kernels:ident, $features:literal) => {
        #[expect(unsafe_code, reason = "a call of what needs the instructions of the level")]
        fn $name<const N: usize>(
            chains: &mut [Chain<'_>; N],
            look_up: LookUp<'_>,
            bytes: &[u8],
            parts: &[Part<'_>; N],
            patches: &mut Patches,
        ) -> Option<()> {
            #[target_feature(enable = $features)]
            fn inner<const N: usize>(
                chains: &mut [Chain<'_>; N],
                look_up: LookUp<'_>,
                bytes: &[u8],
                parts: &[Part<'_>; N],
                patches: &mut Patches,
            ) -> Option<()> {
                let classes = kernels::$kernels::Classes::load(look_up.lengths);
                let (groups, _) = bytes.as_chunks::<{ kernels::$kernels::STEP }>();
                run_with::<u16, N>(
                    chains,
                    look_up,
                    parts,
                    patches,
                    |ends, from, point| kernels::$kernels::find_group(ends, from, point),
                    |group, rest| match groups.get(group) {
                        Some(whole) => kernels::$kernels::locate(&classes, look_up.lengths, whole, rest),
                        None => locate_in::<u16>(look_up.lengths, bytes, group, rest),
                    },
                )
            }
            // SAFETY: called at levels alone that have all these instructions.
            unsafe { inner(chains, look_up, bytes, parts, patches) }
        }
    };
}

#[cfg(target_arch = "x86_64")]
run_at!(run_avx2, avx2, "avx2,bmi1,bmi2,lzcnt,popcnt");
#[cfg(target_arch = "aarch64")]
run_at!(run_neon, neon, "neon");

/// What a chunk's changes are looked up in.
#[derive(Debug, Clone, Copy)]
pub(super) struct LookUp<'a> {
    pub(super) tables: &'a Tables,
    pub(super) lengths: &'a Lengths,
    pub(super) scale: u32,
}

/// [`run`], with the searches of a level.
///
/// The strips take turns, so that the latency of one is hidden behind the others.
#[inline(always)]
fn run_with<T: Element, const N: usize>(
    chains: &mut [Chain<'_>; N],
    look_up: LookUp<'_>,
    parts: &[Part<'_>; N],
    patches: &mut Patches,
    find_group: impl Fn(&[u32], usize, u32) -> usize,
    locate: impl Fn(usize, u32) -> Found,
) -> Option<()> {
    let LookUp { tables, lengths, scale } = look_up;
    let ends: [u64; N] = parts.map(|part| u64::from(part.end));
    let mut groups = [0; N];
    for (chain, &end) in chains.iter_mut().zip(&ends) {
        chain.begin(end, scale);
    }
    let mut working = true;
    while working {
        working = false;
        patches.make_room(N);
        for i in 0..N {
            let chain = &mut chains[i];
            if chain.point >= ends[i] {
                continue;
            }
            working = true;
            let part = parts[i];
            // Below the end of the part, so below 2^32.
            #[expect(clippy::cast_possible_truncation, reason = "see above")]
            let point = chain.point as u32;
            let (_, ends) = part.borders.split_first().unwrap_or((&0, &[]));
            let group = find_group(ends, groups[i], point);
            groups[i] = group;
            let start = part.borders.get(group).copied().unwrap_or(0);
            let found = locate(part.first + group, point.wrapping_sub(start));
            let start = start + found.before;
            let end = start + found.length;
            let down = chain.down;
            chain.take(i64::from(start), i64::from(end), scale);
            let old = T::from_u64(found.element);
            let new = chain.stream.cold(tables, lengths.key.find(old), old, down)?;
            patches.put(Patch::new((part.first + group) * GROUP + found.index, new));
            chain.look(end, scale);
        }
    }
    for (chain, &end) in chains.iter_mut().zip(&ends) {
        chain.leave(end);
    }
    Some(())
}

/// The element of a group, which need not be a whole one, that `rest` lies on.
#[inline(always)]
fn locate_in<T: Element>(lengths: &Lengths, bytes: &[u8], group: usize, rest: u32) -> Found {
    let from = bytes.get(group * GROUP * T::WIDTH..).unwrap_or_default();
    kernels::locate::<T>(lengths, from.get(..GROUP * T::WIDTH).unwrap_or(from), rest)
}
