//! Section 9 and `spec/encodings/`: from a payload to a chunk.

mod planes;
mod scatter;
mod sparse;

use crate::input::{Code, Error, Input, Result, refuse, unpack_frame};
use crate::metadata::Format;

/// The chunk of `len` bytes that a payload decodes to. `base` is the base's, unless the chunk is fresh.
pub(crate) fn decode_chunk(
    encoding: u8,
    format: Format,
    payload: Input<'_>,
    base: Option<&[u8]>,
    len: usize,
) -> Result<Vec<u8>> {
    let at = payload.at();
    let decoded = match (encoding, base) {
        (1, Some(base)) => sparse::decode(format, payload, base),
        (2, Some(base)) => scatter::decode(format, payload, base),
        (3, Some(base)) => xor(format, payload, base),
        (4, _) if payload.rest().len() == len => Ok(payload.rest().to_vec()),
        (5, _) => match unpack_frame(payload.rest(), len as u64) {
            Some(chunk) => Ok(chunk),
            None => refuse(Code::Invalid, at, "not a zstd frame of the chunk's length"),
        },
        _ => refuse(Code::Invalid, at, "the payload is not one for this chunk"),
    };
    // Whatever is wrong in a payload, the error carries the offset of the payload.
    decoded.map_err(|error| Error { offset: at, ..error })
}

/// The chunk of `len` bytes, of a tensor of this dtype, that a payload alone decodes to. `base` is the base's, unless the chunk is
/// fresh.
///
/// # Errors
/// If it does not decode, at offset 0.
pub fn decode_payload(
    encoding: u8,
    dtype: &str,
    payload: &[u8],
    base: Option<&[u8]>,
    len: usize,
) -> Result<Vec<u8>> {
    decode_chunk(encoding, Format::of(dtype), Input::new(payload, 0), base, len)
}

/// `encodings/xor.md`
fn xor(format: Format, mut payload: Input<'_>, base: &[u8]) -> Result<Vec<u8>> {
    let width = format.width();
    let count = base.len().checked_div(width).unwrap_or(0);
    let planes = planes::read(&mut payload, width, count)?;
    payload.end()?;
    Ok(planes.iter().zip(base).map(|(new, old)| new ^ old).collect())
}
