//! Elements of a block.

use crate::element::{Element, Key};

use super::distance::Distance;

/// A block of the base and of the target.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block<'a> {
    pub(super) key: Key,
    pub(super) olds: &'a [u8],
    pub(super) news: &'a [u8],
}

impl Block<'_> {
    #[inline(always)]
    pub(super) fn old<T: Element>(&self, position: u16) -> T {
        element(self.olds, usize::from(position))
    }

    #[inline(always)]
    pub(super) fn distance<T: Element>(&self, position: u16) -> Distance {
        Distance::between(self.old::<T>(position), element(self.news, usize::from(position)))
    }
}

/// Element number `position`.
#[inline(always)]
pub(super) fn element<T: Element>(bytes: &[u8], position: usize) -> T {
    let at = position * T::WIDTH;
    bytes.get(at..at + T::WIDTH).map_or(T::from_u64(0), T::load)
}

#[inline(always)]
pub(super) fn store<T: Element>(bytes: &mut [u8], position: usize, value: T) {
    let at = position * T::WIDTH;
    if let Some(bytes) = bytes.get_mut(at..at + T::WIDTH) {
        value.store(bytes);
    }
}
