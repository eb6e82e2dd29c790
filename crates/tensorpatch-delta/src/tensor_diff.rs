//! From tensors in memory, one at a time and in any order, to a patch.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

use safetensors::View;
use tempfile::SpooledTempFile;
use tensorpatch_checkpoint::{
    Checkpoint, Places, ViewError, dtype_to_safetensors, generate_layout, spec_of_view,
};
use tensorpatch_codec::{ChunkContext, ChunkEncoder, Encoded};
use tensorpatch_format::{ChunkAddress, ChunkIndex, LeafDigest, Schema, TensorIndex, TensorSpec};

use crate::assembly::{Assembly, SpanBuilder};
use crate::changes::{ByTensor, ChangesError};
use crate::continuation::{Continuation, base_of};
use crate::diff_base::DiffBase;
use crate::encode::encode_over;
use crate::parallel::ordered;
use crate::patch_file::write_file;
use crate::spans::Spans;
use crate::{DiffError, DiffReport, LeafTable, Options, Progress, Snapshot, TensorChanges, TensorsError};

/// Bytes of payloads that are kept in memory; more go to a temporary file.
const SPOOLED_BYTES: usize = 32 << 20;
/// Chunks of a tensor that a thread encodes at once, as in a span.
const CHUNKS_AT_ONCE: u32 = 8;

/// What becomes of the tensors of the base that are not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Others {
    /// There must be none: a whole state was meant.
    #[default]
    Refused,
    /// They stay as they are.
    Kept,
    /// They are not in the target.
    Removed,
}

/// The changes of tensors against a base, collected one tensor at a time.
///
/// Each tensor is compared with the base while it is alive, in whatever order they come; only the encoded
/// changes are kept. That takes the memory of one tensor and up to 32 MiB of encoded changes; what is beyond
/// goes to a file in the system's directory for temporary files. The patch is byte for byte the one that
/// [`encode_diff`](crate::encode_diff) makes of the same state.
///
/// A target with the tensors of the base keeps the files of the base, their headers included. Any other is
/// the one `model.safetensors` that [`safetensors::serialize`] makes of the state with the metadata
/// `{"format": "pt"}`.
///
/// ```
/// use safetensors::{Dtype, tensor::TensorView};
/// use tensorpatch_delta::{Options, Others, Progress, TensorDiff};
///
/// let mut first = TensorDiff::new(None, &Options::default(), Progress::none())?;
/// first.add("w", &TensorView::new(Dtype::BF16, vec![2], &[1, 2, 3, 4])?)?;
/// let mut patch = Vec::new();
/// let report = first.finish(Others::Refused, &mut patch)?;
/// assert_eq!(report.total_elements, 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct TensorDiff<'b> {
    base: Option<DiffBase<'b>>,
    options: Options,
    progress: Progress<'b>,
    spool: SpooledTempFile,
    spooled: u64,
    tensors: BTreeMap<String, AddedTensor>,
}

#[derive(Debug)]
struct AddedTensor {
    spec: TensorSpec,
    chunks: Vec<AddedChunk>,
}

/// A chunk of the target, encoded.
#[derive(Debug, Clone, Copy)]
struct AddedChunk {
    encoded: Encoded,
    /// Where its payload is in the spool.
    payload: (u64, usize),
    /// The digest of the base's chunk, if that had to be computed.
    base_leaf: Option<LeafDigest>,
}

impl TensorDiff<'static> {
    /// The changes against a checkpoint that this owns, with its leaf table, which the caller knows to be
    /// true. Unchanged chunks then cost one comparison and no hash.
    ///
    /// # Errors
    /// If the leaf table does not fit the options, or an application in place to the checkpoint was
    /// interrupted.
    pub fn over(base: Checkpoint, leaves: LeafTable, options: &Options) -> Result<Self, DiffError> {
        let base = DiffBase::Checkpoint(Box::new((base, leaves)));
        base.snapshot()?.check_leaves(options.leaf_hash)?;
        Ok(Self::start(Some(base), options, Progress::none()))
    }
}

