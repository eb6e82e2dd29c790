//! The wire layer as its users see it: whole files, made by the writer or broken on purpose.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "tests may panic, and their files are small"
)]

mod plan;
mod whole;
