//! The records of a stream (spec/stream.md section 4): checked values of what JSON says.

mod json;
mod wire;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use tensorpatch_format::{Layout, LayoutDigest, LeafHash, SchemaDigest, TaggedStateDigest};

use crate::digest::{ObjectDigest, text};
use crate::names::{Key, MAX_INTEGER, Nonce, StreamId, Version, check_distinct, is_file_path, is_plain_name};
use crate::trust::HandoverRecord;
use json::sealed::Rules;
use json::{integers, rule, there};

pub use json::{JsonRecord, MAX_RECORD_BYTES, RecordError};

/// The most bytes of a publisher's name or a label.
const MAX_TEXT_BYTES: usize = 256;
/// The most companions of a version: a replica looks at each of them with every pull.
pub const MAX_COMPANIONS: usize = 4096;

/// A stored object: where it is, and what it must be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ObjectRef {
    /// Its name.
    pub key: Key,
    /// Its size.
    pub bytes: u64,
    /// The digest of all of it.
    pub blake3: ObjectDigest,
}

/// A stored object that is a file of a checkpoint directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NamedObject {
    /// The name of the file.
    pub name: String,
    /// The object.
    #[serde(flatten)]
    pub object: ObjectRef,
}

/// A version with everything that identifies it and its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionId {
    /// The number.
    pub version: Version,
    /// The digest of the commit record.
    pub commit: ObjectDigest,
    /// The state.
    #[serde(with = "text")]
    pub state: TaggedStateDigest,
    /// The layout of the files.
    #[serde(with = "text")]
    pub layout: LayoutDigest,
}

/// A number and the digest of its commit record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The number.
    pub version: Version,
    /// The digest of the commit record.
    pub commit: ObjectDigest,
}

/// Whether a delta changes anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeltaKind {
    /// It makes another state.
    Delta,
    /// It says that the state is the same.
    Empty,
}

/// The edge from an earlier version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delta {
    /// The version that it starts from.
    pub base: VersionId,
    /// Whether anything changes.
    pub kind: DeltaKind,
    /// Elements that differ.
    pub changed_elements: u64,
    /// Elements of all tensors.
    pub total_elements: u64,
    /// The patches.
    pub patches: Vec<PatchObject>,
}

/// A stored patch, of all tensors or of those of one rank.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PatchObject {
    /// The patch.
    #[serde(flatten)]
    pub object: ObjectRef,
    /// The canonical bytes of the schema of the patch's own tensors, in a commit of several ranks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema: Option<ObjectRef>,
}

/// A whole checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    /// Weights, index and copies of the companions.
    pub files: Vec<NamedObject>,
    /// The leaf table of the state.
    pub leaves: ObjectRef,
}

/// Whether more than one publisher may write to a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Writers {
    /// The store was found to keep create-if-absent.
    Many,
    /// The user has promised that there is one publisher at a time.
    Single,
}

/// What a record is about, by which it is judged whose signature counts, and with what its states are hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// The stream as a whole.
    Stream(LeafHash),
    /// A version.
    Commit(Version, LeafHash),
    /// An edge to a version.
    Edge(Version, LeafHash),
    /// The keys of the stream.
    Keys,
}

impl Subject {
    /// The leaf hash of the states that it names.
    pub fn leaf_hash(self) -> Option<LeafHash> {
        match self {
            Self::Stream(hash) | Self::Commit(_, hash) | Self::Edge(_, hash) => Some(hash),
            Self::Keys => None,
        }
    }

    /// The version that it makes or leads to.
    pub fn version(self) -> Option<Version> {
        match self {
            Self::Commit(version, _) | Self::Edge(version, _) => Some(version),
            Self::Stream(_) | Self::Keys => None,
        }
    }
}

/// `stream.json` (section 4.1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamRecord {
    /// The identity of the stream.
    pub stream: StreamId,
    /// Seconds since 1970, for people.
    pub created: u64,
    /// The leaf hash of all states of the stream.
    #[serde(with = "text")]
    pub leaf_hash: LeafHash,
    /// Who may write.
    pub writers: Writers,
}

/// What a version is, however it was made: the same in records, reports and the output of the CLI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionContents {
    /// The state.
    #[serde(with = "text")]
    pub state: TaggedStateDigest,
    /// The schema of the state.
    #[serde(with = "text")]
    pub schema: SchemaDigest,
    /// The layout of the files.
    #[serde(with = "text")]
    pub layout: LayoutDigest,
    /// Bytes of all tensors.
    pub state_bytes: u64,
    /// The number of tensors.
    pub tensors: u64,
}

