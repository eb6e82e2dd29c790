//! Publishers and replicas for programs without an asynchronous runtime.
//!
//! ```
//! use tensorpatch_store::blocking::{Publisher, Replica};
//! # fn save_checkpoint(path: &str, step: u8) -> std::io::Result<()> {
//! #     let header = br#"{"w":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}        "#;
//! #     let mut file = (header.len() as u64).to_le_bytes().to_vec();
//! #     file.extend(header);
//! #     file.extend([step, 2, 3, 4]);
//! #     std::fs::write(path, file)
//! # }
//! # let dir = tempfile::tempdir()?;
//! # std::env::set_current_dir(&dir)?;
//! # save_checkpoint("model.safetensors", 1)?;
//!
//! let builder = tensorpatch_store::Publisher::builder("stream").baseline("baseline");
//! let publisher = Publisher::open_with(builder)?;
//! publisher.publish("model.safetensors")?;
//!
//! let replica = Replica::open("stream", "replica")?;
//! assert_eq!(replica.pull()?.to.get(), 1);
//!
//! // An iterator that waits for the next version.
//! # save_checkpoint("model.safetensors", 2)?;
//! publisher.publish("model.safetensors")?;
//! for pulled in replica.follow() {
//!     if pulled?.to.get() == 2 {
//!         break;
//!     }
//! }
//! assert_eq!(std::fs::read("replica/model.safetensors")?, std::fs::read("model.safetensors")?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A call returns when its work is done. To stop one from another thread, give it a
//! [stoppable](crate::Observer::stoppable) observer. Inside a runtime use the types of the same names in [the
//! crate](crate): these would block a thread of it, and panic.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tensorpatch_stream::{Version, VersionId};
use tokio::runtime::{Builder, Runtime};

use crate::error::StoreError;
use crate::publisher::anchor_policy::AnchorAdded;
use crate::publisher::builder::PublisherBuilder;
use crate::replica::builder::ReplicaBuilder;
use crate::replica::options::Target;
use crate::{Prepared, Published, Pulled};

/// Threads that wait for the network. Hashing and patches have threads of their own.
const WORKERS: usize = 2;

fn runtime() -> Result<Arc<Runtime>, StoreError> {
    let runtime = Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build();
    Ok(Arc::new(runtime.map_err(|error| StoreError::Task(format!("cannot start a runtime: {error}")))?))
}

/// Publishes checkpoints as versions of a stream: a blocking [`Publisher`](crate::Publisher), with the same
/// methods and errors.
#[derive(Debug)]
pub struct Publisher {
    runtime: Arc<Runtime>,
    publisher: crate::Publisher,
}

impl Publisher {
    /// As [`crate::Publisher::open`].
    ///
    /// # Errors
    /// As there; also if no runtime can be started.
    pub fn open(url: impl Into<String>) -> Result<Self, StoreError> {
        Self::open_with(crate::Publisher::builder(url))
    }

    /// As [`PublisherBuilder::open`].
    ///
    /// # Errors
    /// As there; also if no runtime can be started.
    pub fn open_with(builder: PublisherBuilder) -> Result<Self, StoreError> {
        let runtime = runtime()?;
        let publisher = runtime.block_on(builder.open())?;
        Ok(Self { runtime, publisher })
    }

    /// The directory of the baseline.
    pub fn baseline(&self) -> &Path {
        self.publisher.baseline()
    }

    /// As [`crate::Publisher::settle`].
    pub fn settle(&self) {
        self.runtime.block_on(self.publisher.settle());
    }

    /// As [`crate::Publisher::publish`].
    ///
    /// # Errors
    /// As there.
    pub fn publish(&self, checkpoint: impl AsRef<Path>) -> Result<Published, StoreError> {
        self.runtime.block_on(self.publisher.publish(checkpoint))
    }

    /// As [`crate::Publisher::publish_labelled`].
    ///
    /// # Errors
    /// As there.
    pub fn publish_labelled(
        &self,
        checkpoint: impl AsRef<Path>,
        label: Option<&str>,
    ) -> Result<Published, StoreError> {
        self.runtime.block_on(self.publisher.publish_labelled(checkpoint, label))
    }

    /// As [`crate::Publisher::catch_up`].
    ///
    /// # Errors
    /// As there.
    pub fn catch_up(&self) -> Result<Option<VersionId>, StoreError> {
        self.runtime.block_on(self.publisher.catch_up())
    }

    /// As [`crate::Publisher::add_anchor`].
    ///
    /// # Errors
    /// As there.
    pub fn add_anchor(&self) -> Result<AnchorAdded, StoreError> {
        self.runtime.block_on(self.publisher.add_anchor())
    }
}

/// A directory that is brought from version to version: a blocking [`Replica`](crate::Replica), with the same
/// methods and errors.
#[derive(Debug, Clone)]
pub struct Replica {
    runtime: Arc<Runtime>,
    replica: crate::Replica,
}

impl Replica {
    /// As [`crate::Replica::open`].
    ///
    /// # Errors
    /// As there; also if no runtime can be started.
    pub fn open(url: impl Into<String>, dir: impl Into<PathBuf>) -> Result<Self, StoreError> {
        Self::open_with(crate::Replica::builder(url, dir))
    }

    /// As [`ReplicaBuilder::open`].
    ///
    /// # Errors
    /// As there; also if no runtime can be started.
    pub fn open_with(builder: ReplicaBuilder) -> Result<Self, StoreError> {
        let runtime = runtime()?;
        let replica = runtime.block_on(builder.open())?;
        Ok(Self { runtime, replica })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        self.replica.dir()
    }

    /// As [`crate::Replica::held`].
    ///
    /// # Errors
    /// As there.
    pub fn held(&self) -> Result<Option<VersionId>, StoreError> {
        self.runtime.block_on(self.replica.held())
    }

    /// As [`crate::Replica::pull`].
    ///
    /// # Errors
    /// As there.
    pub fn pull(&self) -> Result<Pulled, StoreError> {
        self.runtime.block_on(self.replica.pull())
    }

    /// As [`crate::Replica::pull_version`].
    ///
    /// # Errors
    /// As there.
    pub fn pull_version(&self, version: Version) -> Result<Pulled, StoreError> {
        self.runtime.block_on(self.replica.pull_version(version))
    }

    /// As [`crate::Replica::prepare`].
    ///
    /// # Errors
    /// As there.
    pub fn prepare(&self, target: Target) -> Result<Prepared, StoreError> {
        self.runtime.block_on(self.replica.prepare(target))
    }

    /// As [`crate::Replica::activate`].
    ///
    /// # Errors
    /// As there.
    pub fn activate(&self, prepared: Prepared) -> Result<Pulled, StoreError> {
        self.runtime.block_on(self.replica.activate(prepared))
    }

    /// As [`crate::Replica::follow`]: an iterator that waits for each version.
    pub fn follow(&self) -> Follow {
        Follow { runtime: Arc::clone(&self.runtime), versions: self.replica.follow() }
    }

    /// As [`crate::Replica::release`].
    ///
    /// # Errors
    /// As there.
    pub fn release(&self) -> Result<(), StoreError> {
        self.runtime.block_on(self.replica.release())
    }
}

/// The versions that a replica comes to hold, one after the other; made by [`Replica::follow`]. It ends after
/// the first error.
#[derive(Debug)]
pub struct Follow {
    runtime: Arc<Runtime>,
    versions: crate::Follow,
}

impl Iterator for Follow {
    type Item = Result<Pulled, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.runtime.block_on(self.versions.next()).transpose()
    }
}
