//! What every decoder must refuse: header, sections, trailer. Each file has one fault.

use tensorpatch_reference::LeafHash::{Blake3, Xxh3};

use crate::Vector;
use crate::patch::{Patch, RAW, layout_of};
use crate::raw::{Raw, Section};
use crate::refused::{
    CHECKSUM, FEATURE, INVALID, LIMIT, Maker, NOT_A_PATCH, TARGET_MISMATCH, TRUNCATED, VERSION, WRONG_BASE,
};
use crate::vector::States;

/// A delta of two raw blocks: SCHEMA, LAYOUT, BLOCK, BLOCK, INDEX.
pub(crate) fn delta(states: &States) -> Patch {
    let (base, target) = (states.get("several"), states.get("several-changed"));
    let patch = Patch::delta(base, target, Xxh3);
    let bytes = |tensor: usize| target.tensors[tensor].bytes.clone();
    let first = vec![patch.record(0, 0, RAW, bytes(0)), patch.record(1, 0, RAW, bytes(1))];
    let second = vec![patch.record(2, 0, RAW, bytes(2))];
    Patch { blocks: vec![first, second], ..patch }
}

pub(crate) fn vectors(states: &States) -> Vec<Vector> {
    let mut maker = Maker::new(states, "");
    header(&mut maker);
    sections(&mut maker);
    checksums_and_ends(&mut maker);
    trailer(&mut maker);
    bases(&mut maker);
    maker.all
}

fn header(maker: &mut Maker<'_>) {
    let good = delta(maker.states).file();
    let with = |at: usize, bytes: &[u8]| {
        let mut raw = delta(maker.states).raw();
        raw.header[at..at + bytes.len()].copy_from_slice(bytes);
        raw.file()
    };
    let files = [
        ("header-empty-file", TRUNCATED, 0, "No bytes at all", Vec::new()),
        ("header-magic-cut", TRUNCATED, 0, "Five bytes of the magic and no more", good[..5].to_vec()),
        ("header-cut", TRUNCATED, 0, "One byte less than the header", good[..31].to_vec()),
        ("header-other-file", NOT_A_PATCH, 0, "A short file of another kind", b"PK\x03\x04".to_vec()),
        (
            "header-magic-first-byte",
            NOT_A_PATCH,
            0,
            "The high bit of the first byte is lost",
            [&[0x09], &good[1..]].concat(),
        ),
        (
            "header-magic-last-byte",
            NOT_A_PATCH,
            0,
            "The line feed of the magic has become a carriage return",
            [&good[..7], b"\r", &good[8..]].concat(),
        ),
        ("header-major-0", VERSION, 8, "Major version 0", with(8, &[0, 0])),
        ("header-major-2", VERSION, 8, "Major version 2", with(8, &[2, 0])),
        ("header-major-high-byte", VERSION, 8, "The high byte of the major version", with(8, &[1, 1])),
        (
            "header-required-feature-0",
            FEATURE,
            12,
            "The lowest required feature bit",
            with(12, &[1, 0, 0, 0]),
        ),
        (
            "header-required-feature-31",
            FEATURE,
            12,
            "The highest required feature bit",
            with(12, &[0, 0, 0, 0x80]),
        ),
        ("header-kind-0", INVALID, 20, "Kind 0", with(20, &[0])),
        ("header-kind-4", INVALID, 20, "Kind 4", with(20, &[4])),
        ("header-profile-0", INVALID, 21, "Profile 0", with(21, &[0])),
        ("header-profile-3", INVALID, 21, "Profile 3", with(21, &[3])),
        ("header-leaf-hash-0", INVALID, 22, "Leaf hash 0", with(22, &[0])),
        ("header-leaf-hash-3", INVALID, 22, "Leaf hash 3", with(22, &[3])),
        ("header-reserved-first", INVALID, 23, "The first reserved byte is not zero", with(23, &[1])),
        ("header-reserved-last", INVALID, 23, "The last reserved byte is not zero", with(27, &[1])),
    ];
    let mut flipped = good;
    flipped[28] ^= 1;
    maker.add("header-crc", "6", "The checksum of the header", (CHECKSUM, 28), flipped);
    for (id, code, offset, comment, file) in files {
        maker.add(id, "6", comment, (code, offset), file);
    }
}

type Reorder = fn(&mut Vec<Section>);

