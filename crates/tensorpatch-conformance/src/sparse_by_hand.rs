//! `sparse` payloads put together from the specification: forms that the encoder does not choose, and such as none may write.

use tensorpatch_reference::LeafHash::Xxh3;

use crate::Vector;
use crate::patch::{Patch, RAW, SPARSE};
use crate::raw::varint;
use crate::sparse_parts::{Axis, Head, Number, Step, Streams, plain, plain_number, serial, symbol};
use crate::state::{Bytes, Edit, Rule};
use crate::states::{name, rule};
use crate::vector::States;

// Rate 80, reach 0: `unchanged` has half of the slots.
const UNCHANGED: Step = Step { f: 512, start: 0, width: 10, low: 0, low_width: 0 };
const UP: Step = Step { f: 256, start: 512, width: 10, low: 0, low_width: 0 };
const DOWN: Step = Step { f: 256, start: 768, width: 10, low: 0, low_width: 0 };

// The state `sparse-groups`: 20 hot elements (key 2) of which every third moves up and the last one down, and 20 cold ones (key 7)
// between them, of which number 2 moves up and number 19 down.
const HOT_RATE: u64 = 80;
const COLD_RATE: u64 = 60;

fn groups_head(streams: u64, hot: bool, cold: bool) -> Head {
    let cold = if cold { COLD_RATE } else { 0 };
    let rates = [0, 0, 0, 0, cold].map(plain_number).to_vec();
    Head { streams, first_key: 2, rates: (if hot { HOT_RATE } else { 0 }, rates), reaches: None }
}

fn hot_steps() -> Vec<Step> {
    (0..20)
        .map(|i| {
            if i == 19 {
                DOWN
            } else if i % 3 == 0 {
                UP
            } else {
                UNCHANGED
            }
        })
        .collect()
}

fn cold_steps() -> Vec<Step> {
    Axis::new(20, COLD_RATE as u32).all(&[(2, false), (19, true)])
}

/// The hot elements take turns.
fn hot_streams(count: usize) -> Vec<Vec<u8>> {
    let steps = hot_steps();
    let turn = |stream| steps.iter().skip(stream).step_by(count).copied().collect::<Vec<_>>();
    (0..count).map(|stream| serial(&turn(stream))).collect()
}

fn strips() -> Vec<Vec<u8>> {
    let mut strips = vec![Vec::new(); 8];
    strips[0] = serial(&cold_steps());
    strips
}

const HOT_STREAMS: [usize; 4] = [0, 1, 8, 16];

fn groups(streams: u64, hot: bool, cold: bool) -> Vec<u8> {
    let head = groups_head(streams, hot, cold);
    if streams == 0 {
        let hot = if hot { hot_steps() } else { Vec::new() };
        let cold = if cold { cold_steps() } else { Vec::new() };
        return [head.bytes(), serial(&[hot, cold].concat())].concat();
    }
    groups_parts(streams, hot, cold).payload()
}

fn groups_parts(streams: u64, hot: bool, cold: bool) -> Streams {
    let of_hot = if hot { hot_streams(HOT_STREAMS[streams as usize]) } else { Vec::new() };
    let of_cold = if cold { strips() } else { Vec::new() };
    Streams::new(&groups_head(streams, hot, cold), &of_hot, &of_cold)
}

const GROUPS: [(&str, bool, bool, &str); 4] = [
    ("none", false, false, "no class that changes"),
    ("hot", true, false, "a hot class and no cold one"),
    ("cold", false, true, "a cold class and no hot one"),
    ("both", true, true, "a hot class and a cold one"),
];

/// A state of 300 bytes whose element 150 moves up: with rate 67, both it and the end are far beyond eleven buckets.
const LONG: u64 = 300;
const LONG_RATE: u32 = 67;

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
    let long = Bytes::Repeat(vec![7, 9, 11], LONG as usize);
    add("sparse-long", vec![rule("t", "U8", &[LONG], long)]);
    let changed = Bytes::Edited { state: "sparse-long", tensor: "t".into(), edits: vec![write(150, 8)] };
    add("sparse-long-changed", vec![rule("t", "U8", &[LONG], changed)]);
    for (id, byte) in [("101-up", 106), ("101-down", 160), ("129-up", 134)] {
        add(name(&["byte-moved", id]), vec![rule("t", "U8", &[1], Bytes::Hex(vec![byte]))]);
    }
}

