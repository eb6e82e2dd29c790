//! What every decoder must refuse: schemas, layouts, packed blocks. Each file has one fault.

use tensorpatch_reference::LeafHash::Xxh3;
use tensorpatch_reference::canonical_schema;

use crate::Vector;
use crate::invalid::delta;
use crate::patch::{Kind, Listing, Patch, frame, layout, layout_of};
use crate::raw::{Section, varint};
use crate::refused::{INVALID, LIMIT};
use crate::vector::States;

pub(crate) fn vectors(states: &States) -> Vec<Vector> {
    let mut all = modes(states);
    all.extend(packed(states));
    all.extend(schemas(states));
    all.extend(layouts(states));
    all
}

/// A full patch of one tensor.
pub(crate) fn full(states: &States) -> Patch {
    Patch::full(states.get("two"), Xxh3)
}

/// The full patch with other bytes in place of a section's payload.
pub(crate) fn with_payload(states: &States, section: usize, payload: Vec<u8>) -> (u64, Vec<u8>) {
    let patch = full(states);
    let mut raw = patch.raw();
    raw.sections[section].payload = payload;
    patch.index(&mut raw);
    (raw.payload_at(section), raw.file())
}

/// A full patch whose SCHEMA (0) or LAYOUT (1) is a frame of these bytes, and where the frame begins: for
/// what is too large to be a vector.
pub fn with_frame(section: usize, bytes: &[u8]) -> (Vec<u8>, u64) {
    let head = [vec![1, 1], varint(bytes.len() as u64)].concat();
    let framed = zstd::bulk::compress(bytes, 1).expect("compresses");
    let (at, file) = with_payload(&States::make(), section, [head.clone(), framed].concat());
    (file, at + head.len() as u64)
}

fn modes(states: &States) -> Vec<Vector> {
    let mut all = Vec::new();
    let (base, mut deltas) = (states.get("several"), Vec::new());
    for (section, name) in [(0, "schema"), (1, "layout")] {
        for (id, payload, offset, comment) in [
            ("2", vec![2], 0, "An unknown mode"),
            ("missing", vec![], 0, "A section without a mode"),
            ("followed", vec![0, 0], 1, "A byte after mode 0"),
        ] {
            let patch = delta(states);
            let mut raw = patch.raw();
            raw.sections[section].payload = payload;
            patch.index(&mut raw);
            let error = (INVALID, raw.payload_at(section) + offset);
            deltas.push(Vector::refused(
                format!("{name}-mode-{id}"),
                "7.1",
                comment,
                Some(base),
                error,
                raw.file(),
            ));
        }
        let (at, file) = with_payload(states, section, vec![0]);
        let comment = format!("A full patch with the {name} of a base");
        all.push(Vector::refused(
            format!("{name}-mode-same-in-full"),
            "7.1",
            comment,
            None,
            (INVALID, at),
            file,
        ));
    }
    all.extend(deltas);
    let (base, target) = (states.get("schema"), states.get("schema-reshaped"));
    let mut patch = Patch::delta(base, target, Xxh3);
    patch.layout = Listing::Same;
    patch.target_layout = patch.base_layout;
    let raw = patch.raw();
    let error = (INVALID, raw.payload_at(1));
    all.push(Vector::refused(
        "layout-mode-same-with-schema",
        "7.2",
        "A listed schema with the layout of the base",
        Some(base),
        error,
        raw.file(),
    ));
    let mut patch = Patch { kind: Kind::Empty, ..Patch::delta(base, base, Xxh3) };
    patch.list_schema();
    all.push(Vector::refused(
        "schema-listed-in-empty",
        "6",
        "An empty patch that lists a schema",
        Some(base),
        (INVALID, 48),
        patch.file(),
    ));
    let mut raw = patch.raw();
    raw.sections.insert(0, Section::new(128, b"before all".to_vec()));
    patch.index(&mut raw);
    all.push(Vector::refused(
        "schema-listed-in-empty-later",
        "6",
        "An empty patch that lists a schema, after an ancillary section",
        Some(base),
        (INVALID, raw.payload_at(1)),
        raw.file(),
    ));
    all
}

