//! `tensorpatch log`: the versions of a stream.

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use tensorpatch::store::{LogEntry, VersionKind};

use crate::output::{Report, count, counted, fields, percent, ratio, table};
use crate::session::Session;
use crate::streams::{self, Source};

/// Lists the versions of a stream: how each was published, its size, and the bytes of the patches since the
/// last whole checkpoint (chain).
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    source: Source,
}

#[derive(Serialize)]
struct LogReport {
    url: String,
    stream: String,
    leaf_hash: &'static str,
    versions: Vec<LogEntry>,
}

impl Report for LogReport {
    fn lines(&self) -> Vec<String> {
        let mut lines = fields(&[
            ("stream", format!("{} ({})", self.url, self.stream)),
            ("holds", counted(self.versions.len() as u64, "version")),
        ]);
        if self.versions.is_empty() {
            return lines;
        }
        let heading =
            ["version", "kind", "bytes", "of full", "changed", "B/change", "chain bytes", "state", "label"];
        let mut rows = vec![heading.map(str::to_owned).to_vec()];
        rows.extend(self.versions.iter().map(|entry| {
            let changed = entry.changed_elements.zip(entry.total_elements);
            // Enough of the digest to tell versions apart; --json has all of it.
            let state: String = entry.contents.state.to_string().chars().take(17).collect();
            vec![
                entry.version.to_string(),
                match entry.kind {
                    _ if entry.collected => "collected",
                    VersionKind::Anchor => "anchor",
                    VersionKind::Delta => "delta",
                    VersionKind::Empty => "empty",
                }
                .to_owned(),
                count(entry.bytes),
                percent(entry.bytes, entry.contents.state_bytes),
                changed.map_or_else(|| "-".to_owned(), |(changed, total)| percent(changed, total)),
                entry.changed_elements.map_or_else(|| "-".to_owned(), |changed| ratio(entry.bytes, changed)),
                count(entry.chain_bytes),
                state,
                entry.label.clone().unwrap_or_default(),
            ]
        }));
        lines.push(String::new());
        lines.extend(table(&rows, &[1, 7, 8]));
        lines
    }
}

pub(crate) fn run(arguments: &Arguments, session: &Session) -> Result<()> {
    let (stream, versions) = streams::wait(session, async {
        let stream = arguments.source.open().await?;
        let versions = stream.log().await?;
        Ok((stream, versions))
    })?;
    session.output.report(&LogReport {
        url: arguments.source.url.clone(),
        stream: stream.id().to_string(),
        leaf_hash: stream.record().leaf_hash.name(),
        versions,
    })
}
