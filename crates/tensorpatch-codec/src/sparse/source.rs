//! What is read of a block: symbols of elements, and directions.

use crate::element::{Element, Key};

use super::block::{element, store};
use super::distance::moved;
use super::payload::Input;
use super::rans::{LEAST, Lanes, MAX_LANES};
use super::symbols::{NEAR_BITS, SYMBOL_BITS, Symbols};

/// What is read from a payload.
#[derive(Debug)]
pub(super) struct Source<'a> {
    pub(super) lanes: Lanes,
    pub(super) input: Input<'a>,
}

impl Source<'_> {
    /// Reads a symbol for each of the listed elements, and moves them. `None` if one cannot be moved so.
    #[expect(clippy::cast_possible_truncation, reason = "at most 64 bits")]
    pub(super) fn symbols<T: Element>(
        &mut self,
        symbols: &Symbols,
        key: Key,
        block: &mut [u8],
        positions: &[u16],
    ) -> Option<()> {
        let Self { lanes, input } = self;
        for row in positions.chunks(lanes.count) {
            let mut moves = [Move::default(); MAX_LANES];
            let mut planes = [0_u32; NEAR_BITS as usize];
            let mut far = 0_u32;
            for (lane, (found, &position)) in moves.iter_mut().zip(row).enumerate() {
                let slot = lanes.slot(lane, SYMBOL_BITS);
                let class = symbols.class(key.find(element::<T>(block, usize::from(position))));
                let symbol = symbols.at(class, slot);
                let (freq, offset) = (symbol.end - symbol.start, slot - symbol.start);
                if symbol.step == 0 {
                    lanes.take(lane, SYMBOL_BITS, freq, offset, input);
                    continue;
                }
                lanes.take(lane, SYMBOL_BITS, freq / 2, offset / 2, input);
                let bits = symbol.step - 1;
                *found = Move { bits, down: offset % 2 == 1, distance: 1 };
                if bits > NEAR_BITS {
                    far |= 1 << lane;
                } else if bits > 0 {
                    found.distance = 1 + (1 << (bits - 1));
                    planes.iter_mut().take(bits as usize - 1).for_each(|plane| *plane |= 1 << lane);
                }
            }
            for (bit, mut plane) in planes.into_iter().enumerate().take_while(|&(_, plane)| plane != 0) {
                let mut bits = input.bits(plane.count_ones());
                while plane != 0 {
                    moves[plane.trailing_zeros() as usize % MAX_LANES].distance += u64::from(bits & 1) << bit;
                    bits >>= 1;
                    plane &= plane - 1;
                }
            }
            while far != 0 {
                let found = &mut moves[far.trailing_zeros() as usize % MAX_LANES];
                found.distance = far_distance(found.bits, 8 * T::WIDTH as u32, input)?;
                far &= far - 1;
            }
            for (found, &position) in moves.iter().zip(row) {
                let position = usize::from(position);
                let old: T = element(block, position);
                store(block, position, moved(old, found.distance, found.down));
            }
        }
        Some(())
    }

    /// Moves the listed elements by one unit each. Of the last block the first directions are left over in
    /// the states. `None` if more is left over there.
    #[expect(clippy::cast_possible_truncation, reason = "at most 32 directions")]
    pub(super) fn directions<T: Element>(
        &mut self,
        block: &mut [u8],
        positions: &[u16],
        is_last: bool,
    ) -> Option<()> {
        let mut move_all = |positions: &[u16], mut down: u32| {
            for &position in positions {
                let position = usize::from(position);
                store(block, position, moved(element::<T>(block, position), 1, down & 1 == 1));
                down >>= 1;
            }
            down == 0
        };
        let mut positions = positions;
        if is_last {
            for state in self.lanes.states.iter().take(self.lanes.count) {
                let down = state.checked_sub(LEAST)?;
                let of_state = positions.split_off(..positions.len().min(16)).unwrap_or_default();
                if !move_all(of_state, down) {
                    return None;
                }
            }
        }
        for positions in positions.chunks(32) {
            move_all(positions, self.input.bits(positions.len() as u32));
        }
        Some(())
    }
}

/// How an element moves; it stays where it is if the distance is 0.
#[derive(Debug, Clone, Copy, Default)]
struct Move {
    bits: u32,
    down: bool,
    distance: u64,
}

/// Reads a distance of so many bits beyond one unit, or after an escape, of elements of `width` bits. `None`
/// if it has more.
#[cold]
pub(super) fn far_distance(bits: u32, width: u32, input: &mut Input<'_>) -> Option<u64> {
    let bits = if bits >= width { input.bits(6) } else { bits };
    if bits >= width {
        return None;
    }
    let Some(below) = bits.checked_sub(1) else { return Some(1) };
    Some((1 << below | input.wide_bits(below)).wrapping_add(1))
}
