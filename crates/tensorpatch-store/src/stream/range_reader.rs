//! Reading some tensors, or some rows of one, of a version: only the byte ranges that it takes, verified all
//! the same.
//!
//! The leaf table of the anchor and the indexes of the deltas give the leaf digest of every chunk of the
//! version, and those together its state digest, which the commit names. So a chunk can be trusted without
//! the rest having been read.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tensorpatch_checkpoint::SafetensorsHeader;
use tensorpatch_codec::{ChunkContext, ChunkDecoder, leaf_digest};
use tensorpatch_delta::{ApplyError, LeafTable};
use tensorpatch_format::{
    CHUNK_BYTES, ChunkAddress, ChunkIndex, ElementFormat, Grid, LeafDigest, Limits, Need, RandomAccess,
    RandomReader, Schema, TaggedStateDigest, TensorIndex,
};
use tensorpatch_stream::{
    Anchor, Commit, Edge, EdgeKind, ObjectDigest, ObjectRef, PatchObject, PlanError, Version,
};

use super::Stream;
use super::plan_attempts::PlanAttempts;
use crate::bucket::{Bucket, buffered_all};
use crate::error::StoreError;

/// A version of which ranges of tensors can be read.
///
/// ```no_run
/// # async fn example(stream: tensorpatch_store::Stream) -> Result<(), tensorpatch_store::StoreError> {
/// let tip = stream.tip().await?.ok_or(tensorpatch_store::StoreError::Empty)?;
/// let ranges = stream.range_reader(&tip, &Default::default()).await?;
/// // The second quarter of the rows, for the second of four tensor-parallel ranks.
/// let rows = ranges.read_rows("model.layers.0.mlp.up_proj.weight", 2752..5504).await?;
/// # let _ = rows;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct RangeReader {
    bucket: Bucket,
    commit: Commit,
    schema: Schema,
    leaves: LeafTable,
    files: Vec<AnchorFile>,
    /// The patches of each version after the anchor's, in order.
    deltas: Vec<Vec<RemotePatch>>,
    fetched: AtomicU64,
}

#[derive(Debug)]
struct AnchorFile {
    object: ObjectRef,
    header: SafetensorsHeader,
}

#[derive(Debug)]
struct RemotePatch {
    object: ObjectRef,
    access: RandomAccess,
    /// The patch's own schema, if it covers only some tensors.
    schema: Option<Schema>,
}

impl Stream {
    /// Opens a version for reading ranges of its tensors: fetches headers, the leaf table and the indexes of
    /// the deltas since an anchor, and verifies that they are the version's. Where they are not, it goes by
    /// way of others if there are any, as a replica does. Whether an anchor has the bytes that its leaf table
    /// says shows only as they are read, and is an error then.
    ///
    /// # Errors
    /// If objects are missing or damaged, the path to the version alters its schema, or the store fails.
    ///
    /// # Cancel safety
    /// The future may be dropped at any time; it only reads.
    pub async fn range_reader(&self, commit: &Commit, limits: &Limits) -> Result<RangeReader, StoreError> {
        let mut attempts = PlanAttempts::at_most(self.policy().plans.plan_attempts);
        loop {
            match self.range_reader_once(commit, limits, &mut attempts).await {
                Err(error) => attempts.go_on(error)?,
                reader => return reader,
            }
        }
    }

    async fn range_reader_once(
        &self,
        commit: &Commit,
        limits: &Limits,
        attempts: &mut PlanAttempts,
    ) -> Result<RangeReader, StoreError> {
        let version = commit.record.version;
        let (history, plan) = self.plan_to(None, commit, attempts.excluded(), false).await?;
        attempts.take(&history, &plan);
        let no_path = || PlanError::NoPath { target: version, missing: Vec::new() };
        let Some((EdgeKind::Anchor(anchor), edges)) =
            plan.edges.split_first().map(|(first, rest)| (&first.kind, rest))
        else {
            return Err(no_path().into());
        };
        self.ranges_from(commit, anchor, edges, limits).await
    }

