//! The shapes in which records are read. A flattened member would keep whatever else its object holds in
//! memory, many times as large as the bytes of the record: so these list all members, and pass over the
//! others.

use serde::{Deserialize, Deserializer};
use tensorpatch_format::{LayoutDigest, SchemaDigest, TaggedStateDigest};

use crate::digest::{ObjectDigest, text};
use crate::names::{Key, Nonce, StreamId, Version};

/// An optional member that is there, and so has a value: `null` is none.
pub(super) fn there<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

#[derive(Deserialize)]
pub(super) struct NamedObject {
    name: String,
    key: Key,
    bytes: u64,
    blake3: ObjectDigest,
}

impl From<NamedObject> for super::NamedObject {
    fn from(NamedObject { name, key, bytes, blake3 }: NamedObject) -> Self {
        Self { name, object: super::ObjectRef { key, bytes, blake3 } }
    }
}

#[derive(Deserialize)]
pub(super) struct PatchObject {
    key: Key,
    bytes: u64,
    blake3: ObjectDigest,
    #[serde(default, deserialize_with = "there")]
    schema: Option<super::ObjectRef>,
}

impl From<PatchObject> for super::PatchObject {
    fn from(PatchObject { key, bytes, blake3, schema }: PatchObject) -> Self {
        Self { object: super::ObjectRef { key, bytes, blake3 }, schema }
    }
}

#[derive(Deserialize)]
pub(super) struct CommitRecord {
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

impl From<CommitRecord> for super::CommitRecord {
    fn from(wire: CommitRecord) -> Self {
        Self {
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
        }
    }
}