fn packed(states: &States) -> Vec<Vector> {
    let schema = canonical_schema(&states.get("two").tensors);
    let len = schema.len() as u8;
    let framed = frame(&schema);
    let good = |len: &[u8], bytes: &[u8]| [&[1, 1], len, bytes].concat();
    let mut damaged = crate::encodings::streamed(&schema, true);
    *damaged.last_mut().expect("a frame") ^= 1;
    let mut dictionary = framed.clone();
    // The descriptor says that a dictionary id of one byte follows; a single segment has no window
    // descriptor.
    assert_eq!(dictionary[4] & 0x23, 0x20);
    dictionary[4] |= 1;
    dictionary.insert(5, 7);
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0], &framed[..]].concat();
    let cases: Vec<(&str, &str, u64, &str, Vec<u8>)> = vec![
        ("packing-2", INVALID, 1, "An unknown packing", [&[1, 2, len], &schema[..]].concat()),
        ("packing-missing", INVALID, 1, "Nothing after the mode", vec![1]),
        ("length-missing", INVALID, 2, "Nothing after the packing", vec![1, 1]),
        (
            "length-not-shortest",
            INVALID,
            2,
            "A length that is not in its shortest form",
            [&[1, 0, len | 0x80, 0], &schema[..]].concat(),
        ),
        (
            "length-65-bits",
            INVALID,
            2,
            "A length of 65 bits",
            good(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2], &framed),
        ),
        (
            "length-eleven-bytes",
            INVALID,
            2,
            "A length of eleven bytes",
            good(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1], &framed),
        ),
        ("length-over-limit", LIMIT, 2, "A length over the limit", good(&varint((256 << 20) + 1), &framed)),
        ("length-huge", LIMIT, 2, "A length of 2^60", good(&varint(1 << 60), &framed)),
        (
            "plain-short",
            INVALID,
            2,
            "One byte less than the length says",
            [&[1, 0, len], &schema[..schema.len() - 1]].concat(),
        ),
        (
            "plain-long",
            INVALID,
            2,
            "One byte more than the length says",
            [&[1, 0, len], &schema[..], &[0]].concat(),
        ),
        ("frame-none", INVALID, 3, "No frame", good(&[len], &[])),
        ("frame-no-magic", INVALID, 3, "Bytes that are no frame", good(&[len], &schema)),
        ("frame-cut", INVALID, 3, "A frame without its last byte", good(&[len], &framed[..framed.len() - 1])),
        ("frame-followed", INVALID, 3, "A byte after the frame", good(&[len], &[&framed[..], &[0]].concat())),
        ("frame-twice", INVALID, 3, "Two frames", good(&[len], &[&framed[..], &framed[..]].concat())),
        ("frame-skippable", INVALID, 3, "A skippable frame before the frame", good(&[len], &skippable)),
        ("frame-dictionary", INVALID, 3, "A frame that needs a dictionary", good(&[len], &dictionary)),
        ("frame-checksum", INVALID, 3, "A frame with a wrong checksum", good(&[len], &damaged)),
        (
            "frame-longer",
            INVALID,
            3,
            "A frame that holds one byte more than the length says",
            good(&[len - 1], &framed),
        ),
        (
            "frame-shorter",
            INVALID,
            3,
            "A frame that holds one byte less than the length says",
            good(&[len + 1], &framed),
        ),
        (
            "frame-bomb",
            INVALID,
            4,
            "A frame of a hundred bytes that holds a megabyte where 200 bytes are declared",
            good(&varint(200), &frame(&vec![0; 1 << 20])),
        ),
    ];
    let mut all = Vec::new();
    for (id, code, offset, comment, payload) in cases {
        let (at, file) = with_payload(states, 0, payload);
        let vector = Vector::refused(format!("packed-{id}"), "7.3", comment, None, (code, at + offset), file);
        all.push(vector);
    }
    all
}

/// The canonical bytes of one tensor.
pub(crate) fn tensor(name: &[u8], dtype: &[u8], dims: &[u64], byte_len: u64) -> Vec<u8> {
    let mut out = (name.len() as u32).to_le_bytes().to_vec();
    out.extend(name);
    out.extend((dtype.len() as u32).to_le_bytes());
    out.extend(dtype);
    out.extend((dims.len() as u32).to_le_bytes());
    out.extend(dims.iter().flat_map(|dim| dim.to_le_bytes()));
    out.extend(byte_len.to_le_bytes());
    out
}

