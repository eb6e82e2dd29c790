//! What a caller knows of a stream from elsewhere: its id, and versions that it must have. A bucket can hide
//! what is new, and a signature does not show that.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tensorpatch_stream::{Commit, ObjectDigest, StreamId, Version};

use super::Stream;
use crate::bucket::Bucket;
use crate::error::StoreError;
use crate::local::{self, blocking};

/// The most bytes of a file of [`SignedTip`].
const MAX_BYTES: u64 = 4096;

/// The directory beside the file of a secret key in which [`StreamBuilder::signed_tips`] keeps what was
/// signed with it: `KEY.tips`.
///
/// [`StreamBuilder::signed_tips`]: crate::StreamBuilder::signed_tips
pub fn signed_tips_beside(key: &Path) -> PathBuf {
    let mut name = key.as_os_str().to_owned();
    name.push(".tips");
    name.into()
}

/// What a stream must be, and must have.
#[derive(Debug, Clone, Default)]
pub(crate) struct Expected {
    pub(crate) stream: Option<StreamId>,
    pub(crate) tip: Option<Version>,
    /// The directory in which the newest version is kept that was signed for each stream.
    pub(crate) signed: Option<PathBuf>,
}

/// The newest version that was committed with a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SignedTip {
    /// The version.
    pub version: Version,
    /// The digest of its commit record.
    pub commit: ObjectDigest,
    /// Where the stream was then, if that has a name that lasts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
}

/// What a directory of [`signed_tips_beside`] has: each stream that was signed, and its newest version then.
/// Without the directory, nothing was signed.
///
/// # Errors
/// [`StoreError::SignedTip`] if a file there is damaged, or the directory cannot be read.
pub fn signed_tips_in(dir: &Path) -> Result<BTreeMap<StreamId, SignedTip>, StoreError> {
    let mut tips = BTreeMap::new();
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(tips),
        entries => entries.map_err(|error| StoreError::local(dir, error))?,
    };
    for entry in entries {
        let path = entry.map_err(|error| StoreError::local(dir, error))?.path();
        let stream = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".json")?.parse().ok());
        if let Some(stream) = stream
            && let Some(tip) = read(&path)?
        {
            tips.insert(stream, tip);
        }
    }
    Ok(tips)
}

impl Expected {
    /// What was signed with the key, unless it is known by its id which stream is meant.
    async fn tips_of_unnamed(&self) -> Result<Option<BTreeMap<StreamId, SignedTip>>, StoreError> {
        let (Some(dir), None) = (self.signed.clone(), self.stream) else { return Ok(None) };
        blocking(move || signed_tips_in(&dir)).await.map(Some)
    }

    /// Refuses to create a stream where one was signed: it is hidden, or was removed.
    pub(crate) async fn check_none_signed(&self, bucket: &Bucket) -> Result<(), StoreError> {
        let Some(place) = bucket.settled_place() else { return Ok(()) };
        let tips = self.tips_of_unnamed().await?.unwrap_or_default();
        let signed = tips.into_iter().find(|(_, tip)| tip.place.as_ref() == Some(&place));
        match signed.zip(self.signed.as_ref()) {
            Some(((id, SignedTip { version: known, .. }), dir)) => {
                Err(StoreError::Removed { place, known, note: tip_file(dir, id) })
            }
            None => Ok(()),
        }
    }
}

fn read(path: &Path) -> Result<Option<SignedTip>, StoreError> {
    let Some(bytes) = local::read_file(path, MAX_BYTES)? else { return Ok(None) };
    let tip = serde_json::from_slice(&bytes);
    tip.map(Some).map_err(|error| StoreError::SignedTip { path: path.to_owned(), what: error.to_string() })
}

impl Stream {
    /// Whether whoever opened it has said by its id which stream is meant.
    pub(crate) fn is_expected_by_id(&self) -> bool {
        self.expected.stream.is_some()
    }

    /// Refuses a stream of another id than was asked for.
    pub(crate) fn check_id(&self) -> Result<(), StoreError> {
        match self.expected.stream {
            Some(expected) if expected != self.id() => {
                Err(StoreError::WrongStream { place: self.place(), expected, found: self.id() })
            }
            _ => Ok(()),
        }
    }

    /// Refuses a tip below a version that the stream is known to have had.
    pub(crate) async fn check_tip(&self, tip: Option<&Commit>) -> Result<(), StoreError> {
        let found = tip.map(|tip| tip.record.version);
        let hidden = |known| StoreError::HiddenTip { place: self.place(), known, found };
        // The last version of a key that was handed over exists, too.
        let known = self.expected.tip.into_iter().chain(self.trust().lasts().map(|last| last.version)).max();
        if let Some(known) = known.filter(|known| found < Some(*known)) {
            return Err(hidden(known));
        }
        let Some(signed) = self.signed_tip().await? else { return Ok(()) };
        match tip {
            Some(tip) if tip.record.version > signed.version => match self.commit(signed.version).await? {
                Some(commit) => check_same(&commit, &signed),
                None => Err(hidden(signed.version)),
            },
            Some(tip) if tip.record.version == signed.version => check_same(tip, &signed),
            _ => Err(hidden(signed.version)),
        }
    }

