//! The parser of safetensors headers beside that of the `safetensors` crate.

use proptest::collection::vec;
use proptest::prelude::*;
use tensorpatch_testkit::fuzz::safetensors_crate;

/// A value that a field may have, right or wrong.
fn value(right: &'static [&'static str]) -> impl Strategy<Value = String> {
    let wrong = prop::sample::select(vec![
        "null",
        "true",
        "-1",
        "-0",
        "1.0",
        "1e400",
        "18446744073709551616",
        "9223372036854775808",
        "\"\"",
        "[]",
        "{}",
        "[0,0,0]",
        "[\"1\"]",
        "\"\\ud800\"",
        "{\"U8\":null}",
        "[null]",
    ]);
    prop_oneof![12 => prop::sample::select(right.to_vec()), 1 => wrong].prop_map(str::to_owned)
}

fn entry() -> impl Strategy<Value = String> {
    let dtype = value(&["\"U8\"", "\"BF16\"", "\"F32\"", "\"F4\"", "\"F6_E2M3\"", "\"F3_NEXT\"", "\"bf16\""]);
    let shape = value(&[
        "[]",
        "[2]",
        "[4]",
        "[2,2]",
        "[0]",
        "[4294967296,4294967296,0]",
        "[0,4294967296,4294967296]",
    ]);
    let offsets = value(&["[0,0]", "[0,1]", "[0,2]", "[0,4]", "[1,3]", "[2,4]", "[4,4]", "[4,8]", "[8,4]"]);
    let extra = prop_oneof![
        6 => Just(String::new()),
        1 => value(&["[1,{\"a\":2}]", "1e3", "\"\\u00e9\""]).prop_map(|value| format!(",\"extra\":{value}")),
        1 => Just(",\"dtype\":\"U8\"".to_owned()),
    ];
    prop_oneof![
        20 => (dtype, shape, offsets, extra, any::<bool>()).prop_map(|(dtype, shape, offsets, extra, swap)| {
            let (a, b) = (format!("\"dtype\":{dtype}"), format!("\"shape\":{shape}"));
            let (a, b) = if swap { (b, a) } else { (a, b) };
            format!("{{{a},{b},\"data_offsets\":{offsets}{extra}}}")
        }),
        1 => value(&["[\"U8\",[],[0,1]]", "[\"U8\",[2]]"]),
    ]
}

fn member() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec!["a", "b", "c", "", "\\u0061", "é"]);
    let metadata = value(&["{}", "{\"format\":\"pt\"}", "{\"a\":\"1\",\"a\":\"2\"}", "{\"a\":1}"]);
    prop_oneof![
        6 => (name, entry()).prop_map(|(name, entry)| format!("\"{name}\":{entry}")),
        1 => metadata.prop_map(|metadata| format!("\"__metadata__\":{metadata}")),
    ]
}

/// Headers of which many are right and the others are nearly so.
fn header() -> impl Strategy<Value = String> {
    let space = || prop::sample::select(vec!["", "", "", " ", "\n\t\r ", "\u{b}", "\u{feff}"]);
    (space(), vec(member(), 0..4), space())
        .prop_map(|(before, members, after)| format!("{before}{{{}}}{after}", members.join(",")))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn both_parsers_read_the_same_of_headers_but_for_named_differences(json in header()) {
        safetensors_crate(json.as_bytes());
    }

    #[test]
    fn both_parsers_read_the_same_of_headers_with_a_byte_changed(json in header(), at in any::<usize>(), byte: u8) {
        let mut json = json.into_bytes();
        let at = at % json.len();
        json[at] = byte;
        safetensors_crate(&json);
    }
}

#[test]
fn nesting_is_limited_alike() {
    for depth in [10, 120, 124, 125, 126, 127, 128, 129, 500] {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        let json = format!(r#"{{"t":{{"dtype":"U8","shape":[],"x":{open}{close},"data_offsets":[0,1]}}}}"#);
        safetensors_crate(json.as_bytes());
    }
}