impl<'b> TensorDiff<'b> {
    /// The changes against `base`, or a whole state if there is none.
    ///
    /// # Errors
    /// If the base's leaf table does not fit the options.
    pub fn new(
        base: Option<&'b Snapshot<'b>>,
        options: &Options,
        progress: Progress<'b>,
    ) -> Result<Self, DiffError> {
        if let Some(base) = base {
            base.check_leaves(options.leaf_hash)?;
        }
        Ok(Self::start(base.map(DiffBase::Snapshot), options, progress))
    }

    fn start(base: Option<DiffBase<'b>>, options: &Options, progress: Progress<'b>) -> Self {
        let spool = SpooledTempFile::new(SPOOLED_BYTES);
        let options = options.clone();
        Self { base, options, progress, spool, spooled: 0, tensors: BTreeMap::new() }
    }

    /// The same with its temporary file, if one is needed, in the directory `dir` instead of the system's.
    #[must_use]
    pub fn with_scratch_dir(self, dir: &Path) -> Self {
        Self { spool: SpooledTempFile::new_in(SPOOLED_BYTES, dir), ..self }
    }

    /// Compares a tensor with the base's of the same name, and keeps what changes.
    ///
    /// # Errors
    /// If a tensor of this name was given before, this one has other bytes than its dtype and shape give or
    /// breaks a rule of the format, its changes cannot be kept, or the caller cancels.
    pub fn add(&mut self, name: &str, tensor: &impl View) -> Result<(), DiffError> {
        let spec = spec_of_view(name, tensor).map_err(TensorsError::from)?;
        let bytes = tensor.data();
        let (expected, found) = (spec.byte_len, bytes.len() as u64);
        if expected != found {
            let error = ViewError::Length { tensor: spec.name, expected, found };
            return Err(TensorsError::from(error).into());
        }
        let base = self.base.as_ref().and_then(|base| base_of(base.schema(), &spec));
        self.encode(spec.clone(), base, |encoder, context, chunk, base, payload| {
            let range = spec.chunk_range(chunk).unwrap_or_default();
            let range = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
            let target = range.and_then(|(start, end)| bytes.get(start..end)).unwrap_or_default();
            Ok(encode_over(encoder, context, base, target, payload))
        })
    }

    /// Changes a tensor of the base where `positions` says: the numbers of its elements, strictly ascending,
    /// and their new values in the same order, little-endian.
    ///
    /// # Errors
    /// If the base has no such tensor, the tensor was given before, the changes do not fit it or cannot be
    /// kept, or the caller cancels.
    pub fn add_changes(&mut self, name: &str, positions: &[u64], values: &[u8]) -> Result<(), DiffError> {
        let none = || TensorsError::NotInBase { tensor: name.to_owned() };
        let schema = self.base.as_ref().map(DiffBase::schema).ok_or_else(none)?;
        let tensor = schema.find(name).ok_or_else(none)?;
        let spec = schema.get(tensor).ok_or_else(none)?.clone();
        let schema = Schema::new(vec![spec.clone()]).map_err(ViewError::from).map_err(TensorsError::from)?;
        let first = TensorIndex(0);
        let changes = ByTensor::new(&schema, &[TensorChanges { tensor: first, positions, values }])?;
        self.encode(spec, Some(tensor), |encoder, context, chunk, base, payload| {
            let Some(base) = base else { return Err(none().into()) };
            let encoded =
                changes.encode(encoder, context, ChunkAddress { tensor: first, chunk }, base, payload);
            let address = ChunkAddress { tensor, chunk };
            encoded.map_err(|source| DiffError::Changes { address, source })
        })
    }

