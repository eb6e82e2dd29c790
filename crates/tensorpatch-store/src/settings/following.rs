//! How a follower polls.

use std::time::Duration;

use super::group::settings;

settings! {
    /// How a follower polls.
    pub struct Following {
        /// How often a follower asks for a newer version [default: 1s]. An ask is one request.
        poll: Duration = Duration::from_secs(1);
        /// How long a follower believes that there is nothing new before it looks at the stream as a whole
        /// [default: 1min].
        /// A stream that was recreated has no next version for a long time.
        recheck: Duration = Duration::from_secs(60);
        /// The most polls between two such looks, however short the time between polls [default: 64].
        recheck_polls: u32 = 64;
    }
}

impl Following {
    /// Polls without anything new after which a follower looks at the stream as a whole.
    pub(crate) fn polls_between_rechecks(&self) -> u32 {
        let polls = self.recheck.as_millis().checked_div(self.poll.as_millis()).unwrap_or(u128::MAX);
        u32::try_from(polls).unwrap_or(u32::MAX).clamp(1, self.recheck_polls.max(1))
    }
}
