//! Versions that several ranks publish together: each its part, and one commit that names them all (spec/stream.md section 8).

mod files;
mod patch;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tensorpatch_format::{Dtype, Limits, Schema, StateDigest, TaggedStateDigest, TensorDigest, TensorSpec};

use crate::bucket::all;
use crate::commit::Content;
use crate::digest::text;
use crate::error::StoreError;
use crate::names::{self, Nonce, StreamId, Version};
use crate::plan::Commit;
use crate::publisher::{PublishOptions, Published, after};
use crate::record::{self, Delta, DeltaKind, NamedObject, ObjectRef, Part, VersionId};
use crate::stream::Stream;

const AT_ONCE: usize = 16;
/// Names that an error lists.
const NAMED: usize = 8;
/// Missing ranks that an error has the numbers of.
const NAMED_RANKS: usize = 64;

/// One of several processes that publish a version together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rank {
    /// Which one, from 0.
    pub index: u32,
    /// How many there are.
    pub count: u32,
}

/// What a rank has uploaded, for whoever commits. It is small and can be sent as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The stream.
    pub stream: StreamId,
    /// Whose it is.
    pub rank: Rank,
    /// The version that it follows; none for the first.
    pub after: Option<VersionId>,
    /// What was uploaded.
    pub content: ReceiptContent,
    /// The tensors of the rank.
    pub tensors: Vec<TensorReceipt>,
}

/// What a rank has uploaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ReceiptContent {
    /// A patch of its tensors, from the version before.
    Patch {
        /// The patch.
        part: ObjectRef,
        /// The canonical bytes of the schema of the rank's tensors.
        schema: ObjectRef,
        /// Elements that changed.
        changed_elements: u64,
        /// Elements of the rank's tensors.
        total_elements: u64,
    },
    /// Its files as they are.
    Files {
        /// What all ranks of the version have agreed on.
        attempt: Nonce,
        /// Weights and copies of the companions, under the names that they have in the checkpoint.
        files: Vec<NamedObject>,
        /// The files beside the weights.
        companions: Vec<NamedObject>,
        /// The names and headers of the weights: the canonical bytes of a layout.
        layout: ObjectRef,
        /// The leaf table of the rank's tensors.
        leaves: ObjectRef,
    },
}

/// One tensor of a rank.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorReceipt {
    /// The name.
    pub name: String,
    /// The dtype, as safetensors spells it.
    pub dtype: String,
    /// The dims.
    pub shape: Vec<u64>,
    /// The bytes.
    pub byte_len: u64,
    /// The digest in the version before, for a patch.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "crate::digest::optional_text")]
    pub base: Option<TensorDigest>,
    /// The digest in the new version.
    #[serde(with = "text")]
    pub target: TensorDigest,
}

/// Why receipts are not a version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiptError {
    /// There is none.
    #[error("there is no receipt")]
    None,
    /// They are not of one stream, one base, one group of ranks, or one kind.
    #[error("receipts that do not belong together: {0}")]
    Mixed(String),
    /// Ranks of which there is no receipt.
    #[error("{found} of {count} ranks have a receipt; there is none of rank {}", listed(missing))]
    MissingRanks {
        /// Their numbers; of many, the first.
        missing: Vec<u32>,
        /// How many have one.
        found: usize,
        /// How many ranks there are.
        count: u32,
    },
    /// Two receipts of one rank.
    #[error("there are two receipts of rank {0}")]
    DoubledRank(u32),
    /// Two ranks have the same tensor or file.
    #[error("{0:?} is in two receipts")]
    Doubled(String),
    /// The tensors are not those of the base.
    #[error(
        "the receipts have {found} tensors, which are not the {expected} of the version before{}{}",
        if missing.is_empty() { String::new() } else { format!("; missing: {}", listed(missing)) },
        if others.is_empty() { String::new() } else { format!("; others than before: {}", listed(others)) }
    )]
    Tensors {
        /// Tensors of the base.
        expected: u64,
        /// Tensors of the receipts.
        found: u64,
        /// Tensors of the base that no receipt has, as far as it could be found out.
        missing: Vec<String>,
        /// Tensors of the receipts that the base does not have, or has with another dtype or shape.
        others: Vec<String>,
    },
    /// The bases of the ranks are not the base version.
    #[error("the ranks started from {found}, but the version before is {expected}")]
    Base {
        /// The state of the base version.
        expected: TaggedStateDigest,
        /// The state that the ranks started from.
        found: TaggedStateDigest,
    },
    /// Something that is no tensor.
    #[error("{0}")]
    Tensor(String),
    /// Files that are no checkpoint together, or are not what their receipt says.
    #[error("rank {rank}: {what}")]
    Files {
        /// The rank.
        rank: u32,
        /// What is wrong.
        what: String,
    },
    /// An earlier attempt has used the same nonce.
    #[error("there is a {0} already: each attempt needs a nonce of its own")]
    Used(String),
}

