//! Strict JSON: bounded, each key once, errors with their place.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error as _, MapAccess, Visitor};
use tensorpatch_format::{LimitKind, Limits};

use crate::error::short;
use crate::{Fault, Violation};

/// Reads a whole JSON document.
pub(crate) fn parse<T: DeserializeOwned>(json: &[u8], limits: &Limits) -> Result<T, Fault> {
    Violation::limit(LimitKind::HeaderBytes, json.len() as u64, limits.header_bytes)?;
    serde_json::from_slice(json).map_err(|error| {
        let before = json.split_inclusive(|&byte| byte == b'\n').take(error.line().saturating_sub(1));
        let offset = before.map(<[u8]>::len).sum::<usize>().saturating_add(error.column().saturating_sub(1));
        Fault::from(Violation::Json(short(error).into())).at(offset as u64)
    })
}

/// An object in which a key may not occur twice: of two, readers in Python take the last and say nothing.
#[derive(Debug)]
pub(crate) struct UniqueMap<V>(pub(crate) BTreeMap<String, V>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for UniqueMap<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(UniqueMapVisitor(PhantomData))
    }
}

struct UniqueMapVisitor<V>(PhantomData<V>);

impl<'de, V: Deserialize<'de>> Visitor<'de> for UniqueMapVisitor<V> {
    type Value = UniqueMap<V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut map = BTreeMap::new();
        while let Some(key) = access.next_key::<String>()? {
            let value = access.next_value()?;
            if map.contains_key(&key) {
                return Err(A::Error::custom(format_args!("{:?} occurs twice", short(&key))));
            }
            map.insert(key, value);
        }
        Ok(UniqueMap(map))
    }
}
