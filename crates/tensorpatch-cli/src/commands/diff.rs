//! `tensorpatch diff`: two checkpoints to a patch.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;
use tensorpatch::checkpoint::Checkpoint;
use tensorpatch::delta::{self, Progress, State, Version};
use tensorpatch::format::{Limits, TaggedStateDigest};

use crate::arguments::{LeafHashChoice, ProfileChoice};
use crate::journal;
use crate::output::{Report, bytes, count, fields, percent, rate, ratio, seconds};
use crate::patch_file::{DASH, PatchOutput};
use crate::session::Session;

/// Makes the patch that turns BASE into TARGET. The same two states and options always give the same bytes.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The checkpoint that receivers have
    base: PathBuf,
    /// The checkpoint that they are to have
    target: PathBuf,
    /// The patch to write; - for standard output
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// What a reader needs besides the patch
    #[arg(long, value_enum, default_value_t)]
    profile: ProfileChoice,
    /// The hash over chunks of 1 MiB, in the digests that bind the patch to its base and target
    #[arg(long, value_enum, default_value_t)]
    leaf_hash: LeafHashChoice,
}

#[derive(Serialize)]
struct DiffReport {
    patch: PathBuf,
    kind: &'static str,
    base: String,
    target: String,
    patch_bytes: u64,
    checkpoint_bytes: u64,
    changed_elements: u64,
    total_elements: u64,
    bytes_per_changed_element: Option<f64>,
    total_chunks: u64,
    encodings: Vec<EncodingReport>,
    seconds: f64,
}

#[derive(Serialize)]
struct EncodingReport {
    encoding: &'static str,
    chunks: u64,
    bytes: u64,
}

impl Report for DiffReport {
    fn lines(&self) -> Vec<String> {
        let time = Duration::from_secs_f64(self.seconds);
        let mut size = format!(
            "{}, {} of the checkpoint",
            bytes(self.patch_bytes),
            percent(self.patch_bytes, self.checkpoint_bytes)
        );
        if self.changed_elements > 0 {
            size +=
                &format!(", {} bytes per changed element", ratio(self.patch_bytes, self.changed_elements));
        }
        let changed = match self.kind {
            "empty" => "nothing: base and target are the same state".to_owned(),
            _ => format!(
                "{} of {} elements ({})",
                count(self.changed_elements),
                count(self.total_elements),
                percent(self.changed_elements, self.total_elements)
            ),
        };
        let unchanged = self.total_chunks - self.encodings.iter().map(|e| e.chunks).sum::<u64>();
        let mut chunks = vec![format!("{} unchanged", count(unchanged))];
        chunks.extend(
            self.encodings.iter().map(|e| format!("{} {} ({})", count(e.chunks), e.encoding, bytes(e.bytes))),
        );
        fields(&[
            ("patch", self.patch.display().to_string()),
            ("size", size),
            ("changed", changed),
            ("chunks", format!("{}: {}", count(self.total_chunks), chunks.join(", "))),
            ("base", self.base.clone()),
            ("target", self.target.clone()),
            ("time", format!("{} ({})", seconds(time), rate(self.checkpoint_bytes, time))),
        ])
    }
}

pub(crate) fn run(arguments: &Arguments, session: &Session) -> Result<()> {
    let start = Instant::now();
    let limits = Limits::default();
    [&arguments.base, &arguments.target].into_iter().try_for_each(|path| journal::check_none(path))?;
    let base = Checkpoint::open(&arguments.base, &limits)?;
    let target = Checkpoint::open(&arguments.target, &limits)?;
    let mut output = PatchOutput::create(&arguments.output, &[files(&base), files(&target)].concat())?;

    let bytes = target.schema().state_bytes();
    let bar = session.bar("encoding", bytes);
    let advance = |bytes| bar.advance(bytes);
    let options =
        session.options().with_profile(arguments.profile.into()).with_leaf_hash(arguments.leaf_hash.into());
    let report =
        delta::diff(&version(&base)?, &version(&target)?, &options, Progress::new(&advance), output.writer())
            .with_context(|| format!("{}: not written", arguments.output.display()))?;
    output.finish()?;
    drop(bar);

    let digest = |digest| TaggedStateDigest { leaf_hash: options.leaf_hash, digest }.to_string();
    let report = DiffReport {
        patch: arguments.output.clone(),
        kind: report.kind.name(),
        base: digest(report.base),
        target: digest(report.target),
        patch_bytes: report.patch_bytes,
        checkpoint_bytes: bytes,
        changed_elements: report.changed_elements,
        total_elements: report.total_elements,
        bytes_per_changed_element: (report.changed_elements > 0)
            .then(|| report.patch_bytes as f64 / report.changed_elements as f64),
        total_chunks: report.total_chunks,
        encodings: report
            .encodings
            .iter()
            .map(|used| EncodingReport {
                encoding: used.encoding.name(),
                chunks: used.chunks,
                bytes: used.bytes,
            })
            .collect(),
        seconds: start.elapsed().as_secs_f64(),
    };
    if arguments.output == Path::new(DASH) {
        return session.output.report_aside(&report);
    }
    session.output.report(&report)
}

fn version(checkpoint: &Checkpoint) -> Result<Version<'_>> {
    Ok(Version { state: State::of(checkpoint)?, layout: checkpoint.layout(), leaves: None })
}

/// The files with the tensors of a checkpoint.
fn files(checkpoint: &Checkpoint) -> Vec<PathBuf> {
    if !checkpoint.is_directory() {
        return vec![checkpoint.path().to_owned()];
    }
    checkpoint.layout().files().iter().map(|file| checkpoint.path().join(&file.name)).collect()
}
