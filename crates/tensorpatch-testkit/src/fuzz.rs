//! The bodies of the fuzz targets. Each is a sentence that holds for all bytes; it panics where it does not.

use tensorpatch_checkpoint::{Header, HeaderViolation};
use tensorpatch_format::{Limits, Patch, Schema, Violation};

/// Limits that keep one run of a fuzz target small.
fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.tensors = 1 << 16;
    limits.metadata_bytes = 1 << 24;
    limits
}

/// A safetensors header is refused, or its tensors fill the data area one after the other and make a schema.
pub fn safetensors_header(bytes: &[u8]) {
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

/// A patch is refused with an offset in it, or its parts agree with each other and every prefix of it is truncated.
pub fn parse_patch(bytes: &[u8]) {
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
