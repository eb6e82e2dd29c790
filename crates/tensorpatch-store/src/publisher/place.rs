//! Where the stream of a baseline was published to last: versions that are published to a copy of it by
//! mistake would fork its history.

use std::path::Path;

use serde::{Deserialize, Serialize};
use tensorpatch_stream::StreamId;

use super::Publisher;
use crate::error::StoreError;
use crate::local::{self, blocking};
use crate::replica::directory::{HIDDEN, ReplicaDir};
use crate::stream::Stream;

/// Room for a long path.
const MAX_BYTES: u64 = 1 << 16;

/// Kept beside the baseline. Where it is lost or damaged, nothing is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    stream: StreamId,
    place: String,
}

impl Publisher {
    /// Refuses a place that is not the one to which the stream was published from this baseline. A caller who
    /// names the stream by its id says that it is meant.
    pub(super) async fn check_place(&self, directory: &ReplicaDir) -> Result<(), StoreError> {
        let Some(here) = Place::of(&self.stream).filter(|_| !self.stream.is_expected_by_id()) else {
            return Ok(());
        };
        let at = directory.clone();
        let known = blocking(move || Place::kept_in(&at)).await?;
        match known.filter(|known| known.stream == here.stream && known.place != here.place) {
            Some(Place { stream, place }) => {
                Err(StoreError::Moved { place: here.place, stream, known: place })
            }
            None => Ok(()),
        }
    }

    /// Notes where a version was published. It is published, so a failure is told and is no failure of the
    /// caller's.
    pub(super) async fn note_place(&self, directory: &ReplicaDir) {
        let Some(here) = Place::of(&self.stream) else { return };
        let at = directory.clone();
        let noted = blocking(move || {
            if Place::kept_in(&at)?.as_ref() == Some(&here) {
                return Ok(());
            }
            let bytes = serde_json::to_vec(&here).map_err(|error| StoreError::Task(error.to_string()))?;
            local::write_unsynced(&at.place(), &bytes)
        });
        if let Err(error) = noted.await {
            tracing::warn!("the place of the stream could not be noted: {error}");
        }
    }
}

impl Place {
    fn of(stream: &Stream) -> Option<Self> {
        Some(Self { stream: stream.id(), place: stream.bucket().settled_place()? })
    }

    /// What is noted in a baseline that is locked.
    fn kept_in(baseline: &ReplicaDir) -> Result<Option<Self>, StoreError> {
        let noted = local::read_own(&baseline.place(), MAX_BYTES)?;
        Ok(noted.and_then(|noted| serde_json::from_slice(&noted).ok()))
    }

    /// What is noted in a baseline, if anything that can be read is.
    fn noted_in(baseline: &Path) -> Option<Self> {
        let file = baseline.join(HIDDEN).join(ReplicaDir::PLACE);
        serde_json::from_slice(&local::read_file(&file, MAX_BYTES).ok().flatten()?).ok()
    }
}

/// Warns where another stream was published to before than the one that is there, by what is noted beside
/// `baseline`, from which nothing was published yet: a mount may be missing, so that a new stream began.
pub(super) async fn warn_of_another(stream: &Stream, baseline: &Path) -> Result<(), StoreError> {
    let (Some(here), Some(baselines)) = (Place::of(stream), baseline.parent()) else { return Ok(()) };
    let (baseline, baselines) = (baseline.to_owned(), baselines.to_owned());
    let before = blocking(move || {
        if Place::noted_in(&baseline).is_some() {
            return Ok(None);
        }
        let Ok(entries) = std::fs::read_dir(&baselines) else { return Ok(None) };
        let mut notes = entries.flatten().filter_map(|entry| Place::noted_in(&entry.path()));
        Ok(notes.find(|note| note.place == here.place && note.stream != here.stream))
    });
    if let Some(Place { stream: before, place }) = before.await? {
        tracing::warn!(
            "{place}: this is the stream {}, and another was published to here before, {before}: if its directory \
             is a mount or was moved, bring it back before you go on",
            stream.id()
        );
    }
    Ok(())
}
