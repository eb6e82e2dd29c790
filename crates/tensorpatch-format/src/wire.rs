//! Codes of the header, each as an enum that only known codes can make (section 6).

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

/// Gives an enum its codes and names.
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

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

pub(crate) use codes;

codes!(Kind { Delta = 1 "delta", Full = 2 "full", Empty = 3 "empty" });
codes!(Profile { Compact = 1 "compact", Direct = 2 "direct" });
