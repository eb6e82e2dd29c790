//! The `scatter` encoding: positions and new values, readable without the base (`spec/encodings/scatter.md`).

use crate::CodecError;
use crate::bits::{BitReader, BitWriter};
use crate::bytes::{Reader, put_varint};
use crate::element::{self, Element};
use crate::kernels::Marks;
use crate::pack::{Packer, Unpacker};
use crate::planes;

/// The changed elements of a chunk: where, and what they become.
///
/// Filled by [`ChunkDecoder::changes`](crate::ChunkDecoder::changes), for whoever writes single elements:
/// into accelerator memory, or into a journal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Element numbers within the chunk, strictly ascending.
    pub positions: Vec<u32>,
    /// The new values in the same order, each as many bytes as an element has.
    pub values: Vec<u8>,
}

impl Changes {
    /// Lists the marked elements, with their values in `target`.
    pub(crate) fn take<T: Element>(&mut self, marks: &Marks, target: &[u8]) {
        self.take_positions::<T>(marks);
        self.take_values(T::WIDTH, target);
    }

    /// Lists the positions of the marked elements.
    #[expect(clippy::cast_possible_truncation, reason = "a chunk has at most 2^20 elements")]
    pub(crate) fn take_positions<T: Element>(&mut self, marks: &Marks) {
        self.positions.clear();
        self.positions.extend(marks.positions(T::WIDTH).map(|position| position as u32));
    }

    /// Takes the values of the elements that are listed from another target.
    pub(crate) fn take_values(&mut self, width: usize, target: &[u8]) {
        let Self { positions, values } = self;
        values.clear();
        for &position in &*positions {
            let element = element::range(position as usize, width).and_then(|range| target.get(range));
            values.extend_from_slice(element.unwrap_or_default());
        }
    }
}

const MAX_K: u32 = 24;

/// The Rice parameter: the largest `k` with `2^k` at most 0.69 of the mean gap.
fn rice_parameter(elements: usize, count: usize) -> u32 {
    let unchanged = elements.saturating_sub(count) as u64;
    (0..MAX_K).rev().find(|k| (count as u64) << k <= unchanged.saturating_mul(11) / 16).unwrap_or(0)
}

/// `changes` must hold at least one position, all below `elements`.
pub(crate) fn encode(
    packer: &mut Packer,
    plane: &mut Vec<u8>,
    width: usize,
    elements: usize,
    changes: &Changes,
    out: &mut Vec<u8>,
) {
    put_positions(plane, elements, &changes.positions, out);
    put_values(packer, plane, width, &changes.values, out);
}

/// The part of a payload that says where the changes are. `positions` must hold at least one, all below
/// `elements`.
#[expect(clippy::cast_possible_truncation, reason = "k is below 24")]
pub(crate) fn put_positions(plane: &mut Vec<u8>, elements: usize, positions: &[u32], out: &mut Vec<u8>) {
    let count = positions.len();
    let k = rice_parameter(elements, count);
    put_varint(out, count);
    out.push(k as u8);

    plane.clear();
    let mut bits = BitWriter::new(plane);
    let mut next = 0u32;
    for &position in positions {
        let gap = position.saturating_sub(next);
        let mut zeros = gap >> k;
        while let Some(left) = zeros.checked_sub(32) {
            bits.put(0, 32);
            zeros = left;
        }
        bits.put(0, zeros);
        bits.put(1, 1);
        bits.put(gap & !(u32::MAX << k), k);
        next = position.saturating_add(1);
    }
    bits.finish();
    put_varint(out, plane.len());
    out.extend_from_slice(plane);
}

/// The part of a payload that says what the elements become.
pub(crate) fn put_values(
    packer: &mut Packer,
    plane: &mut Vec<u8>,
    width: usize,
    values: &[u8],
    out: &mut Vec<u8>,
) {
    for byte in 0..width {
        plane.clear();
        plane.extend(values.iter().skip(byte).step_by(width));
        planes::put(packer, plane, out);
    }
}

/// Replaces `changes` by those of the payload. Needs memory for at most `elements` of them.
pub(crate) fn decode(
    unpacker: &mut Unpacker,
    scratch: &mut Vec<u8>,
    width: usize,
    elements: usize,
    payload: &[u8],
    changes: &mut Changes,
) -> Result<(), CodecError> {
    let mut reader = Reader::new(payload);
    let start = reader;
    let count = reader.varint(elements, "the number of changes is over the number of elements")?;
    if count == 0 {
        return Err(start.error("a chunk without changes has no payload"));
    }
    let at = reader;
    let k = u32::from(reader.u8("the Rice parameter is missing")?);
    if k >= MAX_K {
        return Err(at.error("the Rice parameter is over 23"));
    }
    let len = reader.varint(usize::MAX, "the length of the positions")?;
    let bad = reader.error("the positions do not fill their bytes, or leave the chunk");
    let mut bits = BitReader::new(reader.take(len, "the positions are cut short")?);

    changes.positions.clear();
    let mut next = 0usize;
    for _ in 0..count {
        let max = u32::try_from(elements >> k).map_err(|_| bad)?;
        let quotient = bits.zeros(max).ok_or(bad)?;
        let gap = quotient << k | bits.take(k).ok_or(bad)?;
        let position = next.checked_add(gap as usize).ok_or(bad)?;
        if position >= elements {
            return Err(bad);
        }
        changes.positions.push(u32::try_from(position).map_err(|_| bad)?);
        next = position.saturating_add(1);
    }
    if bits.whole_bytes() != Some(len) {
        return Err(bad);
    }

    changes.values.clear();
    changes.values.resize(count.saturating_mul(width), 0);
    for byte in 0..width {
        if let Some(plane) = planes::take(unpacker, &mut reader, count, scratch)? {
            for (to, from) in changes.values.iter_mut().skip(byte).step_by(width).zip(plane) {
                *to = *from;
            }
        }
    }
    reader.finish("bytes after the last byte plane")
}

/// Writes the new values into `chunk`, which must hold all the positions.
pub(crate) fn apply(width: usize, changes: &Changes, chunk: &mut [u8]) {
    for (&position, value) in changes.positions.iter().zip(changes.values.chunks_exact(width)) {
        let range = element::range(position as usize, width);
        if let Some(element) = range.and_then(|range| chunk.get_mut(range)) {
            element.copy_from_slice(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_outside_the_chunk_is_refused() {
        for (position, fits) in [(9, true), (10, false), (40, false)] {
            let changes = Changes { positions: vec![3, position], values: vec![1, 2, 3, 4] };
            let (mut payload, mut scratch) = (Vec::new(), Vec::new());
            encode(&mut Packer::default(), &mut scratch, 2, 64, &changes, &mut payload);
            let mut found = Changes::default();
            let result = decode(&mut Unpacker::default(), &mut scratch, 2, 10, &payload, &mut found);
            assert_eq!(result.is_ok(), fits, "{position}");
            assert!(!fits || found == changes);
        }
    }
}
