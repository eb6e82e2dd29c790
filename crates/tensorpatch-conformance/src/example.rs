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
use crate::sparse_by_hand::{self, EXAMPLE_MOVES};
use crate::sparse_parts::{Head, Model, Parts};
use crate::state::{Bytes, Edit, Rule, State, hex};
use crate::states::rule;
use crate::vector::States;

/// The specification, from the root of the repository.
const SPEC: &str = "spec/format.md";
/// The specification of the encoding, which has an example of its own.
const SPARSE_SPEC: &str = "spec/encodings/sparse.md";
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

/// What a decoder does with the payload, told step by step.
fn told(payload: &[u8], elements: usize) -> String {
    // The rate that the encoder found, in the fourth of the bytes that are read.
    let bits = payload.iter().rev().fold(0_u128, |bits, byte| bits << 8 | u128::from(*byte));
    let taken = |from: u32, count: u32| {
        (bits >> (8 * payload.len() as u32 - from - count)) as u64 & ((1 << count) - 1)
    };
    let (hot, first_key, rate) = (taken(2, 2), taken(10, 8), taken(18, 7));
    let model = Model {
        lanes: 1,
        hot_from: [0, 68, 72, 76][hot as usize],
        classes: vec![(rate, 0)],
        bits: 16,
        escape: false,
    };
    let moves: Vec<_> = (0..elements).map(|element| (0, i64::from(element == MOVED))).collect();
    let (reads, left) = model.block(&moves);
    let parts = Parts { head: Head { hot, first_key, ..Head::one(rate, 0) }, reads, left };
    assert_eq!(parts.payload(), payload, "the encoder chose another form");
    format!(
        "The bits of the payload are its bytes from the last one on. They say: one lane, `hot_from` {}, one class, no reach, `first_key` {first_key}, rate {rate}; \
         then the state.\nSo all elements are cold. What is read then, as [sparse](encodings/sparse.md) says it:\n\n{}\nThe state in the end is 2^16, which says that element \
         {MOVED} moves up.\n",
        model.hot_from,
        parts.told(),
    )
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

/// What stands in the specification of the encoding between the marks.
fn sparse_text() -> String {
    let (parts, payload) = (sparse_by_hand::example(), sparse_by_hand::example().payload());
    let (words, _) = parts.ends();
    let moves: Vec<String> =
        EXAMPLE_MOVES.iter().map(|(element, by)| format!("element {element} by {by:+}")).collect();
    format!(
        "Forty elements of `e4m3`, in turn {HOT} and {COLD}: two groups, the second of 8 elements.\n\
         The class of the key 2 is hot, of rate 80 and reach 30; that of the key 7 is cold, of rate 60 and reach 10; those between have rate 0.\n\
         It moves {moves}.\n\n\
         The payload has {bytes} bytes, of which the first {of_words} are words:\n\n```text\n{hex}```\n\n\
         Its bits begin, from the most significant bit of the last byte on, with the head: `lanes` 1, `hot` 1, `classes - 1` 5, `any` 1, `reaching - 1` 5, `first_key` 2, the rates, the reaches and the eight states.\n\
         A cold element of rate 60 has the length 1024, so that the groups have the sums 16384 and 4096.\n\
         What is read then, with the state of the lane before and after:\n\n{told}\n\
         All changes are of classes with a reach, so that there are no directions, and every state ends as 2^16.\n",
        moves = moves.join(", "),
        bytes = payload.len(),
        of_words = 2 * words.len(),
        hex = payload.chunks(16).map(|row| row_of(row) + "\n").collect::<String>(),
        told = parts.told(),
    )
}

const HOT: &str = "`12` (key 2)";
const COLD: &str = "`3a` (key 7)";

fn row_of(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

/// A specification with the example as it is made now.
fn due(path: &str, spec: &str, text: &str) -> Result<String> {
    let (before, rest) = spec.split_once(START).with_context(|| format!("{path} has no {START}"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("{path} has no {END}"))?;
    Ok([before, START, text, END, after].concat())
}

fn texts(states: &States) -> [(&'static str, String); 2] {
    [(SPEC, text(states)), (SPARSE_SPEC, sparse_text())]
}

/// Writes the examples into the specification under `root`.
///
/// # Errors
/// If the specification has no place for one.
pub fn write(root: &Path, states: &States) -> Result<()> {
    for (path, text) in texts(states) {
        let whole = root.join(path);
        let spec = fs::read_to_string(&whole).with_context(|| whole.display().to_string())?;
        let due = due(path, &spec, &text)?;
        if due != spec {
            fs::write(&whole, due)?;
        }
    }
    Ok(())
}

/// Whether the examples in the specification are those that would be made.
///
/// # Errors
/// If one is another, or there is none.
pub fn check(root: &Path, states: &States) -> Result<()> {
    for (path, text) in texts(states) {
        let whole = root.join(path);
        let spec = fs::read_to_string(&whole).with_context(|| whole.display().to_string())?;
        let spec = spec.replace("\r\n", "\n");
        if due(path, &spec, &text)? != spec {
            bail!("the worked example of {path} is stale: run `cargo xtask vectors`");
        }
    }
    Ok(())
}
