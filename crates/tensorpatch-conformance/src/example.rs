//! The second worked example of the specification: a packed schema, and a chunk that is coded over its base.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use tensorpatch_reference::LeafHash::Blake3;
use tensorpatch_reference::{canonical_schema, schema_digest, state_digest, tagged};

use crate::Vector;
use crate::encodings::best;
use crate::patch::{Listing, Patch, SPARSE};
use crate::raw::varint;
use crate::state::{Bytes, Edit, Rule, State, hex};
use crate::states::rule;
use crate::vector::States;

/// The specification, from the root of the repository.
const SPEC: &str = "spec/format.md";
const START: &str = "<!-- made by cargo xtask vectors -->\n";
const END: &str = "<!-- end of what cargo xtask vectors made -->\n";

/// The element of `w` that moves.
const MOVED: usize = 13;

pub(crate) fn states(add: &mut dyn FnMut(&'static str, Vec<Rule>)) {
    let bias = || rule("b", "F32", &[2], Bytes::Hex(vec![0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0]));
    let weights = Bytes::Repeat(vec![0x00, 0x3c, 0x80, 0xbc], 64);
    add("example", vec![bias(), rule("w", "BF16", &[4, 8], weights)]);
    let edit = Edit::Write { at: 2 * MOVED, hex: vec![0x81] };
    let moved = Bytes::Edited { state: "example", tensor: "w".into(), edits: vec![edit] };
    add("example-target", vec![bias(), rule("w", "BF16", &[32], moved)]);
}

fn patch(base: &State, target: &State) -> Patch {
    let mut patch = best(Patch::delta(base, target, Blake3), base);
    patch.schema = Listing::Zstd(canonical_schema(&target.tensors));
    let encodings: Vec<u8> = patch.blocks.iter().flatten().map(|record| record.encoding).collect();
    assert_eq!(encodings, [SPARSE]);
    patch
}

pub(crate) fn vector(states: &States) -> Vector {
    let (base, target) = (states.get("example"), states.get("example-target"));
    let comment =
        "The second worked example of the specification: a packed schema, a reshaped tensor, a sparse chunk";
    Vector::valid("worked-example-2", "14.2", comment, Some(base), target, patch(base, target).file())
}

/// A file as rows of bytes with what they are.
struct Rows<'a> {
    file: &'a [u8],
    at: usize,
    text: String,
}

impl Rows<'_> {
    fn put(&mut self, len: usize, what: &str) {
        let bytes = &self.file[self.at..self.at + len];
        for (row, chunk) in bytes.chunks(16).enumerate() {
            let bytes: Vec<_> = chunk.iter().map(|byte| format!("{byte:02x}")).collect();
            let line = format!(
                "{:4}  {:47}  {}",
                self.at + 16 * row,
                bytes.join(" "),
                if row == 0 { what } else { "" }
            );
            writeln!(self.text, "{}", line.trim_end()).expect("a string");
        }
        self.at += len;
    }

    fn section(&mut self, name: &str, len: usize) {
        self.put(4, &format!("{name}, reserved"));
        self.put(4, "crc");
        self.put(8, &format!("length {len}"));
    }
}

fn rows(patch: &Patch) -> String {
    let (raw, file) = (patch.raw(), patch.file());
    let mut rows = Rows { file: &file, at: 0, text: String::new() };
    for (len, what) in [
        (8, "magic"),
        (4, "major 1, minor 0"),
        (8, "required and optional features"),
        (3, "kind: delta, profile: compact, leaf hash: BLAKE3"),
        (5, "reserved"),
        (4, "crc of the header"),
    ] {
        rows.put(len, what);
    }
    let len = |section: usize| raw.sections[section].payload.len();
    let (Listing::Zstd(schema), Listing::Plain(layout)) = (&patch.schema, &patch.layout) else {
        panic!("a packed schema and a plain layout")
    };
    for (section, name, contents, packing) in
        [(0, "SCHEMA", schema, "1: zstd"), (1, "LAYOUT", layout, "0: as it is")]
    {
        rows.section(name, len(section));
        rows.put(1, "mode: listed");
        rows.put(1, &format!("packing {packing}"));
        let raw_len = varint(contents.len() as u64).len();
        rows.put(raw_len, &format!("raw_len {}", contents.len()));
        let what = if section == 0 {
            "a frame of the canonical bytes of the schema"
        } else {
            "the canonical bytes of the layout"
        };
        rows.put(len(section) - 2 - raw_len, what);
    }
    let payload = &patch.blocks[0][0].payload;
    rows.section("BLOCK", len(2));
    rows.put(3, "record_count 1, tensor_step 1, chunk 0");
    rows.put(1, "encoding: sparse");
    rows.put(varint(payload.len() as u64).len(), &format!("payload_len {}", payload.len()));
    rows.put(payload.len(), "payload");
    rows.section("INDEX", len(3));
    rows.put(1, "block_count 1");
    let gap = raw.at(2) - 32;
    rows.put(varint(gap).len(), &format!("gap {gap}: SCHEMA and LAYOUT"));
    rows.put(1, &format!("length {}", 16 + len(2)));
    rows.put(3, "record_count 1, tensor_step 1, chunk 0");
    rows.put(32, "leaf digest of the target's chunk");
    for what in [
        "base state digest",
        "target state digest",
        "target schema digest",
        "base layout digest",
        "target layout digest",
    ] {
        rows.put(32, what);
    }
    rows.put(8, &format!("offset of INDEX: {}", raw.at(3)));
    rows.put(8, &format!("length of the file: {}", file.len()));
    rows.put(4, "reserved");
    rows.put(4, "crc of header and trailer");
    rows.put(8, "end magic");
    assert_eq!(rows.at, file.len(), "the fields do not cover the file");
    rows.text
}

