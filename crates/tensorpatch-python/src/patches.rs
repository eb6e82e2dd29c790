//! What changes in a receiver's tensors, one tensor at a time, as arrays that frameworks take without a copy.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use pyo3::exceptions::{PyBufferError, PyStopIteration};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyCapsule, PyDict};
use tensorpatch::delta::{ChangedTensor, ChangedTensors, LeafTable, Patch, Progress, State, open_settled};
use tensorpatch::format::Kind;

use crate::dlpack::{ElementType, Owned, export};
use crate::errors::Failure;
use crate::options::options;
use crate::replica::Prepared;
use crate::tensor::element_type;

/// Tensors that are found ahead of the one that is taken.
const AHEAD: usize = 1;
/// How often a wait looks for signals.
const TICK: Duration = Duration::from_millis(50);

/// The tensors that a patch changes in the checkpoint at `base`, or all of a full patch.
#[pyfunction]
pub(crate) fn patches_of_file(
    patch: PathBuf,
    base: Option<PathBuf>,
    names: Option<Vec<String>>,
    threads: Option<usize>,
) -> PyResult<Patches> {
    let options = options(threads)?;
    Ok(Patches::start(move |sender| {
        let patches = [Patch::open_within(&patch, &options.limits)?];
        let [patch] = &patches;
        let base = base.map(|path| open_settled(&path, &options.limits)).transpose()?;
        let state = base.as_ref().map(State::of).transpose()?;
        if let Some(state) = &state {
            if patch.kind() == Kind::Full {
                return Err(Failure::refused("the patch is a full one, which has no base"));
            }
            let leaves = LeafTable::of(state, patch.leaf_hash(), options.threads, Progress::none())?;
            patch.check_base(leaves.state_digest(state.schema()))?;
        }
        let changed = ChangedTensors::by_patches(state, &patches, &options)?;
        let unknown = |name: &&String| changed.schema().find(name).is_none();
        if let Some(name) = names.iter().flatten().find(unknown) {
            return Err(Failure::refused(format!("names: there is no tensor {name:?}")));
        }
        for (spec, index) in
            changed.schema().tensors().iter().zip((0..).map(tensorpatch::format::TensorIndex))
        {
            if is_wanted(names.as_deref(), &spec.name)
                && let Some(tensor) = changed.tensor(index)?
                && sender.send(Ok(tensor)).is_err()
            {
                break;
            }
        }
        Ok(())
    }))
}

/// The tensors that the activation of a prepared version changes.
#[pyfunction]
pub(crate) fn patches_of_prepared(prepared: &Prepared, names: Option<Vec<String>>) -> PyResult<Patches> {
    let ready = Arc::clone(&prepared.ready);
    // Held until the last tensor is taken, so that activation cannot alter the files that are read.
    let gone = || Failure::refused("this version was activated or closed before");
    if ready.try_lock().is_ok_and(|ready| ready.is_none()) {
        return Err(gone().into());
    }
    Ok(Patches::start(move |sender| {
        let ready = ready.lock().unwrap_or_else(PoisonError::into_inner);
        let ready = ready.as_ref().ok_or_else(gone)?;
        let wanted = |name: &str| is_wanted(names.as_deref(), name);
        let send = |tensor| match sender.send(Ok(tensor)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        };
        Ok(ready.visit_changed(wanted, send)?)
    }))
}

fn is_wanted(names: Option<&[String]>, name: &str) -> bool {
    names.is_none_or(|names| names.iter().any(|wanted| wanted == name))
}

type Found = Result<ChangedTensor, Failure>;

/// Changed tensors, found by a thread that is one ahead.
#[pyclass(frozen, module = "tensorpatch._native")]
#[derive(Debug)]
pub(crate) struct Patches {
    found: Mutex<Option<Receiver<Found>>>,
    finder: Mutex<Option<JoinHandle<()>>>,
}

impl Patches {
    fn start(find: impl FnOnce(&SyncSender<Found>) -> Result<(), Failure> + Send + 'static) -> Self {
        let (sender, receiver) = sync_channel(AHEAD);
        let finder = std::thread::spawn(move || {
            if let Err(failure) = find(&sender) {
                // Nobody waits for it if the receiver is gone.
                let _ = sender.send(Err(failure));
            }
        });
        Self { found: Mutex::new(Some(receiver)), finder: Mutex::new(Some(finder)) }
    }
}

/// Name, dtype, shape, indices and values.
type Parts = (String, String, Vec<u64>, Option<Py<Array>>, Py<Array>);

#[pymethods]
impl Patches {
    fn __iter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Parts> {
        loop {
            let taken = py.detach(|| {
                let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
                found.as_ref().map(|found| found.recv_timeout(TICK))
            });
            match taken {
                Some(Ok(tensor)) => return parts(py, tensor?),
                Some(Err(RecvTimeoutError::Timeout)) => py.check_signals()?,
                Some(Err(RecvTimeoutError::Disconnected)) | None => {
                    return Err(PyStopIteration::new_err(()));
                }
            }
        }
    }

    /// Ends early, and returns once nothing is read any more.
    fn close(&self, py: Python<'_>) {
        py.detach(|| {
            self.found.lock().unwrap_or_else(PoisonError::into_inner).take();
            let finder = self.finder.lock().unwrap_or_else(PoisonError::into_inner).take();
            // A panic of it has been told as the end of the iterator.
            let _ = finder.map(JoinHandle::join);
        });
    }
}

