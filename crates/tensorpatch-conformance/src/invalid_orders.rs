//! What every decoder must refuse for the first of two faults, where a neighbouring check is about the same
//! part: the orders of appendix A that no other vector decides, and what errors that wait do to them
//! (section 10.1).

use tensorpatch_reference::LeafHash::Xxh3;
use tensorpatch_reference::canonical_schema;

use crate::Vector;
use crate::invalid::delta;
use crate::invalid_parts::{full, plain, schema, tensor, with_payload};
use crate::patch::{CHUNK, Kind, Listing, Patch, RAW, SCATTER, SPARSE, XOR, ZSTD, frame, layout, layout_of};
use crate::raw::{Raw, varint};
use crate::refused::{INVALID, Maker, TRUNCATED, WRONG_BASE};
use crate::vector::States;

pub(crate) fn vectors(states: &States) -> Vec<Vector> {
    let mut maker = Maker::new(states, "order-of-");
    blocks(&mut maker);
    waiting(&mut maker);
    fresh(&mut maker);
    index(&mut maker);
    trailer(&mut maker);
    sections(&mut maker);
    listings(&mut maker);
    let mut bases = Maker::new(states, "wrong-base-");
    wrong_bases(&mut bases);
    maker.all.extend(bases.all);
    maker.all.into_iter().map(flagged).collect()
}

/// The vectors whose error only a reader must report that goes forward with the base at hand (section 12.1).
const FORWARD: [&str; 12] = [
    "order-of-outside-ascent-third",
    "order-of-outside-ascent",
    "order-of-outside-ascent-outside",
    "order-of-payload-profile",
    "order-of-missing-count-full",
    "order-of-payload-followed-full",
    "order-of-leaf-followed-full",
    "order-of-schema-followed",
    "order-of-layout-followed",
    "wrong-base-ascent",
    "wrong-base-profile",
    "wrong-base-fresh-profile",
];

fn flagged(vector: Vector) -> Vector {
    if FORWARD.contains(&vector.id.as_str()) { vector.flagged("forward") } else { vector }
}

/// The delta of most vectors, with other records.
fn altered(states: &States, change: impl FnOnce(&mut Patch)) -> Patch {
    let mut patch = delta(states);
    change(&mut patch);
    patch
}

/// Section 7.4: the checks of one block.
fn blocks(maker: &mut Maker<'_>) {
    let states = maker.states;
    let mut sum = altered(states, |patch| patch.blocks[1][0].tensor = 0).raw();
    // record_count, tensor_step, chunk, encoding, payload_len.
    assert_eq!(sum.sections[3].payload[..5], [1, 0, 0, RAW, 4]);
    sum.sections[3].payload[4] = 5;
    let error = (INVALID, sum.payload_at(3) + 5);
    let comment = "Lengths that do not add up, and a record before the last one of the block before";
    maker.add("lengths-ascent", "7.4", comment, error, sum.file());

    let profile = altered(states, |patch| {
        patch.direct = true;
        patch.blocks[1][0].encoding = SPARSE;
    });
    let mut raw = profile.raw();
    raw.sections[3].payload[4] = 5;
    let error = (INVALID, raw.payload_at(3) + 5);
    let comment = "Lengths that do not add up, and an encoding that the profile does not allow";
    maker.add("lengths-profile", "7.4", comment, error, raw.file());

    let both = altered(states, |patch| {
        patch.direct = true;
        (patch.blocks[1][0].tensor, patch.blocks[1][0].encoding) = (0, XOR);
    });
    let raw = both.raw();
    let error = (INVALID, raw.payload_at(3) + 1);
    let comment =
        "A record before the last one of the block before, with an encoding that the profile does not allow";
    maker.add("ascent-profile", "7.4", comment, error, raw.file());
}

