//! How long a replica holds what it needs.

use std::time::Duration;

use super::group::settings;

settings! {
    /// How long a replica holds what it needs.
    pub struct Leases {
        /// How long a lease lives without being renewed, a week at most [default: 1d].
        /// A replica may be away for that long and still find its path.
        lease_lifetime: Duration = Duration::from_secs(86_400);
        /// Renewals of a follower's lease in one lifetime [default: 3].
        /// So that it outlives two renewals that failed.
        lease_renewals: u32 = 3;
    }
}
