//! The states of the vectors.

use crate::patch::CHUNK;
use crate::state::{Bytes, Edit, Rule, State};

/// All dtypes with the bits of an element; the last one is known to nobody.
pub(crate) const DTYPES: [(&str, u64); 23] = [
    ("BF16", 16),
    ("F16", 16),
    ("F32", 32),
    ("F8_E4M3", 8),
    ("F8_E4M3FNUZ", 8),
    ("F8_E5M2", 8),
    ("F8_E5M2FNUZ", 8),
    ("BOOL", 8),
    ("U8", 8),
    ("I8", 8),
    ("F8_E8M0", 8),
    ("I16", 16),
    ("U16", 16),
    ("I32", 32),
    ("U32", 32),
    ("F64", 64),
    ("I64", 64),
    ("U64", 64),
    ("C64", 64),
    ("F4", 4),
    ("F6_E2M3", 6),
    ("F6_E3M2", 6),
    ("F3_NEXT_YEAR", 3),
];

/// Lengths in bytes around the borders of chunks, by dtype.
pub(crate) const SIZES: [(&str, u64, &str); 14] = [
    ("U8", 0, "no bytes"),
    ("U8", 1, "1 byte"),
    ("U8", CHUNK as u64 - 1, "CHUNK - 1 bytes"),
    ("U8", CHUNK as u64, "CHUNK bytes"),
    ("U8", CHUNK as u64 + 1, "CHUNK + 1 bytes"),
    ("U8", 3 * CHUNK as u64, "3 CHUNK bytes"),
    ("BF16", 2, "1 element"),
    ("BF16", CHUNK as u64 - 2, "one element less than a chunk"),
    ("BF16", CHUNK as u64 + 2, "one element more than a chunk"),
    ("BF16", 2 * CHUNK as u64 - 2, "CHUNK - 1 elements"),
    ("BF16", 2 * CHUNK as u64, "CHUNK elements"),
    ("BF16", 2 * CHUNK as u64 + 2, "CHUNK + 1 elements"),
    ("F32", CHUNK as u64 + 4, "one element more than a chunk"),
    ("F64", CHUNK as u64 - 8, "one element less than a chunk"),
];

/// The name of a state made for a dtype or a size.
pub(crate) fn name(parts: &[&str]) -> &'static str {
    parts.join("-").to_lowercase().replace('_', "-").leak()
}

pub(crate) fn size_name(dtype: &str, len: u64, part: &str) -> &'static str {
    name(&["size", dtype, &len.to_string(), part])
}

pub(crate) fn rule(name: &str, dtype: &'static str, shape: &[u64], bytes: Bytes) -> Rule {
    Rule { name: name.to_owned(), dtype, shape: shape.to_vec(), bytes }
}

fn hex(bytes: &[u8]) -> Bytes {
    Bytes::Hex(bytes.to_vec())
}

fn edited(state: &'static str, tensor: &str, edits: Vec<Edit>) -> Bytes {
    Bytes::Edited { state, tensor: tensor.to_owned(), edits }
}

fn width(dtype: &str) -> usize {
    let bits = DTYPES.iter().find(|(known, _)| *known == dtype).map_or(8, |(_, bits)| *bits);
    (bits as usize / 8).max(1)
}

/// bf16 weights with 8 exponents, both signs.
pub(crate) fn weights(seed: u64, len: usize) -> Bytes {
    Bytes::Random { seed, len, and: vec![0xff, 0x83], or: vec![0x00, 0x38] }
}

