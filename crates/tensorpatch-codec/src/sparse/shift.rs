//! From a symbol and its plain bits to the new value of an element.

use crate::element::Element;

use super::plan::ESCAPE;
use super::stream::Serial;

pub(super) const BAD_DISTANCE: &str = "a distance has more bits than an element";

/// The last of the codes whose distance is known without plain bits: unchanged, and one or two up or down.
pub(super) const LAST_NEAR: u32 = 4;

/// The element that `old` becomes by the symbol of this code, at most [`LAST_NEAR`].
#[inline(always)]
pub(super) fn near<T: Element>(old: T, code: u32) -> T {
    // 0, 1, -1, 2, -2: a byte each, from the low one on, without a table.
    let [difference, ..] = (0x00fe_02ff_0100_u64 >> (8 * code)).to_le_bytes();
    T::from_u64(old.to_u64().wrapping_add(i64::from(difference.cast_signed()).cast_unsigned()))
}

/// The element that `old` becomes by the symbol of this code, which is not that of `Unchanged`.
///
/// `None` if the distance has more bits than an element.
#[inline(always)]
pub(super) fn shifted<T: Element>(old: T, code: u32, plain: &mut Serial<'_>) -> Option<T> {
    if code <= LAST_NEAR { Some(near(old, code)) } else { shifted_far(old, code, plain) }
}

#[cold]
#[inline(never)]
fn shifted_far<T: Element>(old: T, code: u32, plain: &mut Serial<'_>) -> Option<T> {
    let (bits, down) = if code == ESCAPE {
        let both = plain.bits(7);
        (both & 63, both >> 6 == 1)
    } else {
        ((code - 1) >> 1, (code - 1) & 1 == 1)
    };
    far(old, bits, down, plain)
}

/// The same for a cold change, whose direction is known.
#[cold]
#[inline(never)]
pub(super) fn shifted_cold<T: Element>(old: T, code: u32, down: bool, plain: &mut Serial<'_>) -> Option<T> {
    let bits = if code == ESCAPE { plain.bits(6) } else { code.checked_sub(1)? >> 1 };
    far(old, bits, down, plain)
}

fn far<T: Element>(old: T, bits: u32, down: bool, plain: &mut Serial<'_>) -> Option<T> {
    if bits as usize >= T::WIDTH * 8 {
        return None;
    }
    let len = bits.saturating_sub(1);
    let mut beyond = u64::from(plain.bits(len.min(32)));
    if len > 32 {
        beyond |= u64::from(plain.bits(len - 32)) << 32;
    }
    if bits > 0 {
        beyond |= 1 << len;
    }
    Some(moved(old, beyond.wrapping_add(1), down))
}

/// The element a distance away.
#[inline(always)]
pub(super) fn moved<T: Element>(old: T, distance: u64, down: bool) -> T {
    let signed = if down { distance.wrapping_neg() } else { distance };
    T::from_u64(old.to_u64().wrapping_add(signed))
}
