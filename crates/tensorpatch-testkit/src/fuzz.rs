//! The bodies of the fuzz targets. Each is a sentence that holds for all bytes; it panics where it does not.

use tensorpatch_checkpoint::{Header, HeaderViolation};
use tensorpatch_format::{Limits, Patch, Schema, Violation};

use crate::{repair_checksums, sample_patches};

/// What a fuzz target does with an input.
pub type Body = fn(&[u8]);

/// The targets by name: each has a file in `fuzz/fuzz_targets` and a folder in `fuzz/seeds`.
pub const TARGETS: &[(&str, Body)] =
    &[("safetensors_header", safetensors_header), ("parse_patch", parse_patch)];

/// Inputs for a target to start from, each with a name. Panics for a target that is not one.
pub fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let named = |(name, bytes): (&str, Vec<u8>)| (name.to_owned(), bytes);
    match target {
        "safetensors_header" => sample_headers().into_iter().map(named).collect(),
        "parse_patch" => sample_patches().into_iter().map(named).collect(),
        _ => panic!("no fuzz target is called {target}"),
    }
}

fn sample_headers() -> Vec<(&'static str, Vec<u8>)> {
    let file = |json: &str| [&(json.len() as u64).to_le_bytes(), json.as_bytes()].concat();
    vec![
        ("empty", file("{}")),
        ("scalar", file(r#"{"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}"#)),
        (
            "several",
            file(concat!(
                r#"{"__metadata__":{"format":"pt"},"w":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},"#,
                r#""e":{"shape":[0],"dtype":"I64","data_offsets":[4,4]},"#,
                r#""q":{"dtype":"F4","shape":[8],"data_offsets":[0,4],"extra":[{}]}}    "#
            )),
        ),
        ("unknown", file(r#"{"x":{"dtype":"F3_NEXT","shape":[7,1],"data_offsets":[0,3]}}"#)),
    ]
}

/// Limits that keep one run of a fuzz target small.
fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.tensors = 1 << 16;
    limits.metadata_bytes = 1 << 24;
    limits
}

/// A safetensors header is refused, or its tensors fill the data area one after the other and make a schema; so too when
/// the bytes are taken for the JSON of one, whose length is then right.
pub fn safetensors_header(bytes: &[u8]) {
    check_header(bytes);
    check_header(&[&(bytes.len() as u64).to_le_bytes(), bytes].concat());
}

fn check_header(bytes: &[u8]) {
    let header = match Header::parse(bytes, &limits()) {
        Ok(header) => header,
        Err(error) => {
            // Every refusal can be told to a person, in bounded space.
            assert!(error.to_string().len() < 4096);
            return;
        }
    };
    let mut at = header.header_len();
    for (spec, range) in header.tensors() {
        assert_eq!((range.start, range.end - range.start), (at, spec.byte_len), "{spec:?}");
        at = range.end;
    }
    assert_eq!(at, header.file_len());
    let schema = Schema::new(header.tensors().iter().map(|(spec, _)| spec.clone()).collect()).unwrap();
    assert_eq!(schema.state_bytes(), header.file_len() - header.header_len());
    // The header stands alone: nothing after it was looked at, and a byte less is too few.
    let len = usize::try_from(header.header_len()).unwrap();
    assert_eq!(Header::parse(&bytes[..len], &limits()).as_ref(), Ok(&header));
    let cut = Header::parse(&bytes[..len - 1], &limits()).unwrap_err();
    assert!(matches!(cut.violation, HeaderViolation::Truncated { .. }), "{cut}");
}

/// A patch is refused with an offset in it, or its parts agree with each other and every prefix of it is truncated; so
/// too when its checksums have been made right.
pub fn parse_patch(bytes: &[u8]) {
    check_patch(bytes);
    let mut repaired = bytes.to_vec();
    repair_checksums(&mut repaired);
    check_patch(&repaired);
}

fn check_patch(bytes: &[u8]) {
    let patch = match Patch::parse(bytes, &limits()) {
        Ok(patch) => patch,
        Err(error) => {
            assert!(error.offset <= bytes.len() as u64, "{error}");
            assert!(error.to_string().len() < 4096);
            return;
        }
    };
    assert_eq!(patch.trailer().file_len, bytes.len() as u64);
    let records = patch.blocks().iter().flat_map(|block| block.records());
    let addresses: Vec<_> = records.map(|record| record.address).collect();
    assert!(addresses.is_sorted_by(|a, b| a < b));
    assert_eq!(addresses, patch.index().addresses());
    for len in [0, bytes.len() / 2, bytes.len() - 1] {
        let error = Patch::parse(&bytes[..len], &limits()).unwrap_err();
        assert!(matches!(error.violation, Violation::Truncated { .. }), "{len}: {error}");
    }
}
