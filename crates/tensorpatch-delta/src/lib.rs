//! Diff and apply over whole checkpoints: parallel, deterministic, in bounded memory.
//!
//! From paths to paths:
//!
//! * [`diff()`] makes the patch between two checkpoints, [`full()`] one that needs no base; [`Diff::write`]
//!   writes it.
//! * [`Patch::open`] reads a patch file; [`Patch::apply`] makes a new checkpoint with it,
//!   [`Patch::apply_in_place`] alters one. [`Apply`] does the same with options.
//! * [`digest()`] says which state a checkpoint holds.
//!
//! From tensors in memory, as the `safetensors` crate has them:
//!
//! * [`diff_tensors`] makes the patch from a checkpoint to them, one tensor at a time; [`full_tensors`] one
//!   that needs no base; [`TensorDiff`] is what to use where making a tensor can fail, or where only
//!   positions and values are known.
//! * [`MemoryState`] is a whole state in memory, given or decoded.
//!
//! With the parts in hand:
//!
//! * [`State`] and [`Snapshot`] are tensors as slices, wherever they lie.
//! * [`encode_diff`] and [`encode_full`] turn two of them, or one, into the bytes of a patch;
//!   [`encode_changes`] one and a list of what changes.
//! * [`Chain`] is one patch or several that are applied in one pass.
//! * [`apply_to`], [`apply_full`] and [`apply_chunks`] decode; [`apply_in_place`], [`prepare_in_place`] and
//!   [`activate_in_place`] alter a checkpoint with a journal of the caller's choice, [`recover`] finishes
//!   what a crash interrupted.
//! * [`LeafTable`] is what a state's digest is made of.
//!
//! Nothing here is async and nothing touches a network. Memory is bounded by the chunks in flight, whatever
//! the size of the model: tensors are read from memory maps and written by position.

#![forbid(unsafe_code)]

mod apply;
mod assembly;
mod chain;
mod changed;
mod changes;
mod continuation;
mod diff;
mod diff_base;
mod digest;
mod emit;
mod encode;
mod error;
mod files;
mod in_place;
mod journal;
mod layers;
mod leaves;
mod memory;
mod options;
mod packing;
mod parallel;
mod patch;
mod patch_file;
mod pending;
mod progress;
mod spans;
mod state;
mod tensor_diff;
mod tensors_error;
mod walk;

pub use apply::{AppliedInPlace, Apply};
pub use chain::Chain;
// Its types are in the interfaces of this crate.
pub use safetensors;

pub use changed::{ChangedTensor, ChangedTensors};
pub use changes::{ChangesError, TensorChanges};
pub use diff::{Diff, DiffTensors, diff, diff_tensors, full, full_tensors};
pub use digest::{StateHasher, digest};
pub use encode::{
    DiffError, DiffReport, EncodingUse, encode_changes, encode_diff, encode_diff_reading, encode_full,
};
pub use error::ApplyError;
pub use files::{apply_full, apply_to, apply_weights_to};
pub use in_place::{
    Recovery, activate_in_place, apply_in_place, prepare_in_place, prepare_with_inverse, recover, recover_to,
    rewrite,
};
pub use layers::{LayerChange, Steps, compare_layers, layer_of};
pub use leaves::LeafTable;
pub use memory::MemoryState;
pub use options::{Durability, Options};
pub use patch::{BoundPatch, ChunkFault, Patch};
pub use pending::{journal_path, open_settled};
pub use progress::{Cancelled, Progress};
pub use state::{Snapshot, State, StateError};
pub use tensor_diff::{Others, TensorDiff};
pub use tensors_error::TensorsError;
pub use walk::{ApplyReport, apply_chunks};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadMe;
