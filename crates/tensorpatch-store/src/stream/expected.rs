//! What a caller knows of a stream from elsewhere: its id, and versions that it must have. A bucket can hide
//! what is new, and a signature does not show that.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tensorpatch_stream::{Commit, ObjectDigest, StreamId, Version};

use super::Stream;
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SignedTip {
    /// The version.
    pub version: Version,
    /// The digest of its commit record.
    pub commit: ObjectDigest,
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
    fn signed_file(&self, stream: StreamId) -> Option<PathBuf> {
        Some(self.signed.as_ref()?.join(format!("{stream}.json")))
    }
}

fn read(path: &Path) -> Result<Option<SignedTip>, StoreError> {
    let Some(bytes) = local::read_file(path, MAX_BYTES)? else { return Ok(None) };
    let tip = serde_json::from_slice(&bytes);
    tip.map(Some).map_err(|error| StoreError::SignedTip { path: path.to_owned(), what: error.to_string() })
}

impl Stream {
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
        let Some(path) = self.expected.signed_file(self.id()) else { return Ok(()) };
        let Some(signed) = blocking(move || read(&path)).await? else { return Ok(()) };
        match tip {
            Some(tip) if tip.record.version > signed.version => match self.commit(signed.version).await? {
                Some(commit) => check_same(&commit, signed),
                None => Err(hidden(signed.version)),
            },
            Some(tip) if tip.record.version == signed.version => check_same(tip, signed),
            _ => Err(hidden(signed.version)),
        }
    }

    /// Remembers a version that was committed with the key. The version is there, so a failure is told and is
    /// no failure of the caller's.
    pub(crate) async fn remember_signed(&self, commit: &Commit) {
        let Some(path) = self.expected.signed_file(self.id()) else { return };
        let tip = SignedTip { version: commit.record.version, commit: commit.digest };
        let kept = path.clone();
        let written = blocking(move || {
            let (dir, name) = (kept.parent().unwrap_or(&kept), kept.file_name().unwrap_or_default());
            let bytes = serde_json::to_vec(&tip).map_err(|error| StoreError::Task(error.to_string()))?;
            local::write_file(&local::open_root(dir)?.join(name), &bytes)
        });
        if let Err(error) = written.await {
            tracing::warn!("{}: the version that was signed could not be noted: {error}", path.display());
        }
    }
}

fn check_same(commit: &Commit, signed: SignedTip) -> Result<(), StoreError> {
    if commit.digest == signed.commit {
        return Ok(());
    }
    let what = format!("version {} is not the one that was signed with this key", signed.version);
    Err(StoreError::HistoryRewritten(what))
}