fn listed<T: ToString>(items: &[T]) -> String {
    let names: Vec<String> = items.iter().take(NAMED).map(ToString::to_string).collect();
    match items.len().saturating_sub(names.len()) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    }
}

/// What the receipts of all ranks make together.
struct Joined {
    content: Content,
    /// Bytes uploaded.
    bytes: u64,
    /// Objects that no record names, and that nobody needs once there is one.
    passing: Vec<ObjectRef>,
}

impl Stream {
    /// Commits the parts of all ranks as one version.
    ///
    /// # Errors
    /// [`StoreError::Receipts`] if a part is missing, doubled or does not fit; [`StoreError::NotAtTip`] and [`StoreError::LostRace`] if another
    /// version came first; or if the store fails. Then there is no version.
    pub async fn commit_parts(
        &self,
        receipts: &[Receipt],
        label: Option<&str>,
        options: &PublishOptions,
    ) -> Result<Published, StoreError> {
        record::check_texts(&options.publisher, label)?;
        let tip = self.tip().await?;
        let first = receipts.first().ok_or(ReceiptError::None)?;
        if let Some(tip) = &tip
            && first.stream == self.id()
            && first.after != Some(tip.id())
            && first.after.is_none_or(|after| after.version < tip.record.version)
        {
            let (held, tip) = (first.after.map(|after| after.version), tip.record.version);
            return Err(StoreError::NotAtTip { held, tip });
        }
        check_ranks(receipts)?;
        check_origin(receipts, self.id(), tip.as_ref())?;
        let version = tip.as_ref().map_or(Ok(Version::FIRST), after)?;
        check_keys(receipts, version)?;
        let joined = match (&first.content, &tip) {
            (ReceiptContent::Patch { .. }, Some(tip)) => self.content_of_patches(receipts, tip).await?,
            (ReceiptContent::Patch { .. }, None) => {
                return Err(
                    ReceiptError::Mixed("there is no version that a patch could start from".into()).into()
                );
            }
            (ReceiptContent::Files { .. }, _) => {
                self.content_of_files(receipts, tip.as_ref(), &options.diff.limits).await?
            }
        };
        let Joined { content, bytes, passing } = joined;
        let (tip, nonce) = (tip.as_ref(), Nonce::random());
        let record = content.into_record(self.id(), tip, &options.publisher, nonce, label)?;
        let version = record.version;
        let encoded = self.record_bytes(&names::commit(version), &record)?;
        let commit = self.create_commit(record, encoded).await?;
        self.hint(version).await;
        for object in passing {
            // A collector takes those that are left.
            if let Err(error) = self.bucket().delete(object.key.as_str()).await {
                tracing::debug!(key = %object.key, %error, "could not delete what was sent to the committer");
            }
        }
        Ok(Published::of(&commit, bytes, false))
    }