pub(crate) fn schema(tensors: &[Vec<u8>]) -> Vec<u8> {
    [&(tensors.len() as u64).to_le_bytes()[..], &tensors.concat()].concat()
}

/// A listing as it is, with the offset of its bytes in the payload.
pub(crate) fn plain(bytes: &[u8]) -> (u64, Vec<u8>) {
    let head = [vec![1, 0], varint(bytes.len() as u64)].concat();
    (head.len() as u64, [&head[..], bytes].concat())
}

fn schemas(states: &States) -> Vec<Vector> {
    let good = tensor(b"w", b"BF16", &[2], 4);
    let one = |tensor: Vec<u8>| schema(&[tensor]);
    let cut = |bytes: Vec<u8>, by: usize| bytes[..bytes.len() - by].to_vec();
    let counted = |count: u64| [&count.to_le_bytes()[..], &good].concat();
    let mut long_name = one(good.clone());
    long_name[8..12].copy_from_slice(&65_536_u32.to_le_bytes());
    let mut name_over = one(good.clone());
    name_over[8..12].copy_from_slice(&60_000_u32.to_le_bytes());
    let mut dtype_over = one(good.clone());
    dtype_over[13..17].copy_from_slice(&32_u32.to_le_bytes());
    let many_dims = tensor(b"w", b"U8", &[1; 65], 1);
    let chunks = u64::from(u32::MAX) << 20;
    // The offsets count from the first byte of the schema: the tensor begins at 8, its dtype at 13, its rank
    // at 21.
    let cases: Vec<(&str, &str, u64, &str, Vec<u8>)> = vec![
        ("count-cut", INVALID, 0, "The section ends within the count", vec![1, 0, 0]),
        ("count-more", INVALID, 0, "Two tensors where there is room for one", counted(2)),
        ("count-over-limit", LIMIT, 0, "2^20 + 1 tensors", counted((1 << 20) + 1)),
        ("count-huge", LIMIT, 0, "2^60 tensors", counted(1 << 60)),
        ("count-less", INVALID, 8, "A tensor after the last one", counted(0)),
        ("name-65536", INVALID, 8, "A name of 65,536 bytes, of which few are there", long_name),
        ("name-over", INVALID, 12, "A name that runs over the end", name_over),
        ("name-not-utf8", INVALID, 8, "A name that is not UTF-8", one(tensor(b"\xff", b"BF16", &[2], 4))),
        (
            "name-surrogate",
            INVALID,
            8,
            "A name with an encoded surrogate",
            one(tensor(b"\xed\xa0\x80", b"BF16", &[2], 4)),
        ),
        ("dtype-empty", INVALID, 13, "A dtype without characters", one(tensor(b"w", b"", &[2], 4))),
        ("dtype-33", INVALID, 13, "A dtype of 33 characters", one(tensor(b"w", &[b'A'; 33], &[2], 4))),
        ("dtype-lower-case", INVALID, 13, "A dtype in lower case", one(tensor(b"w", b"bf16", &[2], 4))),
        ("dtype-not-utf8", INVALID, 13, "A dtype that is not UTF-8", one(tensor(b"w", b"\x80F16", &[2], 4))),
        ("dtype-over", INVALID, 17, "A dtype that runs over the end", dtype_over),
        ("rank-65", INVALID, 18 + 1, "A rank of 65", one(many_dims)),
        (
            "dim-over",
            INVALID,
            41,
            "The section ends within a dim",
            cut(one(tensor(b"w", b"BF16", &[2, 1, 1], 4)), 12),
        ),
        ("size-cut", INVALID, 33, "The section ends within the byte length", cut(one(good.clone()), 1)),
        (
            "size-more",
            INVALID,
            8,
            "A byte length that is not that of the shape",
            one(tensor(b"w", b"BF16", &[2], 5)),
        ),
        ("size-scalar", INVALID, 8, "A scalar without bytes", one(tensor(b"w", b"F32", &[], 0))),
        (
            "size-zero-dim",
            INVALID,
            8,
            "Bytes in a tensor with a dim of 0",
            one(tensor(b"w", b"U8", &[0, 4], 4)),
        ),
        (
            "size-overflow",
            INVALID,
            8,
            "Dims whose product is 2^64, which is not 0",
            one(tensor(b"w", b"U8", &[1 << 32, 1 << 32], 0)),
        ),
        ("size-half-byte", INVALID, 8, "Three elements of 4 bits", one(tensor(b"w", b"F4", &[3], 1))),
        ("size-six-bits", INVALID, 8, "Two elements of 6 bits", one(tensor(b"w", b"F6_E2M3", &[2], 2))),
        (
            "chunks-over",
            INVALID,
            8,
            "One byte more than 2^32 - 1 chunks",
            one(tensor(b"w", b"NEW", &[1], chunks + 1)),
        ),
        (
            "state-over-limit",
            LIMIT,
            0,
            "A state of 64 TiB and a byte",
            one(tensor(b"w", b"NEW", &[1], (64 << 40) + 1)),
        ),
        (
            "names-descending",
            INVALID,
            41,
            "Names in descending order",
            schema(&[good.clone(), tensor(b"a", b"BF16", &[2], 4)]),
        ),
        ("names-equal", INVALID, 41, "A name twice", schema(&[good.clone(), good.clone()])),
        ("followed", INVALID, 41, "A byte after the last tensor", [one(good.clone()), vec![0]].concat()),
    ];
    let mut all = Vec::new();
    for (id, code, offset, comment, bytes) in cases {
        let (bytes_at, payload) = plain(&bytes);
        let (at, file) = with_payload(states, 0, payload);
        let error = (code, at + bytes_at + offset);
        all.push(Vector::refused(format!("schema-{id}"), "2.1", comment, None, error, file));
    }
    // In a frame every offset is that of the frame.
    let bytes = schema(&[good.clone(), good]);
    let framed = [vec![1, 1], varint(bytes.len() as u64), frame(&bytes)].concat();
    let (at, file) = with_payload(states, 0, framed);
    all.push(Vector::refused(
        "schema-names-equal-in-frame",
        "7.3",
        "A name twice, in a zstd frame",
        None,
        (INVALID, at + 3),
        file,
    ));
    for (id, name, dtype, comment) in [
        (
            "name-65536-whole",
            "x".repeat(65_536),
            "BF16".to_owned(),
            "A name of 65,536 bytes, all of which are there",
        ),
        ("dtype-33-whole", "w".to_owned(), "A".repeat(33), "A dtype of 33 characters, in a zstd frame"),
    ] {
        let bytes = schema(&[tensor(name.as_bytes(), dtype.as_bytes(), &[2], 4)]);
        let len = varint(bytes.len() as u64);
        let offset = 2 + len.len() as u64;
        let (at, file) = with_payload(states, 0, [vec![1, 1], len, frame(&bytes)].concat());
        let error = (INVALID, at + offset);
        all.push(Vector::refused(format!("schema-{id}"), "2.1", comment, None, error, file));
    }
    // Each has as many chunks as a tensor may have.
    let huge: Vec<_> =
        (0..2049).map(|number| tensor(format!("{number:04}").as_bytes(), b"NEW", &[], chunks)).collect();
    let bytes = schema(&huge);
    let len = varint(bytes.len() as u64);
    let at_frame = 2 + len.len() as u64;
    let (at, file) = with_payload(states, 0, [vec![1, 1], len, frame(&bytes)].concat());
    all.push(Vector::refused(
        "schema-state-2-63",
        "2.1",
        "Tensors that together have more than 2^63 - 1 bytes",
        None,
        (INVALID, at + at_frame),
        file,
    ));
    all
}

