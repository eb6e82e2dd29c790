//! The replicas that keep a lease, and how far they are behind.

use tensorpatch::store::upkeep::StreamReport;

use super::html::{self, table, text};
use crate::dates::length;
use crate::output::{count, counted};

pub(super) fn figure(report: &StreamReport) -> Option<String> {
    let tip = report.versions.last()?.version.get();
    let now = i64::try_from(report.made).unwrap_or(i64::MAX);
    if report.replicas.is_empty() {
        let about = "No replica keeps a lease (pull and follow with --lease NAME).";
        return Some(html::figure("replicas", "Replicas", about, ""));
    }
    let rows = report.replicas.iter().map(|lease| {
        let renewed = u64::try_from(now.saturating_sub(lease.renewed)).unwrap_or(0);
        vec![
            text(&lease.holder),
            lease.held.map_or_else(|| "nothing".into(), |held| held.to_string()),
            lease.held.map_or_else(|| "–".into(), |held| count(tip.saturating_sub(held.get()))),
            format!("{} ago", length(renewed)),
            if lease.lives_at(now) { "alive" } else { "expired" }.into(),
        ]
    });
    let body = table(&["name", "holds", "behind", "renewed", "lease"], rows);
    let scroll = format!(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-labelledby=\"replicas-heading\">\n{body}</div>\n"
    );
    let late = report.replicas.iter().filter(|lease| lease.held.is_some_and(|held| held.get() < tip)).count();
    let about = format!(
        "{} with a lease, {} of them not at version {tip}. A lease is renewed when a version is pulled, and a few times in its \
         lifetime.",
        counted(report.replicas.len() as u64, "replica"),
        count(late as u64)
    );
    Some(html::figure("replicas", "Replicas", &about, &scroll))
}
