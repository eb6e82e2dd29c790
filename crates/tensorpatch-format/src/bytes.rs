//! Reading fields off a window of a file with nom, each failure with the field's name and absolute offset.

use nom::error::{ErrorKind, ParseError};
use nom::{Err, IResult, Needed, bytes, number};

use crate::{Error, Violation};

/// A cursor over bytes that start at `offset` of the whole file and are complete: what runs over their end
/// breaks a rule. (That the file itself ends too early is found by whoever cuts the windows.)
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    offset: u64,
}

/// Why a nom parser of this crate refuses its input; never leaves [`Reader`].
struct Fault(&'static str);

impl ParseError<&[u8]> for Fault {
    fn from_error_kind(_: &[u8], _: ErrorKind) -> Self {
        Self("malformed")
    }

    fn append(_: &[u8], _: ErrorKind, other: Self) -> Self {
        other
    }
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8], offset: u64) -> Self {
        Self { rest: bytes, offset }
    }

    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    pub(crate) fn remaining(&self) -> u64 {
        self.rest.len() as u64
    }

    /// What no field has been read from yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    fn field<T>(
        &mut self,
        field: &'static str,
        mut parser: impl FnMut(&'a [u8]) -> IResult<&'a [u8], T, Fault>,
    ) -> Result<T, Error> {
        match parser(self.rest) {
            Ok((rest, value)) => {
                let used = self.rest.len().saturating_sub(rest.len());
                self.rest = rest;
                self.offset = self.offset.saturating_add(used as u64);
                Ok(value)
            }
            Err(Err::Incomplete(needed)) => {
                let needed = match needed {
                    Needed::Size(size) => size.get() as u64,
                    Needed::Unknown => 1,
                };
                Err(Error::new(Violation::Overrun { needed }, field, self.offset))
            }
            Err(Err::Error(Fault(message)) | Err::Failure(Fault(message))) => {
                Err(Error::invalid(message, field, self.offset))
            }
        }
    }

    /// The next `len` bytes.
    pub(crate) fn take(&mut self, len: u64, field: &'static str) -> Result<&'a [u8], Error> {
        let Ok(count) = usize::try_from(len) else {
            let needed = len.saturating_sub(self.remaining());
            return Err(Error::new(Violation::Overrun { needed }, field, self.offset));
        };
        self.field(field, bytes::streaming::take(count))
    }

    pub(crate) fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], Error> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64, field)?);
        Ok(array)
    }

    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, Error> {
        self.field(field, number::streaming::u8)
    }

    pub(crate) fn u16(&mut self, field: &'static str) -> Result<u16, Error> {
        self.field(field, number::streaming::le_u16)
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, Error> {
        self.field(field, number::streaming::le_u32)
    }

    pub(crate) fn u64(&mut self, field: &'static str) -> Result<u64, Error> {
        self.field(field, number::streaming::le_u64)
    }

    /// An unsigned LEB128 in its shortest form (section 1).
    pub(crate) fn varint(&mut self, field: &'static str) -> Result<u64, Error> {
        self.field(field, varint)
    }

    /// Bytes that version 1 reserves: all zero.
    pub(crate) fn reserved(&mut self, len: u64, field: &'static str) -> Result<(), Error> {
        let at = self.offset;
        if self.take(len, field)?.iter().any(|&byte| byte != 0) {
            return Err(Error::invalid("reserved bytes that are not zero", field, at));
        }
        Ok(())
    }

    /// A count of things that take at least `min_bytes` each, so that a false count cannot outgrow the bytes
    /// present.
    pub(crate) fn check_count(
        &self,
        count: u64,
        min_bytes: u64,
        field: &'static str,
        offset: u64,
    ) -> Result<(), Error> {
        let least = count.saturating_mul(min_bytes);
        if least > self.remaining() {
            let needed = least.saturating_sub(self.remaining());
            return Err(Error::new(Violation::Overrun { needed }, field, offset));
        }
        Ok(())
    }

    /// Says that nothing may be left.
    pub(crate) fn finish(&self, field: &'static str) -> Result<(), Error> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(Error::invalid(format!("{} bytes too many", self.rest.len()), field, self.offset))
    }
}

const NOT_64_BITS: &str = "a varint over 64 bits";

fn varint(input: &[u8]) -> IResult<&[u8], u64, Fault> {
    let mut rest = input;
    let mut value = 0_u64;
    for shift in (0_u32..64).step_by(7) {
        let (after, byte) = number::streaming::u8(rest)?;
        rest = after;
        let bits = u64::from(byte & 0x7f);
        let placed = bits.checked_shl(shift).filter(|placed| placed.checked_shr(shift) == Some(bits));
        value |= placed.ok_or(Err::Failure(Fault(NOT_64_BITS)))?;
        if byte < 0x80 {
            if byte == 0 && shift > 0 {
                return Err(Err::Failure(Fault("a varint that is not in its shortest form")));
            }
            return Ok((rest, value));
        }
    }
    Err(Err::Failure(Fault(NOT_64_BITS)))
}

/// Appends `value` as a varint.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while let [low, ..] = value.to_le_bytes()
        && value >= 0x80
    {
        out.push(low | 0x80);
        value >>= 7;
    }
    let [low, ..] = value.to_le_bytes();
    out.push(low);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorClass;

    fn read(bytes: &[u8]) -> Result<u64, Error> {
        Reader::new(bytes, 40).varint("count")
    }

    #[test]
    fn varints_round_trip_at_every_width() {
        let edges = (0..64).flat_map(|bit| [(1_u64 << bit) - 1, 1 << bit, (1 << bit) + 1]);
        for value in edges.chain([u64::MAX]) {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            assert_eq!(read(&bytes).unwrap(), value);
            assert!(bytes.len() <= 10);
        }
    }

    #[test]
    fn varints_that_are_too_long_or_too_large_are_refused() {
        let ten_with_two_bits = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02];
        let eleven = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01];
        for bytes in [&[0x80, 0x00][..], &[0xff, 0x80, 0x00], &ten_with_two_bits, &eleven] {
            let error = read(bytes).unwrap_err();
            assert_eq!((error.class(), error.offset, error.field), (ErrorClass::Invalid, 40, "count"));
        }
        assert_eq!(read(&[0]).unwrap(), 0);
    }

    #[test]
    fn a_field_over_the_end_names_itself_its_offset_and_what_is_missing() {
        let mut reader = Reader::new(&[1, 2, 3, 4, 5], 100);
        assert_eq!(reader.u32("first").unwrap(), 0x0403_0201);
        let error = reader.u64("second").unwrap_err();
        assert_eq!(error, Error::new(Violation::Overrun { needed: 7 }, "second", 104));
        assert_eq!(reader.take(u64::MAX, "third").unwrap_err().class(), ErrorClass::Invalid);
        assert_eq!(reader.varint("fourth").unwrap(), 5);
        assert_eq!(reader.varint("fifth").unwrap_err().offset, 105);
    }
}
