//! The stable classes of errors about a patch (section 12).

/// The stable classes of the specification (section 12), by who must act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorClass {
    /// Fetch the rest.
    Truncated,
    /// Give it the right file.
    NotAPatch,
    /// Upgrade the reader.
    UnsupportedVersion,
    /// Upgrade the reader.
    UnsupportedFeature,
    /// Raise the limit, or distrust the file.
    Limit,
    /// Fetch again.
    Checksum,
    /// Discard the file.
    Invalid,
    /// Find the right base.
    WrongBase,
    /// Discard the file.
    TargetMismatch,
}

impl ErrorClass {
    /// Every class, in the order of the specification.
    pub const ALL: &[Self] = &[
        Self::Truncated,
        Self::NotAPatch,
        Self::UnsupportedVersion,
        Self::UnsupportedFeature,
        Self::Limit,
        Self::Checksum,
        Self::Invalid,
        Self::WrongBase,
        Self::TargetMismatch,
    ];

    /// The code of the class in the specification and in the conformance vectors.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::NotAPatch => "not_a_patch",
            Self::UnsupportedVersion => "unsupported_version",
            Self::UnsupportedFeature => "unsupported_feature",
            Self::Limit => "limit",
            Self::Checksum => "checksum",
            Self::Invalid => "invalid",
            Self::WrongBase => "wrong_base",
            Self::TargetMismatch => "target_mismatch",
        }
    }
}
