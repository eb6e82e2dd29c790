//! Counting the requests to a store: they are what its users pay for, and what fails first.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// Requests to a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct RequestCounts {
    /// Requests that were begun. A list counts once however many pages it has, and so does a download however
    /// often it goes on after a break; each part of an upload counts.
    pub requests: u64,
    /// Attempts that failed in a way that may pass, those of the client of a bucket included: most of them
    /// were made again.
    pub failed_attempts: u64,
}

/// Counts requests. Clones count together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Requests(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    requests: AtomicU64,
    failed_attempts: AtomicU64,
}

impl Requests {
    /// Counts a request that is about to be made.
    pub(super) fn begin(&self) {
        self.0.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an attempt that failed in a way that may pass.
    pub(super) fn fail(&self) {
        self.0.failed_attempts.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn counts(&self) -> RequestCounts {
        RequestCounts {
            requests: self.0.requests.load(Ordering::Relaxed),
            failed_attempts: self.0.failed_attempts.load(Ordering::Relaxed),
        }
    }
}
