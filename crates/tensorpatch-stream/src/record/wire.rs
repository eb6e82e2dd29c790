//! The shapes in which records are read. A flattened member would keep whatever else its object holds in
//! memory, many times as large as the bytes of the record: so these list all members, and pass over the
//! others.

use serde::{Deserialize, Deserializer};
use tensorpatch_format::{LayoutDigest, SchemaDigest, TaggedStateDigest};

use super::json::there;
use crate::digest::{ObjectDigest, text};
use crate::names::{Key, Nonce, StreamId, Version};

#[derive(Deserialize)]
struct NamedObject {
    name: String,
    key: Key,
    bytes: u64,
    blake3: ObjectDigest,
}

impl<'de> Deserialize<'de> for super::NamedObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let NamedObject { name, key, bytes, blake3 } = NamedObject::deserialize(deserializer)?;
        Ok(Self { name, object: super::ObjectRef { key, bytes, blake3 } })
    }
}

#[derive(Deserialize)]
struct PatchObject {
    key: Key,
    bytes: u64,
    blake3: ObjectDigest,
    #[serde(default, deserialize_with = "there")]
    schema: Option<super::ObjectRef>,
}

impl<'de> Deserialize<'de> for super::PatchObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let PatchObject { key, bytes, blake3, schema } = PatchObject::deserialize(deserializer)?;
        Ok(Self { object: super::ObjectRef { key, bytes, blake3 }, schema })
    }
}

#[derive(Deserialize)]
struct CommitRecord {
    stream: StreamId,
    version: Version,
    #[serde(deserialize_with = "Option::deserialize")]
    previous: Option<super::Link>,
    publisher: String,
    nonce: Nonce,
    created: u64,
    #[serde(default, deserialize_with = "there")]
    label: Option<String>,
    #[serde(with = "text")]
    state: TaggedStateDigest,
    #[serde(with = "text")]
    schema: SchemaDigest,
    #[serde(with = "text")]
    layout: LayoutDigest,
    state_bytes: u64,
    tensors: u64,
    #[serde(default, deserialize_with = "there")]
    delta: Option<super::Delta>,
    #[serde(default, deserialize_with = "there")]
    anchor: Option<super::Anchor>,
    companions: Vec<super::NamedObject>,
}

impl<'de> Deserialize<'de> for super::CommitRecord {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wire = CommitRecord::deserialize(deserializer)?;
        Ok(Self {
            stream: wire.stream,
            version: wire.version,
            previous: wire.previous,
            publisher: wire.publisher,
            nonce: wire.nonce,
            created: wire.created,
            label: wire.label,
            contents: super::VersionContents {
                state: wire.state,
                schema: wire.schema,
                layout: wire.layout,
                state_bytes: wire.state_bytes,
                tensors: wire.tensors,
            },
            delta: wire.delta,
            anchor: wire.anchor,
            companions: wire.companions,
        })
    }
}
