//! How far a long operation has come, and the wish to stop it.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tensorpatch::store::{Event, Observer, Phase};

/// A phase by name, the bytes done and the bytes to do.
pub(crate) type Position = (&'static str, u64, u64);

/// What the threads that work and the thread that waits share.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    stop: AtomicBool,
    position: Mutex<Option<Position>>,
}

impl Watch {
    /// Asks what is under way to end.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Forgets a wish that an earlier call was stopped with.
    pub(crate) fn go_on(&self) {
        self.stop.store(false, Ordering::Relaxed);
    }

    pub(crate) fn position(&self) -> Option<Position> {
        *self.position.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn start(&self, phase: &'static str, total: u64) {
        *self.position.lock().unwrap_or_else(PoisonError::into_inner) = Some((phase, 0, total));
    }

    /// Says that `bytes` more are done, and asks whether to go on.
    pub(crate) fn advance(&self, bytes: u64) -> ControlFlow<()> {
        if let Some((_, done, _)) = &mut *self.position.lock().unwrap_or_else(PoisonError::into_inner) {
            *done = done.saturating_add(bytes);
        }
        if self.stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// An observer that writes here.
    pub(crate) fn observer(self: &Arc<Self>) -> Observer {
        let watch = Arc::clone(self);
        Observer::stoppable(move |event| match event {
            Event::Started(phase, bytes) => {
                watch.start(name(phase), bytes);
                ControlFlow::Continue(())
            }
            Event::Advanced(Phase::Resumed, bytes) => watch.advance(bytes),
            Event::Advanced(phase, bytes) => {
                let current = watch.position().is_some_and(|(shown, _, _)| shown == name(phase));
                watch.advance(if current { bytes } else { 0 })
            }
            _ => ControlFlow::Continue(()),
        })
    }
}

fn name(phase: Phase) -> &'static str {
    match phase {
        Phase::Hash => "hash",
        Phase::Download | Phase::Resumed => "download",
        Phase::Encode => "encode",
        Phase::Check => "check",
        Phase::Upload => "upload",
        Phase::Apply => "apply",
        _ => "work",
    }
}
