//! Tensors of Python frameworks as the views that the library takes.

use std::borrow::Cow;

use pyo3::exceptions::{PyBufferError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyCapsule, PyDict, PyTuple};
use tensorpatch::format::Dtype as DtypeName;
use tensorpatch::safetensors::{Dtype, View};

use crate::dlpack::{Borrowed, ElementType, Exported, exported};

/// Kinds of memory that the processor reads: its own, and pinned for CUDA or ROCm.
const READABLE: [i32; 3] = [1, 3, 11];
/// The newest DLPack that is understood.
const DLPACK: (u32, u32) = (1, 1);

/// A tensor whose bytes a Python object owns.
#[derive(Debug)]
pub(crate) struct Tensor {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Borrowed,
}

impl View for &Tensor {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.bytes.bytes().into()
    }

    fn data_len(&self) -> usize {
        self.bytes.bytes().len()
    }
}

impl Tensor {
    /// The tensor `object` under the name `name`, which only errors use.
    pub(crate) fn of(name: &str, object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let py = object.py();
        read(object).map_err(|error| {
            // A type or a value that does not fit is told with the tensor; anything else is the producer's.
            let what = format!("tensor {name:?}: {}", error.value(py));
            let named = if error.is_instance_of::<PyTypeError>(py) {
                PyTypeError::new_err(what)
            } else if error.is_instance_of::<PyValueError>(py) {
                PyValueError::new_err(what)
            } else if error.is_instance_of::<PyBufferError>(py) {
                PyBufferError::new_err(what)
            } else {
                return error;
            };
            named.set_cause(py, Some(error));
            named
        })
    }

    fn new(
        dtype: Dtype,
        shape: Vec<usize>,
        bytes: impl FnOnce(usize) -> PyResult<Borrowed>,
    ) -> PyResult<Self> {
        let bits = shape.iter().try_fold(dtype.bitsize(), |bits, &dim| bits.checked_mul(dim));
        let bits = bits.ok_or_else(|| PyValueError::new_err(format!("the shape {shape:?} is too large")))?;
        if !bits.is_multiple_of(8) {
            let what = format!("the shape {shape:?} of {dtype} does not fill whole bytes");
            return Err(PyValueError::new_err(what));
        }
        let bytes = bytes(bits / 8)?;
        Ok(Self { dtype, shape, bytes })
    }

    /// Its elements as positions: integers that are not negative.
    pub(crate) fn positions(&self) -> PyResult<Vec<u64>> {
        let bytes = self.bytes.bytes();
        let negative = || PyValueError::new_err("an index is negative");
        let signed = |values: Vec<i64>| -> PyResult<Vec<u64>> {
            values.into_iter().map(|value| u64::try_from(value).map_err(|_| negative())).collect()
        };
        match self.dtype {
            Dtype::I64 => signed(words(bytes, i64::from_le_bytes)),
            Dtype::I32 => signed(words(bytes, |word| i64::from(i32::from_le_bytes(word)))),
            Dtype::U64 => Ok(words(bytes, u64::from_le_bytes)),
            Dtype::U32 => Ok(words(bytes, |word| u64::from(u32::from_le_bytes(word)))),
            dtype => Err(PyTypeError::new_err(format!("indices of {dtype}: they are 32 or 64-bit integers"))),
        }
    }
}

fn words<const N: usize, T>(bytes: &[u8], value: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks().0.iter().map(|&word| value(word)).collect()
}

