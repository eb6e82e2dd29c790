//! `tensorpatch keygen`: a key to sign with.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;
use tensorpatch::store::SignKey;

use crate::exit::Refusal;
use crate::output::{Report, fields};
use crate::session::Session;

/// Make a key to sign with
///
/// An ed25519 key: the secret goes to FILE, for --sign-key, readable by you alone; the public key is
/// printed, for --trust-key.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The file for the secret; must not exist
    file: PathBuf,
}

#[derive(Serialize)]
struct KeygenReport {
    secret_key_file: PathBuf,
    public_key: String,
}

impl Report for KeygenReport {
    fn lines(&self) -> Vec<String> {
        fields(&[("secret", self.secret_key_file.display().to_string()), ("public", self.public_key.clone())])
    }
}

pub(crate) fn run(arguments: &Arguments, session: &Session) -> Result<()> {
    let key = SignKey::generate();
    let path = &arguments.file;
    let failed = || format!("{}: cannot write the key", path.display());
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = match opened {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let what = format!("{} exists already, and is never overwritten", path.display());
            let advice = "name a file that does not exist; tensorpatch key show FILE tells about a key";
            return Err(Refusal::usage(what, advice).into());
        }
        Err(error) if error.kind() == ErrorKind::NotADirectory => {
            let what = format!("{} would be below a file: no key can be written there", path.display());
            return Err(Refusal::usage(what, "name a file in a directory").into());
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let what = format!("{}: there is no such directory to write a key to", path.display());
            return Err(Refusal::usage(what, "make the directory first, or name a file in another").into());
        }
        opened => opened.with_context(failed)?,
    };
    writeln!(file, "{}", key.to_secret_text()).and_then(|()| file.sync_all()).with_context(failed)?;
    session
        .output
        .report(&KeygenReport { secret_key_file: path.clone(), public_key: key.public().to_string() })
}
