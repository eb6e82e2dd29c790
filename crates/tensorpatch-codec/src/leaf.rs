//! Leaf digests: the hash over the bytes of one chunk (section 4 of the format).

use tensorpatch_format::{LeafDigest, LeafHash};

use crate::Level;
use crate::xxh3::Xxh3;

/// The digest of a chunk's bytes.
///
/// ```
/// use tensorpatch_codec::leaf_digest;
/// use tensorpatch_format::LeafHash;
///
/// let leaf = leaf_digest(LeafHash::Xxh3, b"");
/// assert_eq!(format!("{leaf:?}"), "99aa06d3014798d86001c324468d497f");
/// ```
pub fn leaf_digest(hash: LeafHash, chunk: &[u8]) -> LeafDigest {
    digest(Level::best(), hash, chunk)
}

pub(crate) fn digest(level: Level, hash: LeafHash, chunk: &[u8]) -> LeafDigest {
    match hash {
        LeafHash::Xxh3 => LeafDigest::Xxh3(Xxh3::new(level).finish(chunk).to_be_bytes()),
        LeafHash::Blake3 => LeafDigest::Blake3(*blake3::hash(chunk).as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_the_published_algorithms() {
        // The first is the XXH3_128bits value of no bytes with seed 0, the second BLAKE3's of no bytes.
        let hex = |leaf: LeafDigest| format!("{leaf:?}");
        assert_eq!(hex(leaf_digest(LeafHash::Xxh3, b"")), "99aa06d3014798d86001c324468d497f");
        assert_eq!(
            hex(leaf_digest(LeafHash::Blake3, b"")),
            "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
        );
    }
}
