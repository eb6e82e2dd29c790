//! Elements as unsigned integers of their width, and the exponents in them (section 3 of the format).

use std::ops::Range;

use tensorpatch_format::ElementFormat;

/// An element as the unsigned integer that its bytes spell.
pub(crate) trait Element: Copy + Eq {
    /// Bytes of an element.
    const WIDTH: usize;
    /// The element in exactly `WIDTH` bytes.
    fn load(bytes: &[u8]) -> Self;
    /// Writes the element into exactly `WIDTH` bytes.
    fn store(self, bytes: &mut [u8]);
    /// The value, zero-extended.
    fn to_u64(self) -> u64;
    /// The low bits of `value`.
    fn from_u64(value: u64) -> Self;
    /// The difference modulo the width, sign-extended.
    fn minus(self, other: Self) -> i64;
}

macro_rules! element {
    ($type:ty, $signed:ty) => {
        impl Element for $type {
            const WIDTH: usize = size_of::<$type>();

            #[inline]
            fn load(bytes: &[u8]) -> Self {
                bytes.try_into().map_or(0, Self::from_le_bytes)
            }

            #[inline]
            fn store(self, bytes: &mut [u8]) {
                bytes.copy_from_slice(&self.to_le_bytes());
            }

            #[inline]
            fn to_u64(self) -> u64 {
                self as u64
            }

            #[inline]
            #[expect(clippy::allow_attributes, reason = "the cast of u64 to itself loses nothing")]
            #[allow(clippy::cast_possible_truncation, reason = "the low bits are meant")]
            fn from_u64(value: u64) -> Self {
                value as Self
            }

            #[inline]
            fn minus(self, other: Self) -> i64 {
                self.wrapping_sub(other).cast_signed() as i64
            }
        }
    };
}

element!(u8, i8);
element!(u16, i16);
element!(u32, i32);
element!(u64, i64);

/// How many elements of so many bytes are in `bytes`.
pub(crate) fn count(bytes: &[u8], width: usize) -> usize {
    bytes.len().checked_div(width).unwrap_or(0)
}

/// Where element number `position` lies, if that can be said: with 32-bit addresses the product may not fit,
/// and must not come out as a place in the chunk.
pub(crate) fn range(position: usize, width: usize) -> Option<Range<usize>> {
    let start = position.checked_mul(width)?;
    Some(start..start.checked_add(width)?)
}

/// Where the key of an element lies, by which its class is found: its exponent, if it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key {
    /// The lowest bit of the key.
    pub(crate) shift: u32,
    /// The key after the shift.
    pub(crate) mask: u64,
}

impl Key {
    pub(crate) fn of(format: ElementFormat) -> Self {
        let (shift, bits) = match format {
            ElementFormat::Bf16 => (7, 8),
            ElementFormat::F16 => (10, 5),
            ElementFormat::F32 => (23, 8),
            ElementFormat::E4m3 => (3, 4),
            ElementFormat::E5m2 => (2, 5),
            ElementFormat::W8 | ElementFormat::W16 | ElementFormat::W32 | ElementFormat::W64 => (0, 0),
        };
        Self { shift, mask: !(u64::MAX << bits) }
    }

    /// The key of an element: 0 to 255.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the mask has at most eight bits")]
    pub(crate) fn find<T: Element>(self, element: T) -> usize {
        (element.to_u64() >> self.shift & self.mask) as usize
    }
}
