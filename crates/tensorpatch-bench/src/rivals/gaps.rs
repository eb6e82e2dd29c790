//! Gaps and values through zstd: one byte a gap and new values, as PULSE does it; two bytes a gap and XORed
//! values, as NeMo RL does.

use anyhow::Result;

use super::{LEVEL, changes, get, put, split};

/// A patch of `count` values: the two lists, compressed together.
fn pack(count: usize, mut gaps: Vec<u8>, values: &[u8]) -> Result<Vec<u8>> {
    let mut out = u32::try_from(count)?.to_le_bytes().to_vec();
    out.extend(u32::try_from(gaps.len())?.to_le_bytes());
    gaps.extend_from_slice(values);
    out.extend(zstd::bulk::compress(&gaps, LEVEL)?);
    Ok(out)
}

/// The bytes of the gaps, and then those of the values.
fn unpack(mut patch: &[u8], target: &[u8]) -> Result<(usize, Vec<u8>)> {
    let mut number = || -> Result<usize> {
        let bytes = split(&mut patch, 4)?;
        Ok(bytes.iter().rev().fold(0, |value, &byte| value << 8 | usize::from(byte)))
    };
    let count = number()?;
    let gap_bytes = number()?;
    let most = gap_bytes.saturating_add(2 * count).min(8 * target.len() + 64);
    Ok((gap_bytes, zstd::bulk::decompress(patch, most)?))
}

#[expect(clippy::cast_possible_truncation, reason = "below 255")]
pub(super) fn encode_u8(old: &[u8], new: &[u8]) -> Result<Vec<u8>> {
    let (mut gaps, mut values) = (Vec::new(), Vec::new());
    let mut next = 0;
    for (position, _, value) in changes(old, new) {
        let gap = position - next;
        // 255 stands for 255 elements without a change, and goes on.
        gaps.resize(gaps.len() + gap / 255, 255);
        gaps.push((gap % 255) as u8);
        values.extend(value.to_le_bytes());
        next = position + 1;
    }
    pack(values.len() / 2, gaps, &values)
}

pub(super) fn apply_u8(patch: &[u8], target: &mut [u8]) -> Result<()> {
    let (gap_bytes, raw) = unpack(patch, target)?;
    let mut rest = &*raw;
    let gaps = split(&mut rest, gap_bytes)?;
    let mut values = rest.as_chunks().0.iter();
    let mut position = 0;
    for &gap in gaps {
        position += usize::from(gap);
        if gap < 255 {
            put(target, position, u16::from_le_bytes(*values.next().unwrap_or(&[0; 2])))?;
            position += 1;
        }
    }
    Ok(())
}

#[expect(clippy::cast_possible_truncation, reason = "below 65,535")]
pub(super) fn encode_u16(old: &[u8], new: &[u8]) -> Result<Vec<u8>> {
    let (mut gaps, mut values) = (Vec::new(), Vec::new());
    let mut next = 0;
    for (position, old, new) in changes(old, new) {
        let gap = position - next;
        for _ in 0..gap / 65_535 {
            gaps.extend(u16::MAX.to_le_bytes());
        }
        gaps.extend(((gap % 65_535) as u16).to_le_bytes());
        values.extend((old ^ new).to_le_bytes());
        next = position + 1;
    }
    pack(values.len() / 2, gaps, &values)
}

pub(super) fn apply_u16(patch: &[u8], target: &mut [u8]) -> Result<()> {
    let (gap_bytes, raw) = unpack(patch, target)?;
    let mut rest = &*raw;
    let gaps = split(&mut rest, gap_bytes)?;
    let mut values = rest.as_chunks().0.iter();
    let mut position = 0;
    for gap in gaps.as_chunks().0 {
        let gap = u16::from_le_bytes(*gap);
        position += usize::from(gap);
        if gap < u16::MAX {
            let xor = u16::from_le_bytes(*values.next().unwrap_or(&[0; 2]));
            put(target, position, get(target, position)? ^ xor)?;
            position += 1;
        }
    }
    Ok(())
}
