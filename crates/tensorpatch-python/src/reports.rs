//! Results that the library has no serializable form of.

use serde::Serialize;
use tensorpatch::StoreError;
use tensorpatch::store::{Commit, LogEntry, Stream, VersionContents, VersionId, VersionKind};

/// A version as its commit record has it.
#[derive(Debug, Serialize)]
pub(crate) struct Tip {
    version: u64,
    commit: String,
    kind: VersionKind,
    #[serde(flatten)]
    contents: VersionContents,
    label: Option<String>,
    publisher: String,
    created: u64,
}

impl Tip {
    fn of(commit: &Commit) -> Self {
        let record = &commit.record;
        Self {
            version: record.version.get(),
            commit: commit.digest.to_string(),
            kind: record.kind(),
            contents: record.contents,
            label: record.label.clone(),
            publisher: record.publisher.clone(),
            created: record.created,
        }
    }
}

impl From<LogEntry> for Tip {
    fn from(entry: LogEntry) -> Self {
        Self {
            version: entry.version.get(),
            commit: entry.commit.to_string(),
            kind: entry.kind,
            contents: entry.contents,
            label: entry.label,
            publisher: entry.publisher,
            created: entry.created,
        }
    }
}

/// The newest version of a stream.
pub(crate) async fn latest(stream: &Stream) -> Result<Option<Tip>, StoreError> {
    Ok(stream.tip().await?.as_ref().map(Tip::of))
}

/// All versions of a stream that it still has.
pub(crate) async fn versions(stream: &Stream) -> Result<Vec<Tip>, StoreError> {
    Ok(stream.log().await?.into_iter().map(Tip::from).collect())
}

/// The version that a directory holds.
#[derive(Debug, Serialize)]
pub(crate) struct Held {
    version: u64,
    commit: String,
    digest: String,
}

impl Held {
    pub(crate) fn of(id: VersionId) -> Self {
        Self { version: id.version.get(), commit: id.commit.to_string(), digest: id.state.to_string() }
    }
}
