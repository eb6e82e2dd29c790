//! Repairing a replica whose files were damaged: only the chunks that are wrong are fetched.

use std::sync::Arc;

use tensorpatch_checkpoint::{Checkpoint, CheckpointPatcher};
use tensorpatch_delta::{LeafTable, Progress, State};
use tensorpatch_format::{CHUNK_BYTES, ChunkAddress};

use super::directory::{Condition, InstalledVersion, LocalState, ReplicaDir};
use super::{Replica, install};
use crate::error::StoreError;
use crate::local::blocking;
use crate::stream::range_reader::RangeReader;

impl Replica {
    /// Makes the files the version that they were once more, if that takes less than all of them; `None` if
    /// an anchor must do it. Beside it the bytes that were fetched.
    ///
    /// The state file says `damaged` until the files have been hashed again, so that a crash on the way costs
    /// only time.
    pub(super) async fn repair(
        &self,
        directory: &ReplicaDir,
        was: &InstalledVersion,
    ) -> Result<(Option<InstalledVersion>, u64), StoreError> {
        let mut fetched = 0;
        match self.try_repair(directory, was, &mut fetched).await {
            Ok(true) => {
                let (directory, held) = (directory.clone(), was.clone());
                let state = LocalState { stream: self.stream.id(), condition: Condition::Held(held) };
                blocking(move || directory.save(&state)).await?;
                Ok((Some(was.clone()), fetched))
            }
            Ok(false) => Ok((None, fetched)),
            Err(error) if error.is_transient() => Err(error),
            Err(error) => {
                tracing::warn!(
                    "the damaged files cannot be repaired chunk by chunk, they are replaced: {error}"
                );
                Ok((None, fetched))
            }
        }
    }

    async fn try_repair(
        &self,
        directory: &ReplicaDir,
        was: &InstalledVersion,
        fetched: &mut u64,
    ) -> Result<bool, StoreError> {
        let Some(commit) = self.stream.commit(was.id.version).await? else { return Ok(false) };
        if commit.id() != was.id {
            return Ok(false);
        }
        let ranges = Arc::new(self.stream.range_reader(&commit, &self.options.apply.limits).await?);
        let Some((patcher, damaged)) = self.find_damage(directory, &ranges).await? else { return Ok(false) };
        tracing::info!("{} damaged chunks are fetched again", damaged.len());
        let patcher = Arc::new(patcher);
        for address in damaged {
            let bytes = ranges.read_chunk(address).await?;
            let patcher = Arc::clone(&patcher);
            let offset = u64::from(address.chunk.0).saturating_mul(CHUNK_BYTES as u64);
            directory.blocking(move || Ok(patcher.write(address.tensor, offset, &bytes)?)).await?;
            *fetched = ranges.fetched_bytes();
        }
        let (directory, options, id) = (directory.clone(), self.options.apply.clone(), was.id);
        blocking(move || {
            patcher.sync()?;
            drop(patcher);
            let found = install::examine(&directory.path(), id.state.leaf_hash, &options)?;
            Ok(found.is_some_and(|found| found.state == id.state && found.layout == id.layout))
        })
        .await
    }

    /// The chunks that differ, and what writes them; `None` if so much is wrong that a new copy is cheaper,
    /// or nothing can be written.
    async fn find_damage(
        &self,
        directory: &ReplicaDir,
        ranges: &Arc<RangeReader>,
    ) -> Result<Option<(CheckpointPatcher, Vec<ChunkAddress>)>, StoreError> {
        let (directory, options, ranges) =
            (directory.clone(), self.options.apply.clone(), Arc::clone(ranges));
        blocking(move || {
            let checkpoint = Checkpoint::open(&directory.path(), &options.limits)?;
            if checkpoint.schema() != ranges.schema() {
                return Ok(None);
            }
            let state = State::of(&checkpoint)?;
            let leaves = LeafTable::of(&state, options.leaf_hash, options.threads, Progress::none())?;
            let differs = |address: &ChunkAddress| leaves.get(*address) != ranges.leaf(*address);
            let damaged: Vec<ChunkAddress> = checkpoint.schema().grid().filter(differs).collect();
            let half = checkpoint.schema().chunk_count().div_euclid(2);
            if damaged.len() as u64 > half.max(1) {
                return Ok(None);
            }
            // The lock of the replica keeps others away.
            Ok(Some((CheckpointPatcher::open(&checkpoint, None)?, damaged)))
        })
        .await
    }
}
