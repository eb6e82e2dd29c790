//! Telling a caller how far a long operation has come.

use std::fmt;
use std::sync::Arc;

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
}

type Listener = dyn Fn(Event) + Send + Sync;

/// Receives [`Event`]s, from many threads; the default receives none.
///
/// ```
/// use tensorpatch_store::{Event, Observer};
///
/// let observer = Observer::new(|event| if let Event::Started(phase, bytes) = event {
///     eprintln!("{phase:?}: {bytes} bytes");
/// });
/// # let _ = observer;
/// ```
#[derive(Clone, Default)]
pub struct Observer(Option<Arc<Listener>>);

impl Observer {
    /// An observer that calls `listener`.
    pub fn new(listener: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(listener)))
    }

    pub(crate) fn start(&self, phase: Phase, bytes: u64) {
        self.tell(Event::Started(phase, bytes));
    }

    pub(crate) fn advance(&self, phase: Phase, bytes: u64) {
        self.tell(Event::Advanced(phase, bytes));
    }

    fn tell(&self, event: Event) {
        if let Some(listener) = &self.0 {
            listener(event);
        }
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Observer").field(&self.0.is_some()).finish()
    }
}
