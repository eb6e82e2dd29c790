//! What a delta says of one tensor: the common middle of all formats.

use std::borrow::Cow;

use tensorpatch_format::TensorSpec;

use crate::{ChecksumKind, Violation};

/// Bytes that are compared at once before single elements are.
const COMPARED_AT_ONCE: usize = 4096;

/// What becomes of the bytes of one tensor: all formats decode to this, and the target is made from it.
///
/// ```
/// use tensorpatch_formats::TensorDelta;
///
/// let (base, target) = ([0, 0, 1, 0, 2, 0], [0, 0, 9, 0, 2, 0]);
/// let delta = TensorDelta::between(&base, &target, 2);
/// assert_eq!(delta.positions(), Some(&[1][..]));
/// assert_eq!(delta.apply(&base)?, target);
/// # Ok::<(), tensorpatch_formats::Violation>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorDelta<'a> {
    /// What is done with the values.
    pub operation: Operation,
    /// Where the values go.
    pub places: Places,
    /// As many values as places, in their order.
    pub values: Cow<'a, [u8]>,
    /// What the new bytes of the tensor must give.
    pub checksum: Option<(ChecksumKind, Cow<'a, str>)>,
}

/// What is done with the values of a delta.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// They take the place of what was there. Doing it twice does no harm.
    Overwrite,
    /// They are XORed with what was there. Doing it twice reverts it.
    Xor,
}

/// Where the values of a delta go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Places {
    /// Everywhere: the values are as long as the tensor.
    All,
    /// To these units of `width` bytes, counted from the start of the tensor, strictly ascending.
    At {
        /// Bytes of a unit: those of an element, or 1.
        width: usize,
        /// The numbers of the units.
        positions: Vec<u64>,
    },
}

impl<'a> TensorDelta<'a> {
    /// What differs between `base` and `target`, by units of `width` bytes and compared as bits, with the new
    /// values: the positions and values that `tensorpatch_delta::TensorChanges` takes, if a unit is an
    /// element.
    ///
    /// Both must be of one length, and that a multiple of `width`; what is longer or left over is not looked
    /// at.
    pub fn between(base: &[u8], target: &'a [u8], width: usize) -> Self {
        let width = width.max(1);
        let mut positions = Vec::new();
        let mut values = Vec::new();
        let block = COMPARED_AT_ONCE.next_multiple_of(width);
        let blocks = base.chunks(block).zip(target.chunks(block));
        for (number, (old, new)) in blocks.enumerate().filter(|(_, (old, new))| old != new) {
            let first = number.saturating_mul(block.checked_div(width).unwrap_or_default());
            let units = old.chunks_exact(width).zip(new.chunks_exact(width));
            for (unit, (_, new)) in units.enumerate().filter(|(_, (old, new))| old != new) {
                positions.push(first.saturating_add(unit) as u64);
                values.extend_from_slice(new);
            }
        }
        Self {
            operation: Operation::Overwrite,
            places: Places::At { width, positions },
            values: values.into(),
            checksum: None,
        }
    }

    /// The positions, unless the values are for the whole tensor.
    pub fn positions(&self) -> Option<&[u64]> {
        match &self.places {
            Places::All => None,
            Places::At { positions, .. } => Some(positions),
        }
    }

    /// The tensor that this makes of `base`, checked against the checksum if there is one.
    ///
    /// # Errors
    /// If a position is out of order or outside of the tensor, the values are not as many as the places, or
    /// the result has another checksum.
    pub fn apply(&self, base: &[u8]) -> Result<Vec<u8>, Violation> {
        let target = match &self.places {
            Places::All => self.apply_everywhere(base)?,
            Places::At { width, positions } => self.apply_at(base, (*width).max(1), positions)?,
        };
        if let Some((kind, expected)) = &self.checksum {
            kind.check(&target, expected)?;
        }
        Ok(target)
    }

    fn apply_everywhere(&self, base: &[u8]) -> Result<Vec<u8>, Violation> {
        check_len(self.values.len(), base.len())?;
        let mut target = self.values.to_vec();
        if self.operation == Operation::Xor {
            xor(&mut target, base);
        }
        Ok(target)
    }

