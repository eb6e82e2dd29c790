//! What an error is about, for programs: the file, the object of the store, the tensor.

use std::path::Path;

use serde::Serialize;
use tensorpatch::checkpoint::CheckpointError;
use tensorpatch::delta::{ApplyError, DiffError};
use tensorpatch::formats::FormatsError;
use tensorpatch::store::{PlanError, StoreError};

use super::Unsound;

/// What an error is about, as far as it says so.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Subject {
    /// A file or directory here.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    /// An object or folder of the store, relative to the stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tensor: Option<String>,
}

impl Subject {
    /// The first error of the chain that is known decides.
    pub(super) fn of(error: &anyhow::Error) -> Self {
        let of_cause = |cause: &(dyn std::error::Error + 'static)| {
            let unsound = cause.downcast_ref().and_then(Self::of_unsound);
            let store = cause.downcast_ref().map(Self::of_store);
            let formats = cause.downcast_ref().map(Self::of_formats);
            let apply = cause.downcast_ref().map(Self::of_apply);
            let diff = cause.downcast_ref().map(Self::of_diff);
            unsound.or(store).or(formats).or(apply).or(diff).or(cause.downcast_ref().map(Self::of_checkpoint))
        };
        error.chain().find_map(of_cause).unwrap_or_default()
    }

    fn path(path: &Path) -> Self {
        Self { path: Some(path.display().to_string()), ..Self::default() }
    }

    fn object(name: &str) -> Self {
        Self { object: Some(name.to_owned()), ..Self::default() }
    }

    fn tensor(name: &str) -> Self {
        Self { tensor: Some(name.to_owned()), ..Self::default() }
    }

    fn of_unsound(unsound: &Unsound) -> Option<Self> {
        match unsound {
            Unsound::Copied { name, .. } => Some(Self::object(name)),
            Unsound::Replica(dir)
            | Unsound::HoldsNothing { dir }
            | Unsound::NoDirectory { dir }
            | Unsound::Incomplete { dir, .. }
            | Unsound::Behind { dir, .. } => Some(Self::path(Path::new(dir))),
            Unsound::Stream(_)
            | Unsound::Records(_)
            | Unsound::Unsigned(_)
            | Unsound::LogCut { .. }
            | Unsound::Place(_)
            | Unsound::InPlace(_) => None,
        }
    }

    fn of_store(error: &StoreError) -> Self {
        match error {
            StoreError::Object { name, .. }
            | StoreError::Missing { name }
            | StoreError::Damaged { name, .. }
            | StoreError::Record { name, .. }
            | StoreError::NotTakenBack { name, .. }
            | StoreError::Untrusted { name, .. } => Self::object(name),
            StoreError::Plan(PlanError::NoPath { missing, .. }) => {
                missing.first().map(|key| Self::object(&key.to_string())).unwrap_or_default()
            }
            StoreError::AnotherStream { path, .. }
            | StoreError::ForeignDirectory { path, .. }
            | StoreError::NotABaseline { path, .. }
            | StoreError::KeptOtherwise { path, .. }
            | StoreError::NotADirectory { path, .. }
            | StoreError::Cache { path, .. }
            | StoreError::WrongBase { path, .. }
            | StoreError::WrongState { path, .. }
            | StoreError::LocalDamage { path, .. }
            | StoreError::NotAReplica { path }
            | StoreError::Place { path, .. }
            | StoreError::OwnFile { path, .. }
            | StoreError::Occupied { path, .. }
            | StoreError::PlaceBehind { path, .. }
            | StoreError::LocalState { path, .. }
            | StoreError::Local { path, .. }
            | StoreError::FileName { path }
            | StoreError::Unpublishable { path, .. }
            | StoreError::FileSize { path, .. }
            | StoreError::SignedTip { path, .. } => Self::path(path),
            StoreError::Checkpoint(error) => Self::of_checkpoint(error),
            StoreError::Apply(error) => Self::of_apply(error),
            StoreError::Diff(error) => Self::of_diff(error),
            _ => Self::default(),
        }
    }

