//! From f32 master weights to the dtype of a checkpoint.

/// The dtype of a synthetic checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// The upper half of an f32, rounded to nearest, ties to even.
    Bf16,
    /// The master weights themselves.
    F32,
}

impl Dtype {
    /// The size of an element in bytes.
    pub fn width(self) -> usize {
        match self {
            Self::Bf16 => 2,
            Self::F32 => 4,
        }
    }

    /// The name in a safetensors header.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "BF16",
            Self::F32 => "F32",
        }
    }

    /// Appends the weights to `out` as a safetensors file holds them: little endian, without padding.
    pub(crate) fn cast(self, weights: &[f32], out: &mut Vec<u8>) {
        out.reserve(weights.len() * self.width());
        match self {
            Self::Bf16 => weights.iter().for_each(|&w| out.extend_from_slice(&bf16_bits(w).to_le_bytes())),
            Self::F32 => weights.iter().for_each(|&w| out.extend_from_slice(&w.to_le_bytes())),
        }
    }
}

/// Rounds to nearest, ties to even. A NaN keeps its sign and upper payload and stays a NaN.
fn bf16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    let [_, _, low, high] = bits.to_le_bytes();
    let truncated = u16::from_le_bytes([low, high]);
    if value.is_nan() {
        return truncated | 0x0040;
    }
    let discarded = bits & 0xffff;
    let round_up = discarded > 0x8000 || (discarded == 0x8000 && truncated & 1 == 1);
    // The largest finite patterns carry into the exponent and become infinity, which is correct rounding.
    truncated + u16::from(round_up)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(bits: u32) -> f32 {
        f32::from_bits(bits)
    }

    #[test]
    fn a_cast_rounds_to_nearest_and_ties_to_even() {
        assert_eq!(bf16_bits(1.0), 0x3f80);
        assert_eq!(bf16_bits(value(0x3f80_7fff)), 0x3f80);
        assert_eq!(bf16_bits(value(0x3f80_8000)), 0x3f80, "tie, already even");
        assert_eq!(bf16_bits(value(0x3f81_8000)), 0x3f82, "tie, odd");
        assert_eq!(bf16_bits(value(0x3f80_8001)), 0x3f81);
        assert_eq!(bf16_bits(value(0xbf81_8000)), 0xbf82, "away from zero when negative and odd");
    }

    #[test]
    fn a_cast_keeps_zeros_infinities_and_nans() {
        assert_eq!(bf16_bits(-0.0), 0x8000);
        assert_eq!(bf16_bits(f32::NEG_INFINITY), 0xff80);
        assert_eq!(bf16_bits(f32::MAX), 0x7f80, "rounds to infinity");
        assert_eq!(bf16_bits(value(0x7f80_0001)), 0x7fc0, "a NaN in the lower half stays one");
    }

    #[test]
    fn elements_are_written_little_endian() {
        let mut out = Vec::new();
        Dtype::Bf16.cast(&[1.0, -2.0], &mut out);
        assert_eq!(out, [0x80, 0x3f, 0x00, 0xc0]);
        out.clear();
        Dtype::F32.cast(&[1.0], &mut out);
        assert_eq!(out, [0, 0, 0x80, 0x3f]);
    }
}
