//! What every decoder must take: kinds, profiles, hashes, schemas, layouts, sections.

use tensorpatch_reference::LeafHash::{Blake3, Xxh3};

use crate::Vector;
use crate::encodings::{best, changed};
use crate::patch::{CHUNK, Kind, Listing, Patch, RAW, SCATTER, XOR, ZSTD, frame, layout, layout_of};
use crate::raw::{Section, varint};
use crate::states::{DTYPES, SIZES, name, size_name};
use crate::vector::States;

pub(crate) fn vectors(states: &States) -> Vec<Vector> {
    let mut all = kinds(states);
    all.extend(schemas(states));
    all.extend(layouts(states));
    all.extend(structure(states));
    all.extend(dtypes_and_sizes(states));
    all
}

fn kinds(states: &States) -> Vec<Vector> {
    let (two, changed) = (states.get("two"), states.get("two-changed"));
    let raw = changed.tensors[0].bytes.clone();
    let mut all = Vec::new();
    for (hash, hash_name) in [(Xxh3, "xxh3"), (Blake3, "blake3")] {
        for direct in [false, true] {
            let profile = if direct { "direct" } else { "compact" };
            let mut patch = Patch::delta(two, changed, hash).with(0, 0, RAW, raw.clone());
            patch.direct = direct;
            let comment =
                format!("A delta of one raw chunk in the profile {profile} with the leaf hash {hash_name}");
            let id = format!("delta-{profile}-{hash_name}");
            all.push(Vector::valid(id, "6", comment, Some(two), changed, patch.file()));
            let mut patch = Patch::full(changed, hash);
            patch.direct = direct;
            let comment = format!("A full patch in the profile {profile} with the leaf hash {hash_name}");
            all.push(Vector::valid(
                format!("full-{profile}-{hash_name}"),
                "6",
                comment,
                None,
                changed,
                patch.file(),
            ));
            let mut patch = Patch::empty(two, hash);
            patch.direct = direct;
            let comment = format!("An empty patch in the profile {profile} with the leaf hash {hash_name}");
            all.push(Vector::valid(
                format!("empty-{profile}-{hash_name}"),
                "6",
                comment,
                Some(two),
                two,
                patch.file(),
            ));
        }
    }
    let nothing = states.get("nothing");
    all.push(Vector::valid(
        "full-no-tensors",
        "2",
        "A full patch of a state without tensors",
        None,
        nothing,
        Patch::full(nothing, Xxh3).file(),
    ));
    let several = states.get("several");
    all.push(Vector::valid(
        "full-several",
        "6",
        "A full patch of several tensors, one of them empty",
        None,
        several,
        Patch::full(several, Blake3).file(),
    ));
    let patch = Patch::delta(nothing, two, Xxh3).with(0, 0, RAW, two.tensors[0].bytes.clone());
    all.push(Vector::valid(
        "delta-from-nothing",
        "7.1",
        "The base has no tensors",
        Some(nothing),
        two,
        patch.file(),
    ));
    let patch = Patch::delta(two, nothing, Xxh3);
    all.push(Vector::valid(
        "delta-to-nothing",
        "7.1",
        "The target has no tensors",
        Some(two),
        nothing,
        patch.file(),
    ));
    let (scalars, target) = (states.get("scalars"), states.get("scalars-changed"));
    let patch = Patch::delta(scalars, target, Xxh3).with(2, 0, XOR, vec![1, 1, 0, 0, 0]);
    all.push(Vector::valid(
        "scalars-and-empty-tensors",
        "2",
        "Scalars, and tensors with a dim of 0 beside dims whose product does not fit 64 bits",
        Some(scalars),
        target,
        patch.file(),
    ));
    all.push(Vector::valid(
        "full-scalars",
        "2",
        "A full patch of scalars and empty tensors",
        None,
        scalars,
        Patch::full(scalars, Xxh3).file(),
    ));
    let minor = Patch { minor: 7, ..Patch::delta(two, changed, Xxh3) }.with(0, 0, RAW, raw.clone());
    all.push(
        Vector::valid(
            "minor-version-unknown",
            "6",
            "An unknown minor version is accepted",
            Some(two),
            changed,
            minor.file(),
        )
        .flagged("evolution"),
    );
    let optional = Patch { optional: 0x8000_0001, ..Patch::delta(two, changed, Xxh3) }.with(0, 0, RAW, raw);
    all.push(
        Vector::valid(
            "optional-features-unknown",
            "6",
            "Unknown optional features are ignored",
            Some(two),
            changed,
            optional.file(),
        )
        .flagged("evolution"),
    );
    all
}