    /// Opens a version for reading ranges by way of an anchor and the deltas that follow it.
    pub(crate) async fn ranges_from(
        &self,
        commit: &Commit,
        anchor: &Anchor,
        edges: &[Edge],
        limits: &Limits,
    ) -> Result<RangeReader, StoreError> {
        let version = commit.record.version;
        let no_path = || PlanError::NoPath { target: version, missing: Vec::new() };
        let bucket = self.bucket().clone();
        let fetched = AtomicU64::new(0);
        let files = open_anchor(&bucket, anchor, limits, &fetched).await?;
        let tensors = files.iter().flat_map(|file| file.header.tensors()).map(|(spec, _)| spec.clone());
        let damaged = |what: &str| StoreError::PatchDiffers { version, what: what.into() };
        let schema = Schema::new(tensors.collect()).map_err(|e| damaged(&e.to_string()))?;
        if schema.digest() != commit.record.contents.schema {
            return Err(damaged("the schema has changed since the newest anchor"));
        }
        let hash = commit.record.contents.state.leaf_hash;
        let table_bytes = schema.chunk_count().saturating_mul(hash.digest_len() as u64);
        let table = get_object(&bucket, &anchor.leaves, table_bytes, &fetched).await?;
        let mut leaves = LeafTable::from_bytes(&schema, hash, table.into())
            .ok_or_else(|| damaged("the leaf table of the anchor has another size than its schema"))?;
        let mut deltas = Vec::new();
        for edge in edges {
            let EdgeKind::Delta(delta) = &edge.kind else { return Err(no_path().into()) };
            // Any number of patches may name the same schema.
            let left = &AtomicU64::new(limits.metadata_bytes);
            let patches =
                buffered_all(&delta.patches, bucket.policy().transfers.parallel_requests, |patch| {
                    open_patch(&bucket, patch, &schema, (limits, left), &fetched)
                })
                .await?;
            for patch in &patches {
                let index = patch.access.index();
                for (number, address) in index.addresses().iter().enumerate() {
                    let whole = patch.to_whole(&schema, *address);
                    let known = whole.filter(|address| leaves.get(*address).is_some());
                    let (address, leaf) = known
                        .zip(index.leaf(number))
                        .ok_or_else(|| damaged("its index names a chunk that the version does not have"))?;
                    // A leaf of another hash is ignored: the state digest tells.
                    leaves.set(address, leaf);
                }
            }
            deltas.push(patches);
        }
        let expected = commit.record.contents.state;
        let found = TaggedStateDigest { leaf_hash: hash, digest: leaves.state_digest(&schema) };
        if found != expected {
            return Err(damaged(&format!("the state of its leaves is {found}, the commit says {expected}")));
        }
        Ok(RangeReader { bucket, commit: commit.clone(), schema, leaves, files, deltas, fetched })
    }
}

impl RangeReader {
    /// The version.
    pub fn version(&self) -> Version {
        self.commit.record.version
    }

    /// The tensors of the version.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// The verified digest of a chunk.
    pub fn leaf(&self, address: ChunkAddress) -> Option<LeafDigest> {
        self.leaves.get(address)
    }

    /// Bytes fetched so far, those for opening included.
    pub fn fetched_bytes(&self) -> u64 {
        self.fetched.load(Ordering::Relaxed)
    }

    /// The bytes of a whole tensor.
    ///
    /// # Errors
    /// As [`RangeReader::read`].
    ///
    /// # Cancel safety
    /// The future may be dropped at any time; it only reads.
    pub async fn read_tensor(&self, name: &str) -> Result<Vec<u8>, StoreError> {
        let len = self.find(name)?.1;
        self.read(name, 0..len).await
    }

    /// The bytes of some rows of a tensor: of its outermost dimension.
    ///
    /// # Errors
    /// As [`RangeReader::read`]; also if the tensor has no rows of whole bytes.
    ///
    /// # Cancel safety
    /// The future may be dropped at any time; it only reads.
    pub async fn read_rows(&self, name: &str, rows: Range<u64>) -> Result<Vec<u8>, StoreError> {
        let (index, len) = self.find(name)?;
        let count = self.schema.get(index).and_then(|spec| spec.shape.first().copied()).unwrap_or(0);
        let outside = || self.outside(name, &rows);
        let row =
            len.checked_div(count).filter(|row| row.saturating_mul(count) == len).ok_or_else(outside)?;
        let start = rows.start.checked_mul(row).ok_or_else(outside)?;
        let end = rows.end.checked_mul(row).ok_or_else(outside)?;
        self.read(name, start..end).await
    }

    /// Some bytes of a tensor.
    ///
    /// # Errors
    /// If the version has no such tensor or bytes, what was fetched does not verify, or the store fails.
    ///
    /// # Cancel safety
    /// The future may be dropped at any time; it only reads.
    pub async fn read(&self, name: &str, bytes: Range<u64>) -> Result<Vec<u8>, StoreError> {
        let (tensor, len) = self.find(name)?;
        if bytes.start > bytes.end || bytes.end > len {
            return Err(self.outside(name, &bytes));
        }
        if bytes.is_empty() {
            return Ok(Vec::new());
        }
        let chunk = CHUNK_BYTES as u64;
        let first = bytes.start.div_euclid(chunk);
        let last = bytes.end.saturating_sub(1).div_euclid(chunk);
        let numbers = (first..=last).filter_map(|number| u32::try_from(number).ok());
        let chunks = buffered_all(numbers, self.bucket.policy().transfers.parallel_requests, |number| {
            self.read_chunk(ChunkAddress { tensor, chunk: ChunkIndex(number) })
        })
        .await?;
        let joined = chunks.concat();
        let skip =
            usize::try_from(bytes.start.saturating_sub(first.saturating_mul(chunk))).unwrap_or(usize::MAX);
        let take = usize::try_from(bytes.end.saturating_sub(bytes.start)).unwrap_or(usize::MAX);
        let end = skip.checked_add(take);
        let cut = end.and_then(|end| joined.get(skip..end)).ok_or_else(|| self.outside(name, &bytes))?;
        Ok(cut.to_vec())
    }

