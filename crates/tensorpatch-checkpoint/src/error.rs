//! Why a checkpoint cannot be read, written or patched: which file, which tensor, what was expected and
//! found.

use std::io;
use std::path::{Path, PathBuf};

use tensorpatch_format::{ErrorKind, LayoutError, LimitKind, SchemaError, TensorIndex};

use crate::{CompanionObstacle, ForeignFile, HeaderError, IndexError, Misplaced, Role};

/// A refusal or a failure of the file layer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The operating system refused.
    #[error("{}: cannot {action}: {}", path.display(), told(source))]
    Io {
        /// What was tried, such as `open` or `sync`.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The new file is in place, but it is not known to outlive a power cut: its directory could not be
    /// synced.
    #[error(
        "{}: the new file is in place, but its directory could not be synced, so that a power cut may still lose it: \
         {source}",
        path.display()
    )]
    NotDurable {
        /// The file or directory that was replaced.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Something is where a file or directory of tensorpatch's own belongs; it was neither followed nor
    /// altered.
    #[error(transparent)]
    Misplaced(Misplaced),
    /// A directory without weights, or with weights of which it is not clear which ones count.
    #[error("{}: not a checkpoint: {found}", path.display())]
    NotACheckpoint {
        /// The path.
        path: PathBuf,
        /// What is there instead, and what to do.
        found: String,
    },
    /// A file of another kind under the name of a safetensors file.
    #[error("{}: not a safetensors file: {found} ({bytes} bytes)", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it is.
        found: ForeignFile,
        /// How long it is.
        bytes: u64,
    },
    /// A file beside the weights that cannot be carried along.
    #[error("{}: cannot be carried along: {obstacle}", path.display())]
    Companion {
        /// The file or directory.
        path: PathBuf,
        /// Why not, and what to do.
        obstacle: CompanionObstacle,
    },
    /// A link to weights that somebody else has made, to a file that is not theirs.
    #[error(
        "{}: another user has made this symbolic link to {}, which is not theirs: copy the file here, or make the link \
         yourself",
        path.display(),
        target.display()
    )]
    ForeignLink {
        /// The link.
        path: PathBuf,
        /// What it leads to.
        target: PathBuf,
    },
    /// A directory, a named pipe or a device where a file is needed.
    #[error("{}: not a regular file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The header of a file breaks a rule of safetensors.
    #[error("{}: {source}", path.display())]
    Header {
        /// The file; only its name if it comes from a layout.
        path: PathBuf,
        /// The rule.
        source: HeaderError,
    },
    /// The index of a sharded checkpoint is broken, or disagrees with the shards.
    #[error("{}: {source}", path.display())]
    Index {
        /// The index file; only its name if it comes from a layout.
        path: PathBuf,
        /// The rule.
        source: IndexError,
    },
    /// The index names a shard that is not there.
    #[error("{}: the shard is missing; the index says that it holds tensor {tensor:?}", path.display())]
    MissingShard {
        /// Where the shard should be.
        path: PathBuf,
        /// A tensor that it should hold.
        tensor: String,
    },
    /// Two files hold the same tensor.
    #[error("{}: tensor {tensor:?} is in {first:?} and in {second:?}", path.display())]
    TensorInTwoFiles {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// One file.
        first: String,
        /// The other.
        second: String,
    },
    /// The files together are no layout.
    #[error("{}: {source}", path.display())]
    Layout {
        /// The checkpoint.
        path: PathBuf,
        /// The rule.
        source: LayoutError,
    },
    /// The tensors together are no schema.
    #[error("{}: {source}", path.display())]
    Schema {
        /// The checkpoint.
        path: PathBuf,
        /// The rule.
        source: SchemaError,
    },
    /// More than the caller allows.
    #[error("{}: {kind} is {value}, over the limit of {limit}", path.display())]
    Limit {
        /// The checkpoint, file or index.
        path: PathBuf,
        /// Which limit.
        kind: LimitKind,
        /// The value found.
        value: u64,
        /// The limit in force.
        limit: u64,
    },
    /// A layout of several files without an index.
    #[error("a layout without an index must be one file; this one has {files} files, the first is {first:?}")]
    NoIndex {
        /// The number of files.
        files: usize,
        /// The name of the first.
        first: String,
    },
    /// A layout lacks a tensor of the schema.
    #[error("no file of the layout holds tensor {tensor:?}")]
    MissingTensor {
        /// The tensor.
        tensor: String,
    },
    /// A layout has a tensor that the schema has not.
    #[error("{file:?} holds tensor {tensor:?}, which is not in the schema")]
    UnexpectedTensor {
        /// The tensor.
        tensor: String,
        /// The file of the layout.
        file: String,
    },
    /// Layout and schema disagree over a tensor.
    #[error("tensor {tensor:?} in {file:?}: the schema says {expected}, the header says {found}")]
    TensorDiffers {
        /// The tensor.
        tensor: String,
        /// The file of the layout.
        file: String,
        /// Dtype, shape and size in the schema.
        expected: String,
        /// Dtype, shape and size in the header.
        found: String,
    },
    /// Several files, or an index, where one file is to be written.
    #[error("{}: the checkpoint is a directory ({files} weight files, {} index); write it to a directory", path.display(), if *index { "an" } else { "no" })]
    NeedsDirectory {
        /// The destination.
        path: PathBuf,
        /// The number of files in the layout.
        files: usize,
        /// Whether there is an index.
        index: bool,
    },
    /// The destination is something that must not be replaced.
    #[error("{}: {found}; {advice}", path.display())]
    Destination {
        /// The destination.
        path: PathBuf,
        /// What is there.
        found: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// One place for two things, of which one is altered.
    #[error(
        "the {role} {} and the {other_role} {} are the same place, or one lies in the other: give each a place of its own",
        path.display(),
        other.display()
    )]
    SamePlace {
        /// What the one is.
        role: Role,
        /// Where it is.
        path: PathBuf,
        /// What the other is.
        other_role: Role,
        /// Where that is.
        other: PathBuf,
    },
    /// The file system has not enough room.
    #[error("{}: no room: {needed} bytes are needed{}", path.display(), available_text(*available))]
    NoRoom {
        /// The directory or file that was to be written.
        path: PathBuf,
        /// Bytes of all files together.
        needed: u64,
        /// Bytes that were free before, if the file system says.
        available: Option<u64>,
    },
    /// A placement that was made for another layout, or another schema.
    #[error("the placement is that of another layout or schema: expected {expected} {what}, found {found}")]
    OtherPlacement {
        /// What differs.
        what: &'static str,
        /// How many the layout or the schema has.
        expected: u64,
        /// How many the placement has.
        found: u64,
    },
    /// A write outside of a tensor.
    #[error("write of {len} bytes at {offset} of tensor {}, which has {tensor_len:?} bytes", tensor.0)]
    OutOfRange {
        /// The tensor.
        tensor: TensorIndex,
        /// Where the write was to begin, in bytes from the start of the tensor.
        offset: u64,
        /// How many bytes.
        len: u64,
        /// Bytes of the tensor; `None` if there is no such tensor.
        tensor_len: Option<u64>,
    },
    /// A header that does not fit where the old one was.
    #[error("{}: a header of {found} bytes cannot take the place of one of {expected:?} bytes", path.display())]
    HeaderReplaced {
        /// The file.
        path: PathBuf,
        /// Bytes of the header now; `None` if there is no such file.
        expected: Option<u64>,
        /// Bytes of the header given.
        found: u64,
    },
    /// A commit before every byte was written once.
    #[error("{}: {written} bytes of tensors were written, expected {expected}", path.display())]
    Incomplete {
        /// The destination.
        path: PathBuf,
        /// Bytes that were written.
        written: u64,
        /// Bytes of all tensors.
        expected: u64,
    },
    /// A file that cannot be patched in place safely.
    #[error("{}: cannot be patched in place: {obstacle}", path.display())]
    NotInPlace {
        /// The file.
        path: PathBuf,
        /// Why not.
        obstacle: Obstacle,
    },
    /// An application in place was interrupted, and may have left the checkpoint between two versions.
    #[error("an earlier application to this checkpoint was interrupted (journal {}): recover it first", journal.display())]
    Pending {
        /// Its journal.
        journal: PathBuf,
    },
    /// The files of a replica, which an update has left, or has just now, between two versions.
    #[error("{} is between two versions: an update of this replica is under way, or was interrupted", replica.display())]
    Updating {
        /// The directory of the replica.
        replica: PathBuf,
    },
}

