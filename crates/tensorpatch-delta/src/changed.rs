//! What a target changes in a base, tensor by tensor, as elements and their new values: for receivers that
//! scatter them into tensors of their own.

use tensorpatch_codec::ChunkDecoder;
use tensorpatch_format::{CHUNK_BYTES, ChunkAddress, ChunkIndex, Schema, TensorIndex, TensorSpec};

use crate::continuation::Continuation;
use crate::parallel::ordered;
use crate::patch::BoundPatch;
use crate::spans::chunk_len;
use crate::walk::bind_patch;
use crate::{ApplyError, Options, Patch, State};

/// Chunks that a thread compares at once.
const CHUNKS_AT_ONCE: u32 = 8;
/// Bytes that are compared before their elements are looked at.
const BLOCK_BYTES: usize = 256;

/// A tensor of the target that is not the base's.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChangedTensor {
    /// What it is in the target.
    pub spec: TensorSpec,
    /// The numbers of the elements that change, ascending. `None` if `values` are the whole tensor: it is
    /// new, has another dtype or shape, or more than half of it changes.
    ///
    /// Of a dtype that packs several elements in a byte, or that is not known, elements are whole bytes.
    pub positions: Option<Vec<u64>>,
    /// Their new values in the same order, little-endian.
    pub values: Vec<u8>,
}

/// The tensors that differ between a base and a target, each found when it is asked for.
///
/// ```
/// use safetensors::{Dtype, tensor::TensorView};
/// use tensorpatch_delta::{ChangedTensors, MemoryState, Options};
///
/// let old = [("w", TensorView::new(Dtype::BF16, vec![2], &[1, 2, 3, 4])?)];
/// let new = [("w", TensorView::new(Dtype::BF16, vec![2], &[1, 2, 9, 9])?)];
/// let old = MemoryState::new(old.iter().map(|(name, view)| (name, view)))?;
/// let new = MemoryState::new(new.iter().map(|(name, view)| (name, view)))?;
///
/// let changed = ChangedTensors::between(Some(old.state()), new.state(), &Options::default());
/// for tensor in changed.iter() {
///     let tensor = tensor?;
///     assert_eq!((tensor.positions, tensor.values), (Some(vec![1]), vec![9, 9]));
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct ChangedTensors<'a> {
    base: Option<State<'a>>,
    target: Target<'a>,
    schema: &'a Schema,
    continuation: Continuation,
    options: Options,
}

