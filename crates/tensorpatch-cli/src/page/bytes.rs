//! How many bytes each version took, beside the whole checkpoint.

use tensorpatch::store::upkeep::StreamReport;
use tensorpatch::store::{LogEntry, VersionKind};

use super::chart::{Bar, Rule, Scale, bars, legend};
use super::html::{self, numbers, text};
use crate::dates::date;
use crate::output::{bytes, count, percent, size};

pub(super) fn figure(report: &StreamReport) -> Option<String> {
    let entries = &report.versions;
    let full = entries.last()?.contents.state_bytes;
    let all: Vec<Bar> = entries.iter().map(bar).collect();
    let says = format!(
        "Bars of the bytes of each of {} versions on a logarithmic scale; the whole checkpoint has {}.",
        entries.len(),
        size(full)
    );
    let rule = Rule { label: format!("the whole checkpoint: {}", bytes(full)), value: full };
    let plot = bars("bytes", &says, Scale::Logarithmic, &all, &[rule]);
    let legend = legend(&[
        ("bar", "patch"),
        ("special", "whole checkpoint (anchor)"),
        ("rule", &format!("size of the checkpoint, {}", size(full))),
    ]);
    let rows = entries.iter().rev().map(|entry| {
        vec![
            entry.version.to_string(),
            date(entry.created),
            kind(entry).into(),
            count(entry.bytes),
            percent(entry.bytes, entry.contents.state_bytes),
            entry.label.as_deref().map(text).unwrap_or_default(),
        ]
    });
    let numbers =
        numbers("bytes", &["version", "published (UTC)", "kind", "bytes", "of full", "label"], rows);
    let about = "What was published for each version. The scale is logarithmic.";
    Some(html::figure("bytes", "Bytes per version", about, &format!("{plot}{legend}{numbers}")))
}

fn kind(entry: &LogEntry) -> &'static str {
    match entry.kind {
        VersionKind::Anchor => "anchor",
        VersionKind::Delta => "patch",
        VersionKind::Empty => "nothing changed",
    }
}

fn bar(entry: &LogEntry) -> Bar {
    let label = entry.label.as_ref().map(|label| format!(", {label}")).unwrap_or_default();
    let share = percent(entry.bytes, entry.contents.state_bytes);
    Bar {
        label: format!("version {}", entry.version),
        value: entry.bytes,
        is_special: entry.kind == VersionKind::Anchor,
        says: format!(
            "version {}{label}: {}, {}, {share} of the checkpoint",
            entry.version,
            kind(entry),
            bytes(entry.bytes)
        ),
    }
}
