//! Results that the library has no serializable form of.

use serde::Serialize;
use tensorpatch::store::{Commit, VersionContents, VersionId, VersionKind};

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
    pub(crate) fn of(commit: &Commit) -> Self {
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
