//! How a stream is talked to: retries, timeouts, transfers, following, leases and plans, with their defaults
//! and reasons.
//!
//! This is the only place for such numbers. A new one is a row of the table below, and is then a field, a
//! variable of the environment and a flag of the command line.

mod units;

use std::time::Duration;

pub use units::{parse_duration, parse_size};

/// A value that has no meaning, or a setting that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting} = {value:?}: {what}")]
#[non_exhaustive]
pub struct PolicyError {
    /// The setting, or the variable of the environment that it was read from.
    pub setting: String,
    /// The text that was given for it.
    pub value: String,
    /// What is wrong with it.
    pub what: String,
}

/// One setting of a [`Policy`], for programs that offer all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Setting {
    /// The name of the field.
    pub name: &'static str,
    /// What it is for: the documentation of the field.
    pub help: &'static str,
}

impl Setting {
    /// The variable of the environment that [`Policy::from_env`] reads.
    pub fn variable(&self) -> String {
        format!("TENSORPATCH_{}", self.name.to_ascii_uppercase())
    }
}

/// A value as text: in the environment, on a command line and in messages.
trait Value: Sized {
    fn parse(text: &str) -> Result<Self, String>;
}

impl Value for u64 {
    fn parse(text: &str) -> Result<Self, String> {
        parse_size(text)
    }
}

impl Value for u32 {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| "expected a whole number".to_owned())
    }
}

impl Value for usize {
    fn parse(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(0) | Err(_) => Err("expected a whole number of at least 1".to_owned()),
            Ok(number) => Ok(number),
        }
    }
}

impl Value for Duration {
    fn parse(text: &str) -> Result<Self, String> {
        parse_duration(text)
    }
}