    /// Refuses a stream that was signed with this key in another place, and one where another was signed: who
    /// can write to a bucket can put one stream of a key in the place of another. A caller who names the
    /// stream by its id says that it is meant.
    pub(crate) async fn check_place(&self) -> Result<(), StoreError> {
        let Some(tips) = self.expected.tips_of_unnamed().await? else { return Ok(()) };
        let Some(here) = self.bucket().settled_place() else { return Ok(()) };
        let found = self.id();
        let signed_here =
            |(id, tip): &(&StreamId, &SignedTip)| **id != found && tip.place.as_ref() == Some(&here);
        if let Some((expected, _)) = tips.iter().find(signed_here) {
            return Err(StoreError::WrongStream { place: here, expected: *expected, found });
        }
        match tips.get(&found).and_then(|tip| tip.place.clone()) {
            Some(known) if known != here => Err(StoreError::Moved { place: here, stream: found, known }),
            _ => Ok(()),
        }
    }

    /// The newest version that was committed with the key, as far as that is noted.
    pub(crate) async fn signed_tip(&self) -> Result<Option<SignedTip>, StoreError> {
        let Some(dir) = &self.expected.signed else { return Ok(None) };
        let path = tip_file(dir, self.id());
        blocking(move || read(&path)).await
    }

    /// Remembers a version that was committed with the key. The version is there, so a failure is told and is
    /// no failure of the caller's.
    pub(crate) async fn remember_signed(&self, commit: &Commit) {
        let Some(dir) = self.expected.signed.clone() else { return };
        let tip = self.tip_here(commit.record.version, commit.digest);
        let (told, id) = (dir.display().to_string(), self.id());
        if let Err(error) = blocking(move || remember(&dir, id, &tip, Newer::Stays)).await {
            tracing::warn!("{told}: the version that was signed could not be noted: {error}");
        }
    }

    /// What is to be remembered of a version.
    pub(super) fn tip_here(&self, version: Version, commit: ObjectDigest) -> SignedTip {
        SignedTip { version, commit, place: self.bucket().settled_place() }
    }

    /// Notes that `tip` is the newest version from now on, though a newer one was signed, which is returned:
    /// its owner has given that up.
    pub(crate) async fn forget_signed_after(
        &self,
        tip: Option<&Commit>,
    ) -> Result<Option<Version>, StoreError> {
        let noted = self.signed_tip().await?.map(|signed| signed.version);
        let Some(dir) = self.expected.signed.clone() else { return Ok(None) };
        if noted <= tip.map(|tip| tip.record.version) {
            return Ok(None);
        }
        let (id, tip) = (self.id(), tip.map(|tip| self.tip_here(tip.record.version, tip.digest)));
        blocking(move || match tip {
            Some(tip) => remember(&dir, id, &tip, Newer::Goes),
            None => local::remove(&local::open_root(&dir)?.join(format!("{id}.json"))),
        })
        .await
        .map(|()| noted)
    }
}

/// What becomes of a newer version that is remembered already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Newer {
    /// It stays: several publishers with one key end in any order.
    Stays,
    /// It goes: a key that was handed over counts less far.
    Goes,
}

/// Writes down the newest version of a stream that was signed with the key to which `dir` belongs.
pub(super) fn remember(
    dir: &Path,
    stream: StreamId,
    tip: &SignedTip,
    newer: Newer,
) -> Result<(), StoreError> {
    let root = local::open_root(dir)?;
    // Held until it is dropped. A file system without locks leaves it to the order of things.
    let held = std::fs::File::open(dir).and_then(|held| held.lock().map(|()| held));
    let file = tip_file(dir, stream);
    let known = read(&file).unwrap_or_default();
    if newer == Newer::Stays && known.is_some_and(|known| known.version > tip.version) {
        return Ok(());
    }
    let bytes = serde_json::to_vec(tip).map_err(|error| StoreError::Task(error.to_string()))?;
    let written = local::write_file(&root.join(file.file_name().unwrap_or_default()), &bytes);
    drop(held);
    written
}

fn tip_file(dir: &Path, stream: StreamId) -> PathBuf {
    dir.join(format!("{stream}.json"))
}

fn check_same(commit: &Commit, signed: &SignedTip) -> Result<(), StoreError> {
    if commit.digest == signed.commit {
        return Ok(());
    }
    let what = format!("version {} is not the one that was signed with this key", signed.version);
    Err(StoreError::HistoryRewritten(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_as_signed_does_not_go_back_unless_the_key_counts_less_far() {
        let dir = tempfile::tempdir().unwrap();
        let (dir, id) = (dir.path().join("key.tips"), StreamId::random());
        let note = |version: u64, newer| {
            let commit = ObjectDigest::of(&version.to_le_bytes());
            let tip = SignedTip { version: Version::new(version).unwrap(), commit, place: None };
            remember(&dir, id, &tip, newer).unwrap();
            signed_tips_in(&dir).unwrap()[&id].version.get()
        };
        let noted = [(2, Newer::Stays), (3, Newer::Stays), (2, Newer::Stays), (2, Newer::Goes)];
        assert_eq!(noted.map(|(version, newer)| note(version, newer)), [2, 3, 3, 2]);
    }
}
