//! `tensorpatch fold`: one patch across many versions.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use tensorpatch::store::{Folded, Folder, PublishOptions, StoreError, Version, cache_dir};

use crate::exit::Refusal;
use crate::output::{Report, bytes, fields, percent};
use crate::session::Session;
use crate::streams::{self, Sign, Source, parse_version};

/// Add one patch across many versions, for replicas that are far behind
///
/// It is added if it is smaller than the patches there are. Nothing else changes.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    source: Source,
    /// The version that the patch starts from [default: 8 before the other, but none that was collected]
    #[arg(long, value_name = "N", value_parser = parse_version)]
    from: Option<Version>,
    /// The version that it leads to [default: the newest]
    #[arg(long, value_name = "N", value_parser = parse_version)]
    to: Option<Version>,
    /// Where to work; needs room for two checkpoints, and may be kept for the next time [default: in the
    /// user's cache]
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
    /// The name of whoever folds, in the record
    #[arg(long, value_name = "NAME")]
    publisher: Option<String>,
    #[command(flatten)]
    sign: Sign,
}

#[derive(Serialize)]
struct FoldReport {
    url: String,
    #[serde(flatten)]
    folded: Folded,
}

impl Report for FoldReport {
    fn lines(&self) -> Vec<String> {
        let folded = &self.folded;
        let size = format!(
            "{} instead of {} ({})",
            bytes(folded.bytes),
            bytes(folded.replaced_bytes),
            percent(folded.bytes, folded.replaced_bytes)
        );
        let outcome = if folded.added { "added" } else { "not added: there is a way as cheap already" };
        fields(&[
            ("fold", format!("from version {} to {}", folded.from, folded.to)),
            ("size", size),
            ("outcome", outcome.to_owned()),
        ])
    }
}

/// How far back a fold starts if nothing is said.
const DEFAULT_SPAN: u64 = 8;

pub(crate) fn run(arguments: &Arguments, session: &Session) -> Result<()> {
    let folded = arguments.source.wait(session, async {
        let stream = arguments.source.open_signing(&arguments.sign).await?;
        let to = match arguments.to {
            Some(to) => to,
            None => stream.tip().await?.ok_or(StoreError::Empty)?.record.version,
        };
        let from = match arguments.from {
            Some(from) => from,
            None => {
                let from = Version::new(to.get().saturating_sub(DEFAULT_SPAN)).unwrap_or(Version::FIRST);
                // What is below was collected.
                stream.pruned().await?.map_or(from, |floor| from.max(floor))
            }
        };
        if from >= to && arguments.from.is_none() {
            let what =
                format!("there is nothing to fold up to version {to}: the oldest that is kept is {from}");
            return Err(
                Refusal::usage(what, "publish more versions first, or name a later one with --to").into()
            );
        }
        if from >= to {
            let what = format!("a fold from version {from} to {to} spans nothing");
            return Err(Refusal::usage(what, "name versions in ascending order with --from and --to").into());
        }
        let work = match &arguments.work {
            Some(work) => work.clone(),
            None => cache_dir("folds", stream.id())?,
        };
        let mut options =
            PublishOptions::default().with_diff(session.options()).with_observer(streams::observer(session));
        if let Some(name) = &arguments.publisher {
            options = options.with_publisher(name);
        }
        Ok(Folder::new(stream, work, options).fold(from, to).await?)
    })?;
    session.output.report(&FoldReport { url: arguments.source.url.clone(), folded })
}