    /// As [`TensorDiff::add_changes`], with the new values as a tensor of one element for each position, in
    /// any shape. Of a dtype that packs several elements in a byte, positions and values are whole bytes.
    ///
    /// # Errors
    /// As [`TensorDiff::add_changes`]; also if the values have another dtype than the tensor.
    pub fn add_changed_values(
        &mut self,
        name: &str,
        positions: &[u64],
        values: &impl View,
    ) -> Result<(), DiffError> {
        let schema = self.base.as_ref().map(DiffBase::schema);
        let spec = schema.and_then(|schema| schema.get(schema.find(name)?));
        let found = values.dtype();
        if let Some(spec) = spec
            && dtype_to_safetensors(&spec.dtype) != Some(found)
        {
            let (tensor, expected) = (name.to_owned(), spec.dtype.to_string());
            return Err(ChangesError::Dtype { tensor, expected, found: found.to_string() }.into());
        }
        self.add_changes(name, positions, &values.data())
    }

    /// Writes the patch to `out`, with the tensors of the base that were not given treated as `others` says.
    ///
    /// # Errors
    /// If there are such tensors and there must be none, the tensors together are too large for the format,
    /// writing fails, or the caller cancels. `out` may then have got a part.
    pub fn finish(mut self, others: Others, out: &mut dyn Write) -> Result<DiffReport, DiffError> {
        self.settle_others(others)?;
        let specs = self.tensors.values().map(|tensor| tensor.spec.clone()).collect();
        let schema = Schema::new(specs).map_err(|error| TensorsError::from(ViewError::from(error)))?;
        let base = self.base.as_ref().map(DiffBase::snapshot).transpose()?;
        let base = base.as_ref();
        let same = base.filter(|base| base.state.schema() == &schema);
        let layout = match same {
            Some(base) => Cow::Borrowed(base.layout),
            None => Cow::Owned(generate_layout(&schema).map_err(TensorsError::from)?),
        };
        let continuation = Continuation::new(base.map(|base| base.state.schema()), &schema);
        let mut assembly = Assembly::new(base, &schema, &layout, &self.options, out);
        // By name, as in the schema.
        let tensors: Vec<AddedTensor> = self.tensors.into_values().collect();
        let spans = Spans::new(&schema);
        for span in 0..spans.all().len() {
            let mut builder = SpanBuilder::new(&assembly.header());
            for address in spans.get(span) {
                let chunks = tensors.get(address.tensor.0 as usize).map(|tensor| &tensor.chunks);
                let Some(chunk) = chunks.and_then(|chunks| chunks.get(address.chunk.0 as usize)) else {
                    continue;
                };
                if let Some((base, leaf)) = continuation.base_chunk(address).zip(chunk.base_leaf) {
                    builder.base_leaf(base, leaf);
                }
                builder.chunk(address, |payload| {
                    read(&mut self.spool, &chunk.payload, payload).map_err(DiffError::Scratch)?;
                    Ok(Some(chunk.encoded))
                })?;
            }
            assembly.add(builder.finish()?)?;
        }
        assembly.finish(&continuation)
    }

    /// Writes the patch to a file at `path`, which appears, or replaces the one there, when it is whole and
    /// on disk. It must be apart from what is read, `inputs`, such as the base.
    ///
    /// # Errors
    /// As [`TensorDiff::finish`], and as [`Diff::write`](crate::Diff::write).
    pub fn write(
        self,
        others: Others,
        path: impl AsRef<Path>,
        inputs: Places,
    ) -> Result<DiffReport, DiffError> {
        write_file(path.as_ref(), inputs, &[], |out| self.finish(others, out))
    }

