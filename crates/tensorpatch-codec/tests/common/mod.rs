//! Chunks that look like training, and chunks that do not.

#![expect(clippy::cast_possible_truncation, reason = "small numbers")]

use proptest::prelude::*;
use tensorpatch_codec::ChunkContext;
use tensorpatch_format::{ElementFormat, LeafHash, Profile};

pub(crate) const FORMATS: [ElementFormat; 9] = [
    ElementFormat::Bf16,
    ElementFormat::F16,
    ElementFormat::F32,
    ElementFormat::E4m3,
    ElementFormat::E5m2,
    ElementFormat::W8,
    ElementFormat::W16,
    ElementFormat::W32,
    ElementFormat::W64,
];

pub(crate) fn context() -> impl Strategy<Value = ChunkContext> {
    let profile = prop_oneof![3 => Just(Profile::Compact), 1 => Just(Profile::Direct)];
    let leaf_hash = prop_oneof![3 => Just(LeafHash::Xxh3), 1 => Just(LeafHash::Blake3)];
    (prop::sample::select(&FORMATS[..]), profile, leaf_hash)
        .prop_map(|(format, profile, leaf_hash)| ChunkContext { format, profile, leaf_hash })
}

/// A source of bits that does not depend on any crate's version: xorshift64*.
pub(crate) struct Bits(u64);

impl Bits {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

/// How the elements of a base are filled.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fill {
    Random,
    /// Exponents of a bell curve.
    Weights,
    /// Zeros of both signs, infinities, NaNs, the largest and the least.
    Special,
    Constant,
}

/// How the target differs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    /// Changed elements in 10,000.
    pub(crate) density: u64,
    /// The change is below this; 0 is for a change of any size.
    pub(crate) reach: u64,
    /// Only elements of this run are changed, in eighths of the chunk.
    pub(crate) clustered: bool,
}

pub(crate) fn pair(width: usize, elements: usize, fill: Fill, step: Step, seed: u64) -> (Vec<u8>, Vec<u8>) {
    let mut bits = Bits::new(seed);
    let mut base = Vec::new();
    let mut target = Vec::new();
    let top = width as u32 * 8 - 1;
    for i in 0..elements {
        let old = match fill {
            Fill::Random => bits.next(),
            Fill::Weights => {
                let exponent = 120u64.saturating_sub(u64::from(bits.next().trailing_zeros()));
                let bf16 = bits.next() & 0x807f | exponent << 7;
                if width == 1 { bf16 >> 8 ^ bits.below(4) } else { bf16 << (width * 8 - 16) }
            }
            Fill::Special => {
                [0, 1, 1 << top, u64::MAX, u64::MAX >> 1, 0x7f80, 0x7fc1, 0xff80][bits.below(8) as usize]
            }
            Fill::Constant => 0x3f80,
        };
        let inside = !step.clustered || i * 8 / elements.max(1) == 3;
        let new = if inside && bits.below(10_000) < step.density {
            let distance = if step.reach == 0 { bits.next() } else { bits.below(step.reach) + 1 };
            if bits.next() & 1 == 0 { old.wrapping_add(distance) } else { old.wrapping_sub(distance) }
        } else {
            old
        };
        base.extend_from_slice(&old.to_le_bytes()[..width]);
        target.extend_from_slice(&new.to_le_bytes()[..width]);
    }
    (base, target)
}

pub(crate) fn fill() -> impl Strategy<Value = Fill> {
    prop_oneof![
        3 => Just(Fill::Weights),
        1 => Just(Fill::Random),
        1 => Just(Fill::Special),
        1 => Just(Fill::Constant),
    ]
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    let density = prop_oneof![Just(0u64), Just(1), Just(100), Just(3000), Just(10_000), 0u64..=10_000];
    let reach = prop_oneof![4 => Just(1u64), 2 => 1u64..300, 1 => Just(0)];
    (density, reach, prop::bool::weighted(0.2)).prop_map(|(density, reach, clustered)| Step {
        density,
        reach,
        clustered,
    })
}

/// Element counts: few, those around the borders of groups and strips, and some of whole chunks' size.
pub(crate) fn elements() -> impl Strategy<Value = usize> {
    prop_oneof![
        4 => 0usize..200,
        2 => prop::sample::select(&[31usize, 32, 33, 63, 64, 65, 383, 384, 1023, 4095, 4096, 4097, 8192, 16_385][..]),
        2 => 200usize..20_000,
        1 => 60_000usize..131_072,
    ]
}
