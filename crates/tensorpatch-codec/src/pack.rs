//! zstd frames of known size.

use crate::CodecError;
use zstd::zstd_safe;

// Level 1 is what keeps up with the other encodings; on byte planes of weights the levels above save under 2 %.
const LEVEL: i32 = 1;

/// Compression with its context kept between chunks.
#[derive(Default)]
pub(crate) struct Packer {
    context: Option<zstd::bulk::Compressor<'static>>,
    frame: Vec<u8>,
}

impl Packer {
    /// One frame that decodes to `bytes`, if there is one shorter than `limit` bytes.
    pub(crate) fn pack(&mut self, bytes: &[u8], limit: usize) -> Option<&[u8]> {
        if self.context.is_none() {
            self.context = Some(zstd::bulk::Compressor::new(LEVEL).ok()?);
        }
        self.frame.clear();
        self.frame.reserve(zstd_safe::compress_bound(bytes.len()));
        let len = self.context.as_mut()?.compress_to_buffer(bytes, &mut self.frame).ok()?;
        (len < limit).then(|| self.frame.get(..len)).flatten()
    }
}

/// Decompression with its context kept between chunks.
#[derive(Default)]
pub(crate) struct Unpacker {
    context: Option<zstd::bulk::Decompressor<'static>>,
}

impl Unpacker {
    /// Fills `target` from `frame`, which lies at `offset` of the payload.
    pub(crate) fn unpack(
        &mut self,
        frame: &[u8],
        offset: usize,
        target: &mut [u8],
    ) -> Result<(), CodecError> {
        let bad = CodecError::new("not a zstd frame of exactly the expected bytes", offset);
        if zstd_safe::find_frame_compressed_size(frame) != Ok(frame.len()) {
            return Err(bad);
        }
        if self.context.is_none() {
            self.context = Some(zstd::bulk::Decompressor::new().map_err(|_| bad)?);
        }
        let context = self.context.as_mut().ok_or(bad)?;
        match context.decompress_to_buffer(frame, target) {
            Ok(len) if len == target.len() => Ok(()),
            _ => Err(bad),
        }
    }
}

impl std::fmt::Debug for Packer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packer").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Unpacker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unpacker").finish_non_exhaustive()
    }
}
