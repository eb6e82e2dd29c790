//! A list of int32 indices and a list of values, as TRL sends them.

use anyhow::{Result, ensure};

use super::{changes, put, split};

pub(super) fn encode(old: &[u8], new: &[u8]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut values = Vec::new();
    for (position, _, value) in changes(old, new) {
        out.extend(u32::try_from(position)?.to_le_bytes());
        values.extend(value.to_le_bytes());
    }
    out.extend(values);
    Ok(out)
}

pub(super) fn apply(mut patch: &[u8], target: &mut [u8]) -> Result<()> {
    ensure!(patch.len().is_multiple_of(6), "the lists differ in length");
    let count = patch.len() / 6;
    let indices = split(&mut patch, 4 * count)?;
    for (index, value) in indices.as_chunks().0.iter().zip(patch.as_chunks().0) {
        put(target, u32::from_le_bytes(*index) as usize, u16::from_le_bytes(*value))?;
    }
    Ok(())
}
