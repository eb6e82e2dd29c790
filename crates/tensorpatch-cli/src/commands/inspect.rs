//! `tensorpatch inspect`: what is in a patch.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use tensorpatch::format::{Encoding, Kind, StateDigest, TaggedStateDigest, TensorIndex};

use crate::output::{Report, bytes, count, counted, fields, table};
use crate::patch_file;
use crate::session::Session;

/// Reads a patch, checks its structure and checksums, and shows what it holds. It needs no checkpoint.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The patch; - for standard input
    patch: PathBuf,
    /// List the tensors that it changes
    #[arg(long)]
    tensors: bool,
}

#[derive(Serialize)]
struct InspectReport {
    patch: PathBuf,
    format_version: String,
    kind: &'static str,
    profile: &'static str,
    leaf_hash: &'static str,
    file_bytes: u64,
    base: Option<String>,
    target: String,
    target_schema: String,
    base_layout: Option<String>,
    target_layout: String,
    /// Whether the patch lists the target's schema; otherwise it is the base's.
    schema_listed: bool,
    /// Whether the patch lists the target's files and headers; otherwise they are the base's.
    layout_listed: bool,
    files: Option<Vec<String>>,
    blocks: u64,
    chunks: u64,
    payload_bytes: u64,
    encodings: Vec<EncodingReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tensors: Option<Vec<TensorReport>>,
}

#[derive(Serialize)]
struct EncodingReport {
    encoding: &'static str,
    chunks: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct TensorReport {
    /// The place in the target's schema.
    index: u32,
    /// Only if the patch lists the schema.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    chunks: u64,
    bytes: u64,
}

impl Report for InspectReport {
    fn lines(&self) -> Vec<String> {
        let from = |listed| if listed { "in the patch" } else { "the base's" };
        let mut lines = fields(&[
            ("patch", self.patch.display().to_string()),
            (
                "format",
                format!(
                    "{}, {}, profile {}, leaf hash {}",
                    self.format_version, self.kind, self.profile, self.leaf_hash
                ),
            ),
            ("size", bytes(self.file_bytes)),
            ("base", self.base.clone().unwrap_or_else(|| "none needed".into())),
            ("target", self.target.clone()),
            ("schema", format!("{} ({})", self.target_schema, from(self.schema_listed))),
            ("layout", format!("{} ({})", self.target_layout, from(self.layout_listed))),
            (
                "holds",
                format!(
                    "{} in {}, {} of payload",
                    counted(self.chunks, "chunk"),
                    counted(self.blocks, "block"),
                    bytes(self.payload_bytes)
                ),
            ),
        ]);
        if !self.encodings.is_empty() {
            let mut rows = vec![["encoding", "chunks", "bytes"].map(str::to_owned).to_vec()];
            rows.extend(
                self.encodings.iter().map(|e| vec![e.encoding.to_owned(), count(e.chunks), count(e.bytes)]),
            );
            lines.push(String::new());
            lines.extend(table(&rows, &[0]));
        }
        if let Some(tensors) = &self.tensors {
            let mut rows = vec![["tensor", "chunks", "bytes", "name"].map(str::to_owned).to_vec()];
            rows.extend(tensors.iter().map(|t| {
                vec![
                    count(t.index.into()),
                    count(t.chunks),
                    count(t.bytes),
                    t.name.clone().unwrap_or_default(),
                ]
            }));
            lines.push(String::new());
            lines.extend(table(&rows, &[3]));
        }
        lines
    }
}

pub(crate) fn run(arguments: &Arguments, session: &Session) -> Result<()> {
    let patch = patch_file::open(&arguments.patch)?;

    let mut encodings: BTreeMap<u8, EncodingReport> = BTreeMap::new();
    let mut tensors: BTreeMap<TensorIndex, (u64, u64)> = BTreeMap::new();
    for record in patch.wire().blocks().iter().flat_map(|block| block.records()) {
        let payload = record.payload.len() as u64;
        let used = encodings.entry(record.encoding.code()).or_insert_with(|| empty(record.encoding));
        used.chunks += 1;
        used.bytes += payload;
        let tensor = tensors.entry(record.address.tensor).or_default();
        tensor.0 += 1;
        tensor.1 += payload;
    }
    let name = |index: TensorIndex| Some(patch.listed_schema()?.get(index)?.name.clone());
    let tensors = tensors.into_iter().map(|(index, (chunks, bytes))| TensorReport {
        index: index.0,
        name: name(index),
        chunks,
        bytes,
    });

    let header = patch.wire().header();
    let ends = patch.trailer().ends;
    let digest = |digest: StateDigest| TaggedStateDigest { leaf_hash: header.leaf_hash, digest }.to_string();
    let has_base = patch.kind() != Kind::Full;
    session.output.report(&InspectReport {
        patch: arguments.patch.clone(),
        format_version: format!("1.{}", header.minor),
        kind: header.kind.name(),
        profile: header.profile.name(),
        leaf_hash: header.leaf_hash.name(),
        file_bytes: patch.trailer().file_len,
        base: has_base.then(|| digest(ends.base_state)),
        target: digest(ends.target_state),
        target_schema: ends.target_schema.to_string(),
        base_layout: has_base.then(|| ends.base_layout.to_string()),
        target_layout: ends.target_layout.to_string(),
        schema_listed: patch.listed_schema().is_some(),
        layout_listed: patch.listed_layout().is_some(),
        files: patch
            .listed_layout()
            .map(|layout| layout.files().iter().map(|file| file.name.clone()).collect()),
        blocks: patch.wire().blocks().len() as u64,
        chunks: encodings.values().map(|used| used.chunks).sum(),
        payload_bytes: encodings.values().map(|used| used.bytes).sum(),
        encodings: encodings.into_values().collect(),
        tensors: arguments.tensors.then(|| tensors.collect()),
    })
}

fn empty(encoding: Encoding) -> EncodingReport {
    EncodingReport { encoding: encoding.name(), chunks: 0, bytes: 0 }
}
