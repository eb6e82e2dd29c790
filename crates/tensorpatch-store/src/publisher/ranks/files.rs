//! A rank's files as they are, for a first version and for those that alter the tensors or the files; and the
//! anchor that the files of all ranks are together.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use tensorpatch_checkpoint::{ConfinedPath, Placement, Role, SafetensorsHeader, open_regular};
use tensorpatch_delta::{self as delta, LeafTable, Progress};
use tensorpatch_format::{
    ChunkAddress, ChunkIndex, FileLayout, Layout, LeafHash, Limits, Schema, TaggedStateDigest, TensorIndex,
};
use tensorpatch_stream::names::is_plain_name;
use tensorpatch_stream::receipt::{schema_of, union};
use tensorpatch_stream::{
    Anchor, Commit, Key, NamedObject, NewVersion, Nonce, ObjectDigest, ObjectRef, Rank, Receipt,
    ReceiptContent, ReceiptError, TensorReceipt, VersionContents, names,
};

use super::patch::Files;
use crate::bucket::buffered_all;
use crate::error::StoreError;
use crate::local::{self, blocking};
use crate::observe::Phase;
use crate::publisher::options::PublishOptions;
use crate::stream::{Stream, next_version};

/// What the receipts of all ranks make together.
pub(super) struct Joined {
    pub(super) version: NewVersion,
    /// Bytes uploaded.
    pub(super) bytes: u64,
    /// Objects that no record names, and that nobody needs once there is one.
    pub(super) passing: Vec<ObjectRef>,
}

/// Uploads a rank's files as they are, for the first version of the stream or for one that alters the tensors
/// or the files.
///
/// `follows` is the newest version, if there is one. `attempt` is made by one rank with [`Nonce::random`] and
/// sent to all: under it the files of all ranks lie in one directory, an ordinary checkpoint. `files` are the
/// rank's `.safetensors` files, under the names that they have in the checkpoint, and, of one of the ranks,
/// the files beside them (`config.json`). They are copied to `work` first, because they may change while they
/// are read. Nothing is visible until [`commit`](crate::ranks::commit), which writes the index.
///
/// # Errors
/// If the files are no safetensors files, two hold the same tensor, the attempt was used before, or the store
/// fails.
///
/// # Cancel safety
/// The future may be dropped at any time. What was uploaded is garbage, and the next attempt needs another
/// nonce.
pub async fn upload_files(
    stream: &Stream,
    follows: Option<&Commit>,
    rank: Rank,
    attempt: Nonce,
    files: &[PathBuf],
    work: &Path,
    options: &PublishOptions,
) -> Result<Receipt, StoreError> {
    upload_files_by(stream, follows, rank, attempt, files, &local::open_private_root(work)?, options).await
}

/// The same, with the copies in a directory that is open.
pub(super) async fn upload_files_by(
    stream: &Stream,
    follows: Option<&Commit>,
    rank: Rank,
    attempt: Nonce,
    files: &[PathBuf],
    work: &ConfinedPath,
    options: &PublishOptions,
) -> Result<Receipt, StoreError> {
    let copies = work.join(format!("files-{attempt}-{}", rank.index));
    let places = stream.altered_places().altered(Role::Work, copies.path());
    files.iter().fold(places, |places, file| places.read(Role::Checkpoint, file)).check()?;
    let receipt = upload(stream, follows, rank, attempt, files, &copies, options).await;
    blocking(move || local::remove(&copies)).await?;
    receipt
}

