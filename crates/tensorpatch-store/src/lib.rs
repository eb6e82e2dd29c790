//! Streams of checkpoint versions in an object store: commits, anchors, planning, replicas.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
#![cfg_attr(
    test,
    allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "tests may panic")
)]

mod bucket;
mod check;
mod collect;
mod commit;
mod digest;
mod error;
mod fold;
mod lease;
mod local;
mod log;
mod merge;
mod mirror;
mod names;
mod observe;
mod parts;
mod plan;
mod probe;
mod publisher;
mod ranks;
mod record;
mod replica;
mod sign;
mod stream;
mod url;

pub use check::{Checked, Problem};
pub use collect::{CollectPolicy, Collected, Garbage};
pub use digest::ObjectDigest;
pub use error::StoreError;
pub use fold::{Folded, Folder};
pub use log::{LogEntry, LogKind};
pub use mirror::Mirrored;
pub use names::{IdError, Key, KeyError, Nonce, StreamId, Version, VersionError};
pub use observe::{Event, Observer, Phase};
pub use parts::PartReader;
pub use plan::{Commit, History, Plan, PlanError, Step, Way};
pub use publisher::{AnchorAdded, AnchorPolicy, PublishOptions, Published, Publisher};
pub use ranks::{Rank, Receipt, ReceiptContent, ReceiptError, TensorReceipt};
pub use record::{
    Anchor, CommitRecord, Delta, DeltaKind, EdgeRecord, Link, NamedObject, ObjectRef, Part, Record,
    RecordError, StreamRecord, VersionId, Writers,
};
pub use replica::{ApplyMode, LeaseOptions, Prepared, Pulled, PulledStep, Replica, ReplicaOptions, Target};
pub use sign::{KeyTextError, SignKey, TrustKey};
pub use stream::{CreateOptions, Stream};
pub use url::{open_existing_store, open_store};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadMe;
