//! Side-by-side measurements of tensorpatch and the encodings it replaces.

pub mod clock;
pub mod commands;
pub mod floor;
pub mod inputs;
pub mod kernels;
pub mod pair;
pub mod ratios;
pub mod report;
pub mod rivals;
pub mod series;
pub mod sizes;
pub mod system;
pub mod table;
