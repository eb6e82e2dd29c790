//! The patches of a commit of several ranks, merged into one (spec/stream.md section 8).

use std::fs::File;
use std::io::{BufWriter, Write};

use tensorpatch_checkpoint::{ConfinedPath, MappedFile};
use tensorpatch_delta::{ApplyError, Patch};
use tensorpatch_format::{
    BlockBuilder, ChunkAddress, ChunkRecord, Ends, Kind, LayoutDigest, LeafDigest, Limits, Listing,
    PatchHeader, PatchWriter, Profile, Schema, SchemaDigest, TaggedStateDigest, TensorIndex,
};
use tensorpatch_stream::Version;

use crate::error::StoreError;
use crate::local;

/// Bytes of payloads after which a block is closed. A patch may have any blocks; these keep a reader's
/// buffers small.
const BLOCK_BYTES: usize = 8 << 20;

/// The patch of a rank on local disk, and the file with the schema of its own tensors.
#[derive(Debug, Clone)]
pub(crate) struct RankPatch {
    pub(crate) patch: ConfinedPath,
    pub(crate) schema: ConfinedPath,
}

/// What the commits say of the merged patch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Whole {
    pub(crate) version: Version,
    pub(crate) base: TaggedStateDigest,
    pub(crate) target: TaggedStateDigest,
    pub(crate) schema: SchemaDigest,
    pub(crate) layout: LayoutDigest,
}

/// Merges `patches` into one patch, written to `to`. Blocking.
///
/// Whether it leads to the target shows when it is applied; here it is checked that every tensor is in one
/// patch.
pub(crate) fn merge(
    ranks: &[RankPatch],
    whole: Whole,
    to: &ConfinedPath,
    limits: &Limits,
) -> Result<(), StoreError> {
    let differs = |what: String| StoreError::PatchDiffers { version: whole.version, what };
    let (mut schemas, mut left) = (Vec::new(), limits.metadata_bytes);
    for rank in ranks {
        // Any number of patches may name the same schema.
        let len = local::file_len(&rank.schema)?;
        left = left.checked_sub(len).ok_or_else(|| {
            differs(format!("the schemas of its patches have over {} bytes together", limits.metadata_bytes))
        })?;
        let bytes = local::read_own(&rank.schema, len)?;
        let bytes = bytes.ok_or_else(|| StoreError::Local {
            path: rank.schema.path(),
            source: std::io::ErrorKind::NotFound.into(),
        })?;
        schemas.push(Schema::from_bytes(&bytes, 0, limits).map_err(ApplyError::from)?);
    }
    let tensors = schemas.iter().flat_map(|schema| schema.tensors().iter().cloned()).collect();
    let schema = Schema::new(tensors).map_err(|e| differs(e.to_string()))?;
    if schema.digest() != whole.schema {
        return Err(differs("the tensors of its patches are not those of the version".into()));
    }
    let files: Vec<MappedFile> =
        ranks.iter().map(|rank| MappedFile::open_confined(&rank.patch)).collect::<Result<_, _>>()?;
    let patches: Vec<Patch<'_>> = files
        .iter()
        .map(|file| Patch::parse(file.bytes(), limits).map_err(ApplyError::from))
        .collect::<Result<_, _>>()?;
    let mut bound = Vec::new();
    for (patch, own) in patches.iter().zip(&schemas) {
        if patch.listed_schema().is_some() || patch.listed_layout().is_some() || patch.kind() == Kind::Full {
            return Err(differs("a patch of a rank alters the schema or the layout".into()));
        }
        if patch.leaf_hash() != whole.target.leaf_hash {
            return Err(differs(format!("the leaf hash of a rank is {}", patch.leaf_hash())));
        }
        bound.push(patch.bind(Some(own))?);
    }
    let mut records: Vec<(ChunkAddress, ChunkRecord<'_>, LeafDigest)> = Vec::new();
    for (patch, own) in bound.iter().zip(&schemas) {
        for (record, leaf) in patch.records() {
            // Every name is there: the whole schema is made of theirs.
            let name = own.get(record.address.tensor).map(|spec| spec.name.as_str()).unwrap_or_default();
            let tensor: TensorIndex =
                schema.find(name).ok_or_else(|| differs(format!("{name:?} is lost")))?;
            records.push((ChunkAddress { tensor, chunk: record.address.chunk }, *record, *leaf));
        }
    }
    records.sort_by_key(|(address, ..)| *address);
    let is_direct = patches.iter().all(|patch| patch.profile() == Profile::Direct);
    let profile = if is_direct { Profile::Direct } else { Profile::Compact };
    let kind = if whole.base == whole.target { Kind::Empty } else { Kind::Delta };
    let header = PatchHeader::new(kind, profile, whole.target.leaf_hash);
    let ends = Ends {
        base_state: whole.base.digest,
        target_state: whole.target.digest,
        target_schema: whole.schema,
        base_layout: whole.layout,
        target_layout: whole.layout,
    };
    let file = to.replace().map_err(StoreError::at(to))?;
    write(&records, &header, &ends, file).map_err(|error| match error {
        Unwritable::File(source) => StoreError::local(to.path(), source),
        Unwritable::Patch(error) => differs(error.to_string()),
    })
}

#[derive(Debug, thiserror::Error)]
enum Unwritable {
    #[error(transparent)]
    File(#[from] std::io::Error),
    #[error(transparent)]
    Patch(#[from] tensorpatch_format::WriteError),
}

fn write(
    records: &[(ChunkAddress, ChunkRecord<'_>, LeafDigest)],
    header: &PatchHeader,
    ends: &Ends,
    file: File,
) -> Result<(), Unwritable> {
    let mut out = BufWriter::new(file);
    let (writer, bytes) = PatchWriter::start(header);
    out.write_all(&bytes)?;
    let (writer, bytes) = writer.schema(&Listing::Same)?;
    out.write_all(&bytes)?;
    let (mut writer, bytes) = writer.layout(&Listing::Same)?;
    out.write_all(&bytes)?;
    let (mut block, mut bytes) = (BlockBuilder::new(header), 0_usize);
    for (address, record, leaf) in records {
        block.push(*address, record.encoding, record.payload, *leaf)?;
        bytes = bytes.saturating_add(record.payload.len());
        if bytes >= BLOCK_BYTES {
            let full = std::mem::replace(&mut block, BlockBuilder::new(header));
            out.write_all(&writer.block(full.finish()?)?)?;
            bytes = 0;
        }
    }
    if !block.is_empty() {
        out.write_all(&writer.block(block.finish()?)?)?;
    }
    let (_, bytes) = writer.finish(ends)?;
    out.write_all(&bytes)?;
    out.flush()?;
    Ok(())
}
