//! What every decoder must refuse: blocks, records that the grid has no place for, and the index. Each file
//! has one fault.

use tensorpatch_reference::LeafHash::Xxh3;

use crate::Vector;
use crate::invalid::delta;
use crate::patch::{CHUNK, Patch, RAW, SCATTER, SPARSE, XOR, frame};
use crate::raw::varint;
use crate::refused::{INVALID, TARGET_MISMATCH};
use crate::vector::States;

pub(crate) fn vectors(states: &States) -> Vec<Vector> {
    let mut all = blocks(states);
    all.extend(grid(states));
    all.extend(index(states));
    all
}

fn blocks(states: &States) -> Vec<Vector> {
    let base = states.get("several");
    let good = delta(states).raw();
    let start = good.payload_at(2);
    // Two records: tensor_step, chunk, encoding, payload_len each; then 4 and 8 bytes.
    assert_eq!(good.sections[2].payload[..9], [2, 0, 0, RAW, 4, 1, 0, RAW, 8]);
    let splice = |at: usize, remove: usize, insert: &[u8]| {
        let mut raw = good.clone();
        raw.sections[2].payload.splice(at..at + remove, insert.iter().copied());
        raw.file()
    };
    let huge = varint(1 << 60);
    let over = varint(1 << 32);
    let all_ones = varint(u64::MAX);
    // The second record is of the tensor of the first.
    let same_tensor = [vec![0], varint(u64::from(u32::MAX))].concat();
    let same_tensor_far = [vec![0], varint(u64::MAX)].concat();
    let mut all = Vec::new();
    for (id, at, remove, insert, offset, comment) in [
        ("no-records", 0, 1, &[0][..], 0, "No records"),
        ("records-more", 0, 1, &[6], 0, "More records than there is room for"),
        ("records-huge", 0, 1, &huge, 0, "2^60 records"),
        ("records-cut", 0, 21, &[0x80], 0, "The section ends within the count"),
        ("tensor-over", 1, 1, &over, 1, "A tensor index of 2^32"),
        ("tensor-sum-over", 5, 1, &all_ones, 5, "A tensor step with which the index does not fit 64 bits"),
        ("chunk-over", 2, 1, &over, 2, "A chunk number of 2^32"),
        ("chunk-sum-over", 5, 2, &same_tensor, 6, "A chunk step with which the number is 2^32"),
        (
            "chunk-sum-64-bits",
            5,
            2,
            &same_tensor_far,
            6,
            "A chunk step with which the number does not fit 64 bits",
        ),
        ("encoding-0", 3, 1, &[0], 3, "Encoding 0"),
        ("encoding-6", 7, 1, &[6], 7, "Encoding 6"),
        ("payload-less", 8, 1, &[7], 9, "The payloads leave a byte over"),
        ("payload-more", 8, 1, &[9], 9, "The payloads want a byte more"),
        ("payload-huge", 8, 1, &all_ones, 18, "The lengths of the payloads do not fit 64 bits together"),
        ("varint-not-shortest", 4, 1, &[0x84, 0x00], 4, "A length that is not in its shortest form"),
    ] {
        let error = (INVALID, start + offset);
        let file = splice(at, remove, insert);
        all.push(Vector::refused(format!("block-{id}"), "7.4", comment, Some(base), error, file));
    }
    all
}

/// Records that the grid has no place for, and fresh chunks that are not there.
fn grid(states: &States) -> Vec<Vector> {
    let (several, changed) = (states.get("several"), states.get("several-changed"));
    let mut all = Vec::new();
    let good = delta(states);
    let mut moved = |id: &str, comment: &str, tensor: u64, chunk: u64| {
        let mut patch = good.clone();
        (patch.blocks[1][0].tensor, patch.blocks[1][0].chunk) = (tensor, chunk);
        let raw = patch.raw();
        let error = (INVALID, raw.payload_at(3) + 1);
        all.push(Vector::refused(id, "7.4", comment, Some(several), error, raw.file()));
    };
    moved("grid-tensor", "A tensor beyond the last", 4, 0);
    moved("grid-chunk", "A chunk beyond the last of its tensor", 2, 1);
    moved("grid-empty-tensor", "A chunk of a tensor without bytes", 3, 0);
    moved("grid-descending", "A record before the last one of the block before", 0, 0);
    moved("grid-twice", "A chunk twice, in two blocks", 1, 0);

    for (encoding, name) in [(SPARSE, "sparse"), (XOR, "xor")] {
        let mut patch = Patch::delta(several, changed, Xxh3).with(0, 0, encoding, vec![0]);
        patch.direct = true;
        let raw = patch.raw();
        let (comment, error) = (format!("{name} in the profile direct"), (INVALID, raw.payload_at(2) + 3));
        all.push(Vector::refused(format!("direct-{name}"), "9", comment, Some(several), error, raw.file()));
    }
    let (base, target) = (states.get("schema"), states.get("schema-added"));
    for (encoding, name) in [(SPARSE, "sparse"), (SCATTER, "scatter"), (XOR, "xor")] {
        let raw = Patch::delta(base, target, Xxh3).with(1, 0, encoding, vec![0]).raw();
        let (comment, error) = (format!("{name} for a fresh tensor"), (INVALID, raw.payload_at(2) + 3));
        all.push(Vector::refused(format!("fresh-{name}"), "9", comment, Some(base), error, raw.file()));
    }
    let none = Patch::delta(base, target, Xxh3).raw();
    let error = (INVALID, none.at(2));
    all.push(Vector::refused(
        "fresh-missing",
        "7.1",
        "A fresh tensor without a record",
        Some(base),
        error,
        none.file(),
    ));
    let bytes = target.tensors[2].bytes.clone();
    let passed = Patch::delta(base, target, Xxh3).with(2, 0, RAW, bytes).raw();
    let error = (INVALID, passed.payload_at(2) + 1);
    all.push(Vector::refused(
        "fresh-passed-over",
        "7.4",
        "A record after a fresh tensor that has none",
        Some(base),
        error,
        passed.file(),
    ));
    let large = states.get("schema-added-large");
    let zeros = frame(&vec![0; CHUNK]);
    let mut patch = Patch::delta(base, large, Xxh3);
    patch.blocks = vec![vec![
        patch.record(3, 0, crate::patch::ZSTD, zeros.clone()),
        patch.record(3, 1, crate::patch::ZSTD, zeros.clone()),
    ]];
    let raw = patch.raw();
    let error = (INVALID, raw.at(3));
    all.push(Vector::refused(
        "fresh-last-chunk-missing",
        "7.4",
        "A fresh tensor without its last chunk",
        Some(base),
        error,
        raw.file(),
    ));
    patch.blocks =
        vec![vec![patch.record(3, 0, crate::patch::ZSTD, zeros), patch.record(3, 2, RAW, vec![0])]];
    let raw = patch.raw();
    let first_len = 1 + 1 + 1 + varint(patch.blocks[0][0].payload.len() as u64).len() as u64;
    let error = (INVALID, raw.payload_at(2) + 1 + first_len);
    all.push(Vector::refused(
        "fresh-middle-chunk-missing",
        "7.4",
        "A fresh tensor without a chunk in the middle",
        Some(base),
        error,
        raw.file(),
    ));
    all
}

