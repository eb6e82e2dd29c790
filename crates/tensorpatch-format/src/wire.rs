//! The codes of the wire, each as an enum that only known codes can make (sections 6 and 9).

use std::fmt;

/// What a patch does to a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Makes the target from a base.
    Delta,
    /// Holds the whole target.
    Full,
    /// Says that nothing changed.
    Empty,
}

/// What a reader needs besides the patch to decode it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Profile {
    /// The bytes of the base: the smallest patches. The default.
    #[default]
    Compact,
    /// Nothing: positions and new values stand in the patch, for receivers that scatter into accelerator
    /// memory.
    Direct,
}

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

macro_rules! codes {
    ($type:ident { $($variant:ident = $code:literal $name:literal),+ $(,)? }) => {
        impl $type {
            /// Every value, in the order of the codes.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The code on the wire.
            pub const fn code(self) -> u8 {
                match self {
                    $(Self::$variant => $code),+
                }
            }

            /// The value with this code.
            pub const fn from_code(code: u8) -> Option<Self> {
                match code {
                    $($code => Some(Self::$variant),)+
                    _ => None,
                }
            }

            /// The name in the specification, in reports and in commands.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name),+
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

codes!(Kind { Delta = 1 "delta", Full = 2 "full", Empty = 3 "empty" });
codes!(Profile { Compact = 1 "compact", Direct = 2 "direct" });
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
