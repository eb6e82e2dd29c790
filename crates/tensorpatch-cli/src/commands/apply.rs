//! `tensorpatch apply`: a base and a patch to the target.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::{ArgGroup, Args};
use serde::Serialize;
use tensorpatch::delta::{
    AppliedInPlace, Apply, ApplyError, ApplyReport, Patch, Progress, journal_path, open_settled,
};
use tensorpatch::format::{Limits, TaggedStateDigest};

use crate::exit::{self, Refusal};
use crate::output::{Report, bytes, counted, fields, rate, seconds};
use crate::patch_file;
use crate::session::Session;

/// Make the target checkpoint from its base and a patch, bit for bit
///
/// The result is the checkpoint that the patch's author had. Base and result are verified by digest.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("destination").required(true))]
pub(crate) struct Arguments {
    /// The checkpoint that the patch was made from
    base: PathBuf,
    /// The patch; - for standard input
    patch: PathBuf,
    /// Write a new checkpoint: a file, or a directory if the target has shards or BASE is one (files beside
    /// the weights are then copied from BASE). A name that ends in .safetensors is a file
    #[arg(short, long, value_name = "OUT", group = "destination")]
    output: Option<PathBuf>,
    /// Alter BASE itself. Safe against crashes: run the same command again and it finishes what was
    /// interrupted
    #[arg(long, group = "destination")]
    in_place: bool,
}

#[derive(Serialize)]
struct AppliedReport {
    checkpoint: PathBuf,
    in_place: bool,
    /// Whether this run only finished what an earlier one had begun.
    recovered: bool,
    /// Whether it was the target before: it was hashed, and nothing was altered.
    already: bool,
    base: String,
    target: String,
    /// Unknown after a recovery.
    changed_chunks: Option<u64>,
    checkpoint_bytes: u64,
    /// Whether the files are those of the patch's author byte for byte; otherwise the tensors are, in the
    /// base's files.
    same_files: bool,
    seconds: f64,
}

impl Report for AppliedReport {
    fn lines(&self) -> Vec<String> {
        let time = Duration::from_secs_f64(self.seconds);
        let how = match (self.in_place, self.recovered) {
            _ if self.already => " (the target already: nothing to do)",
            (_, true) => " (in place; an interrupted run is now finished)",
            (true, false) => " (in place)",
            (false, false) => "",
        };
        let same = if self.same_files {
            "the files are the author's byte for byte"
        } else {
            "the tensors are the author's; the files keep the base's layout"
        };
        let mut lines = vec![
            ("checkpoint", format!("{}{how}", self.checkpoint.display())),
            ("verified", format!("{}: {same}", bytes(self.checkpoint_bytes))),
        ];
        lines.extend(self.changed_chunks.map(|chunks| ("changed", counted(chunks, "chunk"))));
        lines.extend([
            ("base", self.base.clone()),
            ("target", self.target.clone()),
            ("time", format!("{} ({})", seconds(time), rate(self.checkpoint_bytes, time))),
        ]);
        fields(&lines)
    }
}

pub(crate) fn run(arguments: &Arguments, session: &Session) -> Result<()> {
    let start = Instant::now();
    let patch = patch_file::open(&arguments.patch)?;
    let applied = match apply(arguments, &patch, session) {
        Err(ApplyError::WrongBase { found, .. })
            if arguments.in_place && found.digest == patch.target_digest() =>
        {
            there_already(arguments, &patch)
        }
        applied => applied.map_err(|error| explain(error, &patch)),
    };
    let applied = applied.map_err(|error| {
        exit::not_done(error, || {
            format!("{}: {} was not applied", arguments.base.display(), arguments.patch.display())
        })
    })?;
    let digest = |digest| TaggedStateDigest { leaf_hash: patch.leaf_hash(), digest }.to_string();
    session.output.report(&AppliedReport {
        checkpoint: arguments.output.as_ref().unwrap_or(&arguments.base).clone(),
        in_place: arguments.in_place,
        recovered: applied.changed_chunks.is_none(),
        already: applied.already,
        base: digest(patch.base_digest()),
        target: digest(patch.target_digest()),
        changed_chunks: applied.changed_chunks,
        checkpoint_bytes: applied.state_bytes,
        same_files: applied.same_layout,
        seconds: start.elapsed().as_secs_f64(),
    })
}

/// What became of a patch. Base and target are its own, or there would be an error.
struct Applied {
    changed_chunks: Option<u64>,
    state_bytes: u64,
    same_layout: bool,
    already: bool,
}

impl From<ApplyReport> for Applied {
    fn from(report: ApplyReport) -> Self {
        Self {
            changed_chunks: Some(report.changed_chunks),
            state_bytes: report.state_bytes,
            same_layout: report.same_layout,
            already: false,
        }
    }
}

impl From<AppliedInPlace> for Applied {
    fn from(applied: AppliedInPlace) -> Self {
        match applied {
            AppliedInPlace::Applied(report) => report.into(),
            AppliedInPlace::Finished { state_bytes, same_layout, .. } => {
                Self { changed_chunks: None, state_bytes, same_layout, already: false }
            }
        }
    }
}

fn apply(arguments: &Arguments, patch: &Patch<'_>, session: &Session) -> Result<Applied, ApplyError> {
    let base = &arguments.base;
    // Why it cannot be opened is for the application to say.
    let bytes = open_settled(base, &Limits::default()).map_or(0, |base| base.schema().state_bytes());
    let bar = session.bar("applying", bytes);
    let advance = |bytes| bar.advance(bytes);
    let apply = Apply::new(patch).with_options(session.options()).with_progress(Progress::new(&advance));
    session.interrupts.writes(&arguments.output.clone().unwrap_or_else(|| journal_path(base)));
    match &arguments.output {
        Some(output) => apply.to(base, output).map(Into::into),
        None => apply.in_place(base).map(Into::into),
    }
}

/// What is to say of a base that was found to be the target, all of it hashed.
fn there_already(arguments: &Arguments, patch: &Patch<'_>) -> Result<Applied> {
    let found = open_settled(&arguments.base, &Limits::default())?;
    Ok(Applied {
        changed_chunks: Some(0),
        state_bytes: found.schema().state_bytes(),
        same_layout: found.layout().digest() == patch.trailer().ends.target_layout,
        already: true,
    })
}

/// Tells a patch that was applied already from one that never fitted.
fn explain(error: ApplyError, patch: &Patch<'_>) -> anyhow::Error {
    let applied =
        matches!(&error, ApplyError::WrongBase { found, .. } if found.digest == patch.target_digest());
    if applied {
        let advice = "copy it, or apply --in-place, which finds nothing to do";
        Refusal::wrong_base("the checkpoint is the target of this patch already", advice).into()
    } else {
        error.into()
    }
}
