//! `tensorpatch status`: how far a replica is behind.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use tensorpatch::store::{ReplicaCondition, ReplicaStatus};

use crate::arguments::parse_number;
use crate::dates::{date, length};
use crate::exit::{Refusal, Unsound, conclude};
use crate::output::{Report, bytes, counted, fields};
use crate::session::Session;
use crate::streams::{self, Source};

/// Say how far a local checkpoint is behind
///
/// Says which version it holds, which one is the newest, and how much lies between them. It alters nothing,
/// waits for no lock and downloads no weights. That the files are there, with their lengths, is looked at;
/// their contents are what tensorpatch verify reads.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    source: Source,
    /// The directory of a pull
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
    /// End with exit code 9 if the newest version is more than N ahead, no way leads to it, or the directory
    /// holds no whole version
    #[arg(long, value_name = "N", value_parser = parse_number)]
    max_behind: Option<u64>,
    /// The name under which the replica keeps a lease, to say how it stands
    #[arg(long, value_name = "NAME", value_parser = streams::parse_holder)]
    lease: Option<String>,
}

#[derive(Serialize)]
struct StatusReport {
    url: String,
    dir: PathBuf,
    #[serde(flatten)]
    status: ReplicaStatus,
    /// Whether the lease lives, by this machine's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_alive: Option<bool>,
    /// Who has a lease, where the one that was asked for has none.
    #[serde(skip)]
    holders: Vec<String>,
    #[serde(skip)]
    now: i64,
}

impl Report for StatusReport {
    fn lines(&self) -> Vec<String> {
        let status = &self.status;
        let holds = match (status.condition, status.held) {
            (_, Some(held)) => format!("version {held}"),
            (ReplicaCondition::Updating, _) => "an update that is under way, or was interrupted".into(),
            (ReplicaCondition::Damaged, _) => "a damaged version: tensorpatch pull restores it".into(),
            (ReplicaCondition::Unknown, _) => {
                "files of which no pull has noted the version: tensorpatch pull finds out from the weights"
                    .into()
            }
            _ if !self.dir.exists() => "nothing: there is no such directory".into(),
            _ => "nothing yet".into(),
        };
        let newest = match (status.tip, status.tip_created) {
            (Some(tip), Some(created)) => format!(
                "version {tip}, published {} UTC, {} ago",
                date(created),
                length(status.tip_age_seconds.unwrap_or_default())
            ),
            _ => "no version is published yet".into(),
        };
        let behind = match (&status.obstacle, status.behind_bytes) {
            (Some(obstacle), _) => obstacle.clone(),
            (None, Some(to_fetch)) if to_fetch > 0 => {
                // Of what is not known to be a version, some may be of use.
                let most = if status.held.is_none() && status.condition != ReplicaCondition::Empty {
                    "at most "
                } else {
                    ""
                };
                let (versions, size) = (counted(status.behind_versions, "version"), bytes(to_fetch));
                format!("{versions}, {most}{size} to download")
            }
            _ => counted(status.behind_versions, "version"),
        };
        let mut pairs = vec![
            ("stream", format!("{} ({})", self.url, status.stream)),
            ("replica", self.dir.display().to_string()),
            ("holds", holds),
        ];
        pairs.extend(
            status.faults.iter().map(|fault| ("wrong", format!("{}: {}", fault.path.display(), fault.what))),
        );
        pairs.extend([("newest", newest), ("behind", behind)]);
        if let Some(alive) = self.lease_alive {
            pairs.push((
                "lease",
                match &status.lease {
                    None if self.holders.is_empty() => "none under this name, and no other".into(),
                    None => format!("none under this name; there are: {}", self.holders.join(", ")),
                    Some(lease) => format!(
                        "{}, renewed {} ago, for {}{}",
                        lease.holder,
                        length(u64::try_from(self.now.saturating_sub(lease.renewed)).unwrap_or(0)),
                        length(lease.seconds),
                        if alive { "" } else { ": it has expired" }
                    ),
                },
            ));
        }
        fields(&pairs)
    }
}

pub(crate) fn run(arguments: &Arguments, session: &Session) -> Result<()> {
    let url = arguments.source.url.clone();
    let Some(dir) = arguments.dir.clone() else {
        let what = format!("{url}: no directory is named whose status is asked for");
        let advice = "tensorpatch status URL DIR says how far the replica in DIR is behind; tensorpatch log URL lists the \
                      versions of the stream";
        return Err(Refusal::usage(what, advice).into());
    };
    let (status, mut holders) = arguments.source.wait(session, async {
        let stream = arguments.source.open_for(&dir).await?;
        let status = stream.status_of(&dir, arguments.lease.as_deref()).await?;
        let is_unknown = arguments.lease.is_some() && status.lease.is_none();
        let leases = if is_unknown { stream.replica_leases().await? } else { Vec::new() };
        Ok((status, leases.into_iter().map(|lease| lease.holder).collect::<Vec<_>>()))
    })?;
    holders.sort_unstable();
    let now = streams::unix_now();
    let lease_alive =
        arguments.lease.is_some().then(|| status.lease.as_ref().is_some_and(|lease| lease.lives_at(now)));
    let (behind, lost) = (status.behind_versions, status.obstacle.is_some());
    let holds_nothing = status.held.is_none();
    let shown = || dir.display().to_string();
    let wrong = match arguments.max_behind {
        Some(_) if !status.faults.is_empty() => {
            let what = status.faults.iter().map(|fault| fault.what.clone()).collect::<Vec<_>>().join("; ");
            Some(Unsound::Incomplete { dir: shown(), what })
        }
        Some(_) if holds_nothing && !dir.exists() => Some(Unsound::NoDirectory { dir: shown() }),
        Some(_) if holds_nothing => Some(Unsound::HoldsNothing { dir: shown() }),
        Some(most) if lost || behind > most => Some(Unsound::Behind { dir: shown(), behind, most }),
        _ => None,
    };
    conclude(session.output, &StatusReport { url, dir, status, lease_alive, holders, now }, wrong)
}
