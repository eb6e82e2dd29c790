//! A slow decoder of tensorpatch patches, in the order of `spec/format.md`.
//!
//! It is written from the specification alone and shares no code with the other crates, so that the conformance vectors
//! and the fuzzer can hold the fast decoder against it. It keeps everything in memory, reads one byte after the other,
//! and does each thing where the specification speaks of it. Nobody should use it for anything else.
//!
//! ```
//! use tensorpatch_reference::{Code, decode};
//!
//! let error = decode(b"no patch", None).unwrap_err();
//! assert_eq!((error.code, error.offset), (Code::NotAPatch, 0));
//! ```

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

mod apply;
mod digest;
mod encodings;
mod file;
mod input;
mod metadata;
#[cfg(test)]
mod tests;

pub use apply::{Decoded, decode};
pub use digest::{canonical_schema, layout_digest, leaf, schema_digest, state_digest, tagged};
pub use encodings::decode_payload;
pub use input::{Code, Error, unpack_frame};
pub use metadata::{LeafHash, Tensor};
