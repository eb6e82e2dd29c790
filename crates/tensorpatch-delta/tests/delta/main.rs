//! Patches between checkpoints on a real file system: made, applied, chained and interrupted.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a panic is how a test fails"
)]

mod altered_base;
mod apply;
mod cancelling;
mod chain;
mod changed;
mod changes;
mod checked;
mod common;
mod in_place;
mod journal;
mod memory;
mod paths;
mod properties;
