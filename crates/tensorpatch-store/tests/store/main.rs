//! Streams, replicas, publishers and their upkeep, over directories, memory and stores that fail.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a panic is how a test fails, and some print bytes"
)]

mod anchors;
mod attacks;
mod collecting;
mod copying;
#[cfg(unix)]
mod crashes;
mod faults;
mod folds;
mod following;
mod forgery;
mod handovers;
mod interrupted;
mod lag;
mod memory;
mod one_pass;
mod opening;
mod planted;
mod publish_and_pull;
mod ranges;
mod ranks;
mod reporting;
mod requests;
#[cfg(all(feature = "aws", feature = "azure"))]
mod rollbacks;
mod stores;
mod support;
mod trust;
mod unreliable;
mod upkeep;
