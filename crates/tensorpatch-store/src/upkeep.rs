//! The upkeep of a stream (spec/stream.md section 11): [`check()`], [`collect()`],
//! [`mirror()`] (or [`mirror_to()`]) and [`roll_back_unsigned()`].

mod check;
mod collect;
mod mirror;
mod rollback;

pub use check::{CheckOptions, Checked, Problem, check};
pub use collect::{CollectOptions, Collected, collect};
pub use mirror::{MirrorOptions, Mirrored, mirror, mirror_to};
pub use rollback::{RolledBack, roll_back_unsigned};
pub use tensorpatch_stream::retention::Garbage;
