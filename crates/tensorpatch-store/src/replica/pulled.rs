//! What a pull did.

use std::time::Duration;

use serde::{Serialize, Serializer};
use tensorpatch_stream::{Edge, ObjectDigest, StreamId, Version, VersionContents};

/// What a pull did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Pulled {
    /// The stream.
    pub stream: StreamId,
    /// The version that was held before.
    pub from: Option<Version>,
    /// The version that is held now.
    pub to: Version,
    /// The digest of its commit record.
    pub commit: ObjectDigest,
    /// What it is.
    #[serde(flatten)]
    pub contents: VersionContents,
    /// Whether the weights were hashed by this pull. If not, the state file says that they are the version.
    pub verified: bool,
    /// The edges taken.
    pub edges: Vec<PulledEdge>,
    /// Bytes of the objects of the plan.
    pub plan_bytes: u64,
    /// Bytes fetched, companions and repairs included, without what was there already.
    pub downloaded_bytes: u64,
    /// What was not as it was published before, and is again: names of files beside the weights, and what was
    /// wrong with the weights.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub restored: Vec<String>,
    /// What it took.
    #[serde(flatten)]
    pub took: Took,
}

/// One edge that a pull took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PulledEdge {
    /// The version that it led to.
    pub version: Version,
    /// Whether it was an anchor, and not a patch.
    pub anchor: bool,
    /// Bytes of its objects.
    pub bytes: u64,
}

/// How long the parts of a pull took. The version that was held before can be used until the last of them
/// begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct Took {
    /// Until everything was at hand: records read, local files looked at, objects downloaded. Attempts that
    /// failed are part of it.
    #[serde(rename = "fetch_seconds", serialize_with = "as_seconds")]
    pub fetch: Duration,
    /// Until the new version was ready: patches decoded and verified, journals or new files written.
    #[serde(rename = "stage_seconds", serialize_with = "as_seconds")]
    pub stage: Duration,
    /// Until the directory held it: files altered in place or renamed.
    #[serde(rename = "activate_seconds", serialize_with = "as_seconds")]
    pub activate: Duration,
}

pub(super) fn as_seconds<S: Serializer>(took: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(took.as_secs_f64())
}

impl PulledEdge {
    pub(super) fn of(edge: &Edge) -> Self {
        Self { version: edge.target.version, anchor: edge.is_anchor(), bytes: edge.bytes() }
    }
}
