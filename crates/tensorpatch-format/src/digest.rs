//! Digests as values of distinct types, so that one cannot be taken for another (section 4).

use std::fmt;
use std::str::FromStr;

/// The hash over the bytes of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum LeafHash {
    /// XXH3-128: as fast as memory, guards against accidents. The default.
    #[default]
    Xxh3,
    /// BLAKE3: guards against an adversary who can alter the tensor bytes, at about a fifth of the speed.
    Blake3,
}

impl LeafHash {
    /// The code in the header of a patch (section 6).
    pub const fn code(self) -> u8 {
        match self {
            Self::Xxh3 => 1,
            Self::Blake3 => 2,
        }
    }

    /// The leaf hash with this code.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Xxh3),
            2 => Some(Self::Blake3),
            _ => None,
        }
    }

    /// Bytes of a leaf digest.
    pub const fn digest_len(self) -> usize {
        match self {
            Self::Xxh3 => 16,
            Self::Blake3 => 32,
        }
    }

    /// Whether nobody can make other bytes with the digest of given ones. With XXH3 that takes seconds; it
    /// guards against accidents alone.
    pub const fn is_cryptographic(self) -> bool {
        matches!(self, Self::Blake3)
    }

    /// The name in digests written for people and in commands.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Xxh3 => "xxh3",
            Self::Blake3 => "blake3",
        }
    }
}

impl fmt::Display for LeafHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for LeafHash {
    type Err = ParseDigestError;

    fn from_str(name: &str) -> Result<Self, ParseDigestError> {
        match name {
            "xxh3" => Ok(Self::Xxh3),
            "blake3" => Ok(Self::Blake3),
            _ => Err(ParseDigestError),
        }
    }
}

/// The digest of one chunk: 16 or 32 bytes, as its [`LeafHash`] says.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum LeafDigest {
    /// Of [`LeafHash::Xxh3`], in canonical (big endian) byte order.
    Xxh3([u8; 16]),
    /// Of [`LeafHash::Blake3`].
    Blake3([u8; 32]),
}

impl LeafDigest {
    /// The bytes that go into the tensor digest and into an index.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Xxh3(bytes) => bytes,
            Self::Blake3(bytes) => bytes,
        }
    }

    /// The hash that the digest is of.
    pub const fn hash(&self) -> LeafHash {
        match self {
            Self::Xxh3(_) => LeafHash::Xxh3,
            Self::Blake3(_) => LeafHash::Blake3,
        }
    }

    /// A digest of `hash` from its bytes, or `None` if there are not [`LeafHash::digest_len`] of them.
    pub fn from_bytes(hash: LeafHash, bytes: &[u8]) -> Option<Self> {
        match hash {
            LeafHash::Xxh3 => bytes.try_into().ok().map(Self::Xxh3),
            LeafHash::Blake3 => bytes.try_into().ok().map(Self::Blake3),
        }
    }
}

impl fmt::Debug for LeafDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.as_bytes()))
    }
}

/// A text that is no digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a digest: expected xxh3: or blake3: and 64 lower-case hexadecimal digits")]
pub struct ParseDigestError;

macro_rules! digest {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; 32]);

        impl $name {
            /// What stands where there is no such thing, as for the base of a full patch.
            pub const NONE: Self = Self([0; 32]);

            /// The digest with these bytes.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The bytes of the digest.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseDigestError;

            fn from_str(text: &str) -> Result<Self, ParseDigestError> {
                let mut bytes = [0; 32];
                if text.bytes().any(|b| b.is_ascii_uppercase()) {
                    return Err(ParseDigestError);
                }
                hex::decode_to_slice(text, &mut bytes).map_err(|_| ParseDigestError)?;
                Ok(Self(bytes))
            }
        }
    };
}

digest!(
    /// The digest of one tensor's bytes: over its leaf digests.
    TensorDigest
);
digest!(
    /// The digest of a whole state: every tensor's name, dtype, shape and bytes.
    StateDigest
);
digest!(
    /// The digest of a schema: the names, dtypes and shapes of a state.
    SchemaDigest
);
digest!(
    /// The digest of a layout: file names, header bytes and index bytes of a checkpoint.
    LayoutDigest
);

/// A state digest together with the leaf hash that it is made with, written as `xxh3:…` or `blake3:…`.
///
/// ```
/// use tensorpatch_format::TaggedStateDigest;
///
/// let text = format!("xxh3:{}", "0f".repeat(32));
/// let digest: TaggedStateDigest = text.parse()?;
/// assert_eq!(digest.to_string(), text);
/// # Ok::<(), tensorpatch_format::ParseDigestError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TaggedStateDigest {
    /// The hash over chunks.
    pub leaf_hash: LeafHash,
    /// The digest.
    pub digest: StateDigest,
}

impl fmt::Display for TaggedStateDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.leaf_hash, self.digest)
    }
}

impl FromStr for TaggedStateDigest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, ParseDigestError> {
        let (leaf_hash, digest) = text.split_once(':').ok_or(ParseDigestError)?;
        Ok(Self { leaf_hash: leaf_hash.parse()?, digest: digest.parse()? })
    }
}

/// `BLAKE3(domain ‖ parts…)`.
pub(crate) fn blake3_of(domain: &str, parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(domain.as_bytes());
    for part in parts {
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}

impl TensorDigest {
    /// The digest of a tensor of `byte_len` bytes from the digests of its chunks, in order (section 4).
    pub fn of_leaves(hash: LeafHash, byte_len: u64, leaves: &[LeafDigest]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"tensorpatch.v1.tensor\0");
        hasher.update(&[hash.code()]);
        hasher.update(&byte_len.to_le_bytes());
        for leaf in leaves {
            hasher.update(leaf.as_bytes());
        }
        Self(*hasher.finalize().as_bytes())
    }
}

impl StateDigest {
    /// The digest of a state from its schema's and those of its tensors, in the order of the schema (section
    /// 4).
    pub fn of_tensors(schema: SchemaDigest, tensors: &[TensorDigest]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"tensorpatch.v1.state\0");
        hasher.update(schema.as_bytes());
        for tensor in tensors {
            hasher.update(tensor.as_bytes());
        }
        Self(*hasher.finalize().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_has_one_spelling() {
        let digest = SchemaDigest::from_bytes([0xab; 32]);
        let text = digest.to_string();
        assert_eq!((text.len(), text.parse()), (64, Ok(digest)));
        for other in [text.to_uppercase(), text[1..].to_owned(), format!("{text}0"), text.replace('a', "g")] {
            assert_eq!(other.parse::<SchemaDigest>(), Err(ParseDigestError), "{other}");
        }
    }
}