/// `commits/V.json` (section 4.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CommitRecord {
    /// The identity of the stream.
    pub stream: StreamId,
    /// The number of the version.
    pub version: Version,
    /// The record before; none for the first version.
    pub previous: Option<Link>,
    /// Who published it.
    pub publisher: String,
    /// Tells this attempt from others.
    pub nonce: Nonce,
    /// Seconds since 1970, for people.
    pub created: u64,
    /// The publisher's own mark, such as a training step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// What the version is.
    #[serde(flatten)]
    pub contents: VersionContents,
    /// The edge from an earlier version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delta: Option<Delta>,
    /// The edge from nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anchor: Option<Anchor>,
    /// The files beside the weights.
    pub companions: Vec<NamedObject>,
}

/// `edges/….json` (section 4.3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeRecord {
    /// The identity of the stream.
    pub stream: StreamId,
    /// Who wrote it.
    pub publisher: String,
    /// Tells this attempt from others.
    pub nonce: Nonce,
    /// Seconds since 1970, for people.
    pub created: u64,
    /// The version that it leads to.
    pub target: VersionId,
    /// The edge from an earlier version.
    #[serde(default, deserialize_with = "there", skip_serializing_if = "Option::is_none")]
    pub delta: Option<Delta>,
    /// The edge from nothing.
    #[serde(default, deserialize_with = "there", skip_serializing_if = "Option::is_none")]
    pub anchor: Option<Anchor>,
}

impl JsonRecord for StreamRecord {
    const FORMAT: &'static str = "tensorpatch-stream";
}

impl Rules for StreamRecord {
    fn check(&self) -> Result<(), RecordError> {
        integers(&[("created", self.created)])
    }

    fn subject(&self) -> Subject {
        Subject::Stream(self.leaf_hash)
    }
}

impl JsonRecord for HandoverRecord {
    const FORMAT: &'static str = "tensorpatch-handover";
}

impl Rules for HandoverRecord {
    fn check(&self) -> Result<(), RecordError> {
        if self.from == self.to {
            return Err(rule("`from` and `to` are the same key"));
        }
        integers(&[("created", self.created)])
    }

    fn subject(&self) -> Subject {
        Subject::Keys
    }
}

impl JsonRecord for CommitRecord {
    const FORMAT: &'static str = "tensorpatch-commit";
}

impl Rules for CommitRecord {
    fn check(&self) -> Result<(), RecordError> {
        integers(&[
            ("created", self.created),
            ("state_bytes", self.contents.state_bytes),
            ("tensors", self.contents.tensors),
        ])?;
        short_text("publisher", &self.publisher)?;
        if let Some(label) = &self.label {
            short_text("label", label)?;
        }
        let expected = self.version.previous();
        if self.previous.map(|link| link.version) != expected {
            return Err(rule(match expected {
                Some(before) => format!("`previous` must name version {before}"),
                None => "version 1 has no `previous`".into(),
            }));
        }
        if self.delta.is_none() && self.anchor.is_none() {
            return Err(rule("it has neither `delta` nor `anchor`"));
        }
        if let Some(delta) = &self.delta {
            delta.check(self.version, &self.contents.state)?;
            let base = Link { version: delta.base.version, commit: delta.base.commit };
            if self.previous.is_some_and(|link| link.version == base.version && link != base) {
                return Err(rule("`delta.base` and `previous` are one version with two digests"));
            }
        }
        if let Some(anchor) = &self.anchor {
            anchor.check()?;
        } else if self.version == Version::FIRST {
            return Err(rule("version 1 must have an anchor"));
        }
        if self.companions.len() > MAX_COMPANIONS {
            return Err(rule(format!("it has more than {MAX_COMPANIONS} companions")));
        }
        named_objects("companions", &self.companions)?;
        // It would be put in the place of weights that were verified.
        match self.companions.iter().find(|companion| is_weights_name(&companion.name)) {
            Some(companion) => {
                Err(rule(format!("{:?} in `companions` is a name of weights", companion.name)))
            }
            None => Ok(()),
        }
    }

    fn subject(&self) -> Subject {
        Subject::Commit(self.version, self.contents.state.leaf_hash)
    }
}

impl JsonRecord for EdgeRecord {
    const FORMAT: &'static str = "tensorpatch-edge";
}

impl Rules for EdgeRecord {
    fn check(&self) -> Result<(), RecordError> {
        integers(&[("created", self.created)])?;
        short_text("publisher", &self.publisher)?;
        match (&self.delta, &self.anchor) {
            (Some(delta), None) => delta.check(self.target.version, &self.target.state),
            (None, Some(anchor)) => anchor.check(),
            _ => Err(rule("it must have either `delta` or `anchor`")),
        }
    }

