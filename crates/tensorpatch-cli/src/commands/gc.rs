//! `tensorpatch gc`: remove what no replica can need.

use std::num::NonZeroU64;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use tensorpatch::store::Version;
use tensorpatch::store::settings::parse_duration;
use tensorpatch::store::upkeep::{self, CollectOptions, Collected, LiveLease};

use crate::arguments::parse_count;
use crate::output::{Report, bytes, counted, fields};
use crate::session::Session;
use crate::streams::{Sign, Source, parse_version};

/// Remove what no replica can need
///
/// Says what neither the versions to keep nor a lease can need, and with --delete removes it. Everything
/// that leads to a version that is kept stays.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    source: Source,
    /// How many of the newest versions must stay reachable
    #[arg(long, value_name = "N", default_value = "100", value_parser = parse_count::<NonZeroU64>)]
    keep: NonZeroU64,
    /// A version that must stay reachable besides; may be given several times
    #[arg(long, value_name = "N", value_parser = parse_version)]
    pin: Vec<Version>,
    /// How old an anchor or a fold must be that no record names: it may be in the making. Patches that no
    /// record names go at once, when their version is there
    #[arg(long, value_name = "TIME", default_value = "1d", value_parser = parse_duration)]
    grace: Duration,
    /// Really remove it
    #[arg(long)]
    delete: bool,
    #[command(flatten)]
    sign: Sign,
}

#[derive(Serialize)]
struct GcReport {
    url: String,
    #[serde(flatten)]
    collected: Collected,
}

impl Report for GcReport {
    fn lines(&self) -> Vec<String> {
        let collected = &self.collected;
        let mut summary = vec![
            ("versions", format!("{} to {} stay reachable", collected.floor, collected.tip)),
            (
                "kept",
                format!("{}, {}", counted(collected.kept_objects, "object"), bytes(collected.kept_bytes)),
            ),
            (if collected.deleted { "removed" } else { "garbage" }, garbage(collected)),
        ];
        if collected.young_objects > 0 {
            let (objects, size) = (counted(collected.young_objects, "object"), bytes(collected.young_bytes));
            summary.push((
                "young",
                format!("{objects}, {size}: no record names them, and they stay for --grace"),
            ));
        }
        summary.extend(collected.leases.iter().map(|lease| ("lease", needed(lease))));
        let mut lines = fields(&summary);
        lines.extend(collected.garbage.iter().map(|garbage| format!("  {}: {}", garbage.name, garbage.why)));
        lines
    }
}

/// What a lease keeps.
fn needed(lease: &LiveLease) -> String {
    let LiveLease { holder, needs, is_readable } = lease;
    match is_readable {
        true => format!("{holder} needs version {needs} and what follows"),
        false => format!("{holder} cannot be read, and keeps everything: remove it if no replica writes it"),
    }
}

/// What goes, or why nothing does.
fn garbage(collected: &Collected) -> String {
    if collected.garbage.is_empty() {
        let floor = collected.floor;
        return format!("nothing: everything back to the anchor of version {floor} is needed");
    }
    let objects = counted(collected.garbage.len() as u64, "object");
    let advice = if collected.deleted { "" } else { "; --delete removes them" };
    format!("{objects}, {}{advice}", bytes(collected.garbage_bytes))
}

pub(crate) fn run(arguments: &Arguments, session: &Session) -> Result<()> {
    let mut policy = CollectOptions::default().keeping(arguments.keep.get()).with_grace(arguments.grace);
    for &version in &arguments.pin {
        policy = policy.pinning(version);
    }
    if arguments.delete {
        policy = policy.deleting();
    }
    let collected = arguments.source.wait(session, async {
        let stream = arguments.source.open_signing(&arguments.sign).await?;
        Ok(upkeep::collect(&stream, &policy).await?)
    })?;
    session.output.report(&GcReport { url: arguments.source.url.clone(), collected })
}
