//! From f32 master weights to the dtype of a checkpoint.

/// The dtype of a synthetic checkpoint.
///
/// Dtypes of eight bits and less hold quantised weights: each row, or group of 128 elements of a row, is
/// divided by the scale that brings its largest weight of this step to the largest number of the dtype. The
/// scales themselves are not in the checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// The upper half of an f32.
    Bf16,
    /// Half precision.
    F16,
    /// The master weights themselves.
    F32,
    /// Eight bits with an exponent of four, scaled by rows.
    F8E4m3,
    /// Eight bits with an exponent of five, scaled by rows.
    F8E5m2,
    /// Integers from -127 to 127, scaled by rows.
    I8,
    /// Integers from -7 to 7, scaled by groups, two to a byte, the first in the lower half; the dtype of the
    /// file is U8.
    PackedInt4,
}

/// The elements that share a scale in [`Dtype::PackedInt4`].
const GROUP: usize = 128;

/// A float of at most 16 bits.
#[derive(Debug, Clone, Copy)]
struct SmallFloat {
    exponent_bits: u32,
    mantissa_bits: u32,
    /// The code of the largest finite number.
    largest: u16,
}

const F16: SmallFloat = SmallFloat { exponent_bits: 5, mantissa_bits: 10, largest: 0x7bff };
const E4M3: SmallFloat = SmallFloat { exponent_bits: 4, mantissa_bits: 3, largest: 0x7e };
const E5M2: SmallFloat = SmallFloat { exponent_bits: 5, mantissa_bits: 2, largest: 0x7b };

impl Dtype {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Bf16, Self::F16, Self::F32, Self::F8E4m3, Self::F8E5m2, Self::I8, Self::PackedInt4];

    /// The size of a weight in bits.
    pub fn bits(self) -> usize {
        match self {
            Self::Bf16 | Self::F16 => 16,
            Self::F32 => 32,
            Self::F8E4m3 | Self::F8E5m2 | Self::I8 => 8,
            Self::PackedInt4 => 4,
        }
    }

    /// The name in a safetensors header.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "BF16",
            Self::F16 => "F16",
            Self::F32 => "F32",
            Self::F8E4m3 => "F8_E4M3",
            Self::F8E5m2 => "F8_E5M2",
            Self::I8 => "I8",
            Self::PackedInt4 => "U8",
        }
    }

    /// Weights in one element of the file.
    pub(crate) fn packed(self) -> usize {
        match self {
            Self::PackedInt4 => 2,
            _ => 1,
        }
    }

    /// Appends whole rows of weights to `out` as a safetensors file holds them: little endian, without
    /// padding.
    #[expect(clippy::cast_possible_truncation, reason = "codes of eight bits, and integers from -127 to 127")]
    pub(crate) fn cast(self, weights: &[f32], row: usize, out: &mut Vec<u8>) {
        out.reserve(weights.len() * self.bits() / 8);
        let scaled = |group: usize, largest: f32| {
            weights.chunks(row.max(1)).flat_map(move |row| row.chunks(group.min(row.len()))).flat_map(
                move |group| {
                    let most = group.iter().fold(0.0_f32, |most, weight| most.max(weight.abs()));
                    let scale = if most > 0.0 { largest / most } else { 0.0 };
                    group.iter().map(move |weight| weight * scale)
                },
            )
        };
        match self {
            Self::Bf16 => weights.iter().for_each(|&w| out.extend_from_slice(&bf16_bits(w).to_le_bytes())),
            Self::F16 => weights.iter().for_each(|&w| out.extend_from_slice(&F16.bits(w).to_le_bytes())),
            Self::F32 => weights.iter().for_each(|&w| out.extend_from_slice(&w.to_le_bytes())),
            Self::F8E4m3 => out.extend(scaled(row, 448.0).map(|w| E4M3.bits(w) as u8)),
            Self::F8E5m2 => out.extend(scaled(row, 57_344.0).map(|w| E5M2.bits(w) as u8)),
            Self::I8 => {
                out.extend(scaled(row, 127.0).map(|w| (w.round_ties_even() as i8).cast_unsigned()));
            }
            Self::PackedInt4 => {
                let mut codes = scaled(GROUP, 7.0).map(|w| (w.round_ties_even() as i8).cast_unsigned() & 15);
                while let Some(low) = codes.next() {
                    out.push(low | codes.next().unwrap_or(0) << 4);
                }
            }
        }
    }
}

