//! `sparse` payloads at the bounds of the encoding. Those that must be refused are whole to a reader that
//! leaves the check in question out, so that the check alone decides.

use crate::Vector;
use crate::sparse_by_hand::{
    BYTE, LANES, LONG_CHANGED, LONG_FAR, Maker, Pair, far_moves, groups, long_moves, model, one_element,
    parts,
};
use crate::sparse_parts::{Head, Number, Parts, Read, payload, plain_number};
use crate::state::{Bytes, Edit, Rule};
use crate::states::rule;
use crate::vector::States;

/// 14 elements of a hot class, one of a cold class, and one of a cold class that changes a hundred times less
/// often.
const STEEP: Pair = ("sparse-steep", "sparse-steep-changed");
const STEEP_HOT: usize = 14;

pub(crate) fn states(add: &mut dyn FnMut(&'static str, Vec<Rule>)) {
    let bytes = [vec![0x12; STEEP_HOT], vec![0x3a, 0x32]].concat();
    let elements = |bytes| vec![rule("e", "F8_E4M3", &[16], bytes)];
    add(STEEP.0, elements(Bytes::Hex(bytes)));
    let edits = vec![Edit::Write { at: 15, hex: vec![0x33] }];
    add(STEEP.1, elements(Bytes::Edited { state: STEEP.0, tensor: "e".into(), edits }));
}

pub(crate) fn vectors(states: &States) -> Vec<Vector> {
    let mut maker = Maker { states, all: Vec::new() };
    slots(&mut maker);
    zeros(&mut maker);
    rates(&mut maker);
    reaches(&mut maker);
    beyond(&mut maker);
    maker.all
}

/// How many slots `unchanged` has at most.
fn slots(maker: &mut Maker<'_>) {
    for (code, lanes) in LANES.iter().enumerate() {
        let hot = ("sparse-groups", "sparse-groups-hot");
        let comment = format!("Hot elements of the rate 0, which have one symbol, in {lanes} lanes");
        maker.valid(&format!("hot-rate-0-{lanes}"), &comment, hot, groups(code, 0, true, false).payload());
        let head = |reach| Head { lanes: code as u64, hot: 0, ..Head::one(10, reach) };
        let moved = parts(head(30), &model(code, 0, vec![(10, 30)]), &far_moves());
        let comment = format!("Moves of all sizes at a low rate that is hot, in {lanes} lanes");
        maker.valid(&format!("hot-low-rate-far-{lanes}"), &comment, LONG_FAR, moved.payload());
        let moved = parts(head(0), &model(code, 0, vec![(10, 0)]), &long_moves());
        let comment = format!("Moves by one unit at a low rate that is hot, in {lanes} lanes");
        maker.valid(&format!("hot-low-rate-{lanes}"), &comment, LONG_CHANGED, moved.payload());
        let cold = Head { lanes: code as u64, hot: 3, ..Head::one(75, 0) };
        let changed = parts(cold, &model(code, 3, vec![(75, 0)]), &long_moves());
        let comment = format!("Groups that change as often as can be said, in {lanes} lanes");
        maker.valid(&format!("rounds-most-{lanes}"), &comment, LONG_CHANGED, changed.payload());
    }
    let mut unreached = groups(0, 0, true, false);
    unreached.head.reaches = Some((9, vec![plain_number(0); 5]));
    let comment = "Hot elements of the rate 0 with a reach, which nothing can use";
    maker.valid("hot-rate-0-reach", comment, ("sparse-groups", "sparse-groups-hot"), unreached.payload());
}

/// One lane, one class of the rate 0, all of it hot: 45 bits.
fn zeros(maker: &mut Maker<'_>) {
    let none = ("sparse-groups", "sparse-groups-none");
    maker.valid("zeros", "Six bytes of zeros, which say that nothing changes", none, vec![0; 6]);
    maker.refused("zeros-cut", "Five bytes of zeros", none, vec![0; 5]);
    maker.refused("zeros-followed", "Seven bytes of zeros", none, vec![0; 7]);
    let of_two = [vec![0; 18], vec![0x80, 0]].concat();
    maker.refused("zeros-for-a-rate", "Zeros to the end for a second class", BYTE, of_two);
}

/// Rates of a second class, which has no elements.
fn rates(maker: &mut Maker<'_>) {
    let mut refused = |id: &str, comment: &str, rate: u64, later: Number| {
        let head = Head { rates: (rate, vec![later]), ..Head::one(0, 0) };
        let whole = Parts { head, ..one_element((0, 1), &model(0, 1, vec![(rate, 0)])) };
        maker.refused(id, comment, BYTE, whole.payload());
    };
    refused(
        "rate-near-9",
        "Nine zero bits before a rate, of nine over what is expected",
        60,
        Number::Near(9, 0),
    );
    refused("rate-near-9-below", "The same, of ten below", 60, Number::Near(9, 1));
    refused("rate-near-30", "Thirty zero bits before a rate", 60, Number::Near(30, 0));
    refused("rate-unused-over", "A rate of 96 of a class without elements", 95, Number::Near(5, 0));
    refused("rate-unused-below", "A rate of -1 of a class without elements", 5, Number::Near(1, 1));
}

/// Reaches of classes without elements, behind that of the class that has them.
fn reaches(maker: &mut Maker<'_>) {
    let mut refused = |id: &str, comment: &str, reach: u64, next: Number| {
        let mut classes = vec![(0, 0); 6];
        classes[5] = (60, reach);
        let head = Head {
            first_key: 2,
            rates: (0, [0, 0, 0, 0, 60].map(plain_number).to_vec()),
            reaches: Some((reach, [vec![next], vec![plain_number(0); 4]].concat())),
            ..Head::one(0, 0)
        };
        let moved = |i: usize| if i == 5 { 1 } else { -i64::from(i == 39) };
        let elements: Vec<_> = (0..40).map(|i| (if i % 2 == 0 { 0 } else { 5 }, moved(i))).collect();
        let whole = parts(head, &model(0, 1, classes), &elements);
        maker.refused(id, comment, ("sparse-groups", "sparse-groups-cold"), whole.payload());
    };
    refused("reach-unused-over", "A reach of 256 of a class without elements", 250, Number::Near(1, 0));
    refused("reach-unused-below", "A reach of -1 of a class without elements", 0, Number::Near(5, 1));
    refused(
        "reach-near-9",
        "Nine zero bits before a reach, of nine over what is expected",
        36,
        Number::Near(9, 0),
    );
}

/// What the steep state becomes if these of its hot elements move, one down and the next one up, and the last
/// element of all.
fn steep(moves: usize) -> Parts {
    let mut classes = vec![(0, 0); 6];
    (classes[0].0, classes[4].0, classes[5].0) = (80, 30, 66);
    let head =
        Head { first_key: 2, rates: (80, [0, 0, 0, 30, 66].map(plain_number).to_vec()), ..Head::one(0, 0) };
    let hot = (0..STEEP_HOT).map(|i| (0, (moves >> i & 1) as i64 * [-1, 1][i % 2]));
    let elements: Vec<_> = hot.chain([(5, 0), (4, 1)]).collect();
    parts(head, &model(0, 1, classes), &elements)
}

/// What lies beyond what is there. Which elements move is free, and so chosen that the rest of the payload
/// fits.
fn beyond(maker: &mut Maker<'_>) {
    let place = |moves| {
        let mut parts = steep(moves);
        let at = parts.reads.iter().position(|read| matches!(read, Read::Slot { s: 16, .. }))?;
        let Read::Slot { f, start, .. } = &mut parts.reads[at] else { return None };
        let end = *start + *f;
        // As if the run of the last element went on to the last slot.
        *f = 65_536 - *start;
        (parts.slots()[at] >= end).then_some(parts)
    };
    let found = (0..1 << STEEP_HOT).find_map(place).expect("moves that leave a slot beyond the last element");
    let comment =
        "A place beyond the last element of its group, where all else fits if it is taken for the last";
    maker.refused("place-beyond-fits", comment, STEEP, found.payload());

    let overlap = |moves| {
        let (words, bits) = steep(moves).ends();
        let mut whole = payload(&words, &bits);
        let end = 2 * words.len();
        (end > 0 && whole[end - 1] == whole[end]).then(|| {
            whole.remove(end);
            whole
        })
    };
    let found = (0..1 << STEEP_HOT).find_map(overlap).expect("words that end as the bits do");
    let comment = "The last byte of the words is that of the bits too";
    maker.refused("words-in-bits", comment, STEEP, found);
}
