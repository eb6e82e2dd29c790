//! Telling a caller how far a long operation has come.

/// A handle that receives progress in bytes of model.
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use tensorpatch_delta::Progress;
///
/// let done = AtomicU64::new(0);
/// let advance = |bytes| { done.fetch_add(bytes, Ordering::Relaxed); };
/// let progress = Progress::new(&advance);
/// progress.advance(1 << 20);
/// assert_eq!(done.into_inner(), 1 << 20);
/// ```
#[derive(Clone, Copy)]
pub struct Progress<'a> {
    advance: Option<&'a (dyn Fn(u64) + Sync)>,
}

impl<'a> Progress<'a> {
    /// A handle that calls `advance` with the bytes of model that are newly done, from many threads.
    pub fn new(advance: &'a (dyn Fn(u64) + Sync)) -> Self {
        Self { advance: Some(advance) }
    }

    /// A handle that tells nobody.
    pub fn none() -> Self {
        Self { advance: None }
    }

    /// Says that `bytes` more are done.
    pub fn advance(&self, bytes: u64) {
        if let Some(advance) = self.advance {
            advance(bytes);
        }
    }
}

impl std::fmt::Debug for Progress<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Progress").finish_non_exhaustive()
    }
}
