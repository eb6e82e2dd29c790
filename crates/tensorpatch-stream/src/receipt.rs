//! What ranks that publish a version together hand to the committer, and whether it is a version
//! (spec/stream.md section 8).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tensorpatch_format::{
    Dtype, ErrorKind, Schema, StateDigest, TaggedStateDigest, TensorDigest, TensorSpec,
};

use crate::digest::text;
use crate::history::Commit;
use crate::names::{Nonce, StreamId, Version};
use crate::record::{NamedObject, ObjectRef, VersionId};

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

/// What a rank has uploaded, for the committer. It is small and can be sent as JSON.
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
pub enum ReceiptContent {
    /// A patch of its tensors, from the version before.
    Patch {
        /// The patch.
        patch: ObjectRef,
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

impl TensorReceipt {
    /// What is said of a tensor with these digests.
    pub fn new(spec: &TensorSpec, base: Option<TensorDigest>, target: TensorDigest) -> Self {
        Self {
            name: spec.name.clone(),
            dtype: spec.dtype.as_str().to_owned(),
            shape: spec.shape.clone(),
            byte_len: spec.byte_len,
            base,
            target,
        }
    }
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

impl ReceiptError {
    /// Who must act on it.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Refused
    }
}

fn listed<T: ToString>(items: &[T]) -> String {
    let names: Vec<String> = items.iter().take(NAMED).map(ToString::to_string).collect();
    match items.len().saturating_sub(names.len()) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    }
}

/// Checks that there is one receipt of each rank.
///
/// # Errors
/// If one is missing or doubled.
pub fn check_ranks(receipts: &[Receipt]) -> Result<(), ReceiptError> {
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
///
/// # Errors
/// If they are not.
pub fn check_origin(
    receipts: &[Receipt],
    stream: StreamId,
    tip: Option<&Commit>,
) -> Result<(), ReceiptError> {
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
///
/// # Errors
/// If they are not.
pub fn check_keys(receipts: &[Receipt], version: Version) -> Result<(), ReceiptError> {
    let objects = receipts.iter().flat_map(|receipt| match &receipt.content {
        ReceiptContent::Patch { patch, schema, .. } => vec![patch, schema],
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
///
/// # Errors
/// If a tensor is in two receipts, or is none.
pub fn union(receipts: &[Receipt]) -> Result<(Schema, BTreeMap<&str, &TensorReceipt>), ReceiptError> {
    let mut tensors: BTreeMap<&str, &TensorReceipt> = BTreeMap::new();
    for tensor in receipts.iter().flat_map(|receipt| &receipt.tensors) {
        if tensors.insert(&tensor.name, tensor).is_some() {
            return Err(ReceiptError::Doubled(tensor.name.clone()));
        }
    }
    Ok((schema_of(tensors.values().copied())?, tensors))
}

/// The tensors of receipts as a schema.
///
/// # Errors
/// If one of them is no tensor.
pub fn schema_of<'a>(tensors: impl Iterator<Item = &'a TensorReceipt>) -> Result<Schema, ReceiptError> {
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
///
/// # Errors
/// If the tensors are not those of `tip`, or were not made from them.
pub fn check_patches(receipts: &[Receipt], tip: &Commit) -> Result<TaggedStateDigest, ReceiptError> {
    let (schema, tensors) = union(receipts)?;
    if schema.digest() != tip.record.contents.schema {
        let (expected, found) = (tip.record.contents.tensors, tensors.len() as u64);
        return Err(ReceiptError::Tensors { expected, found, missing: Vec::new(), others: Vec::new() });
    }
    // Both the map and the schema are in the order of the names.
    let state = |digests: &[TensorDigest]| {
        let digest = StateDigest::of_tensors(tip.record.contents.schema, digests);
        TaggedStateDigest { leaf_hash: tip.record.contents.state.leaf_hash, digest }
    };
    let base: Option<Vec<TensorDigest>> = tensors.values().map(|tensor| tensor.base).collect();
    let base =
        base.ok_or_else(|| ReceiptError::Tensor("a tensor of a patch has no digest in the base".into()))?;
    let (expected, found) = (tip.record.contents.state, state(&base));
    if found != expected {
        return Err(ReceiptError::Base { expected, found });
    }
    Ok(state(&tensors.values().map(|tensor| tensor.target).collect::<Vec<_>>()))
}
