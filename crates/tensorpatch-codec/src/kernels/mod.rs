//! The loops over all elements of a chunk, each written once for every machine and again for those with wide vectors.
//!
//! They work on blocks of 32 KiB, which stay in the nearest cache from one kernel to the next.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
mod marks;
mod portable;

pub(crate) use marks::Marks;

use crate::element::Element;
use crate::level::{Kind, Level};
use crate::sparse::Lengths;

/// Bytes of a block.
pub(crate) const BLOCK_BYTES: usize = 65_536;
/// Elements whose lengths are summed up together.
pub(crate) const GROUP: usize = 32;
/// Room that a kernel needs behind the marks it makes.
pub(crate) const SLACK: usize = 32;

/// The greatest of all numbers stands so often behind the ends of groups, for searches that look at many at once.
pub(crate) const PADDING: usize = 32;

/// Marks the elements of a block that differ, and returns how many do.
pub(crate) fn changed<T: Element>(level: Level, base: &[u8], target: &[u8], marks: &mut [u16]) -> usize {
    match level.kind() {
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 if T::WIDTH == 2 => avx512::changed(base, target, marks),
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 if T::WIDTH == 2 => avx2::changed(base, target, marks),
        _ => portable::changed::<T>(base, target, marks),
    }
}

/// Marks the elements of a whole chunk that differ.
pub(crate) fn mark_changed<T: Element>(level: Level, base: &[u8], target: &[u8], marks: &mut Marks) {
    marks.reset(base.len() / T::WIDTH);
    for (olds, news) in base.chunks(BLOCK_BYTES).zip(target.chunks(BLOCK_BYTES)) {
        marks.block(|free| changed::<T>(level, olds, news, free));
    }
}

/// Sums up the lengths of each group of a block, marks the hot elements, and returns how many there are.
pub(crate) fn survey<T: Element>(
    level: Level,
    lengths: &Lengths,
    block: &[u8],
    sums: &mut [u16],
    marks: &mut [u16],
) -> usize {
    match level.kind() {
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 if T::WIDTH == 2 => avx512::survey(lengths, block, sums, marks),
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 if T::WIDTH == 2 => avx2::survey(lengths, block, sums, marks),
        _ => portable::survey::<T>(lengths, block, sums, marks),
    }
}

/// Copies a block past the caches: it will not be read again soon.
pub(crate) fn stream(level: Level, block: &[u8], target: &mut [u8]) {
    match level.kind() {
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => avx512::stream(block, target),
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => avx2::stream(block, target),
        Kind::Portable => target.copy_from_slice(block),
    }
}

/// An element of a group: its place, the lengths before it, and its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) index: usize,
    pub(crate) before: u32,
    pub(crate) length: u32,
    /// Its bits.
    pub(crate) element: u64,
}

pub(crate) use portable::{before, find_group, locate};
