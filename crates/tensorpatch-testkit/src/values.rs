//! What the elements of generated tensors are, and how they change from base to target.

use tensorpatch_format::ElementFormat;

use crate::Rng;

/// What a new tensor is filled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// Zero bytes.
    Zeros,
    /// Floats with signs and mantissas at random and exponents that fall off as those of weights do; small
    /// integers.
    Weights,
    /// Any bits.
    Noise,
    /// Zeros of both signs, infinities, NaNs with payloads, the smallest and largest of everything.
    Extremes,
}

/// How elements change from a base to its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// To the next pattern above or below, as a step of training does.
    Ulp,
    /// By a few patterns up or down.
    Few,
    /// Only the sign bit, so that a zero becomes a minus zero.
    Sign,
    /// To any other bits.
    Noise,
    /// To one of the patterns of [`Fill::Extremes`].
    Extremes,
}

impl Fill {
    /// `len` bytes of elements.
    pub fn bytes(self, format: ElementFormat, len: usize, rng: &mut Rng) -> Vec<u8> {
        let mut bytes = vec![0; len];
        for element in bytes.chunks_mut(format.width()) {
            let bits = match self {
                Self::Zeros => 0,
                Self::Weights => weight(format, rng),
                Self::Noise => rng.bits(),
                Self::Extremes => extreme(format, rng),
            };
            element.copy_from_slice(&bits.to_le_bytes()[..element.len()]);
        }
        bytes
    }
}

impl Change {
    /// Changes about `density` thousandths of the elements; all of them at 1000, none at 0.
    pub fn apply(self, format: ElementFormat, density: u32, bytes: &mut [u8], rng: &mut Rng) {
        for element in bytes.chunks_mut(format.width()) {
            if rng.below(1000) >= u64::from(density) {
                continue;
            }
            let mut bits = [0; 8];
            bits[..element.len()].copy_from_slice(element);
            let old = u64::from_le_bytes(bits);
            let up = rng.bits() & 1 == 0;
            let moved = |by: u64| if up { old.wrapping_add(by) } else { old.wrapping_sub(by) };
            let new = match self {
                Self::Ulp => moved(1),
                Self::Few => moved(1 + u64::from(rng.halvings(12))),
                Self::Sign => old ^ (1 << (8 * element.len() - 1)),
                Self::Noise => rng.bits(),
                Self::Extremes => extreme(format, rng),
            };
            element.copy_from_slice(&new.to_le_bytes()[..element.len()]);
        }
    }
}

/// Bits of the exponent and of the mantissa.
fn float_fields(format: ElementFormat) -> Option<(u32, u32)> {
    Some(match format {
        ElementFormat::Bf16 => (8, 7),
        ElementFormat::F16 => (5, 10),
        ElementFormat::F32 => (8, 23),
        ElementFormat::E4m3 => (4, 3),
        ElementFormat::E5m2 => (5, 2),
        ElementFormat::W8 | ElementFormat::W16 | ElementFormat::W32 | ElementFormat::W64 => return None,
    })
}

fn weight(format: ElementFormat, rng: &mut Rng) -> u64 {
    let Some((exponent_bits, mantissa_bits)) = float_fields(format) else {
        return rng.below(200);
    };
    let bias = (1 << (exponent_bits - 1)) - 1;
    let exponent = u64::from(bias - 3_u32.min(bias) - rng.halvings(bias - 3_u32.min(bias)));
    let mantissa = rng.below(1 << mantissa_bits);
    let sign = rng.below(2);
    (sign << (exponent_bits + mantissa_bits)) | (exponent << mantissa_bits) | mantissa
}

fn extreme(format: ElementFormat, rng: &mut Rng) -> u64 {
    let bits = 8 * format.width() as u32;
    let all = u64::MAX >> (64 - bits);
    let sign = 1 << (bits - 1);
    let infinity = float_fields(format).map_or(all >> 1, |(e, m)| ((1 << e) - 1) << m);
    let patterns = [
        0,
        sign,
        1,
        sign | 1,
        all,
        all >> 1,
        infinity,
        infinity | sign,
        infinity | 1,
        infinity.wrapping_sub(1) & all,
        0x5555_5555_5555_5555 & all,
        infinity | (rng.bits() & (all >> 1)),
    ];
    patterns[rng.below(patterns.len() as u64) as usize]
}
