//! Which instructions the kernels may use.

/// A set of instructions that this machine has.
///
/// All levels give the same bytes; a value of this type exists only where its instructions do.
///
/// ```
/// use tensorpatch_codec::Level;
///
/// assert!(Level::available().contains(&Level::PORTABLE));
/// assert!(Level::available().contains(&Level::best()));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Level(Kind);

/// The levels by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Level {
    /// What the compiler assumes of every machine of this architecture.
    pub const PORTABLE: Self = Self(Kind::Portable);

    const ALL: &[Self] = &[
        Self::PORTABLE,
        #[cfg(target_arch = "x86_64")]
        Self(Kind::Avx2),
        #[cfg(target_arch = "x86_64")]
        Self(Kind::Avx512),
        #[cfg(target_arch = "aarch64")]
        Self(Kind::Neon),
    ];

    /// The highest level of this machine.
    pub fn best() -> Self {
        Self::ALL.iter().rev().copied().find(|level| level.is_here()).unwrap_or(Self::PORTABLE)
    }

    /// The levels of this machine, from the portable one up.
    pub fn available() -> Vec<Self> {
        Self::ALL.iter().copied().filter(|level| level.is_here()).collect()
    }

    fn is_here(self) -> bool {
        match self.0 {
            Kind::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => has_avx2(),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => {
                has_avx2()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512cd")
                    && is_x86_feature_detected!("avx512vbmi")
                    && is_x86_feature_detected!("avx512vbmi2")
            }
            // The kernels take elements from memory as they lie there.
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => cfg!(target_endian = "little") && std::arch::is_aarch64_feature_detected!("neon"),
        }
    }

    /// The name, as in reports.
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "avx512",
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => "neon",
        }
    }

    pub(crate) fn kind(self) -> Kind {
        self.0
    }
}

impl Default for Level {
    fn default() -> Self {
        Self::best()
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("lzcnt")
        && is_x86_feature_detected!("popcnt")
}