/// Why a file must not be written in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Obstacle {
    /// Writing would alter the file that the link leads to, such as a blob of the Hugging Face cache.
    #[error(
        "it is a symbolic link, and writing through it would alter a file that others may share; copy the checkpoint first (cp -rL), or write the result elsewhere"
    )]
    Symlink,
    /// Writing would alter what other names of the file show.
    #[error(
        "it has {0} names (hard links), and writing would alter them all; copy the checkpoint first, or write the result elsewhere"
    )]
    HardLinks(u64),
    /// No write permission for anyone.
    #[error("it is read-only; chmod u+w it, or write the result elsewhere")]
    ReadOnly,
    /// It belongs to another user, who could write to it later.
    #[error(
        "it belongs to another user (uid {0}), who may write to it at any time; patch it as that user, or write the \
         result elsewhere"
    )]
    OtherOwner(u32),
    /// Everybody may write to it.
    #[error("every user may write to it; chmod o-w it, or write the result elsewhere")]
    OthersWrite,
    /// Another patcher holds it.
    #[error("another process is patching it; wait for it to end")]
    Busy,
    /// It is no longer the file that was opened.
    #[error("it was replaced or resized since it was opened; open the checkpoint again")]
    Replaced,
}

fn available_text(available: Option<u64>) -> String {
    available.map(|bytes| format!(", {bytes} are free")).unwrap_or_default()
}