fn sections(maker: &mut Maker<'_>) {
    let good = delta(maker.states).raw();
    let change = |change: &dyn Fn(&mut Raw)| {
        let mut raw = good.clone();
        change(&mut raw);
        raw.file()
    };
    for unknown in [0, 5, 127] {
        let file = change(&|raw| raw.sections[0].kind = unknown);
        let comment = format!("A section of the unknown type {unknown}");
        maker.add(&format!("section-type-{unknown}"), "7", &comment, (FEATURE, 32), file);
    }
    let at = good.at(2);
    let file = change(&|raw| raw.sections[2].kind = 6);
    maker.add("section-type-6-later", "7", "A block of an unknown type", (FEATURE, at), file);
    for (name, section) in [("schema", 0), ("block", 2), ("index", 4)] {
        let file = change(&|raw| raw.sections[section].reserved[section % 3] = 1);
        let comment = format!("A reserved byte of the {name} section is not zero");
        maker.add(&format!("section-reserved-{name}"), "7", &comment, (INVALID, good.at(section) + 1), file);
    }
    let most = |section: usize| if section == 2 { 64 << 20 } else { 256_u64 << 20 };
    for (name, section) in [("schema", 0), ("layout", 1), ("block", 2), ("index", 4)] {
        for (size, len) in [("over", most(section) + 1), ("huge", 1 << 60), ("all-ones", u64::MAX)] {
            let real = good.sections[section].payload.len() as u64;
            let file = change(&|raw| raw.sections[section].false_len = len.wrapping_sub(real));
            let comment = format!("The {name} section declares {len} bytes");
            let error = (LIMIT, good.at(section) + 8);
            let vector = Vector::refused(
                format!("limit-{name}-{size}"),
                "11",
                comment,
                Some(maker.states.get("several")),
                error,
                file,
            );
            maker.all.push(vector.flagged("bomb"));
        }
    }
    for (name, section) in [("layout", 1), ("ancillary", 0)] {
        let mut raw = good.clone();
        raw.sections.insert(0, Section::new(200, b"x".to_vec()));
        let section = if section == 0 { 0 } else { section + 1 };
        raw.sections[section].reserved[1] = 0x80;
        let comment = format!("A reserved byte of the {name} section is not zero");
        let error = (INVALID, raw.at(section) + 1);
        maker.add(&format!("section-reserved-{name}"), "7", &comment, error, raw.file());
    }
    let file = change(&|raw| {
        let mut section = Section::new(200, Vec::new());
        section.false_len = (64 << 20) + 1;
        raw.sections.insert(0, section);
    });
    maker.add("limit-ancillary", "11", "An ancillary section over the limit", (LIMIT, 40), file);

    let places: [(&str, &str, usize, Reorder); 9] = [
        ("layout-first", "LAYOUT before SCHEMA", 0, |s| s.swap(0, 1)),
        ("schema-missing", "No SCHEMA", 0, |s| drop(s.remove(0))),
        ("schema-twice", "Two SCHEMA", 1, |s| s.insert(1, s[0].clone())),
        ("layout-missing", "No LAYOUT", 1, |s| drop(s.remove(1))),
        ("layout-twice", "Two LAYOUT", 2, |s| s.insert(2, s[1].clone())),
        ("block-first", "A BLOCK before LAYOUT", 1, |s| s.swap(1, 2)),
        ("schema-later", "SCHEMA again after a BLOCK", 3, |s| s.insert(3, s[0].clone())),
        ("layout-later", "LAYOUT again after the BLOCKs", 4, |s| s.insert(4, s[1].clone())),
        ("index-early", "INDEX before LAYOUT", 1, |s| s.swap(1, 4)),
    ];
    for (id, comment, place, reorder) in places {
        let mut raw = good.clone();
        reorder(&mut raw.sections);
        let at = raw.at(place);
        maker.add(&format!("order-{id}"), "7", comment, (INVALID, at), raw.file());
    }
    // Behind the INDEX comes the trailer, and what stands in its place does not end as one.
    for (id, comment, section) in [
        ("index-twice", "Two INDEX", good.sections[good.index()].clone()),
        ("ancillary-last", "An ancillary section after the INDEX", Section::new(200, vec![7; 300])),
    ] {
        let mut raw = good.clone();
        let end = raw.trailer_at();
        raw.sections.push(section);
        let file = raw.file();
        maker.add(&format!("order-{id}"), "7", comment, (TRUNCATED, end + 184), file);
    }
    let file = change(&|raw| raw.sections[2].false_len = 1000);
    maker.add(
        "truncated-length",
        "7",
        "A section that is longer than what follows, with a whole trailer at the end",
        (TRUNCATED, good.payload_at(2)),
        file,
    );
    let two = maker.states.get("two");
    let mut raw = Patch::empty(two, Xxh3).raw();
    raw.sections.insert(2, good.sections[2].clone());
    let error = (INVALID, raw.at(2));
    maker.add_on("empty-with-block", "6", "A block in an empty patch", Some(two), error, raw.file());
}

