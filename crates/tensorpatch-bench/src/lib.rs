//! Side-by-side measurements of tensorpatch and the encodings it replaces.

pub mod floor;
pub mod kernels;
pub mod pair;
pub mod rivals;
pub mod table;
