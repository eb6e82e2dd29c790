//! `tensorpatch rollback`: take back versions that nobody trusted has signed.

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use tensorpatch::store::StoreError;
use tensorpatch::store::upkeep::{self, RollbackOptions, RolledBack};

use crate::output::{Report, counted, fields};
use crate::session::Session;
use crate::streams::{Sign, Source};

/// Take back versions that nobody trusted has signed
///
/// The newest versions of a signed stream go, down to the first that a trusted key has signed. For the
/// owner of the key, after somebody has published without one: replicas that trust the key never held them.
/// A version that may be the owner's stays, such as one whose record is damaged.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    sign: Sign,
    /// Give up versions of your own, too: those whose records are damaged, and those that were signed with
    /// the key here. Replicas that hold them must start again
    #[arg(long)]
    force: bool,
}

#[derive(Serialize)]
struct RollbackReport {
    url: String,
    #[serde(flatten)]
    rolled_back: RolledBack,
}

impl Report for RollbackReport {
    fn lines(&self) -> Vec<String> {
        let RolledBack { tip, signer, removed, forgotten, .. } = &self.rolled_back;
        let names: Vec<String> = removed.iter().rev().map(ToString::to_string).collect();
        let removed = match names.is_empty() {
            true => "nothing".to_owned(),
            false => format!("{}: {}", counted(names.len() as u64, "version"), names.join(", ")),
        };
        let mut lines = vec![("removed", removed)];
        let forgotten = forgotten.map(|version| format!("that version {version} was signed with this key"));
        lines.extend(forgotten.map(|forgotten| ("forgotten", forgotten)));
        let newest = match (tip, signer) {
            (None, _) => "none".to_owned(),
            (Some(tip), None) => format!("version {tip}"),
            (Some(tip), Some(key)) => format!("version {tip}, signed with {key}, which is trusted here"),
        };
        lines.push(("newest", newest));
        fields(&lines)
    }
}

pub(crate) fn run(arguments: &Arguments, session: &Session) -> Result<()> {
    let rolled_back = arguments.source.wait(session, async {
        let stream = arguments.source.open_signing(&arguments.sign).await.map_err(|error| {
            // Without the key it would not be told otherwise: what is to be done is the same.
            match error.downcast() {
                Ok(StoreError::NotSigned { place }) => {
                    StoreError::OnlySigned { place, what: "a rollback" }.into()
                }
                Ok(error) => error.into(),
                Err(error) => error,
            }
        })?;
        let options = RollbackOptions::default();
        let options = if arguments.force { options.forced() } else { options };
        Ok(upkeep::roll_back_unsigned(&stream, &options).await?)
    })?;
    session.output.report(&RollbackReport { url: arguments.source.url.clone(), rolled_back })
}