/// Section 10.1, rule 3: which checks go on while an error waits.
fn waiting(maker: &mut Maker<'_>) {
    let states = maker.states;
    let outside = |first: u64, second: u64| {
        let patch = altered(states, |patch| {
            patch.blocks[0][1].tensor = first;
            patch.blocks[1][0].tensor = second;
        });
        patch.raw()
    };
    for (id, second, comment) in [
        (
            "outside-ascent",
            2,
            "A record outside the grid, and one within it that comes before it in the grid",
        ),
        ("outside-ascent-outside", 8, "Two records outside the grid, in descending order"),
    ] {
        let raw = outside(9, second);
        maker.add(id, "10.1", comment, (INVALID, raw.payload_at(3) + 1), raw.file());
    }
    let mut third = delta(states);
    third.blocks.push(third.blocks[1].clone());
    third.blocks[0][1].tensor = 9;
    (third.blocks[1][0].tensor, third.blocks[2][0].tensor) = (12, 10);
    let raw = third.raw();
    let comment = "Three records outside the grid, of which the third comes before the second";
    maker.add("outside-ascent-third", "10.1", comment, (INVALID, raw.payload_at(4) + 1), raw.file());
    let raw = outside(9, 10);
    // Behind record_count and the first record.
    let error = (INVALID, raw.payload_at(2) + 5);
    maker.add("outside-outside", "10.1", "Two records outside the grid", error, raw.file());

    let mut short = altered(states, |patch| {
        patch.blocks[0][0].payload.pop();
    });
    let at = |patch: &Patch| patch.raw().payload_at(2) + 9;
    let comment = "Two payloads that are too short";
    let mut two = short.clone();
    two.blocks[1][0].payload.pop();
    maker.add("payload-payload", "10.1", comment, (INVALID, at(&two)), two.file());
    let mut leaf = short.raw();
    let index = leaf.index();
    *leaf.sections[index].payload.last_mut().expect("a leaf digest") ^= 1;
    let comment = "A payload that is too short, and the leaf digest of another chunk that is not its own";
    maker.add("payload-leaf", "10.1", comment, (INVALID, at(&short)), leaf.file());
    short.direct = true;
    let mut profile = short.clone();
    profile.blocks[1][0].encoding = SPARSE;
    let comment = "A payload that is too short, and an encoding further on that the profile does not allow";
    maker.add("payload-profile", "10.1", comment, (INVALID, at(&profile)), profile.file());
    short.blocks[1][0].tensor = 0;
    let error = (INVALID, short.raw().payload_at(3) + 1);
    let comment = "A payload that is too short, and a record before the last one of the block before";
    maker.add("payload-ascent", "10.1", comment, error, short.file());
}

/// Fresh chunks without a record or in the wrong encoding, of tensors that the base has with another dtype or
/// length.
fn fresh(maker: &mut Maker<'_>) {
    let states = maker.states;
    let base = states.get("schema");
    for (id, number, comment) in [
        ("retyped", 1, "A tensor of another dtype than in the base"),
        ("resized", 2, "A tensor of another length than in the base"),
    ] {
        let target = states.get(if number == 1 { "schema-retyped" } else { "schema-resized" });
        let none = Patch::delta(base, target, Xxh3).raw();
        let error = (INVALID, none.at(2));
        let without = format!("{comment}, without a record");
        maker.add_on(&format!("{id}-missing"), "7.1", &without, Some(base), error, none.file());
        for (encoding, name) in [(SPARSE, "sparse"), (SCATTER, "scatter"), (XOR, "xor")] {
            let raw = Patch::delta(base, target, Xxh3).with(number, 0, encoding, vec![0]).raw();
            let error = (INVALID, raw.payload_at(2) + 3);
            let coded = format!("{comment}, by {name}");
            maker.add_on(&format!("{id}-{name}"), "9", &coded, Some(base), error, raw.file());
        }
    }
    let target = states.get("schema-added");
    let mut passed = Patch::delta(base, target, Xxh3).with(2, 0, SPARSE, vec![0]);
    passed.direct = true;
    let raw = passed.raw();
    let error = (INVALID, raw.payload_at(2) + 1);
    let comment =
        "A record after a fresh tensor that has none, with an encoding that the profile does not allow";
    maker.add_on("passed-profile", "7.4", comment, Some(base), error, raw.file());
}

