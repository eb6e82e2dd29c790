//! How far an element moves.

use crate::element::Element;

/// From the old value of an element to another one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Distance {
    pub(super) down: bool,
    /// The distance beyond one unit; all ones if there is none.
    pub(super) beyond: u64,
}

impl Distance {
    /// To the same value.
    pub(super) const NONE: Self = Self { down: false, beyond: u64::MAX };

    #[inline(always)]
    pub(super) fn between<T: Element>(old: T, new: T) -> Self {
        let difference = new.minus(old);
        Self { down: difference < 0, beyond: difference.unsigned_abs().wrapping_sub(1) }
    }

    /// The bits of the distance beyond one unit; 64 if the element keeps its value.
    #[inline(always)]
    pub(super) fn bits(self) -> u32 {
        u64::BITS - self.beyond.leading_zeros()
    }

    #[inline(always)]
    pub(super) fn is_none(self) -> bool {
        self.beyond == u64::MAX
    }
}

/// The element a distance away.
#[inline(always)]
pub(super) fn moved<T: Element>(old: T, distance: u64, down: bool) -> T {
    let signed = if down { distance.wrapping_neg() } else { distance };
    T::from_u64(old.to_u64().wrapping_add(signed))
}
