//! Why tensors in memory make no state, or no successor of one.

use tensorpatch_checkpoint::ViewError;
use tensorpatch_format::{ErrorKind, LayoutError};

use crate::StateError;

/// Why tensors in memory make no state, or not one that continues a base.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TensorsError {
    /// A tensor that the format has no room for, or whose bytes do not fit its shape.
    #[error(transparent)]
    View(#[from] ViewError),
    /// Bytes that do not fit the schema.
    #[error(transparent)]
    State(#[from] StateError),
    /// Headers that the format has no room for.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A tensor was given twice.
    #[error("tensor {tensor:?} was given twice")]
    Twice {
        /// The tensor.
        tensor: String,
    },
    /// Changes of a tensor that the base does not have.
    #[error("the base has no tensor {tensor:?} that could be changed")]
    NotInBase {
        /// The tensor.
        tensor: String,
    },
    /// A tensor of the base that was not given, where a whole state was meant.
    #[error("tensor {tensor:?} of the base was not given; say whether such tensors are kept or removed")]
    Missing {
        /// The tensor.
        tensor: String,
    },
}

impl TensorsError {
    /// Who must act on the error.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Refused
    }
}
