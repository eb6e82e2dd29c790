//! Dtypes by their names in torch.

use tensorpatch_format::{Dtype, TensorSpec};

use crate::Violation;

const NAMES: [(&str, &str); 19] = [
    ("BOOL", "bool"),
    ("U8", "uint8"),
    ("I8", "int8"),
    ("F8_E4M3", "float8_e4m3fn"),
    ("F8_E4M3FNUZ", "float8_e4m3fnuz"),
    ("F8_E5M2", "float8_e5m2"),
    ("F8_E5M2FNUZ", "float8_e5m2fnuz"),
    ("F8_E8M0", "float8_e8m0fnu"),
    ("F16", "float16"),
    ("BF16", "bfloat16"),
    ("I16", "int16"),
    ("U16", "uint16"),
    ("F32", "float32"),
    ("I32", "int32"),
    ("U32", "uint32"),
    ("F64", "float64"),
    ("I64", "int64"),
    ("U64", "uint64"),
    ("C64", "complex64"),
];

fn name(dtype: &Dtype) -> Option<&'static str> {
    NAMES.iter().find(|(name, _)| *name == dtype.as_str()).map(|(_, torch)| *torch)
}

/// Bytes of an element.
pub(crate) fn width(dtype: &str) -> Option<u64> {
    let (name, _) = NAMES.iter().find(|(_, torch)| *torch == dtype)?;
    Dtype::new(name)?.bits().map(|bits| bits / 8)
}

/// Says that a tensor of the base has this dtype, by its name in torch, and this shape.
pub(crate) fn check(spec: &TensorSpec, dtype: &str, shape: &[u64]) -> Result<(), Violation> {
    if name(&spec.dtype) != Some(dtype) {
        return Err(Violation::differs("dtype", format_args!("{} as in the base", spec.dtype), dtype));
    }
    if spec.shape != shape {
        let (expected, found) = (format!("{:?} as in the base", spec.shape), format!("{shape:?}"));
        return Err(Violation::differs("shape", expected, found));
    }
    Ok(())
}
