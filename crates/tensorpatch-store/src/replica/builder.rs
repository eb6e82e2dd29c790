//! Opening a replica by the URL of its stream.

use std::path::PathBuf;

use tensorpatch_stream::{StreamId, TrustKey, Version};

use super::Replica;
use super::options::ReplicaOptions;
use crate::error::StoreError;
use crate::settings::Policy;
use crate::stream::Stream;
use crate::stream::builder::StreamBuilder;

/// How a replica is opened by the URL of its stream; made by [`Replica::builder`].
#[derive(Debug, Clone)]
#[must_use]
pub struct ReplicaBuilder {
    stream: StreamBuilder,
    dir: PathBuf,
    options: ReplicaOptions,
}

impl ReplicaBuilder {
    pub(super) fn new(url: String, dir: PathBuf) -> Self {
        Self { stream: Stream::builder(url), dir, options: ReplicaOptions::default() }
    }

    /// Sets how files change, the lease, and who is told of progress.
    pub fn options(mut self, options: ReplicaOptions) -> Self {
        self.options = options;
        self
    }

    /// Sets retries, timeouts and limits [default: [`Policy::from_env`]].
    pub fn policy(mut self, policy: Policy) -> Self {
        self.stream = self.stream.policy(policy);
        self
    }

    /// As [`StreamBuilder::trust_keys`].
    pub fn trust_keys(mut self, keys: impl IntoIterator<Item = TrustKey>) -> Self {
        self.stream = self.stream.trust_keys(keys);
        self
    }

    /// As [`StreamBuilder::stream`].
    pub fn stream(mut self, id: StreamId) -> Self {
        self.stream = self.stream.stream(id);
        self
    }

    /// As [`StreamBuilder::expect_tip`].
    pub fn expect_tip(mut self, version: Version) -> Self {
        self.stream = self.stream.expect_tip(version);
        self
    }

    /// Opens the stream, which must exist.
    ///
    /// # Errors
    /// As [`StreamBuilder::open`]; [`StoreError::StreamLost`] if there is none where the directory is a
    /// replica of one.
    ///
    /// # Cancel safety
    /// The future may be dropped at any time; it only reads.
    pub async fn open(self) -> Result<Replica, StoreError> {
        let stream = self.stream.open().await.map_err(|error| error.for_replica(&self.dir))?;
        Ok(Replica::of(stream, self.dir, self.options))
    }
}
