//! The delta formats that other projects use for weight sync, read and written, and conversion between them.
//!
//! * [`convert()`] goes from one format to another, files to files, and reports what it found.
//! * [`TensorDelta`] is what all formats decode to: what becomes of one tensor.
//! * [`DeltaFiles`] and [`Delta`] are a delta opened from disk, in whichever format it is.
//! * [`index_delta`], [`trl`], [`skyrl`], [`nemo_rl`], [`grail`]: each format over slices, for callers who
//!   have the bytes from elsewhere.
//!
//! Readers here are strict where those of the projects are lax: what is doubled, missing, unnamed or out of
//! order is refused, sizes are checked before memory is taken, and a change that a format cannot express is
//! an error and not a loss. See `docs/formats.md` for what each format can and cannot do.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
#![cfg_attr(
    test,
    allow(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        reason = "tests may panic"
    )
)]

/// The example of the readme, compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod checksum;
mod convert;
mod error;
mod frame;
pub mod grail;
pub mod index_delta;
mod json;
pub mod nemo_rl;
mod positions;
mod safetensors;
pub mod skyrl;
mod source;
mod tensor_delta;
mod torch;
pub mod trl;
mod write;

pub use checksum::ChecksumKind;
pub use convert::{ConvertOptions, Note, Report, To, convert};
pub use error::{Fault, FormatsError, Needed, Violation};
pub use grail::GrailDelta;
pub use index_delta::{DeltaEncoding, Dialect, IndexDelta};
pub use nemo_rl::NemoRlDelta;
pub use skyrl::SkyRlDelta;
pub use source::{Delta, DeltaFiles, Format, Verified};
pub use tensor_delta::{Operation, Places, TensorDelta};
pub use trl::Flavour;
