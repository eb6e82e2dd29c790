//! Where a chunk is rebuilt: in place, or beside its base.

use std::ops::Range;

use crate::kernels;
use crate::level::Level;
use crate::xxh3::Xxh3;

/// A chunk being rebuilt block by block, and its hash.
///
/// Beside the base, a block is patched and hashed in a buffer that stays in the cache, and then streamed to
/// the target.
#[derive(Debug)]
pub(crate) struct TargetBlocks<'a> {
    level: Level,
    base: Option<&'a [u8]>,
    target: &'a mut [u8],
    buffer: &'a mut Vec<u8>,
    hash: Option<Xxh3>,
}

impl<'a> TargetBlocks<'a> {
    /// `base`, if it is given, has the length of `target`; otherwise `target` holds the base. `buffer` is
    /// scratch memory.
    pub(crate) fn new(
        level: Level,
        base: Option<&'a [u8]>,
        target: &'a mut [u8],
        buffer: &'a mut Vec<u8>,
        hash: bool,
    ) -> Self {
        Self { level, base, target, buffer, hash: hash.then(|| Xxh3::new(level)) }
    }

    pub(crate) fn len(&self) -> usize {
        self.target.len()
    }

    /// A block of the base, to be turned into the target's.
    #[inline(always)]
    pub(super) fn begin(&mut self, range: Range<usize>) -> &mut [u8] {
        match self.base {
            Some(base) => {
                self.buffer.clear();
                self.buffer.extend_from_slice(base.get(range).unwrap_or_default());
                self.buffer
            }
            None => self.target.get_mut(range).unwrap_or_default(),
        }
    }

    /// Takes a finished block over.
    #[inline(always)]
    pub(super) fn end(&mut self, range: Range<usize>) {
        let total = self.target.len();
        let target = self.target.get_mut(range).unwrap_or_default();
        let block = if self.base.is_some() { &**self.buffer } else { &*target };
        if let Some(hash) = &mut self.hash {
            hash.blocks(block, total);
        }
        if self.base.is_some() {
            kernels::stream(self.level, self.buffer, target);
        }
    }

    /// The hash of the target, if it was asked for.
    pub(crate) fn finish(self) -> Option<u128> {
        self.hash.map(|hash| hash.finish(self.target))
    }
}
