//! The journal of an application in place: what turns a checkpoint, old, new or torn between, into the
//! target.
//!
//! It is itself a patch of the `direct` profile: it gives positions and absolute values, so that applying it
//! again, to chunks that are old, new or torn between, always ends at the target. It lists schema and layout,
//! so that it can be finished even where the header of a file was torn.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use tensorpatch_checkpoint::{
    Checkpoint, CheckpointError, CheckpointPatcher, ConfinedPath, HeaderError, HeaderViolation, MappedFile,
    Placement,
};
use tensorpatch_codec::{ChunkDecoder, ChunkEncoder, leaf_digest};
use tensorpatch_format::{
    BlockBuilder, CHUNK_BYTES, ChunkAddress, Ends, Layout, Limits, Profile, Schema, StateDigest,
    TaggedStateDigest,
};

use crate::chain::BoundChain;
use crate::emit::{Emitter, Head};
use crate::parallel::ordered;
use crate::patch::BoundPatch;
use crate::spans::{Spans, chunk_len};
use crate::walk::{Unchanged, Walk, Walked};
use crate::{ApplyError, DiffError, LeafTable, Options, Patch, Progress, State};

/// Verifies base and target and writes the journal that makes the one the other, durably, to `file`, which is
/// at `path`. If there is an `inverse`, the patch that makes the base of the target is written there.
pub(crate) fn write_journal(
    base: &Checkpoint,
    chain: &BoundChain<'_>,
    layout: &Layout,
    (path, file): (&Path, &File),
    inverse: Option<(&Path, &File)>,
    options: &Options,
    progress: Progress<'_>,
) -> Result<Walked, ApplyError> {
    let failed = |source| journal_error(path, source);
    let mut out = BufWriter::with_capacity(CHUNK_BYTES, file);
    let mut back = match inverse {
        None => Box::new(io::sink()) as Box<dyn Write>,
        Some((_, file)) => Box::new(BufWriter::with_capacity(CHUNK_BYTES, file)),
    };
    let back_failed = |source| journal_error(inverse.map_or(path, |(path, _)| path), source);
    let back_head = Head {
        full: false,
        profile: Profile::Direct,
        leaf_hash: chain.leaf_hash(),
        schema: None,
        layout: (layout != base.layout()).then_some(base.layout()),
    };
    let back_header = back_head.header(true);
    let mut backwards = Emitter::new(back_head, &mut back);
    let head = Head {
        full: false,
        profile: Profile::Direct,
        leaf_hash: chain.leaf_hash(),
        schema: Some(chain.schema()),
        layout: Some(layout),
    };
    let header = head.header(true);
    let mut emitter = Emitter::new(head, &mut out);
    let state = State::of(base)?;
    let walk = Walk { base: Some(&state), chain, options, progress, unchanged: Unchanged::InPlace };
    let walked = walk.run(
        ChunkEncoder::new,
        |encoder, chunk, blocks: &mut [Option<BlockBuilder>; 2]| {
            let (true, Some((base, base_leaf))) = (chunk.changed, chunk.base) else { return Ok(()) };
            if !encoder.find(chunk.context, base, chunk.bytes) {
                return Ok(());
            }
            let mut push = |block: &mut Option<BlockBuilder>, header, target: &[u8], leaf| {
                let block = block.get_or_insert_with(|| BlockBuilder::new(header));
                let pushed = block.push_with(chunk.address, |payload| {
                    Some((encoder.encode_found(chunk.context, target, payload), leaf))
                });
                pushed.map_err(|error| failed(io::Error::other(error)))
            };
            let [there, back] = blocks;
            push(there, &header, chunk.bytes, chunk.leaf)?;
            if inverse.is_some() { push(back, &back_header, base, base_leaf) } else { Ok(()) }
        },
        |[there, back]| {
            write_block(&mut emitter, there).map_err(failed)?;
            write_block(&mut backwards, back).map_err(back_failed)
        },
    )?;
    if walked.base == walked.target {
        // Nothing is altered, and a patch that says so lists no schema. There is no journal then.
        return Ok(walked);
    }
    let ends = Ends {
        base_state: walked.base,
        target_state: walked.target,
        target_schema: chain.schema().digest(),
        base_layout: base.layout().digest(),
        target_layout: layout.digest(),
    };
    emitter.finish(&ends).map_err(|error| failed(io::Error::other(error)))?;
    let back_ends = Ends {
        base_state: walked.target,
        target_state: walked.base,
        target_schema: chain.schema().digest(),
        base_layout: layout.digest(),
        target_layout: base.layout().digest(),
    };
    backwards.finish(&back_ends).map_err(|error| back_failed(io::Error::other(error)))?;
    back.flush().map_err(back_failed)?;
    out.into_inner().map_err(|error| failed(error.into_error()))?;
    if options.syncs() {
        file.sync_all().map_err(failed)?;
    }
    Ok(walked)
}

