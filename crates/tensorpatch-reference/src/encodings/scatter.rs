//! `encodings/scatter.md`

use super::planes;
use crate::input::{Code, Input, Result, refuse};
use crate::metadata::Format;

pub(super) fn decode(format: Format, mut payload: Input<'_>, base: &[u8]) -> Result<Vec<u8>> {
    let width = format.width();
    let n = base.len().checked_div(width).unwrap_or(0);
    let count_at = payload.at();
    let count = payload.varint()?;
    if count == 0 || count > n as u64 {
        return refuse(Code::Invalid, count_at, "the count is from 1 to the number of elements");
    }
    let k_at = payload.at();
    let k = payload.u8()?;
    if k > 23 {
        return refuse(Code::Invalid, k_at, "k is from 0 to 23");
    }
    let len = payload.varint()?;
    let positions = payload.part(len)?;
    let elements = read_positions(positions, count, k, n as u64)?;
    let values = planes::read(&mut payload, width, elements.len())?;
    payload.end()?;

    let mut target = base.to_vec();
    for (element, value) in elements.iter().zip(values.chunks(width)) {
        let old = usize::try_from(*element).ok().and_then(|element| target.chunks_mut(width).nth(element));
        if let Some(old) = old {
            old.copy_from_slice(value);
        }
    }
    Ok(target)
}

/// The numbers of the changed elements.
fn read_positions(input: Input<'_>, count: u64, k: u8, n: u64) -> Result<Vec<u64>> {
    let refused = |what| refuse(Code::Invalid, input.at(), what);
    let bytes = input.rest();
    let mut bits = bytes.iter().flat_map(|byte| (0..8).map(move |bit| u64::from(byte >> bit & 1)));
    let mut used = 0_u64;
    let mut next = || {
        used = used.saturating_add(1);
        bits.next()
    };
    let mut elements = Vec::new();
    let mut at = 0_u64;
    for _ in 0..count {
        let mut high = 0_u64;
        loop {
            match next() {
                Some(0) => high = high.saturating_add(1),
                Some(_) => break,
                None => return refused("the positions run over their end"),
            }
        }
        let mut gap = high << k;
        for bit in 0..k {
            match next() {
                Some(value) => gap |= value << bit,
                None => return refused("the positions run over their end"),
            }
        }
        at = at.saturating_add(gap);
        if at >= n {
            return refused("a position is outside the chunk");
        }
        elements.push(at);
        at = at.saturating_add(1);
    }
    if used.div_ceil(8) != bytes.len() as u64 {
        return refused("the positions leave bytes over");
    }
    if bits.any(|bit| bit != 0) {
        return refused("the bits that fill the last byte are not zero");
    }
    Ok(elements)
}
