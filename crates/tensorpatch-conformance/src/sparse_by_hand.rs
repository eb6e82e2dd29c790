//! `sparse` payloads put together from the specification: forms that the encoder does not choose, and such as
//! none may write.

use tensorpatch_reference::LeafHash::Xxh3;

use crate::Vector;
use crate::patch::{Patch, RAW, SPARSE};
use crate::raw::varint;
use crate::sparse_parts::{Head, Model, Number, Parts, Read, payload, plain_number};
use crate::state::{Bytes, Edit, Rule};
use crate::states::{name, rule};
use crate::vector::States;

// The state `sparse-groups`: 20 hot elements (key 2) of which every third moves up and the last one down, and
// 20 cold ones (key 7) between them, of which number 2 moves up and number 19 down.
const HOT_RATE: u64 = 80;
const COLD_RATE: u64 = 60;
pub(crate) const LANES: [usize; 4] = [1, 8, 16, 32];
pub(crate) const HOT_FROM: [u64; 4] = [0, 68, 72, 76];

/// `sparse-groups` with this many lanes, and these classes hot.
pub(crate) fn groups(lanes: usize, hot_from: usize, hot: bool, cold: bool) -> Parts {
    let rates = (if hot { HOT_RATE } else { 0 }, if cold { COLD_RATE } else { 0 });
    let head = Head {
        lanes: lanes as u64,
        hot: hot_from as u64,
        first_key: 2,
        rates: (rates.0, [0, 0, 0, 0, rates.1].map(plain_number).to_vec()),
        reaches: None,
    };
    let mut classes = vec![(0, 0); 6];
    (classes[0].0, classes[5].0) = rates;
    let model = model(lanes, hot_from, classes);
    let elements = (0..40).map(|i| match (i % 2, i / 2) {
        (0, 19) if hot => (0, -1),
        (0, n) => (0, i64::from(hot && n % 3 == 0)),
        (_, 2) if cold => (5, 1),
        (_, 19) if cold => (5, -1),
        _ => (5, 0),
    });
    parts(head, &model, &elements.collect::<Vec<_>>())
}

/// How the elements of `sparse-groups` move in the worked example of the encoding.
pub(crate) const EXAMPLE_MOVES: [(usize, i64); 7] =
    [(0, 1), (5, 3), (6, 6), (11, -1), (14, -90), (24, -2), (39, 1)];

/// The payload of the worked example: hot and cold classes with a reach, in 8 lanes.
pub(crate) fn example() -> Parts {
    let (hot, cold) = ((80, 30), (60, 10));
    let head = Head {
        lanes: 1,
        hot: 1,
        first_key: 2,
        rates: (hot.0, [0, 0, 0, 0, cold.0].map(plain_number).to_vec()),
        reaches: Some((cold.1, [0, 0, 0, 0, hot.1].map(plain_number).to_vec())),
    };
    let mut classes = vec![(0, 0); 6];
    (classes[0], classes[5]) = (hot, cold);
    let by = |i| EXAMPLE_MOVES.iter().find(|(element, _)| *element == i).map_or(0, |(_, by)| *by);
    let elements: Vec<_> = (0..40).map(|i| (if i % 2 == 0 { 0 } else { 5 }, by(i))).collect();
    parts(head, &model(1, 1, classes), &elements)
}

/// Of elements of one byte.
pub(crate) fn model(lanes: usize, hot_from: usize, classes: Vec<(u64, u64)>) -> Model {
    Model { lanes: LANES[lanes], hot_from: HOT_FROM[hot_from], classes, bits: 8, escape: false }
}

pub(crate) fn parts(head: Head, model: &Model, elements: &[(usize, i64)]) -> Parts {
    let (reads, left) = model.block(elements);
    Parts { head, reads, left }
}

const GROUPS: [(&str, bool, bool, &str); 4] = [
    ("none", false, false, "no class that changes"),
    ("hot", true, false, "a hot class and no cold one"),
    ("cold", false, true, "a cold class and no hot one"),
    ("both", true, true, "a hot class and a cold one"),
];

