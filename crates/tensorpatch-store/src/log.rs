//! All versions of a stream as a list, for people and scripts.

use serde::Serialize;
use tensorpatch_format::TaggedStateDigest;

use crate::digest::ObjectDigest;
use crate::error::StoreError;
use crate::names::Version;
use crate::plan::History;
use crate::record::DeltaKind;
use crate::stream::Stream;

impl Stream {
    /// All versions from the first to the tip, as a list for people and scripts.
    ///
    /// # Errors
    /// If the store fails, a record is damaged, or the records are no chain.
    pub async fn log(&self) -> Result<Vec<LogEntry>, StoreError> {
        let Some(tip) = self.tip().await? else { return Ok(Vec::new()) };
        let commits = self.commits(Version::FIRST, tip.record.version).await?;
        let edges = self.edges(Version::FIRST, tip.record.version).await?;
        let history = History::new(commits, edges)?;
        let mut entries: Vec<LogEntry> = Vec::new();
        for commit in history.commits() {
            let record = &commit.record;
            let anchors: Vec<u64> = history
                .anchors()
                .filter(|step| step.target.version == record.version)
                .map(|step| step.way.bytes())
                .collect();
            let delta_bytes =
                record.delta.as_ref().map(|delta| delta.parts.iter().map(|p| p.object.bytes).sum());
            let chain = entries.last().map_or(0, |entry| entry.chain_bytes);
            entries.push(LogEntry {
                version: record.version,
                commit: commit.digest,
                digest: record.state,
                kind: match &record.delta {
                    None => LogKind::Anchor,
                    Some(delta) if delta.kind == DeltaKind::Empty => LogKind::Empty,
                    Some(_) => LogKind::Delta,
                },
                bytes: delta_bytes.or(anchors.first().copied()).unwrap_or(0),
                anchored: !anchors.is_empty(),
                chain_bytes: match delta_bytes {
                    Some(bytes) if anchors.is_empty() => chain.saturating_add(bytes),
                    _ => 0,
                },
                changed_elements: record.delta.as_ref().map(|delta| delta.changed_elements),
                total_elements: record.delta.as_ref().map(|delta| delta.total_elements),
                state_bytes: record.state_bytes,
                created: record.created,
                publisher: record.publisher.clone(),
                label: record.label.clone(),
            });
        }
        Ok(entries)
    }
}

/// What made a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogKind {
    /// A whole checkpoint.
    Anchor,
    /// A patch.
    Delta,
    /// A patch that changes nothing.
    Empty,
}

/// One version in a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogEntry {
    /// The number.
    pub version: Version,
    /// The digest of the commit record.
    pub commit: ObjectDigest,
    /// The state.
    #[serde(with = "crate::digest::text")]
    pub digest: TaggedStateDigest,
    /// What the version was published as.
    pub kind: LogKind,
    /// Bytes that the version was published as.
    pub bytes: u64,
    /// Whether there is an anchor of the version.
    pub anchored: bool,
    /// Bytes of the deltas since the last anchor.
    pub chain_bytes: u64,
    /// Elements that changed; none for an anchor.
    pub changed_elements: Option<u64>,
    /// Elements of all tensors, where it is known.
    pub total_elements: Option<u64>,
    /// Bytes of all tensors.
    pub state_bytes: u64,
    /// Seconds since 1970 by the publisher's clock.
    pub created: u64,
    /// Who published it.
    pub publisher: String,
    /// The publisher's own mark.
    pub label: Option<String>,
}
