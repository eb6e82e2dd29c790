//! `tensorpatch diff`: two checkpoints to a patch.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use tensorpatch::delta::{Diff, Progress};
use tensorpatch::format::TaggedStateDigest;

use crate::arguments::{LeafHashChoice, ProfileChoice};
use crate::exit;
use crate::output::{Report, bytes, count, fields, percent, rate, ratio, seconds};
use crate::patch_file::{self, is_stdout};
use crate::session::Session;

/// Make a patch from two checkpoints
///
/// It turns BASE into TARGET. The same two states and options always give the same bytes.
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
    let options =
        session.options().with_profile(arguments.profile.into()).with_leaf_hash(arguments.leaf_hash.into());
    let leaf_hash = options.leaf_hash;
    let diff = Diff::open(Some(&arguments.base), &arguments.target, options)?;
    let bytes = diff.target().schema().state_bytes();
    let bar = session.bar("encoding", bytes);
    let advance = |bytes| bar.advance(bytes);
    let diff = diff.with_progress(Progress::new(&advance));
    session.interrupts.writes(&arguments.output);
    let report = patch_file::write(&diff, &arguments.output)
        .map_err(|error| exit::not_done(error, || format!("{}: not written", arguments.output.display())))?;
    drop(bar);

    let digest = |digest| TaggedStateDigest { leaf_hash, digest }.to_string();
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
    if is_stdout(&arguments.output) {
        return session.output.report_aside(&report);
    }
    session.output.report(&report)
}
