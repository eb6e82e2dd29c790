//! The upkeep of a stream (spec/stream.md section 11): [`check()`], [`collect()`],
//! [`mirror()`] (or [`mirror_to()`]) and [`roll_back_unsigned()`]; and whether a place is fit for one:
//! [`diagnose()`]; and a stream in figures: [`report()`].

mod check;
mod collect;
mod diagnose;
mod mirror;
mod report;
mod rollback;
mod wanted;

pub use check::{CheckOptions, Checked, Problem, Signatures, check};
pub use collect::{CollectOptions, Collected, collect};
pub use diagnose::{DiagnoseOptions, Diagnosis, Finding, Verdict, diagnose};
pub use mirror::{MirrorOptions, Mirrored, mirror, mirror_to};
pub use report::{LateJoin, ReportEdge, ReportLayer, ReportOptions, ReportStep, StreamReport, report};
pub use rollback::{RollbackOptions, RolledBack, roll_back_unsigned};
pub use tensorpatch_stream::lease::LiveLease;
pub use tensorpatch_stream::retention::Garbage;
