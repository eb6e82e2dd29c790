//! The entropy floor of a pair: what no encoder that knows the exponents alone can go below.

use std::collections::HashMap;

use tensorpatch_format::ElementFormat;

use crate::pair::Pair;

/// The floor and what it is counted over.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Floor {
    /// Elements whose bits differ.
    pub changed: u64,
    /// All elements.
    pub elements: u64,
    /// Bits for which elements change: over tensors and old exponents the sum of n · H(share changed).
    pub position_bits: f64,
    /// Bits for how far: over tensors and old exponents the entropy of the step in units of the last place.
    pub value_bits: f64,
}

impl Floor {
    /// Bytes of both.
    pub fn bytes(&self) -> f64 {
        (self.position_bits + self.value_bits) / 8.0
    }

    /// The floor of a pair.
    pub fn of(pair: &Pair) -> Self {
        let mut floor = Self::default();
        for tensor in &pair.tensors {
            let (old, new) = (&pair.base[tensor.range.clone()], &pair.target[tensor.range.clone()]);
            floor.add(tensor.format, old, new);
        }
        floor
    }

    fn add(&mut self, format: ElementFormat, old: &[u8], new: &[u8]) {
        let width = format.width();
        let value = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |value, &byte| value << 8 | u64::from(byte));
        let (shift, mask) = match format {
            ElementFormat::Bf16 => (7, 255),
            ElementFormat::F16 => (10, 31),
            ElementFormat::F32 => (23, 255),
            ElementFormat::E4m3 => (3, 15),
            ElementFormat::E5m2 => (2, 31),
            ElementFormat::W8 | ElementFormat::W16 | ElementFormat::W32 | ElementFormat::W64 => (0, 0),
        };
        let mut all = [0_u64; 256];
        let mut steps: HashMap<u64, HashMap<u64, u64>> = HashMap::new();
        for (old, new) in old.chunks_exact(width).zip(new.chunks_exact(width)) {
            let (old, new) = (value(old), value(new));
            let exponent = old >> shift & mask;
            // No exponent has more than eight bits.
            all[(exponent & 255) as usize] += 1;
            if old != new {
                *steps.entry(exponent).or_default().entry(new.wrapping_sub(old)).or_default() += 1;
            }
        }
        for (exponent, count) in (0..).zip(all) {
            self.elements += count;
            let Some(steps) = steps.get(&exponent) else { continue };
            let changed: u64 = steps.values().sum();
            self.changed += changed;
            self.position_bits += entropy([changed, count - changed]);
            self.value_bits += entropy(steps.values().copied());
        }
    }
}

/// The bits that symbols with these counts take together at the least.
fn entropy(counts: impl IntoIterator<Item = u64> + Clone) -> f64 {
    let total: u64 = counts.clone().into_iter().sum();
    let log = |count: u64| if count == 0 { 0.0 } else { count as f64 * (count as f64).log2() };
    log(total) - counts.into_iter().map(log).sum::<f64>()
}
