//! The phases of a block at the levels that have wide vectors, for elements of two bytes.
#![expect(unsafe_code, reason = "calls of what needs the instructions of a level")]

use crate::element::Element;
use crate::kernels::Survey;
use crate::level::{Kind, Level};

use super::bits::BitWriter;
use super::block::Block;
use super::cold::ColdChanges;
use super::lengths::{Chance, Lengths};
use super::rans::{MAX_LANES, States, Steps};
use super::source::Source;
use super::symbols::Symbols;
use super::vector;
use super::{avx2, avx512};

pub(super) use vector::Scratch;

/// That the instructions of a level are there, elements have two bytes, and there are lanes enough for a
/// vector.
#[derive(Debug, Clone, Copy)]
pub(super) struct Simd {
    is_avx512: bool,
    lanes: usize,
}

impl Simd {
    /// For what does not go by lanes.
    pub(super) fn of_level<T: Element>(level: Level) -> Option<Self> {
        Self::new::<T>(level, MAX_LANES)
    }

    pub(super) fn new<T: Element>(level: Level, lanes: usize) -> Option<Self> {
        let is_avx512 = match level.kind() {
            Kind::Avx512 => true,
            Kind::Avx2 => false,
            Kind::Portable => return None,
        };
        (T::WIDTH == 2 && lanes >= 8).then_some(Self { is_avx512, lanes })
    }

    /// Lists the cold elements of a block that change. `None` if a place is beyond its group.
    pub(super) fn find_cold(
        self,
        source: &mut Source<'_>,
        lengths: &Lengths,
        block: &[u8],
        survey: &Survey,
        scratch: &mut Scratch,
        changed: &mut Vec<u16>,
    ) -> Option<()> {
        // SAFETY: a value exists only where the instructions do.
        unsafe {
            match (self.is_avx512, self.lanes) {
                (true, 8) => avx512::find_cold::<8>(source, lengths, block, survey, scratch, changed),
                (true, _) => avx512::find_cold::<16>(source, lengths, block, survey, scratch, changed),
                (false, 8) => avx2::find_cold::<8>(source, lengths, block, survey, scratch, changed),
                (false, _) => avx2::find_cold::<16>(source, lengths, block, survey, scratch, changed),
            }
        }
    }

    /// Reads the symbols of the listed elements, and moves them. `None` if one cannot be moved so.
    pub(super) fn moves(
        self,
        source: &mut Source<'_>,
        lengths: &Lengths,
        symbols: &Symbols,
        block: &mut [u8],
        positions: &[u16],
        scratch: &mut Scratch,
    ) -> Option<()> {
        // SAFETY: as above.
        unsafe {
            match (self.is_avx512, self.lanes) {
                (true, 8) => avx512::moves::<8>(source, lengths, symbols, block, positions, scratch),
                (true, _) => avx512::moves::<16>(source, lengths, symbols, block, positions, scratch),
                (false, 8) => avx2::moves::<8>(source, lengths, symbols, block, positions, scratch),
                (false, _) => avx2::moves::<16>(source, lengths, symbols, block, positions, scratch),
            }
        }
    }

    /// Reads a symbol for each element of a block, and moves them. `None` if one cannot be moved so.
    pub(super) fn dense(
        self,
        source: &mut Source<'_>,
        lengths: &Lengths,
        symbols: &Symbols,
        block: &mut [u8],
    ) -> Option<()> {
        // SAFETY: as above.
        unsafe {
            match (self.is_avx512, self.lanes) {
                (true, 8) => avx512::dense::<1, 8>(source, lengths, symbols, block),
                (true, 16) => avx512::dense::<1, 16>(source, lengths, symbols, block),
                (true, _) => avx512::dense::<2, 32>(source, lengths, symbols, block),
                (false, 8) => avx2::dense::<1, 8>(source, lengths, symbols, block),
                (false, 16) => avx2::dense::<1, 16>(source, lengths, symbols, block),
                (false, _) => avx2::dense::<2, 32>(source, lengths, symbols, block),
            }
        }
    }

