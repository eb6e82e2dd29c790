//! Shared helpers of the tensorpatch tests.
//!
//! * [`Model`]: tensors with bytes; [`models`] and [`pairs`] generate them, [`FileStyle`] and the `write_…`
//!   functions make files of them without any help of the code under test.
//! * [`fixture`]: a slice of a recorded training run, and the whole run where there is one.
//! * [`Mutation`]: named damage to bytes.
//! * [`Verdict`]: what the fast decoder and the reference decoder make of a patch.
//! * [`second_preimage()`]: other bytes with the same XXH3-128 digest.
//! * [`fuzz`]: the bodies of the fuzz targets, which tests run over committed inputs too.
//!
//! Made for tests: everything here panics where a test would.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "only tests use this crate, and a panic is how a test fails"
)]

mod files;
pub mod fixture;
pub mod fuzz;
mod generate;
mod model;
mod mutation;
mod patches;
mod rng;
mod second_preimage;
mod values;
mod verdict;

pub use files::{FileStyle, file_bytes, header_bytes, styles, write_sharded, write_single};
pub use generate::{Pair, Size, models, pairs};
pub use model::{Model, Tensor};
pub use mutation::{Mutation, mutations};
pub use patches::{repair_checksums, sample_patches};
pub use rng::Rng;
pub use second_preimage::{BLOCK as XXH3_BLOCK, second_preimage};
pub use values::{Change, Fill};
pub use verdict::{Verdict, for_reference, reference_hash};
