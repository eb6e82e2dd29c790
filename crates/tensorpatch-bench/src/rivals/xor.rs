//! The XOR of whole tensors through zstd, as slime, miles, SGLang, ModelExpress and SkyRL do it.

use std::cell::RefCell;

use anyhow::Result;

use super::LEVEL;

thread_local! {
    /// The XOR, and the contexts of zstd: made once, so that neither pages nor tables are new for each
    /// tensor.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

#[derive(Default)]
struct Scratch {
    xor: Vec<u8>,
    compressor: Option<zstd::bulk::Compressor<'static>>,
    decompressor: Option<zstd::bulk::Decompressor<'static>>,
}

pub(super) fn encode(old: &[u8], new: &[u8]) -> Result<Vec<u8>> {
    SCRATCH.with_borrow_mut(|Scratch { xor, compressor, .. }| {
        xor.clear();
        xor.extend(old.iter().zip(new).map(|(old, new)| old ^ new));
        if compressor.is_none() {
            *compressor = Some(zstd::bulk::Compressor::new(LEVEL)?);
        }
        Ok(compressor.as_mut().map_or(Ok(Vec::new()), |zstd| zstd.compress(xor))?)
    })
}

pub(super) fn apply(patch: &[u8], target: &mut [u8]) -> Result<()> {
    SCRATCH.with_borrow_mut(|Scratch { xor, decompressor, .. }| {
        xor.clear();
        xor.reserve(target.len());
        if decompressor.is_none() {
            *decompressor = Some(zstd::bulk::Decompressor::new()?);
        }
        let written = decompressor.as_mut().map_or(Ok(0), |zstd| zstd.decompress_to_buffer(patch, xor))?;
        anyhow::ensure!(written == target.len(), "the XOR has another length");
        target.iter_mut().zip(&*xor).for_each(|(byte, xor)| *byte ^= xor);
        Ok(())
    })
}