fn index(states: &States) -> Vec<Vector> {
    let base = states.get("several");
    let good = delta(states).raw();
    let index = good.index();
    let start = good.payload_at(index);
    // 2 blocks; gap, length, records; gap, length, records; three addresses; three leaf digests.
    let payload = &good.sections[index].payload;
    assert_eq!(payload[..13], [2, 34, 37, 2, 0, 25, 1, 0, 0, 1, 0, 2, 0]);
    let splice = |at: usize, remove: usize, insert: &[u8]| {
        let mut raw = good.clone();
        raw.sections[index].payload.splice(at..at + remove, insert.iter().copied());
        raw.file()
    };
    let long = varint(1 << 60);
    let over = varint(1 << 32);
    let mut all = Vec::new();
    let mut add = |id: &str, comment: &str, error, file| {
        all.push(Vector::refused(format!("index-{id}"), "7.5", comment, Some(base), error, file));
    };
    for (id, at, remove, insert, offset, comment) in [
        ("blocks-fewer", 0, 1, &[1][..], 0, "One block less than the file has"),
        ("blocks-more", 0, 1, &[3], 0, "One block more than the file has"),
        ("blocks-huge", 0, 1, &long, 0, "2^60 blocks"),
        ("gap", 1, 1, &[35], 1, "The gap before a block"),
        (
            "gap-huge",
            1,
            1,
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
            11,
            "A gap of 2^64 - 1, with which the block ends beyond all numbers",
        ),
        ("length-15", 2, 1, &[15], 2, "A block shorter than a section head"),
        ("length-less", 2, 1, &[36], 1, "A block one byte shorter than it is"),
        ("length-beyond", 2, 1, &[127], 2, "A block that ends after the index begins"),
        ("records-0", 3, 1, &[0], 3, "A block without records"),
        ("records-fewer", 3, 1, &[1], 1, "One record less than the block has"),
        ("records-huge", 6, 1, &long, 6, "2^60 records"),
        ("second-gap", 4, 2, &[1, 24], 4, "The second block begins later and is shorter"),
        ("tensor", 9, 1, &[0], 9, "The address of another chunk"),
        ("chunk", 12, 1, &[1], 11, "The address of a chunk that its tensor does not have"),
        ("tensor-over", 9, 1, &over, 9, "A tensor index over 2^32 - 1"),
        ("chunk-over", 10, 1, &over, 10, "A chunk number over 2^32 - 1"),
        ("varint-long", 0, 1, &[0x82, 0x00], 0, "A count that is not in its shortest form"),
        ("leaf-over", payload.len(), 0, &[0], payload.len() as u64, "A byte after the leaf digests"),
    ] {
        let file = splice(at, remove, insert);
        add(id, comment, (INVALID, start + offset), file);
    }
    let file = splice(payload.len() - 1, 1, &[]);
    add(
        "leaf-short",
        "The section ends within the last leaf digest: it has no room for the records",
        (INVALID, start + 6),
        file,
    );
    let leaf = payload.len() - 16;
    let mut raw = good.clone();
    raw.sections[index].payload[leaf + 3] ^= 1;
    let error = (TARGET_MISMATCH, start + leaf as u64);
    add(
        "leaf",
        "A leaf digest that is not that of the chunk, while the state digest is right",
        error,
        raw.file(),
    );
    all
}