    async fn content_of_patches(&self, receipts: &[Receipt], tip: &Commit) -> Result<Joined, StoreError> {
        let state = match check_patches(receipts, tip) {
            Err(ReceiptError::Tensors { expected, found, .. }) => {
                let (missing, others) = self.compare(receipts, tip).await;
                return Err(ReceiptError::Tensors { expected, found, missing, others }.into());
            }
            state => state?,
        };
        let mut parts = Vec::new();
        let (mut bytes, mut changed, mut total) = (0_u64, 0_u64, 0_u64);
        for receipt in receipts {
            if let ReceiptContent::Patch { part, schema, changed_elements, total_elements } = &receipt.content
            {
                bytes = bytes.saturating_add(part.bytes).saturating_add(schema.bytes);
                changed = changed.saturating_add(*changed_elements);
                total = total.saturating_add(*total_elements);
                parts.push((part, schema));
            }
        }
        let objects = parts.iter().flat_map(|(part, schema)| [*part, *schema]);
        all(objects, AT_ONCE, |object| self.bucket().check_there(object)).await?;
        let single = parts.len() == 1;
        let kind = if state == tip.record.state { DeltaKind::Empty } else { DeltaKind::Delta };
        let named = |(part, schema): &(&ObjectRef, &ObjectRef)| Part {
            object: (*part).clone(),
            schema: (!single).then(|| (*schema).clone()),
        };
        let passing =
            if single { parts.iter().map(|(_, schema)| (*schema).clone()).collect() } else { Vec::new() };
        let content = Content {
            state,
            schema: tip.record.schema,
            layout: tip.record.layout,
            state_bytes: tip.record.state_bytes,
            tensors: tip.record.tensors,
            delta: Some(Delta {
                base: tip.id(),
                kind,
                changed_elements: changed,
                total_elements: total,
                parts: parts.iter().map(named).collect(),
            }),
            anchor: None,
            companions: tip.record.companions.clone(),
        };
        Ok(Joined { content, bytes, passing })
    }

