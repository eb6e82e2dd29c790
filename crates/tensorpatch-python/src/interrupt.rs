//! Work on a thread of its own while the calling one, without the interpreter, waits for it and for signals.

use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use pyo3::prelude::*;
use tensorpatch::ErrorKind;

use crate::errors::Failure;
use crate::watch::{Position, Watch};

/// How often signals are looked at, and progress is told.
const TICK: Duration = Duration::from_millis(50);

/// Who is told of progress, from the thread that waits.
#[derive(Debug)]
pub(crate) struct Listener<'a> {
    pub(crate) watch: &'a Watch,
    /// A callable of a phase, the bytes done and the bytes to do.
    pub(crate) progress: Option<&'a Py<PyAny>>,
}

impl Listener<'_> {
    fn tick(&self, py: Python<'_>, told: &mut Option<Position>) -> PyResult<()> {
        py.check_signals()?;
        if let (Some(progress), Some(position)) = (self.progress, self.watch.position())
            && *told != Some(position)
        {
            *told = Some(position);
            progress.call1(py, position)?;
        }
        Ok(())
    }
}

/// Runs `work`. An interrupt, or an exception of the listener, stops it through the watch and is raised once
/// it has ended.
pub(crate) fn interruptible<T: Send>(
    py: Python<'_>,
    listener: &Listener<'_>,
    work: impl FnOnce() -> Result<T, Failure> + Send,
) -> PyResult<T> {
    let ended = py.detach(|| {
        std::thread::scope(|scope| {
            let (sender, receiver) = sync_channel(1);
            scope.spawn(move || {
                // The receiver is only gone if this thread's result no longer matters.
                let _ = sender.send(work());
            });
            let (mut told, mut interrupted) = (None, None);
            loop {
                match receiver.recv_timeout(TICK) {
                    Ok(result) => break (Some(result), interrupted),
                    Err(RecvTimeoutError::Disconnected) => break (None, interrupted),
                    Err(RecvTimeoutError::Timeout) if interrupted.is_none() => {
                        if let Err(error) = Python::attach(|py| listener.tick(py, &mut told)) {
                            listener.watch.stop();
                            interrupted = Some(error);
                        }
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                }
            }
        })
    });
    match ended {
        (_, Some(interrupt)) => Err(interrupt),
        (Some(result), None) => Ok(result?),
        (None, None) => Err(Failure::with_message(ErrorKind::Io, "the work panicked").into()),
    }
}
