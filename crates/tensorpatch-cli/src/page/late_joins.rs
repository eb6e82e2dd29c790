//! What it takes to come to the newest version from each other one.

use tensorpatch::store::upkeep::{LateJoin, StreamReport};

use super::chart::{Bar, Scale, bars, legend};
use super::html::{self, numbers};
use crate::output::{bytes, count, counted, size};

pub(super) fn figure(report: &StreamReport) -> Option<String> {
    let tip = report.versions.last()?.version;
    let joins = &report.late_joins;
    let all: Vec<Bar> = joins.iter().map(bar).collect();
    let says =
        format!("Bars of the bytes that lead to version {tip}, from nothing and from earlier versions.");
    let plot = bars("late-joins", &says, Scale::Logarithmic, &all, &[]);
    let legend = legend(&[("special", "from nothing"), ("bar", "from a version")]);
    let rows = joins
        .iter()
        .map(|join| vec![from(join), join.bytes.map_or_else(|| "no way".into(), count), count(join.edges)]);
    let numbers = numbers("late-joins", &["from", "bytes", "objects in turn"], rows);
    let newcomer =
        joins.first().and_then(|join| join.bytes).map_or_else(|| "nothing leads there".into(), size);
    let about =
        format!("What a replica fetches to come to version {tip}: a newcomer {newcomer}. Logarithmic.");
    Some(html::figure("late-joins", "Cost of a late join", &about, &format!("{plot}{legend}{numbers}")))
}

fn from(join: &LateJoin) -> String {
    join.held.map_or_else(|| "nothing".into(), |held| format!("version {held}"))
}

fn bar(join: &LateJoin) -> Bar {
    let cost = match join.bytes {
        Some(to_fetch) => format!("{} in {}", bytes(to_fetch), counted(join.edges, "step")),
        None => "no way leads there".into(),
    };
    Bar {
        label: from(join),
        value: join.bytes.unwrap_or(0),
        is_special: join.held.is_none(),
        says: format!("from {}: {cost}", from(join)),
    }
}
