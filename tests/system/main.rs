//! Whole-system tests: the real binary on real files.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says what it left out"
)]

mod bad_input;
mod convert;
mod crash;
mod demo;
mod hub;
mod memory;
mod patches;
mod room;
mod streams;
mod support;
mod trace;
mod upkeep;
