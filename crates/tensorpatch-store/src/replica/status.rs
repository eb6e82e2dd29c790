//! How a replica stands against its stream, without altering either.

use std::path::Path;

use serde::Serialize;
use tensorpatch_stream::{StreamId, Version};

use super::directory::{Condition, InstalledVersion, LocalState, first_entry, read_state};
use super::verify::{Fault, missing_files};
use super::{check_held, lease_id};
use crate::error::StoreError;
use crate::local::{self, blocking};
use crate::stream::Stream;
use crate::stream::lease::ReplicaLease;

/// How a directory stands against its stream; made by [`Stream::status_of`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ReplicaStatus {
    /// The stream.
    pub stream: StreamId,
    /// What the files are, by the state file.
    pub condition: ReplicaCondition,
    /// The version that is held; none if the directory holds nothing, or only part of a version.
    pub held: Option<Version>,
    /// Files of the version that are not there, or have another length: then it is not held.
    pub faults: Vec<Fault>,
    /// The newest version of the stream.
    pub tip: Option<Version>,
    /// How many versions the newest is ahead.
    pub behind_versions: u64,
    /// Bytes of the patches or of the anchor that lead there; none if no way does.
    pub behind_bytes: Option<u64>,
    /// Why no way leads to the newest version.
    pub obstacle: Option<String>,
    /// When the newest version was published, in seconds since 1970 by its publisher's clock.
    pub tip_created: Option<u64>,
    /// How long ago that was, by the clocks of its publisher and of this machine.
    pub tip_age_seconds: Option<u64>,
    /// The lease of the holder that was asked for, if there is one.
    pub lease: Option<ReplicaLease>,
}

/// What the files of a replica are, by its state file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ReplicaCondition {
    /// No replica yet.
    Empty,
    /// Files of which nothing is noted: the state file is damaged or gone, or no pull has put them there.
    /// The next pull finds out from the weights which version they are.
    Unknown,
    /// A version.
    Held,
    /// Between two versions: an update is under way or was interrupted; the next pull completes it.
    Updating,
    /// Found to be no version any more, now or before; the next pull restores it.
    Damaged,
}

impl Stream {
    /// How the replica in `dir` stands against this stream, and the lease of `holder`. It reads the state
    /// file of the replica, the headers of its files and records of the stream, and neither waits for nor
    /// alters anything.
    ///
    /// # Errors
    /// [`StoreError::AnotherStream`] if it is a replica of another; [`StoreError::PlaceBehind`] if the place
    /// does not have the version that is held, [`StoreError::HistoryRewritten`] if it has another of its
    /// number; or if the store fails.
    ///
    /// # Cancel safety
    /// The future may be dropped at any time; it only reads.
    pub async fn status_of(
        &self,
        dir: impl AsRef<Path>,
        holder: Option<&str>,
    ) -> Result<ReplicaStatus, StoreError> {
        let path = dir.as_ref().to_owned();
        let (state, faults, is_empty) = blocking(move || {
            let (state, faults) = state_and_faults(&path)?;
            let is_empty = state.is_none() && (!path.exists() || first_entry(&path)?.is_none());
            Ok((state, faults, is_empty))
        })
        .await?;
        if let Some(state) = &state {
            state.check_stream(self.id(), dir.as_ref())?;
        }
        let (condition, held) = match state.map(|state| state.condition) {
            None if is_empty => (ReplicaCondition::Empty, None),
            None => (ReplicaCondition::Unknown, None),
            Some(Condition::Held(_)) if !faults.is_empty() => (ReplicaCondition::Damaged, None),
            Some(Condition::Held(InstalledVersion { id, .. })) => (ReplicaCondition::Held, Some(id)),
            Some(Condition::Applying { .. } | Condition::Switching { .. }) => {
                (ReplicaCondition::Updating, None)
            }
            Some(Condition::Damaged { .. }) => (ReplicaCondition::Damaged, None),
        };
        let reading = self.reading_once();
        let tip = reading.tip_for(held.map(|held| held.version)).await?;
        if let Some(held) = held {
            check_held(&reading, dir.as_ref(), held.version, held.commit).await?;
        }
        let (behind_bytes, obstacle) = match &tip {
            None => (None, None),
            Some(tip) => match reading.plan_to(held, tip, &Default::default(), false).await {
                Ok((_, plan)) => (Some(plan.bytes()), None),
                Err(error @ StoreError::Plan(_)) => (None, Some(error.to_string())),
                Err(error) => return Err(error),
            },
        };
        let lease = match holder {
            Some(holder) => self.replica_lease(&lease_id(holder)).await?,
            None => None,
        };
        let held = held.map(|held| held.version);
        let tip_created = tip.as_ref().map(|tip| tip.record.created);
        let tip = tip.map(|tip| tip.record.version);
        Ok(ReplicaStatus {
            stream: self.id(),
            condition,
            held,
            faults,
            tip,
            behind_versions: tip.map_or(0, Version::get).saturating_sub(held.map_or(0, Version::get)),
            behind_bytes,
            obstacle,
            tip_created,
            tip_age_seconds: tip_created.map(|created| local::unix_now().saturating_sub(created)),
            lease,
        })
    }
}

/// What the state file of a replica says, and which files of a version that it holds are not there with their
/// lengths. The replica may be brought to another version meanwhile: then it is looked at again.
fn state_and_faults(dir: &Path) -> Result<(Option<LocalState>, Vec<Fault>), StoreError> {
    const LOOKS: usize = 3;
    let mut state = read_state(dir)?;
    for _ in 0..LOOKS {
        let Some(LocalState { condition: Condition::Held(held), .. }) = &state else { break };
        let faults = missing_files(dir, held)?;
        let now = read_state(dir)?;
        if now == state {
            return Ok((state, faults));
        }
        state = now;
    }
    Ok((state, Vec::new()))
}
