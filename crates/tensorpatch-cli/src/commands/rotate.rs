//! `tensorpatch rotate`: another key signs from now on.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{ArgGroup, Args};
use serde::Serialize;
use tensorpatch::store::{HandedOver, NewKey, OldKey, TrustKey, Version, signed_tips_beside};

use crate::exit::Refusal;
use crate::output::{Report, fields};
use crate::session::Session;
use crate::streams::{Source, parse_version, read_key};

/// Let another key sign the versions of a stream from now on
///
/// The old key counts for those that are there, and for no others. It takes some seconds: what is published
/// meanwhile still counts. Publishers then need the new key. With --old-key-file, replicas that trust the
/// old key go on with the new one. If the old key is lost, or others have it, name it with --old-key and
/// give replicas the new one (--trust-key).
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("old").args(["old_key_file", "old_key"]).required(true))]
pub(crate) struct Arguments {
    #[command(flatten)]
    source: Source,
    /// The file with the key that signs from now on, made by tensorpatch keygen
    #[arg(long, value_name = "FILE")]
    new_key_file: PathBuf,
    /// The file with the key that has signed until now, which agrees
    #[arg(long, value_name = "FILE")]
    old_key_file: Option<PathBuf>,
    /// The public key that has signed until now, if its secret is lost or known to others
    #[arg(long, value_name = "KEY")]
    old_key: Option<TrustKey>,
    /// The last version for which the old key counts, if others have signed with it after that
    /// [default: the newest]
    #[arg(long, value_name = "N", value_parser = parse_version)]
    last: Option<Version>,
}

#[derive(Serialize)]
struct RotateReport {
    url: String,
    #[serde(flatten)]
    handed_over: HandedOver,
}

impl Report for RotateReport {
    fn lines(&self) -> Vec<String> {
        let HandedOver { last, from, to, agreed, beyond, .. } = &self.handed_over;
        let replicas = if *agreed {
            "those that trust the old key go on with the new one"
        } else {
            "tell them the new key (--trust-key): those that trust the old one go on taking what it signs"
        };
        let mut lines = vec![
            ("old key", format!("{from}, up to version {last}")),
            ("new key", to.clone()),
            ("replicas", replicas.to_owned()),
        ];
        let stopped = beyond.map(|beyond| {
            format!(
                "readers that trust the new key, by versions up to {beyond} that count no more: tensorpatch rollback {} \
                 --sign-key NEW takes them back",
                self.url
            )
        });
        lines.extend(stopped.map(|stopped| ("stopped", stopped)));
        fields(&lines)
    }
}

pub(crate) fn run(arguments: &Arguments, session: &Session) -> Result<()> {
    let new = read_key(&arguments.new_key_file)?;
    let old = match (&arguments.old_key_file, arguments.old_key) {
        (Some(path), _) => OldKey::Agrees(read_key(path)?),
        (None, Some(key)) => OldKey::Gone(key),
        (None, None) => {
            return Err(Refusal::usage("no old key is named", "give --old-key-file or --old-key").into());
        }
    };
    if old.public() == new.public() {
        let advice = "make another key with tensorpatch keygen FILE";
        return Err(Refusal::usage("the new key is the old one: nothing would be handed over", advice).into());
    }
    let new = NewKey::from(new).with_signed_tips(signed_tips_beside(&arguments.new_key_file));
    let handed_over = arguments.source.wait(session, async {
        let mut builder = arguments.source.builder()?.trust_keys([old.public()]);
        if let Some(path) = &arguments.old_key_file {
            builder = builder.signed_tips(signed_tips_beside(path));
        }
        let stream = builder.open().await.context("the stream was not handed over")?;
        stream.hand_over(&old, new, arguments.last).await.context("the stream was not handed over")
    })?;
    session.output.report(&RotateReport { url: arguments.source.url.clone(), handed_over })
}