/// Section 7.5, and what a full patch, in which nothing waits, has to say of it.
fn index(maker: &mut Maker<'_>) {
    let states = maker.states;
    // The address of a tensor over 127 takes a byte more than the least, so that there is room for all
    // records where a digest is cut short. No state has that tensor, which waits.
    let far = altered(states, |patch| {
        patch.blocks.truncate(1);
        patch.blocks[0][1].tensor = 200;
    });
    let mut raw = far.raw();
    let index = raw.index();
    raw.sections[index].payload.pop();
    let error = (INVALID, raw.payload_at(index) + raw.sections[index].payload.len() as u64 - 15);
    let comment =
        "The last leaf digest is cut short, where there is room for the least that the records take";
    maker.add("outside-leaf-cut", "7.5", comment, error, raw.file());

    let large = states.get("schema-added-large");
    let mut lacking = Patch::full(large, Xxh3);
    let zeros = frame(&vec![0; CHUNK]);
    let small = lacking.blocks[0][..3].to_vec();
    let chunks = [lacking.record(3, 0, ZSTD, zeros.clone()), lacking.record(3, 1, ZSTD, zeros)];
    lacking.blocks = vec![[&small[..], &chunks].concat()];
    let mut raw = lacking.raw();
    let index = raw.index();
    raw.sections[index].payload[0] = 2;
    let comment = "A full patch without its last chunk, whose index counts a block too many";
    maker.add_on("missing-count-full", "7.5", comment, None, (INVALID, raw.at(index)), raw.file());
    let base = states.get("schema");
    let mut raw = Patch::delta(base, states.get("schema-added"), Xxh3).raw();
    let index = raw.index();
    raw.sections[index].payload[0] = 2;
    let error = (INVALID, raw.payload_at(index));
    let comment = "A delta without a fresh chunk, whose index counts a block too many";
    maker.add_on("missing-count", "7.5", comment, Some(base), error, raw.file());

    let mut broken = full(states);
    broken.blocks[0][0].payload.pop();
    let raw = broken.raw();
    let error = (INVALID, raw.payload_at(2) + 5);
    let file = [raw.file(), vec![0]].concat();
    let comment = "A payload of a full patch that is too short, and a byte after the trailer";
    maker.add_on("payload-followed-full", "10.1", comment, None, error, file);
    let mut raw = full(states).raw();
    let index = raw.index();
    let leaf = raw.sections[index].payload.len() - 16;
    raw.sections[index].payload[leaf] ^= 1;
    let error = (crate::refused::TARGET_MISMATCH, raw.payload_at(index) + leaf as u64);
    let file = [raw.file(), vec![0]].concat();
    let comment = "A leaf digest of a full patch that is not that of the chunk, and a byte after the trailer";
    maker.add_on("leaf-followed-full", "10.1", comment, None, error, file);
}

/// Section 8: bytes after the trailer are told last.
fn trailer(maker: &mut Maker<'_>) {
    let several = maker.states.get("several");
    type Fault = fn(&mut Raw);
    let digest = |raw: &mut Raw, number: usize| raw.digests[number][7] ^= 1;
    let followed = |raw: &Raw| [raw.file(), vec![0]].concat();
    let good = delta(maker.states).raw();
    let at = good.trailer_at();
    let faults: [(&str, u64, &str, Fault); 4] = [
        ("length-followed", 168, "A length of the file that counts the byte after the trailer", |raw| {
            raw.false_file_len = 1;
        }),
        ("index-followed", 160, "A false offset of the index, and a byte after the trailer", |raw| {
            raw.false_index_offset = 1;
        }),
        ("states-followed", 32, "A delta between equal states, and a byte after the trailer", |raw| {
            raw.digests[1] = raw.digests[0];
        }),
        (
            "same-layout-followed",
            128,
            "Two layouts that are said to be one, and a byte after the trailer",
            |raw| {
                raw.digests[4][7] ^= 1;
            },
        ),
    ];
    for (id, field, comment, fault) in faults {
        let mut raw = good.clone();
        fault(&mut raw);
        maker.add(id, "8", comment, (INVALID, at + field), followed(&raw));
    }
    let good = Patch::full(several, Xxh3).raw();
    let at = good.trailer_at();
    for (id, number, comment) in [
        ("base-followed", 0, "A full patch with the state digest of a base, and a byte after the trailer"),
        ("schema-followed", 2, "Another digest of the listed schema, and a byte after the trailer"),
        (
            "base-layout-followed",
            3,
            "A full patch with the layout digest of a base, and a byte after the trailer",
        ),
        ("layout-followed", 4, "Another digest of the listed layout, and a byte after the trailer"),
    ] {
        let mut raw = good.clone();
        digest(&mut raw, number);
        maker.add_on(id, "8", comment, None, (INVALID, at + 32 * number as u64), followed(&raw));
    }
    let mut raw = Patch::empty(several, Xxh3).raw();
    digest(&mut raw, 1);
    digest(&mut raw, 4);
    let comment = "An empty patch between different states, with another layout";
    maker.add("empty-states-layout", "8", comment, (INVALID, raw.trailer_at() + 32), raw.file());
}

