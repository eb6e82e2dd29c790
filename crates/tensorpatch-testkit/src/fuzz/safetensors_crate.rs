//! Safetensors headers, as the `safetensors` crate reads them.

use std::collections::BTreeMap;
use std::fmt;

use safetensors::tensor::Metadata;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use tensorpatch_checkpoint::{HeaderError, HeaderViolation, SafetensorsHeader, dtype_to_safetensors};
use tensorpatch_format::{Limits, SchemaError, TensorSpec};

/// What the crate reads we read, but for a short list of refusals; what we read it reads, but for dtypes that
/// it does not know and a shape with a zero whose other dims overflow; and both read the same.
pub fn safetensors_crate(json: &[u8]) {
    let file = [&(json.len() as u64).to_le_bytes(), json].concat();
    let ours = SafetensorsHeader::parse(&file, &Limits::default());
    let theirs = std::str::from_utf8(json).ok().and_then(|json| serde_json::from_str::<Metadata>(json).ok());
    match (ours, theirs) {
        (Ok(ours), Some(theirs)) => same(&ours, &theirs),
        (Err(error), Some(_)) => {
            assert!(is_named(&error) || is_serde_form(json), "only the crate reads it: {error}");
        }
        (Ok(ours), None) => {
            let is_beyond =
                |spec: &TensorSpec| dtype_to_safetensors(&spec.dtype).is_none() || overflows(spec);
            assert!(ours.tensors().iter().any(|(spec, _)| is_beyond(spec)), "only we read it: {ours:?}");
        }
        (Err(_), None) => {}
    }
}

fn same(ours: &SafetensorsHeader, theirs: &Metadata) {
    let tensors = theirs.tensors();
    assert_eq!(ours.tensors().len(), tensors.len());
    for (spec, range) in ours.tensors() {
        let info = tensors[&spec.name];
        assert_eq!(info.dtype.to_string(), spec.dtype.as_str());
        assert!(info.shape.iter().map(|&dim| dim as u64).eq(spec.shape.iter().copied()));
        let (begin, end) = info.data_offsets;
        let begin_of_data = ours.header_len();
        assert_eq!((begin as u64, end as u64), (range.start - begin_of_data, range.end - begin_of_data));
    }
    let metadata = theirs.metadata().as_ref().map(|map| map.iter().collect::<BTreeMap<_, _>>());
    assert_eq!(ours.metadata().map(|map| map.iter().collect()), metadata);
}

/// The refusals that the documentation of the parser names, and sizes that no file has.
fn is_named(error: &HeaderError) -> bool {
    match &error.violation {
        HeaderViolation::Duplicate | HeaderViolation::Limit { .. } | HeaderViolation::TooLarge(_) => true,
        HeaderViolation::Tensor(
            SchemaError::Rank { .. } | SchemaError::NameLength(_) | SchemaError::TooLarge,
        ) => true,
        HeaderViolation::Json(message) => message.contains("occurs twice"),
        _ => false,
    }
}

/// Whether a tensor is written as serde alone would: a list instead of an object, or a dtype as an object.
fn is_serde_form(json: &[u8]) -> bool {
    let Ok(Entries(entries)) = serde_json::from_slice(json) else { return false };
    entries.iter().any(|entry| entry.is_array() || entry["dtype"].is_object())
}

/// The values of an object, those whose names come again too: the crate reads each before one replaces
/// another.
struct Entries(Vec<serde_json::Value>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfMap;

        impl<'de> Visitor<'de> for OfMap {
            type Value = Entries;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some((IgnoredAny, entry)) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_map(OfMap)
    }
}

/// Whether the dims in their order have a product that overflows before a zero comes.
fn overflows(spec: &TensorSpec) -> bool {
    spec.shape.iter().try_fold(1_u64, |product, &dim| product.checked_mul(dim)).is_none()
}

/// The JSON of headers of several kinds.
pub(super) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    [
        ("empty", "{}"),
        ("space", " \t\r\n{}\n"),
        ("null", r#"{"__metadata__":null}"#),
        ("nameless", r#"{"":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#),
        ("list", r#"{"t":["U8",[],[0,1]]}"#),
        (
            "list of a tensor with a long name",
            r#"{"a tensor whose name fills an error message to the place where it is cut, so that the reason is not in the message; a tensor whose name fills it":["U8",[],[0,1]]}"#,
        ),
        ("object", r#"{"t":{"dtype":{"U8":null},"shape":[],"data_offsets":[0,1]}}"#),
        ("twice", r#"{"t":{"dtype":"U8","shape":[],"data_offsets":[0,1]},"t":{"dtype":"I8","shape":[],"data_offsets":[0,1]}}"#),
        ("list, then object", r#"{"b":["U8",[],[0,1]],"b":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}"#),
        ("extra", r#"{"t":{"dtype":"F4","shape":[2],"x":[{"y":"\ud83d\ude00"},1e3,null,true],"data_offsets":[0,1]}}"#),
        ("zero", r#"{"t":{"dtype":"F32","shape":[9223372036854775807,9,0],"data_offsets":[0,0]}}"#),
        ("unknown", r#"{"x":{"dtype":"F3_NEXT","shape":[7,1],"data_offsets":[0,3]}}"#),
        (
            "several",
            concat!(
                r#"{"__metadata__":{"format":"pt","a":"b"},"w":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},"#,
                r#""e":{"shape":[0],"dtype":"I64","data_offsets":[4,4]},"#,
                r#""q":{"dtype":"F4","shape":[8],"data_offsets":[0,4],"extra":[{}]}}    "#
            ),
        ),
    ]
    .map(|(name, json)| (name, json.as_bytes().to_vec()))
    .into()
}
