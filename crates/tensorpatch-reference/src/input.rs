//! Sections 1 and 12: how bytes are read, and how they are refused.

use std::fmt;

/// The classes of section 12.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// `truncated`
    Truncated,
    /// `not_a_patch`
    NotAPatch,
    /// `unsupported_version`
    UnsupportedVersion,
    /// `unsupported_feature`
    UnsupportedFeature,
    /// `limit`
    Limit,
    /// `checksum`
    Checksum,
    /// `invalid`
    Invalid,
    /// `wrong_base`
    WrongBase,
    /// `target_mismatch`
    TargetMismatch,
}

impl Code {
    /// The code as section 12 spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::NotAPatch => "not_a_patch",
            Self::UnsupportedVersion => "unsupported_version",
            Self::UnsupportedFeature => "unsupported_feature",
            Self::Limit => "limit",
            Self::Checksum => "checksum",
            Self::Invalid => "invalid",
            Self::WrongBase => "wrong_base",
            Self::TargetMismatch => "target_mismatch",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a patch was refused, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code} at {offset}: {what}")]
pub struct Error {
    /// The class.
    pub code: Code,
    /// The offset in the file of the field it is about.
    pub offset: u64,
    /// The rule, in words.
    pub what: &'static str,
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

pub(crate) fn refuse<T>(code: Code, offset: u64, what: &'static str) -> Result<T> {
    Err(Error { code, offset, what })
}

/// Bytes of a file with the offset at which they lie in it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Input<'a> {
    rest: &'a [u8],
    at: u64,
    /// Whether the bytes were decompressed: then every offset is that of the frame.
    fixed: bool,
}

impl<'a> Input<'a> {
    pub(crate) fn new(bytes: &'a [u8], at: u64) -> Self {
        Self { rest: bytes, at, fixed: false }
    }

    /// What a frame at `at` decodes to.
    pub(crate) fn unpacked(bytes: &'a [u8], at: u64) -> Self {
        Self { rest: bytes, at, fixed: true }
    }

    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn left(&self) -> u64 {
        self.rest.len() as u64
    }

    /// The next `len` bytes. A field that runs over the end is invalid, at the field.
    pub(crate) fn take(&mut self, len: u64) -> Result<&'a [u8]> {
        let split = usize::try_from(len).ok().and_then(|len| self.rest.split_at_checked(len));
        let Some((head, rest)) = split else {
            return refuse(Code::Invalid, self.at, "a field runs over the end of what holds it");
        };
        self.rest = rest;
        if !self.fixed {
            self.at = self.at.saturating_add(len);
        }
        Ok(head)
    }

    /// The next `len` bytes as an input of their own.
    pub(crate) fn part(&mut self, len: u64) -> Result<Self> {
        let at = self.at;
        Ok(Self { rest: self.take(len)?, at, fixed: self.fixed })
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let at = self.at;
        match self.take(N as u64)?.try_into() {
            Ok(array) => Ok(array),
            Err(_) => refuse(Code::Invalid, at, "a field is cut short"),
        }
    }

    pub(crate) fn u8(&mut self) -> Result<u8> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(crate) fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Section 1: unsigned LEB128 in its shortest form, at most 64 bits. All errors are at its first byte.
    pub(crate) fn varint(&mut self) -> Result<u64> {
        let at = self.at;
        let mut value = 0_u128;
        for place in 0..10_u32 {
            let Ok(byte) = self.u8() else {
                return refuse(Code::Invalid, at, "a varint runs over the end of what holds it");
            };
            value |= u128::from(byte & 0x7f) << place.saturating_mul(7);
            if byte & 0x80 == 0 {
                if byte == 0 && place > 0 {
                    return refuse(Code::Invalid, at, "a varint is not in its shortest form");
                }
                return match u64::try_from(value) {
                    Ok(value) => Ok(value),
                    Err(_) => refuse(Code::Invalid, at, "a varint does not fit 64 bits"),
                };
            }
        }
        refuse(Code::Invalid, at, "a varint has more than ten bytes")
    }

    /// Nothing may be left over.
    pub(crate) fn end(&self) -> Result<()> {
        if self.rest.is_empty() { Ok(()) } else { refuse(Code::Invalid, self.at, "bytes are left over") }
    }
}

/// A zstd frame as section 1 has it, which must decode to exactly `len` bytes. `None` if it is anything else.
pub fn unpack_frame(frame: &[u8], len: u64) -> Option<Vec<u8>> {
    use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
    // RFC 8878, 3.1.1.1.1: whether the frame states its content size, and the reserved bit.
    let descriptor = *frame.get(4)?;
    let states_size = descriptor & 0b1110_0000 != 0;
    if descriptor & 0b1000 != 0 {
        return None;
    }
    let mut source = frame;
    let mut decoder = FrameDecoder::new();
    decoder.set_max_window_size(1 << 27);
    decoder.init(&mut source).ok()?;
    if states_size && decoder.content_size() != len {
        return None;
    }
    let mut out = Vec::new();
    while !decoder.is_finished() {
        decoder.decode_blocks(&mut source, BlockDecodingStrategy::UptoBlocks(1)).ok()?;
        out.extend(decoder.collect().unwrap_or_default());
        if out.len() as u64 > len {
            return None;
        }
    }
    let checksum_holds = match decoder.get_checksum_from_data() {
        Some(stated) => decoder.get_calculated_checksum() == Some(stated),
        None => true,
    };
    (source.is_empty() && out.len() as u64 == len && checksum_holds).then_some(out)
}
