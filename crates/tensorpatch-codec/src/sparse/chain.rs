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
    /// More than are there, so that whether one is kept takes no branch.
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

    /// Appends a patch, if it is to be kept. There must be room.
    #[inline(always)]
    pub(super) fn put(&mut self, patch: Patch, keep: bool) {
        if let Some(place) = self.items.get_mut(self.len) {
            *place = patch;
            self.len += usize::from(keep);
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
    stream: Serial<'a>,
    /// The point, counted from the start of the part that is worked on. Meaningless until the strip has begun.
    point: u64,
    /// Where its bucket begins; before the start if the point was looked at in an earlier part.
    bucket: i64,
    /// The direction of the change there.
    down: bool,
    /// The slot of the bucket that the point is made from.
    slot: u32,
    /// The bits of the state that were looked at.
    looked_at: u32,
    /// An element with a length was met.
    begun: bool,
}

impl<'a> Chain<'a> {
    pub(super) fn new(stream: Serial<'a>) -> Self {
        Self { stream, point: 0, bucket: 0, down: false, slot: 0, looked_at: 0, begun: false }
    }

    /// Looks at the next point, after `from`.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "a slot has at most 20 bits")]
    fn look(&mut self, works: bool, from: u32, scale: u32) {
        let ones = self.stream.state().trailing_ones();
        let (quotient, below) = if ones < QUOTIENT_ESCAPE || !works {
            (ones, ones + 1)
        } else {
            self.stream.bits(QUOTIENT_ESCAPE);
            (QUOTIENT_ESCAPE + self.stream.bits(QUOTIENT_BITS), 0)
        };
        let bucket = u64::from(from) + (u64::from(quotient) << scale);
        let seen = self.stream.state().unbounded_shr(below);
        let slot = (seen >> 1) as u32 & ((1 << slot_bits(scale)) - 1);
        let point = bucket + u64::from(unit_at(slot, scale));
        self.down = if works { seen & 1 == 1 } else { self.down };
        self.slot = if works { slot } else { self.slot };
        self.point = if works { point } else { self.point };
        self.bucket = if works { bucket.cast_signed() } else { self.bucket };
        self.looked_at = if works { below + 1 + slot_bits(scale) } else { self.looked_at };
    }

    /// Removes the point from the stream: it lies in what spans `start..end`.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "neither is more than a bucket")]
    fn take(&mut self, works: bool, start: i64, end: i64, scale: u32) {
        // Both lie in the bucket; the bounds matter for a chain that does not work, too.
        let within = |at: i64| slots_before((at - self.bucket).clamp(0, 1 << scale) as u32, scale);
        let (start, end) = (within(start), within(end));
        let (total, freq, offset) = if works {
            (self.looked_at, end.wrapping_sub(start), self.slot.wrapping_sub(start))
        } else {
            (0, 1, 0)
        };
        self.stream.consume_if(works, total, freq, offset);
    }

    /// Ends the axis where the last part ended, and gives the stream back.
    pub(super) fn finish(&mut self, scale: u32) -> Serial<'a> {
        if self.begun {
            // Beyond any bucket, and far from overflow.
            self.take(true, 0, 1 << 62, scale);
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
        Kind::Avx512 if T::WIDTH == 2 => run_avx512(chains, look_up, bytes, parts, patches),
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 if T::WIDTH == 2 => run_avx2(chains, look_up, bytes, parts, patches),
        _ => run_with::<T, N>(chains, look_up, parts, patches, kernels::find_group, |group, rest| {
            locate_in::<T>(look_up.lengths, bytes, group, rest)
        }),
    }
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "a call of what needs the instructions of the level")]
fn run_avx512<const N: usize>(
    chains: &mut [Chain<'_>; N],
    look_up: LookUp<'_>,
    bytes: &[u8],
    parts: &[Part<'_>; N],
    patches: &mut Patches,
) -> Option<()> {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,bmi1,bmi2,lzcnt,popcnt")]
    fn inner<const N: usize>(
        chains: &mut [Chain<'_>; N],
        look_up: LookUp<'_>,
        bytes: &[u8],
        parts: &[Part<'_>; N],
        patches: &mut Patches,
    ) -> Option<()> {
        let classes = kernels::avx512::Classes::load(look_up.lengths);
        let (groups, _) = bytes.as_chunks::<{ kernels::avx512::STEP }>();
        run_with::<u16, N>(
            chains,
            look_up,
            parts,
            patches,
            |ends, from, point| kernels::avx512::find_group(ends, from, point),
            |group, rest| match groups.get(group) {
                Some(whole) => kernels::avx512::locate(&classes, look_up.lengths, whole, rest),
                None => locate_in::<u16>(look_up.lengths, bytes, group, rest),
            },
        )
    }
    // SAFETY: called at the AVX-512 level alone, which has all these instructions.
    unsafe { inner(chains, look_up, bytes, parts, patches) }
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "a call of what needs the instructions of the level")]
fn run_avx2<const N: usize>(
    chains: &mut [Chain<'_>; N],
    look_up: LookUp<'_>,
    bytes: &[u8],
    parts: &[Part<'_>; N],
    patches: &mut Patches,
) -> Option<()> {
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    fn inner<const N: usize>(
        chains: &mut [Chain<'_>; N],
        look_up: LookUp<'_>,
        bytes: &[u8],
        parts: &[Part<'_>; N],
        patches: &mut Patches,
    ) -> Option<()> {
        let classes = kernels::avx2::Classes::load(look_up.lengths);
        let (groups, _) = bytes.as_chunks::<{ kernels::avx2::STEP }>();
        run_with::<u16, N>(
            chains,
            look_up,
            parts,
            patches,
            |ends, from, point| kernels::avx2::find_group(ends, from, point),
            |group, rest| match groups.get(group) {
                Some(whole) => kernels::avx2::locate(&classes, look_up.lengths, whole, rest),
                None => locate_in::<u16>(look_up.lengths, bytes, group, rest),
            },
        )
    }
    // SAFETY: called at the AVX2 level alone, which has all these instructions.
    unsafe { inner(chains, look_up, bytes, parts, patches) }
}

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
        if !chain.begun && end > 0 {
            chain.begun = true;
            chain.look(true, 0, scale);
        }
    }
    // Each round takes one step in every chain, a part of the step at a time: so the processor finds the parts of all chains side
    // by side, where a chain's whole step would fill its window. A chain at its end takes steps that change nothing.
    loop {
        let working: [bool; N] = std::array::from_fn(|i| chains[i].point < ends[i]);
        if working == [false; N] {
            break;
        }
        patches.make_room(N);
        let mut rests = [0; N];
        let mut starts = [0; N];
        for i in 0..N {
            // Below the end of the part if the chain works, so below 2^32.
            #[expect(clippy::cast_possible_truncation, reason = "see above")]
            let point = chains[i].point as u32;
            let (_, ends) = parts[i].borders.split_first().unwrap_or((&0, &[]));
            let group = find_group(ends, groups[i], point);
            groups[i] = if working[i] { group } else { groups[i] };
            starts[i] = parts[i].borders.get(groups[i]).copied().unwrap_or(0);
            rests[i] = point.wrapping_sub(starts[i]);
        }
        let found: [Found; N] = std::array::from_fn(|i| locate(parts[i].first + groups[i], rests[i]));
        let mut downs = [false; N];
        let mut stops = [0; N];
        for i in 0..N {
            let start = starts[i] + found[i].before;
            stops[i] = start + found[i].length;
            downs[i] = chains[i].down;
            chains[i].take(working[i], i64::from(start), i64::from(stops[i]), scale);
        }
        for i in 0..N {
            let old = T::from_u64(found[i].element);
            let key = lengths.key.find(old);
            let new = chains[i].stream.cold(working[i], tables, key, old, downs[i])?;
            let position = (parts[i].first + groups[i]) * GROUP + found[i].index;
            patches.put(Patch::new(position, new), working[i]);
        }
        for i in 0..N {
            chains[i].look(working[i], stops[i], scale);
        }
    }
    for (chain, &end) in chains.iter_mut().zip(&ends) {
        if chain.begun {
            chain.point -= end;
            chain.bucket -= end.cast_signed();
        }
    }
    Some(())
}

/// The element of a group, which need not be a whole one, that `rest` lies on.
#[inline(always)]
fn locate_in<T: Element>(lengths: &Lengths, bytes: &[u8], group: usize, rest: u32) -> Found {
    let from = bytes.get(group * GROUP * T::WIDTH..).unwrap_or_default();
    kernels::locate::<T>(lengths, from.get(..GROUP * T::WIDTH).unwrap_or(from), rest)
}