fn read(object: &Bound<'_, PyAny>) -> PyResult<Tensor> {
    if let Ok(raw) = object.cast::<Raw>() {
        return raw.get().tensor(object.py());
    }
    // A parameter that is trained is not exported.
    let object = &if object.hasattr("detach")? { object.call_method0("detach")? } else { object.clone() };
    if !object.hasattr("__dlpack__")? {
        if object.hasattr("__array_interface__")? {
            return of_array(object);
        }
        let kind = object.get_type().name()?;
        return Err(PyTypeError::new_err(format!(
            "a {kind} is no tensor: it has neither __dlpack__ nor __array_interface__; \
             tensorpatch.Raw(dtype, shape, buffer) takes bytes"
        )));
    }
    let object = &on_host(object)?;
    match capsule(object) {
        Ok(capsule) => of_capsule(object, &capsule, true),
        // NumPy exports neither the types of ml_dtypes nor, in older versions, what cannot be written.
        Err(error)
            if error.is_instance_of::<PyBufferError>(object.py())
                && object.hasattr("__array_interface__")? =>
        {
            of_array(object)
        }
        Err(error) => Err(error),
    }
}

/// The tensor in memory that the processor reads: itself, or a copy.
fn on_host<'py>(object: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    if !object.hasattr("__dlpack_device__")? {
        return Ok(object.clone());
    }
    let (kind, _): (i32, i64) = object.call_method0("__dlpack_device__")?.extract()?;
    if READABLE.contains(&kind) {
        return Ok(object.clone());
    }
    if object.hasattr("cpu")? {
        return object.call_method0("cpu");
    }
    Err(PyBufferError::new_err(format!("on a device of DLPack's type {kind}: copy it to the host first")))
}

fn capsule<'py>(object: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyCapsule>> {
    let py = object.py();
    let newest = PyDict::new(py);
    newest.set_item("max_version", DLPACK)?;
    let capsule = match object.call_method("__dlpack__", (), Some(&newest)) {
        // Producers of before DLPack 1 take no version.
        Err(error) if error.is_instance_of::<PyTypeError>(py) => object.call_method0("__dlpack__"),
        exported => exported,
    }?;
    Ok(capsule.cast_into::<PyCapsule>()?)
}

fn of_capsule(object: &Bound<'_, PyAny>, capsule: &Bound<'_, PyCapsule>, may_copy: bool) -> PyResult<Tensor> {
    let Exported { element, mut shape, strides, address, padded } = exported(capsule)?;
    if strides.is_some_and(|strides| !is_contiguous(&shape, &strides)) {
        // torch has the one, NumPy the other, which copies in C order.
        for method in ["contiguous", "copy"] {
            if may_copy && object.hasattr(method)? {
                let copy = object.call_method0(method)?;
                return of_capsule(&copy, &self::capsule(&copy)?, false);
            }
        }
        return Err(PyValueError::new_err("it is not contiguous, and cannot be made so"));
    }
    let dtype = dtype_of(element).filter(|dtype| !padded || dtype.bitsize() >= 8);
    let dtype = dtype.ok_or_else(|| {
        let ElementType { code, bits, lanes } = element;
        let padded = if padded { ", padded" } else { "" };
        PyTypeError::new_err(format!(
            "DLPack's type {code} of {bits} bits in {lanes} lanes{padded} is no dtype of safetensors; \
             tensorpatch.Raw takes its bytes under another"
        ))
    })?;
    if element.lanes > 1 {
        // Two elements in a byte, which safetensors counts singly.
        let last = shape.last_mut().ok_or_else(|| PyValueError::new_err("a scalar of packed elements"))?;
        let elements = last.checked_mul(usize::from(element.lanes));
        *last = elements.ok_or_else(|| PyValueError::new_err("the shape is too large"))?;
    }
    Tensor::new(dtype, shape, |len| {
        let bytes = Borrowed::at(address, len, capsule.clone().into_any().unbind());
        bytes.ok_or_else(|| PyBufferError::new_err("it has no memory"))
    })
}

fn is_contiguous(shape: &[usize], strides: &[i64]) -> bool {
    if shape.contains(&0) {
        return true;
    }
    let mut expected = Some(1_i64);
    for (&dim, &stride) in shape.iter().zip(strides).rev() {
        if dim != 1 && Some(stride) != expected {
            return false;
        }
        expected = expected.zip(i64::try_from(dim).ok()).and_then(|(step, dim)| step.checked_mul(dim));
    }
    true
}