/// A state of 300 bytes in ten groups, the last of 12, and all of one class.
pub(crate) const LONG: usize = 300;
/// Which bytes they are, again and again.
pub(crate) const LONG_BYTES: [u8; 3] = [7, 9, 11];

/// Which of them move, and how: one in the second group, all in the third, and the last three.
pub(crate) fn long_moves() -> Vec<(usize, i64)> {
    (0..LONG)
        .map(|i| match i {
            40 | 298 => (0, 1),
            64..96 => (0, if i % 3 == 0 { -1 } else { 1 }),
            297 | 299 => (0, -1),
            _ => (0, 0),
        })
        .collect()
}

/// Moves of the same elements of every size and direction that there is.
pub(crate) fn far_moves() -> Vec<(usize, i64)> {
    let far = |(i, (class, by)): (usize, &(usize, i64))| (*class, *by * (1 + (i as i64 * 7) % 100));
    long_moves().iter().enumerate().map(far).collect()
}

pub(crate) fn states(add: &mut dyn FnMut(&'static str, Vec<Rule>)) {
    let base = "sparse-groups";
    let elements = |edits| Bytes::Edited { state: base, tensor: "e".into(), edits };
    let groups = |bytes, other| {
        vec![rule("e", "F8_E4M3", &[40], bytes), rule("other", "U8", &[1], Bytes::Hex(vec![other]))]
    };
    add(base, groups(Bytes::Repeat(vec![0x12, 0x3a], 40), 1));
    let write = |at: usize, byte: u8| Edit::Write { at, hex: vec![byte] };
    let hot: Vec<Edit> = (0..20_usize)
        .filter(|i| i % 3 == 0 || *i == 19)
        .map(|i| write(2 * i, if i == 19 { 0x11 } else { 0x13 }))
        .collect();
    let cold = vec![write(2 * 2 + 1, 0x3b), write(2 * 19 + 1, 0x39)];
    for (id, has_hot, has_cold, _) in GROUPS {
        let mut edits = if has_hot { hot.clone() } else { Vec::new() };
        edits.extend(if has_cold { cold.clone() } else { Vec::new() });
        add(name(&["sparse-groups", id]), groups(elements(edits), 2));
    }
    let moved = EXAMPLE_MOVES.map(|(i, by)| write(i, [0x12_u8, 0x3a][i % 2].wrapping_add(by as u8)));
    add("sparse-groups-example", groups(elements(moved.to_vec()), 2));
    let long = Bytes::Repeat(LONG_BYTES.to_vec(), LONG);
    add("sparse-long", vec![rule("t", "U8", &[LONG as u64], long)]);
    for (id, moves) in [("sparse-long-changed", long_moves()), ("sparse-long-far", far_moves())] {
        let edits = moves.iter().enumerate().filter(|(_, (_, by))| *by != 0);
        let edits = edits.map(|(i, (_, by))| write(i, LONG_BYTES[i % 3].wrapping_add(*by as u8))).collect();
        let changed = Bytes::Edited { state: "sparse-long", tensor: "t".into(), edits };
        add(id, vec![rule("t", "U8", &[LONG as u64], changed)]);
    }
    for (id, byte) in [("101-up", 106), ("101-down", 160), ("129-up", 134)] {
        add(name(&["byte-moved", id]), vec![rule("t", "U8", &[1], Bytes::Hex(vec![byte]))]);
    }
}

pub(crate) fn vectors(states: &States) -> Vec<Vector> {
    let mut maker = Maker { states, all: Vec::new() };
    group_forms(&mut maker);
    many_changes(&mut maker);
    escapes(&mut maker);
    heads(&mut maker);
    left_over(&mut maker);
    maker.all
}

/// Base and target.
pub(crate) type Pair = (&'static str, &'static str);

pub(crate) const BYTE: Pair = ("byte", "byte-changed");
const BOTH: Pair = ("sparse-groups", "sparse-groups-both");
pub(crate) const LONG_CHANGED: Pair = ("sparse-long", "sparse-long-changed");
pub(crate) const LONG_FAR: Pair = ("sparse-long", "sparse-long-far");

pub(crate) struct Maker<'a> {
    pub(crate) states: &'a States,
    pub(crate) all: Vec<Vector>,
}

