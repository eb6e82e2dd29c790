//! The phases as functions that a level compiles with its instructions.

/// Defines the phases of this module for a vector, as functions with the instructions that it needs.
///
/// The steps are inlined into them; without these shells they would be compiled for any machine.
macro_rules! shells {
    ($vector:ident, $level:literal, $features:literal) => {
        use crate::kernels::Survey;
        use crate::sparse::bits::BitWriter;
        use crate::sparse::block::Block;
        use crate::sparse::cold::ColdChanges;
        use crate::sparse::lengths::Chance;
        use crate::sparse::rans::Steps;
        use crate::sparse::source::Source;
        use crate::sparse::symbols::Symbols;
        use crate::sparse::vector::{self, Scratch};

        /// [`vector::find_cold`].
        ///
        /// # Safety
        #[doc = concat!("The ", $level, " level must be there.")]
        #[target_feature(enable = $features)]
        pub(super) unsafe fn find_cold<const LANES: usize>(
            source: &mut Source<'_>,
            lengths: &Lengths,
            block: &[u8],
            survey: &Survey,
            scratch: &mut Scratch,
            changed: &mut Vec<u16>,
        ) -> Option<()> {
            // SAFETY: as the caller says.
            unsafe { vector::find_cold::<$vector, LANES>(source, lengths, block, survey, scratch, changed) }
        }

        /// [`vector::moves`].
        ///
        /// # Safety
        #[doc = concat!("The ", $level, " level must be there.")]
        #[target_feature(enable = $features)]
        pub(super) unsafe fn moves<const LANES: usize>(
            source: &mut Source<'_>,
            lengths: &Lengths,
            symbols: &Symbols,
            block: &mut [u8],
            positions: &[u16],
            scratch: &mut Scratch,
        ) -> Option<()> {
            // SAFETY: as the caller says.
            unsafe { vector::moves::<$vector, LANES>(source, lengths, symbols, block, positions, scratch) }
        }

        /// [`vector::dense`].
        ///
        /// # Safety
        #[doc = concat!("The ", $level, " level must be there.")]
        #[target_feature(enable = $features)]
        pub(super) unsafe fn dense<const N: usize, const LANES: usize>(
            source: &mut Source<'_>,
            lengths: &Lengths,
            symbols: &Symbols,
            block: &mut [u8],
        ) -> Option<()> {
            // SAFETY: as the caller says.
            unsafe { vector::dense::<$vector, N, LANES>(source, lengths, symbols, block) }
        }

        /// [`vector::find_changes`].
        ///
        /// # Safety
        #[doc = concat!("The ", $level, " level must be there.")]
        #[target_feature(enable = $features)]
        pub(super) unsafe fn find_changes(
            lengths: &Lengths,
            symbols: &Symbols,
            block: Block<'_>,
            survey: &mut Survey,
            changed: &[u16],
            cold: &mut ColdChanges,
        ) {
            // SAFETY: as the caller says.
            unsafe { vector::find_changes::<$vector>(lengths, symbols, block, survey, changed, cold) }
        }

        /// [`vector::put_flags`].
        ///
        /// # Safety
        #[doc = concat!("The ", $level, " level must be there.")]
        #[target_feature(enable = $features)]
        pub(super) unsafe fn put_flags(chance: Chance, sums: &[u16], changed: &[u16], steps: &mut Steps) {
            // SAFETY: as the caller says.
            unsafe { vector::put_flags::<$vector>(chance, sums, changed, steps) }
        }

        /// [`vector::put_moves`].
        ///
        /// # Safety
        #[doc = concat!("The ", $level, " level must be there.")]
        #[target_feature(enable = $features)]
        pub(super) unsafe fn put_moves<const N: usize, const LANES: usize>(
            lengths: &Lengths,
            symbols: &Symbols,
            values: [&[u16]; 2],
            count: usize,
            steps: &mut Steps,
            plain: &mut BitWriter,
        ) {
            // SAFETY: as the caller says.
            unsafe { vector::put_moves::<$vector, N, LANES>(lengths, symbols, values, count, steps, plain) }
        }
    };
}

pub(in crate::sparse) use shells;
