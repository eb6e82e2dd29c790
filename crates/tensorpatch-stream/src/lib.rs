//! The protocol of a stream of checkpoint versions (`spec/stream.md`), without a store: what records say,
//! what they may say, and what follows from them.
//!
//! This crate is to `spec/stream.md` what `tensorpatch-format` is to `spec/format.md`. It has types and pure
//! functions: bytes and lists in, decisions out. It does no I/O, reads no clock, and knows neither an async
//! runtime nor an object store; `tensorpatch-store` does all that on top of it.
//!
//! | module | section | what for |
//! |---|---|---|
//! | [`names`] | 3 | version numbers, ids, and the names of objects |
//! | [`digest`] | 4 | the digest of an object or record, and digests as text in JSON |
//! | [`record`] | 4 | records: JSON in, checked values out |
//! | [`sign`] | 4.4 | signatures over records |
//! | [`trust`] | 4.4, 4.5 | whose signatures count, and handing over from key to key |
//! | [`receipt`] | 8 | what several ranks hand to a committer, and whether it is a version |
//! | [`history`] | 4, 10 | commits that form a chain, and the edges between versions |
//! | [`plan`] | 10 | the shortest path from a version, or from nothing, to another |
//! | [`lease`] | 11 | what replicas keep from being collected |
//! | [`retention`] | 11 | what a collector keeps, and what it deletes |
//!
//! Everything that it reads is untrusted: a record that breaks a rule is an error, never a panic, and its
//! size is bounded before it is read.
//!
//! ```
//! use std::collections::BTreeSet;
//! use tensorpatch_stream::{History, PlanError, Version};
//!
//! // No commits, no path: the error names what was wanted.
//! let history = History::new([], [])?;
//! let plan = history.plan(None, Version::FIRST, &BTreeSet::new(), 1024);
//! assert!(matches!(plan, Err(PlanError::NoPath { target: Version::FIRST, .. })));
//! # Ok::<(), tensorpatch_stream::ChainError>(())
//! ```

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
#![cfg_attr(
    test,
    allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "tests may panic")
)]

pub mod digest;
pub mod history;
pub mod lease;
pub mod names;
pub mod plan;
pub mod receipt;
pub mod record;
pub mod retention;
pub mod sign;
pub mod trust;

pub use digest::{ObjectDigest, ObjectDigestError};
pub use history::{
    Authorship, ChainError, Commit, Edge, EdgeKind, History, NewVersion, VersionKind, end_of_run,
};
pub use names::{IdError, Key, KeyError, Nonce, StreamId, Version, VersionError};
pub use plan::{Exclusions, Plan, PlanError};
pub use receipt::{Rank, Receipt, ReceiptContent, ReceiptError, TensorReceipt};
pub use record::{
    Anchor, CommitRecord, Delta, DeltaKind, EdgeRecord, JsonRecord, Link, NamedObject, ObjectRef,
    PatchObject, RecordError, StreamRecord, Subject, VersionContents, VersionId, Writers,
};
pub use sign::{Consent, ConsentTextError, KeyTextError, SignKey, TrustKey};
pub use trust::{HandoverError, HandoverRecord, Trust, TrustError};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadMe;
