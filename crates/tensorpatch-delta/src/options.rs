//! How patches are made and applied.

use std::num::NonZeroUsize;

use tensorpatch_format::{LeafHash, Limits, Profile};

/// What a power cut may do to what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Durability {
    /// Nothing: what a call has finished is on disk when it returns.
    #[default]
    Synced,
    /// The files may be left old, new or torn, for checkpoints that can be made again. The death of the
    /// process does no harm, as the system still has what was written; and what is applied to the files later
    /// verifies them first.
    None,
}

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
    /// What a power cut may do to checkpoints that are written.
    pub durability: Durability,
    /// Whether each chunk of a patch of two states is decoded as soon as it is encoded, so that a state that
    /// is altered while it is read gives an error and not a patch that nobody can apply.
    pub checked: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            profile: Profile::default(),
            leaf_hash: LeafHash::default(),
            threads: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            limits: Limits::default(),
            durability: Durability::default(),
            checked: false,
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

    /// The same with `durability` of checkpoints that are written.
    #[must_use]
    pub fn with_durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// The same with patches that are decoded while they are made.
    #[must_use]
    pub fn checked(mut self) -> Self {
        self.checked = true;
        self
    }

    /// Whether what is written is to be on disk before it counts.
    pub(crate) fn syncs(&self) -> bool {
        self.durability == Durability::Synced
    }
}