fn parts(py: Python<'_>, tensor: ChangedTensor) -> PyResult<Parts> {
    let ChangedTensor { spec, positions, values, .. } = tensor;
    let whole = positions.is_none();
    let indices = positions.map(|positions| Py::new(py, Array::of_positions(positions)?)).transpose()?;
    let shape: Vec<i64> = spec
        .shape
        .iter()
        .map(|&dim| i64::try_from(dim))
        .collect::<Result<_, _>>()
        .map_err(|_| too_large())?;
    let width = spec.dtype.element_format().width();
    // A dtype that no framework has is flat bytes.
    let values = match element_type(&spec.dtype) {
        Some(element) => Array::new(Owned::Bytes(values), element, width, whole.then_some(shape))?,
        None => Array::new(Owned::Bytes(values), BYTES, 1, None)?,
    };
    let dtype = spec.dtype.as_str().to_owned();
    Ok((spec.name, dtype, spec.shape, indices, Py::new(py, values)?))
}

fn too_large() -> PyErr {
    PyBufferError::new_err("a shape that no framework can hold")
}

/// An array in host memory that frameworks take by DLPack, without a copy.
#[pyclass(frozen, module = "tensorpatch")]
#[derive(Debug)]
pub(crate) struct Array {
    data: Arc<Owned>,
    element: ElementType,
    /// As DLPack has it: of packed elements, bytes in the last dim.
    shape: Vec<i64>,
}

impl Array {
    fn of_positions(positions: Vec<u64>) -> PyResult<Self> {
        let element = ElementType { code: 0, bits: 64, lanes: 1 };
        Self::new(Owned::Words(positions), element, 8, None)
    }

    /// Of the shape `whole`, or flat.
    fn new(data: Owned, element: ElementType, width: usize, whole: Option<Vec<i64>>) -> PyResult<Self> {
        let flat = i64::try_from(data.bytes().len().checked_div(width).unwrap_or_default());
        let flat = vec![flat.map_err(|_| too_large())?];
        let shape = match whole {
            None => flat,
            Some(mut shape) => {
                if let Some(last) = shape.last_mut() {
                    *last /= i64::from(element.lanes);
                }
                shape
            }
        };
        Ok(Self { data: Arc::new(data), element, shape })
    }
}

/// Unsigned bytes.
const BYTES: ElementType = ElementType { code: 1, bits: 8, lanes: 1 };

#[pymethods]
impl Array {
    /// Exports the array. It is not to be written to: others may share it.
    #[pyo3(signature = (*, stream=None, max_version=None, dl_device=None, copy=None))]
    fn __dlpack__<'py>(
        &self,
        py: Python<'py>,
        stream: Option<Bound<'py, PyAny>>,
        max_version: Option<(u32, u32)>,
        dl_device: Option<(i32, i32)>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        if dl_device.is_some_and(|device| device != (1, 0)) || stream.is_some() {
            return Err(PyBufferError::new_err("the array is in host memory: copy it from there"));
        }
        let _ = copy;
        let versioned = max_version.is_some_and(|(major, _)| major >= 1);
        export(py, Arc::clone(&self.data), self.element, &self.shape, versioned)
    }

    fn __dlpack_device__(&self) -> (i32, i32) {
        (1, 0)
    }

    /// For NumPy, where its types have the array's.
    #[getter]
    fn __array_interface__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let code = match (self.element.code, self.element.bits, self.element.lanes) {
            (0, bits, 1) => format!("<i{}", bits / 8),
            (1, bits, 1) => format!("<u{}", bits / 8),
            (2, bits, 1) => format!("<f{}", bits / 8),
            (5, bits, 1) => format!("<c{}", bits / 8),
            (6, 8, 1) => "|b1".to_owned(),
            _ => return Err(pyo3::exceptions::PyAttributeError::new_err("NumPy has no type for this dtype")),
        };
        let interface = PyDict::new(py);
        interface.set_item("version", 3)?;
        interface.set_item("typestr", code)?;
        interface.set_item("shape", pyo3::types::PyTuple::new(py, &self.shape)?)?;
        interface.set_item("data", (self.data.bytes().as_ptr() as usize, true))?;
        Ok(interface)
    }

    /// What NumPy asks for where `__array_interface__` has nothing: it would make an array of one object.
    #[pyo3(signature = (dtype=None, copy=None))]
    fn __array__(&self, dtype: Option<Bound<'_, PyAny>>, copy: Option<bool>) -> PyResult<()> {
        let _ = (dtype, copy);
        let told = "NumPy has no type for this dtype: take torch.from_dlpack(), or tobytes()";
        Err(pyo3::exceptions::PyTypeError::new_err(told))
    }

    /// The bytes, little-endian.
    fn tobytes<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.data.bytes())
    }

    /// As DLPack has it: of packed elements, bytes in the last dim.
    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, pyo3::types::PyTuple>> {
        pyo3::types::PyTuple::new(py, &self.shape)
    }

    fn __len__(&self) -> usize {
        self.shape.first().and_then(|&len| usize::try_from(len).ok()).unwrap_or_default()
    }
}
