//! How many bytes of records one operation keeps. Each record is bounded, and so must be their sum: whoever
//! can write to the bucket can put any number of large ones there.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Stream;
use crate::error::StoreError;

/// What is left of [`max_history_bytes`](crate::settings::Plans::max_history_bytes).
#[derive(Debug)]
pub(crate) struct Budget {
    left: AtomicU64,
    limit: u64,
}

impl Budget {
    pub(crate) fn of(stream: &Stream) -> Self {
        let limit = stream.policy().plans.max_history_bytes;
        Self { left: AtomicU64::new(limit), limit }
    }

    /// Counts a record of `bytes` bytes.
    pub(crate) fn take(&self, bytes: u64) -> Result<(), StoreError> {
        let less = |left: u64| left.checked_sub(bytes);
        match self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less) {
            Ok(_) => Ok(()),
            Err(_) => Err(StoreError::HistoryBytes { limit: self.limit }),
        }
    }
}
