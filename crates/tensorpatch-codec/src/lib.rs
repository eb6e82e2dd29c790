//! Pure kernels of tensorpatch: compare, encode, decode and digest chunks of tensor bytes.
//!
//! [`ChunkEncoder`] picks for each chunk the smallest of the encodings that section 9 of the format defines, and
//! [`ChunkDecoder`] brings the chunk back. Both see bytes alone: no files, no container.

mod bits;
mod bytes;
mod decoder;
mod element;
mod encoder;
mod error;
mod kernels;
mod leaf;
mod level;
mod pack;
mod planes;
mod scatter;
mod sparse;
mod xor;
mod xxh3;

pub use decoder::ChunkDecoder;
pub use encoder::{ChunkContext, ChunkEncoder, Encoded};
pub use error::CodecError;
pub use leaf::leaf_digest;
pub use level::Level;
pub use scatter::Changes;