    fn apply_at(&self, base: &[u8], width: usize, positions: &[u64]) -> Result<Vec<u8>, Violation> {
        check_len(self.values.len(), positions.len().saturating_mul(width))?;
        let mut target = base.to_vec();
        let count = base.len().checked_div(width).unwrap_or_default() as u64;
        let mut next = 0;
        for (number, (&position, value)) in positions.iter().zip(self.values.chunks_exact(width)).enumerate()
        {
            let refused = Violation::Position { number: number as u64, position, count };
            if position < next {
                return Err(refused);
            }
            next = position.saturating_add(1);
            let start = usize::try_from(position).ok().and_then(|position| position.checked_mul(width));
            let range = start.and_then(|start| Some(start..start.checked_add(width)?));
            let Some(unit) = range.and_then(|range| target.get_mut(range)) else { return Err(refused) };
            match self.operation {
                Operation::Overwrite => unit.copy_from_slice(value),
                Operation::Xor => xor(unit, value),
            }
        }
        Ok(target)
    }
}

/// How many units of `width` bytes a tensor has.
pub(crate) fn elements(spec: &TensorSpec, width: usize) -> u64 {
    spec.byte_len.checked_div(width as u64).unwrap_or_default()
}

fn check_len(found: usize, expected: usize) -> Result<(), Violation> {
    if found == expected {
        return Ok(());
    }
    Err(Violation::differs("bytes of values", expected, found))
}

/// XORs `with` into `bytes`.
pub(crate) fn xor(bytes: &mut [u8], with: &[u8]) {
    bytes.iter_mut().zip(with).for_each(|(byte, with)| *byte ^= with);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(operation: Operation, positions: &[u64], values: &'static [u8]) -> TensorDelta<'static> {
        let places = Places::At { width: 2, positions: positions.to_vec() };
        TensorDelta { operation, places, values: values.into(), checksum: None }
    }

    #[test]
    fn values_are_written_or_xored_at_their_places_alone() {
        let base = [1, 2, 3, 4, 5, 6];
        assert_eq!(
            at(Operation::Overwrite, &[0, 2], &[9, 8, 7, 6]).apply(&base).unwrap(),
            [9, 8, 3, 4, 7, 6]
        );
        assert_eq!(at(Operation::Xor, &[1], &[1, 0xff]).apply(&base).unwrap(), [1, 2, 2, 0xfb, 5, 6]);
        let mut whole = at(Operation::Xor, &[], &[1, 1, 1, 1, 1, 1]);
        whole.places = Places::All;
        assert_eq!(whole.apply(&base).unwrap(), [0, 3, 2, 5, 4, 7]);
        whole.operation = Operation::Overwrite;
        assert_eq!(whole.apply(&base).unwrap(), [1; 6]);
    }

    #[test]
    fn positions_that_repeat_go_back_or_leave_the_tensor_are_refused() {
        for (positions, number, position) in
            [(&[1, 1][..], 1, 1), (&[2, 0], 1, 0), (&[0, 3], 1, 3), (&[0, u64::MAX], 1, u64::MAX)]
        {
            let refused = at(Operation::Overwrite, positions, &[0; 4]).apply(&[0; 6]);
            assert_eq!(refused, Err(Violation::Position { number, position, count: 3 }), "{positions:?}");
        }
    }

    #[test]
    fn values_that_are_not_as_many_as_places_are_refused() {
        for values in [&[0; 3][..], &[0; 5]] {
            assert!(matches!(
                at(Operation::Xor, &[0, 1], values).apply(&[0; 6]),
                Err(Violation::Differs { .. })
            ));
        }
        let mut whole = at(Operation::Xor, &[], &[0; 5]);
        whole.places = Places::All;
        assert!(matches!(whole.apply(&[0; 6]), Err(Violation::Differs { .. })));
    }

    #[test]
    fn a_result_with_another_checksum_is_refused() {
        let mut delta = at(Operation::Overwrite, &[0], &[7, 7]);
        delta.checksum = Some((ChecksumKind::Adler32, ChecksumKind::Adler32.of(&[7, 7, 1, 1]).into()));
        assert_eq!(delta.apply(&[0, 0, 1, 1]).unwrap(), [7, 7, 1, 1]);
        assert!(matches!(delta.apply(&[0, 0, 1, 2]), Err(Violation::Checksum { .. })));
    }

    #[test]
    fn differences_are_found_by_bits_across_blocks() {
        let base = vec![0_u8; 3 * COMPARED_AT_ONCE];
        let mut target = base.clone();
        for byte in [0, COMPARED_AT_ONCE - 1, COMPARED_AT_ONCE, 3 * COMPARED_AT_ONCE - 1] {
            target[byte] = 0x80;
        }
        for width in [1, 2, 4, 8] {
            let delta = TensorDelta::between(&base, &target, width);
            assert_eq!(delta.positions().map(<[u64]>::len), Some(4), "{width}");
            assert_eq!(delta.apply(&base).unwrap(), target);
        }
    }
}
