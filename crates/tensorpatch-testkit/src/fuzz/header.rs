//! Safetensors headers.

use tensorpatch_checkpoint::{HeaderViolation, SafetensorsHeader};
use tensorpatch_format::Schema;

use super::limits;

/// A safetensors header is refused, or its tensors fill the data area one after the other and make a schema;
/// so too when the bytes are taken for the JSON of one, whose length is then right.
pub fn safetensors_header(bytes: &[u8]) {
    check_header(bytes);
    check_header(&[&(bytes.len() as u64).to_le_bytes(), bytes].concat());
}

fn check_header(bytes: &[u8]) {
    let header = match SafetensorsHeader::parse(bytes, &limits()) {
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
    assert_eq!(SafetensorsHeader::parse(&bytes[..len], &limits()).as_ref(), Ok(&header));
    let cut = SafetensorsHeader::parse(&bytes[..len - 1], &limits()).unwrap_err();
    assert!(matches!(cut.violation, HeaderViolation::Truncated { .. }), "{cut}");
}

/// Headers of several kinds, each a whole file but for the data.
pub(super) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
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