/// Writes a block, unless it is empty: a record that decodes to what the base has already leaves it so.
fn write_block(emitter: &mut Emitter<'_>, block: Option<BlockBuilder>) -> io::Result<()> {
    let Some(block) = block.filter(|block| !block.is_empty()) else { return Ok(()) };
    let written = block.finish().map_err(DiffError::from).and_then(|block| emitter.block(block));
    written.map_err(io::Error::other)
}

/// A finished journal, read back: what replaying needs is in it, whatever became of the checkpoint.
pub(crate) struct Journal<'a> {
    checkpoint: &'a Path,
    path: &'a Path,
    patch: &'a Patch<'a>,
    schema: &'a Schema,
    layout: &'a Layout,
    placement: Placement,
}

/// What a thread that replays works with.
struct Scratch {
    decoder: ChunkDecoder,
    chunk: Vec<u8>,
}

impl Scratch {
    fn new() -> Self {
        Self { decoder: ChunkDecoder::new(), chunk: vec![0; CHUNK_BYTES] }
    }
}

impl Journal<'_> {
    /// Reads the journal in `file`, which is at `path`, and hands it to `use_it`.
    pub(crate) fn read<T>(
        checkpoint: &Path,
        path: &Path,
        file: &MappedFile,
        options: &Options,
        use_it: impl FnOnce(&Journal<'_>) -> Result<T, ApplyError>,
    ) -> Result<T, ApplyError> {
        let limits = limits(&options.limits);
        let patch = Patch::parse(file.bytes(), &limits).map_err(|error| damaged(path, error.into()))?;
        let (Some(schema), Some(layout)) = (patch.listed_schema(), patch.listed_layout()) else {
            let missing = ApplyError::NotInPlace("the journal does not list schema and layout".into());
            return Err(damaged(path, missing));
        };
        let placement =
            Placement::new(schema, layout, &limits).map_err(|error| damaged(path, error.into()))?;
        use_it(&Journal { checkpoint, path, patch: &patch, schema, layout, placement })
    }

    /// The digest of what the checkpoint becomes.
    pub(crate) fn target(&self) -> TaggedStateDigest {
        TaggedStateDigest { leaf_hash: self.patch.leaf_hash(), digest: self.patch.target_digest() }
    }

    /// Opens and locks the files of the checkpoint. The locks lie in the directory `locks`.
    pub(crate) fn open(&self, locks: &ConfinedPath) -> Result<CheckpointPatcher, ApplyError> {
        let opened = CheckpointPatcher::resume(self.checkpoint, self.layout, &self.placement, Some(locks));
        opened.map_err(|error| match error {
            CheckpointError::Header {
                source: HeaderError { violation: HeaderViolation::FileLength { .. }, .. },
                ..
            } => self.altered(error.into()),
            error => error.into(),
        })
    }

    fn bind(&self) -> Result<BoundPatch<'_>, ApplyError> {
        self.patch.bind(Some(self.schema)).map_err(|error| damaged(self.path, error))
    }

    /// A chunk as it is now.
    fn read_chunk<'s>(
        &self,
        patcher: &CheckpointPatcher,
        address: ChunkAddress,
        chunk: &'s mut [u8],
    ) -> Result<&'s mut [u8], ApplyError> {
        let chunk = chunk.get_mut(..chunk_len(self.schema, address)).unwrap_or_default();
        patcher.read(address.tensor, offset(address), chunk)?;
        Ok(chunk)
    }

    /// Says that replaying makes the whole checkpoint the target, by computing what it would be. Alters
    /// nothing.
    pub(crate) fn foresee(
        &self,
        patcher: &CheckpointPatcher,
        options: &Options,
        progress: Progress<'_>,
    ) -> Result<(), ApplyError> {
        let (bound, spans, hash) = (self.bind()?, Spans::new(self.schema), self.patch.leaf_hash());
        let mut leaves = LeafTable::empty(self.schema, hash);
        ordered(
            options.threads,
            spans.all().len(),
            Scratch::new,
            |scratch, span| {
                let mut records = bound.records_from(spans.get(span).next()).iter().peekable();
                let leaf = |address: ChunkAddress| {
                    let chunk = self.read_chunk(patcher, address, &mut scratch.chunk)?;
                    let leaf = match records.next_if(|(record, _)| record.address == address) {
                        Some(record) => bound
                            .decode_in_place(&mut scratch.decoder, record, chunk)
                            .map_err(|error| self.altered(error))?,
                        None => leaf_digest(hash, chunk),
                    };
                    Ok((address, leaf))
                };
                let leaves = spans.get(span).map(leaf).collect::<Result<Vec<_>, ApplyError>>()?;
                progress.advance(spans.bytes(span))?;
                Ok::<_, ApplyError>(leaves)
            },
            |_, span| {
                span.into_iter().for_each(|(address, leaf)| leaves.set(address, leaf));
                Ok(())
            },
        )?;
        bound.check_target(leaves.state_digest(self.schema)).map_err(|error| self.altered(error))
    }

    /// Alters the checkpoint as the journal says, durably. May be repeated, also after it was interrupted.
    pub(crate) fn replay(&self, patcher: &CheckpointPatcher, options: &Options) -> Result<(), ApplyError> {
        if options.syncs() {
            patcher.syncing_behind(|| self.replay_chunks(patcher, options))?;
        } else {
            self.replay_chunks(patcher, options)?;
        }
        // After the chunks, so that a checkpoint whose chunks are refused keeps its headers.
        for (file, layout) in self.layout.files().iter().enumerate() {
            patcher.write_header(file, &layout.header)?;
        }
        if options.syncs() {
            patcher.sync()?;
        }
        Ok(())
    }

    fn replay_chunks(&self, patcher: &CheckpointPatcher, options: &Options) -> Result<(), ApplyError> {
        let (bound, spans) = (self.bind()?, Spans::new(self.schema));
        ordered(
            options.threads,
            spans.all().len(),
            Scratch::new,
            |scratch, span| {
                let records = bound.records_from(spans.get(span).next()).iter();
                let end = spans.get(span).last();
                for record in records.take_while(|(record, _)| Some(record.address) <= end) {
                    let address = record.0.address;
                    let chunk = self.read_chunk(patcher, address, &mut scratch.chunk)?;
                    bound
                        .decode_in_place(&mut scratch.decoder, record, chunk)
                        .map_err(|error| self.altered(error))?;
                    patcher.write(address.tensor, offset(address), chunk)?;
                }
                Ok::<_, ApplyError>(())
            },
            |_, ()| Ok(()),
        )
    }

    /// Hashes the whole checkpoint, compares with what the journal promises, and returns the digest.
    pub(crate) fn verify(&self, options: &Options) -> Result<StateDigest, ApplyError> {
        let opened = Checkpoint::open(self.checkpoint, &options.limits)?;
        let (state, hash) = (State::unsettled(&opened), self.patch.leaf_hash());
        let leaves = LeafTable::of(&state, hash, options.threads, Progress::none())?;
        let found = leaves.state_digest(opened.schema());
        self.bind()?.check_target(found).map_err(|error| self.altered(error))?;
        Ok(found)
    }

    /// The checksums of the journal have been found right, so that what does not fit it is the checkpoint.
    fn altered(&self, source: ApplyError) -> ApplyError {
        let (checkpoint, journal) = (self.checkpoint.to_owned(), self.path.to_owned());
        ApplyError::AlteredSince { checkpoint, journal, source: Box::new(source) }
    }
}

/// Where a chunk begins in its tensor.
pub(crate) fn offset(address: ChunkAddress) -> u64 {
    u64::from(address.chunk.0) * CHUNK_BYTES as u64
}

/// A journal is larger than the patch that it was made from, and what may be asked for by that says nothing
/// about it.
fn limits(of_patches: &Limits) -> Limits {
    let mut limits = Limits::default();
    limits.tensors = limits.tensors.max(of_patches.tensors);
    limits.files = limits.files.max(of_patches.files);
    limits.metadata_bytes = limits.metadata_bytes.max(of_patches.metadata_bytes);
    limits.section_bytes = limits.section_bytes.max(of_patches.section_bytes);
    limits.header_bytes = limits.header_bytes.max(of_patches.header_bytes);
    limits.state_bytes = limits.state_bytes.max(of_patches.state_bytes);
    limits
}

fn damaged(path: &Path, source: ApplyError) -> ApplyError {
    ApplyError::DamagedJournal { path: path.to_owned(), source: Box::new(source) }
}

pub(crate) fn journal_error(path: &Path, source: io::Error) -> ApplyError {
    ApplyError::Journal { path: path.to_owned(), source }
}