    /// The tensors of the version that no receipt has, and those of the receipts that it does not have; nothing if that
    /// cannot be read from the stream.
    async fn compare(&self, receipts: &[Receipt], tip: &Commit) -> (Vec<String>, Vec<String>) {
        let before = match self.parts(tip, &Limits::default()).await {
            Ok(parts) => parts.schema().clone(),
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
}

/// Checks that there is one receipt of each rank.
fn check_ranks(receipts: &[Receipt]) -> Result<(), ReceiptError> {
    let count = receipts.first().ok_or(ReceiptError::None)?.rank.count;
    let mut seen = BTreeSet::new();
    for Receipt { rank, .. } in receipts {
        if rank.count != count || rank.index >= count {
            return Err(ReceiptError::Mixed(format!(
                "rank {} of {}, and one of {count}",
                rank.index, rank.count
            )));
        }
        if !seen.insert(rank.index) {
            return Err(ReceiptError::DoubledRank(rank.index));
        }
    }
    // A receipt may speak of any number.
    let missing: Vec<u32> = (0..count).filter(|index| !seen.contains(index)).take(NAMED_RANKS).collect();
    let found = seen.len();
    if missing.is_empty() { Ok(()) } else { Err(ReceiptError::MissingRanks { missing, found, count }) }
}

/// Checks that all receipts are for the version after `tip` of this stream, and of one kind.
fn check_origin(receipts: &[Receipt], stream: StreamId, tip: Option<&Commit>) -> Result<(), ReceiptError> {
    let tip = tip.map(Commit::id);
    let text = |id: Option<VersionId>| {
        id.map_or("nothing".into(), |id| format!("version {} ({})", id.version, id.commit))
    };
    let kind = |receipt: &Receipt| match &receipt.content {
        ReceiptContent::Patch { .. } => None,
        ReceiptContent::Files { attempt, .. } => Some(*attempt),
    };
    let first = receipts.first().and_then(kind);
    for receipt in receipts {
        if receipt.stream != stream {
            return Err(ReceiptError::Mixed(format!("{} is not {stream}", receipt.stream)));
        }
        if receipt.after != tip {
            let (found, expected) = (text(receipt.after), text(tip));
            return Err(ReceiptError::Mixed(format!("they follow {found}, but the newest is {expected}")));
        }
        if kind(receipt) != first {
            let rank = receipt.rank.index;
            return Err(ReceiptError::Mixed(format!(
                "rank {rank} has uploaded for another attempt, or of another kind"
            )));
        }
    }
    Ok(())
}

/// Checks that all objects were made for `version`: others may be collected at any time.
fn check_keys(receipts: &[Receipt], version: Version) -> Result<(), ReceiptError> {
    let objects = receipts.iter().flat_map(|receipt| match &receipt.content {
        ReceiptContent::Patch { part, schema, .. } => vec![part, schema],
        ReceiptContent::Files { files, companions, layout, leaves, .. } => {
            let named = files.iter().chain(companions).map(|named| &named.object);
            named.chain([layout, leaves]).collect()
        }
    });
    match objects.into_iter().find(|object| object.key.version() != Some(version)) {
        Some(object) => {
            Err(ReceiptError::Mixed(format!("{} was not made for version {version}", object.key)))
        }
        None => Ok(()),
    }
}

/// The tensors of all receipts as a schema, and by their names.
fn union(receipts: &[Receipt]) -> Result<(Schema, BTreeMap<&str, &TensorReceipt>), ReceiptError> {
    let mut tensors: BTreeMap<&str, &TensorReceipt> = BTreeMap::new();
    for tensor in receipts.iter().flat_map(|receipt| &receipt.tensors) {
        if tensors.insert(&tensor.name, tensor).is_some() {
            return Err(ReceiptError::Doubled(tensor.name.clone()));
        }
    }
    Ok((schema_of(tensors.values().copied())?, tensors))
}

fn schema_of<'a>(tensors: impl Iterator<Item = &'a TensorReceipt>) -> Result<Schema, ReceiptError> {
    let mut specs = Vec::new();
    for tensor in tensors {
        let dtype = Dtype::new(&tensor.dtype)
            .ok_or_else(|| ReceiptError::Tensor(format!("{:?} is no dtype", tensor.dtype)))?;
        let (name, shape, byte_len) = (tensor.name.clone(), tensor.shape.clone(), tensor.byte_len);
        specs.push(TensorSpec { name, dtype, shape, byte_len });
    }
    Schema::new(specs).map_err(|e| ReceiptError::Tensor(e.to_string()))
}

/// Checks that patches are one whole version after `tip`, and returns its state.
fn check_patches(receipts: &[Receipt], tip: &Commit) -> Result<TaggedStateDigest, ReceiptError> {
    let (schema, tensors) = union(receipts)?;
    if schema.digest() != tip.record.schema {
        let (expected, found) = (tip.record.tensors, tensors.len() as u64);
        return Err(ReceiptError::Tensors { expected, found, missing: Vec::new(), others: Vec::new() });
    }
    // Both the map and the schema are in the order of the names.
    let state = |digests: &[TensorDigest]| {
        let digest = StateDigest::of_tensors(tip.record.schema, digests);
        TaggedStateDigest { leaf_hash: tip.record.state.leaf_hash, digest }
    };
    let base: Option<Vec<TensorDigest>> = tensors.values().map(|tensor| tensor.base).collect();
    let base =
        base.ok_or_else(|| ReceiptError::Tensor("a tensor of a patch has no digest in the base".into()))?;
    let (expected, found) = (tip.record.state, state(&base));
    if found != expected {
        return Err(ReceiptError::Base { expected, found });
    }
    Ok(state(&tensors.values().map(|tensor| tensor.target).collect::<Vec<_>>()))
}
