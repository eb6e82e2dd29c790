//! Altering a checkpoint where it lies, so that a crash at any instant leaves it at the old or the new version.
//!
//! Nothing is altered before base and target are verified and a journal is on disk. The journal is itself a patch of the
//! `direct` profile: it gives positions and absolute values, so that applying it again, to chunks that are old, new
//! or torn between, always ends at the target. It lists schema and layout, so that it can be finished even where the header
//! of a file was torn.

use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

use tensorpatch_checkpoint::{Checkpoint, CheckpointPatcher, MappedFile, Placement};
use tensorpatch_codec::{ChunkContext, ChunkDecoder, ChunkEncoder};
use tensorpatch_format::{
    BlockBuilder, CHUNK_BYTES, Ends, Kind, Layout, LeafHash, Profile, Schema, StateDigest, TensorIndex,
};

use crate::apply::{Walked, bind, walk};
use crate::emit::{Emitter, Head};
use crate::parallel::ordered;
use crate::patch::BoundPatch;
use crate::spans::{Spans, chunk_len};
use crate::{ApplyError, ApplyReport, DiffError, LeafTable, Options, Patch, Progress, State};

/// What [`recover`] found and did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Recovery {
    /// No application was interrupted.
    Nothing,
    /// An application was interrupted before it altered anything; its beginnings were removed.
    Dropped,
    /// An application was interrupted while it altered the checkpoint; it is finished and verified now.
    Finished {
        /// The digest of the checkpoint now.
        target: StateDigest,
    },
}

/// Turns the checkpoint at `checkpoint` into the target of `patch`, in place: [`prepare_in_place`] and then
/// [`activate_in_place`].
///
/// # Errors
/// As those two. If writing fails half way, the journal stays, and so does the duty to [`recover`].
pub fn apply_in_place(
    checkpoint: &Path,
    patch: &Patch<'_>,
    journal: &Path,
    options: &Options,
    progress: Progress<'_>,
) -> Result<ApplyReport, ApplyError> {
    let report = prepare_in_place(checkpoint, patch, journal, options, progress)?;
    activate_in_place(checkpoint, journal, options)?;
    Ok(report)
}

/// Verifies that `patch` turns the checkpoint into its target, and writes the journal that does it, durably, to `journal`.
///
/// The checkpoint is only read, so that it may serve meanwhile. `journal` should lie on the file system of the checkpoint.
/// Where nothing is to be altered, no journal is written.
///
/// # Errors
/// If the patch does not fit, is broken, or moves tensors within the files ([`ApplyError::NotInPlace`]), or the files must not
/// be written. Then there is no journal.
pub fn prepare_in_place(
    checkpoint: &Path,
    patch: &Patch<'_>,
    journal: &Path,
    options: &Options,
    progress: Progress<'_>,
) -> Result<ApplyReport, ApplyError> {
    if journal.exists() {
        return Err(ApplyError::Pending { path: journal.to_owned() });
    }
    let base = Checkpoint::open(checkpoint, &options.limits)?;
    let state = State::of(&base)?;
    let bound = bind(patch, Some(&state), options)?;
    let (layout, same_layout) = patch.layout_over(base.layout());
    check_in_place(&base, &bound, layout, options)?;
    // A checkpoint that must not be written is found out before the work, and nobody else patches it meanwhile.
    let _lock = CheckpointPatcher::open(&base)?;

    let partial = partial_path(journal);
    let walked = if patch.kind() == Kind::Empty {
        if layout != base.layout() {
            return Err(ApplyError::NotInPlace("it alters nothing but headers".into()));
        }
        walk(Some(&state), &bound, options, progress, || (), |(), _, (): &mut ()| Ok(()), |()| Ok(()))?
    } else {
        let walked = write_journal(&base, &bound, layout, &partial, options, progress).inspect_err(|_| {
            // Best effort: only a finished journal gets the journal's name, and recovery sweeps this one.
            let _ = fs::remove_file(&partial);
        })?;
        fs::rename(&partial, journal)
            .and_then(|()| sync_parent(journal))
            .map_err(|source| journal_error(journal, source))?;
        walked
    };
    Ok(ApplyReport {
        base: walked.base,
        target: walked.target,
        changed_chunks: bound.records().len() as u64,
        state_bytes: base.schema().state_bytes(),
        same_layout,
        leaves: walked.leaves,
    })
}

