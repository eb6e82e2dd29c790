//! From one key to the next (spec/stream.md section 4.5).

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tensorpatch_stream::names;
use tensorpatch_stream::sign::signed_by;
use tensorpatch_stream::trust::{HandoverRecord, MAX_HANDOVER_BYTES, MAX_HANDOVERS};
use tensorpatch_stream::{Commit, JsonRecord, Link, Nonce, SignKey, StreamRecord, TrustKey, Version};

use super::budget::Budget;
use super::expected::{Newer, remember};
use super::{Stream, read_bytes};
use crate::bucket::buffered_all;
use crate::error::StoreError;
use crate::local::{self, blocking};

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

/// What a stream says of a key that it was handed over to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Handover {
    /// The last version for which the old key counts.
    pub last: Version,
    /// The old public key.
    pub from: String,
    /// The new public key.
    pub to: String,
    /// Whether the old key has agreed, so that readers that trust it go on with the new one.
    pub agreed: bool,
}

/// The key that a stream is handed over to.
#[derive(Debug, Clone)]
#[must_use]
pub struct NewKey {
    key: SignKey,
    signed: Option<PathBuf>,
}

impl From<SignKey> for NewKey {
    fn from(key: SignKey) -> Self {
        Self { key, signed: None }
    }
}

impl From<&SignKey> for NewKey {
    fn from(key: &SignKey) -> Self {
        key.clone().into()
    }
}

impl NewKey {
    /// Keeps in the directory `dir`, which belongs to the key, the version after which it signs, as
    /// [`StreamBuilder::signed_tips`] does for those that it has signed.
    ///
    /// [`StreamBuilder::signed_tips`]: crate::StreamBuilder::signed_tips
    pub fn with_signed_tips(mut self, dir: impl Into<PathBuf>) -> Self {
        self.signed = Some(dir.into());
        self
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
    /// The newest version above `last`, if there is one. Nobody goes on until those that the old key has
    /// signed there are taken back ([`roll_back_unsigned`](crate::upkeep::roll_back_unsigned)).
    pub beyond: Option<Version>,
}

/// How long a handover waits for what may be signed by who has not seen it, which is within two seconds of
/// having looked: a version is committed in far less than the one beyond.
const SETTLES_WITHIN: Duration = Duration::from_secs(3);
/// How often a stream is handed over again because a version was published meanwhile.
const MAX_ATTEMPTS: usize = 8;

impl Stream {
    /// Lets `new` sign the versions after `last`, or after the tip, in the place of `old`, which counts no
    /// more for them. Where `old` agrees, this waits some seconds for publishers that do not know yet: what
    /// they sign meanwhile still counts.
    ///
    /// The stream must be read with `old` trusted. Records that somebody else has signed with `old` above
    /// `last` are then refused, and stop everybody until they are removed from the bucket.
    ///
    /// # Errors
    /// If the stream has no such version, or hides one that is known; [`StoreError::RetiredKey`] if `old`
    /// agrees and was handed over to another key, [`StoreError::UsedKey`] if `new` counted for the stream
    /// before; or if the store fails.
    ///
    /// # Cancel safety
    /// The future may be dropped at any time; the stream is then handed over or not.
    pub async fn hand_over(
        &self,
        old: &OldKey,
        new: impl Into<NewKey>,
        last: Option<Version>,
    ) -> Result<HandedOver, StoreError> {
        let NewKey { key: new, signed } = new.into();
        let done = self.check_successor(old, new.public()).await?;
        let mut attempts = 0_usize;
        let (at, beyond) = loop {
            attempts = attempts.saturating_add(1);
            if let Some(done) = done.filter(|done| last.is_none_or(|last| last == done.version)) {
                break (done, None);
            }
            // Also where another is named: of a stream that hides its newest version nothing is signed.
            let tip = self.tip().await?;
            let newest = tip.as_ref().map(|tip| tip.record.version);
            let commit = match last {
                None => tip,
                Some(version) => self.commit(version).await?,
            };
            let none =
                || last.map_or(StoreError::Empty, |wanted| StoreError::NoVersion { wanted, tip: newest });
            let at = commit.as_ref().map(link).ok_or_else(none)?;
            let name = self.put_handover(old, &new, at).await?;
            if last.is_some() || matches!(old, OldKey::Gone(_)) || attempts >= MAX_ATTEMPTS {
                break (at, newest.filter(|newest| *newest > at.version));
            }
            tokio::time::sleep(SETTLES_WITHIN).await;
            if self.tip_after(Some(at.version)).await?.is_none_or(|tip| link(&tip) == at) {
                break (at, None);
            }
            // It is signed with the old key, and would be refused: the stream goes over after it.
            tracing::info!("a version was published meanwhile: the stream is handed over after it");
            self.bucket().delete(&name).await?;
        };
        if let Some(dir) = signed {
            let (id, tip) = (self.id(), self.tip_here(at.version, at.commit));
            blocking(move || remember(&dir, id, &tip, Newer::Goes)).await?;
        }
        Ok(HandedOver {
            last: at.version,
            from: old.public().to_string(),
            to: new.public().to_string(),
            agreed: matches!(old, OldKey::Agrees(_)),
            beyond,
        })
    }

