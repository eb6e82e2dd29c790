//! A cursor over a payload, and varints (section 1 of the format).

use crate::CodecError;

/// Reads a payload front to back; errors carry the offset.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, offset: 0 }
    }

    pub(crate) fn offset(&self) -> usize {
        self.offset
    }

    pub(crate) fn error(&self, what: &'static str) -> CodecError {
        CodecError::new(what, self.offset)
    }

    pub(crate) fn u8(&mut self, what: &'static str) -> Result<u8, CodecError> {
        let byte = *self.bytes.get(self.offset).ok_or(self.error(what))?;
        self.offset = self.offset.saturating_add(1);
        Ok(byte)
    }

    /// The next `len` bytes.
    pub(crate) fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], CodecError> {
        let rest = self.bytes.get(self.offset..).unwrap_or_default();
        let taken = rest.get(..len).ok_or(self.error(what))?;
        self.offset = self.offset.saturating_add(len);
        Ok(taken)
    }

    /// Ends the reading: nothing may be left.
    pub(crate) fn finish(self, what: &'static str) -> Result<(), CodecError> {
        if self.offset == self.bytes.len() { Ok(()) } else { Err(self.error(what)) }
    }

    /// A varint of at most `max`, in its shortest form.
    pub(crate) fn varint(&mut self, max: usize, what: &'static str) -> Result<usize, CodecError> {
        let start = *self;
        let mut value = 0u64;
        for shift in (0..35).step_by(7) {
            let byte = self.u8(what)?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                let shortest = byte != 0 || shift == 0;
                return usize::try_from(value)
                    .ok()
                    .filter(|&value| shortest && value <= max)
                    .ok_or(start.error(what));
            }
        }
        Err(start.error(what))
    }
}

/// Appends `value` as a varint.
#[expect(clippy::cast_possible_truncation, reason = "seven bits at a time")]
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_varint_comes_back_and_takes_the_shortest_form() {
        for value in [0, 1, 127, 128, 300, 16_383, 16_384, 1 << 20, u32::MAX as usize] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            let mut reader = Reader::new(&out);
            assert_eq!(reader.varint(usize::MAX, "value").unwrap(), value);
            assert_eq!(reader.finish("the end"), Ok(()));
        }
    }

    #[test]
    fn a_varint_too_long_too_large_or_cut_short_is_refused_where_it_starts() {
        for bytes in [&[0x80, 0x00][..], &[0x80], &[0xff; 6], &[0x81, 0x01]] {
            let mut reader = Reader::new(bytes);
            assert!(reader.varint(128, "value").is_err(), "{bytes:?}");
        }
    }
}