impl SmallFloat {
    /// Rounds to nearest, ties to even; what is too large becomes the largest number.
    #[expect(clippy::cast_possible_truncation, reason = "at most the largest code")]
    fn bits(self, value: f32) -> u16 {
        let bits = value.to_bits();
        let magnitude_bits = self.exponent_bits + self.mantissa_bits;
        let sign = (bits >> 31 << magnitude_bits) as u16;
        if value.is_nan() {
            return sign | ((1 << magnitude_bits) - 1);
        }
        // Exponents as they are stored here: 1 is that of the smallest normal number, and of what is below
        // it.
        let exponent = (bits >> 23 & 255).cast_signed() - 127 + ((1 << (self.exponent_bits - 1)) - 1);
        let significand = u64::from(bits & 0x007f_ffff | 0x0080_0000);
        let shift = (23 - self.mantissa_bits) + (1 - exponent).max(0).cast_unsigned();
        let rounded = if shift > 24 {
            0
        } else {
            let half = 1 << (shift - 1);
            let discarded = significand & ((1 << shift) - 1);
            let kept = significand >> shift;
            kept + u64::from(discarded > half || (discarded == half && kept & 1 == 1))
        };
        let code = (((exponent.max(1) - 1) as u64) << self.mantissa_bits) + rounded;
        sign | code.min(u64::from(self.largest)) as u16
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
        Dtype::Bf16.cast(&[1.0, -2.0], 2, &mut out);
        assert_eq!(out, [0x80, 0x3f, 0x00, 0xc0]);
        out.clear();
        Dtype::F32.cast(&[1.0], 1, &mut out);
        assert_eq!(out, [0, 0, 0x80, 0x3f]);
    }

    #[test]
    fn small_floats_round_to_nearest_and_saturate() {
        for (float, value, bits) in [
            (F16, 1.0, 0x3c00),
            (F16, -2.0, 0xc000),
            (F16, 1.0 + 1.0 / 2048.0, 0x3c00),
            (F16, 1.0 + 3.0 / 2048.0, 0x3c02),
            (F16, 65_504.0, 0x7bff),
            (F16, 1e9, 0x7bff),
            (F16, 5.960_464_5e-8, 0x0001),
            (F16, 2.980_232_2e-8, 0x0000),
            (F16, 2.980_233e-8, 0x0001),
            (F16, 6.103_515_6e-5, 0x0400),
            (F16, -0.0, 0x8000),
            (F16, f32::NAN, 0x7fff),
            (E4M3, 448.0, 0x7e),
            (E4M3, -448.0, 0xfe),
            (E4M3, 1.0, 0x38),
            (E4M3, 1.9375, 0x40),
            (E4M3, 0.001_953_125, 0x01),
            (E5M2, 57_344.0, 0x7b),
            (E5M2, 1.125, 0x3c),
            (E5M2, 1.375, 0x3e),
        ] {
            assert_eq!(float.bits(value), bits, "{value} {float:?}");
        }
    }

    #[test]
    fn the_largest_weight_of_a_row_becomes_the_largest_number() {
        let weights = [0.5, -1.0, 0.25, 0.0, 3.0, 1.5, -0.1, 0.0];
        let cast = |dtype: Dtype| {
            let mut out = Vec::new();
            dtype.cast(&weights, 4, &mut out);
            out
        };
        assert_eq!(cast(Dtype::I8), [64, 129, 32, 0, 127, 64, 252, 0]);
        assert_eq!(cast(Dtype::F8E4m3)[1], 0xfe);
        assert_eq!(cast(Dtype::F8E5m2)[4], 0x7b);
        assert_eq!(cast(Dtype::PackedInt4), [0x94, 0x02, 0x47, 0x00]);
    }
}
