//! Pure kernels of tensorpatch: compare, encode, decode and digest chunks of tensor bytes.
//!
//! [`ChunkEncoder`] picks for each chunk the smallest of the encodings that section 9 of the format defines,
//! and [`ChunkDecoder`] brings the chunk back. Both see bytes alone: no files, no container.
//!
//! What takes payloads apart may neither index nor calculate unchecked. The loops over the elements of a
//! chunk may, because a check in each turn would cost more than the turn; that no payload makes them panic or
//! leave their memory is tested with hostile ones, against the reference decoder and by fuzzing with overflow
//! checks.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
#![cfg_attr(
    test,
    allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "tests may panic")
)]

mod bits;
mod bytes;
mod decoder;
mod element;
mod encoder;
mod error;
#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "loops over the elements of a chunk: a check in each turn would cost more than the turn"
)]
mod kernels;
mod leaf;
mod level;
mod pack;
mod planes;
mod scatter;
#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "loops over the elements of a chunk: a check in each turn would cost more than the turn"
)]
mod sparse;
mod xor;
#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "loops over the elements of a chunk: a check in each turn would cost more than the turn"
)]
mod xxh3;

pub use decoder::ChunkDecoder;
pub use encoder::{ChunkContext, ChunkEncoder, Encoded};
pub use error::CodecError;
pub use leaf::leaf_digest;
pub use level::Level;
pub use scatter::Changes;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadMe;