fn checksums_and_ends(maker: &mut Maker<'_>) {
    let patch = delta(maker.states);
    let mut raw = patch.raw();
    raw.sections.insert(1, Section::new(130, b"ancillary".to_vec()));
    patch.index(&mut raw);
    let good = raw.file();
    for (name, section) in [("schema", 0), ("ancillary", 1), ("layout", 2), ("block", 3), ("index", 5)] {
        let at = raw.at(section) as usize;
        for (part, place) in [("crc", at + 4), ("payload", at + 16)] {
            let mut file = good.clone();
            file[place] ^= 0x10;
            let comment = format!("A bit of the {part} of the {name} section is flipped");
            maker.add(&format!("checksum-{name}-{part}"), "7", &comment, (CHECKSUM, at as u64 + 4), file);
        }
    }
    let trailer = raw.trailer_at();
    for (place, name) in [(0, "first-byte"), (180, "crc"), (40, "digest")] {
        let mut file = good.clone();
        file[trailer as usize + place] ^= 1;
        let comment = format!("A bit of the trailer is flipped ({name})");
        maker.add(&format!("checksum-trailer-{name}"), "8", &comment, (CHECKSUM, trailer + 180), file);
    }
    // The checksum of the trailer covers the header: one that belongs to another trailer.
    let mut other = raw.clone();
    other.header[10] = 9;
    let file = [&other.file()[..32], &good[32..]].concat();
    maker.add(
        "checksum-trailer-other-header",
        "8",
        "The header is that of another file",
        (CHECKSUM, trailer + 180),
        file,
    );

    let payload = raw.payload_at(3);
    let last = raw.at(3);
    for (id, len, offset, comment) in [
        ("section-head", last + 7, last, "Cut within a section head"),
        ("between-sections", last, last, "Cut between two sections"),
        ("after-head", payload, payload, "Cut after a section head"),
        ("payload", payload + 3, payload, "Cut within a payload"),
        ("after-header", 32, 32, "Cut after the header"),
        ("before-trailer", trailer, trailer, "Cut before the trailer"),
        ("trailer", trailer + 100, trailer, "Cut within the trailer"),
        ("last-byte", trailer + 191, trailer, "The last byte is missing"),
    ] {
        maker.add(
            &format!("truncated-{id}"),
            "12",
            comment,
            (TRUNCATED, offset),
            good[..len as usize].to_vec(),
        );
    }
    let len = good.len() as u64;
    maker.add("trailing-byte", "5", "A byte after the trailer", (INVALID, len), [&good[..], &[0]].concat());
    maker.add("trailing-file", "5", "The whole file twice", (INVALID, len), [&good[..], &good[..]].concat());
}

