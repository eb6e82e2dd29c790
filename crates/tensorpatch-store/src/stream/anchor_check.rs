//! Whether an anchor is the version that its record says, as a replica would find out, without keeping it.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use tensorpatch_checkpoint::SafetensorsHeader;
use tensorpatch_format::{FileLayout, Layout, Limits};
use tensorpatch_stream::{Anchor, Commit, ObjectRef};

use super::Stream;
use crate::bucket::buffered_all;
use crate::error::StoreError;
use crate::observe::Observer;

impl Stream {
    /// Reads all objects of an anchor of `commit` and compares them with their digests. What nobody has
    /// signed whose key still counts is also hashed as a checkpoint: the record may speak of objects that are
    /// there, and are something else. Whoever has found an old key can sign such records for old versions.
    pub(crate) async fn check_anchor(&self, commit: &Commit, anchor: &Anchor) -> Result<(), StoreError> {
        let observer = Observer::default();
        buffered_all(anchor.objects(), self.policy().transfers.parallel_downloads, |object| {
            self.bucket().check_contents(object, &observer)
        })
        .await?;
        let version = commit.record.version;
        if self.trusts_keys() && self.trust().lasts().all(|last| last.version < version) {
            return Ok(());
        }
        let limits = Limits::default();
        let reader = self.ranges_from(commit, anchor, &[], &limits).await?;
        let chunks: Vec<_> = reader.schema().grid().collect();
        // Some at a time: a model has millions of chunks.
        futures::stream::iter(chunks)
            .map(|address| reader.read_chunk(address))
            .buffer_unordered(self.policy().transfers.parallel_requests.max(1))
            .try_for_each(|_| std::future::ready(Ok(())))
            .await?;
        self.check_anchor_layout(commit, anchor, &limits).await
    }

    async fn check_anchor_layout(
        &self,
        commit: &Commit,
        anchor: &Anchor,
        limits: &Limits,
    ) -> Result<(), StoreError> {
        let differs = |what: String| StoreError::PatchDiffers { version: commit.record.version, what };
        let (mut files, mut index) = (Vec::new(), None);
        for file in &anchor.files {
            if file.name == Layout::INDEX_FILE {
                index = Some(
                    self.beginning(&file.object, limits.header_bytes.min(file.object.bytes)).await?.to_vec(),
                );
            } else if file.name.ends_with(".safetensors") {
                let head = self.beginning(&file.object, 8).await?;
                let len = head.first_chunk::<8>().map_or(0, |len| u64::from_le_bytes(*len).saturating_add(8));
                let header =
                    self.beginning(&file.object, len.min(limits.header_bytes.saturating_add(8))).await?;
                SafetensorsHeader::parse(&header, limits).map_err(|error| differs(error.to_string()))?;
                files.push(FileLayout { name: file.name.clone(), header: header.to_vec() });
            }
        }
        let found = Layout::new(files, index).map_err(|error| differs(error.to_string()))?.digest();
        let expected = commit.record.contents.layout;
        if found == expected {
            return Ok(());
        }
        Err(differs(format!("the layout of its anchor is {found}, the commit says {expected}")))
    }

    async fn beginning(&self, object: &ObjectRef, len: u64) -> Result<Bytes, StoreError> {
        self.bucket().get_range(object.key.as_str(), 0..len).await
    }
}
