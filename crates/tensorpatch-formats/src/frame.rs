//! zstd frames whose size is known before anything is unpacked.

use zstd::zstd_safe;

use crate::Violation;

/// What all writers of these formats use.
const LEVEL: i32 = 1;
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Whether `bytes` begin as a zstd frame does.
pub(crate) fn is_frame(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

/// The bytes that the one frame in `frame` says it unpacks to.
pub(crate) fn content_size(frame: &[u8]) -> Result<u64, Violation> {
    if !is_frame(frame) {
        return Err(Violation::Frame("it does not begin as one"));
    }
    match zstd_safe::find_frame_compressed_size(frame) {
        Ok(len) if len == frame.len() => {}
        // Readers in Python take the first of two frames and say nothing.
        Ok(_) => return Err(Violation::Frame("bytes follow the frame")),
        Err(_) => return Err(Violation::Frame("it is cut short or damaged")),
    }
    match zstd_safe::get_frame_content_size(frame) {
        Ok(Some(size)) => Ok(size),
        _ => Err(Violation::Frame("the size is not stated")),
    }
}

/// Unpacks a frame that says it has `size` bytes, which the caller has found to be few enough.
pub(crate) fn unpack(frame: &[u8], size: u64) -> Result<Vec<u8>, Violation> {
    let found = content_size(frame)?;
    if found != size {
        return Err(Violation::differs("bytes in the frame", size, found));
    }
    let len = usize::try_from(size).map_err(|_| Violation::Frame("it does not fit the memory"))?;
    let mut bytes = vec![0; len];
    // zstd holds the content to the size that the frame states.
    zstd::bulk::decompress_to_buffer(frame, &mut bytes).map_err(|_| Violation::Frame("it is damaged"))?;
    Ok(bytes)
}

/// One frame that holds `bytes` and states their number, without a checksum of its own.
pub(crate) fn pack(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    zstd::bulk::compress(bytes, LEVEL)
}

/// The most bytes that [`pack`] makes of `len`.
pub(crate) fn bound(len: usize) -> usize {
    zstd_safe::compress_bound(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_comes_back_and_anything_but_one_frame_of_the_size_is_refused() {
        let bytes = vec![7; 1000];
        let frame = pack(&bytes).unwrap();
        assert_eq!((content_size(&frame), unpack(&frame, 1000)), (Ok(1000), Ok(bytes.clone())));
        let why = |frame: &[u8]| match unpack(frame, 1000).unwrap_err() {
            Violation::Frame(why) => why,
            other => panic!("{other}"),
        };
        assert!(matches!(unpack(&frame, 999), Err(Violation::Differs { .. })));
        assert_eq!(why(b"RIFF"), "it does not begin as one");
        assert_eq!(why(&[]), "it does not begin as one");
        assert_eq!(why(&frame[..frame.len() - 1]), "it is cut short or damaged");
        assert_eq!(why(&[&frame[..], &frame].concat()), "bytes follow the frame");
        let skippable = [0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0];
        assert_eq!(why(&[&frame[..], &skippable].concat()), "bytes follow the frame");
        assert_eq!(why(&[&skippable[..], &frame].concat()), "it does not begin as one");
        let mut unsized_frame = zstd::stream::Encoder::new(Vec::new(), LEVEL).unwrap();
        std::io::Write::write_all(&mut unsized_frame, &bytes).unwrap();
        assert_eq!(why(&unsized_frame.finish().unwrap()), "the size is not stated");
    }

    #[test]
    fn damage_inside_a_frame_is_refused_or_gives_the_declared_size() {
        let bytes: Vec<u8> = (0..2000_u32).map(|i| (i * i / 7) as u8).collect();
        let frame = pack(&bytes).unwrap();
        for at in 0..frame.len() {
            let mut damaged = frame.clone();
            damaged[at] ^= 0xff;
            if let Ok(unpacked) = unpack(&damaged, 2000) {
                assert_eq!(unpacked.len(), 2000);
            }
        }
    }
}