    /// [`ColdChanges::find`].
    pub(super) fn find_changes(
        self,
        lengths: &Lengths,
        symbols: &Symbols,
        block: Block<'_>,
        survey: &mut Survey,
        changed: &[u16],
        cold: &mut ColdChanges,
    ) {
        // SAFETY: as above.
        unsafe {
            if self.is_avx512 {
                avx512::find_changes(lengths, symbols, block, survey, changed, cold);
            } else {
                avx2::find_changes(lengths, symbols, block, survey, changed, cold);
            }
        }
    }

    /// Puts for each group whether something changes in it.
    pub(super) fn put_flags(self, chance: Chance, sums: &[u16], changed: &[u16], steps: &mut Steps) {
        // SAFETY: as above.
        unsafe {
            if self.is_avx512 {
                avx512::put_flags(chance, sums, changed, steps);
            } else {
                avx2::put_flags(chance, sums, changed, steps);
            }
        }
    }

    /// Puts the symbols of the listed elements, and the plain bits that they call for.
    #[expect(clippy::too_many_arguments, reason = "what symbols are put with, and where")]
    pub(super) fn put_moves(
        self,
        lengths: &Lengths,
        symbols: &Symbols,
        block: Block<'_>,
        positions: &[u16],
        values: &mut [Vec<u16>; 2],
        steps: &mut Steps,
        plain: &mut BitWriter,
    ) {
        for (values, bytes) in values.iter_mut().zip([block.olds, block.news]) {
            let (elements, _) = bytes.as_chunks::<2>();
            values.clear();
            values.extend(
                positions.iter().map(|&position| u16::from_le_bytes(elements[usize::from(position)])),
            );
        }
        self.put_values(lengths, symbols, values, steps, plain);
    }

    /// The same of all elements of a block.
    pub(super) fn put_dense(
        self,
        lengths: &Lengths,
        symbols: &Symbols,
        block: Block<'_>,
        values: &mut [Vec<u16>; 2],
        steps: &mut Steps,
        plain: &mut BitWriter,
    ) {
        for (values, bytes) in values.iter_mut().zip([block.olds, block.news]) {
            values.clear();
            values.extend(bytes.as_chunks::<2>().0.iter().map(|element| u16::from_le_bytes(*element)));
        }
        self.put_values(lengths, symbols, values, steps, plain);
    }

    /// Puts the symbols that take elements from old to new values, and the plain bits that they call for.
    fn put_values(
        self,
        lengths: &Lengths,
        symbols: &Symbols,
        values: &mut [Vec<u16>; 2],
        steps: &mut Steps,
        plain: &mut BitWriter,
    ) {
        let count = values[0].len();
        values.iter_mut().for_each(|values| values.resize(count + vector::WIDTH * 2, 0));
        let values = values.each_ref().map(Vec::as_slice);
        // SAFETY: as above.
        unsafe {
            match (self.is_avx512, self.lanes) {
                (true, 8) => avx512::put_moves::<1, 8>(lengths, symbols, values, count, steps, plain),
                (true, 16) => avx512::put_moves::<1, 16>(lengths, symbols, values, count, steps, plain),
                (true, _) => avx512::put_moves::<2, 32>(lengths, symbols, values, count, steps, plain),
                (false, 8) => avx2::put_moves::<1, 8>(lengths, symbols, values, count, steps, plain),
                (false, 16) => avx2::put_moves::<1, 16>(lengths, symbols, values, count, steps, plain),
                (false, _) => avx2::put_moves::<2, 32>(lengths, symbols, values, count, steps, plain),
            }
        }
    }

    /// Puts the symbols of a phase, of `2^bits` slots, before what `words` ends with: returns where the words
    /// begin then.
    pub(super) fn put(
        self,
        states: &mut States,
        starts: &[u16],
        freqs: &[u16],
        bits: u32,
        words: &mut [u16],
    ) -> usize {
        // SAFETY: as above.
        unsafe {
            if self.is_avx512 {
                avx512::put(states, self.lanes, starts, freqs, bits, words)
            } else {
                avx2::put(states, self.lanes, starts, freqs, bits, words)
            }
        }
    }
}
