//! What every decoder must refuse for the first of two faults: the orders of checks in sections 2, 6, 7 and
//! 8.

use tensorpatch_reference::LeafHash::{Blake3, Xxh3};

use crate::Vector;
use crate::invalid::delta;
use crate::invalid_parts::{plain, schema, tensor, with_payload};
use crate::patch::{Kind, Patch, RAW, SPARSE, layout, layout_of};
use crate::raw::{Raw, varint};
use crate::refused::{CHECKSUM, FEATURE, INVALID, LIMIT, Maker, NOT_A_PATCH, TRUNCATED, VERSION, WRONG_BASE};
use crate::vector::States;

pub(crate) fn vectors(states: &States) -> Vec<Vector> {
    let mut maker = Maker::new(states, "two-faults-");
    header(&mut maker);
    sections(&mut maker);
    listings(&mut maker);
    schemas(&mut maker);
    layouts(&mut maker);
    blocks(&mut maker);
    index(&mut maker);
    trailer(&mut maker);
    bases(&mut maker);
    maker.all
}

fn flipped(mut file: Vec<u8>, at: u64) -> Vec<u8> {
    file[at as usize] ^= 1;
    file
}

fn header(maker: &mut Maker<'_>) {
    type Change = (usize, &'static [u8]);
    type Case = (&'static str, &'static str, u64, &'static str, &'static [Change], bool);
    let base = Some(maker.states.get("several"));
    let cases: [Case; 7] = [
        (
            "magic-major",
            NOT_A_PATCH,
            0,
            "Another magic, and another major version",
            &[(0, &[0x88]), (8, &[2])],
            false,
        ),
        ("major-crc", VERSION, 8, "Another major version, and a wrong checksum", &[(8, &[2])], true),
        ("crc-features", CHECKSUM, 28, "A wrong checksum, and a required feature", &[(12, &[1])], true),
        (
            "features-kind",
            FEATURE,
            12,
            "A required feature, and an unknown kind",
            &[(12, &[1]), (20, &[9])],
            false,
        ),
        ("kind-profile", INVALID, 20, "An unknown kind and an unknown profile", &[(20, &[9, 9])], false),
        (
            "profile-leaf-hash",
            INVALID,
            21,
            "An unknown profile and an unknown leaf hash",
            &[(21, &[9, 9])],
            false,
        ),
        (
            "leaf-hash-reserved",
            INVALID,
            22,
            "An unknown leaf hash, and reserved bytes that are not zero",
            &[(22, &[9, 9])],
            false,
        ),
    ];
    for (id, code, offset, comment, changes, wrong_crc) in cases {
        let mut raw = delta(maker.states).raw();
        for (at, bytes) in changes {
            raw.header[*at..*at + bytes.len()].copy_from_slice(bytes);
        }
        let file = if wrong_crc { flipped(raw.file(), 28) } else { raw.file() };
        maker.add_on(id, "6", comment, base, (code, offset), file);
    }
}

fn sections(maker: &mut Maker<'_>) {
    let base = Some(maker.states.get("several"));
    let good = delta(maker.states).raw();
    let change = |change: &dyn Fn(&mut Raw)| {
        let mut raw = good.clone();
        change(&mut raw);
        raw.file()
    };
    let at = good.at(2);
    let file = change(&|raw| {
        raw.sections[2].kind = 6;
        raw.sections[2].reserved[0] = 1;
    });
    let comment = "An unknown type, and reserved bytes that are not zero";
    maker.add_on("type-reserved", "7", comment, base, (FEATURE, at), file);
    let file = change(&|raw| {
        raw.sections[2].reserved[2] = 1;
        raw.sections[2].false_len = 64 << 20;
    });
    let comment = "Reserved bytes that are not zero, and a length over the limit";
    maker.add_on("reserved-length", "7", comment, base, (INVALID, at + 1), file);
    for (id, len, error, comment) in [
        ("length-place", 256 << 20, (LIMIT, 40), "A length over the limit, of a section out of place"),
        ("place-bytes", 1 << 20, (INVALID, 32), "A section out of place that runs over the end of the file"),
    ] {
        let file = change(&|raw| {
            raw.sections.swap(0, 1);
            raw.sections[0].false_len = len;
        });
        maker.add_on(id, "7", comment, base, error, file);
    }
    let file = flipped(change(&|raw| raw.sections[0].payload = vec![2]), 36);
    maker.add_on("crc-payload", "7", "A wrong checksum, and an unknown mode", base, (CHECKSUM, 36), file);
}

/// Section 7.3.
fn listings(maker: &mut Maker<'_>) {
    let two = maker.states.get("two");
    let (at, file) = with_payload(maker.states, 0, vec![0, 0]);
    let comment = "A byte after mode 0, which a full patch may not have";
    maker.add_on("followed-mode", "7.3", comment, None, (INVALID, at + 1), file);
    let good = tensorpatch_reference::canonical_schema(&two.tensors);
    let (at, file) =
        with_payload(maker.states, 0, [vec![1, 0], varint((256 << 20) + 1), good.clone()].concat());
    let comment = "A length that is over the limit, and not that of what follows";
    maker.add_on("limit-length", "7.3", comment, None, (LIMIT, at + 2), file);
    let (at, file) = with_payload(maker.states, 0, [vec![1, 2], varint(1 << 60), good.clone()].concat());
    let comment = "An unknown packing, and a length over the limit";
    maker.add_on("packing-limit", "7.3", comment, None, (INVALID, at + 1), file);

    let empty = |payload: Vec<u8>| {
        let mut patch = Patch { kind: Kind::Empty, ..Patch::delta(two, two, Xxh3) };
        patch.list_schema();
        let mut raw = patch.raw();
        raw.sections[0].payload = payload;
        patch.index(&mut raw);
        raw.file()
    };
    let twice = schema(&[tensor(b"w", b"BF16", &[2], 4), tensor(b"w", b"BF16", &[2], 4)]);
    for (id, code, offset, comment, payload) in [
        (
            "packing-mode",
            INVALID,
            49,
            "An unknown packing, in an empty patch that lists a schema",
            [vec![1, 2], varint(good.len() as u64), good.clone()].concat(),
        ),
        (
            "limit-mode",
            LIMIT,
            50,
            "A length over the limit, in an empty patch that lists a schema",
            [vec![1, 0], varint(1 << 60), good.clone()].concat(),
        ),
        (
            "mode-contents",
            INVALID,
            48,
            "An empty patch that lists a schema with a name twice",
            plain(&twice).1,
        ),
    ] {
        maker.add_on(id, "7.3", comment, Some(two), (code, offset), empty(payload));
    }
}

/// Section 2.1.
fn schemas(maker: &mut Maker<'_>) {
    let good = tensor(b"w", b"BF16", &[2], 4);
    let beyond = tensor(b"w", b"NEW", &[1], (64 << 40) + 1);
    for (id, offset, comment, bytes) in [
        (
            "dtype-size",
            13,
            "A dtype in lower case, of a tensor whose byte length is not that of the shape",
            schema(&[tensor(b"w", b"bf16", &[2], 5)]),
        ),
        (
            "dtype-place",
            46,
            "A dtype in lower case, of a tensor that is not in its place",
            schema(&[good.clone(), tensor(b"a", b"bf16", &[2], 4)]),
        ),
        (
            "tensor-tensor",
            8,
            "A byte length that is not that of the shape, and a dtype in lower case in the next tensor",
            schema(&[tensor(b"a", b"BF16", &[2], 5), tensor(b"b", b"bf16", &[2], 4)]),
        ),
        (
            "followed-state",
            40,
            "A byte after the last tensor, where the state is over the limit",
            [schema(&[beyond]), vec![0]].concat(),
        ),
    ] {
        let (bytes_at, payload) = plain(&bytes);
        let (at, file) = with_payload(maker.states, 0, payload);
        maker.add_on(id, "2.1", comment, None, (INVALID, at + bytes_at + offset), file);
    }
}

/// Section 2.2.
fn layouts(maker: &mut Maker<'_>) {
    let good = layout_of(&maker.states.get("two").tensors, "");
    let header = &good[4 + 4 + 17 + 8..good.len() - 1];
    let over = |mut layout: Vec<u8>, at: usize| {
        layout[at..at + 8].copy_from_slice(&100_000_009_u64.to_le_bytes());
        layout
    };
    let second = 4 + 4 + 13 + 8 + header.len();
    let mut marked = layout(&[("a/b.safetensors", header)], None);
    *marked.last_mut().expect("has_index") = 2;
    for (id, offset, comment, bytes) in [
        (
            "header-file-name",
            23,
            "A header of 100,000,009 bytes, of a file whose name has a slash",
            over(layout(&[("a/b.safetensors", header)], None), 23),
        ),
        (
            "header-file-place",
            second + 4 + 13,
            "A header of 100,000,009 bytes, of a file that is not in its place",
            over(layout(&[("b.safetensors", header), ("a.safetensors", header)], None), second + 4 + 13),
        ),
        (
            "file-name-index",
            4,
            "A name with a slash, and a mark of the index that is neither 0 nor 1",
            marked,
        ),
    ] {
        let (bytes_at, payload) = plain(&bytes);
        let (at, file) = with_payload(maker.states, 1, payload);
        maker.add_on(id, "2.2", comment, None, (INVALID, at + bytes_at + offset as u64), file);
    }
}

/// Section 7.4.
fn blocks(maker: &mut Maker<'_>) {
    let base = maker.states.get("several");
    let good = delta(maker.states);
    let start = good.raw().payload_at(2);
    // Two records: tensor_step, chunk, encoding, payload_len each; then 4 and 8 bytes.
    assert_eq!(good.raw().sections[2].payload[..9], [2, 0, 0, RAW, 4, 1, 0, RAW, 8]);
    for (id, changes, offset, comment) in [
        ("encoding-sum", [(7, 6), (8, 9)], 7, "An unknown encoding, and lengths that do not add up"),
        ("sum-grid", [(5, 9), (8, 9)], 9, "Lengths that do not add up, and a record outside the grid"),
    ] {
        let mut raw = good.raw();
        for (at, byte) in changes {
            raw.sections[2].payload[at] = byte;
        }
        maker.add_on(id, "7.4", comment, Some(base), (INVALID, start + offset), raw.file());
    }
    let mut add = |id: &str, offset, comment: &str, change: &dyn Fn(&mut Patch)| {
        let mut patch = good.clone();
        patch.direct = true;
        // The block after would be out of order, which can be told without the base, and so before anything
        // else.
        patch.blocks.truncate(1);
        change(&mut patch);
        maker.add_on(id, "7.4", comment, Some(base), (INVALID, start + offset), patch.file());
    };
    let comment = "An encoding that the profile does not allow, before a record outside the grid";
    add("encoding-grid", 3, comment, &|patch| {
        patch.blocks[0][0].encoding = SPARSE;
        patch.blocks[0][1].tensor = 9;
    });
    let comment = "A record outside the grid, with an encoding that the profile does not allow";
    add("grid-encoding", 5, comment, &|patch| {
        patch.blocks[0][1].encoding = SPARSE;
        patch.blocks[0][1].tensor = 9;
    });
    let comment = "A payload that is too short, before a record outside the grid";
    add("grid-payload", 5, comment, &|patch| {
        patch.blocks[0][0].payload.pop();
        patch.blocks[0][1].tensor = 9;
    });
}

/// Section 7.5.
fn index(maker: &mut Maker<'_>) {
    let base = maker.states.get("several");
    let good = delta(maker.states).raw();
    let index = good.index();
    let start = good.payload_at(index);
    // 2 blocks; gap, length, records; gap, length, records; three addresses; three leaf digests.
    assert_eq!(good.sections[index].payload[..13], [2, 34, 37, 2, 0, 25, 1, 0, 0, 1, 0, 2, 0]);
    for (id, changes, offset, comment) in [
        ("length-records", &[(2, 15), (3, 0)][..], 2, "A block shorter than its head, without records"),
        ("records-gap", &[(1, 35), (3, 0)], 3, "A block without records, after another gap"),
        ("gap-length", &[(1, 35), (5, 15)], 1, "Another gap, before a block shorter than its head"),
        ("records-address", &[(6, 2), (8, 1)], 4, "One record more than the block has, and another address"),
    ] {
        let mut raw = good.clone();
        for (at, byte) in changes {
            raw.sections[index].payload[*at] = *byte;
        }
        if id == "records-address" {
            // There is room for the record that is counted too much.
            raw.sections[index].payload.extend([0; 18]);
        }
        maker.add_on(id, "7.5", comment, Some(base), (INVALID, start + offset), raw.file());
    }
    let mut raw = good.clone();
    raw.sections[index].payload[9] = 0;
    raw.sections[index].payload.push(0);
    let comment = "The address of another chunk, and a byte after the leaf digests";
    maker.add_on("address-followed", "7.5", comment, Some(base), (INVALID, start + 9), raw.file());
}

type Faults = fn(&mut Raw);

fn trailer(maker: &mut Maker<'_>) {
    let several = maker.states.get("several");
    let good = delta(maker.states).raw();
    let at = good.trailer_at();
    let change = |change: &dyn Fn(&mut Raw)| {
        let mut raw = good.clone();
        change(&mut raw);
        raw.file()
    };
    let file = flipped(change(&|raw| raw.end_magic[7] = 9), at + 180);
    let comment = "Another end magic, and a wrong checksum";
    maker.add_on("magic-crc", "8", comment, Some(several), (TRUNCATED, at + 184), file);
    let file = flipped(change(&|raw| raw.trailer_reserved = 1), at + 180);
    let comment = "A wrong checksum, and reserved bytes that are not zero";
    maker.add_on("crc-reserved", "8", comment, Some(several), (CHECKSUM, at + 180), file);
    let cases: [(&str, u64, &str, Faults); 4] = [
        (
            "reserved-file-length",
            176,
            "Reserved bytes that are not zero, and a false length of the file",
            |raw| {
                raw.trailer_reserved = 1;
                raw.false_file_len = 1;
            },
        ),
        ("file-length-index", 168, "A false length of the file and a false offset of the index", |raw| {
            raw.false_file_len = 1;
            raw.false_index_offset = 1;
        }),
        ("index-states", 160, "A false offset of the index, in a delta between equal states", |raw| {
            raw.false_index_offset = 1;
            raw.digests[1] = raw.digests[0];
        }),
        ("states-layouts", 32, "A delta between equal states, whose layouts are not the same", |raw| {
            raw.digests[1] = raw.digests[0];
            raw.digests[4][0] ^= 1;
        }),
    ];
    for (id, field, comment, faults) in cases {
        maker.add_on(id, "8", comment, Some(several), (INVALID, at + field), change(&faults));
    }
    let full = Patch::full(several, Blake3).raw();
    let at = full.trailer_at();
    for (id, digests, field, comment) in [
        ("base-schema", [0, 2], 0, "A full patch with the state digest of a base, and another schema digest"),
        ("base-layout", [3, 4], 96, "The layout digest of a base, and another layout digest"),
    ] {
        let mut raw = full.clone();
        for digest in digests {
            raw.digests[digest][0] ^= 1;
        }
        maker.add_on(id, "8", comment, None, (INVALID, at + field), raw.file());
    }
}

/// Section 10: what depends on the base waits.
fn bases(maker: &mut Maker<'_>) {
    let (several, other) = (maker.states.get("several"), maker.states.get("several-first-changed-only"));
    let mut patch = delta(maker.states);
    patch.blocks[0][0].payload.pop();
    let at = patch.raw().trailer_at();
    let comment = "A payload that is too short, on a base with other values";
    maker.add_on("base-payload", "10", comment, Some(other), (WRONG_BASE, at), patch.file());
    let len = patch.file().len() as u64;
    let comment = "A payload that is too short, and a byte after the trailer";
    let file = [patch.file(), vec![0]].concat();
    maker.add_on("followed-payload", "10", comment, Some(several), (INVALID, len), file);
    let mut raw = delta(maker.states).raw();
    let index = raw.index();
    let leaf = raw.sections[index].payload.len() - 16;
    raw.sections[index].payload[leaf] ^= 1;
    let at = raw.trailer_at();
    let comment = "A leaf digest that is not that of the chunk, on a base with other values";
    maker.add_on("base-leaf", "10", comment, Some(other), (WRONG_BASE, at), raw.file());
}