    /// The bytes of a chunk, verified.
    ///
    /// # Errors
    /// As [`RangeReader::read`].
    ///
    /// # Cancel safety
    /// The future may be dropped at any time; it only reads.
    pub async fn read_chunk(&self, address: ChunkAddress) -> Result<Vec<u8>, StoreError> {
        let damaged = |name: String, what: String| StoreError::Damaged { name, what };
        let spec = self.schema.get(address.tensor);
        let located = spec.and_then(|spec| Some((spec, spec.chunk_range(address.chunk)?)));
        let (spec, range) = located
            .ok_or_else(|| damaged(format!("chunk {address:?}"), "the version has no such chunk".into()))?;
        let (file, data) = self
            .files
            .iter()
            .find_map(|file| {
                let (_, data) = file.header.tensors().iter().find(|(own, _)| own.name == spec.name)?;
                Some((file, data))
            })
            .ok_or_else(|| damaged(spec.name.clone(), "no file of the anchor has it".into()))?;
        let start = data.start.saturating_add(range.start);
        let end = data.start.saturating_add(range.end);
        let base = self.get(&file.object, start..end).await?;
        let mut bytes = base.to_vec();
        let mut target = vec![0; bytes.len()];
        for patch in self.deltas.iter().flatten() {
            if self.patch_chunk(patch, &spec.name, address, &bytes, &mut target).await? {
                std::mem::swap(&mut bytes, &mut target);
            }
        }
        if self.leaves.get(address) != Some(leaf_digest(self.leaves.hash(), &bytes)) {
            let what = format!("chunk {} of tensor {:?} does not verify", address.chunk.0, spec.name);
            return Err(damaged(file.object.key.to_string(), what));
        }
        Ok(bytes)
    }

    /// Applies what a patch says of a chunk, if it says anything.
    async fn patch_chunk(
        &self,
        patch: &RemotePatch,
        name: &str,
        address: ChunkAddress,
        base: &[u8],
        target: &mut [u8],
    ) -> Result<bool, StoreError> {
        let own = match &patch.schema {
            None => Some(address.tensor),
            Some(schema) => schema.find(name),
        };
        let index = patch.access.index();
        let record = own.and_then(|tensor| index.find(ChunkAddress { tensor, chunk: address.chunk }));
        let Some(block) = record.and_then(|record| index.block_of(record)) else { return Ok(false) };
        let Some(want) = patch.access.block_want(block) else { return Ok(false) };
        let bytes = self.get(&patch.object, want.offset..want.offset.saturating_add(want.len)).await?;
        let block = patch.access.block(block, &bytes).map_err(ApplyError::from)?;
        let own = own.map(|tensor| ChunkAddress { tensor, chunk: address.chunk });
        let record = block.and_then(|block| block.records().find(|record| Some(record.address) == own));
        let Some(record) = record else { return Ok(false) };
        let header = patch.access.header();
        let format = self
            .schema
            .get(address.tensor)
            .map(|spec| spec.dtype.element_format())
            .unwrap_or(ElementFormat::W8);
        let cx = ChunkContext { format, profile: header.profile, leaf_hash: header.leaf_hash };
        ChunkDecoder::new().decode(cx, record.encoding, record.payload, Some(base), target).map_err(
            |error| StoreError::Damaged {
                name: patch.object.key.to_string(),
                what: format!("chunk {} of tensor {name:?} does not decode: {error}", address.chunk.0),
            },
        )?;
        Ok(true)
    }

    async fn get(&self, object: &ObjectRef, range: Range<u64>) -> Result<Bytes, StoreError> {
        get_range(&self.bucket, object, range, &self.fetched).await
    }

    fn find(&self, name: &str) -> Result<(TensorIndex, u64), StoreError> {
        let found = self.schema.find(name).and_then(|index| Some((index, self.schema.get(index)?.byte_len)));
        found.ok_or_else(|| StoreError::NoSuchRange {
            version: self.version(),
            what: format!("it has no tensor {name:?}"),
        })
    }

    fn outside(&self, name: &str, range: &Range<u64>) -> StoreError {
        StoreError::NoSuchRange {
            version: self.version(),
            what: format!("tensor {name:?} has no range {}..{}", range.start, range.end),
        }
    }
}

