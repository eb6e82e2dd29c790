//! The encodings of chunks, with their codes on the wire (section 9).

use crate::Profile;
use crate::wire::codes;

/// How a chunk is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Encoding {
    /// Positions and differences, conditioned on the base's values.
    Sparse,
    /// Positions and new values.
    Scatter,
    /// Byte planes of base XOR target, compressed.
    Xor,
    /// The bytes as they are.
    Raw,
    /// The bytes, compressed.
    Zstd,
}

codes!(Encoding { Sparse = 1 "sparse", Scatter = 2 "scatter", Xor = 3 "xor", Raw = 4 "raw", Zstd = 5 "zstd" });

impl Encoding {
    /// Whether the encoding may stand for a chunk that has no base (section 9).
    pub const fn allowed_for_fresh(self) -> bool {
        matches!(self, Self::Raw | Self::Zstd)
    }

    /// Whether the encoding may stand in a patch of `profile` (section 9).
    pub const fn allowed_in(self, profile: Profile) -> bool {
        match profile {
            Profile::Compact => true,
            Profile::Direct => matches!(self, Self::Scatter | Self::Raw | Self::Zstd),
        }
    }
}
