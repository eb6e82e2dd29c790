//! The extension module `tensorpatch._native`: the library as Python calls it.
//!
//! It converts arguments, tensors, results and errors, releases the interpreter for all long work, and lets
//! signals end every wait. What a user sees is in `python/tensorpatch/`, which calls nothing but this.

mod command;
mod convert;
mod dlpack;
mod errors;
mod files;
mod interrupt;
mod job;
mod options;
mod patches;
mod publisher;
mod replica;
mod reports;
mod tensor;
mod watch;

use pyo3::pymodule;

/// The native half of tensorpatch.
#[pymodule(gil_used = false)]
mod _native {
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::command::run_command;
    #[pymodule_export]
    use crate::convert::convert;
    #[pymodule_export]
    use crate::files::{apply, diff_paths, diff_tensors, digest_path, digest_tensors, inspect};
    #[pymodule_export]
    use crate::job::Job;
    #[pymodule_export]
    use crate::patches::{Array, Patches, patches_of_file, patches_of_prepared};
    #[pymodule_export]
    use crate::publisher::{Feed, Publisher, open_publisher};
    #[pymodule_export]
    use crate::replica::{Prepared, Replica, Versions, open_replica};
    #[pymodule_export]
    use crate::tensor::Raw;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
