//! How elements move, as it is written: symbols and their plain bits.

use crate::bits::low_bits;
use crate::element::Element;

use super::bits::BitWriter;
use super::block::Block;
use super::distance::Distance;
use super::rans::{EVERY_SECOND, MAX_LANES, Steps};
use super::symbols::{NEAR_BITS, Symbols};

/// Puts the symbols of the listed elements, and the plain bits that they call for.
#[expect(clippy::cast_possible_truncation, reason = "numbers of slots")]
pub(super) fn put_moves<T: Element>(
    lanes: usize,
    symbols: &Symbols,
    block: Block<'_>,
    positions: &[u16],
    steps: &mut Steps,
    plain: &mut BitWriter,
) {
    let mut of_row = [WithPlain::default(); MAX_LANES + 1];
    for row in positions.chunks(lanes) {
        let (mut starts, mut freqs) = ([0; MAX_LANES], [0; MAX_LANES]);
        // Which elements change cannot be foreseen: so no branch depends on it.
        let mut with_plain = 0;
        for (&position, (start, freq)) in row.iter().zip(starts.iter_mut().zip(&mut freqs)) {
            let class = symbols.class(block.key.find(block.old::<T>(position)));
            let distance = block.distance::<T>(position);
            let symbol = if distance.is_none() {
                symbols.unchanged(class)
            } else {
                symbols.moved(class, distance.bits())
            };
            let moves = u32::from(!distance.is_none());
            *start = (symbol.start + moves * (u32::from(distance.down) + u32::from(EVERY_SECOND))) as u16;
            *freq = ((symbol.end - symbol.start) >> moves) as u16;
            of_row[with_plain] = WithPlain { distance, class, step: symbol.step };
            with_plain += usize::from(symbol.step > 2);
        }
        steps.starts.extend_from_slice(&starts[..row.len()]);
        steps.freqs.extend_from_slice(&freqs[..row.len()]);
        if with_plain > 0 {
            put_plain(symbols, &mut of_row[..with_plain], plain);
        }
    }
}

/// An element of a row that has plain bits.
#[derive(Debug, Clone, Copy)]
struct WithPlain {
    distance: Distance,
    class: usize,
    step: u32,
}

impl Default for WithPlain {
    fn default() -> Self {
        Self { distance: Distance::NONE, class: 0, step: 0 }
    }
}

/// Puts the plain bits of a row.
#[expect(clippy::cast_possible_truncation, reason = "at most 32")]
fn put_plain(symbols: &Symbols, of_row: &mut [WithPlain], plain: &mut BitWriter) {
    let is_near = |of: &WithPlain| of.step <= NEAR_BITS + 1;
    let mut far = [WithPlain::default(); MAX_LANES + 1];
    let (mut near_len, mut far_len) = (0, 0);
    for i in 0..of_row.len() {
        let of = of_row[i];
        (of_row[near_len], far[far_len]) = (of, of);
        near_len += usize::from(is_near(&of));
        far_len += usize::from(!is_near(&of));
    }
    let mut bit = 0;
    while near_len > 0 {
        let (mut plane, mut left) = (0, 0);
        for i in 0..near_len {
            let of = of_row[i];
            plane |= u32::from(of.distance.beyond >> bit & 1 == 1) << i;
            of_row[left] = of;
            left += usize::from(of.step > 3 + bit);
        }
        plain.put(plane, near_len as u32);
        near_len = left;
        bit += 1;
    }
    for of in &far[..far_len] {
        put_far(symbols, of.class, of.distance, plain);
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
