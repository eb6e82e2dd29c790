//! Byte planes: byte `b` of every element, for each `b` in turn, left out, raw or compressed.

use crate::CodecError;
use crate::bytes::{Reader, put_varint};
use crate::pack::{Packer, Unpacker};

const ZERO: u8 = 0;
const RAW: u8 = 1;
const ZSTD: u8 = 2;

/// Appends one plane.
pub(crate) fn put(packer: &mut Packer, plane: &[u8], out: &mut Vec<u8>) {
    if plane.iter().all(|&byte| byte == 0) {
        out.push(ZERO);
    } else if let Some(frame) = packer.pack(plane, plane.len().saturating_sub(3)) {
        out.push(ZSTD);
        put_varint(out, frame.len());
        out.extend_from_slice(frame);
    } else {
        out.push(RAW);
        out.extend_from_slice(plane);
    }
}

/// The next plane of `len` bytes, in `scratch` if it had to be unpacked; `None` if all its bytes are zero.
pub(crate) fn take<'s, 'a: 's>(
    unpacker: &mut Unpacker,
    reader: &mut Reader<'a>,
    len: usize,
    scratch: &'s mut Vec<u8>,
) -> Result<Option<&'s [u8]>, CodecError> {
    let start = *reader;
    match reader.u8("the mode of a byte plane is missing")? {
        ZERO => Ok(None),
        RAW => reader.take(len, "a raw byte plane is cut short").map(Some),
        ZSTD => {
            let frame_len = reader.varint(usize::MAX, "the length of a byte plane")?;
            let offset = reader.offset();
            let frame = reader.take(frame_len, "a compressed byte plane is cut short")?;
            scratch.resize(len, 0);
            unpacker.unpack(frame, offset, scratch)?;
            Ok(Some(scratch))
        }
        _ => Err(start.error("the mode of a byte plane is unknown")),
    }
}