async fn upload(
    stream: &Stream,
    follows: Option<&Commit>,
    rank: Rank,
    attempt: Nonce,
    files: &[PathBuf],
    copies: &ConfinedPath,
    options: &PublishOptions,
) -> Result<Receipt, StoreError> {
    let version = next_version(follows)?;
    let copied = {
        let (files, copies, diff) = (files.to_vec(), copies.clone(), options.diff.clone());
        let hash = stream.record().leaf_hash;
        blocking(move || copy(&files, &copies, rank, hash, &diff)).await?
    };
    let bytes = copied.names.iter().map(|name| local::file_len(&copies.join(name)));
    options.observer.start(Phase::Upload, bytes.sum::<Result<u64, _>>()?);
    let upload = |key: Key, name: String| {
        let path = copies.join(&name);
        async move {
            // Under a nonce that was used before there may be bytes that an earlier receipt speaks of.
            if stream.bucket().size(key.as_str()).await?.is_some() {
                return Err(ReceiptError::Used(key.to_string()).into());
            }
            let object = stream.bucket().upload(key, &path, &options.observer).await?;
            Ok::<_, StoreError>(NamedObject { name, object })
        }
    };
    let mut wanted = Vec::new();
    for name in &copied.names {
        wanted.push((names::anchor(version, attempt, name)?, name.clone()));
    }
    let files =
        buffered_all(wanted, stream.policy().transfers.parallel_uploads, |(key, name)| upload(key, name))
            .await?;
    let mut wanted = Vec::new();
    for name in copied.names.iter().filter(|name| !is_weights(name)) {
        wanted.push((names::companion(version, attempt, name)?, name.clone()));
    }
    let companions =
        buffered_all(wanted, stream.policy().transfers.parallel_uploads, |(key, name)| upload(key, name))
            .await?;
    let key = names::patch(version, attempt, &format!("layout-{}", rank.index))?;
    let layout = stream.bucket().put_bytes(key, copied.layout.to_bytes().into()).await?;
    let key = names::patch(version, attempt, &format!("leaves-{}", rank.index))?;
    let leaves = stream.bucket().put_bytes(key, copied.leaves.as_bytes().to_vec().into()).await?;
    Ok(Receipt {
        stream: stream.id(),
        rank,
        after: follows.map(Commit::id),
        content: ReceiptContent::Files { attempt, files, companions, layout, leaves },
        tensors: copied.tensors,
    })
}

/// The anchor that the files of all ranks are together, with its index and leaf table uploaded.
pub(super) async fn version_of_files(
    stream: &Stream,
    receipts: &[Receipt],
    tip: Option<&Commit>,
    limits: &Limits,
) -> Result<Joined, StoreError> {
    let number = next_version(tip)?;
    let (schema, _) = union(receipts)?;
    let hash = stream.record().leaf_hash;
    let mut whole = Whole::default();
    let mut attempt = None;
    for receipt in receipts {
        let ReceiptContent::Files { attempt: own, files, companions, layout, leaves } = &receipt.content
        else {
            return Err(ReceiptError::Mixed("a patch among files".into()).into());
        };
        attempt = Some(*own);
        let layout_bytes = fetch(stream, layout, limits.metadata_bytes, receipt.rank.index).await?;
        let leaf_bytes = fetch(stream, leaves, limits.metadata_bytes, receipt.rank.index).await?;
        whole.add(receipt, files, companions, (&layout_bytes, leaf_bytes), hash, limits)?;
        whole.passing.extend([layout.clone(), leaves.clone()]);
    }
    let attempt = attempt.ok_or(ReceiptError::None)?;
    buffered_all(
        whole.files.iter().chain(&whole.companions),
        stream.policy().transfers.parallel_requests,
        |named| stream.bucket().check_there(&named.object),
    )
    .await?;
    let failed = |what: String| ReceiptError::Tensor(what);
    let index = whole.index(&schema);
    let layout = Layout::new(whole.layouts.clone(), index).map_err(|e| failed(e.to_string()))?;
    Placement::new(&schema, &layout, limits)?;
    let leaves = whole.leaf_table(&schema, hash)?;
    let digest = leaves.state_digest(&schema);
    if let Some(index) = layout.index() {
        let key = names::anchor(number, attempt, Layout::INDEX_FILE)?;
        let object = stream.bucket().put_bytes(key, index.to_vec().into()).await?;
        whole.files.push(NamedObject { name: Layout::INDEX_FILE.into(), object });
    }
    let key = names::leaves(number, attempt)?;
    let leaves = stream.bucket().put_bytes(key, leaves.as_bytes().to_vec().into()).await?;
    let anchor = Anchor { files: whole.files, leaves };
    let objects = anchor.objects().chain(whole.companions.iter().map(|companion| &companion.object));
    let bytes = objects.fold(0_u64, |sum, object| sum.saturating_add(object.bytes));
    let contents = VersionContents {
        state: TaggedStateDigest { leaf_hash: hash, digest },
        schema: schema.digest(),
        layout: layout.digest(),
        state_bytes: schema.state_bytes(),
        tensors: schema.tensors().len() as u64,
    };
    let version = NewVersion { contents, delta: None, anchor: Some(anchor), companions: whole.companions };
    Ok(Joined { version, bytes, passing: whole.passing })
}

