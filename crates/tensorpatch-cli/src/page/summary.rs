//! The figures that matter most, at the top.

use tensorpatch::store::VersionKind;
use tensorpatch::store::upkeep::StreamReport;

use super::html::text;
use crate::dates::date;
use crate::output::{count, percent, size};

pub(super) fn summary(report: &StreamReport) -> String {
    let Some(tip) = report.versions.last() else {
        return "<p>No version is published yet.</p>\n".into();
    };
    let full = tip.contents.state_bytes;
    let patches: Vec<u64> = report
        .versions
        .iter()
        .filter(|entry| entry.kind != VersionKind::Anchor)
        .map(|entry| entry.bytes)
        .collect();
    let shipped: u64 = patches.iter().fold(0, |sum, bytes| sum.saturating_add(*bytes));
    let mean = shipped.checked_div(patches.len() as u64).unwrap_or(0);
    let newcomer = report.late_joins.first().and_then(|join| join.bytes);
    let label = tip.label.as_ref().map(|label| format!(", {}", text(label))).unwrap_or_default();
    let mut tiles = vec![
        ("newest version", tip.version.to_string(), format!("{} UTC{label}", date(tip.created))),
        ("checkpoint", size(full), format!("{} bytes of tensors", count(full))),
    ];
    if !patches.is_empty() {
        let share = format!(
            "{} of the checkpoint, over {} versions",
            percent(mean, full),
            count(patches.len() as u64)
        );
        tiles.push(("a patch, on average", size(mean), share));
    }
    tiles.push((
        "a newcomer fetches",
        newcomer.map_or_else(|| "no way leads there".into(), size),
        "to come to the newest version".into(),
    ));
    let tiles: String = tiles
        .into_iter()
        .map(|(what, value, note)| {
            format!("<div><dt>{what}</dt><dd><strong>{value}</strong> <span class=\"muted\">{note}</span></dd></div>\n")
        })
        .collect();
    format!("<dl class=\"tiles\">\n{tiles}</dl>\n")
}