pub(crate) fn vectors(states: &States) -> Vec<Vector> {
    let mut maker = Maker { states, all: Vec::new() };
    group_forms(&mut maker);
    places_and_escapes(&mut maker);
    heads(&mut maker);
    lengths(&mut maker);
    stream_states(&mut maker);
    maker.all
}

/// Base and target.
type Pair = (&'static str, &'static str);

const BYTE: Pair = ("byte", "byte-changed");
const BOTH: Pair = ("sparse-groups", "sparse-groups-both");

struct Maker<'a> {
    states: &'a States,
    all: Vec<Vector>,
}

impl Maker<'_> {
    fn patch(&self, (base, target): Pair, payload: Vec<u8>) -> Patch {
        let (base, target) = (self.states.get(base), self.states.get(target));
        let patch = Patch::delta(base, target, Xxh3).with(0, 0, SPARSE, payload);
        if base.tensors.len() > 1 { patch.with(1, 0, RAW, target.tensors[1].bytes.clone()) } else { patch }
    }

    fn valid(&mut self, id: &str, comment: &str, pair: Pair, payload: Vec<u8>) {
        let (base, target) = (self.states.get(pair.0), self.states.get(pair.1));
        let file = self.patch(pair, payload).file();
        let id = format!("sparse-{id}");
        self.all.push(Vector::valid(id, "encodings/sparse", comment, Some(base), target, file));
    }

    fn refused(&mut self, id: &str, comment: &str, pair: Pair, payload: Vec<u8>) {
        let len = varint(payload.len() as u64).len() as u64;
        let raw = self.patch(pair, payload).raw();
        let error = ("invalid", raw.payload_at(2) + 1 + 3 + len);
        let (id, base) = (format!("sparse-{id}"), self.states.get(pair.0));
        self.all.push(Vector::refused(id, "encodings/sparse", comment, Some(base), error, raw.file()));
    }
}

/// The only element of `byte`, cold, moves up by one.
fn byte_steps(rate: u32) -> Vec<Step> {
    Axis::new(1, rate).all(&[(0, false)])
}

fn one_stream(head: &Head, steps: &[Step]) -> Vec<u8> {
    [head.bytes(), serial(steps)].concat()
}

fn group_forms(maker: &mut Maker<'_>) {
    for (streams, form) in (0..).zip(["one stream", "1 hot stream", "8 hot streams", "16 hot streams"]) {
        for (id, hot, cold, classes) in GROUPS {
            let target = name(&["sparse-groups", id]);
            let (id, comment) =
                (format!("streams-{streams}-{id}"), format!("The form with {form}, and {classes}"));
            maker.valid(&id, &comment, ("sparse-groups", target), groups(streams, hot, cold));
        }
    }
    let payload = no_hot_elements(&[], &[]).payload();
    let comment = "Hot streams without bytes: no element is of the hot class";
    maker.valid("hot-class-unused", comment, BYTE, payload);
    let payload = no_cold_elements().payload();
    let comment = "Strips without bytes: no element is of the cold class";
    maker.valid("cold-class-unused", comment, BYTE, payload);
    let payload = no_hot_elements(&[1], &[]).payload();
    maker.refused("turnless-stream-filled", "A byte in a hot stream that has no turn", BYTE, payload);
    let payload = no_hot_elements(&[], &[1]).payload();
    maker.refused("empty-strip-filled", "A byte for a strip without elements", BYTE, payload);
}

/// Of two classes, of which one has no elements.
fn two_classes(streams: u64, used: u64, unused: u64) -> Head {
    Head { streams, first_key: 0, rates: (used, vec![plain_number(unused)]), reaches: None }
}

/// `byte` with 16 hot streams beside strips, and only cold elements; these bytes are in hot stream 5 and in strip 7.
fn no_hot_elements(turnless: &[u8], empty_strip: &[u8]) -> Streams {
    let (mut hot, mut strips) = (vec![Vec::new(); 16], vec![Vec::new(); 8]);
    hot[5] = turnless.to_vec();
    strips[0] = serial(&byte_steps(60));
    strips[7] = empty_strip.to_vec();
    Streams::new(&two_classes(3, 60, 80), &hot, &strips)
}

/// `byte` with 8 hot streams beside strips, and only hot elements: all bytes are in hot stream 0.
fn no_cold_elements() -> Streams {
    let mut hot = vec![Vec::new(); 8];
    hot[0] = serial(&[UP]);
    Streams::new(&two_classes(2, 80, 60), &hot, &vec![Vec::new(); 8])
}

