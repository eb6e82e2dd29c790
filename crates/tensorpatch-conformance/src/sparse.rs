//! `sparse` payloads: those that the encoder makes of states chosen for it, and damaged ones.

use tensorpatch_reference::LeafHash::Xxh3;

use crate::Vector;
use crate::encodings::best;
use crate::patch::{CHUNK, Patch, SPARSE};
use crate::state::{Bytes, Edit, Rule};
use crate::states::{name, rule, weights};
use crate::vector::States;

struct Case {
    id: &'static str,
    dtype: &'static str,
    elements: usize,
    base: Bytes,
    edits: Vec<Edit>,
    comment: &'static str,
}

fn nudge(width: usize, seed: u64, one_in: u64, reach: u64) -> Edit {
    Edit::Nudge { width, seed, one_in, reach }
}

fn cases() -> Vec<Case> {
    let small = |seed, len| Bytes::Random { seed, len, and: vec![0x3f], or: vec![0] };
    let case = |id, dtype, elements, base, edits, comment| Case { id, dtype, elements, base, edits, comment };
    vec![
        case(
            "one-change",
            "BF16",
            1000,
            weights(1, 2000),
            vec![Edit::Write { at: 700, hex: vec![0x11, 0x38] }],
            "One change in a thousand elements",
        ),
        case(
            "first-and-last",
            "BF16",
            1000,
            weights(1, 2000),
            vec![Edit::Write { at: 0, hex: vec![1, 0x39] }, Edit::Write { at: 1998, hex: vec![2, 0x39] }],
            "The first and the last element change",
        ),
        case(
            "few",
            "BF16",
            20_000,
            weights(2, 40_000),
            vec![nudge(2, 1, 200, 1)],
            "Half a per cent moves by one: one lane",
        ),
        case(
            "reaching",
            "BF16",
            20_000,
            weights(2, 40_000),
            vec![nudge(2, 2, 100, 40)],
            "One per cent moves by up to 40",
        ),
        case(
            "escape",
            "BF16",
            20_000,
            weights(2, 40_000),
            vec![nudge(2, 3, 100, 1), Edit::Write { at: 30_000, hex: vec![0xff, 0xff] }],
            "Small moves, and one that has no symbol of its own",
        ),
        case(
            "sign",
            "BF16",
            4000,
            weights(3, 8000),
            vec![Edit::Write { at: 4001, hex: vec![0xbb] }, Edit::Write { at: 4101, hex: vec![0x3b] }],
            "Signs change",
        ),
        case(
            "lanes",
            "BF16",
            98_304,
            weights(4, 196_608),
            vec![nudge(2, 4, 40, 1)],
            "2.5 per cent changes: 16 lanes, and no hot class",
        ),
        case(
            "dense-few",
            "BF16",
            800,
            weights(5, 1600),
            vec![nudge(2, 5, 3, 2)],
            "A third of 800 elements changes: a symbol for each, in one lane",
        ),
        case(
            "dense",
            "BF16",
            196_608,
            weights(6, 393_216),
            vec![nudge(2, 7, 4, 1)],
            "A quarter changes: a symbol for each element, in 32 lanes",
        ),
        case("chunk", "BF16", CHUNK / 2, weights(7, CHUNK), vec![nudge(2, 8, 400, 1)], "A whole chunk"),
        case(
            "two-chunks",
            "BF16",
            CHUNK,
            weights(11, 2 * CHUNK),
            vec![nudge(2, 9, 2000, 3)],
            "Two whole chunks",
        ),
        case(
            "f16",
            "F16",
            5000,
            Bytes::random(12, 10_000),
            vec![nudge(2, 10, 50, 2)],
            "All exponents of F16, which are few enough for a class each",
        ),
        case(
            "bf16-all-exponents",
            "BF16",
            5000,
            Bytes::random(13, 10_000),
            vec![nudge(2, 11, 50, 2)],
            "All exponents of BF16, more than there are classes",
        ),
        case(
            "f32",
            "F32",
            4000,
            Bytes::random(14, 16_000),
            vec![nudge(4, 12, 50, 3000)],
            "F32 that moves by up to 3000",
        ),
        case("e4m3", "F8_E4M3", 9000, Bytes::random(15, 9000), vec![nudge(1, 13, 60, 1)], "F8_E4M3"),
        case("e5m2", "F8_E5M2", 9000, Bytes::random(16, 9000), vec![nudge(1, 14, 60, 2)], "F8_E5M2"),
        case("w8", "U8", 9000, small(17, 9000), vec![nudge(1, 15, 60, 3)], "U8, in one class"),
        case("w16", "I16", 5000, small(18, 10_000), vec![nudge(2, 16, 60, 500)], "I16, in one class"),
        case("w32", "U32", 3000, small(19, 12_000), vec![nudge(4, 17, 60, 1 << 30)], "U32 that moves far"),
        case(
            "w64",
            "I64",
            2000,
            small(20, 16_000),
            vec![
                nudge(8, 18, 60, 1 << 30),
                Edit::Write { at: 800, hex: vec![0xff; 8] },
                Edit::Write { at: 8, hex: vec![0, 0, 0, 0, 0, 0, 0, 0x70] },
            ],
            "I64, with moves of more than 32 bits",
        ),
        case(
            "wrap",
            "U8",
            5000,
            Bytes::Repeat(vec![0, 255], 5000),
            vec![nudge(1, 19, 90, 1)],
            "Moves across 0",
        ),
        case(
            "dense-far",
            "BF16",
            20_000,
            weights(21, 40_000),
            vec![nudge(2, 20, 3, 60)],
            "A third moves by up to 60: symbols with plain bits, in 16 lanes",
        ),
        case(
            "dense-8",
            "BF16",
            6003,
            weights(22, 12_006),
            vec![nudge(2, 23, 3, 300)],
            "A third moves by up to 300, in 8 lanes, and the last row is short",
        ),
    ]
}

