//! Payloads of NeMo RL.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tensorpatch_format::Limits;
use tensorpatch_formats::{Fault, NemoRlDelta};

use crate::{edited, limits, refused, removed, spec, text};

/// Two changes of `t`, by gaps of two bytes; then the last element by a range.
fn items() -> Value {
    json!([
        { "name": "t", "shape": [8], "dtype": "bfloat16", "operation": "overwrite", "index_start": 0, "index_end": 4,
          "value_group": 0, "value_start": 0, "value_end": 2, "index_encoding": "deltas" },
        { "name": "t", "shape": [8], "dtype": "bfloat16", "operation": "overwrite", "index_start": 4, "index_end": 4,
          "value_group": 0, "value_start": 2, "value_end": 3, "index_encoding": "range", "range_start": 7 },
    ])
}

const LOCATIONS: [u8; 4] = [0, 0, 1, 0];
const VALUES: [u8; 6] = [1, 1, 2, 2, 3, 3];

fn decode(
    items: &Value,
    locations: &[u8],
    values: &[(u64, &[u8])],
    limits: &Limits,
) -> Result<Vec<u8>, Fault> {
    let values = values.iter().copied().collect::<BTreeMap<_, _>>();
    let metadata = text(items);
    let delta = NemoRlDelta::parse(&metadata, locations, values, limits)?;
    let change = delta.decode(&spec("t", "BF16", &[8]))?.unwrap();
    change.apply(&[0; 16]).map_err(Into::into)
}

#[test]
fn items_that_break_a_rule_or_share_bytes_are_refused() {
    let good = items();
    let usual = Limits::default();
    let check = |items: &Value, words| refused(decode(items, &LOCATIONS, &[(0, &VALUES)], &usual), words);
    let target = decode(&good, &LOCATIONS, &[(0, &VALUES)], &usual).unwrap();
    assert_eq!(target, [1, 1, 0, 0, 2, 2, 0, 0, 0, 0, 0, 0, 0, 0, 3, 3]);
    for (path, new, words) in [
        ("0/name", removed(), "missing field `name`"),
        ("0/index_start", json!(1), "index_start: expected 0, found 1"),
        ("1/index_start", json!(2), "index_start: expected 4, found 2"),
        ("1/index_end", json!(2), "index_start: expected 4, found 4"),
        ("1/index_end", json!(5), "index_end of a range: expected 4, found 5"),
        ("0/value_start", json!(1), "value_start: expected 0, found 1"),
        ("1/value_start", json!(1), "value_start: expected 2, found 1"),
        ("1/value_end", json!(2), "value_start: expected 2, found 2"),
        ("0/operation", json!("add"), "operation: expected xor or overwrite, found add"),
        ("1/operation", json!("xor"), "operation: expected overwrite, found xor"),
        ("0/index_encoding", json!("raw"), "index_encoding: expected range or deltas, found raw"),
        ("1/range_start", removed(), "range_start is missing"),
        ("1/range_start", json!(8), "position 8, number 2"),
        // Doubled: the ranges of one tensor overlap.
        ("1/range_start", json!(2), "position 2, number 2"),
        ("1/range_start", json!(u64::MAX), "position 18446744073709551615, number 0"),
        ("0/dtype", json!("float16"), "dtype: expected BF16 as in the base, found float16"),
        ("1/shape", json!([2, 4]), "shape: expected [8] as in the base"),
        ("1/value_group", json!(1), "value_start: expected 0, found 2"),
    ] {
        check(&edited(&good, path, new), words);
    }
    refused(
        decode(&good, &LOCATIONS, &[(0, &VALUES)], &limits(|l| l.tensors = 1)),
        "the number of tensors is 2",
    );
    refused(
        decode(&good, &LOCATIONS, &[(0, &VALUES)], &limits(|l| l.header_bytes = 9)),
        "over the limit of 9",
    );
}

#[test]
fn bytes_that_no_item_has_or_that_are_not_there_are_refused() {
    let good = items();
    let usual = Limits::default();
    refused(
        decode(&good, &[&LOCATIONS[..], &[0]].concat(), &[(0, &VALUES)], &usual),
        "bytes of positions: expected 4",
    );
    refused(
        decode(&good, &LOCATIONS[..3], &[(0, &VALUES)], &usual),
        "bytes of positions: expected 4, found 3",
    );
    refused(decode(&good, &LOCATIONS, &[(0, &VALUES[..5])], &usual), "bytes of values: expected 6, found 5");
    refused(decode(&good, &LOCATIONS, &[(0, &[0; 7])], &usual), "bytes of values: expected 6, found 7");
    refused(decode(&good, &LOCATIONS, &[], &usual), "the group of values is missing");
    refused(decode(&good, &LOCATIONS, &[(0, &VALUES), (1, &[])], &usual), "a group of values: expected one");
}

#[test]
fn positions_that_are_too_many_or_of_no_width_are_refused() {
    let mut items = items();
    items.as_array_mut().unwrap().pop();
    let usual = Limits::default();
    let values = &VALUES[..4];
    // Three bytes for two positions, and so 1 for each.
    let odd = edited(&items, "0/index_end", json!(3));
    refused(
        decode(&odd, &LOCATIONS[..3], &[(0, values)], &usual),
        "bytes of a position: expected 2, 4 or 8, found 1",
    );
    let more = edited(&items, "0/index_end", json!(5));
    refused(decode(&more, &[0; 5], &[(0, values)], &usual), "bytes of positions: expected a multiple of 2");
    let wide = edited(&items, "0/index_end", json!(16));
    let locations = [u64::MAX.to_le_bytes(), [0; 8]].concat();
    refused(decode(&wide, &locations, &[(0, values)], &usual), "number 0 of those listed");
    let many = edited(&items, "0/value_end", json!(9));
    let many = edited(&many, "0/index_end", json!(18));
    refused(decode(&many, &[0; 18], &[(0, &[0; 18])], &usual), "positions: expected at most 8, found 9");
}
