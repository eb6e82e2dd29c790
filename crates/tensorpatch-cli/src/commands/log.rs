//! `tensorpatch log`: the versions of a stream.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use tensorpatch::store::{Handover, LogEntry, Version, VersionKind};

use crate::arguments::parse_count;
use crate::dates::date;
use crate::exit::{Unsound, conclude};
use crate::output::{Report, bytes, count, counted, fields, percent, ratio};
use crate::screen;
use crate::session::Session;
use crate::streams::Source;
use crate::table::{Column, fitted};

/// What the columns are, at the end of the long help.
const LEGEND: &str = "\
Columns, of which a narrow terminal shows those that say most:
  kind       anchor: the whole checkpoint; delta: a patch; empty: nothing changed;
             collected: what led there was removed by gc
  bytes      bytes that the version was published as
  of full    their share of the bytes of all tensors
  changed    the share of the elements that changed
  B/change   bytes for each element that changed
  chain      bytes of the patches since the last anchor, which newcomers download";

/// List the versions of a stream
///
/// How and when each was published, by whom, its size, and the bytes of the patches since the last whole
/// checkpoint (chain). A narrow terminal shows the columns that say most.
#[derive(Debug, Args)]
#[command(after_long_help = LEGEND)]
pub(crate) struct Arguments {
    #[command(flatten)]
    source: Source,
    /// List the newest N versions only
    #[arg(short = 'n', long = "newest", value_name = "N", value_parser = parse_count::<NonZeroU64>)]
    newest: Option<NonZeroU64>,
}

#[derive(Serialize)]
struct LogReport {
    url: String,
    stream: String,
    leaf_hash: &'static str,
    versions: Vec<LogEntry>,
    /// The keys that it was handed over to.
    handovers: Vec<Handover>,
    /// The lowest version that a collector has left whole.
    #[serde(skip)]
    floor: Option<Version>,
    #[serde(skip)]
    is_signed: bool,
    #[serde(skip)]
    width: usize,
}

impl LogReport {
    /// Whether there are versions before those that are listed.
    fn is_part(&self) -> bool {
        self.versions.first().is_some_and(|first| first.version > Version::FIRST)
    }

    /// The versions that can be had.
    fn holds(&self) -> String {
        let Some(tip) = self.versions.last().map(|last| last.version) else { return counted(0, "version") };
        let listed = match (self.is_part(), self.versions.len()) {
            (true, 1) => ": the newest is listed".to_owned(),
            (true, several) => format!(": the newest {several} are listed"),
            (false, _) => String::new(),
        };
        let Some(floor) = self.floor.filter(|floor| floor.get() > 1) else {
            return format!("{}{listed}", counted(tip.get(), "version"));
        };
        let pinned = |entry: &&LogEntry| entry.version < floor && !entry.collected;
        let pinned: Vec<String> =
            self.versions.iter().filter(pinned).map(|entry| entry.version.to_string()).collect();
        let (pinned, others) = match pinned.is_empty() {
            true => (String::new(), "older ones"),
            false => (format!(" and {}", pinned.join(", ")), "other older ones"),
        };
        let held = if floor == tip { format!("version {tip}") } else { format!("versions {floor} to {tip}") };
        format!("{held}{pinned}; {others} were collected{listed}")
    }

    /// The newest folds, and how many there are.
    fn folds(&self) -> Option<String> {
        const LISTED: usize = 4;
        let from = |entry: &LogEntry| -> Vec<String> {
            entry.folded_from.iter().map(|from| format!("{from} to {}", entry.version)).collect()
        };
        let folds: Vec<String> = self.versions.iter().rev().flat_map(from).collect();
        let listed = folds.iter().take(LISTED).map(String::as_str).collect::<Vec<_>>().join(", ");
        let newest = if folds.len() > LISTED { ", the newest from " } else { ", from " };
        (!folds.is_empty()).then(|| format!("{}{newest}{listed}", folds.len()))
    }

    /// The keys that have signed versions, with the first and the last of each.
    fn signers(&self) -> Vec<String> {
        let mut signers: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for entry in &self.versions {
            if let Some(signer) = &entry.signer {
                signers.entry(signer).or_default().push(entry.version.to_string());
            }
        }
        let of = |(key, versions): (&str, Vec<String>)| match versions.as_slice() {
            [first, .., last] => format!("{key}, versions {first} to {last}"),
            versions => format!("{key}, version {}", versions.concat()),
        };
        signers.into_iter().map(of).collect()
    }

