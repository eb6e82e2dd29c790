//! Safetensors checkpoints as files: strict headers, Hugging Face directories, memory maps, durable writing.
//!
//! * [`Checkpoint`] opens one: a file, or a directory of shards; nothing is believed that was not checked.
//! * [`Placement`] says where the tensors of a schema lie in the files of a layout, on disk or still to be
//!   written.
//! * [`Companions`] are the files beside the weights, and what of them stays behind.
//! * [`CheckpointWriter`] writes a new one beside its destination and renames it into place;
//!   [`CheckpointPatcher`] writes into one that exists, [`CheckpointReader`] reads one that others may alter.
//! * [`ConfinedPath`] is a place below a directory that is reached without following links.
//! * [`AtomicFile`] is a file of any kind, written beside its destination and renamed into place.
//! * [`permissions`] are what a file inherits from the one that it replaces, and what a copy never exceeds.
//! * [`Places`] are the paths of a call, none of which may be altered where another one is.
//! * [`spec_of_view`] and [`view_of`] turn tensors of the `safetensors` crate into ours, and back.
//! * [`SafetensorsHeader`] is the strict parser of safetensors headers, for callers that have the bytes from
//!   elsewhere.
//!
//! Unix only: positions, locks and renames are those of POSIX.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
#![cfg_attr(
    test,
    allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "tests may panic")
)]

mod atomic_file;
mod checkpoint;
mod code;
mod companions;
mod confined;
mod durable;
mod error;
mod foreign;
mod header;
mod index;
mod interop;
mod layout;
mod map;
mod patch_lock;
mod patcher;
pub mod permissions;
mod placement;
mod places;
mod raw_header;
mod reader;
mod regular;
pub mod replica;
mod room;
mod staging;
mod sync;
mod tree;
mod writer;

pub use atomic_file::AtomicFile;
pub use checkpoint::Checkpoint;
pub use code::{holds_code, runs_code};
pub use companions::{Companion, CompanionObstacle, Companions, LeftOut, Omission, is_companion_name};
pub use confined::{ConfinedPath, FileKind, Found, Misplaced};
pub use durable::{sync_dir, sync_open_dir};
pub use error::{CheckpointError, Obstacle};
pub use foreign::ForeignFile;
pub use header::{HeaderError, HeaderPlace, HeaderViolation, SafetensorsHeader};
pub use index::IndexError;
pub use interop::{ViewError, dtype_from_safetensors, dtype_to_safetensors, spec_of_view, view_of};
pub use layout::generate_layout;
pub use map::MappedFile;
#[cfg(unix)]
pub use map::hold_at_lost_pages;
pub use patcher::CheckpointPatcher;
pub use placement::Placement;
pub use places::{Places, Role};
pub use reader::CheckpointReader;
pub use regular::open_regular;
pub use staging::remove_unfinished;
pub use sync::sync_files;
pub use writer::{CheckpointWriter, Form};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadMe;
