//! From a base and a chain of patches to the chunks of the target, each handed on once and the whole
//! verified.

use tensorpatch_checkpoint::CheckpointPatcher;
use tensorpatch_codec::{ChunkContext, ChunkDecoder, leaf_digest};
use tensorpatch_format::{CHUNK_BYTES, ChunkAddress, ErrorClass, LeafDigest, StateDigest};

use crate::chain::BoundChain;
use crate::continuation::Continuation;
use crate::parallel::ordered;
use crate::patch::BoundPatch;
use crate::spans::{Spans, chunk_len};
use crate::{ApplyError, Chain, LeafTable, Options, Patch, Progress, State};

/// What an application did.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ApplyReport {
    /// The digest of the base, as computed; [`StateDigest::NONE`] for a full patch.
    pub base: StateDigest,
    /// The digest of the target, as computed from the bytes written.
    pub target: StateDigest,
    /// Chunks that the patch changed.
    pub changed_chunks: u64,
    /// Bytes of model that were read and verified.
    pub state_bytes: u64,
    /// Whether the result has the file layout of the publisher's target, so that its files are the same byte
    /// for byte.
    pub same_layout: bool,
    /// The leaf table of the target.
    pub leaves: LeafTable,
}

/// A chunk of the target, decoded and with its digest, on its way out.
pub(crate) struct TargetChunk<'a> {
    pub(crate) address: ChunkAddress,
    pub(crate) bytes: &'a [u8],
    pub(crate) leaf: LeafDigest,
    /// The base's bytes in the same place and their digest, if the tensor continues one.
    pub(crate) base: Option<(&'a [u8], LeafDigest)>,
    /// Whether the patch says anything about the chunk.
    pub(crate) changed: bool,
    pub(crate) context: ChunkContext,
}

/// The digests that come of a walk over base and patch.
pub(crate) struct Walked {
    pub(crate) base: StateDigest,
    pub(crate) target: StateDigest,
    pub(crate) leaves: LeafTable,
    /// Chunks that a patch says something about.
    pub(crate) changed_chunks: u64,
}

/// Hands every chunk of the target that `patch` makes of `base` to `write`, from many threads, in no order:
/// the application for tensors that are not files.
///
/// Returns the leaf table of the target, and only if base and target are the patch's. What was written must
/// not be used before.
///
/// # Errors
/// If the patch does not fit the base, or is broken.
pub fn apply_chunks(
    base: Option<&State<'_>>,
    patch: &Patch<'_>,
    options: &Options,
    progress: Progress<'_>,
    write: &(dyn Fn(ChunkAddress, &[u8]) + Sync),
) -> Result<LeafTable, ApplyError> {
    let bound = bind(patch.into(), base, options)?;
    let visit = |(): &mut (), chunk: TargetChunk<'_>, (): &mut ()| {
        write(chunk.address, chunk.bytes);
        Ok(())
    };
    let walk = Walk { base, chain: &bound, options, progress, unchanged: Unchanged::Copied };
    Ok(walk.run(|| (), visit, |()| Ok(()))?.leaves)
}

/// What becomes of chunks that are the same in base and target.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Unchanged<'a> {
    /// They are verified where they lie: for visitors that do not look at them.
    InPlace,
    /// They are copied before they are verified, and the copy is handed on: what others do to the base
    /// meanwhile is either found out or does not matter.
    Copied,
    /// They are read through the files, as all chunks of the base are: for visitors that write to these
    /// files.
    Read(&'a CheckpointPatcher),
}

/// A walk over a base and a chain of patches.
pub(crate) struct Walk<'a> {
    pub(crate) base: Option<&'a State<'a>>,
    pub(crate) chain: &'a BoundChain<'a>,
    pub(crate) options: &'a Options,
    pub(crate) progress: Progress<'a>,
    pub(crate) unchanged: Unchanged<'a>,
}

