//! Checkpoints on a real file system, and properties over generated ones.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests may panic"
)]

mod bad_files;
mod companions;
mod foreign;
mod in_place;
mod opening;
mod properties;
mod support;
mod writing;
