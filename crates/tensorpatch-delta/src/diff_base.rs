//! What tensors given one at a time are compared with.

use tensorpatch_checkpoint::{Checkpoint, CheckpointError};
use tensorpatch_format::{ChunkAddress, LeafHash, Schema};

use crate::state::HashedChunk;
use crate::{LeafTable, Snapshot};

/// A snapshot that somebody holds, or a checkpoint of which one can be taken.
#[derive(Debug)]
pub(crate) enum DiffBase<'b> {
    Snapshot(&'b Snapshot<'b>),
    Checkpoint(Box<(Checkpoint, LeafTable)>),
}

impl DiffBase<'_> {
    pub(crate) fn schema(&self) -> &Schema {
        match self {
            Self::Snapshot(snapshot) => snapshot.state.schema(),
            Self::Checkpoint(owned) => owned.0.schema(),
        }
    }

    /// A chunk with its digest, which is computed if it is not known.
    pub(crate) fn chunk(&self, address: ChunkAddress, hash: LeafHash) -> Option<HashedChunk<'_>> {
        match self {
            Self::Snapshot(snapshot) => snapshot.chunk(address, hash),
            Self::Checkpoint(owned) => {
                let (checkpoint, leaves) = &**owned;
                let range = checkpoint.schema().get(address.tensor)?.chunk_range(address.chunk)?;
                let range = usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?;
                let bytes = checkpoint.tensor(address.tensor)?.get(range)?;
                Some(HashedChunk { bytes, leaf: leaves.get(address)?, known: true })
            }
        }
    }

    /// All of it.
    ///
    /// # Errors
    /// [`CheckpointError::Pending`] if an application in place to the checkpoint was interrupted.
    pub(crate) fn snapshot(&self) -> Result<Snapshot<'_>, CheckpointError> {
        match self {
            Self::Snapshot(snapshot) => Ok((*snapshot).clone()),
            Self::Checkpoint(owned) => {
                let (checkpoint, leaves) = &**owned;
                Ok(Snapshot { leaves: Some(leaves), ..Snapshot::of(checkpoint)? })
            }
        }
    }
}
