//! The worked example of section 14, taken from the text itself.

use crate::{LeafHash, Tensor, decode, state_digest, tagged};

const SPEC: &str = include_str!("../../../spec/format.md");

/// The bytes of the first hex listing that begins with these bytes.
fn listing(start: &str) -> Vec<u8> {
    let listings = SPEC.split("```text\n").skip(1).filter_map(|rest| rest.split("\n```").next());
    let mut found = listings.filter(|text| text.trim_start().trim_start_matches("0  ").starts_with(start));
    let lines = found.next().into_iter().flat_map(str::lines);
    lines
        .flat_map(|line| line.get(6..53).unwrap_or(&line[6..]).split_whitespace())
        .map_while(|byte| u8::from_str_radix(byte, 16).ok())
        .collect()
}

#[test]
fn the_worked_example_decodes_to_what_the_specification_says() {
    let tensor = |bytes: [u8; 4]| {
        vec![Tensor { name: "w".into(), dtype: "BF16".into(), shape: vec![2], bytes: bytes.to_vec() }]
    };
    let base = tensor([0x80, 0x3f, 0x00, 0x40]);
    let decoded = decode(&listing("89 54 50"), Some(&base)).unwrap();
    assert_eq!(decoded.state, tensor([0x80, 0x3f, 0x40, 0x40]));
    for state in [&base, &decoded.state] {
        let digest = tagged(LeafHash::Blake3, &state_digest(LeafHash::Blake3, state));
        assert!(SPEC.contains(&digest), "{digest}");
    }
}