/// A small object that a receipt names, verified.
async fn fetch(stream: &Stream, object: &ObjectRef, max: u64, rank: u32) -> Result<Vec<u8>, StoreError> {
    let name = object.key.as_str();
    let bytes = stream.bucket().get_small(name, object.bytes.min(max)).await?;
    let bytes = bytes.ok_or_else(|| StoreError::Missing { name: name.into() })?;
    if ObjectDigest::of(&bytes) != object.blake3 {
        let what = format!("{name} is not what its receipt says");
        return Err(ReceiptError::Files { rank, what }.into());
    }
    Ok(bytes.into())
}

fn is_weights(name: &str) -> bool {
    name.ends_with(".safetensors")
}

/// Private copies of a rank's files, and what they hold.
struct Copied {
    names: Vec<String>,
    layout: Layout,
    leaves: LeafTable,
    tensors: Vec<TensorReceipt>,
}

fn copy(
    files: &[PathBuf],
    copies: &ConfinedPath,
    rank: Rank,
    hash: LeafHash,
    options: &delta::Options,
) -> Result<Copied, StoreError> {
    let wrong = |what: String| ReceiptError::Files { rank: rank.index, what };
    local::remove(copies)?;
    local::make_dir(copies)?;
    let mut names = BTreeSet::new();
    for file in files {
        let name = file.file_name().and_then(|name| name.to_str()).filter(|name| is_plain_name(name));
        let name = name.ok_or_else(|| StoreError::FileName { path: file.clone() })?;
        if name == Layout::INDEX_FILE || !names.insert(name.to_owned()) {
            return Err(wrong(format!("{name} twice, or an index, which is written by the commit")).into());
        }
        let opened = open_regular(file).map_err(|e| StoreError::local(file, e))?;
        local::copy_file(opened, &copies.join(name))?;
    }
    let weights: Vec<&String> = names.iter().filter(|name| is_weights(name)).collect();
    let paths: Vec<PathBuf> = weights.iter().map(|name| copies.join(name).path()).collect();
    let opened = Files::open(&paths, options)?;
    let mut layouts = Vec::new();
    for (name, checkpoint) in weights.iter().zip(&opened.checkpoints) {
        // Opened as a file of its own, each has the name of a single one.
        let headers = checkpoint.layout().files().iter().map(|file| file.header.clone());
        layouts.extend(headers.map(|header| FileLayout { name: (*name).clone(), header }));
    }
    let layout = Layout::new(layouts, None).map_err(|e| wrong(e.to_string()))?;
    let leaves = LeafTable::of(&opened.state()?, hash, options.threads, Progress::none())?;
    let digests = leaves.tensor_digests(&opened.schema);
    let tensors = opened.schema.tensors().iter().zip(digests);
    let tensors = tensors.map(|(spec, target)| TensorReceipt::new(spec, None, target));
    Ok(Copied { tensors: tensors.collect(), names: names.into_iter().collect(), layout, leaves })
}

/// The files of the ranks so far.
#[derive(Default)]
struct Whole {
    files: Vec<NamedObject>,
    companions: Vec<NamedObject>,
    layouts: Vec<FileLayout>,
    /// Which file each tensor is in, and its leaves.
    tensors: BTreeMap<String, (String, Vec<u8>)>,
    passing: Vec<ObjectRef>,
}