impl RemotePatch {
    /// The address in the whole version of a chunk of the patch.
    fn to_whole(&self, whole: &Schema, address: ChunkAddress) -> Option<ChunkAddress> {
        let tensor = match &self.schema {
            None => address.tensor,
            Some(own) => whole.find(&own.get(address.tensor)?.name)?,
        };
        Some(ChunkAddress { tensor, chunk: address.chunk })
    }
}

/// Takes `bytes` of what is left, if there is as much.
fn take(left: &AtomicU64, bytes: u64) -> Result<(), ()> {
    let less = |left: u64| left.checked_sub(bytes);
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).map(|_| ()).map_err(|_| ())
}

async fn get_range(
    bucket: &Bucket,
    object: &ObjectRef,
    range: Range<u64>,
    fetched: &AtomicU64,
) -> Result<Bytes, StoreError> {
    let len = range.end.saturating_sub(range.start);
    let bytes = bucket.get_range(object.key.as_str(), range).await?;
    fetched.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    if bytes.len() as u64 != len {
        return Err(StoreError::Damaged {
            name: object.key.to_string(),
            what: format!("{len} bytes were asked for, {} came", bytes.len()),
        });
    }
    Ok(bytes)
}

/// A whole small object, verified.
async fn get_object(
    bucket: &Bucket,
    object: &ObjectRef,
    max: u64,
    fetched: &AtomicU64,
) -> Result<Bytes, StoreError> {
    let name = object.key.as_str();
    let bytes = bucket.get_small(name, object.bytes.min(max)).await?;
    let bytes = bytes.ok_or_else(|| StoreError::Missing { name: name.into() })?;
    fetched.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    let found = ObjectDigest::of(&bytes);
    if found != object.blake3 {
        let what = format!("expected BLAKE3 {}, found {found}", object.blake3);
        return Err(StoreError::Damaged { name: name.into(), what });
    }
    Ok(bytes)
}

async fn open_anchor(
    bucket: &Bucket,
    anchor: &Anchor,
    limits: &Limits,
    fetched: &AtomicU64,
) -> Result<Vec<AnchorFile>, StoreError> {
    let weights = anchor.files.iter().filter(|file| file.name.ends_with(".safetensors"));
    // Any number of files may be the same object.
    let left = &AtomicU64::new(limits.header_bytes);
    buffered_all(weights, bucket.policy().transfers.parallel_requests, |file| async move {
        let object = &file.object;
        let broken = |what: String| StoreError::Damaged { name: object.key.to_string(), what };
        let head = get_range(bucket, object, 0..8.min(object.bytes), fetched).await?;
        let json = head.first_chunk::<8>().map(|len| u64::from_le_bytes(*len));
        let len = json.and_then(|json| json.checked_add(8)).filter(|len| *len <= object.bytes);
        let len = len.ok_or_else(|| broken("it has no header".into()))?;
        take(left, len).map_err(|()| {
            broken(format!("its header has {len} bytes, over the limit of {} together", limits.header_bytes))
        })?;
        let bytes = get_range(bucket, object, 0..len, fetched).await?;
        let header = SafetensorsHeader::parse(&bytes, limits)
            .and_then(|header| header.check_file_len(object.bytes).map(|()| header))
            .map_err(|e| broken(e.to_string()))?;
        Ok(AnchorFile { object: object.clone(), header })
    })
    .await
}

async fn open_patch(
    bucket: &Bucket,
    patch: &PatchObject,
    whole: &Schema,
    (limits, left): (&Limits, &AtomicU64),
    fetched: &AtomicU64,
) -> Result<RemotePatch, StoreError> {
    let object = patch.object.clone();
    let schema = match &patch.schema {
        None => None,
        Some(schema) => {
            take(left, schema.bytes).map_err(|()| StoreError::Damaged {
                name: schema.key.to_string(),
                what: format!("the schemas of a version have over {} bytes together", limits.metadata_bytes),
            })?;
            let bytes = get_object(bucket, schema, limits.metadata_bytes, fetched).await?;
            Some(Schema::from_bytes(&bytes, 0, limits).map_err(ApplyError::from)?)
        }
    };
    let mut reader = RandomReader::new(object.bytes, limits);
    while let Need::Bytes(want) = reader.need() {
        let end = want.offset.saturating_add(want.len);
        let bytes = get_range(bucket, &object, want.offset..end, fetched).await?;
        reader.feed(&bytes).map_err(ApplyError::from)?;
    }
    let own = schema.as_ref().unwrap_or(whole);
    let access = reader.with_grid(Grid::new(own, Some(own))).map_err(ApplyError::from)?;
    Ok(RemotePatch { object, access, schema })
}