#[derive(Debug)]
enum Target<'a> {
    State(State<'a>),
    /// One after the other.
    Patches(Vec<BoundPatch<'a>>),
}

impl<'a> ChangedTensors<'a> {
    /// Between two states; without a base every tensor is new.
    pub fn between(base: Option<State<'a>>, target: State<'a>, options: &Options) -> Self {
        let schema = target.schema();
        let continuation = Continuation::new(base.as_ref().map(State::schema), schema);
        Self { base, target: Target::State(target), schema, continuation, options: options.clone() }
    }

    /// Between a base and what one patch, or several one after the other, make of it. Those after the first
    /// must keep the tensors that there are.
    ///
    /// Every chunk that is decoded is verified by its digest. That the base is the patch's as a whole is for
    /// the caller to know, as by [`Patch::check_base`]; a full patch has none.
    ///
    /// # Errors
    /// If a patch is broken, does not start where the one before ends, or alters names, dtypes or shapes and
    /// is not the first.
    pub fn by_patches(
        base: Option<State<'a>>,
        patches: &'a [Patch<'a>],
        options: &Options,
    ) -> Result<Self, ApplyError> {
        let mut bound: Vec<BoundPatch<'a>> = Vec::new();
        for patch in patches {
            let next = match bound.last() {
                None => bind_patch(patch, base.as_ref(), options)?,
                Some(before) => {
                    patch.check_base(before.patch().target_digest())?;
                    let next = patch.bind(Some(before.schema()))?;
                    if next.schema() != before.schema() {
                        let what = "a patch after the first alters names, dtypes or shapes of tensors";
                        return Err(ApplyError::NotInPlace(what.into()));
                    }
                    next
                }
            };
            bound.push(next);
        }
        let schema = match (bound.first(), &base) {
            (Some(first), _) => first.schema(),
            (None, Some(base)) => base.schema(),
            (None, None) => return Err(ApplyError::NotInPlace("there is neither a base nor a patch".into())),
        };
        let continuation = Continuation::new(base.as_ref().map(State::schema), schema);
        Ok(Self { base, target: Target::Patches(bound), schema, continuation, options: options.clone() })
    }

    /// The schema of the target.
    pub fn schema(&self) -> &'a Schema {
        self.schema
    }

    /// Those that differ, in the order of the schema, each found when the iterator comes to it.
    pub fn iter(&self) -> impl Iterator<Item = Result<ChangedTensor, ApplyError>> {
        let tensors = (0..).map(TensorIndex).take(self.schema.tensors().len());
        tensors.filter_map(|tensor| self.tensor(tensor).transpose())
    }

    /// What changes in a tensor of the target; nothing if it is the base's.
    ///
    /// # Errors
    /// If a chunk does not decode, or not to what its digest says.
    pub fn tensor(&self, tensor: TensorIndex) -> Result<Option<ChangedTensor>, ApplyError> {
        let Some(spec) = self.schema.get(tensor) else { return Ok(None) };
        let first = ChunkAddress { tensor, chunk: ChunkIndex(0) };
        let width = spec.dtype.element_format().width();
        let base = self.base_tensor(first, spec);
        if base.is_some() && !self.is_touched(tensor) {
            return Ok(None);
        }
        let mut found = Found::new(base, width, spec);
        let count = spec.chunk_count();
        ordered(
            self.options.threads,
            count.div_ceil(CHUNKS_AT_ONCE) as usize,
            Scratch::new,
            |scratch, group| {
                let first = u32::try_from(group).unwrap_or(u32::MAX).saturating_mul(CHUNKS_AT_ONCE);
                let chunks = (first..first.saturating_add(CHUNKS_AT_ONCE).min(count)).map(ChunkIndex);
                chunks.map(|chunk| self.chunk(scratch, ChunkAddress { tensor, chunk }, width)).collect()
            },
            |_, group: Vec<ChunkChanges>| {
                group.into_iter().for_each(|chunk| found.add(chunk));
                Ok(())
            },
        )?;
        Ok(found.finish(spec))
    }

    /// The bytes of the tensor that a tensor of the target continues, if it has an element.
    pub(crate) fn base_bytes(&self, tensor: TensorIndex) -> Option<&'a [u8]> {
        self.base_tensor(ChunkAddress { tensor, chunk: ChunkIndex(0) }, self.schema.get(tensor)?)
    }

    /// The bytes of the tensor that a tensor of the target continues.
    fn base_tensor(&self, first: ChunkAddress, spec: &TensorSpec) -> Option<&'a [u8]> {
        let base = self.base.as_ref()?;
        // A tensor without chunks has no place in the grid, and nothing in it can change.
        let at = self.continuation.base_chunk(first)?;
        base.tensor(at.tensor).filter(|bytes| bytes.len() as u64 == spec.byte_len)
    }

    fn is_touched(&self, tensor: TensorIndex) -> bool {
        match &self.target {
            Target::State(_) => true,
            Target::Patches(patches) => patches.iter().any(|patch| {
                let first = patch.records_from(Some(ChunkAddress { tensor, chunk: ChunkIndex(0) })).first();
                first.is_some_and(|(record, _)| record.address.tensor == tensor)
            }),
        }
    }

    fn chunk(
        &self,
        scratch: &mut Scratch,
        address: ChunkAddress,
        width: usize,
    ) -> Result<ChunkChanges, ApplyError> {
        let at = self.continuation.base_chunk(address);
        let base = at.and_then(|at| self.base.as_ref()?.chunk(at));
        let target = match &self.target {
            Target::State(target) => target.chunk(address),
            Target::Patches(patches) => scratch.decode(patches, address, base)?,
        };
        let start = u64::from(address.chunk.0) * (CHUNK_BYTES / width) as u64;
        Ok(match (base, target) {
            (Some(base), Some(target)) => ChunkChanges::between(base, target, width, start),
            (None, Some(target)) => ChunkChanges { start, positions: Vec::new(), values: target.to_vec() },
            (_, None) => ChunkChanges { start, positions: Vec::new(), values: Vec::new() },
        })
    }
}

/// What a thread decodes with.
struct Scratch {
    decoder: ChunkDecoder,
    current: Vec<u8>,
    next: Vec<u8>,
}