fn places_and_escapes(maker: &mut Maker<'_>) {
    let (pair, axis) = (("sparse-long", "sparse-long-changed"), Axis::new(LONG, LONG_RATE));
    let head = Head::one(0, u64::from(LONG_RATE), 0);
    let change = axis.change(0, 150, false);
    assert!((150 * axis.length) >> axis.scale > 11, "the change is far");
    let e = 151 * axis.length;
    let mut add = |id, comment, end: Vec<Step>| {
        maker.valid(id, comment, pair, one_stream(&head, &[change.clone(), end].concat()));
    };
    add("far-change", "A change and an end more than eleven buckets away", axis.end(e, false));
    add("far-end-down", "The direction of the end is down, which means nothing", axis.end(e, true));
    let farthest = axis.place(11 + (1 << 20) - 1, 0..4 << axis.scale, false);
    add("end-farthest", "The end is told by the farthest bucket that there is", farthest);
    let near = one_stream(
        &Head::one(0, 60, 0),
        &[Axis::new(1, 60).change(0, 0, false), Axis::new(1, 60).end(1024, true)].concat(),
    );
    maker.valid(
        "end-down",
        "The direction of the end is down, which means nothing, in the first bucket",
        BYTE,
        near,
    );

    // Rate 95 or cold, and reach 1: slot 1023 is the escape alone.
    let escape = symbol(1023, 1);
    let hot = |b: u64, below: u64, down: bool| {
        let seven = plain(b | u64::from(down) << 6, 7);
        one_stream(&Head::one(0, 95, 1), &[escape, seven, plain(below, b.saturating_sub(1) as u32)])
    };
    let axis = Axis::new(1, 60);
    let cold = |b: u64, below: u64, down: bool| {
        let symbols = vec![escape, plain(b, 6), plain(below, b.saturating_sub(1) as u32)];
        let steps = [axis.change(0, 0, down), symbols, axis.end(axis.length, false)].concat();
        one_stream(&Head::one(0, 60, 1), &steps)
    };
    let (up, down, over) =
        (("byte", "byte-moved-101-up"), ("byte", "byte-moved-101-down"), ("byte", "byte-moved-129-up"));
    maker.valid("escape-hot-up", "A hot element escapes to the longest distance, up", up, hot(7, 36, false));
    maker.valid(
        "escape-hot-down",
        "A hot element escapes to the longest distance, down",
        down,
        hot(7, 36, true),
    );
    maker.valid(
        "escape-cold-up",
        "A cold element escapes to the longest distance, up",
        up,
        cold(7, 36, false),
    );
    maker.valid(
        "escape-cold-down",
        "A cold element escapes to the longest distance, down",
        down,
        cold(7, 36, true),
    );
    maker.valid(
        "escape-hot-0",
        "A hot element escapes to a distance without plain bits",
        BYTE,
        hot(0, 0, false),
    );
    maker.valid(
        "escape-cold-0",
        "A cold element escapes to a distance without plain bits",
        BYTE,
        cold(0, 0, false),
    );
    maker.refused(
        "escape-hot-over",
        "A hot element of 8 bits escapes to a distance of 8 bits",
        over,
        hot(8, 0, false),
    );
    maker.refused(
        "escape-cold-over",
        "A cold element of 8 bits escapes to a distance of 8 bits",
        over,
        cold(8, 0, false),
    );
    maker.refused(
        "escape-hot-63",
        "A hot element of 8 bits escapes to a distance of 63 bits",
        over,
        hot_63(escape),
    );
}

/// An escape of 63 bits, whose plain bits are there.
fn hot_63(escape: Step) -> Vec<u8> {
    one_stream(&Head::one(0, 95, 1), &[escape, plain(63, 7), plain(128, 32), plain(0, 30)])
}

