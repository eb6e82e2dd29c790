//! How the history hangs together: the chain since the last anchor, the anchors, and the folds that shorten
//! it.

use std::fmt::Write as _;

use tensorpatch::store::upkeep::{ReportEdge, StreamReport};

use super::chart::{Axis, HEIGHT, Scale, legend, plot};
use super::html::{self, numbers};
use crate::output::{bytes, count, size};

pub(super) fn figure(report: &StreamReport) -> Option<String> {
    let entries = &report.versions;
    let (first, last) = (entries.first()?.version.get(), entries.last()?.version.get());
    let axis = Axis::over(Scale::Linear, entries.iter().map(|entry| entry.chain_bytes));
    let middle = |version: u64| version.saturating_sub(first) as f64 + 0.5;
    let mut shapes = String::new();
    let mut path = format!("M0 {HEIGHT}");
    for entry in entries {
        let (x, y) = (middle(entry.version.get()) - 0.5, HEIGHT - axis.height(entry.chain_bytes));
        let _ = write!(path, "L{x:.2} {y:.2}L{:.2} {y:.2}", x + 1.0);
    }
    let _ = write!(shapes, "<path class=\"area\" d=\"{path}L{} {HEIGHT}Z\"/>", entries.len());
    let folds: Vec<&ReportEdge> = report.edges.iter().filter(|edge| is_fold(edge)).collect();
    for fold in &folds {
        let (from, to) = (middle(fold.from.map_or(first, |from| from.get())), middle(fold.to.get()));
        // The farther, the higher.
        let top = HEIGHT - ((to - from) / (entries.len() as f64) * HEIGHT).clamp(12.0, 96.0);
        let _ = write!(
            shapes,
            "<path class=\"fold\" d=\"M{from:.2} {HEIGHT}C{from:.2} {top:.2} {to:.2} {top:.2} {to:.2} {HEIGHT}\"/>"
        );
    }
    for entry in entries.iter().filter(|entry| entry.anchored) {
        let x = middle(entry.version.get());
        let _ =
            write!(shapes, "<line class=\"anchor\" x1=\"{x:.2}\" x2=\"{x:.2}\" y1=\"0\" y2=\"{HEIGHT}\"/>");
    }
    for entry in entries {
        let says = format!(
            "version {}: {} of patches since the last anchor{}",
            entry.version,
            bytes(entry.chain_bytes),
            if entry.anchored { "; an anchor" } else { "" }
        );
        let x = middle(entry.version.get()) - 0.5;
        let _ = write!(
            shapes,
            "<rect class=\"hit\" x=\"{x:.2}\" y=\"0\" width=\"1\" height=\"{HEIGHT}\" data-says=\"{says}\"/>"
        );
    }
    let anchors = entries.iter().filter(|entry| entry.anchored).count();
    let says =
        format!("The bytes of patches since the last anchor; {anchors} anchors and {} folds.", folds.len());
    let ends = [format!("version {first}"), format!("version {last}")];
    let plot = plot("history", &says, axis, entries.len(), &shapes, [&ends[0], &ends[1]]);
    let legend = legend(&[("area", "patches since the last anchor"), ("anchor", "anchor"), ("fold", "fold")]);
    let rows = entries.iter().rev().filter(|entry| entry.anchored).map(|entry| {
        let size = entry.anchor_bytes.map(count).unwrap_or_default();
        vec![format!("anchor of version {}", entry.version), size]
    });
    let folds = folds.iter().rev().map(|fold| {
        let from = fold.from.map_or_else(|| "nothing".into(), |from| from.to_string());
        vec![format!("fold from version {from} to {}", fold.to), count(fold.bytes)]
    });
    let numbers = numbers("history", &["what", "bytes"], rows.chain(folds));
    let longest = entries.iter().map(|entry| entry.chain_bytes).max().unwrap_or(0);
    let about = format!(
        "A newcomer takes an anchor, a whole checkpoint, and the patches since; the longest chain has {}. A fold is \
         one patch across several versions.",
        size(longest)
    );
    Some(html::figure("history", "Chain, anchors and folds", &about, &format!("{plot}{legend}{numbers}")))
}

/// Whether it spans more than one version.
fn is_fold(edge: &ReportEdge) -> bool {
    edge.from.is_some_and(|from| edge.to.get().saturating_sub(from.get()) > 1)
}
