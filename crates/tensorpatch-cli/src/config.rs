//! The file of settings: a small TOML file of what the flags of the transfer policy say, for a whole machine.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tensorpatch::store::Policy;
use toml::{Table, Value};

use crate::exit::Refusal;

/// Names another file.
const VARIABLE: &str = "TENSORPATCH_CONFIG";
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
