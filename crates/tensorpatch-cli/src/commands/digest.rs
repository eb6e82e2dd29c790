//! `tensorpatch digest`: which state a checkpoint holds.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use tensorpatch::delta::{LeafTable, Progress, State, open_settled};
use tensorpatch::format::{Limits, TaggedStateDigest};

use crate::arguments::LeafHashChoice;
use crate::output::{Report, bytes, count, counted, fields, rate, seconds};
use crate::session::Session;

/// Compute the state digest of a checkpoint
///
/// The digest of a whole state: of every tensor's name, dtype, shape and bytes, whatever its shards.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The checkpoint: a .safetensors file or a directory
    checkpoint: PathBuf,
    /// The hash over chunks of 1 MiB. Digests of different hashes cannot be compared
    #[arg(long, value_enum, default_value_t)]
    leaf_hash: LeafHashChoice,
}

#[derive(Serialize)]
struct DigestReport {
    checkpoint: PathBuf,
    state: String,
    schema: String,
    layout: String,
    tensors: u64,
    elements: u64,
    bytes: u64,
    files: u64,
    seconds: f64,
}

impl Report for DigestReport {
    fn lines(&self) -> Vec<String> {
        let time = std::time::Duration::from_secs_f64(self.seconds);
        fields(&[
            ("state", self.state.clone()),
            ("schema", self.schema.clone()),
            ("layout", self.layout.clone()),
            (
                "holds",
                format!(
                    "{}, {} elements, {} in {}",
                    counted(self.tensors, "tensor"),
                    count(self.elements),
                    bytes(self.bytes),
                    counted(self.files, "file")
                ),
            ),
            ("time", format!("{} ({})", seconds(time), rate(self.bytes, time))),
        ])
    }
}

pub(crate) fn run(arguments: &Arguments, session: &Session) -> Result<()> {
    let start = Instant::now();
    let checkpoint = open_settled(&arguments.checkpoint, &Limits::default())?;
    let schema = checkpoint.schema();
    let hash = arguments.leaf_hash.into();
    let bar = session.bar("hashing", schema.state_bytes());
    let advance = |bytes| bar.advance(bytes);
    let leaves = LeafTable::of(&State::of(&checkpoint)?, hash, session.threads(), Progress::new(&advance))?;
    drop(bar);
    let state = TaggedStateDigest { leaf_hash: hash, digest: leaves.state_digest(schema) };
    session.output.report(&DigestReport {
        checkpoint: arguments.checkpoint.clone(),
        state: state.to_string(),
        schema: schema.digest().to_string(),
        layout: checkpoint.layout().digest().to_string(),
        tensors: schema.tensors().len() as u64,
        elements: super::elements(schema),
        bytes: schema.state_bytes(),
        files: checkpoint.layout().files().len() as u64,
        seconds: start.elapsed().as_secs_f64(),
    })
}
