//! The XOR of whole tensors through zstd, as slime, miles, SGLang, ModelExpress and SkyRL do it.

use anyhow::Result;

use super::LEVEL;

pub(super) fn encode(old: &[u8], new: &[u8]) -> Result<Vec<u8>> {
    let xor: Vec<u8> = old.iter().zip(new).map(|(old, new)| old ^ new).collect();
    Ok(zstd::bulk::compress(&xor, LEVEL)?)
}

pub(super) fn apply(patch: &[u8], target: &mut [u8]) -> Result<()> {
    let xor = zstd::bulk::decompress(patch, target.len())?;
    target.iter_mut().zip(&xor).for_each(|(byte, xor)| *byte ^= xor);
    Ok(())
}