    fn of_formats(error: &FormatsError) -> Self {
        match error {
            FormatsError::Checkpoint(error) => Self::of_checkpoint(error),
            FormatsError::Apply(error) => Self::of_apply(error),
            FormatsError::Diff(error) => Self::of_diff(error),
            _ => Self::default(),
        }
    }

    fn of_apply(error: &ApplyError) -> Self {
        match error {
            ApplyError::PatchFile { path, .. }
            | ApplyError::Journal { path, .. }
            | ApplyError::DamagedJournal { path, .. }
            | ApplyError::Replica { path } => Self::path(path),
            ApplyError::AlteredSince { checkpoint, .. } | ApplyError::OtherJournal { checkpoint, .. } => {
                Self::path(checkpoint)
            }
            ApplyError::Chunk { tensor, .. } => Self::tensor(tensor),
            ApplyError::Checkpoint(error) => Self::of_checkpoint(error),
            _ => Self::default(),
        }
    }

    fn of_diff(error: &DiffError) -> Self {
        match error {
            DiffError::Altered { tensor, .. } => Self::tensor(tensor),
            DiffError::Checkpoint(error) => Self::of_checkpoint(error),
            _ => Self::default(),
        }
    }

    fn of_checkpoint(error: &CheckpointError) -> Self {
        match error {
            CheckpointError::MissingShard { path, tensor }
            | CheckpointError::TensorInTwoFiles { path, tensor, .. } => {
                Self { tensor: Some(tensor.clone()), ..Self::path(path) }
            }
            CheckpointError::MissingTensor { tensor } => Self::tensor(tensor),
            CheckpointError::UnexpectedTensor { tensor, file }
            | CheckpointError::TensorDiffers { tensor, file, .. } => {
                Self { tensor: Some(tensor.clone()), ..Self::path(file.as_ref()) }
            }
            CheckpointError::Io { path, .. }
            | CheckpointError::NotDurable { path, .. }
            | CheckpointError::NotACheckpoint { path, .. }
            | CheckpointError::Foreign { path, .. }
            | CheckpointError::Companion { path, .. }
            | CheckpointError::ForeignLink { path, .. }
            | CheckpointError::NotAFile { path }
            | CheckpointError::Header { path, .. }
            | CheckpointError::Index { path, .. }
            | CheckpointError::Layout { path, .. }
            | CheckpointError::Schema { path, .. }
            | CheckpointError::Limit { path, .. }
            | CheckpointError::NeedsDirectory { path, .. }
            | CheckpointError::Destination { path, .. }
            | CheckpointError::SamePlace { path, .. }
            | CheckpointError::NoRoom { path, .. }
            | CheckpointError::HeaderReplaced { path, .. }
            | CheckpointError::Incomplete { path, .. }
            | CheckpointError::NotInPlace { path, .. }
            | CheckpointError::Pending { journal: path }
            | CheckpointError::Updating { replica: path } => Self::path(path),
            _ => Self::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_what_it_is_about_however_deep_it_lies() {
        let missing = StoreError::Missing { name: "deltas/1.tpatch".into() };
        let error = anyhow::Error::from(missing).context("cannot pull");
        assert_eq!(Subject::of(&error), Subject::object("deltas/1.tpatch"));

        let shard = CheckpointError::MissingShard { path: "a/b.safetensors".into(), tensor: "w".into() };
        let error = anyhow::Error::from(StoreError::Apply(ApplyError::Checkpoint(shard)));
        let expected = Subject { tensor: Some("w".into()), ..Subject::path("a/b.safetensors".as_ref()) };
        assert_eq!(Subject::of(&error), expected);

        assert_eq!(Subject::of(&anyhow::anyhow!("something else")), Subject::default());
    }
}
