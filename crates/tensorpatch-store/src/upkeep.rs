//! The upkeep of a stream (spec/stream.md section 11): [`check()`], [`collect()`] and [`mirror()`].

mod check;
mod collect;
mod mirror;

pub use check::{CheckOptions, Checked, Problem, check};
pub use collect::{CollectOptions, Collected, collect};
pub use mirror::{MirrorOptions, Mirrored, mirror};
pub use tensorpatch_stream::retention::Garbage;
