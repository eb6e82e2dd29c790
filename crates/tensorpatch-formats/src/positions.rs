//! Positions as these formats write them: one after the other, or as gaps.

use crate::Violation;

/// The positions in a list of four-byte signed numbers.
pub(crate) fn from_i32(bytes: &[u8], count: u64) -> Result<Vec<u64>, Violation> {
    let numbers = whole::<4>(bytes, count)?;
    let position = |(number, bytes): (usize, &[u8; 4])| {
        let refused = Violation::Position { number: number as u64, position: u64::MAX, count };
        u64::try_from(i32::from_le_bytes(*bytes)).map_err(|_| refused)
    };
    numbers.iter().enumerate().map(position).collect()
}

/// The positions whose gaps are given in numbers of `width` bytes: how many units lie between one and the one
/// before.
pub(crate) fn from_gaps(bytes: &[u8], width: usize, count: u64) -> Result<Vec<u64>, Violation> {
    let gaps: Vec<u64> = unsigned(bytes, width, count)?;
    let mut next = 0_u64;
    let position = |(number, gap): (usize, u64)| {
        let refused = |position| Violation::Position { number: number as u64, position, count };
        let position = next.checked_add(gap).ok_or_else(|| refused(u64::MAX))?;
        next = position.checked_add(1).ok_or_else(|| refused(position))?;
        Ok(position)
    };
    gaps.into_iter().enumerate().map(position).collect()
}

/// Little-endian numbers of `width` bytes, at most `count` of them.
pub(crate) fn unsigned(bytes: &[u8], width: usize, count: u64) -> Result<Vec<u64>, Violation> {
    Ok(match width {
        1 => whole::<1>(bytes, count)?.iter().map(|bytes| u64::from(u8::from_le_bytes(*bytes))).collect(),
        2 => whole::<2>(bytes, count)?.iter().map(|bytes| u64::from(u16::from_le_bytes(*bytes))).collect(),
        4 => whole::<4>(bytes, count)?.iter().map(|bytes| u64::from(u32::from_le_bytes(*bytes))).collect(),
        8 => whole::<8>(bytes, count)?.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect(),
        _ => return Err(Violation::differs("bytes of a position", "1, 2, 4 or 8", width)),
    })
}

/// The bytes as numbers of `W` bytes each. More of them than a tensor has units cannot be positions in it:
/// said before memory is taken for them.
fn whole<const W: usize>(bytes: &[u8], count: u64) -> Result<&[[u8; W]], Violation> {
    let (numbers, rest) = bytes.as_chunks::<W>();
    if !rest.is_empty() {
        return Err(Violation::differs("bytes of positions", format_args!("a multiple of {W}"), bytes.len()));
    }
    if numbers.len() as u64 > count {
        return Err(Violation::differs("positions", format_args!("at most {count}"), numbers.len()));
    }
    Ok(numbers)
}

/// Writes positions, ascending, as gaps of two bytes each, or of four if `wide`.
pub(crate) fn to_gaps(positions: &[u64], wide: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(positions.len().saturating_mul(if wide { 4 } else { 2 }));
    for gap in gaps(positions) {
        let bytes = gap.to_le_bytes();
        out.extend_from_slice(bytes.get(..if wide { 4 } else { 2 }).unwrap_or_default());
    }
    out
}

/// Whether gaps need four bytes.
pub(crate) fn are_wide(positions: &[u64]) -> bool {
    gaps(positions).any(|gap| gap > u64::from(u16::MAX))
}

fn gaps(positions: &[u64]) -> impl Iterator<Item = u64> {
    let mut next = 0_u64;
    positions.iter().map(move |&position| {
        let gap = position.saturating_sub(next);
        next = position.saturating_add(1);
        gap
    })
}

/// Writes positions below 2^32 in four bytes each.
pub(crate) fn to_u32(positions: &[u64]) -> Vec<u8> {
    positions.iter().flat_map(|position| position.to_le_bytes().into_iter().take(4)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_come_back_around_the_border_of_their_widths() {
        for gap in [0, 1, 65_534, 65_535, 65_536, 65_537] {
            for positions in [vec![], vec![gap], vec![0, gap + 1, gap + 2, 2 * gap + 3]] {
                let wide = are_wide(&positions);
                assert_eq!(wide, gap > 65_535 && !positions.is_empty(), "{gap}");
                let bytes = to_gaps(&positions, wide);
                let width = if wide { 4 } else { 2 };
                assert_eq!(bytes.len(), width * positions.len());
                assert_eq!(from_gaps(&bytes, width, u64::MAX).unwrap(), positions);
            }
        }
    }

    #[test]
    fn positions_that_overflow_or_are_negative_are_refused() {
        let gaps: Vec<u8> = [u64::MAX - 1, 1].iter().flat_map(|gap| gap.to_le_bytes()).collect();
        assert!(matches!(from_gaps(&gaps, 8, 9), Err(Violation::Position { number: 1, .. })));
        assert!(matches!(from_gaps(&[0xff; 8], 8, 9), Err(Violation::Position { number: 0, .. })));
        assert!(matches!(from_i32(&(-1_i32).to_le_bytes(), 9), Err(Violation::Position { number: 0, .. })));
        assert_eq!(from_i32(&7_i32.to_le_bytes(), 9).unwrap(), [7]);
    }

    #[test]
    fn more_positions_than_the_tensor_has_units_are_refused_and_so_are_parts_of_one() {
        assert_eq!(unsigned(&[1, 0, 2, 0], 2, 2).unwrap(), [1, 2]);
        for (bytes, width, count) in [(4, 2, 1), (3, 2, 9), (7, 4, 9), (9, 8, 9), (3, 1, 2), (3, 3, 9)] {
            let refused = unsigned(&vec![0; bytes], width, count);
            assert!(matches!(refused, Err(Violation::Differs { .. })), "{bytes} {width} {count}");
        }
    }
}
