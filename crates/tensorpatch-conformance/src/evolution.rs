//! What later minor versions may bring behind a required feature (section 16 of the format): a reader of 1.0
//! refuses the file at its header, whatever it would say of the rest.

use tensorpatch_reference::LeafHash::Xxh3;

use crate::Vector;
use crate::invalid::delta;
use crate::patch::{Kind, Patch};
use crate::raw::{Raw, Section};
use crate::refused::{FEATURE, Maker};
use crate::vector::States;

/// The first code of an encoding that is not taken yet.
const UNKNOWN: u8 = 6;

pub(crate) fn vectors(states: &States) -> Vec<Vector> {
    let mut maker = Maker::new(states, "required-");
    let mut encoded = delta(states);
    encoded.blocks[0][0].encoding = UNKNOWN;
    let mut add = |id: &str, comment: &str, raw: Raw| {
        for (bit, place) in [(0, "lowest"), (31, "highest")] {
            let mut raw = raw.clone();
            raw.header[12..16].copy_from_slice(&(1_u32 << bit).to_le_bytes());
            // The version that brought it.
            raw.header[10] = 1;
            let comment = format!("{comment}, behind the {place} required feature");
            maker.add(&format!("{id}-{place}"), "16", &comment, (FEATURE, 12), raw.file());
        }
    };
    add("encoding", "A chunk encoding that 1.0 does not know", encoded.raw());
    let mut section = delta(states).raw();
    section.sections.insert(2, Section::new(5, b"new".to_vec()));
    delta(states).index(&mut section);
    add("section", "A section type below 128 that 1.0 does not know", section);
    for (id, at, comment) in [
        ("kind", 20, "A kind that 1.0 does not know"),
        ("profile", 21, "A profile that 1.0 does not know"),
        ("leaf-hash", 22, "A leaf hash that 1.0 does not know"),
        ("reserved", 23, "Reserved bytes of the header that mean something"),
    ] {
        let mut raw = delta(states).raw();
        raw.header[at] = 9;
        add(id, comment, raw);
    }
    let mut mode = delta(states).raw();
    mode.sections[0].payload = vec![2, 7];
    delta(states).index(&mut mode);
    add("mode", "A mode of SCHEMA that 1.0 does not know", mode);
    let mut full = Patch::full(states.get("two"), Xxh3).raw();
    full.sections[0].payload[1] = 2;
    full.header[20] = Kind::Full as u8;
    add("packing", "A packing that 1.0 does not know", full);
    maker.all.into_iter().map(|vector| vector.flagged("evolution")).collect()
}
