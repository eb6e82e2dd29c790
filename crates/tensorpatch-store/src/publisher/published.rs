//! What publishing reports.

use serde::Serialize;
use tensorpatch_checkpoint::LeftOut;
use tensorpatch_stream::{Commit, ObjectDigest, StreamId, Version, VersionContents, VersionKind};

use super::anchor_policy::AnchorAdded;

/// A version that was published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Published {
    /// The stream.
    pub stream: StreamId,
    /// The number.
    pub version: Version,
    /// The digest of the commit record.
    pub commit: ObjectDigest,
    /// The version that it is a patch to.
    pub base: Option<Version>,
    /// What it was published as.
    pub kind: VersionKind,
    /// What it is.
    #[serde(flatten)]
    pub contents: VersionContents,
    /// Bytes of its own objects that were uploaded.
    pub bytes: u64,
    /// Elements that changed; none for an anchor.
    pub changed_elements: Option<u64>,
    /// Elements of all tensors; none for an anchor.
    pub total_elements: Option<u64>,
    /// Whether it was published already, by an attempt whose end was not seen.
    pub resumed: bool,
    /// Whether it was not published, since the newest version, which this is then, is the same.
    pub unchanged: bool,
    /// The files beside the weights that it has.
    pub companions: Vec<String>,
    /// What of the checkpoint it does not have.
    pub left_out: Vec<LeftOut>,
    /// The anchor of the version that was added, if one was due.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anchor: Option<AnchorAdded>,
    /// Why the anchor that was due could not be added. The next version tries again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anchor_error: Option<String>,
}

impl Published {
    pub(crate) fn of(commit: &Commit, bytes: u64, resumed: bool) -> Self {
        let record = &commit.record;
        let delta = record.delta.as_ref();
        Self {
            stream: record.stream,
            version: record.version,
            commit: commit.digest,
            base: delta.map(|delta| delta.base.version),
            kind: record.kind(),
            contents: record.contents,
            bytes,
            changed_elements: delta.map(|delta| delta.changed_elements),
            total_elements: delta.map(|delta| delta.total_elements),
            resumed,
            unchanged: false,
            companions: record.companions.iter().map(|companion| companion.name.clone()).collect(),
            left_out: Vec::new(),
            anchor: None,
            anchor_error: None,
        }
    }
}
