//! Schemas and layouts compressed for a patch, and back (section 7.3 of the format).

use tensorpatch_format::Packed;
use zstd::zstd_safe;

// Headers are JSON with long common parts: level 3 takes them to about a tenth, and the levels above gain
// little.
const LEVEL: i32 = 3;

/// Bytes of a schema or layout, in the shorter of the two forms that a patch may hold.
pub(crate) struct Packable {
    raw: Vec<u8>,
    frame: Option<Vec<u8>>,
}

impl Packable {
    pub(crate) fn new(raw: Vec<u8>) -> Self {
        let frame = zstd::bulk::compress(&raw, LEVEL).ok().filter(|frame| frame.len() < raw.len());
        Self { raw, frame }
    }

    pub(crate) fn packed(&self) -> Packed<'_> {
        match &self.frame {
            Some(frame) => Packed::zstd(frame, self.raw.len() as u64),
            None => Packed::plain(&self.raw),
        }
    }
}

/// The bytes of one zstd frame that decodes to exactly `len` bytes, a length that was checked against the
/// limits.
pub(crate) fn inflate(frame: &[u8], len: usize) -> Result<Vec<u8>, &'static str> {
    if zstd_safe::find_frame_compressed_size(frame) != Ok(frame.len()) {
        return Err("not one zstd frame");
    }
    match zstd::bulk::decompress(frame, len) {
        Ok(bytes) if bytes.len() == len => Ok(bytes),
        _ => Err("a zstd frame that does not decode to the declared bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_that_are_not_exactly_what_they_declare_are_refused() {
        let raw = vec![7; 10_000];
        let frame = zstd::bulk::compress(&raw, LEVEL).unwrap();
        assert_eq!(inflate(&frame, raw.len()), Ok(raw.clone()));
        assert!(inflate(&frame, raw.len() - 1).is_err());
        assert!(inflate(&frame, raw.len() + 1).is_err());
        assert!(inflate(&[frame.clone(), frame.clone()].concat(), 2 * raw.len()).is_err());
        assert!(inflate(&frame[..frame.len() - 1], raw.len()).is_err());
        assert!(inflate(b"", 0).is_err());
    }

    #[test]
    fn what_does_not_shrink_is_stored_as_it_is() {
        assert_eq!(Packable::new(vec![1, 2, 3]).packed().bytes(), [1, 2, 3]);
        assert!(Packable::new(vec![0; 1000]).packed().bytes().len() < 100);
    }
}
