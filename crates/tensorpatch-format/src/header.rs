//! The 32 bytes that a patch starts with (section 6).

use crate::bytes::Reader;
use crate::{Error, Kind, LeafHash, Profile, Violation};

/// What every patch file begins with (section 6).
pub const MAGIC: [u8; 8] = *b"\x89TPATCH\n";
const MAJOR: u16 = 1;

/// What a reader must know before anything else.
///
/// ```
/// use tensorpatch_format::{PatchHeader, Kind, LeafHash, Profile};
///
/// let header = PatchHeader::new(Kind::Delta, Profile::Compact, LeafHash::Xxh3);
/// assert_eq!(PatchHeader::from_bytes(&header.to_bytes())?, header);
/// # Ok::<(), tensorpatch_format::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PatchHeader {
    /// The minor version of the format that the file was written with.
    pub minor: u16,
    /// Feature bits that a reader may ignore.
    pub optional_features: u32,
    /// What the patch does to a state.
    pub kind: Kind,
    /// What a reader needs besides the patch.
    pub profile: Profile,
    /// The hash over chunks, in the state digests and in the index.
    pub leaf_hash: LeafHash,
}

impl PatchHeader {
    /// Bytes of a header.
    pub const LEN: usize = 32;

    /// The header of a patch of version 1.0.
    pub const fn new(kind: Kind, profile: Profile, leaf_hash: LeafHash) -> Self {
        Self { minor: 0, optional_features: 0, kind, profile, leaf_hash }
    }

    /// The bytes of the header, its CRC32 included.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut out = Vec::with_capacity(Self::LEN);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&MAJOR.to_le_bytes());
        out.extend_from_slice(&self.minor.to_le_bytes());
        out.extend_from_slice(&0_u32.to_le_bytes());
        out.extend_from_slice(&self.optional_features.to_le_bytes());
        out.extend_from_slice(&[self.kind.code(), self.profile.code(), self.leaf_hash.code()]);
        out.extend_from_slice(&[0; 5]);
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        let mut bytes = [0; Self::LEN];
        bytes.copy_from_slice(&out);
        bytes
    }

    /// Reads the header off the start of a file. Whatever follows the header is not looked at.
    ///
    /// # Errors
    /// As section 6 says; bytes that already differ from the magic are no patch, however few they are.
    pub fn from_bytes(file: &[u8]) -> Result<Self, Error> {
        if file.iter().zip(MAGIC).any(|(found, expected)| *found != expected) {
            return Err(Error::new(Violation::NotAPatch, "magic", 0));
        }
        let Some(bytes) = file.first_chunk::<{ Self::LEN }>() else {
            let needed = (Self::LEN as u64).saturating_sub(file.len() as u64);
            return Err(Error::new(Violation::Truncated { needed }, "header", 0));
        };
        let mut reader = Reader::new(bytes, 0);
        reader.take(8, "magic")?;
        let major = reader.u16("major")?;
        if major != MAJOR {
            return Err(Error::new(Violation::UnsupportedVersion { found: major }, "major", 8));
        }
        let [guarded @ .., _, _, _, _] = bytes;
        let crc = Reader::new(bytes.split_at(28).1, 28).u32("crc")?;
        check_crc(crc, crc32fast::hash(guarded), 28)?;

        let minor = reader.u16("minor")?;
        let required = reader.u32("required features")?;
        if required != 0 {
            let violation = Violation::UnsupportedFeature { what: "required feature", value: required };
            return Err(Error::new(violation, "required features", 12));
        }
        let optional_features = reader.u32("optional features")?;
        let kind = code(&mut reader, "kind", Kind::from_code)?;
        let profile = code(&mut reader, "profile", Profile::from_code)?;
        let leaf_hash = code(&mut reader, "leaf hash", LeafHash::from_code)?;
        reader.reserved(5, "reserved")?;
        Ok(Self { minor, optional_features, kind, profile, leaf_hash })
    }
}

/// A one-byte code that must be known.
pub(crate) fn code<T>(
    reader: &mut Reader<'_>,
    field: &'static str,
    from_code: impl FnOnce(u8) -> Option<T>,
) -> Result<T, Error> {
    let at = reader.offset();
    let code = reader.u8(field)?;
    from_code(code).ok_or_else(|| Error::invalid(format!("the code {code} has no meaning"), field, at))
}

/// Compares a stored CRC32 with that of the bytes present.
pub(crate) fn check_crc(expected: u32, found: u32, offset: u64) -> Result<(), Error> {
    if expected != found {
        return Err(Error::new(Violation::Checksum { expected, found }, "crc", offset));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorClass;

    fn header() -> PatchHeader {
        PatchHeader::new(Kind::Full, Profile::Direct, LeafHash::Blake3)
    }

    /// The header with one byte replaced and the CRC32 made right again.
    fn with(at: usize, byte: u8) -> [u8; 32] {
        let mut bytes = header().to_bytes();
        bytes[at] = byte;
        let crc = crc32fast::hash(&bytes[..28]);
        bytes[28..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    #[test]
    fn every_field_is_checked_and_named_with_its_offset() {
        use ErrorClass::{Invalid, NotAPatch, UnsupportedFeature, UnsupportedVersion};
        for (at, byte, class, field, offset) in [
            (0, 0x88, NotAPatch, "magic", 0),
            (7, 0, NotAPatch, "magic", 0),
            (8, 2, UnsupportedVersion, "major", 8),
            (9, 1, UnsupportedVersion, "major", 8),
            (12, 1, UnsupportedFeature, "required features", 12),
            (15, 0x80, UnsupportedFeature, "required features", 12),
            (20, 0, Invalid, "kind", 20),
            (20, 4, Invalid, "kind", 20),
            (21, 3, Invalid, "profile", 21),
            (22, 3, Invalid, "leaf hash", 22),
            (23, 1, Invalid, "reserved", 23),
            (27, 1, Invalid, "reserved", 23),
        ] {
            let error = PatchHeader::from_bytes(&with(at, byte)).unwrap_err();
            assert_eq!((error.class(), error.field, error.offset), (class, field, offset));
        }
    }

    #[test]
    fn an_unknown_minor_version_and_optional_features_are_kept() {
        let mut newer = header();
        newer.minor = 7;
        newer.optional_features = 0x8000_0001;
        assert_eq!(PatchHeader::from_bytes(&newer.to_bytes()).unwrap(), newer);
    }

    #[test]
    fn every_bit_flip_is_refused() {
        let bytes = header().to_bytes();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(PatchHeader::from_bytes(&flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_short_file_is_truncated_only_if_it_could_still_be_a_patch() {
        let bytes = header().to_bytes();
        for len in 0..bytes.len() {
            let error = PatchHeader::from_bytes(&bytes[..len]).unwrap_err();
            let needed = 32 - len as u64;
            assert_eq!(error, Error::new(Violation::Truncated { needed }, "header", 0));
        }
        assert_eq!(PatchHeader::from_bytes(b"{}").unwrap_err().class(), ErrorClass::NotAPatch);
    }
}