/// Section 7: a block in an empty patch, which has another fault.
fn sections(maker: &mut Maker<'_>) {
    let (states, two) = (maker.states, maker.states.get("two"));
    let mut raw = Patch::empty(two, Xxh3).raw();
    raw.sections.insert(2, delta(states).raw().sections[2].clone());
    let at = raw.at(2);
    let mut file = raw.file();
    file[at as usize + 4] ^= 1;
    let comment = "A block in an empty patch, with a wrong checksum";
    maker.add_on("place-crc", "7", comment, Some(two), (INVALID, at), file);
    let mut over = raw.clone();
    over.sections[2].false_len = 1000;
    let comment = "A block in an empty patch, which runs over the end of the file";
    maker.add_on("place-length", "7", comment, Some(two), (INVALID, at), over.file());
    raw.sections[2].reserved[0] = 1;
    let comment = "A block in an empty patch, with reserved bytes that are not zero";
    maker.add_on("reserved-place", "7", comment, Some(two), (INVALID, at + 1), raw.file());
    // What ends within a section and is no patch otherwise either.
    let mut cut = delta(states).raw();
    cut.sections[2].false_len = 1000;
    let at = cut.payload_at(2);
    let mut file = cut.file();
    file[cut.at(2) as usize + 4] ^= 1;
    let comment = "A section that runs over the end of the file, with a wrong checksum";
    maker.add("length-crc", "7", comment, (TRUNCATED, at), file);
}

/// Sections 2.1, 2.2 and 7.3.
fn listings(maker: &mut Maker<'_>) {
    let (states, two) = (maker.states, maker.states.get("two"));
    let good = canonical_schema(&two.tensors);
    let mut patch = Patch { kind: Kind::Empty, ..Patch::delta(two, two, Xxh3) };
    patch.list_schema();
    let mut raw = patch.raw();
    raw.sections[0].payload = [vec![1, 0], varint(good.len() as u64 + 1), good].concat();
    patch.index(&mut raw);
    let comment = "A length that is not that of what follows, in an empty patch that lists a schema";
    maker.add_on("length-mode", "7.3", comment, Some(two), (INVALID, 50), raw.file());
    let mut missing = Patch::full(two, Xxh3);
    missing.layout = Listing::Same;
    let mut raw = missing.raw();
    raw.sections[1].payload.push(0);
    missing.index(&mut raw);
    let error = (INVALID, raw.payload_at(1) + 1);
    let comment = "A byte after a layout of mode 0, which a full patch may not have";
    maker.add_on("layout-followed-mode", "7.3", comment, None, error, raw.file());

    let mut lower_case = tensor(b"w", b"bf16", &[2], 4);
    lower_case[13..17].copy_from_slice(&65_u32.to_le_bytes());
    let (bytes_at, payload) = plain(&schema(&[lower_case]));
    let (at, file) = with_payload(states, 0, payload);
    let comment = "A dtype in lower case, of a tensor of a rank over 64";
    maker.add_on("dtype-rank", "2.1", comment, None, (INVALID, at + bytes_at + 13), file);
    // Each has as many chunks as a tensor may have.
    let chunks = u64::from(u32::MAX) << 20;
    let huge: Vec<_> =
        (0..2049_u16).map(|number| tensor(format!("{number:03x}").as_bytes(), b"X", &[], chunks)).collect();
    let bytes = [schema(&huge), vec![0]].concat();
    let end = bytes.len() as u64 - 1;
    let (bytes_at, payload) = plain(&bytes);
    let (at, file) = with_payload(states, 0, payload);
    let comment = "A byte after the last tensor, of tensors that together have more than 2^63 - 1 bytes";
    maker.add_on("followed-state-2-63", "2.1", comment, None, (INVALID, at + bytes_at + end), file);

    let listed = layout_of(&two.tensors, "");
    let header = &listed[4 + 4 + 17 + 8..listed.len() - 1];
    let second = 4 + 4 + 13 + 8 + header.len();
    for (id, len_at, comment, bytes) in [
        (
            "file-bytes-name",
            23,
            "A header that runs over the end, of a file whose name has a slash",
            layout(&[("a/b.safetensors", header)], None),
        ),
        (
            "file-bytes-place",
            second + 4 + 13,
            "A header that runs over the end, of a file that is not in its place",
            layout(&[("b.safetensors", header), ("a.safetensors", header)], None),
        ),
    ] {
        let mut bytes = bytes;
        bytes[len_at..len_at + 8].copy_from_slice(&5000_u64.to_le_bytes());
        let (bytes_at, payload) = plain(&bytes);
        let (at, file) = with_payload(states, 1, payload);
        let error = (INVALID, at + bytes_at + len_at as u64 + 8);
        maker.add_on(id, "2.2", comment, None, error, file);
    }
    let mut name = layout(&[("a.safetensors", header)], None);
    name[8] = 0xff;
    name[21..29].copy_from_slice(&100_000_009_u64.to_le_bytes());
    let (bytes_at, payload) = plain(&name);
    let (at, file) = with_payload(states, 1, payload);
    let comment = "A name that is not UTF-8, of a file with a header of 100,000,009 bytes";
    maker.add_on("file-text-length", "2.2", comment, None, (INVALID, at + bytes_at + 4), file);
}