fn layouts(states: &States) -> Vec<Vector> {
    let two = states.get("two");
    let good = layout_of(&two.tensors, "");
    let header = &good[4 + 4 + 17 + 8..good.len() - 1];
    let named = |name: &str| layout(&[(name, header)], None);
    let mut not_utf8 = good.clone();
    not_utf8[8] = 0xff;
    let patched = |at: usize, bytes: &[u8]| {
        let mut layout = good.clone();
        layout[at..at + bytes.len()].copy_from_slice(bytes);
        layout
    };
    let two_files = |first: &str, second: &str| layout(&[(first, header), (second, header)], None);
    // The second file comes after a name of 13 bytes.
    let second = 4 + 4 + 13 + 8 + header.len() as u64;
    let has_index = good.len() - 1;
    let long = format!("{}.safetensors", "x".repeat(256 - 12));
    let indexed = |len: u64| [&good[..has_index], &[1], &len.to_le_bytes(), b"12345678"].concat();
    let cases: Vec<(&str, u64, &str, Vec<u8>)> = vec![
        ("no-files", 0, "No file", [&0_u32.to_le_bytes()[..], &[0]].concat()),
        ("files-more", 0, "More files than there is room for", patched(0, &65_536_u32.to_le_bytes())),
        ("files-cut", 0, "The section ends within the count", vec![1, 0]),
        ("name-empty", 4, "A file name without bytes", named("")),
        ("name-256", 4, "A file name of 256 bytes", named(&long)),
        ("name-parent", 4, "A file name that leads to another directory", named("../model.safetensors")),
        ("name-slash", 4, "A file name with a slash", named("a/model.safetensors")),
        ("name-backslash", 4, "A file name with a backslash", named("a\\model.safetensors")),
        ("name-absolute", 4, "An absolute path", named("/etc/model.safetensors")),
        ("name-hidden", 4, "A hidden file", named(".model.safetensors")),
        ("name-suffix-only", 4, "Nothing before the suffix", named(".safetensors")),
        ("name-other-suffix", 4, "Another suffix", named("model.safetensor")),
        ("name-zero", 4, "A zero character in a file name", named("a\u{0}.safetensors")),
        ("name-control", 4, "A line feed in a file name", named("a\n.safetensors")),
        (
            "name-control-high",
            4,
            "A control character beyond ASCII in a file name",
            named("a\u{85}.safetensors"),
        ),
        ("name-not-utf8", 4, "A file name that is not UTF-8", not_utf8),
        ("name-over", 8, "A file name that runs over the end", {
            let mut cut = good[..20].to_vec();
            cut[4] = 17;
            cut
        }),
        (
            "names-descending",
            second,
            "File names in descending order",
            two_files("b.safetensors", "a.safetensors"),
        ),
        ("names-equal", second, "A file name twice", two_files("a.safetensors", "a.safetensors")),
        (
            "header-over-100-mb",
            25,
            "A header of 100,000,009 bytes",
            patched(25, &100_000_009_u64.to_le_bytes()),
        ),
        ("header-huge", 25, "A header of 2^60 bytes", patched(25, &(1_u64 << 60).to_le_bytes())),
        ("header-over", 33, "A header that runs over the end", patched(25, &100_000_008_u64.to_le_bytes())),
        (
            "has-index-2",
            has_index as u64,
            "A mark of the index that is neither 0 nor 1",
            patched(has_index, &[2]),
        ),
        ("index-over", good.len() as u64 + 8, "An index that runs over the end", indexed(9)),
        ("followed", good.len() as u64, "A byte after the layout", [&good[..], &[0]].concat()),
    ];
    let mut all = Vec::new();
    for (id, offset, comment, bytes) in cases {
        let (bytes_at, payload) = plain(&bytes);
        let (at, file) = with_payload(states, 1, payload);
        let error = (INVALID, at + bytes_at + offset);
        all.push(Vector::refused(format!("layout-{id}"), "2.2", comment, None, error, file));
    }
    for (id, count) in [("limit-files-over", 65_537), ("layout-files-huge", u32::MAX)] {
        let (bytes_at, payload) = plain(&patched(0, &count.to_le_bytes()));
        let (at, file) = with_payload(states, 1, payload);
        let (comment, error) = (format!("{count} files"), (LIMIT, at + bytes_at));
        all.push(Vector::refused(id, "11", comment, None, error, file).flagged("bomb"));
    }
    for (id, len) in [("over", 100_000_009), ("huge", 1 << 60)] {
        let (bytes_at, payload) = plain(&indexed(len));
        let (at, file) = with_payload(states, 1, payload);
        let (comment, error) =
            (format!("An index of {len} bytes"), (LIMIT, at + bytes_at + good.len() as u64));
        let vector = Vector::refused(format!("limit-index-file-{id}"), "11", comment, None, error, file);
        all.push(vector.flagged("bomb"));
    }
    all
}