/// States of tiny weights, which change often, before others that hardly do.
struct Mixed {
    id: &'static str,
    often: usize,
    seldom: usize,
    one_in: u64,
    comment: &'static str,
}

const MIXED: [Mixed; 5] = [
    Mixed {
        id: "mixed-1",
        often: 200,
        seldom: 20_000,
        one_in: 400,
        comment: "Hot and cold changes in one lane",
    },
    Mixed {
        id: "mixed-8",
        often: 1500,
        seldom: 195_108,
        one_in: 200,
        comment: "Hot and cold changes in 8 lanes",
    },
    Mixed {
        id: "mixed-16",
        often: 3000,
        seldom: 291_912,
        one_in: 60,
        comment: "Hot and cold changes in 16 lanes",
    },
    Mixed {
        id: "mixed-72",
        often: 3000,
        seldom: 62_536,
        one_in: 50,
        comment: "3.5 per cent changes: more is hot",
    },
    Mixed {
        id: "mixed-68",
        often: 10_000,
        seldom: 55_536,
        one_in: 50,
        comment: "7 per cent changes: yet more is hot",
    },
];

impl Mixed {
    fn states(&self, add: &mut dyn FnMut(&'static str, Vec<Rule>)) {
        let apart = name(&["sparse", self.id, "parts"]);
        let tiny =
            Bytes::Random { seed: 9, len: 2 * self.often, and: vec![0xff, 0x81], or: vec![0x00, 0x20] };
        add(
            apart,
            vec![
                rule("often", "BF16", &[self.often as u64], tiny),
                rule("seldom", "BF16", &[self.seldom as u64], weights(8, 2 * self.seldom)),
            ],
        );
        let part = |tensor: &str, edits| Bytes::Edited { state: apart, tensor: tensor.into(), edits };
        let shape = [(self.often + self.seldom) as u64];
        let whole = |often, seldom| {
            let parts = vec![part("often", often), part("seldom", seldom)];
            vec![rule("t", "BF16", &shape, Bytes::Parts(parts))]
        };
        add(name(&["sparse", self.id, "base"]), whole(vec![], vec![]));
        let (often, seldom) = (vec![nudge(2, 21, 3, 2)], vec![nudge(2, 22, self.one_in, 1)]);
        add(name(&["sparse", self.id, "target"]), whole(often, seldom));
    }
}

pub(crate) fn states(add: &mut dyn FnMut(&'static str, Vec<Rule>)) {
    for Case { id, dtype, elements, base: bytes, edits, .. } in cases() {
        let base = name(&["sparse", id, "base"]);
        let shape = [elements as u64];
        add(base, vec![rule("t", dtype, &shape, bytes)]);
        let edited = Bytes::Edited { state: base, tensor: "t".into(), edits };
        add(name(&["sparse", id, "target"]), vec![rule("t", dtype, &shape, edited)]);
    }
    MIXED.iter().for_each(|mixed| mixed.states(add));
}

/// What the codes of the lanes and of `hot_from` must be in the vectors that are there for them.
const FORMS: [(&str, u8, u8); 11] = [
    ("few", 0, 3),
    ("lanes", 2, 2),
    ("dense-few", 0, 0),
    ("dense", 3, 0),
    ("dense-far", 2, 0),
    ("dense-8", 1, 0),
    ("mixed-1", 0, 3),
    ("mixed-8", 1, 3),
    ("mixed-16", 2, 3),
    ("mixed-72", 2, 2),
    ("mixed-68", 2, 1),
];

pub(crate) fn vectors(states: &States) -> Vec<Vector> {
    let mut all = Vec::new();
    let made = cases().into_iter().map(|case| (case.id, case.comment));
    for (id, comment) in made.chain(MIXED.iter().map(|mixed| (mixed.id, mixed.comment))) {
        let base = states.get(name(&["sparse", id, "base"]));
        let target = states.get(name(&["sparse", id, "target"]));
        let patch = best(Patch::delta(base, target, Xxh3), base);
        for record in patch.blocks.iter().flatten() {
            assert_eq!(record.encoding, SPARSE, "{id}: another encoding is smaller");
            let last = record.payload.last().expect("a head");
            let found = (id, last >> 6, last >> 4 & 3);
            let form = FORMS.iter().find(|(known, _, _)| *known == id);
            assert!(form.is_none_or(|form| *form == found), "{found:?} is another form");
        }
        all.push(Vector::valid(
            name(&["sparse", id]),
            "encodings/sparse",
            comment,
            Some(base),
            target,
            patch.file(),
        ));
    }
    all.extend(damaged(states));
    all
}

fn damaged(states: &States) -> Vec<Vector> {
    let mut all = Vec::new();
    let cut = |payload: &mut Vec<u8>| payload.truncate(payload.len() - 1);
    let mut add = |case: &str, id: &str, comment: &str, damage: &dyn Fn(&mut Vec<u8>)| {
        let base = states.get(name(&["sparse", case, "base"]));
        let target = states.get(name(&["sparse", case, "target"]));
        let mut patch = best(Patch::delta(base, target, Xxh3), base);
        assert_eq!(patch.blocks.len(), 1);
        damage(&mut patch.blocks[0][0].payload);
        let raw = patch.raw();
        let len = patch.blocks[0][0].payload.len() as u64;
        let offset = raw.payload_at(2) + 1 + 3 + crate::raw::varint(len).len() as u64;
        let id = format!("sparse-{id}");
        all.push(Vector::refused(
            id,
            "encodings/sparse",
            comment,
            Some(base),
            ("invalid", offset),
            raw.file(),
        ));
    };
    add("few", "none", "No bytes", &|payload| payload.clear());
    add("few", "head-cut", "The last two bytes, which are not all of the head", &|payload| {
        payload.drain(..payload.len() - 2);
    });
    add("few", "followed", "A byte after the payload", &|payload| payload.push(1));
    add("few", "cut", "A payload without its last byte", &cut);
    add("dense", "dense-cut", "A payload of 32 lanes without its first byte", &|payload| {
        payload.remove(0);
    });
    add("mixed-16", "mixed-16-words", "Two words more than are read", &|payload| {
        payload.splice(0..0, [0; 4]);
    });
    // The first 21 bits: 2 each of the lanes and what is hot, 5 of the classes, 1 and 5 of the reaches, 8 of
    // the first key.
    add("one-change", "reaching-over", "More reaches than classes", &|payload| {
        let last = payload.len() - 1;
        payload[last - 1] |= 0x7e;
    });
    all
}
