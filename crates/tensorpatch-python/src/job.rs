//! Asynchronous work whose end a Python callback is told of, on a runtime that belongs to the object at work.

use std::future::Future;
use std::mem::ManuallyDrop;
use std::sync::Arc;

use pyo3::prelude::*;
use serde::Serialize;
use tensorpatch::ErrorKind;
use tokio::runtime::{Builder, Handle};
use tokio::task::AbortHandle;

use crate::errors::Failure;
use crate::watch::Watch;

/// Threads that wait for the network. Hashing and patches have threads of their own.
const WORKERS: usize = 2;

/// A runtime, with what its work reports to. There is one for each publisher and replica, so that a process
/// that was forked can open its own.
#[derive(Debug, Clone)]
pub(crate) struct Workers {
    runtime: Arc<Runtime>,
    pub(crate) watch: Arc<Watch>,
}

#[derive(Debug)]
struct Runtime {
    runtime: ManuallyDrop<Option<tokio::runtime::Runtime>>,
    /// The process that has its threads.
    process: u32,
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // In a process that was forked, nobody gives back a lock that one of the threads held at the fork.
        if self.process == std::process::id()
            && let Some(runtime) = self.runtime.take()
        {
            // Waiting for work on local disk here would hold the interpreter up.
            runtime.shutdown_background();
        }
    }
}

impl Workers {
    pub(crate) fn start() -> Result<Self, Failure> {
        let runtime = Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build();
        let failed = |error| Failure::new(ErrorKind::Io, &error);
        let runtime = ManuallyDrop::new(Some(runtime.map_err(failed)?));
        let runtime = Arc::new(Runtime { runtime, process: std::process::id() });
        Ok(Self { runtime, watch: Arc::default() })
    }

    fn handle(&self) -> Result<&Handle, Failure> {
        let ended = || Failure::refused("the runtime has ended");
        self.runtime.runtime.as_ref().map(tokio::runtime::Runtime::handle).ok_or_else(ended)
    }

    /// Begins `work`. At its end `done` is called once, from another thread, with the result, converted, and
    /// no error, or with nothing and the exception.
    pub(crate) fn submit<T, W>(
        &self,
        done: Py<PyAny>,
        work: W,
        convert: impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
    ) -> Result<Job, Failure>
    where
        T: Send + 'static,
        W: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        self.watch.go_on();
        let handle = self.handle()?;
        let task = handle.spawn(work);
        let job = Job { abort: task.abort_handle(), watch: Arc::clone(&self.watch) };
        handle.spawn(async move {
            let ended = task.await.unwrap_or_else(|error| {
                let cancelled = error.is_cancelled();
                let kind = if cancelled { ErrorKind::Cancelled } else { ErrorKind::Io };
                Err(Failure::with_message(
                    kind,
                    if cancelled { "cancelled".into() } else { error.to_string() },
                ))
            });
            // Without an interpreter there is nobody left to tell.
            Python::try_attach(|py| {
                let ended = ended.map_err(|failure| failure.exception(py));
                let told = match ended.and_then(|value| convert(py, value)) {
                    Ok(value) => done.call1(py, (value, py.None())),
                    Err(error) => done.call1(py, (py.None(), error.into_value(py))),
                };
                if let Err(error) = told {
                    error.write_unraisable(py, None);
                }
            });
        });
        Ok(job)
    }

    /// As [`Workers::submit`], with the result as JSON.
    pub(crate) fn submit_json<T, W>(&self, done: Py<PyAny>, work: W) -> Result<Job, Failure>
    where
        T: Serialize + Send + 'static,
        W: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        self.submit(done, work, |py, value| Ok(json(&value)?.into_pyobject(py)?.into_any().unbind()))
    }
}

/// A value as JSON, for the dataclasses of the package.
pub(crate) fn json(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|error| Failure::new(ErrorKind::Io, &error))
}

/// Work that is under way.
#[pyclass(frozen, module = "tensorpatch._native")]
#[derive(Debug)]
pub(crate) struct Job {
    abort: AbortHandle,
    watch: Arc<Watch>,
}

#[pymethods]
impl Job {
    /// Asks the work to end: waiting ends at once, work on local disk at its next step.
    fn cancel(&self) {
        self.watch.stop();
        self.abort.abort();
    }
}
