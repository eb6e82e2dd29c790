//! The loops over all elements of a chunk, each written once for every machine and again for those with wide vectors.
//!
//! They work on blocks of 64 KiB, which stay in the caches of a core from one kernel to the next.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
mod marks;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
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
        #[cfg(target_arch = "aarch64")]
        Kind::Neon if T::WIDTH == 2 => neon::changed(base, target, marks),
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
        #[cfg(target_arch = "aarch64")]
        Kind::Neon if T::WIDTH == 2 => neon::survey(lengths, block, sums, marks),
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
        _ => target.copy_from_slice(block),
    }
}

/// Calls for the lines of memory that begin in `len` bytes from `start` on, ahead of their use. Nothing need be there.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(crate) fn call_for(start: *const u8, len: usize) {
    for line in (0..len).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        #[expect(unsafe_code, reason = "an instruction of every such machine")]
        // SAFETY: a prefetch may point anywhere.
        unsafe {
            _mm_prefetch::<_MM_HINT_T1>(start.wrapping_add(line).cast());
        }
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
