//! All versions of a stream as a list, for people and scripts.

use std::collections::BTreeMap;

use serde::Serialize;
use tensorpatch_stream::{Edge, History, ObjectDigest, ObjectRef, Version, VersionContents, VersionKind};

use super::Stream;
use crate::error::StoreError;

impl Stream {
    /// All versions from the first to the tip, as a list for people and scripts.
    ///
    /// # Errors
    /// If the store fails, a record is damaged, or the records are no chain.
    ///
    /// # Cancel safety
    /// The future may be dropped at any time; it only reads.
    pub async fn log(&self) -> Result<Vec<LogEntry>, StoreError> {
        let Some(tip) = self.tip().await? else { return Ok(Vec::new()) };
        self.entries(&self.whole_history(tip.record.version).await?).await
    }

    /// The newest `most` versions, in the order of [`Stream::log`]: for long streams, of which it reads no
    /// more than the versions since the anchor before.
    ///
    /// # Errors
    /// As [`Stream::log`].
    ///
    /// # Cancel safety
    /// The future may be dropped at any time; it only reads.
    pub async fn log_newest(&self, most: u64) -> Result<Vec<LogEntry>, StoreError> {
        let reading = self.reading_once();
        let Some(tip) = reading.tip().await? else { return Ok(Vec::new()) };
        let tip = tip.record.version;
        let first = Version::new(tip.get().saturating_sub(most.saturating_sub(1))).unwrap_or(Version::FIRST);
        let first =
            reading.commit(first).await?.ok_or(StoreError::NoVersion { wanted: first, tip: Some(tip) })?;
        // The length of a chain is known from its anchor on.
        let before = reading.history(None, &first, reading.policy().plans.max_edges).await?;
        let from = before.commits().next().map_or(Version::FIRST, |commit| commit.record.version);
        let mut entries = reading.entries(&reading.history_between(from, tip).await?).await?;
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        entries.drain(..entries.len().saturating_sub(most));
        Ok(entries)
    }

    /// The versions from the first to the tip, as [`Stream::log`] has them; where a record between them is
    /// lost or damaged, those from the first anchor after it on, and what is wrong with the record.
    ///
    /// # Errors
    /// As [`Stream::log`]; for a record between the versions only if there is no anchor after it.
    ///
    /// # Cancel safety
    /// The future may be dropped at any time; it only reads.
    pub async fn log_readable(&self) -> Result<(Vec<LogEntry>, Option<StoreError>), StoreError> {
        let reading = self.reading_once();
        let Some(tip) = reading.tip().await? else { return Ok((Vec::new(), None)) };
        let tip = tip.record.version;
        let (history, lost) = reading.readable_history(tip).await?;
        let mut entries = reading.entries(&history).await?;
        let Some(lost) = lost else { return Ok((entries, None)) };
        // How long a chain is, and whether it leads anywhere, is known from its anchor on.
        let Some(anchored) = entries.iter().position(|entry| entry.anchored) else { return Err(lost) };
        entries.drain(..anchored);
        Ok((entries, Some(lost)))
    }

    async fn entries(&self, history: &History) -> Result<Vec<LogEntry>, StoreError> {
        let floor = self.pruned().await?;
        // Only where something was collected, and a pin may have kept some of it.
        let left = if floor.is_some() { Some(self.data_objects().await?) } else { None };
        let is_gone = |object: &ObjectRef| left.as_ref().is_some_and(|left| !left.contains_key(&object.key));
        let mut edges: BTreeMap<Version, Vec<&Edge>> = BTreeMap::new();
        for edge in history.edges() {
            edges.entry(edge.target.version).or_default().push(edge);
        }
        let mut entries: Vec<LogEntry> = Vec::new();
        for commit in history.commits() {
            let record = &commit.record;
            let edges = edges.get(&record.version).map(Vec::as_slice).unwrap_or_default();
            let anchors: Vec<u64> =
                edges.iter().filter(|edge| edge.is_anchor()).map(|edge| edge.bytes()).collect();
            let delta_bytes =
                record.delta.as_ref().map(|delta| delta.patches.iter().map(|p| p.object.bytes).sum());
            let is_below = floor.is_some_and(|floor| record.version < floor);
            let collected = is_below
                && !edges.is_empty()
                && edges.iter().all(|edge| edge.all_objects().into_iter().any(is_gone));
            let chain = entries.last().map_or(0, |entry| entry.chain_bytes);
            entries.push(LogEntry {
                version: record.version,
                commit: commit.digest,
                contents: record.contents,
                kind: record.kind(),
                bytes: delta_bytes.or(anchors.first().copied()).unwrap_or(0),
                anchored: !anchors.is_empty(),
                anchor_bytes: anchors.first().copied(),
                collected,
                folded_from: edges
                    .iter()
                    .filter_map(|edge| edge.base().map(|base| base.version))
                    .filter(|base| Some(*base) != record.delta.as_ref().map(|delta| delta.base.version))
                    .collect(),
                chain_bytes: match delta_bytes {
                    Some(bytes) if anchors.is_empty() => chain.saturating_add(bytes),
                    _ => 0,
                },
                changed_elements: record.delta.as_ref().map(|delta| delta.changed_elements),
                total_elements: record.delta.as_ref().map(|delta| delta.total_elements),
                created: record.created,
                publisher: record.publisher.clone(),
                signer: commit.signer.map(|key| key.to_string()),
                label: record.label.clone(),
            });
        }
        Ok(entries)
    }
}

/// One version in a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LogEntry {
    /// The number.
    pub version: Version,
    /// The digest of the commit record.
    pub commit: ObjectDigest,
    /// What the version is.
    #[serde(flatten)]
    pub contents: VersionContents,
    /// What the version was published as.
    pub kind: VersionKind,
    /// Bytes that the version was published as.
    pub bytes: u64,
    /// Whether there is an anchor of the version.
    pub anchored: bool,
    /// Bytes of the files of that anchor.
    pub anchor_bytes: Option<u64>,
    /// Whether a collector has removed what leads to the version.
    pub collected: bool,
    /// The versions from which a fold leads to this one.
    pub folded_from: Vec<Version>,
    /// Bytes of the deltas since the last anchor.
    pub chain_bytes: u64,
    /// Elements that changed; none for an anchor.
    pub changed_elements: Option<u64>,
    /// Elements of all tensors, where it is known.
    pub total_elements: Option<u64>,
    /// Seconds since 1970 by the publisher's clock.
    pub created: u64,
    /// Who published it.
    pub publisher: String,
    /// The public key that has signed its record, trusted or not.
    pub signer: Option<String>,
    /// The publisher's own mark.
    pub label: Option<String>,
}