/// Alters the checkpoint as a prepared journal says, and removes the journal. Does nothing where there is none.
///
/// Each chunk that is altered is verified before it is written. If the process dies on the way, the journal stays, and
/// [`recover`] finishes the work.
///
/// # Errors
/// [`ApplyError::DamagedJournal`] if the journal, or a chunk that it alters, is not as it was when it was prepared; or if the
/// operating system refuses. The journal then stays.
pub fn activate_in_place(checkpoint: &Path, journal: &Path, options: &Options) -> Result<(), ApplyError> {
    if !journal.exists() {
        return Ok(());
    }
    Journal::read(journal, options, |journal| journal.replay(checkpoint, options))?;
    remove_journal(journal)
}

/// Finishes an in-place application that was interrupted, or removes its beginnings.
///
/// Safe to call at any time, any number of times.
///
/// # Errors
/// [`ApplyError::DamagedJournal`] if the journal is not what was written, or the finished checkpoint is not the target. The
/// journal then stays where it is.
pub fn recover(checkpoint: &Path, journal: &Path, options: &Options) -> Result<Recovery, ApplyError> {
    let partial = partial_path(journal);
    let begun = partial.exists();
    if begun {
        fs::remove_file(&partial).map_err(|source| journal_error(&partial, source))?;
    }
    if !journal.exists() {
        return Ok(if begun { Recovery::Dropped } else { Recovery::Nothing });
    }
    let target = Journal::read(journal, options, |journal| {
        journal.replay(checkpoint, options)?;
        journal.verify(checkpoint, options)
    })?;
    remove_journal(journal)?;
    Ok(Recovery::Finished { target })
}

/// Refuses a patch that would move tensors within the files: then there is no place to alter.
fn check_in_place(
    base: &Checkpoint,
    bound: &BoundPatch<'_>,
    layout: &Layout,
    options: &Options,
) -> Result<(), ApplyError> {
    let schema = bound.schema();
    if schema != base.schema() {
        return Err(ApplyError::NotInPlace("it adds, removes or reshapes tensors".into()));
    }
    let target = bound.patch().placement(schema, layout, &options.limits)?;
    let names = |layout: &Layout| layout.files().iter().map(|file| file.name.clone()).collect::<Vec<_>>();
    let mut tensors = (0..).map(TensorIndex).take(schema.tensors().len());
    let same_places = tensors.all(|tensor| target.locate(tensor) == base.placement().locate(tensor));
    if names(layout) != names(base.layout()) || !same_places {
        return Err(ApplyError::NotInPlace("it moves tensors within the files or between them".into()));
    }
    if layout.index() != base.layout().index() {
        return Err(ApplyError::NotInPlace("it alters the index of the checkpoint".into()));
    }
    Ok(())
}

/// Verifies base and target and writes the journal that makes the one the other, durably, to `path`.
fn write_journal(
    base: &Checkpoint,
    patch: &BoundPatch<'_>,
    layout: &Layout,
    path: &Path,
    options: &Options,
    progress: Progress<'_>,
) -> Result<Walked, ApplyError> {
    let failed = |source| journal_error(path, source);
    let file = File::create(path).map_err(failed)?;
    let mut out = BufWriter::with_capacity(CHUNK_BYTES, file);
    let head = Head {
        full: false,
        profile: Profile::Direct,
        leaf_hash: patch.patch().leaf_hash(),
        schema: Some(patch.schema()),
        layout: Some(layout),
    };
    let header = head.header(true);
    let mut emitter = Emitter::new(head, &mut out);
    let walked = walk(
        Some(&State::of(base)?),
        patch,
        options,
        progress,
        ChunkEncoder::new,
        |encoder, chunk, block: &mut Option<BlockBuilder>| {
            let (true, Some(base)) = (chunk.changed, chunk.base) else { return Ok(()) };
            let context = ChunkContext { profile: Profile::Direct, ..chunk.context };
            let block = block.get_or_insert_with(|| BlockBuilder::new(&header));
            let pushed = block.push_with(chunk.address, |payload| {
                let encoded = encoder.encode(context, base, chunk.bytes, None, payload);
                Some((encoded.encoding?, encoded.leaf))
            });
            pushed.map_err(|error| failed(io::Error::other(error)))
        },
        // A record that decodes to what the base has already leaves a block empty.
        |block| match block.filter(|block| !block.is_empty()) {
            Some(block) => {
                let written = block.finish().map_err(DiffError::from).and_then(|block| emitter.block(block));
                written.map_err(|error| failed(io::Error::other(error)))
            }
            None => Ok(()),
        },
    )?;
    let ends = Ends {
        base_state: walked.base,
        target_state: walked.target,
        target_schema: patch.schema().digest(),
        base_layout: base.layout().digest(),
        target_layout: layout.digest(),
    };
    emitter.finish(&ends).map_err(|error| failed(io::Error::other(error)))?;
    out.into_inner().map_err(|error| failed(error.into_error()))?.sync_all().map_err(failed)?;
    Ok(walked)
}