impl Maker<'_> {
    fn patch(&self, (base, target): Pair, payload: Vec<u8>) -> Patch {
        let (base, target) = (self.states.get(base), self.states.get(target));
        let patch = Patch::delta(base, target, Xxh3).with(0, 0, SPARSE, payload);
        if base.tensors.len() > 1 { patch.with(1, 0, RAW, target.tensors[1].bytes.clone()) } else { patch }
    }

    pub(crate) fn valid(&mut self, id: &str, comment: &str, pair: Pair, payload: Vec<u8>) {
        let (base, target) = (self.states.get(pair.0), self.states.get(pair.1));
        let file = self.patch(pair, payload).file();
        let id = format!("sparse-{id}");
        self.all.push(Vector::valid(id, "encodings/sparse", comment, Some(base), target, file));
    }

    pub(crate) fn refused(&mut self, id: &str, comment: &str, pair: Pair, payload: Vec<u8>) {
        let len = varint(payload.len() as u64).len() as u64;
        let raw = self.patch(pair, payload).raw();
        let error = ("invalid", raw.payload_at(2) + 1 + 3 + len);
        let (id, base) = (format!("sparse-{id}"), self.states.get(pair.0));
        self.all.push(Vector::refused(id, "encodings/sparse", comment, Some(base), error, raw.file()));
    }
}

fn group_forms(maker: &mut Maker<'_>) {
    for (code, lanes) in LANES.iter().enumerate() {
        for (id, hot, cold, classes) in GROUPS {
            let target = name(&["sparse-groups", id]);
            let (id, comment) = (format!("lanes-{lanes}-{id}"), format!("{lanes} lanes, and {classes}"));
            maker.valid(&id, &comment, ("sparse-groups", target), groups(code, 1, hot, cold).payload());
        }
        let comment = format!("{lanes} lanes, and a symbol for each element");
        maker.valid(&format!("lanes-{lanes}-all-hot"), &comment, BOTH, groups(code, 0, true, true).payload());
    }
    let example = ("sparse-groups", "sparse-groups-example");
    maker.valid("example", "The worked example of the encoding", example, self::example().payload());
    for (hot, from) in [(2, 72), (3, 76)] {
        let comment = format!("Classes are hot from the rate {from} on");
        maker.valid(&format!("hot-from-{from}"), &comment, BOTH, groups(0, hot, true, true).payload());
    }
    let one_below = |hot: u64, rate: u64| Parts {
        head: Head { hot, ..Head::one(rate, 0) },
        ..one_element((0, 1), &model(0, hot as usize, vec![(rate, 0)]))
    };
    for (hot, rate) in [(1, 67), (1, 68), (2, 71), (2, 72), (3, 75), (3, 76)] {
        let id = format!("rate-{rate}-hot-from-{}", HOT_FROM[hot]);
        let comment =
            if rate % 4 == 3 { "The highest rate of a cold class" } else { "The lowest rate of a hot class" };
        maker.valid(&id, comment, BYTE, one_below(hot as u64, rate).payload());
    }
    // A class without elements raises the highest rate, and so shortens all lengths.
    let classes = vec![(60, 0), (67, 0)];
    let head = Head { rates: (60, vec![plain_number(67)]), ..Head::one(0, 0) };
    let unused = Parts { head, ..one_element((0, 1), &model(0, 1, classes)) };
    maker.valid("cold-class-unused", "The class of the highest rate has no elements", BYTE, unused.payload());
}

/// The only element of `byte`.
pub(crate) fn one_element(element: (usize, i64), model: &Model) -> Parts {
    parts(Head::one(model.classes[0].0, model.classes[0].1), model, &[element])
}

/// The only element of `byte`, cold, moves up by one.
fn cold_byte(head: Head) -> Parts {
    Parts { head, ..one_element((0, 1), &model(0, 1, vec![(60, 0)])) }
}

