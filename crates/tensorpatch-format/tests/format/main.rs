//! The wire layer as its users see it: whole files, made by the writer or broken on purpose.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "tests may panic, and their files are small"
)]

mod plan;
mod properties;
mod raw;
mod read;
mod readers;
mod rules;
mod spec_example;
mod whole;
