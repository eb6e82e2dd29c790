//! Named damage to bytes, so that a test says what it breaks and a failure says what was broken.

use std::fmt;

use proptest::prelude::*;

/// One kind of damage at one place. Places are in bytes unless said otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mutation {
    /// Keeps only the first `len` bytes.
    Truncate {
        /// How many.
        len: usize,
    },
    /// Flips one bit, counted from the lowest of the first byte.
    FlipBit {
        /// Which.
        bit: usize,
    },
    /// Overwrites bytes, without changing the length.
    Overwrite {
        /// The first.
        at: usize,
        /// What to write.
        bytes: Vec<u8>,
    },
    /// Takes bytes out and puts others in.
    Splice {
        /// Where.
        at: usize,
        /// How many to take out.
        remove: usize,
        /// What to put in.
        insert: Vec<u8>,
    },
    /// Copies a stretch to another place, over what is there.
    Copy {
        /// The first byte of the stretch.
        from: usize,
        /// Where it goes.
        to: usize,
        /// How many bytes.
        len: usize,
    },
    /// Puts bytes at the end.
    Append {
        /// Which.
        bytes: Vec<u8>,
    },
}

impl Mutation {
    /// The damaged bytes. Places beyond the end count as the end.
    pub fn apply(&self, bytes: &[u8]) -> Vec<u8> {
        let mut out = bytes.to_vec();
        let end = bytes.len();
        match self {
            Self::Truncate { len } => out.truncate(*len),
            Self::FlipBit { bit } => {
                if let Some(byte) = out.get_mut(bit / 8) {
                    *byte ^= 1 << (bit % 8);
                }
            }
            Self::Overwrite { at, bytes } => {
                for (old, new) in out.iter_mut().skip(*at).zip(bytes) {
                    *old = *new;
                }
            }
            Self::Splice { at, remove, insert } => {
                let at = (*at).min(end);
                out.splice(at..at.saturating_add(*remove).min(end), insert.iter().copied());
            }
            Self::Copy { from, to, len } => {
                let from = (*from).min(end);
                let stretch = &bytes[from..from.saturating_add(*len).min(end)];
                for (old, new) in out.iter_mut().skip(*to).zip(stretch) {
                    *old = *new;
                }
            }
            Self::Append { bytes } => out.extend_from_slice(bytes),
        }
        out
    }
}

impl fmt::Display for Mutation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncate { len } => write!(f, "truncated to {len} bytes"),
            Self::FlipBit { bit } => write!(f, "bit {} of byte {} flipped", bit % 8, bit / 8),
            Self::Overwrite { at, bytes } => write!(f, "{bytes:02x?} written over byte {at}"),
            Self::Splice { at, remove, insert } => {
                write!(f, "{remove} bytes at {at} replaced by {insert:02x?}")
            }
            Self::Copy { from, to, len } => write!(f, "{len} bytes copied from {from} to {to}"),
            Self::Append { bytes } => write!(f, "{bytes:02x?} appended"),
        }
    }
}

/// Any damage to `len` bytes.
pub fn mutations(len: usize) -> impl Strategy<Value = Mutation> {
    let at = 0..len.max(1);
    let few = || prop::collection::vec(prop_oneof![Just(0), Just(0xff), any::<u8>()], 1..9);
    prop_oneof![
        at.clone().prop_map(|len| Mutation::Truncate { len }),
        (0..len.max(1) * 8).prop_map(|bit| Mutation::FlipBit { bit }),
        (at.clone(), few()).prop_map(|(at, bytes)| Mutation::Overwrite { at, bytes }),
        (at.clone(), 0_usize..20, prop::collection::vec(any::<u8>(), 0..20))
            .prop_map(|(at, remove, insert)| Mutation::Splice { at, remove, insert }),
        (at.clone(), at, 1_usize..200).prop_map(|(from, to, len)| Mutation::Copy { from, to, len }),
        few().prop_map(|bytes| Mutation::Append { bytes }),
    ]
}
