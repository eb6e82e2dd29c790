//! Why a delta was refused: which file, which tensor, where, what was expected and what was found.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use tensorpatch_checkpoint::{CheckpointError, HeaderError};
use tensorpatch_delta::{ApplyError, DiffError, StateError};
use tensorpatch_format::{ErrorKind, LimitKind, TaggedStateDigest};

use crate::ChecksumKind;

/// A broken rule in the bytes of a delta, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Fault {
    /// The file, by its name in the delta; empty if the delta is a single file.
    pub file: Box<str>,
    /// The tensor, if the fault is in what is said of one.
    pub tensor: Option<Box<str>>,
    /// The byte of the file, if one is to blame.
    pub offset: Option<u64>,
    /// The rule.
    pub violation: Violation,
}

/// What is wrong with the bytes of a delta.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// The header of a safetensors file.
    #[error(transparent)]
    Header(Box<HeaderError>),
    /// JSON that is broken, has a key twice, or lacks a field.
    #[error("broken JSON: {0}")]
    Json(Box<str>),
    /// More than the caller allows.
    #[error("{kind} is {value}, over the limit of {limit}")]
    Limit {
        /// Which limit.
        kind: LimitKind,
        /// The value declared.
        value: u64,
        /// The limit in force.
        limit: u64,
    },
    /// A field that says something else than it must.
    #[error("{what}: expected {expected}, found {found}")]
    Differs {
        /// The field.
        what: &'static str,
        /// What it must say.
        expected: Box<str>,
        /// What it says.
        found: Box<str>,
    },
    /// Something that must be there and is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// Something that must be there once and is there again.
    #[error("{0} occurs twice")]
    Twice(&'static str),
    /// A change of a tensor that the base does not have.
    #[error("the base has no such tensor")]
    NotInBase,
    /// A position that is out of order or outside the tensor.
    #[error("position {position}, number {number} of those listed, is out of order or not below {count}")]
    Position {
        /// Where in the list it stands.
        number: u64,
        /// The position; `u64::MAX` for one that is negative or overflows.
        position: u64,
        /// How many positions the tensor has.
        count: u64,
    },
    /// Compressed bytes that are not one zstd frame of a stated size.
    #[error("not one whole zstd frame that states the size of its content: {0}")]
    Frame(&'static str),
    /// A tensor, or the whole state, is not what its checksum says.
    #[error(
        "the {kind} checksum of the result differs: expected {expected}, found {found}; the base is another one, or the delta is faulty"
    )]
    Checksum {
        /// The kind.
        kind: ChecksumKind,
        /// What the delta says.
        expected: Box<str>,
        /// That of the bytes that came out.
        found: Box<str>,
    },
    /// Byte positions of four bytes in a tensor of more than 4 GiB: writers of this format let them wrap.
    #[error("a tensor of {0} bytes: byte positions of this encoding wrap at 4294967296")]
    PositionsWrap(u64),
}

impl Violation {
    pub(crate) fn differs(what: &'static str, expected: impl fmt::Display, found: impl fmt::Display) -> Self {
        Self::Differs { what, expected: short(expected).into(), found: short(found).into() }
    }

    pub(crate) fn limit(kind: LimitKind, value: u64, limit: u64) -> Result<(), Self> {
        if value > limit { Err(Self::Limit { kind, value, limit }) } else { Ok(()) }
    }

    pub(crate) fn of(self, tensor: &str) -> Fault {
        Fault { tensor: Some(short(tensor).into()), ..self.into() }
    }
}

impl From<Violation> for Fault {
    fn from(violation: Violation) -> Self {
        Self { file: Box::default(), tensor: None, offset: None, violation }
    }
}

impl From<HeaderError> for Fault {
    fn from(error: HeaderError) -> Self {
        Violation::Header(Box::new(error)).into()
    }
}

impl Fault {
    pub(crate) fn at(self, offset: u64) -> Self {
        Self { offset: Some(offset), ..self }
    }

    pub(crate) fn in_file(self, file: &str) -> Self {
        if self.file.is_empty() { Self { file: file.into(), ..self } } else { self }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.file.is_empty() {
            write!(f, "{}: ", self.file)?;
        }
        if let Some(tensor) = &self.tensor {
            write!(f, "tensor {tensor:?}: ")?;
        }
        self.violation.fmt(f)?;
        match self.offset {
            Some(offset) => write!(f, " (at offset {offset})"),
            None => Ok(()),
        }
    }
}

