//! The bytes of tensors that Python objects own, borrowed without a copy: DLPack capsules, addresses of the
//! array interface, and `bytes`. The only unsafe code of the package is here.
//!
//! What a producer says is believed as far as it cannot be checked: that the memory it points to is there
//! for as long as the object that is kept beside it. Another thread that writes to a tensor while it is read
//! gives bytes of before or after; that is the caller's to prevent, as with every library that reads tensors.

#![allow(unsafe_code, reason = "the memory belongs to Python objects")]

use std::ffi::{CStr, c_void};
use std::ptr::NonNull;

use pyo3::exceptions::PyBufferError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyCapsule};

const PLAIN: &CStr = c"dltensor";
const VERSIONED: &CStr = c"dltensor_versioned";
/// The major version of the layout below; one with another may look different.
const MAJOR: u32 = 1;
/// A flag of the versioned form: elements of less than a byte take a whole one each.
const PADDED: u64 = 1 << 2;
/// More dims than any framework has.
const MOST_DIMS: usize = 64;

/// `DLDataType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct ElementType {
    pub(crate) code: u8,
    pub(crate) bits: u8,
    pub(crate) lanes: u16,
}

#[repr(C)]
struct Device {
    kind: i32,
    index: i32,
}

#[repr(C)]
struct DlTensor {
    data: *mut c_void,
    device: Device,
    ndim: i32,
    dtype: ElementType,
    shape: *const i64,
    strides: *const i64,
    byte_offset: u64,
}

#[repr(C)]
struct Managed {
    tensor: DlTensor,
    context: *mut c_void,
    deleter: *mut c_void,
}

#[repr(C)]
struct ManagedVersioned {
    major: u32,
    minor: u32,
    context: *mut c_void,
    deleter: *mut c_void,
    flags: u64,
    tensor: DlTensor,
}

/// What a capsule says of its tensor.
pub(crate) struct Exported {
    pub(crate) element: ElementType,
    pub(crate) shape: Vec<usize>,
    /// In elements; none for a contiguous tensor.
    pub(crate) strides: Option<Vec<i64>>,
    /// Where the first element is.
    pub(crate) address: usize,
    /// Whether elements of less than a byte are padded to one.
    pub(crate) padded: bool,
}

/// Reads a capsule of `__dlpack__`, of either form. It stays the owner of its memory.
pub(crate) fn exported(capsule: &Bound<'_, PyCapsule>) -> PyResult<Exported> {
    let (tensor, flags) = if capsule.is_valid_checked(Some(VERSIONED)) {
        let managed = capsule.pointer_checked(Some(VERSIONED))?.cast::<ManagedVersioned>();
        // SAFETY: a capsule of this name points to this structure (DLPack 1), which lives as long as the
        // capsule; the version comes first in every version.
        let managed = unsafe { managed.as_ref() };
        if managed.major != MAJOR {
            let found = managed.major;
            return Err(PyBufferError::new_err(format!("DLPack {found}, and only {MAJOR} is known")));
        }
        (&managed.tensor, managed.flags)
    } else {
        let managed = capsule.pointer_checked(Some(PLAIN))?.cast::<Managed>();
        // SAFETY: as above, for the form without a version.
        (&unsafe { managed.as_ref() }.tensor, 0)
    };
    let ndim = usize::try_from(tensor.ndim).ok().filter(|&ndim| ndim <= MOST_DIMS);
    let ndim = ndim.ok_or_else(|| PyBufferError::new_err(format!("a tensor of {} dims", tensor.ndim)))?;
    // SAFETY: the producer promises `ndim` entries in each array that is not null.
    let dims = |array: *const i64| unsafe { copied(array, ndim) };
    let shape = dims(tensor.shape).unwrap_or_default();
    let negative = |_| PyBufferError::new_err("a tensor with a negative dim");
    let shape: Vec<usize> =
        shape.into_iter().map(usize::try_from).collect::<Result<_, _>>().map_err(negative)?;
    if shape.len() != ndim {
        return Err(PyBufferError::new_err("a tensor without a shape"));
    }
    let offset = usize::try_from(tensor.byte_offset).ok();
    let address = offset.and_then(|offset| (tensor.data as usize).checked_add(offset));
    let address = address.ok_or_else(|| PyBufferError::new_err("an address beyond memory"))?;
    let (strides, padded) = (dims(tensor.strides), flags & PADDED != 0);
    Ok(Exported { element: tensor.dtype, shape, strides, address, padded })
}

/// The entries of an array, or nothing if it is null.
///
/// # Safety
/// A pointer that is not null must have `len` entries.
unsafe fn copied(array: *const i64, len: usize) -> Option<Vec<i64>> {
    if array.is_null() {
        return (len == 0).then(Vec::new);
    }
    // SAFETY: by the contract of this function.
    Some(unsafe { std::slice::from_raw_parts(array, len) }.to_vec())
}

/// Bytes that a Python object owns, and the object.
#[derive(Debug)]
pub(crate) struct Borrowed {
    start: NonNull<u8>,
    len: usize,
    _owner: Py<PyAny>,
}

// SAFETY: the bytes are only read, and dropping the owner on a thread without the interpreter is deferred by
// PyO3.
unsafe impl Send for Borrowed {}
// SAFETY: as above.
unsafe impl Sync for Borrowed {}

impl Borrowed {
    /// The `len` bytes at `address`, which `owner` keeps there; nothing if there cannot be any.
    ///
    /// The addresses are those of [`exported`] or of the array interface: what keeps them true is the object
    /// that they come with.
    pub(crate) fn at(address: usize, len: usize, owner: Py<PyAny>) -> Option<Self> {
        if len == 0 {
            return Some(Self { start: NonNull::dangling(), len, _owner: owner });
        }
        let end = address.checked_add(len)?;
        let start = NonNull::new(address as *mut u8).filter(|_| isize::try_from(end).is_ok())?;
        Some(Self { start, len, _owner: owner })
    }

    /// The contents of a `bytes` object, which never change.
    pub(crate) fn of_bytes(bytes: &Bound<'_, PyBytes>) -> Self {
        let contents = bytes.as_bytes();
        let start = NonNull::from(contents).cast();
        Self { start, len: contents.len(), _owner: bytes.clone().into_any().unbind() }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the owner keeps the memory, see the constructors; `len` is at most isize::MAX.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}
