//! How patches are made and applied.

use std::num::NonZeroUsize;

use tensorpatch_format::{LeafHash, Limits, Profile};

/// Choices for making and applying patches. None of them but `profile` and `leaf_hash` changes a byte of the
/// result.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// What a reader of the patch needs besides it.
    pub profile: Profile,
    /// The hash over chunks.
    pub leaf_hash: LeafHash,
    /// Threads that encode or decode.
    pub threads: NonZeroUsize,
    /// What untrusted input may ask for.
    pub limits: Limits,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            profile: Profile::default(),
            leaf_hash: LeafHash::default(),
            threads: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            limits: Limits::default(),
        }
    }
}

impl Options {
    /// The same with `threads` threads.
    #[must_use]
    pub fn with_threads(mut self, threads: NonZeroUsize) -> Self {
        self.threads = threads;
        self
    }

    /// The same with patches of `profile`.
    #[must_use]
    pub fn with_profile(mut self, profile: Profile) -> Self {
        self.profile = profile;
        self
    }

    /// The same with `leaf_hash` over chunks.
    #[must_use]
    pub fn with_leaf_hash(mut self, leaf_hash: LeafHash) -> Self {
        self.leaf_hash = leaf_hash;
        self
    }

    /// The same with `limits` for untrusted input.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }
}
