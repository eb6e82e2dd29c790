//! The records of a stream (spec/stream.md section 4): JSON in, checked values out.

use std::collections::BTreeSet;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tensorpatch_format::{ErrorKind, Layout, LayoutDigest, LeafHash, SchemaDigest, TaggedStateDigest};

use crate::digest::{ObjectDigest, text};
use crate::names::{Key, MAX_INTEGER, Nonce, StreamId, Version, is_plain_name};

/// The most bytes that a record may have.
pub const MAX_RECORD_BYTES: u64 = 16 << 20;
/// The most bytes of a publisher's name or a label.
const MAX_TEXT_BYTES: usize = 256;
/// The most bytes of a message about a broken record.
const MAX_MESSAGE_BYTES: usize = 1000;

/// Why the bytes of an object are not the record that they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// Not JSON, or not of this shape.
    #[error("{0}")]
    Json(String),
    /// Another kind of record, or none of tensorpatch.
    #[error("its format is {found:?}, not {expected:?}")]
    Format {
        /// What should stand there.
        expected: &'static str,
        /// What stands there.
        found: String,
    },
    /// Another major version.
    #[error("its major version is {0}: a newer tensorpatch may read it")]
    Version(u64),
    /// A feature that a reader must know.
    #[error("it requires the feature {0:?}: a newer tensorpatch may read it")]
    Feature(String),
    /// A rule of section 4 is broken.
    #[error("{0}")]
    Rule(String),
    /// Larger than a record may be.
    #[error("it has {0} bytes: at most 16777216 are allowed")]
    Size(u64),
}

impl RecordError {
    /// Who must act on it.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::BadInput
    }
}

fn rule(message: impl Into<String>) -> RecordError {
    RecordError::Rule(shortened(message.into()))
}

fn json(error: &serde_json::Error) -> RecordError {
    RecordError::Json(shortened(error.to_string()))
}

/// Messages quote what they are about, which may be megabytes.
fn shortened(mut message: String) -> String {
    if message.len() > MAX_MESSAGE_BYTES {
        message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES));
        message.push('…');
    }
    message
}

/// What all records begin with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Head {
    format: String,
    major: u64,
    minor: u64,
    #[serde(deserialize_with = "first_of_list")]
    requires: Vec<String>,
    /// What it says is checked where records are trusted.
    #[serde(default, skip_serializing)]
    #[expect(dead_code, reason = "read so that a record which has it twice is refused")]
    signature: Option<serde::de::IgnoredAny>,
}

/// The first text of a list, if it has one: a record of 16 MiB has room for millions of short ones, which would take ten times
/// as much memory, and one is enough to refuse it.
fn first_of_list<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct First;
    impl<'de> serde::de::Visitor<'de> for First {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a list of texts")
        }

        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<Vec<String>, A::Error> {
            let first = list.next_element()?;
            while list.next_element::<serde::de::IgnoredAny>()?.is_some() {}
            Ok(first.into_iter().collect())
        }
    }
    deserializer.deserialize_seq(First)
}

/// An optional member that is there, and so has a value: `null` is none.
fn there<'de, T: Deserialize<'de>, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

mod sealed {
    use super::{DeserializeOwned, RecordError, Serialize};

    /// Keeps the kinds of records to those of the specification.
    pub trait Rules: Serialize + DeserializeOwned {
        /// The rules that types do not express.
        fn check(&self) -> Result<(), RecordError>;
    }
}
use sealed::Rules;

/// One kind of record: reading its bytes, from wherever they are, and making them.
///
/// ```
/// use tensorpatch_stream::{CommitRecord, JsonRecord, RecordError};
///
/// let bytes = br#"{"format":"tensorpatch-commit","major":2,"minor":0,"requires":[]}"#;
/// assert_eq!(CommitRecord::parse(bytes), Err(RecordError::Version(2)));
/// ```
pub trait JsonRecord: Rules {
    /// The `format` member.
    const FORMAT: &'static str;

    /// The bytes to store, unsigned.
    ///
    /// # Errors
    /// If the record breaks a rule of the specification, or has more than 16 MiB.
    fn to_bytes(&self) -> Result<Vec<u8>, RecordError> {
        self.check()?;
        let bytes = serde_json::to_vec(&Written { head: Head::of::<Self>(), record: self })
            .map_err(|error| json(&error))?;
        match bytes.len() as u64 {
            len if len > MAX_RECORD_BYTES => Err(RecordError::Size(len)),
            _ => Ok(bytes),
        }
    }