/// Rates and reaches that are none. What they belong to is not used otherwise, where that can be.
fn heads(maker: &mut Maker<'_>) {
    let cold = |rate: u32, later: Vec<Number>| {
        let head = Head { streams: 0, first_key: 0, rates: (u64::from(rate), later), reaches: None };
        one_stream(&head, &byte_steps(rate))
    };
    maker.refused("rate-zeros-9", "Nine zero bits before a rate", BYTE, cold(60, vec![Number::After(9, 60)]));
    maker.refused("rate-plain-over", "A later rate is 96", BYTE, cold(60, vec![plain_number(96)]));
    let first = Head { streams: 0, first_key: 0, rates: (96, Vec::new()), reaches: None };
    maker.refused("rate-first-96", "The first rate is 96", BYTE, one_stream(&first, &byte_steps(60)));
    maker.refused("rate-below", "A rate is -1", BYTE, cold(1, vec![Number::Near(1, 1)]));
    let head = Head { streams: 0, first_key: 0, rates: (95, vec![Number::Near(5, 0)]), reaches: None };
    maker.refused(
        "rate-near-over",
        "A rate is 96, five over what is expected",
        BYTE,
        one_stream(&head, &[symbol(1, 512)]),
    );
    let two = vec![plain_number(0)];
    let reaching = |first: u64, later: Number| {
        let head =
            Head { streams: 0, first_key: 0, rates: (60, two.clone()), reaches: Some((first, vec![later])) };
        one_stream(&head, &byte_steps(60))
    };
    maker.refused("reach-over", "A reach is 256", BYTE, reaching(250, Number::Near(1, 0)));
    maker.refused("reach-below", "A reach is -1", BYTE, reaching(0, Number::Near(5, 1)));
    maker.refused("reach-zeros-9", "Nine zero bits before a reach", BYTE, reaching(0, Number::After(9, 0)));
    maker.valid("reach-plain", "A reach in plain bits", BYTE, reaching(0, plain_number(0)));
    maker.valid(
        "rate-least",
        "A rate is 0, one below the least that is expected",
        BYTE,
        cold(2, vec![Number::Near(0, 1)]),
    );
    let head = Head { first_key: 3, rates: (60, vec![plain_number(0)]), ..Head::one(0, 60, 0) };
    maker.valid("key-none", "Classes of a format without keys", BYTE, one_stream(&head, &byte_steps(60)));
    let reaches = Some((255, vec![Number::Near(0, 0), plain_number(0)]));
    let head = Head { rates: (60, vec![plain_number(0); 2]), reaches, ..Head::one(0, 60, 0) };
    maker.valid(
        "reach-greatest",
        "The reach that is expected after 255",
        BYTE,
        one_stream(&head, &byte_steps(60)),
    );
    let head = Head::one(0, 95, 0);
    maker.valid(
        "rate-greatest",
        "One slot for what does not change",
        BYTE,
        one_stream(&head, &[symbol(1, 512)]),
    );
    let head = Head { reaches: Some((0, vec![plain_number(0)])), ..Head::one(0, 60, 0) };
    maker.refused("reaching-beyond", "Two reaches for one class", BYTE, one_stream(&head, &byte_steps(60)));
    let head = Head::one(0, 60, 0).bytes();
    assert_eq!(head.len(), 4, "28 bits");
    let filled = [&head[..3], &[head[3] | 0x80], &serial(&byte_steps(60))].concat();
    maker.refused("head-filling", "A filling bit of the bit string is not zero", BYTE, filled);
}

