//! XXH3-128 with seed 0, block by block as the bytes are made.
//!
//! The algorithm and its constants are those of the published xxHash specification. Inputs of at most 240
//! bytes are left to `twox-hash`; longer ones, which are all that matter for speed, are consumed in blocks of
//! 1024 bytes.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86;

use crate::level::{Kind, Level};

const PRIME32_1: u64 = 0x9e37_79b1;
const PRIME32_2: u64 = 0x85eb_ca77;
const PRIME32_3: u64 = 0xc2b2_ae3d;
const PRIME64_1: u64 = 0x9e37_79b1_85eb_ca87;
const PRIME64_2: u64 = 0xc2b2_ae3d_27d4_eb4f;
const PRIME64_3: u64 = 0x1656_67b1_9e37_79f9;
const PRIME64_4: u64 = 0x85eb_ca77_c2b2_ae63;
const PRIME64_5: u64 = 0x27d4_eb2f_1656_67c5;

const STRIPE: usize = 64;
/// Bytes between two scrambles: sixteen stripes, as many as the secret has places for.
pub(crate) const BLOCK: usize = 1024;
/// Up to this many bytes another algorithm is used.
const SHORT: usize = 240;

#[repr(align(64))]
struct Secret([u8; 192]);

static SECRET: Secret = Secret([
    0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c, 0xde,
    0xd4, 0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f, 0xcb, 0x79,
    0xe6, 0x4e, 0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21, 0xb8, 0x08, 0x46,
    0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c, 0x3c, 0x28, 0x52, 0xbb,
    0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3, 0x71, 0x64, 0x48, 0x97, 0xa2,
    0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8, 0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c,
    0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d, 0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59,
    0x31, 0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64, 0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb, 0xc3,
    0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb, 0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3,
    0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e, 0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f, 0xf8,
    0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce, 0x45, 0xcb, 0x3a, 0x8f, 0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb,
    0xca, 0xbb, 0x4b, 0x40, 0x7e,
]);

/// Eight accumulators.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Accumulators([u64; 8]);

/// A hash in the making.
#[derive(Debug, Clone)]
pub(crate) struct Xxh3 {
    accumulators: Accumulators,
    consumed: usize,
    level: Level,
}

impl Xxh3 {
    pub(crate) fn new(level: Level) -> Self {
        let accumulators = Accumulators([
            PRIME32_3, PRIME64_1, PRIME64_2, PRIME64_3, PRIME64_4, PRIME32_2, PRIME64_5, PRIME32_1,
        ]);
        Self { accumulators, consumed: 0, level }
    }

    /// How many bytes were consumed.
    pub(crate) fn consumed(&self) -> usize {
        self.consumed
    }

    /// Consumes the whole blocks at the start of `bytes` that are not the last of the input, which has
    /// `total` bytes in all.
    ///
    /// `bytes` must go on where what was consumed ends.
    pub(crate) fn blocks(&mut self, bytes: &[u8], total: usize) {
        if total <= SHORT {
            return;
        }
        let left = ((total - 1) / BLOCK * BLOCK).saturating_sub(self.consumed);
        let whole = left.min(bytes.len()) / BLOCK;
        let (blocks, _) = bytes.as_chunks::<BLOCK>();
        let blocks = blocks.get(..whole).unwrap_or(blocks);
        self.consumed += blocks.len() * BLOCK;
        match self.level.kind() {
            Kind::Portable => blocks.iter().for_each(|block| self.accumulators.block(block)),
            #[cfg(target_arch = "x86_64")]
            kind => x86::blocks(kind, &mut self.accumulators, blocks),
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => aarch64::blocks(&mut self.accumulators, blocks),
        }
    }

    /// Consumes what is left of `input`, whose first bytes were consumed already, and returns the hash.
    pub(crate) fn finish(mut self, input: &[u8]) -> u128 {
        if input.len() <= SHORT {
            return twox_hash::XxHash3_128::oneshot(input);
        }
        self.blocks(input.get(self.consumed..).unwrap_or_default(), input.len());
        let rest = input.get(self.consumed..).unwrap_or_default();
        let stripes = rest.len().saturating_sub(1) / STRIPE;
        for (i, stripe) in rest.as_chunks::<STRIPE>().0.iter().take(stripes).enumerate() {
            self.accumulators.stripe(stripe, 8 * i);
        }
        if let Some(last) = input.last_chunk::<STRIPE>() {
            self.accumulators.stripe(last, 192 - STRIPE - 7);
        }
        let len = input.len() as u64;
        let low = self.accumulators.merge(11, len.wrapping_mul(PRIME64_1));
        let high = self.accumulators.merge(192 - STRIPE - 11, !len.wrapping_mul(PRIME64_2));
        u128::from(high) << 64 | u128::from(low)
    }
}

/// Eight bytes of the secret.
#[inline(always)]
fn secret(at: usize) -> u64 {
    SECRET.0.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

impl Accumulators {
    #[inline(always)]
    fn stripe(&mut self, stripe: &[u8; STRIPE], secret_at: usize) {
        let (words, _) = stripe.as_chunks::<8>();
        for (i, word) in words.iter().enumerate() {
            let data = u64::from_le_bytes(*word);
            let key = data ^ secret(secret_at + 8 * i);
            self.0[i ^ 1] = self.0[i ^ 1].wrapping_add(data);
            self.0[i] = self.0[i].wrapping_add((key & 0xffff_ffff).wrapping_mul(key >> 32));
        }
    }

    #[inline(always)]
    fn block(&mut self, block: &[u8; BLOCK]) {
        for (i, stripe) in block.as_chunks::<STRIPE>().0.iter().enumerate() {
            self.stripe(stripe, 8 * i);
        }
        for (i, accumulator) in self.0.iter_mut().enumerate() {
            *accumulator ^= *accumulator >> 47;
            *accumulator ^= secret(192 - STRIPE + 8 * i);
            *accumulator = accumulator.wrapping_mul(PRIME32_1);
        }
    }

    fn merge(&self, secret_at: usize, start: u64) -> u64 {
        let mut sum = start;
        for (i, [a, b]) in self.0.as_chunks::<2>().0.iter().enumerate() {
            let left = u128::from(a ^ secret(secret_at + 16 * i));
            let right = u128::from(b ^ secret(secret_at + 16 * i + 8));
            let product = left * right;
            #[expect(clippy::cast_possible_truncation, reason = "the halves of the product are meant")]
            let folded = product as u64 ^ (product >> 64) as u64;
            sum = sum.wrapping_add(folded);
        }
        sum ^= sum >> 37;
        sum = sum.wrapping_mul(0x1656_6791_9e37_79f9);
        sum ^ sum >> 32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_and_cut_gives_the_published_hash() {
        let bytes: Vec<u8> = (0..40_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let lens =
            (0..300).chain([1023, 1024, 1025, 1087, 1088, 1089, 2047, 2048, 2049, 4096, 32_768, 40_000]);
        for len in lens {
            let input = &bytes[..len];
            let expected = twox_hash::XxHash3_128::oneshot(input);
            for level in Level::available() {
                assert_eq!(Xxh3::new(level).finish(input), expected, "{} bytes at {}", len, level.name());
                let mut hash = Xxh3::new(level);
                for piece in input.chunks(8 * BLOCK) {
                    hash.blocks(piece, len);
                }
                assert_eq!(hash.finish(input), expected, "{} bytes in pieces at {}", len, level.name());
            }
        }
    }
}
