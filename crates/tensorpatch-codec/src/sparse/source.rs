//! What is read of a block: symbols of elements, and directions.

use crate::element::{Element, Key};

use super::block::{element, store};
use super::distance::moved;
use super::payload::Input;
use super::rans::{LEAST, Lanes, MAX_LANES};
use super::slots::Slots;
use super::symbols::{NEAR_BITS, SLOTS, SYMBOL_BITS, Symbols};

/// What is read from a payload.
#[derive(Debug)]
pub(super) struct Source<'a> {
    pub(super) lanes: Lanes,
    pub(super) input: Input<'a>,
}

impl Source<'_> {
    /// Reads a symbol for each element of `elements`, and moves it. `None` if one cannot be moved so.
    pub(super) fn symbols<T: Element>(
        &mut self,
        symbols: &Symbols,
        slots: &mut Slots,
        key: Key,
        elements: &mut [u8],
    ) -> Option<()> {
        let Self { lanes, input } = self;
        let mut of_row = [WithPlain::default(); MAX_LANES + 1];
        for row in elements.chunks_mut(lanes.count * T::WIDTH) {
            // Which symbols there are cannot be foreseen: so no branch depends on them.
            let mut with_plain = 0;
            let elements = row.chunks_exact_mut(T::WIDTH).zip(&mut lanes.states);
            for (index, (bytes, state)) in (0..).zip(elements) {
                let old = T::load(bytes);
                let slot = *state % SLOTS;
                let class = symbols.class(key.find(old));
                let step = slots.step(symbols, class, slot);
                let run = symbols.run(class, step);
                let moves = u32::from(step > 0);
                let place = slot.wrapping_sub(u32::from(run.start));
                *state = (*state >> SYMBOL_BITS)
                    .wrapping_mul(u32::from(run.slots) >> moves)
                    .wrapping_add(place >> moves);
                input.refill(state);
                let down = place & moves == 1;
                let distance = DISTANCES[usize::from(step) % DISTANCES.len()];
                moved(old, u64::from(distance), down).store(bytes);
                of_row[with_plain] = WithPlain { index, step, down };
                with_plain += usize::from(step > 2);
            }
            if with_plain > 0 {
                read_plain::<T>(row, &mut of_row[..with_plain], input)?;
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

/// The least distance of each near symbol, by its step; nothing for those that are not near.
const DISTANCES: [u8; 128] = {
    let mut distances = [0; 128];
    let mut bits = 0;
    while bits <= NEAR_BITS {
        distances[bits as usize + 1] = if bits == 0 { 1 } else { 1 + (1 << (bits - 1)) };
        bits += 1;
    }
    distances
};

/// An element of a row that has plain bits.
#[derive(Debug, Clone, Copy, Default)]
struct WithPlain {
    index: u8,
    step: u8,
    down: bool,
}

/// Reads the plain bits of a row, and moves its elements on. `None` if one cannot be moved so.
#[expect(clippy::cast_possible_truncation, reason = "32 elements, of at most 64 bits")]
fn read_plain<T: Element>(row: &mut [u8], of_row: &mut [WithPlain], input: &mut Input<'_>) -> Option<()> {
    let mut move_on = |of: WithPlain, distance: u64| {
        let old: T = element(row, usize::from(of.index));
        store(row, usize::from(of.index), moved(old, distance, of.down));
    };
    let mut far = [WithPlain::default(); MAX_LANES + 1];
    let (mut near_len, mut far_len) = (0, 0);
    for i in 0..of_row.len() {
        let of = of_row[i];
        let is_far = usize::from(u32::from(of.step) > NEAR_BITS + 1);
        (of_row[near_len], far[far_len]) = (of, of);
        near_len += 1 - is_far;
        far_len += is_far;
    }
    let mut bit = 0;
    while near_len > 0 {
        let mut plane = input.bits(near_len as u32);
        let mut left = 0;
        for i in 0..near_len {
            let of = of_row[i];
            move_on(of, u64::from(plane & 1) << bit);
            plane >>= 1;
            of_row[left] = of;
            left += usize::from(of.step > 3 + bit);
        }
        near_len = left;
        bit += 1;
    }
    for &of in &far[..far_len] {
        move_on(of, far_distance(u32::from(of.step) - 1, 8 * T::WIDTH as u32, input)?);
    }
    Some(())
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