fn many_changes(maker: &mut Maker<'_>) {
    for (code, lanes) in LANES.iter().enumerate() {
        let head = |rate, reach| Head { lanes: code as u64, ..Head::one(rate, reach) };
        for (rate, kind) in [(67, "cold"), (20, "seldom")] {
            let changed = parts(head(rate, 0), &model(code, 1, vec![(rate, 0)]), &long_moves());
            let comment =
                format!("All elements of a group change, in {lanes} lanes: as many rounds as it has");
            maker.valid(&format!("rounds-{kind}-{lanes}"), &comment, LONG_CHANGED, changed.payload());
        }
        for (rate, kind) in [(67, "cold"), (75, "hot")] {
            let moved = parts(head(rate, 36), &model(code, 1, vec![(rate, 36)]), &far_moves());
            let comment = format!("Moves of all sizes of a {kind} class, in {lanes} lanes");
            maker.valid(&format!("far-{kind}-{lanes}"), &comment, LONG_FAR, moved.payload());
        }
    }
    let escaping = Model { escape: true, ..model(1, 1, vec![(67, 36)]) };
    let moved = parts(Head { lanes: 1, ..Head::one(67, 36) }, &escaping, &far_moves());
    maker.valid("far-escape", "Escapes to moves that have symbols of their own", LONG_FAR, moved.payload());
    // The second lane has a place that no element of the group has.
    let mut beyond = parts(Head { lanes: 1, ..Head::one(67, 0) }, &model(1, 1, vec![(67, 0)]), &long_moves());
    let place = beyond.reads.iter_mut().find_map(|read| match read {
        Read::Slot { s: 16, f, start, .. } => Some((f, start)),
        _ => None,
    });
    let (f, start) = place.expect("a place");
    (*f, *start) = (1, 65_535);
    maker.refused(
        "place-beyond",
        "A place beyond the last element of its group",
        LONG_CHANGED,
        beyond.payload(),
    );
}

fn escapes(maker: &mut Maker<'_>) {
    let (up, down, over) =
        (("byte", "byte-moved-101-up"), ("byte", "byte-moved-101-down"), ("byte", "byte-moved-129-up"));
    for (kind, rate) in [("hot", 95), ("cold", 60)] {
        // Slots 4094 and 4095 are the escape.
        let model = Model { escape: true, ..model(0, 1, vec![(rate, 1)]) };
        let payload = |by: i64| one_element((0, by), &model).payload();
        let mut add = |id: &str, comment: &str, pair, payload| {
            maker.valid(
                &format!("escape-{kind}-{id}"),
                &format!("A {kind} element escapes to {comment}"),
                pair,
                payload,
            );
        };
        add("up", "the longest distance, up", up, payload(101));
        add("down", "the longest distance, down", down, payload(-101));
        add("0", "a distance without plain bits", BYTE, payload(1));
        let mut parts = one_element((0, 1), &model);
        for (id, b) in [("over", 8), ("63", 63)] {
            for read in &mut parts.reads {
                match read {
                    Read::Bits(value, _, "b") => *value = b,
                    Read::Bits(_, count, "t without its leading one") => *count = b as u32 - 1,
                    _ => {}
                }
            }
            let comment = format!("A {kind} element of 8 bits escapes to a distance of {b} bits");
            maker.refused(&format!("escape-{kind}-{id}"), &comment, over, parts.payload());
        }
    }
}