/// A patch from `schema` to what became of it, with a raw record for each fresh tensor given by its number.
fn schemas(states: &States) -> Vec<Vector> {
    let base = states.get("schema");
    let mut all = Vec::new();
    for (target, fresh, comment) in [
        ("schema-added", &[1][..], "A tensor is added between others"),
        ("schema-added-nameless", &[0], "A tensor with an empty name is added, before all others"),
        ("schema-added-empty", &[], "A tensor without bytes is added, and has no chunk"),
        ("schema-removed", &[], "A tensor is removed; the patch has no block"),
        ("schema-renamed", &[2], "A tensor has another name: one is removed, one is fresh"),
        ("schema-retyped", &[1], "A tensor has another dtype and the same bytes: it is fresh"),
        (
            "schema-reshaped",
            &[],
            "A tensor has another shape: it is continued, and nothing changes but the schema",
        ),
        ("schema-resized", &[2], "A tensor has another size: it is fresh"),
        ("schema-other", &[0], "No tensor is continued"),
    ] {
        let state = states.get(target);
        let mut patch = Patch::delta(base, state, Xxh3);
        for number in fresh {
            patch = patch.with(*number, 0, RAW, state.tensors[*number as usize].bytes.clone());
        }
        all.push(Vector::valid(target, "7.1", comment, Some(base), state, patch.file()));
    }
    let state = states.get("schema-reshaped-changed");
    let patch =
        Patch::delta(base, state, Xxh3).with(1, 0, SCATTER, scatter_one(0, 4, &state.tensors[1].bytes[..4]));
    all.push(Vector::valid(
        "schema-reshaped-and-changed",
        "7.1",
        "A reshaped tensor is continued, so that an encoding over its base may be used",
        Some(base),
        state,
        patch.file(),
    ));
    let state = states.get("schema-added-large");
    let mut patch = Patch::delta(base, state, Xxh3);
    let zeros = frame(&vec![0; CHUNK]);
    let records = vec![
        patch.record(3, 0, ZSTD, zeros.clone()),
        patch.record(3, 1, ZSTD, zeros),
        patch.record(3, 2, RAW, vec![0]),
    ];
    patch.blocks = vec![records];
    all.push(Vector::valid(
        "schema-added-large",
        "7.1",
        "A fresh tensor of three chunks in one block",
        Some(base),
        state,
        patch.file(),
    ));
    let mut patch = Patch::delta(base, base, Xxh3);
    patch.target = states.get("schema-reshaped").tensors.clone();
    patch.list_schema();
    let (Listing::Plain(schema), Listing::Plain(layout)) = (&patch.schema, &patch.layout) else {
        panic!("listed")
    };
    (patch.schema, patch.layout) = (Listing::Zstd(schema.clone()), Listing::Zstd(layout.clone()));
    all.push(Vector::valid(
        "schema-packed",
        "7.3",
        "Schema and layout are listed as zstd frames",
        Some(base),
        states.get("schema-reshaped"),
        patch.file(),
    ));
    let (two, changed) = (states.get("two"), states.get("two-changed"));
    let mut patch = Patch::delta(two, changed, Xxh3).with(0, 0, RAW, changed.tensors[0].bytes.clone());
    patch.list_schema();
    all.push(Vector::valid(
        "schema-listed-and-equal",
        "7.1",
        "A listed schema may equal the base's",
        Some(two),
        changed,
        patch.file(),
    ));
    let (names, target) = (states.get("names"), states.get("names-changed"));
    let mut patch = Patch::delta(names, target, Xxh3);
    patch.list_schema();
    let records = (0..target.tensors.len() as u64).map(|tensor| patch.record(tensor, 0, RAW, vec![2]));
    patch.blocks = vec![records.collect()];
    all.push(Vector::valid(
        "schema-names",
        "2.1",
        "Names in the order of their UTF-8 bytes, one with a zero character and one of 1000 bytes",
        Some(names),
        target,
        patch.file(),
    ));
    let long = states.get("name-65535");
    let mut patch = Patch::full(long, Xxh3);
    for listing in [&mut patch.schema, &mut patch.layout] {
        if let Listing::Plain(bytes) = listing {
            *listing = Listing::Zstd(bytes.clone());
        }
    }
    let comment = "A name of 65,535 bytes and a dtype of 32, the most that they may have";
    all.push(Vector::valid("schema-name-65535", "2.1", comment, None, long, patch.file()));
    let (deep, target) = (states.get("rank-64"), states.get("rank-64-changed"));
    let mut patch = Patch::delta(deep, target, Xxh3).with(0, 0, RAW, target.tensors[0].bytes.clone());
    patch.list_schema();
    all.push(Vector::valid("schema-rank-64", "2.1", "The highest rank", Some(deep), target, patch.file()));
    all
}

