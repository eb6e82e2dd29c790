//! Telling a caller how far a long operation has come, and asking whether to go on.

use std::ops::ControlFlow;

/// A handle that receives progress in bytes of model.
///
/// ```
/// use std::ops::ControlFlow;
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use tensorpatch_delta::Progress;
///
/// let done = AtomicU64::new(0);
/// let advance = |bytes| { done.fetch_add(bytes, Ordering::Relaxed); };
/// Progress::new(&advance).advance(1 << 20)?;
/// assert_eq!(done.load(Ordering::Relaxed), 1 << 20);
///
/// // Stops once a mebibyte is done.
/// let until = |bytes| match done.fetch_add(bytes, Ordering::Relaxed) {
///     0 => ControlFlow::Continue(()),
///     _ => ControlFlow::Break(()),
/// };
/// assert!(Progress::stoppable(&until).advance(1 << 20).is_err());
/// # Ok::<(), tensorpatch_delta::Cancelled>(())
/// ```
#[derive(Clone, Copy)]
pub struct Progress<'a> {
    caller: Caller<'a>,
}

#[derive(Clone, Copy)]
enum Caller<'a> {
    None,
    Watches(&'a (dyn Fn(u64) + Sync)),
    Steers(&'a (dyn Fn(u64) -> ControlFlow<()> + Sync)),
}

/// The caller's [`Progress`] asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cancelled by the caller")]
pub struct Cancelled;

impl<'a> Progress<'a> {
    /// A handle that calls `advance` with the bytes of model that are newly done, from many threads.
    pub fn new(advance: &'a (dyn Fn(u64) + Sync)) -> Self {
        Self { caller: Caller::Watches(advance) }
    }

    /// A handle that calls `advance` as [`Progress::new`] does, and cancels the operation when that returns
    /// [`ControlFlow::Break`]. Called about every 8 MiB of model for each thread.
    pub fn stoppable(advance: &'a (dyn Fn(u64) -> ControlFlow<()> + Sync)) -> Self {
        Self { caller: Caller::Steers(advance) }
    }

    /// A handle that tells nobody.
    pub fn none() -> Self {
        Self { caller: Caller::None }
    }

    /// Says that `bytes` more are done.
    ///
    /// # Errors
    /// [`Cancelled`] if the caller wants the operation to stop.
    pub fn advance(&self, bytes: u64) -> Result<(), Cancelled> {
        match self.caller {
            Caller::None => Ok(()),
            Caller::Watches(advance) => {
                advance(bytes);
                Ok(())
            }
            Caller::Steers(advance) => match advance(bytes) {
                ControlFlow::Continue(()) => Ok(()),
                ControlFlow::Break(()) => Err(Cancelled),
            },
        }
    }
}

impl std::fmt::Debug for Progress<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Progress").finish_non_exhaustive()
    }
}