/// The dtype of a DLPack type, or `None` if safetensors has none.
fn dtype_of(element: ElementType) -> Option<Dtype> {
    let ElementType { code, bits, lanes } = element;
    Some(match (code, bits, lanes) {
        (0, 8, 1) => Dtype::I8,
        (0, 16, 1) => Dtype::I16,
        (0, 32, 1) => Dtype::I32,
        (0, 64, 1) => Dtype::I64,
        (1, 8, 1) => Dtype::U8,
        (1, 16, 1) => Dtype::U16,
        (1, 32, 1) => Dtype::U32,
        (1, 64, 1) => Dtype::U64,
        (2, 16, 1) => Dtype::F16,
        (2, 32, 1) => Dtype::F32,
        (2, 64, 1) => Dtype::F64,
        (4, 16, 1) => Dtype::BF16,
        (5, 64, 1) => Dtype::C64,
        (6, 8, 1) => Dtype::BOOL,
        (10, 8, 1) => Dtype::F8_E4M3,
        (11, 8, 1) => Dtype::F8_E4M3FNUZ,
        (12, 8, 1) => Dtype::F8_E5M2,
        (13, 8, 1) => Dtype::F8_E5M2FNUZ,
        (14, 8, 1) => Dtype::F8_E8M0,
        (17, 4, 1 | 2) => Dtype::F4,
        _ => return None,
    })
}

/// The DLPack type of a dtype by name, if DLPack has it.
pub(crate) fn element_type(dtype: &DtypeName) -> Option<ElementType> {
    let (code, bits, lanes) = match dtype.as_str() {
        "I8" => (0, 8, 1),
        "I16" => (0, 16, 1),
        "I32" => (0, 32, 1),
        "I64" => (0, 64, 1),
        "U8" => (1, 8, 1),
        "U16" => (1, 16, 1),
        "U32" => (1, 32, 1),
        "U64" => (1, 64, 1),
        "F16" => (2, 16, 1),
        "F32" => (2, 32, 1),
        "F64" => (2, 64, 1),
        "BF16" => (4, 16, 1),
        "C64" => (5, 64, 1),
        "BOOL" => (6, 8, 1),
        "F8_E4M3" => (10, 8, 1),
        "F8_E4M3FNUZ" => (11, 8, 1),
        "F8_E5M2" => (12, 8, 1),
        "F8_E5M2FNUZ" => (13, 8, 1),
        "F8_E8M0" => (14, 8, 1),
        "F4" => (17, 4, 2),
        _ => return None,
    };
    Some(ElementType { code, bits, lanes })
}

