//! Versions that several ranks publish together: each uploads its tensors, and one commit names them all
//! (spec/stream.md section 8).
//!
//! Every rank calls [`upload_patch`] or, for a first version and one that alters tensors or files,
//! [`upload_files`], and sends the [`Receipt`] to one of them, which calls [`commit`]. [`RankPublisher`] does
//! the same with tensors from memory.

mod files;
mod memory;
mod patch;

use std::collections::BTreeSet;
use std::path::Path;

use tensorpatch_checkpoint::Role;
use tensorpatch_format::Limits;
use tensorpatch_stream::receipt::{check_keys, check_origin, check_patches, check_ranks};
use tensorpatch_stream::record::check_texts;
use tensorpatch_stream::{
    Authorship, Commit, Delta, DeltaKind, NewVersion, Nonce, ObjectRef, PatchObject, Receipt, ReceiptContent,
    ReceiptError, TensorReceipt, VersionContents,
};

use super::anchor::read_chain;
use super::anchor_policy::{AnchorAdded, AnchorPolicy};
use super::options::PublishOptions;
use super::{Published, Publisher};
use crate::bucket::buffered_all;
use crate::error::StoreError;
use crate::local::unix_now;
use crate::stream::{Stream, next_version};

use files::{Joined, version_of_files};

pub use files::upload_files;
pub use memory::{RankFeed, RankPublisher};
pub use patch::upload_patch;

/// Commits what all ranks have uploaded as one version.
///
/// When [`PublishOptions::anchors`] says that an anchor is due, the committer adds it after the commit, from
/// a baseline in `work`: this needs room for a checkpoint, and the time to pull the version.
/// [`AnchorPolicy::NEVER`] leaves anchors to versions that are published with [`upload_files`], and to
/// [`Publisher::add_anchor`] elsewhere.
///
/// # Errors
/// [`StoreError::Receipts`] if a receipt is missing, doubled or does not fit; [`StoreError::NotAtTip`] and
/// [`StoreError::LostRace`] if another version came first; or if the store fails. Then there is no version.
///
/// # Cancel safety
/// The future may be dropped at any time; the version is then committed or not. Look at the tip before the
/// ranks try again.
pub async fn commit(
    stream: &Stream,
    receipts: &[Receipt],
    label: Option<&str>,
    work: &Path,
    options: &PublishOptions,
) -> Result<Published, StoreError> {
    check_texts(&options.publisher, label).map_err(StoreError::Text)?;
    stream.altered_places().altered(Role::Work, work).check()?;
    let tip = stream.tip().await?;
    let first = receipts.first().ok_or(ReceiptError::None)?;
    if let Some(tip) = &tip
        && first.stream == stream.id()
        && first.after != Some(tip.id())
        && first.after.is_none_or(|after| after.version < tip.record.version)
    {
        let (held, tip) = (first.after.map(|after| after.version), tip.record.version);
        return Err(StoreError::NotAtTip { held, tip });
    }
    check_ranks(receipts)?;
    check_origin(receipts, stream.id(), tip.as_ref())?;
    let number = next_version(tip.as_ref())?;
    check_keys(receipts, number)?;
    let joined = match (&first.content, &tip) {
        (ReceiptContent::Patch { .. }, Some(tip)) => version_of_patches(stream, receipts, tip).await?,
        (ReceiptContent::Patch { .. }, None) => {
            return Err(
                ReceiptError::Mixed("there is no version that a patch could start from".into()).into()
            );
        }
        (ReceiptContent::Files { .. }, _) => {
            version_of_files(stream, receipts, tip.as_ref(), &options.diff.limits).await?
        }
    };
    let Joined { version, bytes, passing } = joined;
    let (publisher, created) = (options.publisher.as_str(), unix_now());
    let author = Authorship { publisher, nonce: Nonce::random(), label, created };
    let commit = stream.commit_version(tip.as_ref(), version, author).await?;
    stream.hint(commit.record.version).await;
    for object in passing {
        // A collector takes those that are left.
        if let Err(error) = stream.bucket().delete(object.key.as_str()).await {
            tracing::debug!(key = %object.key, %error, "could not delete what was sent to the committer");
        }
    }
    let mut published = Published::of(&commit, bytes, false);
    match anchor_if_due(stream, &commit, work, options).await {
        Ok(added) => published.anchor = added,
        // The version is published whatever becomes of its anchor.
        Err(error) => {
            tracing::warn!("an anchor is due and could not be added, the next version tries again: {error}");
            published.anchor_error = Some(error.to_string());
        }
    }
    Ok(published)
}