    /// The versions of a signed stream that nobody has signed: the column of signers may have no room.
    fn unsigned(&self) -> Option<String> {
        const LISTED: usize = 8;
        let unsigned: Vec<String> = self
            .versions
            .iter()
            .filter(|entry| self.is_signed && entry.signer.is_none())
            .map(|entry| entry.version.to_string())
            .collect();
        let more = match unsigned.len().saturating_sub(LISTED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let word = if unsigned.len() == 1 { "version" } else { "versions" };
        let listed: Vec<String> = unsigned.into_iter().take(LISTED).collect();
        (!listed.is_empty()).then(|| format!("{word} {}{more}", listed.join(", ")))
    }

    fn columns(&self) -> Vec<Column> {
        let entries = || self.versions.iter();
        let short = |text: &str, length| text.chars().take(length).collect::<String>();
        // Told by the heading if it is one for all.
        let publishers: Vec<&str> = entries().map(|entry| entry.publisher.as_str()).collect();
        let several = publishers.windows(2).any(|pair| pair[0] != pair[1]);
        vec![
            Column::right("version", 0, entries().map(|entry| entry.version.to_string())),
            Column::left("kind", 0, entries().map(|entry| kind(entry).to_owned())),
            Column::left("published", 2, entries().map(|entry| date(entry.created))),
            Column::right("bytes", 0, entries().map(|entry| count(entry.bytes))),
            Column::right("of full", 5, entries().map(|e| percent(e.bytes, e.contents.state_bytes))),
            Column::right("changed", 1, entries().map(changed)),
            Column::right(
                "B/change",
                6,
                entries().map(|e| e.changed_elements.map_or_else(|| "-".into(), |n| ratio(e.bytes, n))),
            ),
            Column::right("chain", 4, entries().map(|entry| count(entry.chain_bytes))),
            // Enough of the digest to tell versions apart; --json has all of it.
            Column::left("state", 7, entries().map(|e| short(&e.contents.state.to_string(), 17))),
            Column::left("signer", 8, entries().map(|e| short(e.signer.as_deref().unwrap_or("-"), 8))),
            Column::left(
                "publisher",
                9,
                entries().map(|e| if several { e.publisher.clone() } else { String::new() }),
            ),
            Column::left("label", 3, entries().map(|entry| entry.label.clone().unwrap_or_default())),
        ]
    }
}

/// What a version was published as, with a plus if an anchor was added to it.
fn kind(entry: &LogEntry) -> &'static str {
    match entry.kind {
        _ if entry.collected => "collected",
        VersionKind::Anchor => "anchor",
        VersionKind::Delta if entry.anchored => "delta+anchor",
        VersionKind::Delta => "delta",
        VersionKind::Empty if entry.anchored => "empty+anchor",
        VersionKind::Empty => "empty",
    }
}

fn changed(entry: &LogEntry) -> String {
    let changed = entry.changed_elements.zip(entry.total_elements);
    changed.map_or_else(|| "-".into(), |(changed, total)| percent(changed, total))
}

impl Report for LogReport {
    fn lines(&self) -> Vec<String> {
        let mut pairs = vec![("stream", format!("{} ({})", self.url, self.stream))];
        pairs.push(("holds", self.holds()));
        let anchors: Vec<&LogEntry> = self.versions.iter().filter(|e| e.anchored && !e.collected).collect();
        if let Some(last) = anchors.last() {
            let size = last.anchor_bytes.map(|size| format!(", {}", bytes(size))).unwrap_or_default();
            let last = format!("the newest of version {}{size}", last.version);
            let listed = if self.is_part() { " among those listed" } else { "" };
            pairs.push(("anchors", format!("{}{listed}: {last}", anchors.len())));
        }
        pairs.extend(self.folds().map(|folds| ("folds", folds)));
        let publishers: Vec<&str> = self.versions.iter().map(|entry| entry.publisher.as_str()).collect();
        if let [first, rest @ ..] = publishers.as_slice()
            && rest.iter().all(|publisher| publisher == first)
        {
            pairs.push(("by", (*first).to_owned()));
        }
        pairs.extend(self.signers().into_iter().map(|signer| ("signed", signer)));
        pairs.extend(self.handovers.iter().map(|handover| {
            let Handover { last, from, to, agreed, .. } = handover;
            let agreed = if *agreed { "which has agreed" } else { "which has not agreed" };
            ("handover", format!("after version {last} to {to}, from {from}, {agreed}"))
        }));
        pairs.extend(self.unsigned().map(|versions| ("unsigned", versions)));
        let mut lines = fields(&pairs);
        if !self.versions.is_empty() {
            lines.push(String::new());
            lines.extend(fitted(self.columns(), self.width));
        }
        lines
    }
}

pub(crate) fn run(arguments: &Arguments, session: &Session) -> Result<()> {
    let (stream, (versions, lost), handovers, floor) = arguments.source.wait(session, async {
        let stream = arguments.source.open().await?;
        let versions = match arguments.newest {
            None => stream.log_readable().await?,
            Some(newest) => (stream.log_newest(newest.get()).await?, None),
        };
        let floor = stream.pruned().await?;
        let handovers = if stream.is_signed() { stream.handovers().await? } else { Vec::new() };
        Ok((stream, versions, handovers, floor))
    })?;
    let first = versions.first().map(|entry| entry.version);
    let wrong = lost.zip(first).map(|(lost, first)| Unsound::LogCut {
        url: arguments.source.url.clone(),
        first,
        why: lost.to_string(),
    });
    let report = LogReport {
        url: arguments.source.url.clone(),
        stream: stream.id().to_string(),
        leaf_hash: stream.record().leaf_hash.name(),
        versions,
        handovers,
        floor,
        is_signed: stream.is_signed(),
        width: screen::width(),
    };
    conclude(session.output, &report, wrong)
}
