//! Taking back versions that nobody trusted has signed (spec/stream.md section 11).

use serde::Serialize;
use tensorpatch_stream::{Version, names};

use crate::error::StoreError;
use crate::stream::Stream;

/// What was taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RolledBack {
    /// The newest version now.
    pub tip: Option<Version>,
    /// The versions whose records were removed.
    pub removed: Vec<Version>,
}

/// Removes the newest versions down to the first that a trusted key has signed, so that its owner can publish
/// again. Replicas that trust the key never held them.
///
/// # Errors
/// [`StoreError::Unsigned`] if the stream is not one that this handle signs; [`StoreError::Untrusted`] if a
/// version would go that a key was handed over after, or one before it: nothing is removed then. If a record
/// is damaged, or the store fails: some of the versions are then removed, from the newest down.
///
/// # Cancel safety
/// The future may be dropped at any time. Some of the versions are then removed; the next call removes the
/// rest.
pub async fn roll_back_unsigned(stream: &Stream) -> Result<RolledBack, StoreError> {
    stream.check_owned()?;
    let (mut removed, mut tip) = (Vec::new(), None);
    // Up to there the owner of the new key has seen what there is, whatever others make of the keys before.
    let seen = stream.trust().lasts().map(|last| last.version).max();
    for version in stream.listed_from_newest().await? {
        match stream.commit(version).await {
            Ok(Some(_)) => {
                tip = Some(version);
                break;
            }
            Ok(None) => {}
            Err(error @ StoreError::Untrusted { .. }) if Some(version) <= seen => return Err(error),
            Err(StoreError::Untrusted { .. }) => removed.push(version),
            Err(error) => return Err(error),
        }
    }
    // From the newest down: what is left is a chain at any time.
    for version in &removed {
        stream.bucket().delete(&names::commit(*version)).await?;
    }
    if let (Some(tip), false) = (tip, removed.is_empty()) {
        stream.hint(tip).await;
    }
    Ok(RolledBack { tip, removed })
}
