//! Every level of this machine makes the same payloads, and makes of a payload, whole or damaged, what the
//! reference decoder makes of it.

#![expect(clippy::unwrap_used, reason = "a failure is the test's")]

mod common;

use common::{Bits, Fill, Step, context, elements, fill, pair, step};
use proptest::prelude::*;
use tensorpatch_codec::{ChunkContext, ChunkDecoder, ChunkEncoder, Encoded, Level};
use tensorpatch_format::{ElementFormat, Encoding, LeafHash, Profile};
use tensorpatch_reference as reference;

/// A dtype whose elements are of this format.
fn dtype(format: ElementFormat) -> &'static str {
    match format {
        ElementFormat::Bf16 => "BF16",
        ElementFormat::F16 => "F16",
        ElementFormat::F32 => "F32",
        ElementFormat::E4m3 => "F8_E4M3",
        ElementFormat::E5m2 => "F8_E5M2",
        ElementFormat::W16 => "U16",
        ElementFormat::W32 => "U32",
        ElementFormat::W64 => "U64",
        _ => "U8",
    }
}

/// What every level makes of two chunks.
fn encode(cx: ChunkContext, base: &[u8], target: &[u8]) -> (Encoded, Vec<u8>) {
    let mut all = Level::available().into_iter().map(|level| {
        let mut payload = Vec::new();
        let encoded = ChunkEncoder::with_level(level).encode(cx, base, target, None, &mut payload);
        (level, encoded, payload)
    });
    let (_, encoded, payload) = all.next().unwrap();
    for (level, other, bytes) in all {
        assert_eq!(other, encoded, "{}", level.name());
        assert!(bytes == payload, "another payload at {}", level.name());
    }
    (encoded, payload)
}

/// What the reference makes of a payload; `None` if it refuses it.
fn decode_slowly(cx: ChunkContext, encoding: Encoding, payload: &[u8], base: &[u8]) -> Option<Vec<u8>> {
    reference::decode_payload(encoding.code(), dtype(cx.format), payload, Some(base), base.len()).ok()
}

/// What every level makes of a payload; `None` if they refuse it. If it is known what is due, that is it.
fn decode(
    cx: ChunkContext,
    encoding: Encoding,
    payload: &[u8],
    base: &[u8],
    mut expected: Option<Option<Vec<u8>>>,
) -> Option<Vec<u8>> {
    for level in Level::available() {
        let mut decoder = ChunkDecoder::with_level(level);
        let mut beside = vec![0x55; base.len()];
        let found = decoder.decode(cx, encoding, payload, Some(base), &mut beside).ok().map(|_| beside);
        let expected = expected.get_or_insert_with(|| found.clone());
        assert!(found == *expected, "{encoding} beside at {}", level.name());
        let mut in_place = base.to_vec();
        let found = decoder.decode_in_place(cx, encoding, payload, &mut in_place).ok().map(|_| in_place);
        assert!(found == *expected, "{encoding} in place at {}", level.name());
        let (mut beside, mut in_place) = (vec![0x55; base.len()], base.to_vec());
        let found = decoder.pass(cx, encoding, payload, Some(base), &mut beside).ok().map(|()| beside);
        assert!(found == *expected, "{encoding} in passing, beside, at {}", level.name());
        let found = decoder.pass_in_place(cx, encoding, payload, &mut in_place).ok().map(|()| in_place);
        assert!(found == *expected, "{encoding} in passing, in place, at {}", level.name());
    }
    expected.unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn every_level_says_the_same_as_the_reference(
        cx in context(), elements in elements(), fill in fill(), step in step(), seed: u64,
    ) {
        let (base, target) = pair(cx.format.width(), elements, fill, step, seed);
        let (encoded, payload) = encode(cx, &base, &target);
        let Some(encoding) = encoded.encoding else { return Ok(()) };
        let slowly = decode_slowly(cx, encoding, &payload, &base);
        prop_assert!(decode(cx, encoding, &payload, &base, Some(slowly)) == Some(target));
        // What is wrong with a zstd frame libraries notice more or less of (section 1 of the format).
        let has_frame = |payload: &[u8]| payload.windows(4).any(|bytes| bytes == [0x28, 0xb5, 0x2f, 0xfd]);
        let agree = |damaged: &[u8]| {
            let slowly = (!has_frame(damaged)).then(|| decode_slowly(cx, encoding, damaged, &base));
            decode(cx, encoding, damaged, &base, slowly);
        };
        let mut bits = Bits::new(seed);
        for _ in 0..6 {
            let mut damaged = payload.clone();
            let at = usize::try_from(bits.below(payload.len() as u64)).unwrap();
            damaged[at] ^= 1 << bits.below(8);
            agree(&damaged);
            damaged.truncate(at);
            agree(&damaged);
        }
    }
}

/// Pairs that take each number of lanes, each way to tell what is hot, and each kind of tail.
fn shapes() -> Vec<(usize, Step)> {
    let step = |density, reach| Step { density, reach, clustered: false };
    let mut shapes = Vec::new();
    for elements in [3000, 20_001, 70_000, 98_304, 98_335, 131_071, 300_001] {
        for (density, reach) in [(3, 1), (60, 1), (60, 5), (300, 300), (700, 2), (3000, 1), (9000, 400)] {
            shapes.push((elements, step(density, reach)));
        }
    }
    shapes
}

#[test]
fn every_level_says_the_same_as_the_reference_whatever_the_number_of_lanes() {
    let formats = [
        (ElementFormat::Bf16, Fill::Weights),
        (ElementFormat::F16, Fill::Random),
        (ElementFormat::W16, Fill::Random),
    ];
    // By whether all classes are hot, and by the code of the lanes.
    let mut forms = [[0; 4]; 2];
    for (seed, (elements, step)) in (1_u64..).zip(shapes()) {
        let (format, fill) = formats[elements % 3];
        let cx = ChunkContext { format, profile: Profile::Compact, leaf_hash: LeafHash::Xxh3 };
        let (base, target) = pair(2, elements, fill, step, seed);
        let (encoded, payload) = encode(cx, &base, &target);
        let Some(Encoding::Sparse) = encoded.encoding else { continue };
        let head = payload.last().unwrap();
        forms[usize::from(head >> 4 & 3 == 0)][usize::from(head >> 6)] += 1;
        let slowly = decode_slowly(cx, Encoding::Sparse, &payload, &base);
        assert!(decode(cx, Encoding::Sparse, &payload, &base, Some(slowly)) == Some(target));
        let mut bits = Bits::new(seed);
        for _ in 0..2 {
            let mut damaged = payload.clone();
            let at = usize::try_from(bits.below(payload.len() as u64)).unwrap();
            damaged[at] ^= 1 << bits.below(8);
            let slowly = decode_slowly(cx, Encoding::Sparse, &damaged, &base);
            decode(cx, Encoding::Sparse, &damaged, &base, Some(slowly));
        }
    }
    // One lane is for a few changes, and 32 are for a symbol for each element.
    let [some_cold, all_hot] = forms;
    assert!(
        some_cold[..3].iter().chain(&all_hot[1..]).all(|count| *count > 0),
        "payloads by form: {forms:?}"
    );
}
