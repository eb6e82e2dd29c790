//! A whole state in memory, with the files that it would have.

use std::borrow::Cow;
use std::sync::{Mutex, PoisonError};

use safetensors::tensor::TensorView;
use safetensors::{SafeTensors, View};
use tensorpatch_checkpoint::{ViewError, generate_layout, spec_of_view};
use tensorpatch_format::{CHUNK_BYTES, Layout, Schema, TensorSpec};

use crate::{ApplyError, Options, Patch, Progress, Snapshot, State, TensorsError, apply_chunks};

/// A whole state in memory: tensors of the `safetensors` crate, or what a patch was decoded to.
///
/// The files of such a state are the one `model.safetensors` that [`generate_layout`] describes: what
/// [`safetensors::serialize`] makes of the tensors with the metadata `{"format": "pt"}`.
///
/// ```
/// use safetensors::{Dtype, SafeTensors, serialize, tensor::TensorView};
/// use tensorpatch_delta::{MemoryState, Options, Patch, Progress, encode_diff};
///
/// let tensor = |bytes| TensorView::new(Dtype::BF16, vec![2], bytes);
/// let (old, new) = (tensor(&[1, 2, 3, 4])?, tensor(&[1, 2, 3, 5])?);
/// let (base, target) = (MemoryState::new([("w", &old)])?, MemoryState::new([("w", &new)])?);
///
/// let (options, mut bytes) = (Options::default(), Vec::new());
/// encode_diff(&base.snapshot(), &target.snapshot(), &options, Progress::none(), &mut bytes)?;
///
/// let patch = Patch::parse(&bytes, &options.limits)?;
/// let decoded = MemoryState::decode(Some(&base), &patch, &options, Progress::none())?;
/// assert_eq!(serialize(decoded.views()?, None)?, serialize([("w", &new)], None)?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct MemoryState<'a> {
    schema: Schema,
    layout: Layout,
    /// In the order of the schema.
    tensors: Vec<Cow<'a, [u8]>>,
}

impl<'a> MemoryState<'a> {
    /// The state of these tensors, in any order. Nothing is copied but what a view can give only as a copy.
    ///
    /// # Errors
    /// If a tensor occurs twice, has other bytes than its dtype and shape give, or breaks a rule of the
    /// format.
    pub fn new<N: AsRef<str>, V: View + 'a>(
        tensors: impl IntoIterator<Item = (N, &'a V)>,
    ) -> Result<Self, TensorsError> {
        let tensor = |(name, view): (N, &'a V)| Ok((spec_of_view(name.as_ref(), view)?, view.data()));
        Self::of_tensors(tensors.into_iter().map(tensor).collect::<Result<_, ViewError>>()?)
    }

    /// The state of a file that the `safetensors` crate has read.
    ///
    /// # Errors
    /// If a tensor breaks a rule of the format that the crate does not have.
    pub fn of(tensors: &SafeTensors<'a>) -> Result<Self, TensorsError> {
        let tensor = |(name, view): (&str, TensorView<'a>)| {
            Ok((spec_of_view(name, &view)?, Cow::Borrowed(view.data())))
        };
        Self::of_tensors(tensors.iter().map(tensor).collect::<Result<_, ViewError>>()?)
    }

    fn of_tensors(mut tensors: Vec<(TensorSpec, Cow<'a, [u8]>)>) -> Result<Self, TensorsError> {
        tensors.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
        let (specs, tensors): (_, Vec<Cow<'a, [u8]>>) = tensors.into_iter().unzip();
        let schema = Schema::new(specs).map_err(ViewError::from)?;
        // A view may say that it has other bytes than it gives.
        State::new(&schema, tensors.iter().map(|bytes| &**bytes).collect())?;
        let layout = generate_layout(&schema)?;
        Ok(Self { schema, layout, tensors })
    }

    /// Decodes the target of `patch` over `base`, or over nothing if the patch is a full one, and verifies
    /// it.
    ///
    /// # Errors
    /// If the patch is broken, does not fit `base`, or the caller cancels.
    pub fn decode(
        base: Option<&MemoryState<'_>>,
        patch: &Patch<'_>,
        options: &Options,
        progress: Progress<'_>,
    ) -> Result<MemoryState<'static>, ApplyError> {
        let base_state = base.map(MemoryState::state);
        let schema = patch.bind(base.map(|base| &base.schema))?.schema().clone();
        let layout = match (patch.listed_layout(), base) {
            (Some(layout), _) => layout.clone(),
            (None, Some(base)) => base.layout.clone(),
            (None, None) => {
                return Err(ApplyError::Kind { found: patch.kind(), needed: "a patch with a layout" });
            }
        };
        let needed = schema.state_bytes();
        let tensors = schema.tensors().iter().map(|spec| zeros(spec.byte_len).map(Mutex::new));
        let tensors: Vec<_> = tensors.collect::<Option<_>>().ok_or(ApplyError::NoMemory { needed })?;
        apply_chunks(base_state.as_ref(), patch, options, progress, &|address, bytes| {
            let start = address.chunk.0 as usize * CHUNK_BYTES;
            if let Some(tensor) = tensors.get(address.tensor.0 as usize) {
                let mut tensor = tensor.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(chunk) = tensor.get_mut(start..start + bytes.len()) {
                    chunk.copy_from_slice(bytes);
                }
            }
        })?;
        let inner = |tensor: Mutex<Vec<u8>>| tensor.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(MemoryState {
            schema,
            layout,
            tensors: tensors.into_iter().map(|t| Cow::Owned(inner(t))).collect(),
        })
    }

    /// The names, dtypes and shapes of the tensors.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// The tensors.
    pub fn state(&self) -> State<'_> {
        State::of_memory(&self.schema, self.tensors.iter().map(|bytes| &**bytes).collect())
    }

    /// The state with its files, to make a patch of.
    pub fn snapshot(&self) -> Snapshot<'_> {
        Snapshot { state: self.state(), layout: &self.layout, leaves: None }
    }

    /// The tensors by name, to be handed to [`safetensors::serialize`].
    ///
    /// # Errors
    /// If the crate does not know a dtype or cannot hold a shape.
    pub fn views(&self) -> Result<Vec<(&str, TensorView<'_>)>, ViewError> {
        self.state().views()
    }
}

/// `len` zeros, if there is memory for them.
fn zeros(len: u64) -> Option<Vec<u8>> {
    let (len, mut bytes) = (usize::try_from(len).ok()?, Vec::new());
    bytes.try_reserve_exact(len).ok()?;
    bytes.resize(len, 0);
    Some(bytes)
}
