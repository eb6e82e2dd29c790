//! The `xor` encoding: byte planes of base XOR target (`spec/encodings/xor.md`).
//!
//! For changes so dense and wide that coding positions pays no more.

use crate::CodecError;
use crate::bytes::Reader;
use crate::element;
use crate::pack::{Packer, Unpacker};
use crate::planes;

pub(crate) fn encode(
    packer: &mut Packer,
    plane: &mut Vec<u8>,
    width: usize,
    base: &[u8],
    target: &[u8],
    out: &mut Vec<u8>,
) {
    for byte in 0..width {
        let bases = base.iter().skip(byte).step_by(width);
        let targets = target.iter().skip(byte).step_by(width);
        plane.clear();
        plane.extend(bases.zip(targets).map(|(b, t)| b ^ t));
        planes::put(packer, plane, out);
    }
}

/// Turns `chunk` from the base into the target. On an error its bytes are unspecified.
pub(crate) fn decode(
    unpacker: &mut Unpacker,
    scratch: &mut Vec<u8>,
    width: usize,
    payload: &[u8],
    chunk: &mut [u8],
) -> Result<(), CodecError> {
    let mut reader = Reader::new(payload);
    let elements = element::count(chunk, width);
    for byte in 0..width {
        if let Some(plane) = planes::take(unpacker, &mut reader, elements, scratch)? {
            for (b, x) in chunk.iter_mut().skip(byte).step_by(width).zip(plane) {
                *b ^= x;
            }
        }
    }
    reader.finish("bytes after the last byte plane")
}
