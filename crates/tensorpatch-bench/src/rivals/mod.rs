//! The encodings of other projects, written anew from their descriptions: what tensorpatch is measured
//! against.
//!
//! Each encodes one tensor and applies that to the base. What they all leave out, names and lengths, is left
//! out of their sizes too. Where a project does not hash the new state, it is done for them, so that every
//! row of a table verifies.

mod class_rice;
mod gaps;
mod indices;
mod xor;

use anyhow::Result;
use tensorpatch_codec::leaf_digest;
use tensorpatch_format::LeafHash;

/// One encoding of a whole tensor, with the hash that the receiver compares: a state without one does not
/// verify.
#[derive(Debug, Clone, Copy)]
pub struct Rival {
    /// The name in tables.
    pub name: &'static str,
    /// From base and target to a patch.
    pub encode: fn(&[u8], &[u8]) -> Result<Vec<u8>>,
    /// Turns the base in the last argument into the target.
    pub apply: fn(&[u8], &mut [u8]) -> Result<()>,
    /// Whether elements of other widths than two bytes work too.
    pub any_width: bool,
}

impl Rival {
    /// Encodes, and hashes the new state.
    ///
    /// # Errors
    /// If the tensor is too large for the encoding.
    pub fn encode_and_hash(&self, old: &[u8], new: &[u8]) -> Result<Vec<u8>> {
        let patch = (self.encode)(old, new)?;
        std::hint::black_box(leaf_digest(LeafHash::Xxh3, new));
        Ok(patch)
    }

    /// Applies in place, and hashes the new state.
    ///
    /// # Errors
    /// If the patch is broken.
    pub fn apply_and_hash(&self, patch: &[u8], target: &mut [u8]) -> Result<()> {
        (self.apply)(patch, target)?;
        std::hint::black_box(leaf_digest(LeafHash::Xxh3, target));
        Ok(())
    }
}

/// The one whose speed others are held against.
pub const XOR: Rival =
    Rival { name: "whole-tensor XOR + zstd-1", encode: xor::encode, apply: xor::apply, any_width: true };

/// All of them.
pub const RIVALS: &[Rival] = &[
    Rival { name: "int32 index + value", encode: indices::encode, apply: indices::apply, any_width: false },
    XOR,
    Rival {
        name: "u8 gaps + values + zstd-1",
        encode: gaps::encode_u8,
        apply: gaps::apply_u8,
        any_width: false,
    },
    Rival {
        name: "u16 gaps + XOR values + zstd-1",
        encode: gaps::encode_u16,
        apply: gaps::apply_u16,
        any_width: false,
    },
    Rival {
        name: "exponent-class Rice + zigzag + zstd-1, 4 to 5 times as fast as PULSEPT1 v3",
        encode: class_rice::encode,
        apply: class_rice::apply,
        any_width: false,
    },
];

const LEVEL: i32 = 1;

/// The changed elements of a tensor: number, old value, new value.
fn changes(old: &[u8], new: &[u8]) -> impl Iterator<Item = (usize, u16, u16)> {
    // Equal runs are skipped by whole words, as any author would.
    const WORDS: usize = 64;
    (0..).zip(old.chunks(WORDS).zip(new.chunks(WORDS))).filter(|(_, (old, new))| old != new).flat_map(
        |(word, (old, new))| {
            let pairs = old.as_chunks::<2>().0.iter().zip(new.as_chunks::<2>().0);
            (0..).zip(pairs).filter(|(_, (old, new))| old != new).map(move |(i, (old, new))| {
                (word * (WORDS / 2) + i, u16::from_le_bytes(*old), u16::from_le_bytes(*new))
            })
        },
    )
}

/// Writes an element.
fn put(target: &mut [u8], position: usize, value: u16) -> Result<()> {
    let at = 2 * position;
    let element =
        target.get_mut(at..at + 2).ok_or_else(|| anyhow::anyhow!("a position outside the tensor"))?;
    element.copy_from_slice(&value.to_le_bytes());
    Ok(())
}

/// The element at a position.
fn get(target: &[u8], position: usize) -> Result<u16> {
    let rest = target.get(2 * position..).and_then(|rest| rest.first_chunk());
    Ok(u16::from_le_bytes(*rest.ok_or_else(|| anyhow::anyhow!("a position outside the tensor"))?))
}

/// Splits off the first `len` items of a patch.
fn split<'a>(bytes: &mut &'a [u8], len: usize) -> Result<&'a [u8]> {
    let (head, rest) =
        bytes.split_at_checked(len).ok_or_else(|| anyhow::anyhow!("the patch is cut short"))?;
    *bytes = rest;
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::cast_possible_truncation, reason = "random bits")]
    fn every_rival_gives_the_target_back() {
        let mut state = 1u64;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let (mut old, mut new) = (Vec::new(), Vec::new());
        for i in 0..200_000u64 {
            let value = (random() & 0x07ff) as u16 + 0x3800;
            let changed = random() % 100 == 0 && !(50_000..150_000).contains(&i);
            let step = if random() % 50 == 0 { random() as u16 | 1 } else { 1 };
            old.extend(value.to_le_bytes());
            new.extend(if changed { value.wrapping_add(step) } else { value }.to_le_bytes());
        }
        for rival in RIVALS {
            let patch = (rival.encode)(&old, &new).unwrap();
            let mut target = old.clone();
            (rival.apply)(&patch, &mut target).unwrap();
            assert!(target == new, "{}", rival.name);
            assert!((rival.encode)(&old, &old).unwrap().len() < 64, "{}", rival.name);
        }
    }
}