pub(crate) fn states() -> Vec<State> {
    let mut states = Vec::new();
    let mut add = |id: &'static str, rules: Vec<Rule>| {
        let state = State::make(id, rules, &states);
        assert!(states.iter().all(|known: &State| known.id != id), "{id} twice");
        states.push(state);
    };
    small(&mut add);
    schemas(&mut add);
    for (number, (dtype, bits)) in (0..).zip(DTYPES) {
        let base = name(&["dtype", dtype, "base"]);
        let len = 24 * bits / 8 * 8;
        let random = |seed| Bytes::random(100 + seed, len as usize);
        add(base, vec![rule("t", dtype, &[8, 24], random(number))]);
        let width = width(dtype);
        let nudge = Edit::Nudge { width, seed: number, one_in: 9, reach: 3 };
        let write = Edit::Write { at: len as usize - width, hex: vec![0xff; width] };
        let bytes = edited(base, "t", vec![nudge, write]);
        add(name(&["dtype", dtype, "target"]), vec![rule("t", dtype, &[8, 24], bytes)]);
    }
    for (dtype, len, _) in SIZES {
        let (base, width) = (size_name(dtype, len, "base"), width(dtype));
        let shape = [len / width as u64];
        let bytes = match dtype {
            "BF16" => weights(len, len as usize),
            _ => Bytes::Repeat((0..251).collect(), len as usize),
        };
        add(base, vec![rule("t", dtype, &shape, bytes)]);
        let mut edits = vec![Edit::Nudge { width, seed: len, one_in: 5000, reach: 2 }];
        if len > 0 {
            let last = vec![0xa5; width];
            edits.push(Edit::Write { at: len as usize - width, hex: last });
        }
        if len > CHUNK as u64 {
            edits.push(Edit::Write { at: CHUNK - width, hex: vec![0x5a; width] });
        }
        add(size_name(dtype, len, "target"), vec![rule("t", dtype, &shape, edited(base, "t", edits))]);
    }
    for (format, dtype) in [("bf16", "BF16"), ("f16", "F16"), ("f32", "F32"), ("f64", "F64")] {
        specials(&mut add, format, dtype);
    }
    for (format, dtype) in [("e4m3", "F8_E4M3"), ("e5m2", "F8_E5M2")] {
        let all = Bytes::Hex((0..=255).collect());
        add(name(&["all", format, "base"]), vec![rule("t", dtype, &[256], all)]);
        let reversed = Bytes::Hex((0..=255).rev().collect());
        add(name(&["all", format, "target"]), vec![rule("t", dtype, &[256], reversed)]);
    }
    crate::sparse::states(&mut add);
    crate::sparse_by_hand::states(&mut add);
    crate::sparse_bounds::states(&mut add);
    crate::example::states(&mut add);
    states
}

