//! Dtypes by their safetensors names, and how the codec sees their elements (section 3).

use std::fmt;

/// A dtype as safetensors spells it, known to this version or not.
///
/// An unknown dtype is carried as opaque bytes, so that a checkpoint with next year's dtype still syncs.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Dtype(Box<str>);

/// How chunk encodings see the bytes of a tensor: element width, and where an exponent lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ElementFormat {
    /// bfloat16: 8 exponent bits above 7 mantissa bits.
    Bf16,
    /// IEEE half: 5 exponent bits above 10 mantissa bits.
    F16,
    /// IEEE single: 8 exponent bits above 23 mantissa bits.
    F32,
    /// fp8 with 4 exponent and 3 mantissa bits.
    E4m3,
    /// fp8 with 5 exponent and 2 mantissa bits.
    E5m2,
    /// One-byte elements without an exponent; also sub-byte and unknown dtypes.
    W8,
    /// Two-byte elements without an exponent.
    W16,
    /// Four-byte elements without an exponent.
    W32,
    /// Eight-byte elements without an exponent.
    W64,
}

impl ElementFormat {
    /// Bytes of one element: 1, 2, 4 or 8.
    pub const fn width(self) -> usize {
        match self {
            Self::E4m3 | Self::E5m2 | Self::W8 => 1,
            Self::Bf16 | Self::F16 | Self::W16 => 2,
            Self::F32 | Self::W32 => 4,
            Self::W64 => 8,
        }
    }
}

impl Dtype {
    /// A dtype by name.
    ///
    /// Returns `None` unless the name has 1 to 32 bytes of `A-Z`, `0-9` and `_`.
    pub fn new(name: &str) -> Option<Self> {
        let fits = (1..=32).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
        fits.then(|| Self(name.into()))
    }

    /// The name, as in a safetensors header.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Bits of one element, or `None` for a dtype that this version does not know.
    pub fn bits(&self) -> Option<u64> {
        Some(match &*self.0 {
            "F4" => 4,
            "F6_E2M3" | "F6_E3M2" => 6,
            "BOOL" | "U8" | "I8" | "F8_E8M0" | "F8_E4M3" | "F8_E4M3FNUZ" | "F8_E5M2" | "F8_E5M2FNUZ" => 8,
            "BF16" | "F16" | "I16" | "U16" => 16,
            "F32" | "I32" | "U32" => 32,
            "F64" | "I64" | "U64" | "C64" => 64,
            _ => return None,
        })
    }

    /// How chunk encodings see this dtype.
    pub fn element_format(&self) -> ElementFormat {
        match &*self.0 {
            "BF16" => ElementFormat::Bf16,
            "F16" => ElementFormat::F16,
            "F32" => ElementFormat::F32,
            "F8_E4M3" | "F8_E4M3FNUZ" => ElementFormat::E4m3,
            "F8_E5M2" | "F8_E5M2FNUZ" => ElementFormat::E5m2,
            "I16" | "U16" => ElementFormat::W16,
            "I32" | "U32" => ElementFormat::W32,
            "F64" | "I64" | "U64" | "C64" => ElementFormat::W64,
            _ => ElementFormat::W8,
        }
    }
}

impl fmt::Debug for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_width_of_the_element_format_divides_the_bits_of_the_dtype_or_is_a_byte() {
        for name in ["BF16", "F16", "F32", "F64", "I64", "C64", "F8_E4M3", "F8_E5M2FNUZ", "U8", "BOOL", "I32"]
        {
            let dtype = Dtype::new(name).unwrap();
            assert_eq!(dtype.element_format().width() as u64 * 8, dtype.bits().unwrap(), "{name}");
        }
        for name in ["F4", "F6_E2M3", "F12_NEXT_YEAR"] {
            assert_eq!(Dtype::new(name).unwrap().element_format(), ElementFormat::W8);
        }
    }

    #[test]
    fn names_that_could_not_be_dtypes_are_refused() {
        for name in ["", "bf16", "BF 16", "BF16\n", &"A".repeat(33)] {
            assert!(Dtype::new(name).is_none(), "{name:?}");
        }
    }
}
