//! Tensors as the `safetensors` crate has them: its dtypes and views, to ours and back.

use safetensors::View;
use safetensors::tensor::TensorView;
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as ValueError, StrDeserializer};
use tensorpatch_format::{Dtype, ErrorKind, SchemaError, TensorSpec};

use crate::error::short;

/// Why a tensor of the one form has none of the other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ViewError {
    /// A dtype that the other side does not know.
    #[error("tensor {tensor:?} has the dtype {dtype}, which has no counterpart")]
    Dtype {
        /// The tensor.
        tensor: String,
        /// Its dtype.
        dtype: String,
    },
    /// Other bytes than dtype and shape give.
    #[error("tensor {tensor:?} has {expected} bytes by its dtype and shape, but {found} were given")]
    Length {
        /// The tensor.
        tensor: String,
        /// Bytes by dtype and shape.
        expected: u64,
        /// Bytes given.
        found: u64,
    },
    /// A shape whose dims have a product beyond the address space.
    #[error("tensor {tensor:?} has the shape {shape:?}, which the safetensors crate cannot hold")]
    Shape {
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<u64>,
    },
    /// A tensor that no schema admits.
    #[error(transparent)]
    Schema(#[from] SchemaError),
}

impl ViewError {
    /// Who must act on the error.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Refused
    }
}

/// The dtype of the same name. `None` if the crate has one whose name could not stand in a file.
pub fn dtype_from_safetensors(dtype: safetensors::Dtype) -> Option<Dtype> {
    Dtype::new(&dtype.to_string())
}

/// The dtype of the same name. `None` if the crate does not know it.
pub fn dtype_to_safetensors(dtype: &Dtype) -> Option<safetensors::Dtype> {
    let name: StrDeserializer<'_, ValueError> = dtype.as_str().into_deserializer();
    safetensors::Dtype::deserialize(name).ok()
}

/// Name, dtype, shape and size of a tensor that the crate can view. Its bytes are not looked at.
///
/// # Errors
/// If the tensor has other bytes than its dtype and shape give, or breaks a rule of the format.
pub fn spec_of_view(name: &str, view: &impl View) -> Result<TensorSpec, ViewError> {
    let dtype = dtype_from_safetensors(view.dtype())
        .ok_or_else(|| ViewError::Dtype { tensor: short(name), dtype: view.dtype().to_string() })?;
    let spec = TensorSpec::new(name, dtype, view.shape().iter().map(|&dim| dim as u64).collect())?;
    spec.check()?;
    check_len(&spec, view.data_len() as u64)?;
    Ok(spec)
}

/// The bytes of a tensor as a view that can be handed to [`safetensors::serialize`].
///
/// # Errors
/// If the crate does not know the dtype or cannot hold the shape, or the bytes are not as many as `spec`
/// says.
pub fn view_of<'a>(spec: &TensorSpec, bytes: &'a [u8]) -> Result<TensorView<'a>, ViewError> {
    let tensor = || short(&spec.name);
    let dtype = dtype_to_safetensors(&spec.dtype)
        .ok_or_else(|| ViewError::Dtype { tensor: tensor(), dtype: spec.dtype.to_string() })?;
    check_len(spec, bytes.len() as u64)?;
    // The crate multiplies without a check.
    let bits = spec
        .shape
        .iter()
        .try_fold(dtype.bitsize(), |product, &dim| product.checked_mul(usize::try_from(dim).ok()?));
    let shape = spec.shape.iter().map(|&dim| usize::try_from(dim)).collect::<Result<Vec<_>, _>>();
    let view = bits.zip(shape.ok()).and_then(|(_, shape)| TensorView::new(dtype, shape, bytes).ok());
    view.ok_or_else(|| ViewError::Shape { tensor: tensor(), shape: spec.shape.clone() })
}

fn check_len(spec: &TensorSpec, found: u64) -> Result<(), ViewError> {
    if spec.byte_len == found {
        return Ok(());
    }
    Err(ViewError::Length { tensor: short(&spec.name), expected: spec.byte_len, found })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All that the format knows by size.
    const KNOWN: [&str; 22] = [
        "BOOL",
        "F4",
        "F6_E2M3",
        "F6_E3M2",
        "U8",
        "I8",
        "F8_E5M2",
        "F8_E4M3",
        "F8_E8M0",
        "F8_E4M3FNUZ",
        "F8_E5M2FNUZ",
        "I16",
        "U16",
        "F16",
        "BF16",
        "I32",
        "U32",
        "F32",
        "C64",
        "F64",
        "I64",
        "U64",
    ];

    #[test]
    fn every_known_dtype_has_a_counterpart_of_the_same_name_and_size() {
        for name in KNOWN {
            let ours = Dtype::new(name).unwrap();
            let theirs = dtype_to_safetensors(&ours).unwrap();
            assert_eq!(theirs.bitsize() as u64, ours.bits().unwrap(), "{name}");
            assert_eq!(dtype_from_safetensors(theirs), Some(ours));
        }
        assert_eq!(dtype_to_safetensors(&Dtype::new("F3_NEXT_YEAR").unwrap()), None);
    }

    #[test]
    fn a_tensor_goes_to_a_view_and_back() {
        let spec = TensorSpec::new("t", Dtype::new("F4").unwrap(), vec![2, 3]).unwrap();
        let view = view_of(&spec, &[1, 2, 3]).unwrap();
        assert_eq!((view.shape(), view.data()), (&[2, 3][..], &[1, 2, 3][..]));
        assert_eq!(spec_of_view("t", &view), Ok(spec.clone()));
        let short = view_of(&spec, &[1, 2]);
        assert_eq!(short, Err(ViewError::Length { tensor: "t".into(), expected: 3, found: 2 }));
    }

    #[test]
    fn a_tensor_that_the_crate_cannot_hold_is_refused_and_not_panicked_over() {
        let f32 = Dtype::new("F32").unwrap();
        let empty = TensorSpec::new("t", f32, vec![1 << 40, 1 << 40, 0]).unwrap();
        assert!(matches!(view_of(&empty, &[]), Err(ViewError::Shape { .. })));
        let unknown = Dtype::new("F3_NEXT_YEAR").unwrap();
        let unknown = TensorSpec { name: "t".into(), dtype: unknown, shape: vec![1], byte_len: 1 };
        assert!(matches!(view_of(&unknown, &[1]), Err(ViewError::Dtype { .. })));
    }
}
