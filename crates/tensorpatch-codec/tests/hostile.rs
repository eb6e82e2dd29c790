//! Any bytes on any base: a chunk or an error, never a panic, and never more memory than the chunk calls for.

#![expect(clippy::cast_possible_truncation, reason = "a seed that loses bits is a seed")]

mod common;

use common::{Fill, Step, context, elements, fill, pair, step};
use proptest::prelude::*;
use tensorpatch_codec::{Changes, ChunkContext, ChunkDecoder, ChunkEncoder, CodecError, leaf_digest};
use tensorpatch_format::{Encoding, Profile};

/// Decodes in every way; what succeeds must be whole and tell its digest.
fn attack(cx: ChunkContext, encoding: Encoding, payload: &[u8], base: &[u8]) -> Result<Vec<u8>, CodecError> {
    let mut decoder = ChunkDecoder::new();
    let mut target = vec![0x55; base.len()];
    let leaf = decoder.decode(cx, encoding, payload, Some(base), &mut target);
    let mut chunk = base.to_vec();
    let in_place = decoder.decode_in_place(cx, encoding, payload, &mut chunk);
    assert_eq!(leaf, in_place, "both ways agree");
    let mut changes = Changes::default();
    if let Ok(()) = decoder.changes(cx, encoding, payload, base, &mut changes) {
        assert!(changes.positions.is_sorted_by(|a, b| a < b));
        assert!(
            changes.positions.last().is_none_or(|&last| (last as usize) < base.len() / cx.format.width())
        );
        assert_eq!(changes.values.len(), changes.positions.len() * cx.format.width());
    }
    let leaf = leaf.inspect_err(|error| assert!(error.offset <= payload.len(), "{error}"))?;
    assert_eq!(chunk, target);
    assert_eq!(leaf, leaf_digest(cx.leaf_hash, &target));
    Ok(target)
}

fn encoding() -> impl Strategy<Value = Encoding> {
    prop::sample::select(Encoding::ALL)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_are_decoded_or_refused(
        cx in context(), encoding in encoding(), elements in elements(), fill in fill(), seed: u64,
        payload in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let step = Step { density: 0, reach: 1, clustered: false };
        let (base, _) = pair(cx.format.width(), elements, fill, step, seed);
        let _ = attack(cx, encoding, &payload, &base);
    }

    #[test]
    fn a_damaged_payload_is_decoded_or_refused(
        cx in context(), elements in 1usize..6000, fill in fill(), step in step(), seed: u64,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::weighted(0.3, any::<prop::sample::Index>()),
        tail in prop::collection::vec(any::<u8>(), 0..3),
    ) {
        let (base, target) = pair(cx.format.width(), elements, fill, step, seed);
        let mut payload = Vec::new();
        let encoded = ChunkEncoder::new().encode(cx, &base, &target, None, &mut payload);
        let Some(encoding) = encoded.encoding else { return Ok(()) };
        for (at, byte) in damage {
            let at = at.index(payload.len());
            payload[at] ^= byte;
        }
        if let Some(cut) = cut {
            payload.truncate(cut.index(payload.len()));
        }
        payload.extend(tail);
        let _ = attack(cx, encoding, &payload, &base);
    }

    #[test]
    fn another_base_gives_an_error_or_a_chunk(
        cx in context(), elements in 1usize..20_000, step in step(), seed: u64, flips in 1usize..50,
    ) {
        let width = cx.format.width();
        let (base, target) = pair(width, elements, Fill::Weights, step, seed);
        let mut payload = Vec::new();
        let encoded = ChunkEncoder::new().encode(cx, &base, &target, None, &mut payload);
        let Some(encoding) = encoded.encoding else { return Ok(()) };
        let mut wrong = base.clone();
        for i in 0..flips {
            let at = (seed as usize).wrapping_mul(i + 1) % wrong.len();
            wrong[at] ^= 1 << (i % 8);
        }
        let _ = attack(cx, encoding, &payload, &wrong);
        let (foreign, _) = pair(width, elements, Fill::Random, step, !seed);
        let _ = attack(cx, encoding, &payload, &foreign);
    }

    // What is left of the others may be another payload, even one of the same target: states and gaps have no
    // length of their own.
    #[test]
    fn a_payload_of_planes_or_whole_elements_with_bytes_cut_off_or_added_is_refused(
        cx in context(), elements in 1usize..4000, fill in fill(), step in step(), seed: u64,
        cut: prop::sample::Index, tail in prop::collection::vec(any::<u8>(), 1..3),
    ) {
        let (base, target) = pair(cx.format.width(), elements, fill, step, seed);
        let mut payload = Vec::new();
        let encoded = ChunkEncoder::new().encode(cx, &base, &target, None, &mut payload);
        let encoding = match encoded.encoding {
            Some(encoding @ (Encoding::Xor | Encoding::Zstd)) => encoding,
            _ => {
                payload.clone_from(&target);
                Encoding::Raw
            }
        };
        if encoding.allowed_in(cx.profile) {
            let shorter = &payload[..cut.index(payload.len())];
            prop_assert!(attack(cx, encoding, shorter, &base).is_err());
            payload.extend(tail);
            prop_assert!(attack(cx, encoding, &payload, &base).is_err());
        }
    }
}

#[test]
fn encodings_are_refused_where_the_format_forbids_them() {
    let compact = ChunkContext {
        format: tensorpatch_format::ElementFormat::Bf16,
        profile: Profile::Compact,
        leaf_hash: tensorpatch_format::LeafHash::Xxh3,
    };
    let direct = ChunkContext { profile: Profile::Direct, ..compact };
    let mut decoder = ChunkDecoder::new();
    let base = vec![0; 64];
    for &encoding in Encoding::ALL {
        let fresh = decoder.decode(compact, encoding, &[0; 64], None, &mut [0; 64]);
        if !encoding.allowed_for_fresh() {
            assert!(fresh.unwrap_err().what.contains("needs a base"), "{encoding}");
        }
        let in_direct = decoder.decode(direct, encoding, &[0; 64], Some(&base), &mut [0; 64]);
        if !encoding.allowed_in(Profile::Direct) {
            assert!(in_direct.unwrap_err().what.contains("profile"), "{encoding}");
        }
        let shorter = decoder.decode(compact, encoding, &[0; 64], Some(&base[..62]), &mut [0; 64]);
        if !encoding.allowed_for_fresh() {
            assert!(shorter.unwrap_err().what.contains("length"), "{encoding}");
        }
    }
    let odd = decoder.decode(compact, Encoding::Raw, &[0; 3], Some(&[0; 3]), &mut [0; 3]);
    assert!(odd.unwrap_err().what.contains("whole number"));
}
