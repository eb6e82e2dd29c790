//! The file of settings: a small TOML file of what the flags of the transfer policy say, for a whole machine.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use strsim::jaro_winkler;
use tensorpatch::store::{Policy, Setting};
use toml::{Table, Value};

use crate::LOG_VARIABLE;
use crate::exit::Refusal;

/// Names another file.
const VARIABLE: &str = "TENSORPATCH_CONFIG";
/// What the variables of the environment begin with.
const PREFIX: &str = "TENSORPATCH_";
/// What `follow --exec` sets for a command, which may run this program again; and what tests and chores of
/// this project read.
const OTHERS: [&str; 9] =
    ["VERSION", "STATE", "STREAM", "DIR", "TRACE", "GOLDEN", "WRITE_SCHEMAS", "KEEP_STREAM", "SERVERS_DIR"];
/// The most bytes that it may have.
const MAX_BYTES: u64 = 64 << 10;

/// The defaults, changed by the file of settings if there is one.
pub(crate) fn policy() -> Result<Policy> {
    if let Some(named) = std::env::var_os(VARIABLE) {
        let path = PathBuf::from(named);
        let none = || {
            let what = format!("{}: there is no such file", path.display());
            Refusal::usage(what, format!("unset {VARIABLE}, or let it name the file of settings"))
        };
        return parse(&path, &read(&path)?.ok_or_else(none)?);
    }
    let Some(path) = default_path() else { return Ok(Policy::default()) };
    match read(&path)? {
        Some(text) => parse(&path, &text),
        None => Ok(Policy::default()),
    }
}

/// Warns of variables that look like settings and are none: one that is misspelt would change nothing.
pub(crate) fn warn_of_unknown_variables() {
    let known: Vec<String> = Policy::settings()
        .map(Setting::variable)
        .chain([VARIABLE, LOG_VARIABLE].map(str::to_owned))
        .collect();
    let mut unknown: Vec<String> = std::env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .filter(|name| !known.contains(name) && is_setting(name))
        .collect();
    unknown.sort();
    for name in unknown {
        if let Some(nearest) = nearest(&name, &known) {
            tracing::warn!("{name} is no setting, and is ignored: is {nearest} meant?");
        }
    }
}

/// The one of `known` that is most like `name`.
fn nearest<'a>(name: &str, known: &'a [String]) -> Option<&'a String> {
    let likeness = |known: &&String| jaro_winkler(name, known);
    known.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
}

/// Whether a variable can only be meant as a setting.
fn is_setting(variable: &str) -> bool {
    let Some(name) = variable.strip_prefix(PREFIX) else { return false };
    // Kubernetes sets such for a service that is called tensorpatch.
    let is_of_service = name.starts_with("SERVICE_") || name == "PORT" || name.starts_with("PORT_");
    !is_of_service && !name.starts_with("TEST_") && !OTHERS.contains(&name)
}

/// `$XDG_CONFIG_HOME/tensorpatch/config.toml`, by default below `~/.config`.
fn default_path() -> Option<PathBuf> {
    let configured = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || Some(std::env::home_dir().filter(|home| home.is_absolute())?.join(".config"));
    Some(configured.or_else(home)?.join("tensorpatch/config.toml"))
}

fn read(path: &Path) -> Result<Option<String>> {
    let failed = || format!("{}: cannot read the settings", path.display());
    let file = match File::open(path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        file => file.with_context(failed)?,
    };
    let mut text = String::new();
    file.take(MAX_BYTES + 1).read_to_string(&mut text).with_context(failed)?;
    if text.len() as u64 > MAX_BYTES {
        let what = format!("{}: more than {MAX_BYTES} bytes of settings", path.display());
        return Err(Refusal::usage(what, "docs/settings.md lists what it may have").into());
    }
    Ok(Some(text))
}

fn parse(path: &Path, text: &str) -> Result<Policy> {
    let refused = |what: String| {
        Refusal::usage(format!("{}: {what}", path.display()), "docs/settings.md lists what it may have")
    };
    // Without the line itself, which may be of another file, with a secret in it.
    let table: Table = text.parse().map_err(|error: toml::de::Error| {
        let at = error.span().map_or(0, |span| span.start);
        let line = text.bytes().take(at).filter(|byte| *byte == b'\n').count().saturating_add(1);
        refused(format!("line {line}: {}", error.message()))
    })?;
    let mut policy = Policy::default();
    for (name, value) in table {
        let value = match value {
            Value::String(text) => text,
            Value::Integer(number) => number.to_string(),
            other => {
                return Err(
                    refused(format!("{name} is a {}: expected a text or number", other.type_str())).into()
                );
            }
        };
        policy.set(&name, &value).map_err(|error| refused(error.to_string()))?;
    }
    Ok(policy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;
    use std::time::Duration;

    #[test]
    fn settings_are_texts_and_numbers_and_others_are_refused_with_their_name() {
        let parse = |text| parse(Path::new("config.toml"), text);
        let policy = parse("parallel_downloads = 16 # more\npoll = \"200ms\"\n").unwrap();
        assert_eq!(policy.transfers.parallel_downloads, 16);
        assert_eq!(policy.following.poll, Duration::from_millis(200));
        assert_eq!(parse("").unwrap(), Policy::default());
        for (text, word) in [
            ("colour = 1", "colour"),
            ("poll = true", "poll is a boolean"),
            ("attempts = \"many\"", "attempts"),
            ("attempts", "line 1"),
            ("# a comment\n\ntoken = hf_secret", "line 3"),
            ("[attempts]\nn = 1", "attempts is a table"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(word) && !error.contains("hf_secret"), "{text}: {error}");
        }
    }

    #[test]
    fn a_misspelt_variable_is_told_from_those_of_others_and_has_a_nearest() {
        for (name, is) in [
            ("TENSORPATCH_ATTEMPT", true),
            ("TENSORPATCH_TEST_KILLS", false),
            ("TENSORPATCH_VERSION", false),
            ("TENSORPATCH_SERVICE_HOST", false),
            ("TENSORPATCH_PORT_80_TCP", false),
            ("PATH", false),
        ] {
            assert_eq!(is_setting(name), is, "{name}");
        }
        let known: Vec<String> = Policy::settings().map(Setting::variable).collect();
        for (name, meant) in [
            ("TENSORPATCH_ATTEMPT", "TENSORPATCH_ATTEMPTS"),
            ("TENSORPATCH_PARALEL_DOWNLOAD", "TENSORPATCH_PARALLEL_DOWNLOADS"),
        ] {
            assert_eq!(nearest(name, &known).map(String::as_str), Some(meant));
        }
    }

    #[test]
    fn the_documentation_lists_every_setting() {
        let mut table = String::new();
        for setting in Policy::settings() {
            let (name, variable) = (setting.name, setting.variable());
            let flag = name.replace('_', "-");
            let help = setting.help.trim();
            let _ = writeln!(table, "| `{name}` | `--{flag}` | `{variable}` | {help} |");
        }
        let documentation = include_str!("../../../docs/settings.md");
        let listed: Vec<&str> = documentation.lines().filter(|line| line.contains("` | `--")).collect();
        assert_eq!(listed.join("\n"), table.trim_end());
    }
}
