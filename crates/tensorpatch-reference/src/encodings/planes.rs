//! `encodings/xor.md`: byte planes.

use crate::input::{Code, Input, Result, refuse, unpack_frame};

/// Reads `width` planes of `count` bytes each, and returns the `count` elements of `width` bytes.
pub(super) fn read(input: &mut Input<'_>, width: usize, count: usize) -> Result<Vec<u8>> {
    let planes = (0..width).map(|_| read_plane(input, count)).collect::<Result<Vec<_>>>()?;
    let mut elements = Vec::new();
    for element in 0..count {
        for plane in &planes {
            elements.push(plane.get(element).copied().unwrap_or(0));
        }
    }
    Ok(elements)
}

fn read_plane(input: &mut Input<'_>, count: usize) -> Result<Vec<u8>> {
    let mode_at = input.at();
    match input.u8()? {
        0 => Ok(vec![0; count]),
        1 => Ok(input.take(count as u64)?.to_vec()),
        2 => {
            let len = input.varint()?;
            let frame = input.part(len)?;
            match unpack_frame(frame.rest(), count as u64) {
                Some(plane) => Ok(plane),
                None => refuse(Code::Invalid, frame.at(), "not a zstd frame of a plane's length"),
            }
        }
        _ => refuse(Code::Invalid, mode_at, "an unknown mode of a plane"),
    }
}