/// What a decoder does with the payload, told step by step: a small one that knows no more than this payload needs.
fn told(payload: &[u8], elements: u64) -> String {
    let head = payload[..4].iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
    let bits = |from: u32, count: u32| head >> from & ((1 << count) - 1);
    let (streams, classes, reaching, first_key, rate) =
        (bits(0, 2), bits(2, 5) + 1, bits(7, 6), bits(13, 8), bits(21, 7));
    assert!(streams == 0 && classes == 1 && reaching == 0 && (1..68).contains(&rate) && bits(28, 4) == 0);
    let rest = &payload[4..];
    assert!(rest.len() <= 8, "a state without words");
    let mut state = rest.iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
    let scale = 14 + ((67 - rate) / 4).min(4);
    let shift = 35 - rate / 4 - scale;
    let length = ((([32768, 38968, 46341, 55109][(rate % 4) as usize]) + (1 << (shift - 1))) >> shift).max(1);
    let (unit, axis) = (1_u64 << scale, length * elements);
    let before = |u: u64| (5 * u).min(4 * u + unit / 4).min(3 * u + unit);
    let mut text = format!(
        "The payload begins with the bit string `{}`: `streams` 0, one class, no reach, `first_key` {first_key}, rate {rate}. So `S` is {scale}, each of the {elements} elements\n\
         has the length {length}, and the axis ends at {axis}. The serial stream `{}` is a state without words. Steps 1 to 4 of section 6 of [sparse](encodings/sparse.md), twice:\n\n\
         | state | q | v | p | T | point | what it is | a | slots |\n|---|---|---|---|---|---|---|---|---|\n",
        hex(&payload[..4]),
        hex(rest),
    );
    let mut e = 0;
    loop {
        let q = u64::from(state.trailing_ones());
        assert!(q < 11);
        let c = q + 1;
        let (v, p) = (state >> c & 1, state >> (c + 1) & (4 * unit - 1));
        let (t, start) = (c + scale + 3, e + q * unit);
        let u = (0..unit).rev().find(|u| before(*u) <= p).expect("the first unit begins at 0");
        let point = start + u;
        let row = |what: String, a, slots| {
            format!("| {state:#x} | {q} | {v} | {p} | {t} | {point} | {what} | {a} | {slots} |\n")
        };
        if point >= axis {
            let a = before(axis.saturating_sub(start));
            text.push_str(&row("the end".to_owned(), a, 4 * unit - a));
            state = (state >> t) * (4 * unit - a) + p - a;
            break;
        }
        let element = point / length;
        let (i, j) = (element * length, (element + 1) * length);
        let a = before(i.saturating_sub(start));
        let slots = before((j - start).min(unit)) - a;
        let way = if v == 0 { "up" } else { "down" };
        text.push_str(&row(format!("element {element}, which moves {way} by one unit"), a, slots));
        state = (state >> t) * slots + p - a;
        e = j;
    }
    assert_eq!(state, 0, "the stream ends with what it encodes");
    text.push_str("\nAfter the last step the state is 0, as it must be.\n");
    text
}

/// What stands in the specification between the marks.
fn text(states: &States) -> String {
    let (base, target) = (states.get("example"), states.get("example-target"));
    let patch = patch(base, target);
    let digest = |state: &State| tagged(Blake3, &state_digest(Blake3, &state.tensors));
    let value = |state: &State| hex(&state.tensor("w").bytes[2 * MOVED..2 * MOVED + 2]);
    let (old, new) = (value(base), value(target));
    format!(
        "The base has `b`, `F32` with the shape `[2]` and the bytes `{bias}`, and `w`, `BF16` with the shape `[4, 8]`: the bytes `{pair}` sixteen times. Its state digest is\n\
         `{base_digest}`. In the target `w` has the shape `[32]`, so that the schema is listed, but is continued; and its element {MOVED} is `{new}` instead of `{old}`. The digest of\n\
         the target's schema, whose {schema_len} canonical bytes are packed, is `{schema}`, that of the target\n\
         `{target_digest}`.\n\n```text\n{rows}```\n\n{told}",
        bias = hex(&base.tensor("b").bytes),
        pair = hex(&base.tensor("w").bytes[..4]),
        base_digest = digest(base),
        target_digest = digest(target),
        schema_len = canonical_schema(&target.tensors).len(),
        schema = hex(&schema_digest(&target.tensors)),
        rows = rows(&patch),
        told = told(&patch.blocks[0][0].payload, 32),
    )
}

/// The specification with the example as it is made now.
fn due(spec: &str, states: &States) -> Result<String> {
    let (before, rest) = spec.split_once(START).with_context(|| format!("{SPEC} has no {START}"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("{SPEC} has no {END}"))?;
    Ok([before, START, &text(states), END, after].concat())
}

/// Writes the example into the specification under `root`.
///
/// # Errors
/// If the specification has no place for it.
pub fn write(root: &Path, states: &States) -> Result<()> {
    let path = root.join(SPEC);
    let spec = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let due = due(&spec, states)?;
    if due != spec {
        fs::write(&path, due)?;
    }
    Ok(())
}

/// Whether the example in the specification is the one that would be made.
///
/// # Errors
/// If it is another, or there is none.
pub fn check(root: &Path, states: &States) -> Result<()> {
    let path = root.join(SPEC);
    let spec = fs::read_to_string(&path).with_context(|| path.display().to_string())?.replace("\r\n", "\n");
    if due(&spec, states)? != spec {
        bail!("the second worked example of {SPEC} is stale: run `cargo xtask vectors`");
    }
    Ok(())
}
