//! The places of cold changes on the axes of their strips.

use crate::element::Element;
use crate::kernels::{self, Found, GROUP};
use crate::level::{Kind, Level};

use super::decode::element;
use super::distance::{Distance, SymbolTables};
use super::layout::{self, STRIPS};
use super::plan::Lengths;
use super::stream::Step;

/// What the place of a cold change is found with.
pub(super) struct Places<'a> {
    pub(super) lengths: &'a Lengths,
    pub(super) scale: u32,
    /// Where each group of the block starts on the axis of its strip.
    pub(super) starts: &'a [u32],
    pub(super) symbols: &'a SymbolTables,
    pub(super) per_strip: usize,
    pub(super) strips: usize,
}

/// A block of base and target, and its cold changes.
#[derive(Clone, Copy)]
pub(super) struct Block<'a> {
    pub(super) olds: &'a [u8],
    pub(super) news: &'a [u8],
    pub(super) cold: &'a [u16],
}

/// [`Places::push_with`] for elements of two bytes, with the search of a level and all that its instructions can do.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! push_at {
    ($name:ident, $kernels:ident, $features:literal) => {
        #[expect(unsafe_code, reason = "a call of what needs the instructions of the level")]
        fn $name(&self, block: Block<'_>, steps: &mut [Vec<Step>; STRIPS], ends: &mut [(u32, u32); STRIPS]) {
            #[target_feature(enable = $features)]
            fn inner(
                places: &Places<'_>,
                block: Block<'_>,
                steps: &mut [Vec<Step>; STRIPS],
                ends: &mut [(u32, u32); STRIPS],
            ) {
                let classes = kernels::$kernels::Classes::load(places.lengths);
                places.push_with::<u16>(block, steps, ends, |group, index| {
                    kernels::$kernels::before(&classes, places.lengths, group, index)
                });
            }
            // SAFETY: called at levels alone that have all these instructions.
            unsafe { inner(self, block, steps, ends) }
        }
    };
}

impl Places<'_> {
    /// Appends the steps of the cold changes of a block to those of their strips, and moves on where the last ones end.
    pub(super) fn push<T: Element>(
        &self,
        level: Level,
        block: Block<'_>,
        steps: &mut [Vec<Step>; STRIPS],
        ends: &mut [(u32, u32); STRIPS],
    ) {
        match level.kind() {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 if T::WIDTH == 2 => self.push_avx512(block, steps, ends),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 if T::WIDTH == 2 => self.push_avx2(block, steps, ends),
            #[cfg(target_arch = "aarch64")]
            Kind::Neon if T::WIDTH == 2 => self.push_neon(block, steps, ends),
            _ => self.push_with::<T>(block, steps, ends, |group, index| {
                kernels::before::<T>(self.lengths, group, index)
            }),
        }
    }

    #[cfg(target_arch = "x86_64")]
    push_at!(push_avx512, avx512, "avx512f,avx512bw,avx512vl,bmi1,bmi2,lzcnt,popcnt");
    #[cfg(target_arch = "x86_64")]
    push_at!(push_avx2, avx2, "avx2,bmi1,bmi2,lzcnt,popcnt");
    #[cfg(target_arch = "aarch64")]
    push_at!(push_neon, neon, "neon");

    #[inline(always)]
    fn push_with<T: Element>(
        &self,
        block: Block<'_>,
        steps: &mut [Vec<Step>; STRIPS],
        ends: &mut [(u32, u32); STRIPS],
        before: impl Fn(&[u8], usize) -> Found,
    ) {
        for &position in block.cold {
            let position = usize::from(position);
            let (group, index) = (position / GROUP, position % GROUP);
            let strip = group / self.per_strip % self.strips;
            let rest = block.olds.get(group * GROUP * T::WIDTH..).unwrap_or_default();
            let found = before(rest.get(..GROUP * T::WIDTH).unwrap_or(rest), index);
            let start = self.starts[group] + found.before;
            let steps = &mut steps[strip];
            let (_, end) = &mut ends[strip];
            let old: T = element(block.olds, position);
            let distance = Distance::between(old, element(block.news, position));
            layout::push_place(start - *end, found.length, distance.is_down(), self.scale, steps);
            *end = start + found.length;
            self.symbols.push_cold(self.symbols.class(self.lengths.key.find(old)), distance, steps);
        }
    }
}
