//! Whatever is encoded comes back, bit for bit, in every format and profile.

#![expect(clippy::unwrap_used, reason = "a failure is the test's")]
#![expect(clippy::cast_possible_truncation, reason = "chunks have fewer than 2^32 elements")]

mod common;

use common::{Fill, Step, context, elements, fill, pair, step};
use proptest::prelude::*;
use tensorpatch_codec::{Changes, ChunkContext, ChunkDecoder, ChunkEncoder, leaf_digest};
use tensorpatch_format::{ElementFormat, Encoding, LeafHash, Profile};

const BF16: ChunkContext =
    ChunkContext { format: ElementFormat::Bf16, profile: Profile::Compact, leaf_hash: LeafHash::Xxh3 };

fn check(cx: ChunkContext, base: &[u8], target: &[u8]) -> Option<(Encoding, Vec<u8>)> {
    let mut payload = vec![0xaa];
    let encoded = ChunkEncoder::new().encode(cx, base, target, None, &mut payload);
    let payload = payload.split_off(1);
    assert_eq!(encoded.leaf, leaf_digest(cx.leaf_hash, target));
    let width = cx.format.width();
    let changed = base.chunks(width).zip(target.chunks(width)).filter(|(b, t)| b != t).count();
    assert_eq!(encoded.changed_elements, changed as u64);
    let Some(encoding) = encoded.encoding else {
        assert_eq!(base, target);
        assert!(payload.is_empty());
        return None;
    };
    assert_ne!(base, target);
    assert!(encoding.allowed_in(cx.profile));
    assert!(payload.len() <= target.len() + 64, "{} bytes for {}", payload.len(), target.len());

    let mut decoder = ChunkDecoder::new();
    let mut rebuilt = vec![0x55; target.len()];
    let leaf = decoder.decode(cx, encoding, &payload, Some(base), &mut rebuilt).unwrap();
    assert!(rebuilt == target, "a new buffer");
    assert_eq!(leaf, encoded.leaf);

    let mut chunk = base.to_vec();
    let leaf = decoder.decode_in_place(cx, encoding, &payload, &mut chunk).unwrap();
    assert!(chunk == target, "in place");
    assert_eq!(leaf, encoded.leaf);

    if matches!(encoding, Encoding::Sparse | Encoding::Scatter) {
        let mut changes = Changes::default();
        decoder.changes(cx, encoding, &payload, base, &mut changes).unwrap();
        assert_eq!(changes.positions.len(), changed);
        assert!(changes.positions.is_sorted());
        let mut chunk = base.to_vec();
        for (&position, value) in changes.positions.iter().zip(changes.values.chunks(width)) {
            chunk[position as usize * width..][..width].copy_from_slice(value);
        }
        assert!(chunk == target, "from the list of changes");
    }
    Some((encoding, payload))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_chunk_comes_back_bit_for_bit(
        cx in context(), elements in elements(), fill in fill(), step in step(), seed: u64,
    ) {
        let (base, target) = pair(cx.format.width(), elements, fill, step, seed);
        check(cx, &base, &target);
    }

    #[test]
    fn both_directions_of_one_comparison_are_those_of_two(
        cx in context(), elements in elements(), fill in fill(), step in step(), seed: u64,
    ) {
        let cx = ChunkContext { profile: Profile::Direct, ..cx };
        let (one, other) = pair(cx.format.width(), elements, fill, step, seed);
        let mut encoder = ChunkEncoder::new();
        // With something else in its memory.
        encoder.find(cx, &[1; 64], &[2; 64]);
        let differ = encoder.find(cx, &one, &other);
        for (base, target) in [(&one, &other), (&other, &one)] {
            let expected = check(cx, base, target);
            prop_assert_eq!(differ, expected.is_some());
            if let Some(expected) = expected {
                let mut payload = vec![0xaa];
                let encoding = encoder.encode_found(cx, target, &mut payload);
                prop_assert!((encoding, payload.split_off(1)) == expected);
            }
        }
    }

    #[test]
    fn a_fresh_chunk_comes_back_bit_for_bit(
        cx in context(), elements in elements(), fill in fill(), seed: u64,
    ) {
        let step = Step { density: 0, reach: 1, clustered: false };
        let (target, _) = pair(cx.format.width(), elements, fill, step, seed);
        let mut payload = Vec::new();
        let encoded = ChunkEncoder::new().encode_fresh(cx, &target, &mut payload);
        let encoding = encoded.encoding.unwrap();
        prop_assert!(encoding.allowed_for_fresh());
        let mut rebuilt = vec![0x55; target.len()];
        let leaf = ChunkDecoder::new().decode(cx, encoding, &payload, None, &mut rebuilt).unwrap();
        prop_assert_eq!(rebuilt, target);
        prop_assert_eq!(leaf, encoded.leaf);
    }

    #[test]
    fn what_was_encoded_before_leaves_no_trace_in_a_payload(
        cx in context(), elements in 1usize..3000, step in step(), seed: u64,
    ) {
        let width = cx.format.width();
        let (base, target) = pair(width, elements, Fill::Weights, step, seed);
        let (other_base, other_target) = pair(width, 5000, Fill::Random, step, !seed);
        let mut encoder = ChunkEncoder::new();
        let (mut fresh, mut used) = (Vec::new(), Vec::new());
        let first = encoder.encode(cx, &base, &target, None, &mut fresh);
        encoder.encode(cx, &other_base, &other_target, None, &mut Vec::new());
        let again = encoder.encode(cx, &base, &target, None, &mut used);
        prop_assert_eq!(first, again);
        prop_assert_eq!(fresh, used);
    }
}

