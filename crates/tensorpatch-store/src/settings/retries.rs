//! How often, and how fast, a request that failed is tried again.

use std::time::Duration;

use super::group::settings;

settings! {
    /// What a request that failed is worth.
    pub struct Retries {
        /// Attempts at a request that failed for no lasting reason, the first included [default: 5].
        /// The client of a bucket has its own below these, see `client_retries`; local directories and other
        /// stores have none.
        attempts: u32 = 5, at least 1;
        /// Time before the second attempt [default: 20ms].
        /// It doubles with each further one, and half of it is random, so that replicas that failed together
        /// do not come back together.
        first_backoff: Duration = Duration::from_millis(20);
        /// The longest time between two attempts, and between two looks at a store that fails while a replica
        /// follows it [default: 15s].
        /// Long enough for a throttled bucket to recover.
        max_backoff: Duration = Duration::from_secs(15);
        /// Retries of one HTTP request by the client of a bucket [default: 10].
        /// It knows which answers of a provider are worth a retry, such as 503 SlowDown.
        client_retries: u32 = 10;
        /// The time after which a failed request is retried no more, by the client of a bucket or above it
        /// [default: 3min].
        /// Its credentials must stay valid for that long.
        client_retry_timeout: Duration = Duration::from_secs(180);
    }
}

impl Retries {
    /// The time to wait after the attempt of this number, the first being 1.
    pub(crate) fn backoff(&self, attempt: u32) -> Duration {
        let doubled = 1_u32.checked_shl(attempt.saturating_sub(1)).unwrap_or(u32::MAX);
        let full = self.first_backoff.saturating_mul(doubled).min(self.max_backoff);
        full.mul_f64(rand::random_range(0.5..=1.0))
    }

    #[cfg(any(feature = "aws", feature = "gcp", feature = "azure"))]
    pub(crate) fn retry_config(&self) -> object_store::RetryConfig {
        object_store::RetryConfig {
            backoff: object_store::BackoffConfig {
                init_backoff: self.first_backoff,
                max_backoff: self.max_backoff,
                base: 2.0,
            },
            max_retries: usize::try_from(self.client_retries).unwrap_or(usize::MAX),
            retry_timeout: self.client_retry_timeout,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_its_limit_and_is_half_random() {
        let retries = Retries::default();
        for (attempt, full) in [(1, 20), (2, 40), (3, 80), (11, 15_000), (400, 15_000)] {
            let draws: Vec<Duration> = (0..64).map(|_| retries.backoff(attempt)).collect();
            let full = Duration::from_millis(full);
            assert!(draws.iter().all(|pause| *pause >= full / 2 && *pause <= full), "{attempt}: {draws:?}");
            assert!(draws.iter().any(|pause| *pause != draws[0]), "{attempt}");
        }
    }
}
