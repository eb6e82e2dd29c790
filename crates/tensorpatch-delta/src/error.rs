//! Why a patch was not applied.

use std::path::PathBuf;

use tensorpatch_checkpoint::{CheckpointError, HeaderError, HeaderViolation, IndexError};
use tensorpatch_format::{self as format, ChunkAddress, ErrorClass, ErrorKind, TaggedStateDigest};

use crate::{Cancelled, ChunkFault, StateError};

/// Why a patch was not applied. Unless a variant says otherwise, nothing that existed before was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// The bytes of the patch were refused.
    #[error(transparent)]
    Patch(#[from] format::Error),
    /// The bytes of the patch in a file were refused.
    #[error("{}: {source}", path.display())]
    PatchFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<format::Error>,
    },
    /// A chunk does not decode to what the index says, although the base is the right one.
    #[error("tensor {tensor:?}, chunk {} does not decode ({} at offset {offset} of the patch)", address.chunk.0, source.field())]
    Chunk {
        /// The tensor.
        tensor: String,
        /// The chunk.
        address: ChunkAddress,
        /// Where in the patch that stands which is wrong: the start of its payload, or of its leaf digest in
        /// the index.
        offset: u64,
        /// What is wrong with it.
        source: ChunkFault,
    },
    /// The base is not the one that the patch was made from.
    #[error("the patch was made from another base: expected {expected}, found {found}")]
    WrongBase {
        /// Where the patch gives the digest of its base.
        offset: u64,
        /// The digest that the patch gives.
        expected: TaggedStateDigest,
        /// The digest of the base at hand.
        found: TaggedStateDigest,
    },
    /// The patch is broken: applied to its own base it does not give its target.
    #[error("the result is not the patch's target: expected {expected}, found {found}")]
    TargetMismatch {
        /// Where the patch gives the digest of its target.
        offset: u64,
        /// The digest that the patch gives.
        expected: TaggedStateDigest,
        /// The digest of the result.
        found: TaggedStateDigest,
    },
    /// A delta where a full patch is needed, or the other way round.
    #[error("this is a {found} patch: {needed} is needed here")]
    Kind {
        /// The kind of the patch.
        found: format::Kind,
        /// What would have fitted.
        needed: &'static str,
    },
    /// The layout that the patch lists is none by which the files of a checkpoint could be written.
    #[error("the layout at offset {offset} of the patch is not that of a checkpoint with its tensors")]
    Layout {
        /// Where the layout stands in the patch, packed or not.
        offset: u64,
        /// What is wrong with it; files are named as in the layout.
        source: Box<CheckpointError>,
    },
    /// A patch that moves tensors within the files, which cannot be done in place.
    #[error("the patch cannot be applied in place: {0}; write a new checkpoint instead")]
    NotInPlace(String),
    /// A checkpoint could not be read or written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Tensors that do not fit their schema.
    #[error(transparent)]
    State(#[from] StateError),
    /// The journal of an in-place application could not be read or written.
    #[error("journal {}", path.display())]
    Journal {
        /// The journal.
        path: PathBuf,
        /// What went wrong.
        source: std::io::Error,
    },
    /// The journal of an interrupted application is damaged: the checkpoint may hold neither version and must
    /// be restored.
    #[error("the journal {} is damaged, and the checkpoint may be half altered: restore it from a good copy, and remove the journal", path.display())]
    DamagedJournal {
        /// The journal.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<ApplyError>,
    },
    /// The journal of an application is sound, but the checkpoint is neither of its versions, nor torn
    /// between them: something else has altered it since.
    #[error("{} was altered since the journal {} was written, and is not one of its two versions any more: restore one of them and run this again, or remove the journal to keep what is there", checkpoint.display(), journal.display())]
    AlteredSince {
        /// The checkpoint.
        checkpoint: PathBuf,
        /// The journal.
        journal: PathBuf,
        /// What does not fit.
        source: Box<ApplyError>,
    },
    /// The journal beside a checkpoint is of another patch than the one at hand. Nothing was altered.
    #[error(
        "{}: the journal {} makes it {found}, which is no state of this patch: an application of another patch was \
         interrupted, or somebody else has put it there. Apply that other patch again to finish it; if you know of \
         none, remove the journal",
        checkpoint.display(), journal.display()
    )]
    OtherJournal {
        /// The checkpoint.
        checkpoint: PathBuf,
        /// The journal.
        journal: PathBuf,
        /// The state that it leads to.
        found: TaggedStateDigest,
    },
    /// A patch for one file or directory of a replica, which only its stream may alter.
    #[error("{} is a replica of a stream, and patching it would make it none", path.display())]
    Replica {
        /// The directory of the replica.
        path: PathBuf,
    },
    /// A target that memory has no room for.
    #[error("no memory for the {needed} bytes of the target")]
    NoMemory {
        /// Bytes of all tensors.
        needed: u64,
    },
    /// The caller's progress said to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl ApplyError {
    /// Who must act on the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Patch(error) => error.kind(),
            Self::PatchFile { source, .. } => source.kind(),
            Self::Checkpoint(error) => error.kind(),
            Self::Chunk { .. } | Self::Layout { .. } | Self::TargetMismatch { .. } => ErrorKind::BadInput,
            Self::WrongBase { .. } => ErrorKind::WrongBase,
            Self::Kind { .. }
            | Self::NotInPlace(_)
            | Self::State(_)
            | Self::OtherJournal { .. }
            | Self::Replica { .. } => ErrorKind::Refused,
            Self::Journal { .. } | Self::NoMemory { .. } => ErrorKind::Io,
            Self::DamagedJournal { .. } | Self::AlteredSince { .. } => ErrorKind::LocalDamage,
            Self::Cancelled(_) => ErrorKind::Cancelled,
        }
    }

    /// The stable class of the specification (section 12), for errors that are about a patch.
    pub fn class(&self) -> Option<ErrorClass> {
        match self {
            Self::Patch(error) => Some(error.class()),
            Self::PatchFile { source, .. } => Some(source.class()),
            Self::Chunk { source: ChunkFault::Payload(_), .. } => Some(ErrorClass::Invalid),
            Self::Chunk { source: ChunkFault::Leaf { .. }, .. } => Some(ErrorClass::TargetMismatch),
            Self::Layout { source, .. } => Some(layout_class(source)),
            Self::WrongBase { .. } => Some(ErrorClass::WrongBase),
            Self::TargetMismatch { .. } => Some(ErrorClass::TargetMismatch),
            _ => None,
        }
    }

    /// Where in the patch file the specification places the error, for errors that are about a patch.
    pub fn offset(&self) -> Option<u64> {
        match self {
            Self::Patch(error) => Some(error.offset),
            Self::PatchFile { source, .. } => Some(source.offset),
            Self::Chunk { offset, .. }
            | Self::Layout { offset, .. }
            | Self::WrongBase { offset, .. }
            | Self::TargetMismatch { offset, .. } => Some(*offset),
            _ => None,
        }
    }
}

fn layout_class(fault: &CheckpointError) -> ErrorClass {
    match fault {
        CheckpointError::Limit { .. }
        | CheckpointError::Header {
            source: HeaderError { violation: HeaderViolation::Limit { .. }, .. },
            ..
        }
        | CheckpointError::Index { source: IndexError::Limit { .. }, .. } => ErrorClass::Limit,
        _ => ErrorClass::Invalid,
    }
}