    /// Reads stored bytes, of which nothing is believed. Whether somebody trusted has signed them is another question.
    ///
    /// # Errors
    /// If they are not a record of this kind that keeps all rules of the specification, or more than 16 MiB.
    fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        if bytes.len() as u64 > MAX_RECORD_BYTES {
            return Err(RecordError::Size(bytes.len() as u64));
        }
        // The head on its own first: a record of another version need not have this version's shape.
        let head: Head = serde_json::from_slice(bytes).map_err(|error| json(&error))?;
        head.check(Self::FORMAT)?;
        let record: Self = serde_json::from_slice(bytes).map_err(|error| json(&error))?;
        record.check()?;
        Ok(record)
    }
}

#[derive(Serialize)]
struct Written<'a, T> {
    #[serde(flatten)]
    head: Head,
    #[serde(flatten)]
    record: &'a T,
}

impl Head {
    fn of<T: JsonRecord>() -> Self {
        Self { format: T::FORMAT.into(), major: 1, minor: 0, requires: Vec::new(), signature: None }
    }

    fn check(&self, expected: &'static str) -> Result<(), RecordError> {
        if self.format != expected {
            return Err(RecordError::Format { expected, found: self.format.chars().take(64).collect() });
        }
        if self.major != 1 {
            return Err(RecordError::Version(self.major));
        }
        match self.requires.first() {
            Some(feature) => Err(RecordError::Feature(feature.chars().take(64).collect())),
            None => integers(&[("minor", self.minor)]),
        }
    }
}

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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PatchObject {
    /// The patch.
    #[serde(flatten)]
    pub object: ObjectRef,
    /// The canonical bytes of the schema of the patch's own tensors, in a commit of several ranks.
    #[serde(default, deserialize_with = "there", skip_serializing_if = "Option::is_none")]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitRecord {
    /// The identity of the stream.
    pub stream: StreamId,
    /// The number of the version.
    pub version: Version,
    /// The record before; none for the first version.
    #[serde(deserialize_with = "Option::deserialize")]
    pub previous: Option<Link>,
    /// Who published it.
    pub publisher: String,
    /// Tells this attempt from others.
    pub nonce: Nonce,
    /// Seconds since 1970, for people.
    pub created: u64,
    /// The publisher's own mark, such as a training step.
    #[serde(default, deserialize_with = "there", skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// What the version is.
    #[serde(flatten)]
    pub contents: VersionContents,
    /// The edge from an earlier version.
    #[serde(default, deserialize_with = "there", skip_serializing_if = "Option::is_none")]
    pub delta: Option<Delta>,
    /// The edge from nothing.
    #[serde(default, deserialize_with = "there", skip_serializing_if = "Option::is_none")]
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
        }
        if let Some(anchor) = &self.anchor {
            anchor.check()?;
        } else if self.version == Version::FIRST {
            return Err(rule("version 1 must have an anchor"));
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
    let mut names = BTreeSet::new();
    for named in objects {
        named.object.check()?;
        if !is_plain_name(&named.name) {
            return Err(rule(format!("{:?} in `{list}` is not a plain file name", named.name)));
        }
        // Two names that differ in case are one file on some systems.
        if !names.insert(named.name.to_ascii_lowercase()) {
            return Err(rule(format!("{:?} occurs twice in `{list}`", named.name)));
        }
    }
    total(objects.iter().map(|named| named.object.bytes))
}

/// Whether a file of this name is part of the weights, on any file system.
fn is_weights_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.ends_with(".safetensors") || name == Layout::INDEX_FILE
}

/// Refuses a label, or the name of a publisher, that no record may have: before anything is made for it.
///
/// # Errors
/// If one of them is no short text.
pub fn check_texts(publisher: &str, label: Option<&str>) -> Result<(), RecordError> {
    short_text("publisher", publisher)?;
    label.map_or(Ok(()), |label| short_text("label", label))
}

fn integers(members: &[(&str, u64)]) -> Result<(), RecordError> {
    match members.iter().find(|(_, value)| *value > MAX_INTEGER) {
        Some((name, value)) => Err(rule(format!("`{name}` is {value}, over 2^53 - 1"))),
        None => Ok(()),
    }
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
