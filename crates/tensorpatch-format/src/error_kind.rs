//! Errors by who must act on them.

use std::fmt;

/// Who must act on an error, and how: what exit codes and exception classes are made of.
///
/// Every error type of the workspace that a caller can meet has a method `kind()`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The machine: input or output failed, no room, no permission for a file.
    Io,
    /// The request itself: it cannot be done, or would do harm. Nothing was altered.
    Refused,
    /// A checkpoint, patch or record is damaged, or not what it should be.
    BadInput,
    /// The patch was made from another base.
    WrongBase,
    /// The stream is not as expected: another publisher was faster, or it is another stream.
    Conflict,
    /// There is no such stream, version or part of a version.
    NotFound,
    /// A record is not signed by a trusted key.
    Untrusted,
    /// Local files are damaged, or were changed while in use.
    LocalDamage,
    /// The store or the network failed in a way that may pass: try again.
    Transient,
    /// The store denies access: check the credentials.
    Denied,
    /// The caller asked to stop.
    Cancelled,
}

impl ErrorKind {
    /// A short stable name, for logs and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Io => "io",
            Self::Refused => "refused",
            Self::BadInput => "bad_input",
            Self::WrongBase => "wrong_base",
            Self::Conflict => "conflict",
            Self::NotFound => "not_found",
            Self::Untrusted => "untrusted",
            Self::LocalDamage => "local_damage",
            Self::Transient => "transient",
            Self::Denied => "denied",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