/// Adds an anchor of `tip` from a baseline in `work` if one is due: no rank has the whole version.
async fn anchor_if_due(
    stream: &Stream,
    tip: &Commit,
    work: &Path,
    options: &PublishOptions,
) -> Result<Option<AnchorAdded>, StoreError> {
    if options.anchors == AnchorPolicy::NEVER {
        return Ok(None);
    }
    let chain = read_chain(stream, tip).await?;
    if !chain.is_some_and(|chain| options.anchors.is_due(chain)) {
        return Ok(None);
    }
    let publisher = Publisher::on(stream.clone(), work.join("baseline"), options.clone()).await?;
    publisher.add_anchor().await.map(Some)
}

async fn version_of_patches(
    stream: &Stream,
    receipts: &[Receipt],
    tip: &Commit,
) -> Result<Joined, StoreError> {
    let state = match check_patches(receipts, tip) {
        Err(ReceiptError::Tensors { expected, found, .. }) => {
            let (missing, others) = compare(stream, receipts, tip).await;
            return Err(ReceiptError::Tensors { expected, found, missing, others }.into());
        }
        state => state?,
    };
    let mut patches = Vec::new();
    let (mut bytes, mut changed, mut total) = (0_u64, 0_u64, 0_u64);
    for receipt in receipts {
        if let ReceiptContent::Patch { patch, schema, changed_elements, total_elements } = &receipt.content {
            bytes = bytes.saturating_add(patch.bytes).saturating_add(schema.bytes);
            changed = changed.saturating_add(*changed_elements);
            total = total.saturating_add(*total_elements);
            patches.push((patch, schema));
        }
    }
    let objects = patches.iter().flat_map(|(patch, schema)| [*patch, *schema]);
    buffered_all(objects, stream.policy().transfers.parallel_requests, |object| {
        stream.bucket().check_there(object)
    })
    .await?;
    let single = patches.len() == 1;
    let kind = if state == tip.record.contents.state { DeltaKind::Empty } else { DeltaKind::Delta };
    let named = |(patch, schema): &(&ObjectRef, &ObjectRef)| PatchObject {
        object: (*patch).clone(),
        schema: (!single).then(|| (*schema).clone()),
    };
    let passing =
        if single { patches.iter().map(|(_, schema)| (*schema).clone()).collect() } else { Vec::new() };
    let delta = Delta {
        base: tip.id(),
        kind,
        changed_elements: changed,
        total_elements: total,
        patches: patches.iter().map(named).collect(),
    };
    let version = NewVersion {
        contents: VersionContents { state, ..tip.record.contents },
        delta: Some(delta),
        anchor: None,
        companions: tip.record.companions.clone(),
    };
    Ok(Joined { version, bytes, passing })
}

/// The tensors of the version that no receipt has, and those of the receipts that it does not have; nothing
/// if that cannot be read from the stream.
async fn compare(stream: &Stream, receipts: &[Receipt], tip: &Commit) -> (Vec<String>, Vec<String>) {
    let before = match stream.range_reader(tip, &Limits::default()).await {
        Ok(reader) => reader.schema().clone(),
        Err(error) => {
            tracing::debug!(%error, "the tensors of the version before cannot be listed");
            return (Vec::new(), Vec::new());
        }
    };
    let tensors = || receipts.iter().flat_map(|receipt| &receipt.tensors);
    let names: BTreeSet<&str> = tensors().map(|tensor| tensor.name.as_str()).collect();
    let specs = before.tensors().iter();
    let missing = specs.filter(|spec| !names.contains(spec.name.as_str())).map(|spec| spec.name.clone());
    let is_known = |tensor: &&TensorReceipt| {
        let spec = before.find(&tensor.name).and_then(|index| before.get(index));
        spec.is_some_and(|spec| spec.dtype.as_str() == tensor.dtype && spec.shape == tensor.shape)
    };
    let others = tensors().filter(|tensor| !is_known(tensor)).map(|tensor| tensor.name.clone());
    (missing.collect(), others.collect())
}
