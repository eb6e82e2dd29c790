//! Files of grail.

use serde_json::{Value, json};
use tensorpatch_format::Limits;
use tensorpatch_formats::{Fault, GrailDelta};

use crate::{edited, frame, limits, refused, removed, spec, text};

/// Changes of elements 0 and 5 of `t`, which has three columns.
fn flat() -> (Value, Vec<u8>) {
    let head = json!({ "version": 2, "tensors": [{
        "name": "t", "shape": [2, 3], "num_nonzero": 2, "value_dtype": "bfloat16",
        "indices_offset": 0, "indices_size": 8, "values_offset": 8, "values_size": 4,
    }] });
    (head, vec![0, 0, 0, 0, 5, 0, 0, 0, 1, 1, 2, 2])
}

/// The same by rows and columns.
fn rows() -> (Value, Vec<u8>) {
    let head = json!({ "version": 31, "tensors": [{
        "name": "t", "shape": [2, 3], "num_nonzero": 2, "value_dtype": "bfloat16", "row_dtype": "uint8", "col_dtype": "uint16",
        "indices_offset": 0, "indices_size": 6, "rows_size": 2, "cols_size": 4, "values_offset": 6, "values_size": 4,
    }] });
    (head, vec![0, 1, 0, 0, 2, 0, 1, 1, 2, 2])
}

fn content(head: &Value, data: &[u8]) -> Vec<u8> {
    let head = text(head);
    [&(head.len() as u32).to_le_bytes()[..], &head, data].concat()
}

fn decode(head: &Value, data: &[u8]) -> Result<Vec<u8>, Fault> {
    let delta = GrailDelta::parse(&frame(&content(head, data)), 12, &Limits::default())?;
    let change = delta.decode(&spec("t", "BF16", &[2, 3]))?.unwrap();
    change.apply(&[0; 12]).map_err(Into::into)
}

const TARGET: [u8; 12] = [1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 2];

#[test]
fn a_header_that_breaks_a_rule_is_refused() {
    for (head, data) in [flat(), rows()] {
        assert_eq!(decode(&head, &data).unwrap(), TARGET);
        for (path, new, words) in [
            ("version", json!(4), "version: expected 2, 3 or 31, found 4"),
            ("version", removed(), "missing field `version`"),
            ("tensors/0/name", removed(), "missing field `name`"),
            ("tensors/0/indices_offset", json!(1), "indices_offset: expected 0, found 1"),
            ("tensors/0/values_offset", json!(0), "values_offset: expected "),
            ("tensors/0/values_size", json!(2), "bytes of data: expected "),
            ("tensors/0/num_nonzero", json!(3), "num_nonzero: expected 2, found 3"),
            ("tensors/0/value_dtype", json!("float32"), "dtype: expected BF16 as in the base, found float32"),
            ("tensors/0/shape", json!([6]), "shape: expected [2, 3] as in the base, found [6]"),
        ] {
            refused(decode(&edited(&head, path, new), &data), words);
        }
        let twice = json!([
            head["tensors"][0],
            edited(
                &edited(&head["tensors"][0], "indices_offset", json!(data.len())),
                "values_offset",
                json!(data.len() as u64 + head["tensors"][0]["values_offset"].as_u64().unwrap())
            )
        ]);
        refused(
            decode(&edited(&head, "tensors", twice), &[&data[..], &data].concat()),
            "the tensor occurs twice",
        );
        refused(decode(&head, &[&data[..], &[0]].concat()), "bytes of data: expected ");
        let parsed = GrailDelta::parse(&frame(&content(&head, &data)), 12, &limits(|l| l.tensors = 0));
        refused(parsed, "the number of tensors is 1");
    }
}

#[test]
fn rows_and_columns_that_are_not_places_of_the_tensor_are_refused() {
    let (head, data) = rows();
    for (path, new, words) in [
        ("tensors/0/rows_size", removed(), "rows_size is missing"),
        ("tensors/0/cols_size", removed(), "cols_size is missing"),
        ("tensors/0/rows_size", json!(3), "rows_size and cols_size: expected 6, found 7"),
        (
            "tensors/0/row_dtype",
            json!("int8"),
            "dtype of positions: expected int32, uint16 or uint8, found int8",
        ),
    ] {
        refused(decode(&edited(&head, path, new), &data), words);
    }
    let uneven = edited(&edited(&head, "tensors/0/rows_size", json!(4)), "tensors/0/cols_size", json!(2));
    refused(decode(&uneven, &data), "columns: expected 4, found 1");
    // Column 3 of row 0 would be column 0 of row 1.
    refused(decode(&head, &[0, 0, 0, 0, 3, 0, 1, 1, 2, 2]), "position 3, number 1");
    // Row 2 is not there.
    refused(decode(&head, &[0, 2, 0, 0, 2, 0, 1, 1, 2, 2]), "position 8, number 1");
    // The same place twice.
    refused(decode(&head, &[0, 0, 1, 0, 0, 0, 1, 1, 2, 2]), "position 1, number 1");
    let (head, _) = flat();
    refused(decode(&head, &[0, 0, 0, 0, 6, 0, 0, 0, 1, 1, 2, 2]), "position 6, number 1");
    refused(decode(&head, &[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 1, 1, 2, 2]), "number 1 of those listed");
    refused(decode(&head, &[1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 2]), "position 1, number 1");
}

#[test]
fn a_frame_that_holds_no_delta_or_declares_more_than_one_can_need_is_refused() {
    let parse = |content: &[u8]| GrailDelta::parse(&frame(content), 12, &Limits::default());
    refused(parse(&[1, 0]), "the length of the header is missing");
    refused(parse(&[9, 0, 0, 0, b'{']), "a part of the header is missing");
    let (head, data) = flat();
    let small = limits(|l| l.header_bytes = 300);
    let bytes = content(&head, &data);
    assert!(GrailDelta::parse(&frame(&bytes), 12, &small).is_ok());
    // 9 bytes for each byte of state, the header, and 4.
    let padded = [&bytes[..], &vec![0; 500]].concat();
    refused(GrailDelta::parse(&frame(&padded), 12, &small), "over the limit of 412");
    refused(GrailDelta::parse(&frame(&bytes), 12, &limits(|l| l.header_bytes = 100)), "over the limit of");
}
