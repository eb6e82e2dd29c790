//! From a base and a patch to the chunks of the target, each handed on once and the whole verified.

use tensorpatch_codec::{ChunkContext, ChunkDecoder, leaf_digest};
use tensorpatch_format::{CHUNK_BYTES, ChunkAddress, ErrorClass, LeafDigest, StateDigest};

use crate::continuation::Continuation;
use crate::parallel::ordered;
use crate::patch::BoundPatch;
use crate::spans::{Spans, chunk_len};
use crate::{ApplyError, LeafTable, Options, Patch, Progress, State};

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
    /// The base's bytes in the same place, if the tensor continues one.
    pub(crate) base: Option<&'a [u8]>,
    /// Whether the patch says anything about the chunk.
    pub(crate) changed: bool,
    pub(crate) context: ChunkContext,
}

/// The digests that come of a walk over base and patch.
pub(crate) struct Walked {
    pub(crate) base: StateDigest,
    pub(crate) target: StateDigest,
    pub(crate) leaves: LeafTable,
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
    let bound = bind(patch, base, options)?;
    let visit = |(): &mut (), chunk: TargetChunk<'_>, (): &mut ()| {
        write(chunk.address, chunk.bytes);
        Ok(())
    };
    let walk = Walk { base, patch: &bound, options, progress, unchanged: Unchanged::Copied };
    Ok(walk.run(|| (), visit, |()| Ok(()))?.leaves)
}

/// What becomes of chunks that are the same in base and target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unchanged {
    /// They are verified where they lie: for visitors that do not look at them.
    InPlace,
    /// They are copied before they are verified, and the copy is handed on: what others do to the base
    /// meanwhile is either found out or does not matter.
    Copied,
}

/// A walk over a base and a patch.
pub(crate) struct Walk<'a> {
    pub(crate) base: Option<&'a State<'a>>,
    pub(crate) patch: &'a BoundPatch<'a>,
    pub(crate) options: &'a Options,
    pub(crate) progress: Progress<'a>,
    pub(crate) unchanged: Unchanged,
}

impl Walk<'_> {
    /// Decodes every chunk of the patch's target on many threads and hands it to `visit`; what `visit` makes
    /// of the chunks of a span goes to `collect`, in grid order.
    ///
    /// Returns only if the base is the patch's base and the target is the patch's target. What `visit` did
    /// must not be visible before.
    pub(crate) fn run<V, T: Default + Send>(
        self,
        visitor: impl Fn() -> V + Sync,
        visit: impl Fn(&mut V, TargetChunk<'_>, &mut T) -> Result<(), ApplyError> + Sync,
        mut collect: impl FnMut(T) -> Result<(), ApplyError>,
    ) -> Result<Walked, ApplyError> {
        let Self { base, patch, options, progress, unchanged } = self;
        let schema = patch.schema();
        let hash = patch.patch().leaf_hash();
        let continuation = Continuation::new(base.map(State::schema), schema);
        let spans = Spans::new(schema);
        let mut leaves = LeafTable::empty(schema, hash);
        let mut base_leaves = base.map(|base| LeafTable::empty(base.schema(), hash));
        let decoder = SpanDecoder { base, patch, continuation: &continuation, spans: &spans, unchanged };

        let walked = ordered(
            options.threads,
            spans.all().len(),
            || (ChunkDecoder::new(), vec![0; CHUNK_BYTES], visitor()),
            |(chunks, buffer, visitor), span| {
                let decoded =
                    decoder.decode(chunks, buffer, span, |chunk, out| visit(visitor, chunk, out))?;
                progress.advance(spans.bytes(span))?;
                Ok(decoded)
            },
            |_, span: DecodedSpan<T>| {
                span.target_leaves.iter().for_each(|(address, leaf)| leaves.set(*address, *leaf));
                if let Some(table) = &mut base_leaves {
                    span.base_leaves.iter().for_each(|(address, leaf)| table.set(*address, *leaf));
                }
                collect(span.out)
            },
        );
        // Against a wrong base a chunk fails to decode before the digests can tell.
        if let Err(error) = walked {
            return Err(blame(base, patch.patch(), options, error));
        }
        let base = match base.zip(base_leaves) {
            None => StateDigest::NONE,
            Some((base, mut table)) => {
                continuation.hash_left_behind(base, &mut table);
                table.state_digest(base.schema())
            }
        };
        let target = leaves.state_digest(schema);
        patch.patch().check_base(base)?;
        patch.check_target(target)?;
        Ok(Walked { base, target, leaves })
    }
}

/// Binds a patch to a base. Which chunks must be in the patch depends on the base's schema, so that a wrong
/// base can look like a broken patch: then the error says that it is the base.
pub(crate) fn bind<'p>(
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

struct SpanDecoder<'a> {
    base: Option<&'a State<'a>>,
    patch: &'a BoundPatch<'a>,
    continuation: &'a Continuation,
    spans: &'a Spans<'a>,
    unchanged: Unchanged,
}

struct DecodedSpan<T> {
    base_leaves: Vec<(ChunkAddress, LeafDigest)>,
    target_leaves: Vec<(ChunkAddress, LeafDigest)>,
    out: T,
}

impl SpanDecoder<'_> {
    fn decode<T: Default>(
        &self,
        decoder: &mut ChunkDecoder,
        buffer: &mut [u8],
        span: usize,
        mut visit: impl FnMut(TargetChunk<'_>, &mut T) -> Result<(), ApplyError>,
    ) -> Result<DecodedSpan<T>, ApplyError> {
        let mut decoded =
            DecodedSpan { base_leaves: Vec::new(), target_leaves: Vec::new(), out: T::default() };
        let mut records = self.patch.records_from(self.spans.get(span).next()).iter().peekable();
        for address in self.spans.get(span) {
            let base = self.continuation.base_chunk(address);
            let base = base.and_then(|address| Some((address, self.base?.chunk(address)?)));
            let context = self.patch.context(address.tensor);
            let record = records.next_if(|(record, _)| record.address == address);
            let (bytes, leaf) = match (record, base) {
                (Some(record), base) => {
                    let hashed = base.map(|(at, bytes)| (at, leaf_digest(context.leaf_hash, bytes)));
                    decoded.base_leaves.extend(hashed);
                    let target =
                        buffer.get_mut(..chunk_len(self.patch.schema(), address)).unwrap_or_default();
                    let leaf = self.patch.decode(decoder, record, base.map(|(_, bytes)| bytes), target)?;
                    (&*target, leaf)
                }
                (None, Some((at, bytes))) => {
                    let bytes = match (self.unchanged, buffer.get_mut(..bytes.len())) {
                        (Unchanged::Copied, Some(copy)) => {
                            copy.copy_from_slice(bytes);
                            &*copy
                        }
                        _ => bytes,
                    };
                    let leaf = leaf_digest(context.leaf_hash, bytes);
                    decoded.base_leaves.push((at, leaf));
                    (bytes, leaf)
                }
                // Binding the patch has made sure that a chunk without a base has a record.
                (None, None) => continue,
            };
            decoded.target_leaves.push((address, leaf));
            let changed = record.is_some();
            visit(
                TargetChunk { address, bytes, base: base.map(|(_, bytes)| bytes), changed, context },
                &mut decoded.out,
            )?;
        }
        Ok(decoded)
    }
}
