//! The conformance vectors of the patch format: what they are, how they are made, and what both decoders say
//! of them.
//!
//! [`vectors`] makes all of them, [`write()`](write::write) puts them under `tests/conformance/v1/`,
//! [`check()`](write::check) holds the directory against what is made, [`faults()`](check::faults) runs both
//! decoders over every vector, and [`pack()`](write::pack) makes an archive of them.
//!
//! Files are assembled here from the specification, byte by byte, so that a vector can break any rule.
//! Digests come from the reference decoder, most `sparse` payloads from the codec, states from rules that
//! `manifest.json` states.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "what is made here is small and known, and a panic is how a mistake in a vector shows"
)]

pub mod check;
pub mod compat;
mod encodings;
mod evolution;
pub mod example;
mod invalid;
mod invalid_blocks;
mod invalid_orders;
mod invalid_parts;
mod invalid_payloads;
mod invalid_twice;
mod layouts;
mod manifest;
mod patch;
mod purposes;
mod raw;
pub mod read;
mod records;
mod records_handed;
mod records_refused;
mod records_signed;
mod records_written;
mod refused;
mod registry;
mod sparse;
mod sparse_bounds;
mod sparse_by_hand;
mod sparse_parts;
mod sparse_probe;
mod state;
mod states;
mod valid;
mod vector;
pub mod write;

pub use invalid_parts::with_frame;
pub use registry::vectors;
pub use vector::{Outcome, States, Vector};
