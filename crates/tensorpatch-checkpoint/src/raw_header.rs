//! The JSON of a safetensors header as it stands: types are right, numbers and names are not checked yet.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::Number;

use crate::error::short;

/// More dims than any schema admits; the rest is counted but not kept.
pub(crate) const KEPT_DIMS: usize = 65;

/// A header.
pub(crate) struct RawHeader {
    /// At most as many as the caller's limit.
    pub(crate) tensors: Vec<(String, RawTensor)>,
    pub(crate) tensor_count: u64,
    pub(crate) metadata: Option<BTreeMap<String, String>>,
}

/// The entry of a tensor.
pub(crate) struct RawTensor {
    pub(crate) dtype: String,
    pub(crate) shape: RawShape,
    pub(crate) data_offsets: [Number; 2],
}

/// The dims of a tensor.
pub(crate) struct RawShape {
    /// At most [`KEPT_DIMS`].
    pub(crate) dims: Vec<Number>,
    pub(crate) rank: usize,
}

impl RawHeader {
    /// Reads the JSON. Tensors beyond `max_tensors` are counted only. An error comes with the byte of `json`
    /// that it is about.
    pub(crate) fn parse(json: &[u8], max_tensors: u64) -> Result<Self, (u64, String)> {
        // What is skipped must be text too.
        let text = std::str::from_utf8(json)
            .map_err(|error| (error.valid_up_to() as u64, "it is not UTF-8".to_owned()))?;
        let mut deserializer = serde_json::Deserializer::from_str(text);
        deserializer
            .deserialize_map(HeaderVisitor { max_tensors })
            .and_then(|raw| deserializer.end().map(|()| raw))
            .map_err(|error| json_error(json, &error))
    }
}

/// The byte of `json` that an error is about, and what it says without the line and column.
pub(crate) fn json_error(json: &[u8], error: &serde_json::Error) -> (u64, String) {
    let lines = json.split_inclusive(|&byte| byte == b'\n').take(error.line().saturating_sub(1));
    let before: usize = lines.map(<[u8]>::len).sum();
    let offset = before.saturating_add(error.column().saturating_sub(1));
    let text = error.to_string();
    let message = text.rsplit_once(" at line ").map_or(text.as_str(), |(message, _)| message);
    (offset as u64, short(message))
}

/// Entries of `__metadata__` that a header may have: real ones have a dozen, and a header has room for
/// millions, each of which takes ten times its bytes.
const MAX_METADATA: u64 = 1 << 16;

/// Reads a map of strings in which a key may not occur twice, or `null`. Entries beyond `most` are counted
/// only.
pub(crate) struct Strings {
    pub(crate) most: u64,
}

/// A map of strings.
pub(crate) struct StringMap {
    pub(crate) map: BTreeMap<String, String>,
    pub(crate) count: u64,
}

struct HeaderVisitor {
    max_tensors: u64,
}

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = RawHeader;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
        let mut raw = RawHeader { tensors: Vec::new(), tensor_count: 0, metadata: None };
        let mut has_metadata = false;
        while let Some(key) = map.next_key::<String>()? {
            if key == "__metadata__" {
                let metadata = map
                    .next_value_seed(Strings { most: MAX_METADATA })
                    .map_err(|error| A::Error::custom(format_args!("__metadata__: {error}")))?;
                if metadata.as_ref().is_some_and(|metadata| metadata.count > MAX_METADATA) {
                    return Err(A::Error::custom(format_args!(
                        "__metadata__ has more than {MAX_METADATA} entries"
                    )));
                }
                if std::mem::replace(&mut has_metadata, true) {
                    return Err(A::Error::custom("__metadata__ occurs twice"));
                }
                raw.metadata = metadata.map(|metadata| metadata.map);
                continue;
            }
            raw.tensor_count = raw.tensor_count.saturating_add(1);
            if raw.tensor_count > self.max_tensors {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let tensor = map
                .next_value()
                .map_err(|error| A::Error::custom(format_args!("tensor {:?}: {error}", short(&key))))?;
            raw.tensors.push((key, tensor));
        }
        Ok(raw)
    }
}

// Written out because a derived implementation would take an array of the fields for the object too.
impl<'de> Deserialize<'de> for RawTensor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(TensorVisitor)
    }
}

struct TensorVisitor;

impl<'de> Visitor<'de> for TensorVisitor {
    type Value = RawTensor;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with dtype, shape and data_offsets")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawTensor, A::Error> {
        let (mut dtype, mut shape, mut data_offsets) = (None, None, None);
        while let Some(key) = map.next_key::<String>()? {
            let doubled = match key.as_str() {
                "dtype" => dtype.replace(map.next_value()?).is_some(),
                "shape" => shape.replace(map.next_value()?).is_some(),
                "data_offsets" => data_offsets.replace(map.next_value()?).is_some(),
                // Others may say more of a tensor than this version knows; it travels in the header bytes.
                _ => {
                    map.next_value::<Skipped>()?;
                    false
                }
            };
            if doubled {
                return Err(A::Error::custom(format_args!("{key} occurs twice")));
            }
        }
        Ok(RawTensor {
            dtype: dtype.ok_or_else(|| A::Error::missing_field("dtype"))?,
            shape: shape.ok_or_else(|| A::Error::missing_field("shape"))?,
            data_offsets: data_offsets.ok_or_else(|| A::Error::missing_field("data_offsets"))?,
        })
    }
}

/// Any JSON, checked and dropped. `IgnoredAny` does not look into strings and numbers, nor limit how deep
/// lists are nested.
struct Skipped;

impl<'de> Deserialize<'de> for Skipped {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SkippedVisitor)
    }
}

struct SkippedVisitor;

impl<'de> Visitor<'de> for SkippedVisitor {
    type Value = Skipped;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Skipped, E> {
        Ok(Skipped)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Skipped, E> {
        Ok(Skipped)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Skipped, E> {
        Ok(Skipped)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Skipped, E> {
        Ok(Skipped)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Skipped, E> {
        Ok(Skipped)
    }

    fn visit_str<E>(self, _: &str) -> Result<Skipped, E> {
        Ok(Skipped)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Skipped, A::Error> {
        while seq.next_element::<Skipped>()?.is_some() {}
        Ok(Skipped)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Skipped, A::Error> {
        while map.next_entry::<Skipped, Skipped>()?.is_some() {}
        Ok(Skipped)
    }
}

impl<'de> Deserialize<'de> for RawShape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ShapeVisitor)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = RawShape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of dims")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<RawShape, A::Error> {
        let mut shape = RawShape { dims: Vec::new(), rank: 0 };
        while let Some(dim) = seq.next_element::<Number>()? {
            if shape.rank < KEPT_DIMS {
                shape.dims.push(dim);
            }
            shape.rank = shape.rank.saturating_add(1);
        }
        Ok(shape)
    }
}

impl<'de> DeserializeSeed<'de> for Strings {
    type Value = Option<StringMap>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strings {
    type Value = Option<StringMap>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let (mut map, mut count) = (BTreeMap::new(), 0_u64);
        while let Some(key) = access.next_key::<String>()? {
            count = count.saturating_add(1);
            if count > self.most {
                access.next_value::<IgnoredAny>()?;
                continue;
            }
            let value = access
                .next_value()
                .map_err(|error| A::Error::custom(format_args!("{:?}: {error}", short(&key))))?;
            if map.contains_key(&key) {
                return Err(A::Error::custom(format_args!("{:?} occurs twice", short(&key))));
            }
            map.insert(key, value);
        }
        Ok(Some(StringMap { map, count }))
    }
}
