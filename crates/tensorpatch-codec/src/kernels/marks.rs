//! Lists of element numbers, block by block.

use super::{BLOCK_BYTES, SLACK};

/// Some elements of a chunk: for each of its blocks the numbers within the block, ascending.
#[derive(Debug, Clone, Default)]
pub(crate) struct Marks {
    items: Vec<u16>,
    ends: Vec<usize>,
}

impl Marks {
    /// Forgets everything and makes room for a chunk of so many elements.
    pub(crate) fn reset(&mut self, elements: usize) {
        self.ends.clear();
        if self.items.len() < elements + SLACK {
            self.items = vec![0; elements + SLACK];
        }
    }

    /// Adds a block: `mark` fills the front of what it is given, and says how much.
    pub(crate) fn block(&mut self, mark: impl FnOnce(&mut [u16]) -> usize) -> usize {
        let start = self.len();
        let marked = self.items.get_mut(start..).map_or(0, mark);
        self.ends.push(start + marked);
        marked
    }

    /// How many elements are marked.
    pub(crate) fn len(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// The marks of the block that was added last.
    pub(crate) fn last_block(&self) -> &[u16] {
        let start =
            self.ends.len().checked_sub(2).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        self.items.get(start..self.len()).unwrap_or_default()
    }

    /// The marks of each block.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = &[u16]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| self.items.get(start..end).unwrap_or_default())
    }

    /// The numbers within the chunk, for elements of `width` bytes.
    pub(crate) fn positions(&self, width: usize) -> impl Iterator<Item = usize> {
        (0..).zip(self.blocks()).flat_map(move |(block, marks)| {
            marks.iter().map(move |&mark| block * (BLOCK_BYTES / width) + usize::from(mark))
        })
    }
}

/// Adds the elements of a group whose bits are set in `mask`, for machines that cannot compress a register.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "a block has at most 2^16 elements")]
pub(super) fn push_bits(marks: &mut [u16], len: &mut usize, first: usize, mut mask: u32) {
    while mask != 0 {
        if let Some(free) = marks.get_mut(*len) {
            *free = (first + mask.trailing_zeros() as usize) as u16;
            *len += 1;
        }
        mask &= mask - 1;
    }
}