/// A `scatter` payload with one changed element, the first, of `n`.
fn scatter_one(mode: u8, width: usize, value: &[u8]) -> Vec<u8> {
    assert_eq!(value.len(), width);
    let planes = value.iter().flat_map(|byte| [1, *byte]);
    [vec![1, mode, 1, 1], planes.collect()].concat()
}

fn layouts(states: &States) -> Vec<Vector> {
    let (two, changed) = (states.get("two"), states.get("two-changed"));
    let header =
        &crate::patch::safetensors_header(r#"{"w":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}"#);
    let none = &crate::patch::safetensors_header("{}");
    let files =
        [("model-00001-of-00002.safetensors", &header[..]), ("model-00002-of-00002.safetensors", none)];
    let index = br#"{"metadata":{},"weight_map":{"w":"model-00001-of-00002.safetensors"}}"#;
    let mut all = Vec::new();
    // Section 2.2 has rules about headers and index that only who writes files has to know.
    for (id, listed, comment) in [
        ("layout-listed", layout_of(&two.tensors, "new"), "The layout changes: another header"),
        ("layout-sharded", layout(&files, Some(index)), "The layout changes: two files and an index"),
        (
            "layout-unicode-name",
            layout(&[("größe-名.safetensors", header)], None),
            "A file name beyond ASCII",
        ),
        ("layout-empty-index", layout(&[("model.safetensors", header)], Some(b"")), "An index without bytes"),
    ] {
        let mut patch = Patch::delta(two, changed, Xxh3).with(0, 0, RAW, changed.tensors[0].bytes.clone());
        patch.list_layout(listed.clone());
        // Behind mode, packing and `raw_len`.
        let at = patch.raw().payload_at(1) + 2 + varint(listed.len() as u64).len() as u64;
        let is_checkpoint = matches!(id, "layout-listed" | "layout-unicode-name");
        let marked = |vector: Vector| if is_checkpoint { vector } else { vector.unwritable(at) };
        all.push(marked(Vector::valid(id, "7.2", comment, Some(two), changed, patch.file())));
        let mut patch = Patch::empty(two, Xxh3);
        patch.list_layout(listed);
        let comment = format!("In an empty patch. {comment}");
        let vector = Vector::valid(format!("{id}-empty"), "7.2", comment, Some(two), two, patch.file());
        all.push(marked(vector));
    }
    all
}

fn structure(states: &States) -> Vec<Vector> {
    let (base, target) = (states.get("several"), states.get("several-changed"));
    let patch = || {
        let patch = Patch::delta(base, target, Xxh3);
        let bytes = |tensor: usize| target.tensors[tensor].bytes.clone();
        (patch, bytes)
    };
    let mut all = Vec::new();
    let (mut one, bytes) = patch();
    one.blocks = vec![(0..3).map(|tensor| one.record(tensor, 0, RAW, bytes(tensor as usize))).collect()];
    all.push(Vector::valid(
        "blocks-one",
        "7.4",
        "Several tensors in one block",
        Some(base),
        target,
        one.file(),
    ));
    let (mut three, bytes) = patch();
    for tensor in 0..3 {
        three = three.with(tensor, 0, RAW, bytes(tensor as usize));
    }
    all.push(Vector::valid("blocks-three", "7.4", "Several blocks", Some(base), target, three.file()));
    let mut raw = three.raw();
    for (place, payload) in
        [(0, &b"before all"[..]), (2, b""), (4, b"between blocks"), (6, &[0; 300]), (7, b"before the index")]
    {
        raw.sections.insert(place, Section::new(128 + place as u8, payload.to_vec()));
    }
    three.index(&mut raw);
    all.push(
        Vector::valid(
            "ancillary-everywhere",
            "7",
            "Ancillary sections, one of them empty, before, between and after all others",
            Some(base),
            target,
            raw.file(),
        )
        .flagged("evolution"),
    );
    let mut raw = one.raw();
    raw.sections.insert(3, Section::new(255, vec![9; 70_000]));
    one.index(&mut raw);
    all.push(
        Vector::valid("ancillary-255", "7", "The last ancillary type", Some(base), target, raw.file())
            .flagged("evolution"),
    );
    // Only a changes; the record of b decodes to what the base has.
    let target_a = states.get("several-first-changed-only");
    let mut only = Patch::delta(base, target_a, Xxh3);
    only.blocks = vec![vec![
        only.record(0, 0, RAW, bytes(0)),
        only.record(1, 0, XOR, vec![0, 0]),
        only.record(2, 0, RAW, base.tensors[2].bytes.clone()),
    ]];
    all.push(Vector::valid(
        "records-that-change-nothing",
        "7.4",
        "Records that decode to what the base has",
        Some(base),
        target_a,
        only.file(),
    ));
    all
}

fn dtypes_and_sizes(states: &States) -> Vec<Vector> {
    let mut all = Vec::new();
    for (dtype, _) in DTYPES {
        let base = states.get(name(&["dtype", dtype, "base"]));
        let target = states.get(name(&["dtype", dtype, "target"]));
        let patch = best(Patch::delta(base, target, Blake3), base);
        let comment = format!("{dtype}, in the encoding that is smallest for it");
        all.push(Vector::valid(name(&["dtype", dtype]), "3", comment, Some(base), target, patch.file()));
        let patch = changed(Patch { direct: true, ..Patch::delta(base, target, Blake3) }, base, SCATTER);
        let comment = format!("{dtype}, scattered");
        all.push(Vector::valid(
            name(&["dtype", dtype, "scatter"]),
            "3",
            comment,
            Some(base),
            target,
            patch.file(),
        ));
    }
    for (dtype, len, comment) in SIZES {
        let base = states.get(size_name(dtype, len, "base"));
        let target = states.get(size_name(dtype, len, "target"));
        let patch = match len {
            0 => Patch { kind: Kind::Empty, ..Patch::delta(base, target, Xxh3) },
            _ => best(Patch::delta(base, target, Xxh3), base),
        };
        let comment = format!("A tensor of {comment}, {dtype}");
        all.push(Vector::valid(
            size_name(dtype, len, "delta"),
            "2",
            comment,
            Some(base),
            target,
            patch.file(),
        ));
    }
    all
}
