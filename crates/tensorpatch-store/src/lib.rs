//! Streams of checkpoint versions in an object store: publishers, replicas, and the upkeep of both.
//!
//! What the records of a stream say and what follows from them is `tensorpatch-stream`, without I/O; this
//! crate brings them to a store and to local disk. From the ground up:
//!
//! * `bucket`: the objects of one stream over `object_store`, and how a URL names it.
//! * [`Stream`]: creating and opening a stream, reading its history, leases, and ranges of tensors
//!   ([`RangeReader`]).
//! * [`Replica`]: a directory that follows a stream.
//! * [`Publisher`]: appends versions, and keeps a replica to make patches from; [`ranks`] when several
//!   processes publish together; [`Folder`].
//! * [`upkeep`]: checking, collecting and mirroring.
//! * [`blocking`]: the same for programs without a runtime.
//!
//! Retries, timeouts and limits are a [`Policy`]. Every asynchronous call says what dropping its future does.
//!
//! ```
//! use tensorpatch_store::{Publisher, Replica};
//! # fn save_checkpoint(path: &str) -> std::io::Result<()> {
//! #     let header = br#"{"w":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}        "#;
//! #     let mut file = (header.len() as u64).to_le_bytes().to_vec();
//! #     file.extend(header);
//! #     file.extend([1, 2, 3, 4]);
//! #     std::fs::write(path, file)
//! # }
//! # let dir = tempfile::tempdir()?;
//! # std::env::set_current_dir(&dir)?;
//! # save_checkpoint("step-7")?;
//! # tokio::runtime::Runtime::new()?.block_on(async {
//!
//! let publisher = Publisher::builder("run-7").baseline("baseline").open().await?;
//! publisher.publish("step-7").await?;
//!
//! let replica = Replica::open("run-7", "replica").await?;
//! assert_eq!(replica.pull().await?.to.get(), 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
#![cfg_attr(
    test,
    allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "tests may panic")
)]

pub mod blocking;
mod bucket;
mod cause;
mod error;
#[cfg(test)]
#[allow(dead_code, reason = "the tests beside the code use some of it")]
#[path = "../tests/store/support/faulty_store.rs"]
mod faulty_store;
mod local;
mod lock;
mod observe;
mod publisher;
mod replica;
pub mod settings;
mod stream;
pub mod upkeep;

pub use bucket::requests::RequestCounts;
pub use bucket::url::{open_existing_store, open_store};
pub use cause::Cause;
pub use error::StoreError;
pub use local::cache_dir;
pub use object_store;
pub use observe::{Event, Observer, Phase};
pub use publisher::anchor_policy::{AnchorAdded, AnchorPolicy};
pub use publisher::builder::PublisherBuilder;
pub use publisher::feed::TensorFeed;
pub use publisher::fold::{Folded, Folder};
pub use publisher::options::PublishOptions;
pub use publisher::survey::Survey;
pub use publisher::{Published, Publisher, ranks};
pub use replica::builder::ReplicaBuilder;
pub use replica::follow::Follow;
pub use replica::metrics::{EdgeCounts, FollowCounts, FollowMetrics};
pub use replica::options::{ApplyMode, ReplicaOptions, Target, Verify};
pub use replica::pulled::{Pulled, PulledEdge, Took};
pub use replica::status::{ReplicaCondition, ReplicaStatus};
pub use replica::verify::{Fault, Verified, verify};
pub use replica::{Prepared, Replica};
pub use settings::{Policy, PolicyError, Setting};
pub use stream::builder::StreamBuilder;
pub use stream::expected::{SignedTip, signed_tips_beside, signed_tips_in};
pub use stream::handover::{HandedOver, Handover, NewKey, OldKey};
pub use stream::lease::ReplicaLease;
pub use stream::log::LogEntry;
pub use stream::range_reader::RangeReader;
pub use stream::{CreateOptions, Stream};
pub use tensorpatch_stream::{
    Anchor, ChainError, Commit, CommitRecord, Delta, DeltaKind, Edge, EdgeKind, EdgeRecord, Exclusions,
    History, IdError, JsonRecord, Key, KeyError, KeyTextError, Link, NamedObject, Nonce, ObjectDigest,
    ObjectDigestError, ObjectRef, PatchObject, Plan, PlanError, Rank, Receipt, ReceiptContent, ReceiptError,
    RecordError, SignKey, StreamId, StreamRecord, TensorReceipt, TrustKey, Version, VersionContents,
    VersionError, VersionId, VersionKind, Writers,
};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadMe;