fn trailer(maker: &mut Maker<'_>) {
    let patch = delta(maker.states);
    let good = patch.raw();
    let at = good.trailer_at();
    let change = |change: &dyn Fn(&mut Raw)| {
        let mut raw = good.clone();
        change(&mut raw);
        raw.file()
    };
    let file = change(&|raw| raw.end_magic[7] = 0x09);
    maker.add("trailer-end-magic", "8", "Another end magic", (TRUNCATED, at + 184), file);
    let file = change(&|raw| raw.trailer_reserved = 1 << 24);
    maker.add("trailer-reserved", "8", "Reserved bytes that are not zero", (INVALID, at + 176), file);
    for (id, by) in [("more", 1), ("less", u64::MAX), ("huge", 1 << 60)] {
        let file = change(&|raw| raw.false_file_len = by);
        maker.add(
            &format!("trailer-file-length-{id}"),
            "8",
            "A false length of the file",
            (INVALID, at + 168),
            file,
        );
        let file = change(&|raw| raw.false_index_offset = by);
        maker.add(
            &format!("trailer-index-offset-{id}"),
            "8",
            "A false offset of the index",
            (INVALID, at + 160),
            file,
        );
    }
    let file = change(&|raw| raw.digests[1] = raw.digests[0]);
    maker.add("trailer-delta-equal-states", "6", "A delta between equal states", (INVALID, at + 32), file);
    let file = change(&|raw| raw.digests[4][0] ^= 1);
    maker.add(
        "trailer-same-layout-unequal",
        "8",
        "The layout is said to be the same, and the digests differ",
        (INVALID, at + 128),
        file,
    );
    let file = change(&|raw| raw.digests[2][31] ^= 1);
    maker.add(
        "trailer-schema-digest-same",
        "7.1",
        "The schema is said to be the base's, and the digest is another",
        (WRONG_BASE, at + 64),
        file,
    );
    let file = change(&|raw| raw.digests[1][5] ^= 1);
    maker.add(
        "trailer-target-digest",
        "10",
        "The state digest of the target is another",
        (TARGET_MISMATCH, at + 32),
        file,
    );
    let file = change(&|raw| raw.digests[0][5] ^= 1);
    maker.add("trailer-base-digest", "10", "The state digest of the base is another", (WRONG_BASE, at), file);

    let several = maker.states.get("several");
    let full = Patch::full(several, Blake3).raw();
    let at = full.trailer_at();
    for (digest, field, name) in [(0, 0, "state"), (3, 96, "layout")] {
        let mut raw = full.clone();
        raw.digests[digest][31] = 1;
        let comment = format!("A full patch with a digest of a base {name}");
        let id = format!("trailer-full-base-{name}");
        maker.add_on(&id, "8", &comment, None, (INVALID, at + field), raw.file());
    }
    for (digest, name) in [(2, "schema"), (4, "layout")] {
        let mut raw = full.clone();
        raw.digests[digest][0] ^= 1;
        let comment = format!("The digest of the listed {name} is another");
        let error = (INVALID, at + 32 * digest as u64);
        maker.add_on(&format!("trailer-listed-{name}-digest"), "7", &comment, None, error, raw.file());
    }
    let mut raw = full;
    raw.digests[1][0] ^= 1;
    maker.add_on(
        "trailer-full-target-digest",
        "10",
        "The state digest of a full patch is another",
        None,
        (TARGET_MISMATCH, at + 32),
        raw.file(),
    );
    let mut raw = Patch::empty(several, Xxh3).raw();
    raw.digests[1][0] ^= 1;
    let at = raw.trailer_at();
    maker.add(
        "trailer-empty-unequal-states",
        "6",
        "An empty patch between different states",
        (INVALID, at + 32),
        raw.file(),
    );
    let mut patch = Patch::empty(several, Xxh3);
    patch.list_layout(layout_of(&several.tensors, "new"));
    let mut raw = patch.raw();
    raw.digests[4][9] ^= 1;
    let at = raw.trailer_at();
    maker.add(
        "trailer-empty-layout-digest",
        "7.2",
        "The layout that an empty patch lists has another digest",
        (INVALID, at + 128),
        raw.file(),
    );
}

/// Good patches on bases that are not theirs.
fn bases(maker: &mut Maker<'_>) {
    let states = maker.states;
    let patch = delta(states);
    let at = patch.raw().trailer_at();
    let mut add = |id: &str, comment: &str, base: &str, offset: u64, file: Vec<u8>| {
        let error = (WRONG_BASE, offset);
        maker.add_on(id, "10", comment, Some(states.get(base)), error, file);
    };
    add("wrong-base-values", "A base with other values", "several-first-changed-only", at, patch.file());
    add("wrong-base-target", "The base is the target already", "several-changed", at, patch.file());
    add("wrong-base-schema", "A base with another schema", "two", at + 64, patch.file());
    let (two, changed) = (states.get("two"), states.get("two-changed"));
    let sparse = crate::encodings::best(Patch::delta(two, changed, Xxh3), two);
    add(
        "wrong-base-sparse",
        "A base with other values, where a payload needs them to be decoded",
        "two-otherwise",
        sparse.raw().trailer_at(),
        sparse.file(),
    );
    let empty = Patch::empty(two, Xxh3);
    add(
        "wrong-base-empty",
        "An empty patch on another state",
        "two-changed",
        empty.raw().trailer_at(),
        empty.file(),
    );
    let (base, target) = (states.get("schema"), states.get("schema-removed"));
    let removed = Patch::delta(base, target, Xxh3);
    add(
        "wrong-base-fresh",
        "A base that lacks a tensor which the patch continues, so that it seems to leave out a fresh chunk",
        "schema-other",
        removed.raw().trailer_at(),
        removed.file(),
    );
}
