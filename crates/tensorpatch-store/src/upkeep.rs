//! The upkeep of a stream (spec/stream.md section 11): [`check`], [`collect`] and [`mirror`].

mod check;
mod collect;
mod mirror;

pub use check::{Checked, Problem, check};
pub use collect::{CollectPolicy, Collected, collect};
pub use mirror::{Mirrored, mirror};
pub use tensorpatch_stream::retention::Garbage;