impl Scratch {
    fn new() -> Self {
        Self { decoder: ChunkDecoder::new(), current: vec![0; CHUNK_BYTES], next: vec![0; CHUNK_BYTES] }
    }

    /// The chunk after all patches; nothing if none of them changes it.
    fn decode(
        &mut self,
        patches: &[BoundPatch<'_>],
        address: ChunkAddress,
        base: Option<&[u8]>,
    ) -> Result<Option<&[u8]>, ApplyError> {
        let mut decoded = None;
        for patch in patches {
            let record = patch.records_from(Some(address)).first();
            let Some(record) = record.filter(|(record, _)| record.address == address) else { continue };
            let len = chunk_len(patch.schema(), address);
            let over = match decoded {
                Some(len) => self.current.get(..len),
                None => base,
            };
            let target = self.next.get_mut(..len).unwrap_or_default();
            patch.decode(&mut self.decoder, record, over, target)?;
            std::mem::swap(&mut self.current, &mut self.next);
            decoded = Some(len);
        }
        Ok(decoded.and_then(|len| self.current.get(..len)))
    }
}

/// What changes in a chunk; of a tensor without a base all bytes, and no positions.
struct ChunkChanges {
    /// The number of its first element.
    start: u64,
    /// Elements within the chunk.
    positions: Vec<u32>,
    values: Vec<u8>,
}

impl ChunkChanges {
    #[expect(clippy::cast_possible_truncation, reason = "a block has few elements")]
    fn between(base: &[u8], target: &[u8], width: usize, start: u64) -> Self {
        let (mut positions, mut values) = (Vec::new(), Vec::new());
        let blocks = base.chunks(BLOCK_BYTES).zip(target.chunks(BLOCK_BYTES));
        for (block, (old, new)) in (0_u32..).zip(blocks).filter(|(_, (old, new))| old != new) {
            let first = block * (BLOCK_BYTES / width) as u32;
            for (element, (old, new)) in (first..).zip(old.chunks(width).zip(new.chunks(width))) {
                if old != new {
                    positions.push(element);
                    values.extend_from_slice(new);
                }
            }
        }
        Self { start, positions, values }
    }
}

/// The changes of a tensor so far.
struct Found<'a> {
    base: Option<&'a [u8]>,
    /// More changes than these, and the whole tensor is handed on.
    most: u64,
    positions: Option<Vec<u64>>,
    values: Vec<u8>,
}

impl<'a> Found<'a> {
    fn new(base: Option<&'a [u8]>, width: usize, spec: &TensorSpec) -> Self {
        let most = spec.byte_len / width as u64 / 2;
        Self { base, most, positions: base.map(|_| Vec::new()), values: Vec::new() }
    }

    fn add(&mut self, chunk: ChunkChanges) {
        let ChunkChanges { start, positions, values } = chunk;
        let Some(known) = &mut self.positions else {
            match self.base {
                None => self.values.extend_from_slice(&values),
                Some(_) => {
                    scatter(&mut self.values, positions.iter().map(|p| start + u64::from(*p)), &values)
                }
            }
            return;
        };
        known.extend(positions.iter().map(|position| start + u64::from(*position)));
        self.values.extend_from_slice(&values);
        if known.len() as u64 > self.most {
            let mut whole = self.base.unwrap_or_default().to_vec();
            scatter(&mut whole, known.iter().copied(), &self.values);
            self.values = whole;
            self.positions = None;
        }
    }

    fn finish(self, spec: &TensorSpec) -> Option<ChangedTensor> {
        let Self { positions, values, .. } = self;
        if positions.as_ref().is_some_and(Vec::is_empty) {
            return None;
        }
        Some(ChangedTensor { spec: spec.clone(), positions, values })
    }
}

/// Writes values, each of which has its share of `values`, to their places.
fn scatter(tensor: &mut [u8], positions: impl ExactSizeIterator<Item = u64>, values: &[u8]) {
    let width = values.len().checked_div(positions.len()).unwrap_or_default();
    for (position, value) in positions.zip(values.chunks(width.max(1))) {
        let place = usize::try_from(position).ok().and_then(|position| {
            let start = position.checked_mul(width)?;
            tensor.get_mut(start..start.checked_add(width)?)
        });
        if let Some(place) = place {
            place.copy_from_slice(value);
        }
    }
}
