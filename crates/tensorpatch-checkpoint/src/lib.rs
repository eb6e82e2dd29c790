//! Safetensors checkpoints as files: strict headers, Hugging Face directories, memory maps, durable writing.
//!
//! * [`Checkpoint`] opens one: a file, or a directory of shards; nothing is believed that was not checked.
//! * [`Placement`] says where the tensors of a schema lie in the files of a layout, on disk or still to be written.
//! * [`CheckpointWriter`] writes a new one beside its destination and renames it into place;
//!   [`CheckpointPatcher`] writes into one that exists.
//! * [`Header`] is the strict parser of safetensors headers, for whoever has the bytes from elsewhere.
//!
//! Unix only: positions, locks and renames are those of POSIX.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
#![cfg_attr(
    test,
    allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "tests may panic")
)]

mod checkpoint;
mod error;
mod header;
mod index;
mod layout;
mod map;
mod patcher;
mod placement;
mod room;
mod staging;
mod writer;

pub use checkpoint::Checkpoint;
pub use error::{CheckpointError, Obstacle};
pub use header::{Header, HeaderError, HeaderPlace, HeaderViolation};
pub use index::IndexError;
pub use layout::generate_layout;
pub use map::MappedFile;
pub use patcher::CheckpointPatcher;
pub use placement::Placement;
pub use writer::{CheckpointWriter, Form};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadMe;