/// Faults that may come from the base wait, and others do not.
fn wrong_bases(maker: &mut Maker<'_>) {
    let states = maker.states;
    let other = states.get("several-first-changed-only");
    let mut descending = altered(states, |patch| patch.blocks[1][0].tensor = 0);
    let error = (INVALID, descending.raw().payload_at(3) + 1);
    let comment = "A record before the last one of the block before, on a base with other values";
    maker.add_on("ascent", "10.1", comment, Some(other), error, descending.file());
    descending.blocks[1][0].tensor = 2;
    descending.blocks[1][0].encoding = SPARSE;
    descending.direct = true;
    let error = (INVALID, descending.raw().payload_at(3) + 3);
    let comment = "An encoding that the profile does not allow, on a base with other values";
    maker.add_on("profile", "10.1", comment, Some(other), error, descending.file());
    for (encoding, name) in [(SPARSE, "sparse"), (SCATTER, "scatter"), (XOR, "xor")] {
        let patch = altered(states, |patch| {
            (patch.blocks[1][0].encoding, patch.blocks[1][0].payload) = (encoding, vec![9]);
        });
        let error = (WRONG_BASE, patch.raw().trailer_at());
        let comment = format!("A payload of {name} that does not decode, on a base with other values");
        maker.add_on(&format!("{name}-broken"), "10.1", &comment, Some(other), error, patch.file());
    }
    // Of another base everything is fresh.
    let (base, other) = (states.get("schema"), states.get("schema-other"));
    let target = states.get("schema-added");
    let passed = Patch::delta(base, target, Xxh3).with(2, 0, RAW, target.tensors[2].bytes.clone());
    let error = (WRONG_BASE, passed.raw().trailer_at());
    let comment = "A record after a fresh tensor that has none, on another base";
    maker.add_on("passed", "10.1", comment, Some(other), error, passed.file());
    for (id, direct, comment) in [
        ("fresh-encoding", false, "scatter for a fresh tensor, on another base"),
        ("fresh-profile", true, "sparse for a fresh tensor in the profile direct, on another base"),
    ] {
        let mut patch = Patch::delta(base, target, Xxh3);
        patch.blocks = vec![vec![
            patch.record(0, 0, RAW, target.tensors[0].bytes.clone()),
            patch.record(1, 0, if direct { SPARSE } else { SCATTER }, vec![0]),
        ]];
        patch.direct = direct;
        let raw = patch.raw();
        let encoding = raw.payload_at(2) + 1 + 4 + 2;
        let error = if direct { (INVALID, encoding) } else { (WRONG_BASE, raw.trailer_at()) };
        maker.add_on(id, "10.1", comment, Some(other), error, raw.file());
    }
}