/// What the operating system said, after the words that all use for it where there is no room.
fn told(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => format!("no room ({error})"),
        _ => error.to_string(),
    }
}

impl CheckpointError {
    /// Who must act on the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { .. } | Self::NotDurable { .. } | Self::NoRoom { .. } | Self::Incomplete { .. } => {
                ErrorKind::Io
            }
            Self::Misplaced(_)
            | Self::NeedsDirectory { .. }
            | Self::Destination { .. }
            | Self::SamePlace { .. }
            | Self::OtherPlacement { .. }
            | Self::OutOfRange { .. }
            | Self::HeaderReplaced { .. }
            | Self::NotInPlace { .. }
            | Self::ForeignLink { .. }
            | Self::Companion { .. }
            | Self::Pending { .. }
            | Self::Updating { .. } => ErrorKind::Refused,
            Self::NotACheckpoint { .. }
            | Self::Foreign { .. }
            | Self::NotAFile { .. }
            | Self::Header { .. }
            | Self::Index { .. }
            | Self::MissingShard { .. }
            | Self::TensorInTwoFiles { .. }
            | Self::Layout { .. }
            | Self::Schema { .. }
            | Self::Limit { .. }
            | Self::NoIndex { .. }
            | Self::MissingTensor { .. }
            | Self::UnexpectedTensor { .. }
            | Self::TensorDiffers { .. } => ErrorKind::BadInput,
        }
    }

    /// For `map_err` on the sync of a directory, once the file at `path` is in place.
    pub(crate) fn not_durable(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::NotDurable { path, source }
    }

    /// For `map_err` on an I/O operation.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| match Misplaced::of(&source) {
            Some(misplaced) => Self::Misplaced(misplaced.clone()),
            None => Self::Io { action, path, source },
        }
    }
}

/// A name for a message: names of hostile files may have megabytes.
pub(crate) fn short(name: &str) -> String {
    const MOST: usize = 200;
    match name.char_indices().nth(MOST) {
        None => name.to_owned(),
        Some((end, _)) => format!("{}…", name.get(..end).unwrap_or_default()),
    }
}
