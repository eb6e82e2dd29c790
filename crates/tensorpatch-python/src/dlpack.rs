//! Tensors across the border without a copy. In: the bytes that Python objects own, as DLPack capsules,
//! addresses of the array interface, and `bytes`. Out: arrays of this package as DLPack capsules. The only
//! unsafe code of the package is here.
//!
//! What a producer says is believed as far as it cannot be checked: that the memory it points to is there
//! for as long as the object that is kept beside it. Another thread that writes to a tensor while it is read
//! gives bytes of before or after; that is the caller's to prevent, as with every library that reads tensors.

#![allow(unsafe_code, reason = "the memory belongs to Python objects")]

use std::ffi::{CStr, c_void};
use std::ptr::NonNull;
use std::sync::Arc;

use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyCapsule};

const PLAIN: &CStr = c"dltensor";
const VERSIONED: &CStr = c"dltensor_versioned";
/// The major version of the layout below; one with another may look different.
const MAJOR: u32 = 1;
/// A flag of the versioned form: elements of less than a byte take a whole one each.
const PADDED: u64 = 1 << 2;
/// A flag of the versioned form: the memory is not to be written to.
const READ_ONLY: u64 = 1;
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
    deleter: Option<unsafe extern "C" fn(*mut Managed)>,
}

#[repr(C)]
struct ManagedVersioned {
    major: u32,
    minor: u32,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut ManagedVersioned)>,
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

/// What an exported array consists of.
#[derive(Debug)]
pub(crate) enum Owned {
    Bytes(Vec<u8>),
    /// Aligned for words.
    Words(Vec<u64>),
}

impl Owned {
    /// Its bytes, in the order of this machine.
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            // SAFETY: every byte of an initialised integer is one, and these are as many as the words have.
            Self::Words(words) => unsafe {
                std::slice::from_raw_parts(words.as_ptr().cast(), size_of_val(words.as_slice()))
            },
        }
    }
}

/// What a capsule of this package keeps alive.
struct Kept {
    _data: Arc<Owned>,
    shape: Vec<i64>,
}

/// A capsule of an array of this package, for a consumer of either form. The consumer, or the capsule if
/// nobody takes the array from it, lets go of the memory.
pub(crate) fn export<'py>(
    py: Python<'py>,
    data: Arc<Owned>,
    dtype: ElementType,
    shape: &[i64],
    versioned: bool,
) -> PyResult<Bound<'py, PyCapsule>> {
    let start = data.bytes().as_ptr().cast_mut().cast();
    let kept = Box::new(Kept { _data: data, shape: shape.to_vec() });
    let tensor = DlTensor {
        data: start,
        device: Device { kind: 1, index: 0 },
        ndim: i32::try_from(shape.len()).map_err(|_| PyBufferError::new_err("too many dims"))?,
        dtype,
        // The vector does not move when its box does.
        shape: kept.shape.as_ptr(),
        strides: std::ptr::null(),
        byte_offset: 0,
    };
    let context = Box::into_raw(kept).cast();
    if versioned {
        let managed = ManagedVersioned {
            major: MAJOR,
            minor: 0,
            context,
            deleter: Some(delete_versioned),
            flags: READ_ONLY,
            tensor,
        };
        capsule(py, Box::into_raw(Box::new(managed)).cast(), VERSIONED, drop_versioned)
    } else {
        let managed = Managed { tensor, context, deleter: Some(delete) };
        capsule(py, Box::into_raw(Box::new(managed)).cast(), PLAIN, drop_plain)
    }
}

fn capsule<'py>(
    py: Python<'py>,
    managed: *mut c_void,
    name: &'static CStr,
    destructor: unsafe extern "C" fn(*mut ffi::PyObject),
) -> PyResult<Bound<'py, PyCapsule>> {
    // SAFETY: the pointer is a leaked box of the structure that the name says, and the destructor frees it.
    let object = unsafe {
        Bound::from_owned_ptr_or_err(py, ffi::PyCapsule_New(managed, name.as_ptr(), Some(destructor)))?
    };
    Ok(object.cast_into::<PyCapsule>()?)
}

/// # Safety
/// `managed` is that of a capsule of this module, and this is the only call for it.
unsafe extern "C" fn delete(managed: *mut Managed) {
    // SAFETY: both were leaked from boxes by [`export`].
    unsafe {
        let managed = Box::from_raw(managed);
        drop(Box::from_raw(managed.context.cast::<Kept>()));
    }
}

/// # Safety
/// As [`delete`].
unsafe extern "C" fn delete_versioned(managed: *mut ManagedVersioned) {
    // SAFETY: as in [`delete`].
    unsafe {
        let managed = Box::from_raw(managed);
        drop(Box::from_raw(managed.context.cast::<Kept>()));
    }
}

/// # Safety
/// The interpreter calls it with a capsule of this module.
unsafe extern "C" fn drop_plain(capsule: *mut ffi::PyObject) {
    // SAFETY: a consumer gives the capsule another name when it takes the array; then the pointer is its own.
    unsafe {
        if ffi::PyCapsule_IsValid(capsule, PLAIN.as_ptr()) == 1 {
            delete(ffi::PyCapsule_GetPointer(capsule, PLAIN.as_ptr()).cast());
        }
    }
}

/// # Safety
/// As [`drop_plain`].
unsafe extern "C" fn drop_versioned(capsule: *mut ffi::PyObject) {
    // SAFETY: as in [`drop_plain`].
    unsafe {
        if ffi::PyCapsule_IsValid(capsule, VERSIONED.as_ptr()) == 1 {
            delete_versioned(ffi::PyCapsule_GetPointer(capsule, VERSIONED.as_ptr()).cast());
        }
    }
}
