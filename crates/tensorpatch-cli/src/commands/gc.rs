//! `tensorpatch gc`: remove what no replica can need.

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use tensorpatch::store::Version;
use tensorpatch::store::settings::parse_duration;
use tensorpatch::store::upkeep::{self, CollectOptions, Collected};

use crate::exit::Refusal;
use crate::output::{Report, bytes, counted, fields};
use crate::session::Session;
use crate::streams::{self, Sign, Source};

/// Says what neither the versions to keep nor a lease can need, and with --delete removes it. Everything that
/// leads to a version that is kept stays.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    source: Source,
    /// How many of the newest versions must stay reachable
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    keep: u64,
    /// A version that must stay reachable besides; may be given several times
    #[arg(long, value_name = "N")]
    pin: Vec<u64>,
    /// How old an object must be that no record names
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
            (
                if collected.deleted { "removed" } else { "garbage" },
                format!(
                    "{}, {}{}",
                    counted(collected.garbage.len() as u64, "object"),
                    bytes(collected.garbage_bytes),
                    if collected.deleted || collected.garbage.is_empty() {
                        ""
                    } else {
                        "; --delete removes them"
                    }
                ),
            ),
        ];
        if !collected.leases.is_empty() {
            summary.push(("leases", collected.leases.join(", ")));
        }
        let mut lines = fields(&summary);
        lines.extend(collected.garbage.iter().map(|garbage| format!("  {}: {}", garbage.name, garbage.why)));
        lines
    }
}

pub(crate) fn run(arguments: &Arguments, session: &Session) -> Result<()> {
    let mut policy = CollectOptions::default().keeping(arguments.keep).with_grace(arguments.grace);
    for &number in &arguments.pin {
        let Some(version) = Version::new(number) else {
            return Err(Refusal::usage(format!("{number} is no version"), "versions start at 1").into());
        };
        policy = policy.pinning(version);
    }
    if arguments.delete {
        policy = policy.deleting();
    }
    let collected = streams::wait(session, async {
        let stream = arguments.source.open_signing(&arguments.sign).await?;
        Ok(upkeep::collect(&stream, &policy).await?)
    })?;
    session.output.report(&GcReport { url: arguments.source.url.clone(), collected })
}
