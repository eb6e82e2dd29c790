//! Whole-system tests: the real binary on real files.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says what it left out"
)]

mod addresses;
mod attacks;
mod bad_input;
mod carried;
mod claims;
mod convert;
mod crash;
mod demo;
mod docs;
mod ends;
mod figures;
mod file_systems;
mod gaps;
mod hostile;
mod hub;
mod kept;
mod keys;
mod logs;
mod memory;
mod mirrors;
mod mistakes;
mod neighbours;
mod patches;
mod permissions;
mod places;
mod questions;
mod refusals;
mod rollbacks;
mod room;
mod scene;
mod shapes;
mod streams;
mod support;
mod trace;
mod upkeep;
mod verdicts;
mod words;
