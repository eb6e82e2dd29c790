//! The fast decoder and the reference decoder: the same verdict and the same bytes.

use tensorpatch_codec::ChunkDecoder;
use tensorpatch_format::{Encoding, Profile};
use tensorpatch_reference as reference;

use super::chunk::{Input, dtype};
use super::patch;
use crate::{Verdict, repair_checksums};

/// What every zstd frame begins with.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Of any bytes, as they are and with their checksums made right, both decoders make the same on a given
/// base, or both refuse them.
pub fn decoders_agree(bytes: &[u8]) {
    let base = patch::base();
    let mut repaired = bytes.to_vec();
    repair_checksums(&mut repaired);
    for bytes in [bytes, &repaired] {
        let base = Some(&base);
        match (Verdict::of_fast(bytes, base), Verdict::of_reference(bytes, base)) {
            // Bytes that break several rules may be refused for any of them.
            (Verdict::Refused { .. }, Verdict::Refused { .. }) => {}
            (fast, slow) => assert_eq!(fast, slow),
        }
    }
}

/// Of any payload on any base, both decoders make the same chunk, or both refuse it; but for damaged zstd
/// frames, of which their libraries notice more or less, and make what they can (section 1 of the format).
pub fn chunk_decoders_agree(bytes: &[u8]) {
    let Some(mut input) = Input::new(bytes) else { return };
    // A tensor of no bytes has no chunks (section 2 of the format).
    if input.base.is_empty() {
        return;
    }
    // The profile is a matter of the patch, which the reference looks at before it comes to payloads.
    input.context.profile = Profile::Compact;
    let Input { context, encoding, base, payload } = input;
    let mut target = vec![0x55; base.len()];
    let fast = ChunkDecoder::new().decode(context, encoding, payload, Some(&base), &mut target);
    let dtype = dtype(context.format);
    match (fast, reference::decode_payload(encoding.code(), dtype, payload, Some(&base), base.len())) {
        (Ok(_), Ok(slow)) if target == slow => {}
        (Err(_), Err(_)) => {}
        _ if payload.windows(4).any(|bytes| bytes == ZSTD_MAGIC) => {}
        (fast, slow) => panic!("{encoding} {dtype}: {fast:?}, but {:?}", slow.map(|chunk| chunk.len())),
    }
}

/// What the conformance vectors of this repository hold, by name.
pub(super) fn vectors() -> Vec<(&'static str, Vec<u8>)> {
    vectors_of("tpatch")
}

/// The files among the vectors whose names end so.
pub(super) fn vectors_of(extension: &str) -> Vec<(&'static str, Vec<u8>)> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/conformance/v1");
    let mut files = Vec::new();
    for folder in ["valid", "invalid"] {
        for entry in std::fs::read_dir(format!("{directory}/{folder}")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|found| found != extension) {
                continue;
            }
            let name: &'static str = path.file_stem().unwrap().to_string_lossy().into_owned().leak();
            files.push((name, std::fs::read(&path).unwrap()));
        }
    }
    files.sort();
    files
}

/// The vectors, and patches of the base of these targets.
pub(super) fn patches() -> Vec<(&'static str, Vec<u8>)> {
    [patch::real_patches(), vectors()].concat()
}

/// The payloads of the vectors, each with a base of as many elements as fit.
pub(super) fn payloads() -> Vec<(&'static str, Vec<u8>)> {
    let mut seeds = super::chunk::payloads();
    for (name, file) in vectors() {
        let Ok(patch) = tensorpatch_format::PatchView::parse(&file, &super::limits()) else { continue };
        for record in patch.blocks().iter().flatten().take(1) {
            let code = Encoding::ALL.iter().position(|known| *known == record.encoding).unwrap();
            let [low, high] = 2000_u16.to_le_bytes();
            seeds.push((name, [&[0, code as u8, low, high, 0], record.payload].concat()));
        }
    }
    seeds
}
