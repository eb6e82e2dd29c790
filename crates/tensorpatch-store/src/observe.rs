//! Telling a caller how far a long operation has come, and asking whether to go on.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

use tensorpatch_delta::Cancelled;
use tensorpatch_stream::Version;

use crate::cause::Cause;

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// Local weights are hashed, to find out what they are.
    Hash,
    /// Objects are downloaded.
    Download,
    /// What an earlier run has downloaded of an object is used; part of [`Phase::Download`]'s total.
    Resumed,
    /// A patch is made.
    Encode,
    /// A new patch is decoded and compared.
    Check,
    /// Objects are uploaded.
    Upload,
    /// A patch is applied.
    Apply,
}

/// A step forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A phase begins, with so many bytes to do.
    Started(Phase, u64),
    /// So many bytes more are done.
    Advanced(Phase, u64),
    /// A follower has asked the stream what is new, and it has answered.
    Answered,
    /// The newest version of the stream, found by a replica that is to hold it.
    Newest(Version),
    /// The store has failed a follower in a way that may pass: it tries again.
    StoreFailed(Cause),
    /// A follower has found its stream to be gone: it looks again for a while.
    StreamGone,
}

/// `1 edge is`, `2 edges are`
pub(crate) fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

type Listener = dyn Fn(Event) -> ControlFlow<()> + Send + Sync;

/// Receives [`Event`]s, from many threads, and may stop the work; the default receives none and stops
/// nothing.
///
/// ```
/// use std::ops::ControlFlow;
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicBool, Ordering};
/// use tensorpatch_store::{Event, Observer};
///
/// let observer = Observer::new(|event| if let Event::Started(phase, bytes) = event {
///     eprintln!("{phase:?}: {bytes} bytes");
/// });
///
/// // Set it from another thread: what is under way ends with `StoreError::Cancelled`.
/// let stop = Arc::new(AtomicBool::new(false));
/// let flag = Arc::clone(&stop);
/// let stoppable = Observer::stoppable(move |_| match flag.load(Ordering::Relaxed) {
///     true => ControlFlow::Break(()),
///     false => ControlFlow::Continue(()),
/// });
/// # let _ = (observer, stoppable);
/// ```
#[derive(Clone, Default)]
pub struct Observer(Option<Arc<Listener>>);

impl Observer {
    /// An observer that calls `listener`.
    pub fn new(listener: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self::stoppable(move |event| {
            listener(event);
            ControlFlow::Continue(())
        })
    }

    /// An observer that calls `listener`, and stops the work when that returns [`ControlFlow::Break`] to an
    /// [`Event::Advanced`].
    ///
    /// What is under way then ends with an error of the kind
    /// [`Cancelled`](tensorpatch_format::ErrorKind::Cancelled), unless it is past the point from which it
    /// cannot be taken back: a version that is committed stays so, and a replica's files are brought to a
    /// version. Nothing is left half done; downloads are resumed by the next call.
    pub fn stoppable(listener: impl Fn(Event) -> ControlFlow<()> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(listener)))
    }

    pub(crate) fn start(&self, phase: Phase, bytes: u64) {
        // The first step forward asks again.
        let _ = self.tell(Event::Started(phase, bytes));
    }

    /// Tells of something that nothing waits for.
    pub(crate) fn note(&self, event: Event) {
        // There is nothing to stop.
        let _ = self.tell(event);
    }

    /// Says that `bytes` more are done.
    pub(crate) fn advance(&self, phase: Phase, bytes: u64) -> Result<(), Cancelled> {
        match self.tell(Event::Advanced(phase, bytes)) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Cancelled),
        }
    }

    /// What a [`Progress`](tensorpatch_delta::Progress) of this phase calls.
    pub(crate) fn steer(&self, phase: Phase) -> impl Fn(u64) -> ControlFlow<()> + Sync + '_ {
        move |bytes| self.tell(Event::Advanced(phase, bytes))
    }

    fn tell(&self, event: Event) -> ControlFlow<()> {
        match &self.0 {
            Some(listener) => listener(event),
            None => ControlFlow::Continue(()),
        }
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Observer").field(&self.0.is_some()).finish()
    }
}
