//! The checksums that these formats carry, as lower-case hexadecimal text.

use std::fmt;

use sha2::{Digest, Sha256};
use tensorpatch_codec::leaf_digest;
use tensorpatch_format::LeafHash;

use crate::Violation;

/// A kind of checksum over the bytes of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ChecksumKind {
    /// 32 bits: misses some changes of three bytes, and all that somebody wants it to miss.
    Adler32,
    /// XXH3 with 128 bits: tells accidents.
    Xxh3,
    /// BLAKE3: tells forgery too.
    Blake3,
    /// SHA-256.
    Sha256,
}

impl ChecksumKind {
    /// The name in an index, a manifest or a command.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Adler32 => "adler32",
            Self::Xxh3 => "xxh3-128",
            Self::Blake3 => "blake3",
            Self::Sha256 => "sha256",
        }
    }

    /// The kind of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Adler32, Self::Xxh3, Self::Blake3, Self::Sha256].into_iter().find(|kind| kind.name() == name)
    }

    /// The checksum of `bytes`.
    ///
    /// ```
    /// use tensorpatch_formats::ChecksumKind;
    ///
    /// assert_eq!(ChecksumKind::Adler32.of(b"Wikipedia"), "11e60398");
    /// assert_eq!(ChecksumKind::Xxh3.of(b""), "99aa06d3014798d86001c324468d497f");
    /// ```
    pub fn of(self, bytes: &[u8]) -> String {
        match self {
            Self::Adler32 => format!("{:08x}", simd_adler32::adler32(&bytes)),
            Self::Xxh3 => hex::encode(leaf_digest(LeafHash::Xxh3, bytes).as_bytes()),
            Self::Blake3 => hex::encode(leaf_digest(LeafHash::Blake3, bytes).as_bytes()),
            Self::Sha256 => hex::encode(Sha256::digest(bytes)),
        }
    }

    /// Says that `bytes` have the checksum `expected`.
    pub(crate) fn check(self, bytes: &[u8], expected: &str) -> Result<(), Violation> {
        differ(self, expected, self.of(bytes))
    }
}

impl fmt::Display for ChecksumKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// SHA-256 over the bytes of all tensors in ascending order of their names, as TRL's first flavour has it.
#[derive(Default)]
pub(crate) struct StateChecksum(Sha256);

impl StateChecksum {
    pub(crate) fn update(&mut self, tensor: &[u8]) {
        self.0.update(tensor);
    }

    pub(crate) fn finish(self) -> String {
        hex::encode(self.0.finalize())
    }

    pub(crate) fn check(self, expected: &str) -> Result<(), Violation> {
        differ(ChecksumKind::Sha256, expected, self.finish())
    }
}

fn differ(kind: ChecksumKind, expected: &str, found: String) -> Result<(), Violation> {
    if found == expected {
        return Ok(());
    }
    Err(Violation::Checksum { kind, expected: crate::error::short(expected).into(), found: found.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_longer_than_a_chunk_have_the_published_checksum() {
        let bytes: Vec<u8> =
            (0..3_000_001_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let expected = twox_hash::XxHash3_128::oneshot(&bytes);
        assert_eq!(ChecksumKind::Xxh3.of(&bytes), format!("{expected:032x}"));
    }

    #[test]
    fn a_checksum_has_leading_zeros_and_a_name() {
        assert_eq!(ChecksumKind::Adler32.of(b""), "00000001");
        for kind in ["adler32", "xxh3-128", "blake3", "sha256"] {
            assert_eq!(ChecksumKind::from_name(kind).map(ChecksumKind::name), Some(kind));
        }
        assert_eq!(ChecksumKind::from_name("crc32"), None);
    }
}