/// An array by its `__array_interface__`, which NumPy has in every version, for every type.
fn of_array(object: &Bound<'_, PyAny>) -> PyResult<Tensor> {
    let interface = object.getattr("__array_interface__")?;
    let interface = interface.cast::<PyDict>()?;
    let part = |key: &str| {
        let missing = || PyValueError::new_err(format!("its __array_interface__ has no {key:?}"));
        interface.get_item(key)?.ok_or_else(missing)
    };
    let strides = interface.get_item("strides")?.filter(|strides| !strides.is_none());
    if strides.is_some() {
        if !object.hasattr("copy")? {
            return Err(PyValueError::new_err("it is not contiguous, and cannot be made so"));
        }
        let copy = object.call_method0("copy")?;
        // A copy has no strides, or the object is none that can be read.
        let copied = copy.getattr("__array_interface__")?.get_item("strides")?;
        return if copied.is_none() {
            of_array(&copy)
        } else {
            Err(PyValueError::new_err("it is not contiguous, and cannot be made so"))
        };
    }
    let code: String = part("typestr")?.extract()?;
    let dtype = match code.as_str() {
        "|b1" => Dtype::BOOL,
        "|u1" => Dtype::U8,
        "|i1" => Dtype::I8,
        "<u2" => Dtype::U16,
        "<i2" => Dtype::I16,
        "<u4" => Dtype::U32,
        "<i4" => Dtype::I32,
        "<u8" => Dtype::U64,
        "<i8" => Dtype::I64,
        "<f2" => Dtype::F16,
        "<f4" => Dtype::F32,
        "<f8" => Dtype::F64,
        "<c8" => Dtype::C64,
        // NumPy has no names for these; ml_dtypes has.
        code => {
            let name = object.getattr("dtype").and_then(|dtype| dtype.getattr("name"));
            let name = name.and_then(|name| name.extract()).unwrap_or_else(|_| "unknown".to_owned());
            match name.as_str() {
                "bfloat16" => Dtype::BF16,
                "float8_e4m3fn" => Dtype::F8_E4M3,
                "float8_e4m3fnuz" => Dtype::F8_E4M3FNUZ,
                "float8_e5m2" => Dtype::F8_E5M2,
                "float8_e5m2fnuz" => Dtype::F8_E5M2FNUZ,
                "float8_e8m0fnu" => Dtype::F8_E8M0,
                _ => {
                    let what =
                        format!("the type {name} ({code}) has no dtype of safetensors in native order");
                    return Err(PyTypeError::new_err(what));
                }
            }
        }
    };
    let shape: Vec<usize> = part("shape")?.extract()?;
    let data = part("data")?;
    let (address, _): (usize, bool) = data.cast::<PyTuple>()?.extract()?;
    Tensor::new(dtype, shape, |len| {
        let bytes = Borrowed::at(address, len, object.clone().unbind());
        bytes.ok_or_else(|| PyBufferError::new_err("it has no memory"))
    })
}

/// A tensor given by its bytes.
///
/// dtype is a name of safetensors, such as "BF16" or "F8_E4M3". bytes are read where they are; any other
/// buffer is copied.
#[pyclass(frozen, module = "tensorpatch")]
#[derive(Debug)]
pub(crate) struct Raw {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Py<PyBytes>,
}

#[pymethods]
impl Raw {
    #[new]
    fn new(dtype: &str, shape: Vec<usize>, buffer: &Bound<'_, PyAny>) -> PyResult<Self> {
        let py = buffer.py();
        let unknown = || PyValueError::new_err(format!("{dtype:?} is no dtype of safetensors"));
        let name = DtypeName::new(dtype).ok_or_else(unknown)?;
        let dtype = tensorpatch::checkpoint::dtype_to_safetensors(&name).ok_or_else(unknown)?;
        let bytes = match buffer.cast::<PyBytes>() {
            Ok(bytes) => bytes.clone(),
            Err(_) => {
                let view = py.import("builtins")?.getattr("memoryview")?.call1((buffer,))?;
                view.call_method0("tobytes")?.cast_into::<PyBytes>()?
            }
        };
        let raw = Self { dtype, shape, bytes: bytes.unbind() };
        raw.tensor(py)?;
        Ok(raw)
    }

    #[getter]
    fn dtype(&self) -> String {
        self.dtype.to_string()
    }

    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, &self.shape)
    }

    fn __repr__(&self) -> String {
        format!("Raw({:?}, {:?})", self.dtype.to_string(), self.shape)
    }
}

impl Raw {
    fn tensor(&self, py: Python<'_>) -> PyResult<Tensor> {
        let bytes = Borrowed::of_bytes(self.bytes.bind(py));
        let found = bytes.bytes().len();
        Tensor::new(self.dtype, self.shape.clone(), |len| {
            if found == len {
                return Ok(bytes);
            }
            let what = format!("{} of the shape {:?} has {len} bytes, not {found}", self.dtype, self.shape);
            Err(PyValueError::new_err(what))
        })
    }
}