type Add<'a> = &'a mut dyn FnMut(&'static str, Vec<Rule>);

fn small(add: Add<'_>) {
    let two = |last: u8| vec![rule("w", "BF16", &[2], hex(&[0x80, 0x3f, last, 0x40]))];
    add("two", two(0x00));
    add("two-changed", two(0x40));
    add("two-otherwise", two(0x80));
    add("nothing", vec![]);
    add("byte", vec![rule("t", "U8", &[1], hex(&[5]))]);
    add("byte-changed", vec![rule("t", "U8", &[1], hex(&[6]))]);
    let scalars = |byte: u8| {
        vec![
            rule("empty", "U8", &[0], hex(&[])),
            rule("empty.large", "BF16", &[1 << 40, 0, 1 << 40], hex(&[])),
            rule("scalar", "F32", &[], hex(&[byte, 0, 0x80, 0x3f])),
            rule("scalar.byte", "BOOL", &[], hex(&[1])),
        ]
    };
    add("scalars", scalars(0));
    add("scalars-changed", scalars(1));
    let numbers = |edits| vec![rule("n", "U16", &[20], edited("numbers", "n", edits))];
    add("numbers", vec![rule("n", "U16", &[20], Bytes::Repeat(vec![1, 0, 2, 0, 3, 0], 40))]);
    add(
        "numbers-three-changed",
        numbers(vec![
            Edit::Write { at: 0, hex: vec![9, 0] },
            Edit::Write { at: 10, hex: vec![8, 0] },
            Edit::Write { at: 38, hex: vec![7, 1] },
        ]),
    );
    add("numbers-low-changed", numbers(vec![Edit::Write { at: 4, hex: vec![9, 0] }]));
    add("numbers-all-changed", vec![rule("n", "U16", &[20], Bytes::Repeat(vec![0xff, 0xee], 40))]);
    let several = |first: u8| {
        vec![
            rule("a", "U8", &[4], hex(&[first, 2, 3, 4])),
            rule("b", "BF16", &[2, 2], hex(&[first, 1, 2, 3, 4, 5, 6, 7])),
            rule("c", "F32", &[1], hex(&[first, 0, 0, 0])),
            rule("d", "U8", &[0], hex(&[])),
        ]
    };
    add("several", several(1));
    add("several-changed", several(2));
    let mut first = several(1);
    first[0] = several(2).swap_remove(0);
    add("several-first-changed-only", first);
    let names = ["Z", "_", "a", "a.b", "é", "名", "🦀", " ", "a\u{0}b", "\"quoted\\\""];
    let named = |byte: u8| {
        let mut rules: Vec<Rule> = names.iter().map(|name| rule(name, "U8", &[1], hex(&[byte]))).collect();
        rules.push(rule(&"x".repeat(1000), "U8", &[1], hex(&[byte])));
        rules
    };
    add("names", named(1));
    add("names-changed", named(2));
    let dtype = "ABCDEFGHIJKLMNOPQRSTUVWXYZ_01289";
    add("name-65535", vec![rule(&"x".repeat(65_535), dtype, &[], hex(&[1, 2, 3]))]);
    let mut shape = vec![1; 63];
    shape.push(3);
    let rank = |byte: u8| vec![rule("deep", "U8", &shape, hex(&[byte, 5, 6]))];
    add("rank-64", rank(4));
    add("rank-64-changed", rank(5));
}

/// What can become of a schema.
fn schemas(add: Add<'_>) {
    let a = || rule("a", "BF16", &[2, 3], Bytes::random(1, 12));
    let b = || rule("b", "F32", &[2, 2], Bytes::random(2, 16));
    let c = || rule("c", "U8", &[5], Bytes::random(3, 5));
    add("schema", vec![a(), b(), c()]);
    add("schema-added", vec![a(), rule("aa", "I16", &[2], hex(&[1, 2, 3, 4])), b(), c()]);
    add("schema-added-nameless", vec![rule("", "I16", &[2], hex(&[1, 2, 3, 4])), a(), b(), c()]);
    add("schema-added-empty", vec![a(), b(), c(), rule("d", "I16", &[0], hex(&[]))]);
    add("schema-removed", vec![a(), c()]);
    add("schema-renamed", vec![a(), b(), rule("d", "U8", &[5], Bytes::random(3, 5))]);
    add("schema-retyped", vec![a(), rule("b", "I32", &[2, 2], Bytes::random(2, 16)), c()]);
    add("schema-reshaped", vec![a(), rule("b", "F32", &[4], Bytes::random(2, 16)), c()]);
    let write = vec![Edit::Write { at: 0, hex: vec![7] }];
    add("schema-reshaped-changed", vec![a(), rule("b", "F32", &[4], edited("schema", "b", write)), c()]);
    add("schema-resized", vec![a(), b(), rule("c", "U8", &[6], Bytes::random(3, 6))]);
    add("schema-other", vec![rule("z", "U8", &[1], hex(&[1]))]);
    // With a fresh tensor of three chunks, the last of one byte.
    let zeros = Bytes::Repeat(vec![0], 2 * CHUNK + 1);
    add("schema-added-large", vec![a(), b(), c(), rule("large", "U8", &[2 * CHUNK as u64 + 1], zeros)]);
}

/// Zeros of both signs, infinities, NaNs with payloads, subnormals; and the same ones after each other's
/// turn.
fn specials(add: Add<'_>, format: &str, dtype: &'static str) {
    let of_f32 = |bits: u32| match dtype {
        "BF16" => (bits >> 16).to_le_bytes()[..2].to_vec(),
        _ => bits.to_le_bytes().to_vec(),
    };
    let all: Vec<Vec<u8>> = match dtype {
        "F16" => [0x0000_u16, 0x8000, 0x7c00, 0xfc00, 0x7c01, 0x7e00, 0xffff, 0x0001, 0x3c00]
            .map(|bits| bits.to_le_bytes().to_vec())
            .to_vec(),
        "F64" => [
            0_u64,
            1 << 63,
            0x7ff << 52,
            0xfff << 52,
            (0x7ff << 52) | 1,
            0x7ff8 << 48,
            u64::MAX,
            1,
            0x3ff << 52,
        ]
        .map(|bits| bits.to_le_bytes().to_vec())
        .to_vec(),
        _ => [
            0_u32,
            1 << 31,
            0x7f80_0000,
            0xff80_0000,
            0x7f81_0001,
            0x7fc0_0000,
            u32::MAX,
            0x0001_0001,
            0x3f80_0000,
        ]
        .map(of_f32)
        .to_vec(),
    };
    let shape = [all.len() as u64];
    let values = |turn: usize| {
        let mut turned = all.clone();
        turned.rotate_left(turn);
        Bytes::Hex(turned.concat())
    };
    add(name(&["special", format, "base"]), vec![rule("t", dtype, &shape, values(0))]);
    add(name(&["special", format, "target"]), vec![rule("t", dtype, &shape, values(1))]);
}
