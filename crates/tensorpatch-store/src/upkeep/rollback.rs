//! Taking back versions that nobody trusted has signed (spec/stream.md section 11).

use serde::Serialize;
use tensorpatch_stream::record::MAX_RECORD_BYTES;
use tensorpatch_stream::sign::{named_signer, signed_by};
use tensorpatch_stream::{CommitRecord, JsonRecord, Version, names};

use crate::error::StoreError;
use crate::stream::Stream;

/// Choices for taking back.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct RollbackOptions {
    /// Whether versions go as well that may be the owner's: those whose records are damaged, and those that
    /// were signed as far as that is noted ([`StreamBuilder::signed_tips`]). What is noted goes with them.
    ///
    /// [`StreamBuilder::signed_tips`]: crate::StreamBuilder::signed_tips
    pub force: bool,
}

impl RollbackOptions {
    /// The same, and versions of the owner's are given up.
    #[must_use]
    pub fn forced(mut self) -> Self {
        self.force = true;
        self
    }
}

/// What was taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RolledBack {
    /// The newest version now.
    pub tip: Option<Version>,
    /// The trusted key that has signed it.
    pub signer: Option<String>,
    /// The versions whose records were removed.
    pub removed: Vec<Version>,
    /// The newest version that was noted as signed, if it is forgotten: it is not there any more.
    pub forgotten: Option<Version>,
}

/// Removes the newest versions down to the first that a trusted key has signed, so that its owner can publish
/// again. Replicas that trust the key never held them.
///
/// # Errors
/// [`StoreError::OnlySigned`] or [`StoreError::Unsigned`] if the stream is not one that this handle signs;
/// [`StoreError::NotTakenBack`] if a version would go that may be the owner's, unless that was asked for;
/// [`StoreError::Untrusted`] if one would go that a key was handed over after, or one before it. Nothing is
/// removed then. If the store fails: some of the versions are then removed, from the newest down.
///
/// # Cancel safety
/// The future may be dropped at any time. Some of the versions are then removed; the next call removes the
/// rest.
pub async fn roll_back_unsigned(
    stream: &Stream,
    options: &RollbackOptions,
) -> Result<RolledBack, StoreError> {
    // With a key it was refused when it was opened.
    if !stream.is_signed() && !stream.trusts_keys() {
        return Err(StoreError::OnlySigned { place: stream.place(), what: "a rollback" });
    }
    stream.check_owned()?;
    let (mut removed, mut tip) = (Vec::new(), None);
    // Up to there the owner of the new key has seen what there is, whatever others make of the keys before.
    let seen = stream.trust().lasts().map(|last| last.version).max();
    let signed = stream.signed_tip().await?.map(|signed| signed.version);
    for version in stream.listed_from_newest().await? {
        let error = match stream.commit(version).await {
            Ok(Some(commit)) => {
                tip = Some(commit);
                break;
            }
            Ok(None) => continue,
            Err(error) => error,
        };
        let why = match &error {
            StoreError::Untrusted { .. } | StoreError::Damaged { .. } | StoreError::Record { .. }
                if Some(version) <= seen =>
            {
                return Err(error);
            }
            StoreError::Untrusted { what, .. } if Some(version) <= signed => Some(format!(
                "version {version} was signed with this key, and this record is another: {what}"
            )),
            StoreError::Untrusted { what, .. } if is_altered(stream, version).await? => {
                Some(format!("it may be a version of yours, and is damaged: {what}"))
            }
            StoreError::Untrusted { .. } => None,
            StoreError::Damaged { what, .. } => Some(format!("it is damaged: {what}")),
            StoreError::Record { source, .. } => Some(format!("it is no valid record: {source}")),
            _ => return Err(error),
        };
        match why {
            Some(what) if !options.force => {
                return Err(StoreError::NotTakenBack { name: names::commit(version), what });
            }
            _ => removed.push(version),
        }
    }
    // From the newest down: what is left is a chain at any time.
    for version in &removed {
        stream.bucket().delete(&names::commit(*version)).await?;
    }
    let forgotten = if options.force { stream.forget_signed_after(tip.as_ref()).await? } else { None };
    let signer = tip.as_ref().and_then(|tip| tip.signer).map(|key| key.to_string());
    let tip = tip.map(|tip| tip.record.version);
    if let (Some(tip), false) = (tip, removed.is_empty()) {
        stream.hint(tip).await;
    }
    Ok(RolledBack { tip, signer, removed, forgotten })
}

/// Whether a record says that a trusted key has signed it, which is not so of these bytes: one that was
/// signed and is damaged looks like this.
async fn is_altered(stream: &Stream, version: Version) -> Result<bool, StoreError> {
    let bytes =
        stream.bucket().get_small(&names::commit(version), MAX_RECORD_BYTES).await?.unwrap_or_default();
    let named = named_signer(&bytes).filter(|key| stream.trust().keys().any(|(trusted, _)| trusted == *key));
    Ok(named.is_some() && signed_by(CommitRecord::FORMAT, &bytes).is_none())
}
