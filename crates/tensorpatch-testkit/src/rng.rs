//! Random numbers that are the same everywhere, for filling tensors from a seed that proptest picks.

/// SplitMix64.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// The sequence of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not 0. The bias does not matter to a test.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.bits() % bound
    }

    /// How often a coin with two sides shows the same one, at most `most` times.
    pub fn halvings(&mut self, most: u32) -> u32 {
        self.bits().trailing_zeros().min(most)
    }
}
