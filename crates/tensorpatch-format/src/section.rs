//! The frame around each part between header and trailer (section 7).

use crate::bytes::Reader;
use crate::header::check_crc;
use crate::{Error, LimitKind, Limits, Violation};

/// What a section holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SectionKind {
    /// The target's schema.
    Schema,
    /// The target's layout.
    Layout,
    /// Records of chunks.
    Block,
    /// Where the blocks are, what they cover, and the digests of their chunks.
    Index,
    /// Something that a reader may skip, with its type (128 to 255).
    Ancillary(u8),
}

impl SectionKind {
    /// The type on the wire.
    pub const fn code(self) -> u8 {
        match self {
            Self::Schema => 1,
            Self::Layout => 2,
            Self::Block => 3,
            Self::Index => 4,
            Self::Ancillary(code) => code,
        }
    }

    /// The kind with this type, or `None` for one that a reader of this version must not skip.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Schema),
            2 => Some(Self::Layout),
            3 => Some(Self::Block),
            4 => Some(Self::Index),
            128.. => Some(Self::Ancillary(code)),
            _ => None,
        }
    }

    /// The name in the specification.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Schema => "SCHEMA",
            Self::Layout => "LAYOUT",
            Self::Block => "BLOCK",
            Self::Index => "INDEX",
            Self::Ancillary(_) => "ancillary section",
        }
    }

    const fn limit(self) -> LimitKind {
        match self {
            Self::Schema | Self::Layout | Self::Index => LimitKind::MetadataBytes,
            Self::Block | Self::Ancillary(_) => LimitKind::SectionBytes,
        }
    }
}

/// The 16 bytes before the payload of a section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SectionHead {
    /// What the section holds.
    pub kind: SectionKind,
    /// Where the section starts.
    pub offset: u64,
    /// Bytes of its payload.
    pub payload_len: u64,
    crc: u32,
}

impl SectionHead {
    /// Bytes of a section's head.
    pub const LEN: usize = 16;

    /// Reads the head of the section that starts at `offset` of the file.
    ///
    /// # Errors
    /// If the type is not known, reserved bytes are set, or the payload is longer than `limits` allow.
    pub fn from_bytes(bytes: &[u8; Self::LEN], offset: u64, limits: &Limits) -> Result<Self, Error> {
        let mut reader = Reader::new(bytes, offset);
        let code = reader.u8("type")?;
        let kind = SectionKind::from_code(code).ok_or_else(|| {
            let violation = Violation::UnsupportedFeature { what: "section type", value: u32::from(code) };
            Error::new(violation, "type", offset)
        })?;
        reader.reserved(3, "reserved")?;
        let crc = reader.u32("crc")?;
        let at = reader.offset();
        let payload_len = reader.u64("length")?;
        limits.check(kind.limit(), payload_len, "length", at)?;
        let head = Self { kind, offset, payload_len, crc };
        if head.end().is_none() {
            // No file is that long, so this one ends before its section does.
            return Err(Error::new(Violation::Truncated { needed: payload_len }, "length", at));
        }
        Ok(head)
    }

    /// Where the payload starts.
    pub fn payload_offset(&self) -> u64 {
        self.offset.saturating_add(Self::LEN as u64)
    }

    /// Where the section ends, unless past the end of any file.
    pub(crate) fn end(&self) -> Option<u64> {
        self.offset.checked_add(Self::LEN as u64)?.checked_add(self.payload_len)
    }

    /// Checks the payload against the CRC32 of the head.
    ///
    /// # Errors
    /// If they do not belong together.
    pub fn check_crc(&self, payload: &[u8]) -> Result<(), Error> {
        let found = section_crc(self.kind, self.payload_len, &[payload]);
        check_crc(self.crc, found, self.offset.saturating_add(4))
    }
}

fn section_crc(kind: SectionKind, payload_len: u64, parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[kind.code(), 0, 0, 0]);
    hasher.update(&payload_len.to_le_bytes());
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}

/// A whole section with these parts as its payload.
pub(crate) fn seal(kind: SectionKind, parts: &[&[u8]]) -> Vec<u8> {
    let payload_len = parts.iter().fold(0_usize, |sum, part| sum.saturating_add(part.len()));
    let mut out = Vec::with_capacity(payload_len.saturating_add(SectionHead::LEN));
    out.extend_from_slice(&[kind.code(), 0, 0, 0]);
    out.extend_from_slice(&section_crc(kind, payload_len as u64, parts).to_le_bytes());
    out.extend_from_slice(&(payload_len as u64).to_le_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorClass;

    fn head(bytes: &[u8], limits: &Limits) -> Result<SectionHead, Error> {
        SectionHead::from_bytes(bytes.first_chunk().unwrap(), 1000, limits)
    }

    #[test]
    fn a_sealed_section_is_read_back_and_guarded() {
        let bytes = seal(SectionKind::Ancillary(200), &[b"ab", b"c"]);
        let head = head(&bytes, &Limits::default()).unwrap();
        assert_eq!((head.kind, head.payload_len), (SectionKind::Ancillary(200), 3));
        assert_eq!((head.payload_offset(), head.end()), (1016, Some(1019)));
        head.check_crc(b"abc").unwrap();
        let error = head.check_crc(b"abd").unwrap_err();
        assert_eq!((error.class(), error.offset), (ErrorClass::Checksum, 1004));
    }

    #[test]
    fn each_field_is_checked_in_order() {
        let good = seal(SectionKind::Block, &[b"abc"]);
        let limits = Limits { section_bytes: 3, metadata_bytes: 2, ..Limits::default() };
        head(&good, &limits).unwrap();
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            let error = head(&bytes, &limits).unwrap_err();
            (error.class(), error.field, error.offset)
        };
        assert_eq!(with(0, 0), (ErrorClass::UnsupportedFeature, "type", 1000));
        assert_eq!(with(0, 127), (ErrorClass::UnsupportedFeature, "type", 1000));
        assert_eq!(with(3, 1), (ErrorClass::Invalid, "reserved", 1001));
        assert_eq!(with(8, 4), (ErrorClass::Limit, "length", 1008));
        assert_eq!(with(0, 1), (ErrorClass::Limit, "length", 1008));
    }

    #[test]
    fn a_length_past_every_file_is_truncated_even_without_limits() {
        let mut bytes = seal(SectionKind::Block, &[]);
        bytes[8..].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(head(&bytes, &Limits::unlimited()).unwrap_err().class(), ErrorClass::Truncated);
    }
}