    /// Refuses to hand over again what was handed over, or to a key that was one of the stream's: who knows a
    /// key that came after it need only hide a record to sign for those who trust it. If `old` has handed
    /// over to the same key already, says after which version.
    async fn check_successor(&self, old: &OldKey, to: TrustKey) -> Result<Option<Link>, StoreError> {
        let (from, handovers) = (old.public(), self.valid_handovers().await?);
        let mut done = None;
        if matches!(old, OldKey::Agrees(_))
            && let Some(last) = self.trust().handed_over(from)
        {
            if handovers.iter().any(|other| other.from == from && other.last == last && other.to != to) {
                return Err(StoreError::RetiredKey { place: self.place(), last: last.version });
            }
            done = Some(last);
        }
        // The same once more is none of that: of two last versions the lower one counts.
        let others = handovers.iter().filter(|other| (other.from, other.to) != (from, to));
        let mut keys = others.flat_map(|other| [other.from, other.to]);
        let record = read_bytes(self.bucket(), names::STREAM).await?;
        let first = record.and_then(|bytes| signed_by(StreamRecord::FORMAT, &bytes));
        if from == to || first == Some(to) || keys.any(|key| key == to) {
            return Err(StoreError::UsedKey { place: self.place(), key: to.into() });
        }
        Ok(done)
    }

    /// Writes that `new` signs after the version at `last`, and returns the name of the record.
    async fn put_handover(&self, old: &OldKey, new: &SignKey, last: Link) -> Result<String, StoreError> {
        let agreed = match old {
            OldKey::Agrees(key) => Some(key),
            OldKey::Gone(_) => None,
        };
        let handover = HandoverRecord {
            stream: self.id(),
            created: local::unix_now(),
            from: old.public(),
            to: new.public(),
            last,
            consent: None,
        };
        let name = names::handover(last.version, Nonce::random());
        let bytes = handover
            .to_signed_bytes(new, agreed)
            .map_err(|source| StoreError::Record { name: name.clone(), source })?;
        self.bucket().put(&name, bytes.into()).await?;
        Ok(name)
    }

    /// The handovers of the stream that are any; others are none of its business.
    pub(super) async fn valid_handovers(&self) -> Result<Vec<HandoverRecord>, StoreError> {
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

    /// What the stream says of keys that it was handed over to, in the order of the versions. Only readers
    /// that trust one of the keys know whether it counts.
    ///
    /// # Errors
    /// If the store fails, or there are too many.
    ///
    /// # Cancel safety
    /// The future may be dropped at any time; it only reads.
    pub async fn handovers(&self) -> Result<Vec<Handover>, StoreError> {
        let records = self.valid_handovers().await?;
        let mut handovers: Vec<Handover> = records
            .into_iter()
            .map(|record| Handover {
                last: record.last.version,
                from: record.from.to_string(),
                to: record.to.to_string(),
                agreed: record.has_consent(),
            })
            .collect();
        handovers.sort_unstable_by(|a, b| (a.last, &a.to).cmp(&(b.last, &b.to)));
        Ok(handovers)
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

fn link(commit: &Commit) -> Link {
    Link { version: commit.record.version, commit: commit.digest }
}