/// Declares the settings: documentation, name, type, default, setter.
macro_rules! policy {
    ($($(#[doc = $doc:literal])+ $name:ident: $type:ty = $default:expr, $setter:ident;)+) => {
        /// How a stream is talked to.
        ///
        /// The defaults suit one trainer and replicas in one region. In text a time is written as in `500ms`,
        /// `2s`, `5min`, `1h`, and a number of bytes as in `64MiB`.
        ///
        /// ```
        /// use std::time::Duration;
        /// use tensorpatch_store::Policy;
        ///
        /// let poll = Duration::from_millis(200);
        /// let policy = Policy::from_env()?.with_parallel_downloads(16).with_poll(poll);
        /// assert_eq!(policy.attempts, Policy::default().attempts);
        /// # Ok::<(), tensorpatch_store::PolicyError>(())
        /// ```
        #[derive(Debug, Clone, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Policy {
            $($(#[doc = $doc])+ pub $name: $type,)+
        }

        impl Default for Policy {
            fn default() -> Self {
                Self { $($name: $default,)+ }
            }
        }

        impl Policy {
            /// All settings, in the order of the fields.
            pub const SETTINGS: &'static [Setting] =
                &[$(Setting { name: stringify!($name), help: concat!($($doc),+) }),+];

            /// Sets one by its name and the text of its value.
            ///
            /// # Errors
            /// If there is no such setting, or the text is no value of it.
            pub fn set(&mut self, name: &str, text: &str) -> Result<(), PolicyError> {
                let failed = |what| PolicyError { setting: name.into(), value: text.into(), what };
                match name {
                    $(stringify!($name) => self.$name = Value::parse(text).map_err(failed)?,)+
                    _ => return Err(failed("there is no such setting".into())),
                }
                Ok(())
            }

            $(
                #[doc = concat!("Sets [`", stringify!($name), "`](Policy#structfield.", stringify!($name), ").")]
                #[must_use]
                pub fn $setter(mut self, $name: $type) -> Self {
                    self.$name = $name;
                    self
                }
            )+
        }
    };
}

policy! {
    /// Attempts at a request that failed for no lasting reason, the first included [default: 5].
    /// The client of a bucket has its own below these, see `client_retries`; local directories and other
    /// stores have none.
    attempts: u32 = 5, with_attempts;
    /// Time before the second attempt [default: 20ms].
    /// It doubles with each further one, and half of it is random, so that replicas that failed together do
    /// not come back together.
    first_backoff: Duration = Duration::from_millis(20), with_first_backoff;
    /// The longest time between two attempts, and between two looks at a store that fails while a replica
    /// follows it [default: 15s].
    /// Long enough for a throttled bucket to recover.
    max_backoff: Duration = Duration::from_secs(15), with_max_backoff;
    /// Retries of one HTTP request by the client of a bucket [default: 10].
    /// It knows which answers of a provider are worth a retry, such as 503 SlowDown.
    client_retries: u32 = 10, with_client_retries;
    /// The time after which the client of a bucket retries no more [default: 3min].
    /// Its credentials must stay valid for that long.
    client_retry_timeout: Duration = Duration::from_secs(180), with_client_retry_timeout;
    /// Time to connect to a bucket [default: 10s].
    connect_timeout: Duration = Duration::from_secs(10), with_connect_timeout;
    /// How long a connection may be silent before its request counts as failed [default: 1min].
    /// A large transfer has no other limit: a download of many gigabytes is one request.
    idle_timeout: Duration = Duration::from_secs(60), with_idle_timeout;
    /// Time for the whole of a small request, such as a record or a range, with the retries of the client
    /// below it [default: 5min].
    /// More than `client_retry_timeout`, which would never be reached otherwise.
    request_timeout: Duration = Duration::from_secs(300), with_request_timeout;
    /// HTTP requests at once for each opened URL, whatever they are for [default: 64].
    /// Enough for all of the following together; a file descriptor each.
    max_connections: usize = 64, with_max_connections;
    /// Small requests at once: records, ranges, sizes, deletions [default: 16].
    /// They are bound by latency: 16 at 30 ms each are 500 records a second.
    parallel_requests: usize = 16, with_parallel_requests;
    /// Objects downloaded at once [default: 4].
    /// A patch is one object, so this counts for anchors of several shards and for replicas far behind.
    parallel_downloads: usize = 4, with_parallel_downloads;
    /// Files uploaded at once [default: 2]. Each of them sends several parts at once, see `bytes_in_flight`.
    parallel_uploads: usize = 2, with_parallel_uploads;
    /// Bytes of one part of an upload [default: 8MiB].
    /// S3 takes no less than 5MiB; an object of more than 9,000 parts gets larger ones.
    part_bytes: u64 = 8 << 20, with_part_bytes;
    /// Bytes of one upload that are on their way, in memory [default: 32MiB].
    /// The writer of a patch waits while the store is slower (backpressure).
    bytes_in_flight: u64 = 32 << 20, with_bytes_in_flight;
    /// Plans that are tried when objects vanish or local files turn out to be damaged [default: 4].
    /// Each starts from what is there by then, so more do not help against lasting damage.
    plan_attempts: u32 = 4, with_plan_attempts;
    /// The most edges of a plan, and the most patches that a range reader goes through [default: 1024].
    /// Twice the versions after which a publisher adds an anchor; a longer chain is a publisher that adds
    /// none.
    max_edges: usize = 1024, with_max_edges;
    /// The most bytes of the objects of a plan [default: no limit].
    /// For replicas on a metered network: an anchor has as many bytes as the model.
    max_plan_bytes: u64 = u64::MAX, with_max_plan_bytes;
    /// How often a follower asks for a newer version [default: 1s]. An ask is one request.
    poll: Duration = Duration::from_secs(1), with_poll;
    /// How long a follower believes that there is nothing new before it looks at the stream as a whole
    /// [default: 1min].
    /// A stream that was recreated has no next version for a long time.
    recheck: Duration = Duration::from_secs(60), with_recheck;
    /// The most polls between two such looks, however short the time between polls [default: 64].
    recheck_polls: u32 = 64, with_recheck_polls;
    /// How long a lease lives without being renewed, a week at most [default: 1d].
    /// A replica may be away for that long and still find its path.
    lease_lifetime: Duration = Duration::from_secs(86_400), with_lease_lifetime;
    /// Renewals of a follower's lease in one lifetime [default: 3].
    /// So that it outlives two renewals that failed.
    lease_renewals: u32 = 3, with_lease_renewals;
}

impl Policy {
    /// The defaults, changed by what the environment says: each setting is read from the variable
    /// `TENSORPATCH_` and its name in capitals, such as `TENSORPATCH_PARALLEL_DOWNLOADS=16`.
    ///
    /// # Errors
    /// If a variable is set to something else than a value; the error names it.
    pub fn from_env() -> Result<Self, PolicyError> {
        Self::from_variables(|variable| std::env::var_os(variable))
    }

    fn from_variables(read: impl Fn(&str) -> Option<std::ffi::OsString>) -> Result<Self, PolicyError> {
        let mut policy = Self::default();
        for setting in Self::SETTINGS {
            let variable = setting.variable();
            let Some(value) = read(&variable) else { continue };
            policy
                .set(setting.name, &value.to_string_lossy())
                .map_err(|error| PolicyError { setting: variable, ..error })?;
        }
        Ok(policy)
    }

    /// The time to wait after the attempt of this number, the first being 1.
    pub(crate) fn backoff(&self, attempt: u32) -> Duration {
        let doubled = 1_u32.checked_shl(attempt.saturating_sub(1)).unwrap_or(u32::MAX);
        let full = self.first_backoff.saturating_mul(doubled).min(self.max_backoff);
        full.mul_f64(rand::random_range(0.5..=1.0))
    }

    /// Polls without anything new after which a follower looks at the stream as a whole.
    pub(crate) fn polls_between_rechecks(&self) -> u32 {
        let polls = self.recheck.as_millis().checked_div(self.poll.as_millis()).unwrap_or(u128::MAX);
        u32::try_from(polls).unwrap_or(u32::MAX).clamp(1, self.recheck_polls.max(1))
    }

    /// Parts of one upload, or blocks of one download, in memory at once.
    pub(crate) fn parts_in_flight(&self) -> usize {
        let parts = self.bytes_in_flight.checked_div(self.part_bytes).unwrap_or(1).clamp(1, 1 << 16);
        usize::try_from(parts).unwrap_or(1)
    }

    #[cfg(any(feature = "aws", feature = "gcp", feature = "azure"))]
    pub(crate) fn client_options(&self, allow_http: bool) -> object_store::ClientOptions {
        object_store::ClientOptions::new()
            .with_timeout_disabled()
            .with_read_timeout(self.idle_timeout)
            .with_connect_timeout(self.connect_timeout)
            .with_allow_http(allow_http)
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
    use std::ffi::OsString;

    #[test]
    fn every_setting_is_read_from_the_variable_of_its_name() {
        for setting in Policy::SETTINGS {
            let variable = setting.variable();
            let read = |name: &str| (name == variable).then(|| OsString::from("7"));
            let policy = Policy::from_variables(read).unwrap();
            assert_ne!(policy, Policy::default(), "{variable}");
            let read = |name: &str| (name == variable).then(|| OsString::from("seven"));
            let error = Policy::from_variables(read).unwrap_err();
            assert_eq!(error.setting, variable);
        }
        assert_eq!(Policy::from_variables(|_| None).unwrap(), Policy::default());
    }

    #[test]
    fn the_defaults_in_the_documentation_are_the_defaults() {
        for setting in Policy::SETTINGS {
            let (_, rest) = setting.help.split_once("[default: ").unwrap();
            let (text, _) = rest.split_once(']').unwrap();
            let mut policy = Policy::default();
            if text != "no limit" {
                policy.set(setting.name, text).unwrap();
            }
            assert_eq!(policy, Policy::default(), "{}", setting.name);
        }
    }

    #[test]
    fn backoff_doubles_up_to_its_limit_and_is_half_random() {
        let policy = Policy::default();
        for (attempt, full) in [(1, 20), (2, 40), (3, 80), (11, 15_000), (400, 15_000)] {
            let draws: Vec<Duration> = (0..64).map(|_| policy.backoff(attempt)).collect();
            let full = Duration::from_millis(full);
            assert!(draws.iter().all(|pause| *pause >= full / 2 && *pause <= full), "{attempt}: {draws:?}");
            assert!(draws.iter().any(|pause| *pause != draws[0]), "{attempt}");
        }
    }

    #[test]
    fn an_unknown_setting_and_a_zero_where_one_is_needed_are_refused() {
        let mut policy = Policy::default();
        assert!(policy.set("colour", "red").is_err());
        assert!(policy.set("parallel_downloads", "0").is_err());
        assert_eq!(policy, Policy::default());
    }
}
