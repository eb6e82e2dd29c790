//! Records as JSON: the members that all have, and the trait that reads and writes them.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use tensorpatch_format::ErrorKind;

use crate::names::MAX_INTEGER;

/// The most bytes that a record may have: an anchor of ten thousand shards has room, and a few records at
/// once fit into memory.
pub const MAX_RECORD_BYTES: u64 = 4 << 20;
/// The most bytes of a message about a broken record.
const MAX_MESSAGE_BYTES: usize = 1000;

/// Why the bytes of an object are not the record that they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// Not JSON at all: what a disk or a transfer leaves of a record, or no record ever.
    #[error("it is not JSON ({0})")]
    NotJson(String),
    /// JSON of another shape.
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
    #[error("it has {0} bytes: at most 4194304 are allowed")]
    Size(u64),
}

impl RecordError {
    /// Who must act on it.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::BadInput
    }
}

/// An optional member that is there, and so has a value: `null` is none.
pub(super) fn there<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

pub(super) fn rule(message: impl Into<String>) -> RecordError {
    RecordError::Rule(shortened(message.into()))
}

fn json(error: &serde_json::Error) -> RecordError {
    let message = shortened(error.to_string());
    if error.is_syntax() || error.is_eof() {
        RecordError::NotJson(message)
    } else {
        RecordError::Json(message)
    }
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
struct Head {
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

/// The first text of a list, if it has one: a record has room for millions of short ones, which
/// would take ten times as much memory, and one is enough to refuse it.
fn first_of_list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
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

pub(super) mod sealed {
    use super::super::Subject;
    use super::{DeserializeOwned, RecordError, Serialize};

    /// Keeps the kinds of records to those of the specification.
    pub trait Rules: Serialize + DeserializeOwned {
        /// The rules that types do not express.
        fn check(&self) -> Result<(), RecordError>;
        /// What it is about.
        fn subject(&self) -> Subject;
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
    /// If the record breaks a rule of the specification, or has more than 4 MiB.
    fn to_bytes(&self) -> Result<Vec<u8>, RecordError> {
        self.check()?;
        let bytes = serde_json::to_vec(&Written { head: Head::of::<Self>(), record: self })
            .map_err(|error| json(&error))?;
        match bytes.len() as u64 {
            len if len > MAX_RECORD_BYTES => Err(RecordError::Size(len)),
            _ => Ok(bytes),
        }
    }

    /// Reads stored bytes, of which nothing is believed. Whether somebody trusted has signed them is another
    /// question.
    ///
    /// # Errors
    /// If they are not a record of this kind that keeps all rules of the specification, or more than 4 MiB.
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

/// Refuses integers that some JSON reader could not hold exactly.
pub(super) fn integers(members: &[(&str, u64)]) -> Result<(), RecordError> {
    match members.iter().find(|(_, value)| *value > MAX_INTEGER) {
        Some((name, value)) => Err(rule(format!("`{name}` is {value}, over 2^53 - 1"))),
        None => Ok(()),
    }
}
