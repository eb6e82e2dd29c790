//! `tensorpatch pull`: a local checkpoint at a version of a stream.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use tensorpatch::store::{ApplyMode, Phase, Pulled, Replica, ReplicaOptions, RequestCounts, Verify, Version};

use crate::arguments::DurabilityChoice;
use crate::output::{Report, bytes, fields, made, seconds};
use crate::session::Session;
use crate::streams::{self, Source, parse_version};

/// Bring a local checkpoint to a version of a stream
///
/// What is downloaded is verified, and so is what it makes. DIR is an ordinary Hugging Face directory, with
/// a hidden folder .tensorpatch for what is known about it.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    source: Source,
    /// The directory of the checkpoint; created if need be. Weights there that are a version already are
    /// taken over: only what changed since is downloaded, and they are altered
    dir: PathBuf,
    /// The version, ahead or back [default: the newest]
    #[arg(long, value_name = "N", value_parser = parse_version)]
    version: Option<Version>,
    #[command(flatten)]
    how: How,
}

/// How the files of a replica change.
#[derive(Debug, Args)]
pub(crate) struct How {
    /// Write complete new files and rename them, instead of altering the files in place: the old version can
    /// be read until the switch
    #[arg(long)]
    beside: bool,
    /// Whether the files must be on disk before the command ends. With `none` they are there some time later;
    /// a power cut before that may leave them torn, which the next pull finds out and repairs
    #[arg(long, value_enum, default_value_t)]
    durability: DurabilityChoice,
    /// Do not keep the patch that leads back to the version before: each pull takes a little less time, and
    /// going back takes an anchor and all patches since
    #[arg(long)]
    no_inverse: bool,
    /// Replace weights in DIR that are no version of the stream, and files beside them that came with none
    #[arg(long)]
    replace: bool,
    /// Take files beside the weights, too, that can run code when they are loaded, such as .bin and .pt. A
    /// version with one is else refused
    #[arg(long)]
    allow_code: bool,
    /// Keep a lease under this name, which no other replica has: gc then leaves what leads from the version
    /// held to the newest
    #[arg(long, value_name = "NAME", value_parser = streams::parse_holder)]
    lease: Option<String>,
    /// Read every file of the version held first, and repair what was altered [default: the weights, with
    /// --trust-key, where there is nothing newer]
    #[arg(long)]
    verify: bool,
    /// Look at no more than the sizes of the files where there is nothing newer
    #[arg(long, conflicts_with = "verify")]
    no_verify: bool,
}

impl How {
    /// The options for a replica.
    pub(crate) fn options(&self, session: &Session) -> ReplicaOptions {
        let mut options =
            ReplicaOptions::default().with_apply(session.options()).with_observer(streams::observer(session));
        options = options.with_durability(self.durability.into());
        if self.verify {
            options = options.with_verify(Verify::Always);
        } else if self.no_verify {
            options = options.with_verify(Verify::Never);
        }
        if self.beside {
            options = options.with_mode(ApplyMode::Beside);
        }
        if self.no_inverse {
            options = options.without_inverse();
        }
        if self.replace {
            options = options.replacing();
        }
        if self.allow_code {
            options = options.allowing_code();
        }
        if let Some(holder) = &self.lease {
            options = options.with_lease(holder);
        }
        options
    }
}

#[derive(Serialize)]
struct PullReport {
    url: String,
    dir: PathBuf,
    #[serde(flatten)]
    pulled: Pulled,
    #[serde(flatten)]
    requests: RequestCounts,
    seconds: f64,
}

impl Report for PullReport {
    fn lines(&self) -> Vec<String> {
        let pulled = &self.pulled;
        let from = match pulled.from {
            Some(from) if from == pulled.to && pulled.verified => ", as before".to_owned(),
            Some(from) if from == pulled.to => ", as before, weights not hashed (--verify)".to_owned(),
            Some(from) => format!(", from version {from}"),
            None => String::new(),
        };
        let anchors = pulled.edges.iter().filter(|edge| edge.anchor).count() as u64;
        let patches = pulled.edges.len() as u64 - anchors;
        let some_patches = patches > 0;
        let patches = format!("{} patch{}", patches, if patches == 1 { "" } else { "es" });
        let steps = match (anchors > 0, some_patches) {
            (false, false) if pulled.restored.is_empty() => "nothing to do".to_owned(),
            (false, false) => "what was not as published".to_owned(),
            (true, false) => "the whole checkpoint".to_owned(),
            (false, true) => patches,
            (true, true) => format!("the whole checkpoint and {patches}"),
        };
        let mut pairs = vec![
            ("version", format!("{}{from}", pulled.to)),
            ("stream", format!("{} ({})", self.url, pulled.stream)),
            ("directory", self.dir.display().to_string()),
            ("steps", steps),
        ];
        pairs.extend(pulled.restored.iter().map(|what| ("restored", what.clone())));
        pairs.extend([
            ("downloaded", format!("{} in {}", bytes(pulled.downloaded_bytes), made(&self.requests))),
            (
                "state",
                match pulled.verified {
                    true => pulled.contents.state.to_string(),
                    false => format!("{} (recorded, not read)", pulled.contents.state),
                },
            ),
            ("time", seconds(Duration::from_secs_f64(self.seconds))),
        ]);
        fields(&pairs)
    }
}

pub(crate) fn run(arguments: &Arguments, session: &Session) -> Result<()> {
    let ended = arguments.source.wait(session, pull(arguments, session));
    streams::standing(session, ended, |phase| match phase {
        Some(Phase::Apply) => "the replica may be between two versions until the next pull, which goes on",
        _ => "the replica is as it was, and what was downloaded is kept",
    })
}

async fn pull(arguments: &Arguments, session: &Session) -> Result<()> {
    let start = Instant::now();
    let stream = arguments.source.open_for(&arguments.dir).await?;
    let replica = Replica::of(stream.clone(), &arguments.dir, arguments.how.options(session));
    let pulled = match arguments.version {
        None => replica.pull().await?,
        Some(version) => replica.pull_version(version).await?,
    };
    session.screen.settle();
    session.output.report(&PullReport {
        url: arguments.source.url.clone(),
        dir: arguments.dir.clone(),
        pulled,
        requests: stream.requests(),
        seconds: start.elapsed().as_secs_f64(),
    })
}
