//! zstd frames of known size.

use crate::CodecError;
use zstd::zstd_safe;

// Level 1 is what keeps up with the other encodings; on byte planes of weights the levels above save under 2
// %.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_comes_back_and_anything_but_one_frame_of_the_size_is_refused() {
        let bytes = [7; 1000];
        let frame = Packer::default().pack(&bytes, 1000).unwrap().to_vec();
        let unpack = |frame: &[u8], len| Unpacker::default().unpack(frame, 3, &mut vec![0; len]);
        assert_eq!(unpack(&frame, 1000), Ok(()));
        assert_eq!(unpack(&frame, 1001).unwrap_err().offset, 3);
        assert!(unpack(&frame, 999).is_err());
        assert!(unpack(&frame[..frame.len() - 1], 1000).is_err());
        // zstd itself would skip an empty frame that decodes to nothing.
        let mut with_skippable = frame;
        with_skippable.extend([0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0]);
        assert!(unpack(&with_skippable, 1000).is_err());
    }
}
