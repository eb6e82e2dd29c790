//! Who must act on an error, and whether waiting helps.

use tensorpatch_format::ErrorKind;
use tensorpatch_stream::names;

use super::StoreError;
use crate::cause::Cause;

impl StoreError {
    /// Who must act on it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Checkpoint(error) => error.kind(),
            Self::Apply(error) => error.kind(),
            Self::Diff(error) => error.kind(),
            Self::Plan(error) => error.kind(),
            Self::Receipts(error) => error.kind(),
            Self::Key(error) => error.kind(),
            Self::Record { source, .. } => source.kind(),
            Self::NoStream { .. }
            | Self::StreamLost { .. }
            | Self::StreamGone { .. }
            | Self::Empty
            | Self::NoVersion { .. }
            | Self::Collected { .. }
            | Self::NoSuchRange { .. } => ErrorKind::NotFound,
            Self::LostRace { .. }
            | Self::NotAtTip { .. }
            | Self::AnotherStream { .. }
            | Self::WrongStream { .. }
            | Self::HiddenTip { .. }
            | Self::Removed { .. }
            | Self::PlaceBehind { .. }
            | Self::Moved { .. }
            | Self::StreamExists { .. }
            | Self::AnotherCopy { .. }
            | Self::HistoryRewritten(_) => ErrorKind::Conflict,
            Self::ForeignDirectory { .. }
            | Self::NotABaseline { .. }
            | Self::KeptOtherwise { .. }
            | Self::NotADirectory { .. }
            | Self::RunsCode { .. }
            | Self::OwnFile { .. }
            | Self::Occupied { .. }
            | Self::OnlySigned { .. }
            | Self::NoConditionalCreate(_)
            | Self::Url { .. }
            | Self::FileName { .. }
            | Self::Unpublishable { .. }
            | Self::NotAReplica { .. }
            | Self::FileSize { .. }
            | Self::HistoryBytes { .. }
            | Self::PlanBytes { .. }
            | Self::Policy(_)
            | Self::LeafHash { .. }
            | Self::NoCache { .. }
            | Self::NeedsKey { .. }
            | Self::NoHolder
            | Self::UsedKey { .. }
            | Self::Companion { .. }
            | Self::Tensors(_)
            | Self::Misplaced(_)
            | Self::Text(_) => ErrorKind::Refused,
            Self::Missing { .. }
            | Self::Damaged { .. }
            | Self::PatchDiffers { .. }
            | Self::NotTakenBack { .. }
            | Self::NotKept { .. }
            | Self::StreamRecordLost { .. } => ErrorKind::BadInput,
            Self::Untrusted { .. }
            | Self::Unsigned { .. }
            | Self::NotSigned { .. }
            | Self::WeakLeafHash { .. }
            | Self::RetiredKey { .. }
            | Self::Handover(_) => ErrorKind::Untrusted,
            Self::WrongBase { .. } => ErrorKind::WrongBase,
            Self::WrongState { .. }
            | Self::LocalDamage { .. }
            | Self::LocalState { .. }
            | Self::SignedTip { .. } => ErrorKind::LocalDamage,
            Self::Object { source, .. } | Self::OutcomeUnknown { source, .. } => Cause::of(source).kind(),
            Self::Cancelled(_) => ErrorKind::Cancelled,
            Self::Local { .. } | Self::Cache { .. } | Self::Place { .. } | Self::State(_) | Self::Task(_) => {
                ErrorKind::Io
            }
        }
    }

    /// Why the store or the file system refused or failed, for errors that are theirs.
    pub fn cause(&self) -> Option<Cause> {
        match self {
            Self::Object { source, .. } | Self::OutcomeUnknown { source, .. } => Some(Cause::of(source)),
            Self::Local { source, .. } => Some(Cause::of_io(source)),
            _ => None,
        }
    }

    /// Whether it is about a stream, a version or an object of one, and does not say of which stream: whoever
    /// tells of it should.
    pub fn leaves_stream_out(&self) -> bool {
        matches!(
            self,
            Self::Object { .. }
                | Self::Missing { .. }
                | Self::Damaged { .. }
                | Self::Record { .. }
                | Self::Untrusted { .. }
                | Self::NotTakenBack { .. }
                | Self::NotKept { .. }
                | Self::OutcomeUnknown { .. }
                | Self::LostRace { .. }
                | Self::NotAtTip { .. }
                | Self::HistoryRewritten(_)
                | Self::NoVersion { .. }
                | Self::Collected { .. }
                | Self::Empty
                | Self::Plan(_)
                | Self::PatchDiffers { .. }
        )
    }

    /// Whether a record is not there, or not as it should be.
    pub(crate) fn is_of_record(&self) -> bool {
        let is_commit = |name: &str| name.starts_with(names::COMMITS);
        match self {
            Self::Missing { name } | Self::Damaged { name, .. } | Self::Record { name, .. } => {
                is_commit(name)
            }
            _ => false,
        }
    }

    /// Whether the same call may succeed later without anybody doing anything.
    pub fn is_transient(&self) -> bool {
        self.kind() == ErrorKind::Transient
    }
}
