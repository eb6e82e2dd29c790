//! What untrusted bytes may ask for.

use crate::{Error, Violation};

/// The most that a file may declare before a reader refuses it (section 11).
///
/// Every declared size is checked against these before anything is allocated. The default admits any
/// checkpoint that is known to exist; [`Limits::unlimited`] leaves only the hard limits of the format.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Tensors of a state.
    pub tensors: u64,
    /// Files of a layout, and of a checkpoint.
    pub files: u64,
    /// Bytes of a schema or of a layout, packed or not, and of the payload of an INDEX section.
    pub metadata_bytes: u64,
    /// Bytes of the payload of one BLOCK or ancillary section.
    pub section_bytes: u64,
    /// Bytes of one file that is not a tensor's: a safetensors header or an index.
    pub header_bytes: u64,
    /// Bytes of all tensors of a state together.
    pub state_bytes: u64,
}

/// Which of the [`Limits`] was exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LimitKind {
    /// [`Limits::tensors`].
    Tensors,
    /// [`Limits::files`].
    Files,
    /// [`Limits::metadata_bytes`].
    MetadataBytes,
    /// [`Limits::section_bytes`].
    SectionBytes,
    /// [`Limits::header_bytes`].
    HeaderBytes,
    /// [`Limits::state_bytes`].
    StateBytes,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            tensors: 1 << 20,
            files: 1 << 16,
            metadata_bytes: 256 << 20,
            section_bytes: 64 << 20,
            header_bytes: 100_000_008,
            state_bytes: 64 << 40,
        }
    }
}

impl Limits {
    /// No limit but those of the format itself. Only for files from a trusted source.
    pub fn unlimited() -> Self {
        Self {
            tensors: u64::MAX,
            files: u64::MAX,
            metadata_bytes: u64::MAX,
            section_bytes: u64::MAX,
            header_bytes: u64::MAX,
            state_bytes: u64::MAX,
        }
    }

    /// Checks a declared `value` before anything is allocated for it.
    ///
    /// # Errors
    /// [`Violation::Limit`] for `field` at `offset` if `value` is over the limit.
    pub fn check(&self, kind: LimitKind, value: u64, field: &'static str, offset: u64) -> Result<(), Error> {
        let limit = match kind {
            LimitKind::Tensors => self.tensors,
            LimitKind::Files => self.files,
            LimitKind::MetadataBytes => self.metadata_bytes,
            LimitKind::SectionBytes => self.section_bytes,
            LimitKind::HeaderBytes => self.header_bytes,
            LimitKind::StateBytes => self.state_bytes,
        };
        if value > limit {
            return Err(Error::new(Violation::Limit { kind, value, limit }, field, offset));
        }
        Ok(())
    }
}

impl std::fmt::Display for LimitKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tensors => "the number of tensors",
            Self::Files => "the number of files",
            Self::MetadataBytes => "the size of a schema, layout or index",
            Self::SectionBytes => "the size of a block",
            Self::HeaderBytes => "the size of a file header",
            Self::StateBytes => "the size of the state",
        })
    }
}
