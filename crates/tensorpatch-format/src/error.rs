//! Why bytes were refused, and where.

use crate::{ErrorClass, ErrorKind, LimitKind, SchemaDigest};

/// A refusal of untrusted bytes: what was wrong, in which field, at which offset of the file.
///
/// Offsets are absolute: a parser that sees a window of a larger file is told where the window starts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{violation} ({field} at offset {offset})")]
pub struct Error {
    /// The rule that is broken.
    pub violation: Violation,
    /// The field that breaks it, by its name in the specification.
    pub field: &'static str,
    /// Where the field starts, in bytes from the start of the file.
    pub offset: u64,
}

/// What is wrong with the bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// The bytes end before the structure does.
    #[error("truncated: {needed} more bytes are needed")]
    Truncated {
        /// How many bytes are missing at the least.
        needed: u64,
    },
    /// What should be the trailer is none.
    #[error("the file does not end with a trailer: it is cut short or damaged")]
    NoTrailer,
    /// The file does not start with the magic of a patch.
    #[error("not a tensorpatch file")]
    NotAPatch,
    /// The major version is another one.
    #[error("format version {found} is not supported, only version 1: a newer tensorpatch may read it")]
    UnsupportedVersion {
        /// The major version in the file.
        found: u16,
    },
    /// A feature that a reader must understand is not known.
    #[error("{what} {value:#x} is not supported: a newer tensorpatch may read it")]
    UnsupportedFeature {
        /// Which kind of feature: a bit or a section type.
        what: &'static str,
        /// The unknown bits or the unknown type.
        value: u32,
    },
    /// A declared size is over what the reader allows.
    #[error("{kind} is {value}, over the limit of {limit}")]
    Limit {
        /// Which limit.
        kind: LimitKind,
        /// The declared value.
        value: u64,
        /// The limit in force.
        limit: u64,
    },
    /// A CRC32 does not match.
    #[error("checksum mismatch: the file says {expected:08x}, the bytes give {found:08x}")]
    Checksum {
        /// The checksum stored in the file.
        expected: u32,
        /// The checksum of the bytes.
        found: u32,
    },
    /// A field runs over the end of the section or of the unpacked bytes that hold it.
    #[error("{needed} bytes past the end of what holds it")]
    Overrun {
        /// How many bytes are missing at the least.
        needed: u64,
    },
    /// A rule of the specification is broken.
    #[error("{0}")]
    Invalid(String),
    /// The base given is not the one that the patch was made from: it has another schema.
    #[error("wrong base: the patch was made from one with the schema {expected}, this one has {found}")]
    WrongBase {
        /// The schema digest in the patch.
        expected: SchemaDigest,
        /// That of the base given.
        found: SchemaDigest,
    },
}

impl Error {
    /// A refusal of `field` at `offset`.
    pub fn new(violation: Violation, field: &'static str, offset: u64) -> Self {
        Self { violation, field, offset }
    }

    /// A broken rule of the specification, in words.
    pub fn invalid(message: impl Into<String>, field: &'static str, offset: u64) -> Self {
        Self::new(Violation::Invalid(message.into()), field, offset)
    }

    /// Who must act on this error.
    pub fn kind(&self) -> ErrorKind {
        match self.class() {
            ErrorClass::WrongBase => ErrorKind::WrongBase,
            _ => ErrorKind::BadInput,
        }
    }

    /// The stable class of this error.
    pub fn class(&self) -> ErrorClass {
        match self.violation {
            Violation::Truncated { .. } | Violation::NoTrailer => ErrorClass::Truncated,
            Violation::NotAPatch => ErrorClass::NotAPatch,
            Violation::UnsupportedVersion { .. } => ErrorClass::UnsupportedVersion,
            Violation::UnsupportedFeature { .. } => ErrorClass::UnsupportedFeature,
            Violation::Limit { .. } => ErrorClass::Limit,
            Violation::Checksum { .. } => ErrorClass::Checksum,
            Violation::Overrun { .. } | Violation::Invalid(_) => ErrorClass::Invalid,
            Violation::WrongBase { .. } => ErrorClass::WrongBase,
        }
    }
}
