//! The flags of the transfer policy, one for each of its settings.

use anyhow::Result;
use clap::builder::ValueParser;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};
use tensorpatch::store::{Policy, PolicyError, Setting};

use crate::config;
use crate::exit::Refusal;

/// Settings that were given as flags; the others come from the environment
/// and from the file of settings.
#[derive(Debug, Default)]
pub(crate) struct Transfer {
    given: Vec<(&'static str, String)>,
}

impl Transfer {
    /// Flags before variables of the environment before the file of settings before defaults.
    pub(crate) fn policy(&self) -> Result<Policy> {
        let refused = |error: PolicyError| {
            Refusal::usage(error.to_string(), "docs/settings.md lists what each setting may have")
        };
        let mut policy = config::policy()?.with_env().map_err(refused)?;
        for (name, value) in &self.given {
            policy.set(name, value).map_err(refused)?;
        }
        Ok(policy)
    }
}

impl Args for Transfer {
    fn augment_args(command: Command) -> Command {
        command.args(Policy::settings().map(flag))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn flag(setting: &Setting) -> Arg {
    let name = setting.name;
    let check = move |text: &str| match Policy::default().set(name, text) {
        Ok(()) => Ok(text.to_owned()),
        Err(error) => Err(error.what),
    };
    Arg::new(name)
        .long(name.replace('_', "-"))
        .value_name(setting.unit)
        .value_parser(ValueParser::new(check))
        .help(format!("{} [env: {}]", setting.help.trim(), setting.variable()))
        .help_heading("Transfer options")
        .hide_short_help(true)
}

impl FromArgMatches for Transfer {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = Policy::settings()
            .filter_map(|setting| Some((setting.name, matches.get_one::<String>(setting.name)?.clone())));
        Ok(Self { given: given.collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
