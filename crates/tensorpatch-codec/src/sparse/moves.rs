//! How elements move, as it is written: symbols and their plain bits.

use crate::bits::low_bits;
use crate::element::Element;

use super::bits::BitWriter;
use super::block::Block;
use super::distance::Distance;
use super::rans::{EVERY_SECOND, MAX_LANES, Steps};
use super::symbols::{NEAR_BITS, Symbols};

/// Puts the symbols of the listed elements, and the plain bits that they call for.
pub(super) fn put_moves<T: Element>(
    lanes: usize,
    symbols: &Symbols,
    block: Block<'_>,
    positions: &[u16],
    steps: &mut Steps,
    plain: &mut BitWriter,
) {
    for row in positions.chunks(lanes) {
        let mut planes = [(0_u32, 0_u32); NEAR_BITS as usize];
        let mut far = [Distance::NONE; MAX_LANES];
        let mut any_far = false;
        for (&position, far) in row.iter().zip(&mut far) {
            let class = symbols.class(block.key.find(block.old::<T>(position)));
            let distance = block.distance::<T>(position);
            if distance.is_none() {
                steps.push(0, symbols.unchanged(class).end);
                continue;
            }
            let symbol = symbols.moved(class, distance.bits());
            let start = symbol.start + u32::from(distance.down) + u32::from(EVERY_SECOND);
            steps.push(start, (symbol.end - symbol.start) / 2);
            if symbol.step > NEAR_BITS + 1 {
                *far = distance;
                any_far = true;
            } else {
                let below = distance.bits().saturating_sub(1) as usize;
                for (bit, (len, value)) in planes.iter_mut().enumerate().take(below) {
                    *value |= (distance.beyond >> bit & 1) as u32 * (1 << *len);
                    *len += 1;
                }
            }
        }
        planes.iter().for_each(|&(len, value)| plain.put(value, len));
        if any_far {
            for (&position, distance) in row.iter().zip(&far).filter(|(_, distance)| !distance.is_none()) {
                let class = symbols.class(block.key.find(block.old::<T>(position)));
                put_far(symbols, class, *distance, plain);
            }
        }
    }
}

/// Puts the plain bits of a symbol that is not near.
#[cold]
pub(super) fn put_far(symbols: &Symbols, class: usize, distance: Distance, plain: &mut BitWriter) {
    if symbols.is_escape(symbols.moved(class, distance.bits())) {
        plain.put(distance.bits(), 6);
    }
    let below = distance.bits().saturating_sub(1);
    plain.put_wide(distance.beyond & low_bits(below), below);
}
