//! From one key to the next (spec/stream.md section 4.5).

use bytes::Bytes;
use serde::Serialize;
use tensorpatch_stream::names;
use tensorpatch_stream::trust::{HandoverRecord, MAX_HANDOVER_BYTES, MAX_HANDOVERS};
use tensorpatch_stream::{Commit, Link, Nonce, SignKey, TrustKey, Version};

use super::Stream;
use super::budget::Budget;
use crate::bucket::buffered_all;
use crate::error::StoreError;
use crate::local;

/// The key that a stream is handed over from.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum OldKey {
    /// It is at hand and agrees, so that replicas that trust it go on with the new one.
    Agrees(SignKey),
    /// It is lost, or others have it: replicas must be told the new key.
    Gone(TrustKey),
}

impl OldKey {
    /// The public key.
    pub fn public(&self) -> TrustKey {
        match self {
            Self::Agrees(key) => key.public(),
            Self::Gone(key) => *key,
        }
    }
}

/// A stream that was handed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct HandedOver {
    /// The last version for which the old key counts.
    pub last: Version,
    /// The old key.
    pub from: String,
    /// The key that signs from then on.
    pub to: String,
    /// Whether replicas that trust the old key go on without being told.
    pub agreed: bool,
}

impl Stream {
    /// Lets `new` sign the versions after `last`, or after the tip, in the place of `old`, which counts no
    /// more for them.
    ///
    /// The stream must be read with `old` trusted. Records that somebody else has signed with `old` above
    /// `last` are then refused, and stop everybody until they are removed from the bucket.
    ///
    /// # Errors
    /// If the stream has no such version, or the store fails.
    ///
    /// # Cancel safety
    /// The future may be dropped at any time; the stream is then handed over or not.
    pub async fn hand_over(
        &self,
        old: &OldKey,
        new: &SignKey,
        last: Option<Version>,
    ) -> Result<HandedOver, StoreError> {
        let commit = match last {
            None => self.tip().await?,
            Some(version) => self.commit(version).await?,
        };
        let none = || last.map_or(StoreError::Empty, |wanted| StoreError::NoVersion { wanted, tip: None });
        let Commit { record, digest, .. } = commit.ok_or_else(none)?;
        let agreed = match old {
            OldKey::Agrees(key) => Some(key),
            OldKey::Gone(_) => None,
        };
        let from = old.public();
        let handover = HandoverRecord {
            stream: self.id(),
            created: local::unix_now(),
            from,
            to: new.public(),
            last: Link { version: record.version, commit: digest },
            consent: None,
        };
        let name = names::handover(record.version, Nonce::random());
        let bytes = handover
            .to_signed_bytes(new, agreed)
            .map_err(|source| StoreError::Record { name: name.clone(), source })?;
        self.bucket().put(&name, bytes.into()).await?;
        Ok(HandedOver {
            last: record.version,
            from: from.to_string(),
            to: new.public().to_string(),
            agreed: agreed.is_some(),
        })
    }

    /// The handovers of the stream that are any; others are none of its business.
    pub(super) async fn handovers(&self) -> Result<Vec<HandoverRecord>, StoreError> {
        let read = self.handover_records().await?;
        Ok(read.iter().filter_map(|(_, bytes)| HandoverRecord::read(bytes, self.id()).ok()).collect())
    }

    /// The names and bytes of these records.
    pub(crate) async fn handover_records(&self) -> Result<Vec<(String, Bytes)>, StoreError> {
        let listed = self.bucket().list(names::HANDOVERS, None).await?;
        if listed.len() > MAX_HANDOVERS {
            return Err(StoreError::Damaged {
                name: names::HANDOVERS.into(),
                what: format!("it has {} objects: at most {MAX_HANDOVERS} are read", listed.len()),
            });
        }
        let read = buffered_all(listed, self.policy().transfers.parallel_requests, |object| async move {
            let name = format!("{}/{}", names::HANDOVERS, object.name);
            let bytes = match self.bucket().get_small(&name, MAX_HANDOVER_BYTES).await {
                Err(StoreError::Damaged { .. }) => None,
                result => result?,
            };
            let bytes = bytes.filter(|bytes| HandoverRecord::read(bytes, self.id()).is_ok());
            if bytes.is_none() {
                tracing::warn!("{name} is no handover of the stream, and is passed over");
            }
            Ok(bytes.map(|bytes| (name, bytes)))
        });
        Ok(read.await?.into_iter().flatten().collect())
    }

    /// Checks that the version of `commit` is one that the key after the one that signed it has seen: whoever
    /// has an old key may sign other old versions.
    pub(crate) async fn check_endorsed(&self, commit: &Commit) -> Result<(), StoreError> {
        let version = commit.record.version;
        // That one itself is known by its digest wherever it is read.
        let later = |last: &Link| last.version > version;
        let Some(end) = self.trust().lasts().filter(later).min_by_key(|last| last.version) else {
            return Ok(());
        };
        let budget = Budget::of(self);
        let mut below = (version, commit.digest);
        for numbers in super::history::batches(version, end.version) {
            let (first, last) = (numbers.first().copied(), numbers.last().copied());
            let (Some(first), Some(last)) = (first, last) else { continue };
            for next in self.commits(first, last, &budget).await? {
                let number = next.record.version;
                let follows = next.record.previous.is_some_and(|link| (link.version, link.commit) == below);
                if number != version && !follows || number == version && next.digest != commit.digest {
                    let what = format!("it is not on the chain that ends with version {}", end.version);
                    return Err(StoreError::Untrusted { name: names::commit(below.0), what });
                }
                below = (number, next.digest);
            }
        }
        Ok(())
    }
}
