//! `tensorpatch publish`: the next version of a stream.

mod metrics;

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use tensorpatch::store::{AnchorPolicy, Phase, PublishOptions, Published, RequestCounts};

use self::metrics::MetricsFile;
use crate::arguments::{LeafHashChoice, ProfileChoice, parse_count};
use crate::output::{Report, bytes, count, fields, made, percent, ratio, seconds};
use crate::session::Session;
use crate::streams::{self, Access, Sign};

/// Publish a checkpoint as the next version of a stream
///
/// The stream is created if there is none. The first version is the whole checkpoint, the others are
/// patches.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The checkpoint: a .safetensors file, published as model.safetensors, or a directory. Of a directory
    /// the files beside the weights (config.json, 1_Pooling/config.json) are published too, but for weights
    /// of other formats, unfinished downloads and hidden files
    checkpoint: PathBuf,
    /// The stream: a path or file:///..., s3://, gs://, az:// or hf://buckets/...
    #[arg(long, value_name = "URL")]
    to: String,
    /// Where to keep a copy of the newest version, to make the next patch from. Made anew from the stream if
    /// it is missing [default: in the user's cache, by stream]
    #[arg(long, value_name = "DIR")]
    baseline: Option<PathBuf>,
    /// The newest version as a checkpoint, unaltered: the patch is made from it, and no copy of the model is
    /// kept or written. It is hashed, and refused if it is not the newest version. No anchors are added
    #[arg(long, value_name = "CHECKPOINT", conflicts_with = "anchor_every")]
    base: Option<PathBuf>,
    /// A mark for the version, such as the training step. If the newest version has the same mark and the
    /// same state, it is taken for published: so the command can simply be repeated
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,
    /// Publish this file beside the weights too, though its name says weights of another format, an
    /// unfinished download or a log: a path below CHECKPOINT. May be given several times
    #[arg(long, value_name = "NAME")]
    carry: Vec<String>,
    /// The name of the publisher in the log [default: user and machine]
    #[arg(long, value_name = "NAME")]
    publisher: Option<String>,
    /// What a reader of the patches needs besides them
    #[arg(long, value_enum, default_value_t)]
    profile: ProfileChoice,
    /// For a new stream: the hash over chunks. xxh3 guards against accidents alone, and cannot be signed
    /// [default: blake3 with --sign-key, else xxh3]
    #[arg(long, value_enum)]
    leaf_hash: Option<LeafHashChoice>,
    /// For a new stream: promise that nobody else publishes at the same time, for stores that could not tell
    #[arg(long)]
    single_writer: bool,
    /// Publish the whole checkpoint besides (an anchor), so that newcomers need no long chain of patches,
    /// after so many versions without one
    #[arg(long, value_name = "N", conflicts_with = "no_anchors", value_parser = parse_count::<NonZeroU64>)]
    anchor_every: Option<NonZeroU64>,
    /// Publish no anchors but the first version [default: one when the patches since the last have as many
    /// bytes as it, and after 512 versions]
    #[arg(long)]
    no_anchors: bool,
    /// Publish a version even if the checkpoint is the newest version already and has no label of its own
    #[arg(long)]
    allow_unchanged: bool,
    /// Write what was published to this file, as metrics for Prometheus: name it so that the textfile
    /// collector of the node exporter finds it (.prom)
    #[arg(long, value_name = "FILE")]
    metrics_file: Option<PathBuf>,
    #[command(flatten)]
    sign: Sign,
    #[command(flatten)]
    access: Access,
}

impl Arguments {
    fn anchor_policy(&self) -> AnchorPolicy {
        match (self.no_anchors, self.anchor_every) {
            (true, _) => AnchorPolicy::NEVER,
            (false, Some(versions)) => AnchorPolicy::every(versions.get()),
            (false, None) => AnchorPolicy::default(),
        }
    }
}

#[derive(Serialize)]
struct PublishReport {
    url: String,
    baseline: PathBuf,
    #[serde(flatten)]
    published: Published,
    #[serde(flatten)]
    requests: RequestCounts,
    seconds: f64,
}