impl Walk<'_> {
    /// Decodes every chunk of the chain's target on many threads and hands it to `visit`; what `visit` makes
    /// of the chunks of a span goes to `collect`, in grid order.
    ///
    /// Returns only if the base is that of the first patch, each patch starts where the one before ends, and
    /// the target is that of the last. What `visit` did must not be visible before.
    pub(crate) fn run<V, T: Default + Send>(
        self,
        visitor: impl Fn() -> V + Sync,
        visit: impl Fn(&mut V, TargetChunk<'_>, &mut T) -> Result<(), ApplyError> + Sync,
        mut collect: impl FnMut(T) -> Result<(), ApplyError>,
    ) -> Result<Walked, ApplyError> {
        let Self { base, chain, options, progress, unchanged } = self;
        let (schema, hash) = (chain.schema(), chain.leaf_hash());
        let continuation = Continuation::new(base.map(State::schema), schema);
        let spans = Spans::new(schema);
        let mut leaves = LeafTable::empty(schema, hash);
        let mut base_leaves = base.map(|base| LeafTable::empty(base.schema(), hash));
        let mut changed_chunks = 0_u64;
        let decoder = SpanDecoder { base, chain, continuation: &continuation, spans: &spans, unchanged };

        let walked = ordered(
            options.threads,
            spans.all().len(),
            || (Scratch::default(), visitor()),
            |(scratch, visitor), span| {
                let decoded = decoder.decode(scratch, span, |chunk, out| visit(visitor, chunk, out))?;
                progress.advance(spans.bytes(span))?;
                Ok(decoded)
            },
            |_, span: DecodedSpan<T>| {
                span.target_leaves.iter().for_each(|(address, leaf)| leaves.set(*address, *leaf));
                if let Some(table) = &mut base_leaves {
                    span.base_leaves.iter().for_each(|(address, leaf)| table.set(*address, *leaf));
                }
                changed_chunks = changed_chunks.saturating_add(span.changed_chunks);
                collect(span.out)
            },
        );
        // Against a wrong base a chunk fails to decode before the digests can tell.
        if let Err(error) = walked {
            // Of a base that the visitor writes to, nobody can say any more what it was.
            let base = base.filter(|_| !matches!(unchanged, Unchanged::Read(_)));
            return Err(blame(base, chain.chain().first(), options, error));
        }
        let base = base.zip(base_leaves).map(|(base, mut table)| {
            continuation.hash_left_behind(base, &mut table);
            (base, table)
        });
        chain.check(base.as_ref().map(|(base, table)| (*base, table)), &continuation, &leaves)?;
        let base = base.map_or(StateDigest::NONE, |(base, table)| table.state_digest(base.schema()));
        Ok(Walked { base, target: leaves.state_digest(schema), leaves, changed_chunks })
    }
}

/// Binds a chain to a base. Which chunks must be in a patch depends on the base's schema, so that a wrong
/// base can look like a broken patch: then the error says that it is the base.
pub(crate) fn bind<'p>(
    chain: Chain<'p>,
    base: Option<&State<'p>>,
    options: &Options,
) -> Result<BoundChain<'p>, ApplyError> {
    chain.bind(base.map(State::schema)).map_err(|error| blame(base, chain.first(), options, error))
}

/// Binds a single patch, as [`bind`] does a chain.
pub(crate) fn bind_patch<'p>(
    patch: &'p Patch<'p>,
    base: Option<&State<'p>>,
    options: &Options,
) -> Result<BoundPatch<'p>, ApplyError> {
    patch.bind(base.map(State::schema)).map_err(|error| blame(base, patch, options, error))
}

/// The error that says what really was wrong: the base, if it is not the patch's.
fn blame(base: Option<&State<'_>>, patch: &Patch<'_>, options: &Options, error: ApplyError) -> ApplyError {
    let blamed = matches!(error.class(), Some(ErrorClass::Invalid | ErrorClass::TargetMismatch));
    let Some(base) = base.filter(|_| blamed) else { return error };
    let leaves = LeafTable::of(base, patch.leaf_hash(), options.threads, Progress::none());
    let found = leaves.map(|leaves| leaves.state_digest(base.schema()));
    found.map_err(ApplyError::from).and_then(|found| patch.check_base(found)).err().unwrap_or(error)
}

