//! What the two decoders make of a patch, in a form in which they can be compared.

use std::num::NonZeroUsize;
use std::sync::Mutex;

use tensorpatch_delta::{ApplyError, Options, Patch, Progress, State, apply_chunks};
use tensorpatch_format::{CHUNK_BYTES, ErrorClass, Kind, LeafHash, Limits};
use tensorpatch_reference as reference;

use crate::{Model, Tensor};

/// What a decoder says of a patch for a base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The patch makes this of the base.
    Target {
        /// The target state.
        state: Model,
        /// The canonical bytes of its layout, where the patch lists one.
        layout: Option<Vec<u8>>,
    },
    /// The patch is refused.
    Refused {
        /// The code of the class (section 12).
        code: &'static str,
        /// The offset in the file.
        offset: u64,
    },
}

impl Verdict {
    /// What the reference decoder says.
    pub fn of_reference(patch: &[u8], base: Option<&Model>) -> Self {
        let base = base.map(for_reference);
        match reference::decode(patch, base.as_deref()) {
            Ok(decoded) => {
                let tensors = decoded.state.into_iter().map(|tensor| {
                    let reference::Tensor { name, dtype, shape, bytes } = tensor;
                    let dtype = tensorpatch_format::Dtype::new(&dtype).unwrap();
                    let byte_len = bytes.len() as u64;
                    let spec = tensorpatch_format::TensorSpec { name, dtype, shape, byte_len };
                    Tensor { spec, bytes }
                });
                Self::Target { state: Model::new(tensors.collect()), layout: decoded.layout }
            }
            Err(error) => Self::Refused { code: error.code.as_str(), offset: error.offset },
        }
    }

    /// What the fast decoder says.
    pub fn of_fast(patch: &[u8], base: Option<&Model>) -> Self {
        Self::of_fast_within(patch, base, &Limits::default())
    }

    /// What the fast decoder says under given limits.
    pub fn of_fast_within(patch: &[u8], base: Option<&Model>, limits: &Limits) -> Self {
        let patch = match Patch::parse(patch, limits) {
            Ok(patch) => patch,
            Err(error) => return Self::Refused { code: error.class().code(), offset: error.offset },
        };
        let is_full = patch.kind() == Kind::Full;
        let base = match base {
            _ if is_full => None,
            // The reference has no other word for it either.
            None => {
                return Self::Refused {
                    code: ErrorClass::WrongBase.code(),
                    offset: patch.trailer().base_state_offset(),
                };
            }
            Some(base) => Some(State::new(base.schema(), base.slices()).unwrap()),
        };
        match apply(&patch, base.as_ref()) {
            Ok(state) => {
                Self::Target { state, layout: patch.listed_layout().map(|layout| layout.to_bytes()) }
            }
            Err(error) => Self::refused(&error),
        }
    }

    fn refused(error: &ApplyError) -> Self {
        match (error.class(), error.offset()) {
            (Some(class), Some(offset)) => Self::Refused { code: class.code(), offset },
            _ => panic!("not an error about a patch: {error}"),
        }
    }
}

fn apply(patch: &Patch<'_>, base: Option<&State<'_>>) -> Result<Model, ApplyError> {
    let options = Options::default().with_threads(NonZeroUsize::MIN);
    if patch.bind(base.map(State::schema)).is_err() {
        // A hostile schema may declare terabytes, none of which are in the patch: only where it binds is
        // there room to be made.
        return Err(apply_chunks(base, patch, &options, Progress::none(), &|_, _| {}).unwrap_err());
    }
    let schema = patch.listed_schema().or(base.map(State::schema)).unwrap();
    let mut tensors: Vec<Tensor> = Vec::new();
    for spec in schema.tensors() {
        let bytes = vec![0; usize::try_from(spec.byte_len).unwrap()];
        tensors.push(Tensor { spec: spec.clone(), bytes });
    }
    let target = Mutex::new(tensors);
    apply_chunks(base, patch, &options, Progress::none(), &|address, bytes| {
        let start = address.chunk.0 as usize * CHUNK_BYTES;
        let mut target = target.lock().unwrap();
        target[address.tensor.0 as usize].bytes[start..start + bytes.len()].copy_from_slice(bytes);
    })?;
    Ok(Model::new(target.into_inner().unwrap()))
}

/// A model as the reference has it.
pub fn for_reference(model: &Model) -> Vec<reference::Tensor> {
    let tensor = |tensor: &Tensor| reference::Tensor {
        name: tensor.spec.name.clone(),
        dtype: tensor.spec.dtype.as_str().to_owned(),
        shape: tensor.spec.shape.clone(),
        bytes: tensor.bytes.clone(),
    };
    model.tensors().iter().map(tensor).collect()
}

/// A leaf hash as the reference has it.
pub fn reference_hash(hash: LeafHash) -> reference::LeafHash {
    match hash {
        LeafHash::Xxh3 => reference::LeafHash::Xxh3,
        LeafHash::Blake3 => reference::LeafHash::Blake3,
    }
}
