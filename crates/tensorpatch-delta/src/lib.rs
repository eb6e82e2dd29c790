//! Diff and apply over whole checkpoints: parallel, deterministic, in bounded memory.
//!
//! * [`diff()`] and [`full`] turn two states, or one, into the bytes of a patch; [`diff_changes`] one state and a list of what changes.
//! * [`Patch`] is a patch whose structure has been checked; [`apply_to`] makes a new checkpoint with it,
//!   [`apply_in_place`] alters one, [`recover`] finishes what a crash interrupted. [`apply_chunks`] is for tensors that are no files.
//! * [`LeafTable`] is what a state's digest is made of.
//!
//! Nothing here is async and nothing touches a network. Memory is bounded by the chunks in flight, whatever the
//! size of the model: tensors are read from memory maps and written by position.

#![forbid(unsafe_code)]

mod apply;
mod changes;
mod continuation;
mod diff;
mod emit;
mod error;
mod files;
mod in_place;
mod journal;
mod leaves;
mod options;
mod packing;
mod parallel;
mod patch;
mod progress;
mod spans;
mod state;

pub use apply::{ApplyReport, apply_chunks};
pub use changes::{ChangesError, TensorChanges};
pub use diff::{DiffError, DiffReport, EncodingUse, Version, diff, diff_changes, full};
pub use error::ApplyError;
pub use files::{apply_full, apply_to};
pub use in_place::{Recovery, activate_in_place, apply_in_place, prepare_in_place, recover};
pub use leaves::LeafTable;
pub use options::Options;
pub use patch::{BoundPatch, ChunkFault, Patch};
pub use progress::Progress;
pub use state::{State, StateError};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadMe;