/// A finished journal, read back: what replaying needs is in it, whatever became of the checkpoint.
struct Journal<'a> {
    path: &'a Path,
    patch: &'a Patch<'a>,
    schema: &'a Schema,
    layout: &'a Layout,
    placement: Placement,
}

impl Journal<'_> {
    /// Reads the journal at `path` and hands it to `use_it`.
    fn read<T>(
        path: &Path,
        options: &Options,
        use_it: impl FnOnce(&Journal<'_>) -> Result<T, ApplyError>,
    ) -> Result<T, ApplyError> {
        let file = MappedFile::open(path)?;
        let patch =
            Patch::parse(file.bytes(), &options.limits).map_err(|error| damaged(path, error.into()))?;
        let (Some(schema), Some(layout)) = (patch.listed_schema(), patch.listed_layout()) else {
            let missing = ApplyError::NotInPlace("the journal does not list schema and layout".into());
            return Err(damaged(path, missing));
        };
        let placement =
            Placement::new(schema, layout, &options.limits).map_err(|error| damaged(path, error.into()))?;
        use_it(&Journal { path, patch: &patch, schema, layout, placement })
    }

    /// Alters the checkpoint as the journal says. May be repeated, also after it was interrupted.
    fn replay(&self, checkpoint: &Path, options: &Options) -> Result<(), ApplyError> {
        let patcher = CheckpointPatcher::resume(checkpoint, self.layout, &self.placement)?;
        let bound = self.patch.bind(Some(self.schema)).map_err(|error| damaged(self.path, error))?;
        for (file, layout) in self.layout.files().iter().enumerate() {
            patcher.write_header(file, &layout.header)?;
        }
        let spans = Spans::new(self.schema);
        ordered(
            options.threads,
            spans.all().len(),
            || (ChunkDecoder::new(), vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]),
            |(decoder, old, new), span| {
                let records = bound.records_from(spans.get(span).next()).iter();
                let end = spans.get(span).last();
                for record in records.take_while(|(record, _)| Some(record.address) <= end) {
                    let address = record.0.address;
                    let len = chunk_len(self.schema, address);
                    let (old, new) =
                        (old.get_mut(..len).unwrap_or_default(), new.get_mut(..len).unwrap_or_default());
                    let offset = u64::from(address.chunk.0) * CHUNK_BYTES as u64;
                    patcher.read(address.tensor, offset, old)?;
                    bound
                        .decode(decoder, record, Some(old), new)
                        .map_err(|error| damaged(self.path, error))?;
                    patcher.write(address.tensor, offset, new)?;
                }
                Ok::<_, ApplyError>(())
            },
            |_, ()| Ok(()),
        )?;
        Ok(patcher.sync()?)
    }

    /// Hashes the whole checkpoint, compares with what the journal promises, and returns the digest.
    fn verify(&self, checkpoint: &Path, options: &Options) -> Result<StateDigest, ApplyError> {
        let opened = Checkpoint::open(checkpoint, &options.limits)?;
        let hash: LeafHash = self.patch.leaf_hash();
        let leaves = LeafTable::of(&State::of(&opened)?, hash, options.threads, Progress::none());
        let bound = self.patch.bind(Some(self.schema)).map_err(|error| damaged(self.path, error))?;
        let found = leaves.state_digest(opened.schema());
        bound.check_target(found).map_err(|error| damaged(self.path, error))?;
        Ok(found)
    }
}

fn damaged(path: &Path, source: ApplyError) -> ApplyError {
    ApplyError::DamagedJournal { path: path.to_owned(), source: Box::new(source) }
}

/// Makes a rename or removal in the directory of `path` durable.
fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

/// Where the journal is while it is written. Only a finished journal has the journal's name.
fn partial_path(journal: &Path) -> PathBuf {
    let mut name = journal.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

fn remove_journal(journal: &Path) -> Result<(), ApplyError> {
    fs::remove_file(journal)
        .and_then(|()| sync_parent(journal))
        .map_err(|source| journal_error(journal, source))
}

fn journal_error(path: &Path, source: io::Error) -> ApplyError {
    ApplyError::Journal { path: path.to_owned(), source }
}
