//! The loops over all elements of a chunk, each written once for every machine and again for those with wide
//! vectors.
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

/// What a block is like: the sum of the lengths of each group, and the hot elements.
#[derive(Debug, Clone, Default)]
pub(crate) struct Survey {
    sums: Vec<u16>,
    hot: Vec<u16>,
    hot_len: usize,
}

impl Survey {
    /// The sum of the lengths of each group.
    pub(crate) fn sums(&self) -> &[u16] {
        &self.sums
    }

    /// The hot elements.
    pub(crate) fn hot(&self) -> &[u16] {
        self.hot.get(..self.hot_len).unwrap_or_default()
    }

    /// Adds an element to the hot ones, or does not.
    #[inline(always)]
    pub(crate) fn push_hot_if(&mut self, element: u16, is_hot: bool) {
        if let Some(free) = self.hot.get_mut(self.hot_len) {
            *free = element;
            self.hot_len += usize::from(is_hot);
        }
    }

    /// Makes all elements of a block hot.
    #[expect(clippy::cast_possible_truncation, reason = "a block has at most 2^16 elements")]
    pub(crate) fn mark_all(&mut self, elements: usize) {
        self.sums.clear();
        self.hot.clear();
        self.hot.extend((0..elements).map(|element| element as u16));
        self.hot_len = elements;
    }
}

/// Surveys a block.
pub(crate) fn survey<T: Element>(level: Level, lengths: &Lengths, block: &[u8], survey: &mut Survey) {
    let elements = block.len() / T::WIDTH;
    survey.sums.resize(elements.div_ceil(GROUP), 0);
    survey.hot.resize(elements + SLACK, 0);
    let Survey { sums, hot, hot_len } = survey;
    *hot_len = match level.kind() {
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 if T::WIDTH == 2 => avx512::survey(lengths, block, sums, hot),
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 if T::WIDTH == 2 => avx2::survey(lengths, block, sums, hot),
        #[cfg(target_arch = "aarch64")]
        Kind::Neon if T::WIDTH == 2 => neon::survey(lengths, block, sums, hot),
        _ => portable::survey::<T>(lengths, block, sums, hot),
    };
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
