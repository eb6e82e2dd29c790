//! Leases: a replica states what it holds and wants, so that collectors leave its path alone (spec/stream.md
//! section 11).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::names::Version;

/// The longest that a lease may live without being renewed.
pub const MAX_SECONDS: u64 = 604_800;
/// The most leases that are read; others count for all versions. A fleet has some thousands of replicas.
pub const MAX_LEASES: usize = 16_384;
/// The most bytes that a lease may have.
pub const MAX_LEASE_BYTES: u64 = 4096;
/// The most characters of a holder's name that are shown, and written.
const MAX_HOLDER: usize = 256;

/// The contents of a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Who holds it, for people.
    pub holder: String,
    /// The version that is held.
    pub version: Option<Version>,
    /// The version that is wanted.
    pub target: Version,
    /// How long it lives.
    pub seconds: u64,
}

impl Lease {
    /// A lease of `holder`, of whose name the beginning is kept, for `length`, which is cut to what is
    /// allowed.
    pub fn new(holder: &str, version: Option<Version>, target: Version, length: Duration) -> Self {
        let holder = holder.chars().take(MAX_HOLDER).collect();
        Self { holder, version, target, seconds: length.as_secs().clamp(1, MAX_SECONDS) }
    }
}

/// A lease that lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LiveLease {
    /// Who holds it: short, and without control characters.
    pub holder: String,
    /// The lowest version that it needs.
    pub needs: Version,
    /// Whether it could be read: one that could not needs everything.
    pub is_readable: bool,
}

impl LiveLease {
    /// What the lease `name` with these bytes needs `age` seconds after it was written; `None` if it has
    /// expired.
    ///
    /// One that cannot be read may be of a later version of the protocol, so it counts for all versions while
    /// it is young.
    pub fn read(name: &str, bytes: &[u8], age: u64) -> Option<Self> {
        let lease: Option<Lease> = serde_json::from_slice(bytes).ok();
        let seconds = lease.as_ref().map_or(MAX_SECONDS, |lease| lease.seconds.min(MAX_SECONDS));
        if age > seconds {
            return None;
        }
        let needs = lease.as_ref().map_or(Version::FIRST, |lease| {
            lease.version.map_or(lease.target, |held| held.min(lease.target))
        });
        // It is shown to people, and anybody may have written it.
        let shown = |holder: &str| holder.chars().filter(|c| !c.is_control()).take(MAX_HOLDER).collect();
        let is_readable = lease.is_some();
        let holder = lease.map_or_else(|| name.to_owned(), |lease| shown(&lease.holder));
        Some(Self { holder, needs, is_readable })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lease: &Lease, age: u64) -> Option<LiveLease> {
        LiveLease::read("leases/a.json", &serde_json::to_vec(lease).unwrap(), age)
    }

    #[test]
    fn leases_live_as_long_as_they_say_and_unreadable_ones_as_long_as_any() {
        let target = Version::new(9).unwrap();
        let lease = Lease::new("engine-1", Version::new(5), target, Duration::from_secs(60));
        let live =
            LiveLease { holder: "engine-1".into(), needs: Version::new(5).unwrap(), is_readable: true };
        assert_eq!(read(&lease, 60), Some(live));
        assert_eq!(read(&lease, 61), None);
        let unreadable = LiveLease::read("leases/b.json", b"from the future", MAX_SECONDS).unwrap();
        let (holder, needs) = ("leases/b.json".to_owned(), Version::FIRST);
        assert_eq!(unreadable, LiveLease { holder, needs, is_readable: false });
        assert_eq!(LiveLease::read("leases/b.json", b"from the future", MAX_SECONDS + 1), None);
        // One that wants to live longer than any may does not.
        let greedy = Lease { seconds: u64::MAX, ..lease };
        assert!(read(&greedy, MAX_SECONDS).is_some() && read(&greedy, MAX_SECONDS + 1).is_none());
    }

    #[test]
    fn what_a_lease_says_of_its_holder_is_short_and_plain() {
        let holder = format!("\u{1b}[2Jeng\nine{}", "x".repeat(1000));
        let lease = Lease { holder, version: None, target: Version::FIRST, seconds: 60 };
        let live = read(&lease, 0).unwrap();
        assert!(live.holder.starts_with("[2Jengine") && live.holder.len() == 256, "{}", live.holder);
        let long = Lease::new(&"x".repeat(1000), None, Version::FIRST, Duration::MAX);
        assert_eq!((long.holder.len(), long.seconds), (256, MAX_SECONDS));
    }
}
