//! The index of a sharded Hugging Face checkpoint: which shard holds which tensor.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use tensorpatch_format::{LimitKind, Limits};

use crate::SafetensorsHeader;
use crate::error::short;
use crate::raw_header::{StringMap, Strings, json_error};

/// A broken index, or one that its shards contradict.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// Broken JSON, no `weight_map`, a key that occurs twice, or a value of another type.
    #[error("broken index: {message} (at offset {offset})")]
    Json {
        /// What is wrong.
        message: String,
        /// The byte of the index.
        offset: u64,
    },
    /// More than the caller allows.
    #[error("{kind} is {value}, over the limit of {limit}")]
    Limit {
        /// Which limit.
        kind: LimitKind,
        /// The value found.
        value: u64,
        /// The limit in force.
        limit: u64,
    },
    /// A `weight_map` without entries.
    #[error("the weight_map names no tensor")]
    Empty,
    /// A shard name that could leave the directory, or is no safetensors file's.
    #[error("tensor {tensor:?} is said to be in {shard:?}: expected a plain .safetensors file name")]
    ShardName {
        /// The tensor.
        tensor: String,
        /// The name.
        shard: String,
    },
    /// A shard lacks a tensor that the index says it has.
    #[error("tensor {tensor:?} is said to be in {shard:?}, which does not hold it")]
    Absent {
        /// The tensor.
        tensor: String,
        /// The shard.
        shard: String,
    },
    /// A shard has a tensor that the index does not name, or says to be elsewhere.
    #[error("tensor {tensor:?} is in {shard:?}, the weight_map says {}", expected.as_deref().unwrap_or("nothing of it"))]
    Unlisted {
        /// The tensor.
        tensor: String,
        /// The shard that holds it.
        shard: String,
        /// Where the index says that it is.
        expected: Option<String>,
    },
    /// A file of a layout that no tensor is said to be in.
    #[error("{0:?} belongs to the checkpoint, but the weight_map does not name it")]
    UnlistedFile(String),
}

/// A parsed `model.safetensors.index.json`.
#[derive(Debug)]
pub(crate) struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Index {
    pub(crate) fn parse(json: &[u8], limits: &Limits) -> Result<Self, IndexError> {
        let check = |value: u64, limit: u64, kind| {
            if value > limit { Err(IndexError::Limit { kind, value, limit }) } else { Ok(()) }
        };
        check(json.len() as u64, limits.header_bytes, LimitKind::HeaderBytes)?;
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        let weight_map = deserializer
            .deserialize_map(IndexVisitor { most: limits.tensors })
            .and_then(|map| deserializer.end().map(|()| map))
            .map_err(|error| {
                let (offset, message) = json_error(json, &error);
                IndexError::Json { message, offset }
            })?;
        check(weight_map.count, limits.tensors, LimitKind::Tensors)?;
        let weight_map = weight_map.map;
        if weight_map.is_empty() {
            return Err(IndexError::Empty);
        }
        for (tensor, shard) in &weight_map {
            if !is_shard_name(shard) {
                return Err(IndexError::ShardName { tensor: short(tensor), shard: short(shard) });
            }
        }
        let index = Self { weight_map };
        check(index.shards().len() as u64, limits.files, LimitKind::Files)?;
        Ok(index)
    }

    /// The shards in ascending order, each with a tensor that it should hold.
    pub(crate) fn shards(&self) -> BTreeMap<&str, &str> {
        self.weight_map.iter().map(|(tensor, shard)| (shard.as_str(), tensor.as_str())).collect()
    }

    /// Says that the files hold exactly what the index says.
    pub(crate) fn check<'a>(
        &self,
        files: impl Iterator<Item = (&'a str, &'a SafetensorsHeader)>,
    ) -> Result<(), IndexError> {
        let mut seen = BTreeSet::new();
        let mut unlisted = self.shards();
        for (shard, header) in files {
            for (spec, _) in header.tensors() {
                let expected = self.weight_map.get(&spec.name);
                if expected.map(String::as_str) != Some(shard) {
                    return Err(IndexError::Unlisted {
                        tensor: short(&spec.name),
                        shard: shard.to_owned(),
                        expected: expected.cloned(),
                    });
                }
                seen.insert(spec.name.as_str());
            }
            if unlisted.remove(shard).is_none() {
                return Err(IndexError::UnlistedFile(shard.to_owned()));
            }
        }
        match self.weight_map.iter().find(|(tensor, _)| !seen.contains(tensor.as_str())) {
            Some((tensor, shard)) => Err(IndexError::Absent { tensor: short(tensor), shard: shard.clone() }),
            None => Ok(()),
        }
    }
}

/// The rule of the format for file names (section 2.2), asked of the one place that has it.
fn is_shard_name(name: &str) -> bool {
    let file = tensorpatch_format::FileLayout { name: name.to_owned(), header: Vec::new() };
    tensorpatch_format::Layout::new(vec![file], None).is_ok()
}

struct IndexVisitor {
    /// Entries of the map that are kept.
    most: u64,
}

impl<'de> Visitor<'de> for IndexVisitor {
    type Value = StringMap;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a weight_map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut weight_map = None;
        while let Some(key) = map.next_key::<String>()? {
            if key != "weight_map" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let value = map
                .next_value_seed(Strings { most: self.most })
                .map_err(|error| A::Error::custom(format_args!("weight_map: {error}")))?
                .ok_or_else(|| A::Error::custom("weight_map: expected an object of strings"))?;
            if weight_map.replace(value).is_some() {
                return Err(A::Error::custom("weight_map occurs twice"));
            }
        }
        weight_map.ok_or_else(|| A::Error::missing_field("weight_map"))
    }
}