    fn subject(&self) -> Subject {
        Subject::Edge(self.target.version, self.target.state.leaf_hash)
    }
}

impl CommitRecord {
    /// The identity of the version whose record has the digest `commit`.
    pub fn id(&self, commit: ObjectDigest) -> VersionId {
        VersionId { version: self.version, commit, state: self.contents.state, layout: self.contents.layout }
    }
}

impl Delta {
    fn check(&self, target: Version, state: &TaggedStateDigest) -> Result<(), RecordError> {
        integers(&[("changed_elements", self.changed_elements), ("total_elements", self.total_elements)])?;
        if self.base.version >= target {
            return Err(rule(format!("the base is version {}, not an earlier one", self.base.version)));
        }
        if self.base.state.leaf_hash != state.leaf_hash {
            return Err(rule("base and target have digests of different leaf hashes"));
        }
        if (self.kind == DeltaKind::Empty) != (self.base.state == *state) {
            return Err(rule("`empty` must be said if, and only if, the state is the base's"));
        }
        if self.patches.is_empty() {
            return Err(rule("a delta needs at least one patch"));
        }
        let mut keys = BTreeSet::new();
        for patch in &self.patches {
            patch.object.check()?;
            if !keys.insert(&patch.object.key) {
                return Err(rule(format!("patch {} occurs twice", patch.object.key)));
            }
            if patch.schema.is_some() != (self.patches.len() > 1) {
                return Err(rule("patches have a schema if, and only if, there are several"));
            }
            if let Some(schema) = &patch.schema {
                schema.check()?;
            }
        }
        total(self.objects().map(|object| object.bytes))
    }

    /// All objects: the patches and their schemas.
    pub fn objects(&self) -> impl Iterator<Item = &ObjectRef> {
        self.patches.iter().flat_map(|patch| std::iter::once(&patch.object).chain(&patch.schema))
    }
}

impl Anchor {
    fn check(&self) -> Result<(), RecordError> {
        self.leaves.check()?;
        if self.files.is_empty() {
            return Err(rule("an anchor needs at least one file"));
        }
        named_objects("files", &self.files)?;
        if let Some(file) = self.files.iter().find(|f| is_weights_name(&f.name) && !is_plain_name(&f.name)) {
            return Err(rule(format!("{:?} in `files` is a name of weights in a directory", file.name)));
        }
        total(self.objects().map(|object| object.bytes))
    }

    /// All objects, the leaf table included.
    pub fn objects(&self) -> impl Iterator<Item = &ObjectRef> {
        self.files.iter().map(|file| &file.object).chain([&self.leaves])
    }
}

impl ObjectRef {
    fn check(&self) -> Result<(), RecordError> {
        integers(&[("bytes", self.bytes)])
    }
}

fn named_objects(list: &str, objects: &[NamedObject]) -> Result<(), RecordError> {
    for named in objects {
        named.object.check()?;
        if !is_file_path(&named.name) {
            return Err(rule(format!("{:?} in `{list}` is not a path of plain file names", named.name)));
        }
    }
    check_distinct(objects.iter().map(|named| named.name.as_str()), str::to_ascii_lowercase)
        .map_err(|collision| rule(format!("`{list}`: {collision}")))?;
    total(objects.iter().map(|named| named.object.bytes))
}

/// Whether a file of this name is part of the weights, on any file system.
fn is_weights_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.ends_with(".safetensors") || name.rsplit('/').next() == Some(Layout::INDEX_FILE)
}

/// Refuses a label, or the name of a publisher, that no record may have: before anything is made for it.
///
/// # Errors
/// If one of them is no short text.
pub fn check_texts(publisher: &str, label: Option<&str>) -> Result<(), RecordError> {
    short_text("publisher", publisher)?;
    label.map_or(Ok(()), |label| short_text("label", label))
}

/// Sums of sizes are taken without further checks, so they must not overflow.
fn total(mut sizes: impl Iterator<Item = u64>) -> Result<(), RecordError> {
    let sum = sizes.try_fold(0_u64, |sum, size| sum.checked_add(size).filter(|sum| *sum <= MAX_INTEGER));
    sum.map(|_| ()).ok_or_else(|| rule("the sizes of its objects add up to more than 2^53 - 1"))
}

fn short_text(name: &str, text: &str) -> Result<(), RecordError> {
    if text.is_empty() || text.len() > MAX_TEXT_BYTES || text.chars().any(char::is_control) {
        return Err(rule(format!(
            "`{name}` must have 1 to {MAX_TEXT_BYTES} bytes without control characters"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod schema_test;
#[cfg(test)]
pub(crate) mod tests;
#[cfg(test)]
mod vectors_test;
