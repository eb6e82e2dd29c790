//! Why a payload was refused, and where.

/// A payload that is no encoding of a chunk of the given length, on the given base.
///
/// The offset counts from the start of the payload; whoever knows where the payload lies adds that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} (at byte {offset} of the payload)")]
pub struct CodecError {
    /// The rule of the specification that is broken.
    pub what: &'static str,
    /// Where, in bytes from the start of the payload.
    pub offset: usize,
}

impl CodecError {
    pub(crate) fn new(what: &'static str, offset: usize) -> Self {
        Self { what, offset }
    }
}
