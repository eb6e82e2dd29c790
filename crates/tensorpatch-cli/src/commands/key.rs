//! `tensorpatch key`: what belongs to a key.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};
use serde::Serialize;
use tensorpatch::store::{SignedTip, StreamId, signed_tips_beside, signed_tips_in};

use crate::output::{Report, fields};
use crate::session::Session;
use crate::streams::read_key;

/// Tell about a key
///
/// tensorpatch keygen makes one.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Print the public key that belongs to a secret, and the streams that were signed with it here
    Show {
        /// The file with the secret, made by tensorpatch keygen
        file: PathBuf,
    },
}

#[derive(Serialize)]
struct KeyReport {
    secret_key_file: PathBuf,
    public_key: String,
    signed: Vec<SignedStream>,
}

/// The newest version that this machine has signed of a stream.
#[derive(Serialize)]
struct SignedStream {
    stream: StreamId,
    #[serde(flatten)]
    tip: SignedTip,
}

impl Report for KeyReport {
    fn lines(&self) -> Vec<String> {
        let mut pairs =
            vec![("secret", self.secret_key_file.display().to_string()), ("public", self.public_key.clone())];
        pairs.extend(self.signed.iter().map(|signed| {
            let SignedTip { version, place, .. } = &signed.tip;
            let place = place.as_ref().map_or_else(String::new, |place| format!(", at {place}"));
            ("signed", format!("{}, version {version}{place}", signed.stream))
        }));
        if self.signed.is_empty() {
            pairs.push(("signed", "nothing here yet".into()));
        }
        fields(&pairs)
    }
}

pub(crate) fn run(arguments: &Arguments, session: &Session) -> Result<()> {
    let What::Show { file } = &arguments.what;
    let key = read_key(file)?;
    let signed = signed_tips_in(&signed_tips_beside(file))?;
    session.output.report(&KeyReport {
        secret_key_file: file.clone(),
        public_key: key.public().to_string(),
        signed: signed.into_iter().map(|(stream, tip)| SignedStream { stream, tip }).collect(),
    })
}