    fn settle_others(&mut self, others: Others) -> Result<(), DiffError> {
        let Some(base) = &self.base else { return Ok(()) };
        let others_of_base = base.schema().tensors().iter().zip((0..).map(TensorIndex));
        let missing = others_of_base.filter(|(spec, _)| !self.tensors.contains_key(&spec.name));
        let missing: Vec<(TensorSpec, TensorIndex)> = missing.map(|(spec, i)| (spec.clone(), i)).collect();
        for (spec, index) in missing {
            match others {
                Others::Refused => return Err(TensorsError::Missing { tensor: spec.name }.into()),
                Others::Removed => {}
                Others::Kept => self.encode(spec.clone(), Some(index), |_, _, _, base, _| {
                    let Some((_, leaf)) = base else {
                        return Err(TensorsError::NotInBase { tensor: spec.name.clone() }.into());
                    };
                    Ok(Encoded { encoding: None, leaf, changed_elements: 0 })
                })?,
            }
        }
        Ok(())
    }

    /// Encodes the chunks of a tensor with `encode`, which gets each with that of the tensor `base` of the
    /// base, on many threads.
    fn encode(
        &mut self,
        spec: TensorSpec,
        base: Option<TensorIndex>,
        encode: impl Fn(
            &mut ChunkEncoder,
            ChunkContext,
            ChunkIndex,
            Option<(&[u8], LeafDigest)>,
            &mut Vec<u8>,
        ) -> Result<Encoded, DiffError>
        + Sync,
    ) -> Result<(), DiffError> {
        if self.tensors.contains_key(&spec.name) {
            return Err(TensorsError::Twice { tensor: spec.name }.into());
        }
        let Options { profile, leaf_hash, threads, .. } = self.options;
        let context = ChunkContext { format: spec.dtype.element_format(), profile, leaf_hash };
        let Self { base: whole, progress, spool, spooled, .. } = self;
        let count = spec.chunk_count();
        let mut chunks = Vec::new();
        ordered(
            threads,
            count.div_ceil(CHUNKS_AT_ONCE) as usize,
            ChunkEncoder::new,
            |encoder, group| {
                let first = u32::try_from(group).unwrap_or(u32::MAX).saturating_mul(CHUNKS_AT_ONCE);
                let (mut payloads, mut encoded) = (Vec::new(), Vec::new());
                for chunk in (first..first.saturating_add(CHUNKS_AT_ONCE).min(count)).map(ChunkIndex) {
                    let base = whole
                        .as_ref()
                        .zip(base)
                        .and_then(|(whole, tensor)| whole.chunk(ChunkAddress { tensor, chunk }, leaf_hash));
                    let over = base.as_ref().map(|base| (base.bytes, base.leaf));
                    let start = payloads.len();
                    let found = encode(encoder, context, chunk, over, &mut payloads)?;
                    let base_leaf = base.filter(|base| !base.known).map(|base| base.leaf);
                    encoded.push((found, start..payloads.len(), base_leaf));
                    progress.advance(spec.chunk_range(chunk).map_or(0, |range| range.end - range.start))?;
                }
                Ok::<_, DiffError>((payloads, encoded))
            },
            |_, (payloads, encoded)| {
                // A caller may go on after a write that failed half way.
                let end = spool.seek(SeekFrom::Start(*spooled));
                end.and_then(|_| spool.write_all(&payloads)).map_err(DiffError::Scratch)?;
                chunks.extend(encoded.into_iter().map(|(encoded, Range { start, end }, base_leaf)| {
                    AddedChunk { encoded, payload: (*spooled + start as u64, end - start), base_leaf }
                }));
                *spooled += payloads.len() as u64;
                Ok(())
            },
        )?;
        self.tensors.insert(spec.name.clone(), AddedTensor { spec, chunks });
        Ok(())
    }
}

/// Appends a payload that was kept.
fn read(
    spool: &mut SpooledTempFile,
    &(offset, len): &(u64, usize),
    payload: &mut Vec<u8>,
) -> std::io::Result<()> {
    let start = payload.len();
    payload.resize(start + len, 0);
    spool.seek(SeekFrom::Start(offset))?;
    spool.read_exact(payload.get_mut(start..).unwrap_or_default())
}