/// Rates and reaches that are none. What they belong to is not used otherwise, where that can be.
fn heads(maker: &mut Maker<'_>) {
    let cold = |rate: u64, later: Vec<Number>| {
        let head = Head { rates: (rate, later), ..Head::one(0, 0) };
        cold_byte(head).payload()
    };
    maker.refused("rate-zeros-9", "Nine zero bits before a rate", BYTE, cold(60, vec![Number::After(9, 60)]));
    maker.refused("rate-plain-over", "A later rate is 96", BYTE, cold(60, vec![plain_number(96)]));
    maker.refused("rate-first-96", "The first rate is 96", BYTE, cold(96, Vec::new()));
    maker.refused("rate-below", "A rate is -1", BYTE, cold(1, vec![Number::Near(1, 1)]));
    maker.refused(
        "rate-near-over",
        "A rate is 96, five over what is expected",
        BYTE,
        cold(95, vec![Number::Near(5, 0)]),
    );
    let reaching = |first: u64, later: Number| {
        let (rates, reaches) = ((60, vec![plain_number(0)]), Some((first, vec![later])));
        cold_byte(Head { rates, reaches, ..Head::one(0, 0) }).payload()
    };
    maker.refused("reach-over", "A reach is 256", BYTE, reaching(250, Number::Near(1, 0)));
    maker.refused("reach-below", "A reach is -1", BYTE, reaching(0, Number::Near(5, 1)));
    maker.refused("reach-zeros-9", "Nine zero bits before a reach", BYTE, reaching(0, Number::After(9, 0)));
    maker.valid("reach-plain", "A reach in plain bits", BYTE, reaching(0, plain_number(0)));
    let least = Head { rates: (60, vec![plain_number(2), Number::Near(0, 1)]), ..Head::one(0, 0) };
    maker.valid(
        "rate-least",
        "A rate is 0, one below the least that is expected",
        BYTE,
        cold_byte(least).payload(),
    );
    let none = Head { first_key: 3, rates: (60, vec![plain_number(0)]), ..Head::one(0, 0) };
    maker.valid("key-none", "Classes of a format without keys", BYTE, cold_byte(none).payload());
    let reaches = Some((255, vec![Number::Near(0, 0), plain_number(0)]));
    let greatest = Head { rates: (60, vec![plain_number(0); 2]), reaches, ..Head::one(0, 0) };
    maker.valid(
        "reach-greatest",
        "The reach that is expected after 255",
        BYTE,
        cold_byte(greatest).payload(),
    );
    let often = one_element((0, 1), &model(0, 1, vec![(95, 0)])).payload();
    maker.valid("rate-greatest", "Two slots for what does not change", BYTE, often);
    let beyond = Head { reaches: Some((0, vec![plain_number(0)])), ..Head::one(60, 0) };
    maker.refused("reaching-beyond", "Two reaches for one class", BYTE, cold_byte(beyond).payload());
}

/// Words, bits and states that are not used up.
fn left_over(maker: &mut Maker<'_>) {
    let good = parts(Head { lanes: 1, ..Head::one(67, 0) }, &model(1, 1, vec![(67, 0)]), &long_moves());
    let (words, bits) = good.ends();
    assert!(!words.is_empty(), "a payload with words");
    let mut refused =
        |id: &str, comment: &str, payload: Vec<u8>| maker.refused(id, comment, LONG_CHANGED, payload);
    let more = |value: u64, count: u32| {
        let mut more = bits.clone();
        more.put(value, count);
        payload(&words, &more)
    };
    let filling = 8 - bits.len() as u32 % 8;
    assert!((2..8).contains(&filling), "bits that fill a byte");
    refused("filling", "The lowest of the bits between words and bits is not zero", more(1, filling));
    refused("bits-followed", "A zero byte between words and bits", more(0, filling + 8));
    let one_more = [&words[..], &[0]].concat();
    refused("words-followed", "A word more than there are symbols for", payload(&one_more, &bits));
    refused("words-cut", "A word less than the symbols need", payload(&words[..words.len() - 1], &bits));
    let whole = good.payload();
    refused("first-byte-cut", "A payload without its first byte", whole[1..].to_vec());
    refused("last-byte-cut", "A payload without its last byte", whole[..whole.len() - 1].to_vec());

    // One element that moves up: the only state holds one direction.
    let mut state = |id: &str, comment: &str, left: u64| {
        let mut parts = cold_byte(Head::one(60, 0));
        parts.left[0] = left;
        maker.refused(id, comment, BYTE, parts.payload());
    };
    state("state-left", "A state that holds more than directions", (1 << 16) | 2);
    state("state-left-high", "The same, in its highest bit", (1 << 16) | 1 << 15);
    state("state-over", "A state of 2^17 in the end", 1 << 17);
    let mut parts = one_element((0, 1), &model(0, 1, vec![(80, 0)]));
    parts.left[0] = (1 << 16) | 1;
    maker.refused("state-left-hot", "A direction where nothing is cold", BYTE, parts.payload());
    let mut parts = groups(3, 1, true, true);
    parts.left[31] |= 1;
    maker.refused("state-left-lane", "A direction in a lane that has none", BOTH, parts.payload());
}