impl Report for PublishReport {
    fn lines(&self) -> Vec<String> {
        let published = &self.published;
        let kind = match published.base {
            None => "the whole checkpoint".to_owned(),
            Some(base) => format!("a patch of version {base}"),
        };
        let resumed = match (published.resumed, published.unchanged) {
            (true, _) => ", published already",
            (false, true) => ", unchanged: nothing was published (--allow-unchanged does)",
            (false, false) => "",
        };
        let mut lines = vec![
            ("version", format!("{}: {kind}{resumed}", published.version)),
            ("stream", format!("{} ({})", self.url, published.stream)),
            (
                "uploaded",
                format!(
                    "{}, {} of the checkpoint, in {}",
                    bytes(published.bytes),
                    percent(published.bytes, published.contents.state_bytes),
                    made(&self.requests)
                ),
            ),
        ];
        if let (Some(changed), Some(total)) = (published.changed_elements, published.total_elements)
            && changed > 0
            && published.bytes > 0
        {
            let each = ratio(published.bytes, changed);
            lines.push((
                "changed",
                format!(
                    "{} of {} elements ({}), {each} bytes for each",
                    count(changed),
                    count(total),
                    percent(changed, total)
                ),
            ));
        }
        lines.extend(list("beside", published.companions.iter().cloned()));
        let left_out = published.left_out.iter().map(|left| format!("{} ({})", left.name, left.why));
        lines.extend(list("left out", left_out));
        lines.extend(
            published.anchor.as_ref().map(|anchor| ("anchor", format!("{} besides", bytes(anchor.bytes)))),
        );
        lines.extend(
            published
                .anchor_error
                .as_ref()
                .map(|error| ("anchor", format!("not added, the next version tries again: {error}"))),
        );
        lines.extend([
            ("state", published.contents.state.to_string()),
            ("time", seconds(Duration::from_secs_f64(self.seconds))),
        ]);
        fields(&lines)
    }
}

/// A line with names, if there are any.
fn list(label: &'static str, names: impl ExactSizeIterator<Item = String>) -> Option<(&'static str, String)> {
    const LISTED: usize = 12;
    let more = names.len().saturating_sub(LISTED);
    let mut names: Vec<String> = names.take(LISTED).collect();
    if more > 0 {
        names.push(format!("and {more} more"));
    }
    (!names.is_empty()).then(|| (label, names.join(", ")))
}

pub(crate) fn run(arguments: &Arguments, session: &Session) -> Result<()> {
    let ended = streams::about(&arguments.to, streams::wait(session, publish(arguments, session)));
    streams::standing(session, ended, |phase| match phase {
        Some(Phase::Upload | Phase::Apply) => "it is not known whether the version was published",
        _ => "nothing was published",
    })
}

async fn publish(arguments: &Arguments, session: &Session) -> Result<()> {
    let start = Instant::now();
    let metrics = MetricsFile::begin(arguments)?;
    let mut options = PublishOptions::default()
        .with_diff(session.options().with_profile(arguments.profile.into()))
        .with_anchors(arguments.anchor_policy())
        .carrying(arguments.carry.iter().cloned())
        .with_observer(streams::observer(session));
    if let Some(name) = &arguments.publisher {
        options = options.with_publisher(name);
    }
    if let Some(base) = &arguments.base {
        options = options.with_base(base);
    }
    if arguments.allow_unchanged {
        options = options.allowing_unchanged();
    }
    let builder = arguments.access.publisher(&arguments.to, &arguments.sign)?;
    let mut builder = builder.surveying(&arguments.checkpoint).options(options);
    if let Some(hash) = arguments.leaf_hash {
        builder = builder.leaf_hash(hash.into());
    }
    // A patch needs a version before it: where there is no stream, the URL is misspelt.
    if arguments.base.is_some() {
        builder = builder.existing();
    }
    if arguments.single_writer {
        builder = builder.single_writer();
    }
    if let Some(baseline) = &arguments.baseline {
        builder = builder.baseline(baseline);
    }
    let publisher = builder.open().await?;
    let published = publisher.publish_labelled(&arguments.checkpoint, arguments.label.as_deref()).await?;
    let seconds = start.elapsed().as_secs_f64();
    session.screen.settle();
    let requests = publisher.stream().requests();
    let metrics = metrics.map_or(Ok(()), |metrics| metrics.finish(&published, requests, seconds));
    session.output.report(&PublishReport {
        url: arguments.to.clone(),
        baseline: publisher.baseline().to_owned(),
        published,
        requests,
        seconds,
    })?;
    // The version is published. What is left to do makes the next one faster.
    publisher.settle().await;
    metrics
}