/// Lengths of streams that are none. Where that can be, the payload would be a good one with the nearest length that there is.
fn lengths(maker: &mut Maker<'_>) {
    let good = no_cold_elements();
    let mut add = |id: &str, comment: &str, change: &dyn Fn(&mut Streams)| {
        let mut parts = good.clone();
        change(&mut parts);
        maker.refused(id, comment, BYTE, parts.payload());
    };
    let left = good.streams.len() as u64;
    assert!(left < 8, "the equal share of each hot stream is 0");
    add("hot-bytes-over", "The hot streams are a byte longer than what is left", &|parts| {
        parts.h = Some(left + 1)
    });
    add("hot-bytes-huge", "The hot streams have 2^64 - 1 bytes", &|parts| parts.h = Some(u64::MAX));
    add("hot-length-below", "A hot stream of -1 bytes", &|parts| parts.hot[1] = 1);
    add("hot-length-lowest", "A hot stream of -2^63 bytes", &|parts| parts.hot[6] = u64::MAX);
    add("hot-length-over", "A hot stream that ends beyond the payload", &|parts| {
        parts.hot[0] = 2 * (left + 1);
    });
    add("hot-length-highest", "A hot stream of 2^63 - 1 bytes", &|parts| parts.hot[0] = u64::MAX - 1);

    let good = groups_parts(2, true, true);
    let mut add = |id: &str, comment: &str, change: &dyn Fn(&mut Streams)| {
        let mut parts = good.clone();
        change(&mut parts);
        maker.refused(id, comment, BOTH, parts.payload());
    };
    let of_hot: Vec<u64> = hot_streams(8).iter().map(|stream| stream.len() as u64).collect();
    let of_strips: u64 = strips().iter().map(|stream| stream.len() as u64).sum();
    let rest: u64 = of_hot[2..].iter().sum();
    add("hot-length-in-strips", "A hot stream that ends in the strips", &|parts| {
        parts.hot[2] = 2 * (rest + 1 - rest / 6);
    });
    add("strip-length-over", "A strip that ends beyond the payload", &|parts| {
        parts.strips[0] = 2 * (of_strips + 1 - of_strips / 8);
    });
    add("strip-length-highest", "A strip of 2^63 - 1 bytes", &|parts| parts.strips[6] = u64::MAX - 1);
    add("strip-length-below", "A strip of -1 bytes", &|parts| parts.strips[3] = 1);
    add("strip-length-lowest", "A strip of -2^63 bytes", &|parts| parts.strips[6] = u64::MAX);
    add("lengths-cut", "Nothing after the numbers of the hot streams", &|parts| {
        parts.strips.clear();
        parts.streams.clear();
    });
    let head = groups_head(2, true, true).bytes();
    let rest = &good.payload()[head.len() + 1..];
    assert_eq!(varint(good.h.expect("both groups")).len(), 1);
    let long = [&head[..], &[good.h.expect("both groups") as u8 | 0x80, 0], rest].concat();
    maker.refused("hot-bytes-varint", "A length that is not in its shortest form", BOTH, long);
    for (id, byte) in [("no-streams-followed", 1), ("no-streams-zero", 0)] {
        let payload = [groups(1, false, false), vec![byte]].concat();
        maker.refused(
            id,
            "A byte where no class changes, and so no stream is",
            ("sparse-groups", "sparse-groups-none"),
            payload,
        );
    }
}

/// States with more bytes than they need, and streams that go on.
fn stream_states(maker: &mut Maker<'_>) {
    let (base, hot, none) = ("sparse-groups", "sparse-groups-hot", "sparse-groups-none");
    let more = |mut payload: Vec<u8>, byte: u8| {
        payload.push(byte);
        payload
    };
    let without_words = serial(&hot_steps()).len();
    assert!(without_words < 8, "{without_words} bytes");
    maker.refused(
        "state-zero",
        "A state with a zero byte at its end",
        (base, hot),
        more(groups(0, true, false), 0),
    );
    maker.refused(
        "state-zero-only",
        "A zero byte where no stream is needed",
        (base, none),
        more(groups(0, false, false), 0),
    );
    // An escape to a distance without plain bits: what is read takes one word after the other, and leaves nothing.
    let payload = [Head::one(0, 95, 1).bytes(), vec![0xff, 3, 0, 0, 0], vec![0; 8]].concat();
    maker.refused(
        "state-zero-words",
        "A state below 2^32 with words behind it, which are all used",
        BYTE,
        payload,
    );
    let in_groups = |hot: &dyn Fn(&mut [Vec<u8>]), cold: &dyn Fn(&mut [Vec<u8>])| {
        let (mut of_hot, mut of_cold) = (hot_streams(8), strips());
        hot(&mut of_hot);
        cold(&mut of_cold);
        Streams::new(&groups_head(2, true, true), &of_hot, &of_cold).payload()
    };
    let same = |_: &mut [Vec<u8>]| {};
    let payload = in_groups(&|hot| hot[3].push(0), &same);
    maker.refused("hot-state-zero", "A hot stream whose state has a zero byte at its end", BOTH, payload);
    let payload = in_groups(&same, &|strips| strips[0].push(0));
    maker.refused("strip-state-zero", "A strip whose state has a zero byte at its end", BOTH, payload);
    let payload = in_groups(&same, &|strips| strips[4].push(0));
    maker.refused("empty-strip-zero", "A zero byte for a strip that needs none", BOTH, payload);
    let payload = in_groups(&|hot| hot[0].push(1), &same);
    maker.refused("hot-stream-followed", "A byte after a hot stream", BOTH, payload);
    let payload = in_groups(&same, &|strips| strips[0].push(1));
    maker.refused("strip-followed", "A byte after the stream of a strip", BOTH, payload);
}