/// What a thread works with.
struct Scratch {
    decoder: ChunkDecoder,
    target: Vec<u8>,
    /// The base's chunk, where it is read through the files.
    base: Vec<u8>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self { decoder: ChunkDecoder::new(), target: vec![0; CHUNK_BYTES], base: Vec::new() }
    }
}

struct SpanDecoder<'a> {
    base: Option<&'a State<'a>>,
    chain: &'a BoundChain<'a>,
    continuation: &'a Continuation,
    spans: &'a Spans<'a>,
    unchanged: Unchanged<'a>,
}

struct DecodedSpan<T> {
    base_leaves: Vec<(ChunkAddress, LeafDigest)>,
    target_leaves: Vec<(ChunkAddress, LeafDigest)>,
    changed_chunks: u64,
    out: T,
}

impl SpanDecoder<'_> {
    fn decode<T: Default>(
        &self,
        Scratch { decoder, target, base: read }: &mut Scratch,
        span: usize,
        mut visit: impl FnMut(TargetChunk<'_>, &mut T) -> Result<(), ApplyError>,
    ) -> Result<DecodedSpan<T>, ApplyError> {
        let (base_leaves, target_leaves, changed_chunks) = Default::default();
        let mut decoded = DecodedSpan { base_leaves, target_leaves, changed_chunks, out: T::default() };
        let mut records = self.chain.records_from(self.spans.get(span).next());
        for address in self.spans.get(span) {
            let Some(context) = self.chain.context(address.tensor) else { continue };
            let base = self.base_chunk(address, read)?;
            let target = target.get_mut(..chunk_len(self.chain.schema(), address)).unwrap_or_default();
            let changed = self.chain.changes(&mut records, address);
            let (bytes, leaf, base) = if changed {
                let base = base.map(|(at, bytes)| {
                    let leaf = leaf_digest(context.leaf_hash, bytes);
                    decoded.base_leaves.push((at, leaf));
                    (bytes, leaf)
                });
                let over = base.map(|(bytes, _)| bytes);
                let leaf = self.chain.decode(decoder, &mut records, address, over, target)?;
                let Some(leaf) = leaf else { continue };
                (&*target, leaf, base)
            } else {
                // Binding the patches has made sure that a chunk without a base has a record.
                let Some((at, base)) = base else { continue };
                let bytes = match self.unchanged {
                    Unchanged::Copied => {
                        target.copy_from_slice(base);
                        &*target
                    }
                    Unchanged::InPlace | Unchanged::Read(_) => base,
                };
                let leaf = leaf_digest(context.leaf_hash, bytes);
                decoded.base_leaves.push((at, leaf));
                (bytes, leaf, Some((base, leaf)))
            };
            decoded.target_leaves.push((address, leaf));
            decoded.changed_chunks = decoded.changed_chunks.saturating_add(u64::from(changed));
            visit(TargetChunk { address, bytes, leaf, base, changed, context }, &mut decoded.out)?;
        }
        Ok(decoded)
    }

    /// The chunk of the base that `address` continues, if there is one, and its address there.
    fn base_chunk<'s>(
        &'s self,
        address: ChunkAddress,
        read: &'s mut Vec<u8>,
    ) -> Result<Option<(ChunkAddress, &'s [u8])>, ApplyError> {
        let Some((base, at)) = self.base.zip(self.continuation.base_chunk(address)) else { return Ok(None) };
        if let Unchanged::Read(files) = self.unchanged {
            read.resize(chunk_len(base.schema(), at), 0);
            files.read(at.tensor, u64::from(at.chunk.0) * CHUNK_BYTES as u64, read)?;
            return Ok(Some((at, read)));
        }
        Ok(base.chunk(at).map(|bytes| (at, bytes)))
    }
}