proptest! {
    #[test]
    fn a_list_of_changes_is_encoded_as_the_dense_target_is(
        cx in context(), elements in elements(), fill in fill(), step in step(), seed: u64, extra in 0usize..5,
    ) {
        let width = cx.format.width();
        let (base, target) = pair(width, elements, fill, step, seed);
        let mut changes = Changes::default();
        for (i, (old, new)) in base.chunks(width).zip(target.chunks(width)).enumerate() {
            // Some elements are listed though they keep their values.
            if old != new || i % 7 < extra {
                changes.positions.push(i as u32);
                changes.values.extend_from_slice(new);
            }
        }
        let (mut dense, mut listed) = (Vec::new(), Vec::new());
        let mut encoder = ChunkEncoder::new();
        let expected = encoder.encode(cx, &base, &target, None, &mut dense);
        let found = encoder.encode_changes(cx, &base, &changes, None, &mut listed);
        prop_assert_eq!(found, Ok(expected));
        prop_assert_eq!(listed, dense);
    }
}

#[test]
fn a_list_of_changes_out_of_order_outside_the_chunk_or_without_values_is_refused() {
    let base = [0; 20];
    for (positions, values, at) in
        [(vec![3, 3], 4, 1), (vec![4, 2], 4, 1), (vec![10], 2, 0), (vec![1, 2], 3, 2), (vec![u32::MAX], 2, 0)]
    {
        let changes = Changes { positions, values: vec![1; values] };
        let mut out = Vec::new();
        let error = ChunkEncoder::new().encode_changes(BF16, &base, &changes, None, &mut out).unwrap_err();
        assert_eq!(error.offset, at, "{error}");
        assert!(out.is_empty());
    }
}

#[test]
fn a_full_chunk_of_each_format_comes_back_at_every_density() {
    for format in common::FORMATS {
        for density in [1, 100, 3000, 9990] {
            let step = Step { density, reach: 3, clustered: false };
            let width = format.width();
            let (base, target) = pair(width, (1 << 20) / width, Fill::Weights, step, density);
            check(ChunkContext { format, ..BF16 }, &base, &target);
        }
    }
}

#[test]
fn a_change_of_sign_of_zero_and_of_a_nan_are_changes() {
    for (old, new) in [(0x0000u16, 0x8000u16), (0x7fc0, 0x7fc1), (0x7fc0, 0xffff), (0x0001, 0x8001)] {
        let base = vec![old; 40].into_iter().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
        let mut target = base.clone();
        target[20..22].copy_from_slice(&new.to_le_bytes());
        let (encoding, payload) = check(BF16, &base, &target).expect("a change");
        assert_eq!(encoding, Encoding::Sparse);
        assert!(payload.len() < 16, "{old:04x} to {new:04x} takes {} bytes", payload.len());
    }
}

#[test]
fn an_unchanged_chunk_returns_the_digest_it_was_given() {
    let chunk = [7; 64];
    let known = leaf_digest(LeafHash::Xxh3, b"any");
    let mut out = Vec::new();
    let encoded = ChunkEncoder::new().encode(BF16, &chunk, &chunk, Some(known), &mut out);
    assert_eq!((encoded.encoding, encoded.leaf, encoded.changed_elements), (None, known, 0));
    assert!(out.is_empty());
}

#[test]
fn small_steps_cost_less_than_a_byte_a_change() {
    let step = Step { density: 100, reach: 1, clustered: false };
    let (base, target) = pair(2, 1 << 19, Fill::Weights, step, 3);
    let (encoding, payload) = check(BF16, &base, &target).unwrap();
    assert_eq!(encoding, Encoding::Sparse);
    // 1 % at random places: 8.08 bits for the place and one for the direction.
    let changed = base.chunks(2).zip(target.chunks(2)).filter(|(b, t)| b != t).count();
    let bits = payload.len() as f64 * 8.0 / changed as f64;
    assert!((9.0..9.35).contains(&bits), "{bits} bits a change");
}

#[test]
fn replaced_values_cost_no_more_than_the_chunk() {
    let step = Step { density: 10_000, reach: 0, clustered: false };
    let (base, target) = pair(2, 1 << 16, Fill::Random, step, 4);
    let (encoding, payload) = check(BF16, &base, &target).unwrap();
    assert!(payload.len() <= target.len(), "{encoding}: {} of {}", payload.len(), target.len());
}

#[test]
fn a_far_move_comes_back_where_not_all_changes_are_looked_at() {
    // Of a block of which more than a quarter changes one change in four is looked at, the first of them.
    let base = [0x3c00_u16; 32_768].map(u16::to_le_bytes).concat();
    for far in 0..8 {
        let mut target = base.clone();
        for (position, element) in target.chunks_exact_mut(2).take(12_000).enumerate() {
            let distance = if position == far { 0x1234 } else { 1 };
            element.copy_from_slice(&(0x3c00_u16 + distance).to_le_bytes());
        }
        let (encoding, _) = check(BF16, &base, &target).unwrap();
        assert_eq!(encoding, Encoding::Sparse);
    }
}