impl Whole {
    /// Takes what a rank has, if it is what the receipt says.
    fn add(
        &mut self,
        receipt: &Receipt,
        files: &[NamedObject],
        companions: &[NamedObject],
        (layout, leaves): (&[u8], Vec<u8>),
        hash: LeafHash,
        limits: &Limits,
    ) -> Result<(), StoreError> {
        let wrong = |what: String| ReceiptError::Files { rank: receipt.rank.index, what };
        let layout = Layout::from_bytes(layout, 0, limits).map_err(|e| wrong(e.to_string()))?;
        let weights: BTreeSet<&str> =
            files.iter().map(|file| file.name.as_str()).filter(|name| is_weights(name)).collect();
        if !layout.files().iter().map(|file| file.name.as_str()).eq(weights) {
            return Err(wrong("its layout has other files than its receipt".into()).into());
        }
        let mut homes: BTreeMap<String, String> = BTreeMap::new();
        let mut specs = Vec::new();
        for file in layout.files() {
            let header = SafetensorsHeader::parse(&file.header, limits).map_err(|e| wrong(e.to_string()))?;
            for (spec, _) in header.tensors() {
                homes.insert(spec.name.clone(), file.name.clone());
                specs.push(spec.clone());
            }
        }
        let own = schema_of(receipt.tensors.iter())?;
        if Schema::new(specs).map_err(|e| wrong(e.to_string()))? != own {
            return Err(wrong("its files have other tensors than its receipt".into()).into());
        }
        let table = LeafTable::from_bytes(&own, hash, leaves);
        let table = table.ok_or_else(|| wrong("its leaf table has another size than its tensors".into()))?;
        let expected: BTreeMap<&str, _> =
            receipt.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.target)).collect();
        for (index, (spec, digest)) in (0..).zip(own.tensors().iter().zip(table.tensor_digests(&own))) {
            if expected.get(spec.name.as_str()) != Some(&digest) {
                return Err(wrong(format!("its leaf table is not that of {:?}", spec.name)).into());
            }
            let chunks = (0..spec.chunk_count())
                .map(|chunk| ChunkAddress { tensor: TensorIndex(index), chunk: ChunkIndex(chunk) });
            let leaves =
                chunks.filter_map(|address| table.get(address)).flat_map(|leaf| leaf.as_bytes().to_vec());
            let directory = homes.remove(&spec.name).unwrap_or_default();
            self.tensors.insert(spec.name.clone(), (directory, leaves.collect()));
        }
        for file in files.iter().chain(companions) {
            if !is_plain_name(&file.name) {
                return Err(wrong(format!("{:?} is not a plain file name", file.name)).into());
            }
        }
        for file in files {
            if self.files.iter().any(|known| known.name.to_lowercase() == file.name.to_lowercase()) {
                return Err(ReceiptError::Doubled(file.name.clone()).into());
            }
            self.files.push(file.clone());
        }
        self.companions.extend_from_slice(companions);
        self.layouts.extend_from_slice(layout.files());
        Ok(())
    }

    /// The index of the files, unless they are one that needs none.
    fn index(&self, schema: &Schema) -> Option<Vec<u8>> {
        if let [only] = self.layouts.as_slice()
            && only.name == Layout::SINGLE_FILE
        {
            return None;
        }
        let map: serde_json::Map<String, serde_json::Value> =
            self.tensors.iter().map(|(tensor, (file, _))| (tensor.clone(), file.as_str().into())).collect();
        let index = serde_json::json!({"metadata": {"total_size": schema.state_bytes()}, "weight_map": map});
        Some(format!("{index:#}\n").into_bytes())
    }

    fn leaf_table(&self, schema: &Schema, hash: LeafHash) -> Result<LeafTable, StoreError> {
        // Both are in the order of the names.
        let bytes = self.tensors.values().flat_map(|(_, leaves)| leaves.iter().copied()).collect();
        let table = LeafTable::from_bytes(schema, hash, bytes);
        Ok(table
            .ok_or_else(|| ReceiptError::Tensor("the leaf tables do not make one of all tensors".into()))?)
    }
}
