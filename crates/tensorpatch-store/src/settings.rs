//! How a stream is talked to, in groups of settings with their defaults and reasons.
//!
//! This is the only place for such numbers. A new one is a field of a group, and is then a variable of the
//! environment and a flag of the command line.

mod following;
mod group;
mod leases;
mod plans;
mod retries;
mod timeouts;
mod transfers;
mod units;

pub use following::Following;
pub use group::Setting;
pub use leases::Leases;
pub use plans::Plans;
pub use retries::Retries;
pub use timeouts::Timeouts;
pub use transfers::Transfers;
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

/// How a stream is talked to: retries, timeouts, transfers, plans, following and leases.
///
/// The defaults suit one trainer and replicas in one region. In text a time is written as in `500ms`, `2s`,
/// `5min`, `1h`, and a number of bytes as in `64MiB`.
///
/// ```
/// use std::time::Duration;
/// use tensorpatch_store::Policy;
///
/// let mut policy = Policy::from_env()?;
/// policy.transfers.parallel_downloads = 16;
/// policy.following.poll = Duration::from_millis(200);
/// policy.set("attempts", "8")?;
/// assert_eq!(policy.retries.attempts, 8);
/// # Ok::<(), tensorpatch_store::PolicyError>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Policy {
    /// What a request that failed is worth.
    pub retries: Retries,
    /// How long a store may take to answer.
    pub timeouts: Timeouts,
    /// What is sent and received side by side.
    pub transfers: Transfers,
    /// How far a replica goes to reach a version.
    pub plans: Plans,
    /// How a follower polls.
    pub following: Following,
    /// How long a replica holds what it needs.
    pub leases: Leases,
}

impl Policy {
    /// The settings of all groups, in the order of the fields.
    pub fn settings() -> impl Iterator<Item = &'static Setting> {
        [
            Retries::SETTINGS,
            Timeouts::SETTINGS,
            Transfers::SETTINGS,
            Plans::SETTINGS,
            Following::SETTINGS,
            Leases::SETTINGS,
        ]
        .into_iter()
        .flatten()
    }

    /// Sets one by its name and the text of its value.
    ///
    /// # Errors
    /// If there is no such setting, or the text is no value of it.
    pub fn set(&mut self, name: &str, text: &str) -> Result<(), PolicyError> {
        self.retries
            .set(name, text)
            .or_else(|| self.timeouts.set(name, text))
            .or_else(|| self.transfers.set(name, text))
            .or_else(|| self.plans.set(name, text))
            .or_else(|| self.following.set(name, text))
            .or_else(|| self.leases.set(name, text))
            .unwrap_or_else(|| Err("there is no such setting".into()))
            .map_err(|what| PolicyError { setting: name.into(), value: text.into(), what })
    }

    /// The defaults, changed by what the environment says: each setting is read from the variable
    /// `TENSORPATCH_` and its name in capitals, such as `TENSORPATCH_PARALLEL_DOWNLOADS=16`.
    ///
    /// # Errors
    /// If a variable is set to something else than a value; the error names it.
    pub fn from_env() -> Result<Self, PolicyError> {
        Self::default().with_env()
    }

    /// These settings, changed by what the environment says, as in [`Policy::from_env`].
    ///
    /// # Errors
    /// If a variable is set to something else than a value; the error names it.
    pub fn with_env(self) -> Result<Self, PolicyError> {
        self.with_variables(|variable| std::env::var_os(variable))
    }

    fn with_variables(self, read: impl Fn(&str) -> Option<std::ffi::OsString>) -> Result<Self, PolicyError> {
        let mut policy = self;
        for setting in Self::settings() {
            let variable = setting.variable();
            let Some(value) = read(&variable) else { continue };
            policy
                .set(setting.name, &value.to_string_lossy())
                .map_err(|error| PolicyError { setting: variable, ..error })?;
        }
        Ok(policy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    #[test]
    fn no_two_groups_have_a_setting_of_one_name() {
        let names: std::collections::BTreeSet<&str> =
            Policy::settings().map(|setting| setting.name).collect();
        assert_eq!(names.len(), Policy::settings().count());
    }

    #[test]
    fn no_size_and_no_number_of_things_at_once_is_none() {
        for name in
            ["part_bytes", "bytes_in_flight", "max_plan_bytes", "max_history_bytes", "parallel_downloads"]
        {
            assert!(Policy::default().set(name, "0").is_err(), "{name}");
        }
    }

    #[test]
    fn every_setting_is_read_from_the_variable_of_its_name() {
        for setting in Policy::settings() {
            let variable = setting.variable();
            // A number, or a time.
            let read = |value: &'static str| {
                let variable = variable.clone();
                move |name: &str| (name == variable).then(|| OsString::from(value))
            };
            let policy = Policy::default().with_variables(read("7"));
            let policy = policy.or_else(|_| Policy::default().with_variables(read("7s"))).unwrap();
            assert_ne!(policy, Policy::default(), "{variable}");
            let error = Policy::default().with_variables(read("seven")).unwrap_err();
            assert_eq!(error.setting, variable);
        }
        assert_eq!(Policy::default().with_variables(|_| None).unwrap(), Policy::default());
    }

    #[test]
    fn the_defaults_in_the_documentation_are_the_defaults() {
        for setting in Policy::settings() {
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
    fn an_unknown_setting_and_a_zero_where_one_is_needed_are_refused() {
        let mut policy = Policy::default();
        assert!(policy.set("colour", "red").is_err());
        assert!(policy.set("parallel_downloads", "0").is_err());
        assert!(policy.set("attempts", "0").unwrap_err().what.contains("at least 1"));
        assert_eq!(policy, Policy::default());
    }
}