/// What a caller must say, because nothing else does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Needed {
    /// The checkpoint that the source is a change from.
    Base,
    /// The versions of target and base.
    Versions,
}

impl fmt::Display for Needed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Base => "give the checkpoint that it is a change from",
            Self::Versions => "give the versions of target and base as numbers",
        })
    }
}

/// Why nothing was converted. The destination is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatsError {
    /// A delta breaks a rule of its format, or does not fit the base.
    #[error("{}: {source}", path.display())]
    Delta {
        /// The delta.
        path: PathBuf,
        /// The rule.
        source: Box<Fault>,
    },
    /// A file or directory that is no checkpoint and no delta of a known format.
    #[error("{}: {found}", path.display())]
    Unknown {
        /// The path.
        path: PathBuf,
        /// What is there.
        found: &'static str,
    },
    /// A change that the format to be written has no way to express.
    #[error("{format} cannot express this{}: {what}", of_tensor(tensor.as_deref()))]
    CannotExpress {
        /// The format.
        format: &'static str,
        /// The tensor.
        tensor: Option<String>,
        /// The change.
        what: String,
    },
    /// Something that the caller must say, or must not ask for.
    #[error("{what}: {advice}")]
    Request {
        /// What is wrong.
        what: String,
        /// What to do.
        advice: &'static str,
    },
    /// Something that neither the source nor the caller says.
    #[error("{what}: {needed}")]
    Unsaid {
        /// What is not known.
        what: String,
        /// What the caller must say.
        needed: Needed,
    },
    /// The base is not the one that the caller wants it to be.
    #[error("the base has the digest {found}, expected {expected}")]
    WrongBase {
        /// The digest that the caller gives.
        expected: TaggedStateDigest,
        /// The digest of the base.
        found: TaggedStateDigest,
    },
    /// The operating system refused.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A checkpoint could not be read or written.
    #[error(transparent)]
    Checkpoint(Box<CheckpointError>),
    /// A patch could not be applied.
    #[error(transparent)]
    Apply(Box<ApplyError>),
    /// A patch could not be made.
    #[error(transparent)]
    Diff(#[from] DiffError),
    /// Tensors that do not fit their schema.
    #[error(transparent)]
    State(#[from] StateError),
}

impl FormatsError {
    /// Who must act on this error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { .. } => ErrorKind::Io,
            Self::CannotExpress { .. } | Self::Request { .. } | Self::Unsaid { .. } | Self::State(_) => {
                ErrorKind::Refused
            }
            Self::WrongBase { .. } => ErrorKind::WrongBase,
            // Faulty deltas are rare, wrong bases are not.
            Self::Delta { source, .. } if matches!(source.violation, Violation::Checksum { .. }) => {
                ErrorKind::WrongBase
            }
            Self::Delta { .. } | Self::Unknown { .. } => ErrorKind::BadInput,
            Self::Checkpoint(error) => error.kind(),
            Self::Apply(error) => error.kind(),
            Self::Diff(error) => error.kind(),
        }
    }

    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    pub(crate) fn delta(path: &Path) -> impl FnOnce(Fault) -> Self {
        let path = path.to_owned();
        move |fault| Self::Delta { path, source: Box::new(fault) }
    }
}

impl From<CheckpointError> for FormatsError {
    fn from(error: CheckpointError) -> Self {
        Self::Checkpoint(Box::new(error))
    }
}

impl From<ApplyError> for FormatsError {
    fn from(error: ApplyError) -> Self {
        Self::Apply(Box::new(error))
    }
}

fn of_tensor(tensor: Option<&str>) -> String {
    tensor.map(|tensor| format!(" of tensor {tensor:?}")).unwrap_or_default()
}

/// A text for a message: those of hostile files may have megabytes.
pub(crate) fn short(text: impl fmt::Display) -> String {
    const MOST: usize = 200;
    let text = text.to_string();
    match text.char_indices().nth(MOST) {
        None => text,
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
    }
}
