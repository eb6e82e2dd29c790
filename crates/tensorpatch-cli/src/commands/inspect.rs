//! `tensorpatch inspect`: what is in a patch, or between two checkpoints.

mod layers;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::slice;

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;
use tensorpatch::checkpoint::Checkpoint;
use tensorpatch::delta::{ChangedTensors, LeafTable, Patch, Progress, State, open_settled};
use tensorpatch::format::{Encoding, Kind, Limits, StateDigest, TaggedStateDigest, TensorIndex};

use crate::exit::Refusal;
use crate::output::{Report, bytes, count, counted, fields, table};
use crate::patch_file;
use crate::screen;
use crate::session::Session;
use layers::Layers;

/// Show what is in a patch, or what differs between two checkpoints
///
/// Of a patch it checks the structure and checksums, and shows what it holds; with its base also what it
/// changes in each layer, and how far. Of two checkpoints it shows what differs in each layer, without a
/// patch.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The patch, - for standard input; or a checkpoint, with another one
    patch: PathBuf,
    /// Another checkpoint, to compare the first with
    #[arg(conflicts_with_all = ["base", "tensors"])]
    other: Option<PathBuf>,
    /// The checkpoint that the patch was made from: shows what changes in each layer
    #[arg(long, value_name = "CHECKPOINT")]
    base: Option<PathBuf>,
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
    #[serde(flatten)]
    by_layer: Option<Layers>,
    #[serde(skip)]
    width: usize,
}

/// What differs between two checkpoints.
#[derive(Serialize)]
struct ComparisonReport {
    base: PathBuf,
    target: PathBuf,
    #[serde(flatten)]
    by_layer: Layers,
    #[serde(skip)]
    width: usize,
}

impl Report for ComparisonReport {
    fn lines(&self) -> Vec<String> {
        let mut lines = fields(&[
            ("base", self.base.display().to_string()),
            ("target", self.target.display().to_string()),
            ("differ", self.by_layer.summary()),
        ]);
        lines.push(String::new());
        lines.extend(self.by_layer.lines(self.width));
        lines
    }
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
        if let Some(layers) = &self.by_layer {
            lines.extend([String::new(), format!("changes {}", layers.summary()), String::new()]);
            lines.extend(layers.lines(self.width));
        }
        lines
    }
}

pub(crate) fn run(arguments: &Arguments, session: &Session) -> Result<()> {
    if let Some(other) = &arguments.other {
        return compare(&arguments.patch, other, session);
    }
    let path = &arguments.patch;
    if path.join("stream.json").is_file() || path.to_str().is_some_and(|path| path.contains("://")) {
        let what = format!("{} is a stream, and no patch", path.display());
        let advice = "tensorpatch log URL lists its versions, and tensorpatch report URL -o FILE shows what changes in \
                      each layer; a patch of it is one of the files below patches/";
        return Err(Refusal::usage(what, advice).into());
    }
    if path.is_dir() || Checkpoint::open(path, &Limits::default()).is_ok() {
        let what = format!("{} is a checkpoint or another directory, and no patch", path.display());
        let advice = "to see what differs between two checkpoints give both: tensorpatch inspect OLD NEW; tensorpatch \
                      digest tells about one";
        return Err(Refusal::usage(what, advice).into());
    }
    let patch = patch_file::open(path)?;
    let by_layer = arguments.base.as_deref().map(|base| changes(&patch, base, session)).transpose()?;

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
    let base = arguments.base.as_deref().map(|base| open_settled(base, &Limits::default())).transpose()?;
    // Where the patch lists no schema, it is the base's.
    let schema = patch.listed_schema().or_else(|| base.as_ref().map(|base| base.schema()));
    let name = |index: TensorIndex| Some(schema?.get(index)?.name.clone());
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
        by_layer,
        width: screen::width(),
    })
}

fn compare(base: &Path, target: &Path, session: &Session) -> Result<()> {
    let limits = Limits::default();
    let (old, new) = (open_settled(base, &limits)?, open_settled(target, &limits)?);
    let changed = ChangedTensors::between(Some(State::of(&old)?), State::of(&new)?, &session.options());
    let by_layer = Layers::of(&changed, None, session)?;
    session.output.report(&ComparisonReport {
        base: base.to_owned(),
        target: target.to_owned(),
        by_layer,
        width: screen::width(),
    })
}

/// What a patch changes in each layer of its base, which is hashed first: a chunk may fit by chance.
fn changes(patch: &Patch<'_>, base: &Path, session: &Session) -> Result<Layers> {
    let checkpoint = open_settled(base, &Limits::default())?;
    let state = State::of(&checkpoint)?;
    let options = session.options().with_leaf_hash(patch.leaf_hash());
    if patch.kind() != Kind::Full {
        let bar = session.bar("hashing", state.schema().state_bytes());
        let advance = |bytes| bar.advance(bytes);
        let leaves = LeafTable::of(&state, patch.leaf_hash(), session.threads(), Progress::new(&advance))?;
        drop(bar);
        let found = leaves.state_digest(state.schema());
        patch.check_base(found).with_context(|| format!("{}: not the base of the patch", base.display()))?;
    }
    let changed = ChangedTensors::by_patches(Some(state), slice::from_ref(patch), &options)?;
    Layers::of(&changed, Some(patch), session)
}

fn empty(encoding: Encoding) -> EncodingReport {
    EncodingReport { encoding: encoding.name(), chunks: 0, bytes: 0 }
}
