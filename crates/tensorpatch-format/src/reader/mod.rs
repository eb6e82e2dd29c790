//! Reading a patch without doing I/O: the reader says which bytes it needs, whoever holds the file gives
//! them.
//!
//! * [`ForwardReader`] goes through the file once, as it arrives, and checks everything. [`Arrivals`]
//!   collects bytes that arrive in pieces of any size.
//! * [`RandomReader`] reads the two ends of a file of known length and then only the blocks that are wanted.

mod arrivals;
mod forward;
mod random;

pub use arrivals::Arrivals;
pub use forward::ForwardReader;
pub use random::{RandomAccess, RandomReader};

use crate::Want;

/// What a reader needs to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// These bytes of the file.
    Bytes(Want),
    /// The grid of the target, made with the schema that the reader has just given out or, if the schema is
    /// said to be the same, with the base's.
    Grid,
    /// Nothing: the patch has been read.
    Nothing,
}
