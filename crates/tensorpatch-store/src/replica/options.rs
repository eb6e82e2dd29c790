//! What a caller chooses about a replica.

use std::time::Duration;
use tensorpatch_stream::{ObjectDigest, Version};

use tensorpatch_delta as delta;

use crate::observe::Observer;

/// The version that a replica is to be brought to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The newest. Never one below the version held.
    Latest,
    /// This one, be it ahead or back.
    Version(Version),
}

/// How the files of a replica change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ApplyMode {
    /// Bytes are altered in the files, guarded by a journal, where tensors stay in their places: least disk, least writing.
    #[default]
    InPlace,
    /// Complete new files are made beside the old ones and renamed: the old version can be read until the switch.
    Beside,
}

/// A lease: while it lives, collectors keep the path from the replica's version to the tip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseOptions {
    /// A name that no other replica of the stream has, for people too. It is written to the store.
    pub holder: String,
    /// How long the lease lives without being renewed; at most a week. Each pull renews it, and so does following.
    pub length: Duration,
}

impl LeaseOptions {
    /// The name of the lease's object: any text gives one.
    pub(crate) fn id(&self) -> String {
        ObjectDigest::of(self.holder.as_bytes()).to_string()
    }
}

/// Choices for a replica.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ReplicaOptions {
    /// How the files change.
    pub mode: ApplyMode,
    /// Whether weights in the directory that are no version of the stream may be replaced.
    pub replace: bool,
    /// The most edges that a plan may have.
    pub max_edges: usize,
    /// The lease that keeps the replica's path from being collected.
    pub lease: Option<LeaseOptions>,
    /// Threads and limits for decoding.
    pub apply: delta::Options,
    /// Who is told of progress.
    pub observer: Observer,
}

impl Default for ReplicaOptions {
    fn default() -> Self {
        Self {
            mode: ApplyMode::default(),
            replace: false,
            max_edges: 1024,
            lease: None,
            apply: delta::Options::default(),
            observer: Observer::default(),
        }
    }
}

impl ReplicaOptions {
    /// The same with files that change as `mode` says.
    #[must_use]
    pub fn with_mode(mut self, mode: ApplyMode) -> Self {
        self.mode = mode;
        self
    }

    /// The same, but weights that are no version of the stream may be replaced.
    #[must_use]
    pub fn replacing(mut self) -> Self {
        self.replace = true;
        self
    }

    /// The same with plans of at most `edges` edges.
    #[must_use]
    pub fn with_max_edges(mut self, edges: usize) -> Self {
        self.max_edges = edges;
        self
    }

    /// The same with a lease.
    #[must_use]
    pub fn with_lease(mut self, lease: LeaseOptions) -> Self {
        self.lease = Some(lease);
        self
    }

    /// The same with these threads and limits.
    #[must_use]
    pub fn with_apply(mut self, apply: delta::Options) -> Self {
        self.apply = apply;
        self
    }

    /// The same with `observer` told of progress.
    #[must_use]
    pub fn with_observer(mut self, observer: Observer) -> Self {
        self.observer = observer;
        self
    }
}
