//! Patches between checkpoints, on disk or in memory: diff, apply, inspect, digest.

use std::collections::BTreeMap;
use std::path::PathBuf;

use pyo3::prelude::*;
use serde_json::{Value, json};
use tensorpatch::checkpoint::{Places, Role};
use tensorpatch::delta::{
    AppliedInPlace, Apply, DiffReport, LeafTable, Options, Patch, Progress, Snapshot, State, StateHasher,
    open_settled,
};
use tensorpatch::format::{Kind, Schema, StateDigest};
use tensorpatch::{Diff, LeafHash, MemoryState, Others, TaggedStateDigest, TensorDiff};

use crate::errors::Failure;
use crate::interrupt::{Listener, interruptible};
use crate::options::{leaf_hash, options, profile};
use crate::tensor::Tensor;
use crate::watch::Watch;

/// How a patch is made.
#[derive(Debug, FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Making {
    profile: String,
    leaf_hash: String,
    threads: Option<usize>,
}

impl Making {
    fn options(&self) -> Result<Options, Failure> {
        let options = options(self.threads)?.with_profile(profile(&self.profile)?);
        Ok(options.with_leaf_hash(leaf_hash(&self.leaf_hash)?))
    }
}

/// Writes the patch from one checkpoint to another; a full one without a base. JSON.
#[pyfunction]
pub(crate) fn diff_paths(
    py: Python<'_>,
    base: Option<PathBuf>,
    target: PathBuf,
    out: PathBuf,
    making: Making,
    progress: Option<Py<PyAny>>,
) -> PyResult<String> {
    let (options, watch) = (making.options()?, Watch::default());
    let report = interruptible(py, &Listener { watch: &watch, progress: progress.as_ref() }, || {
        let advance = |bytes| watch.advance(bytes);
        let diff = Diff::open(base.as_deref(), &target, options.clone())?;
        watch.start("encode", diff.target().schema().state_bytes());
        Ok(diff.with_progress(Progress::stoppable(&advance)).write(&out)?)
    })?;
    Ok(made(&report, options.leaf_hash).to_string())
}

/// Writes the patch from a checkpoint, from tensors in memory, or from nothing, to the tensors of an
/// iterator, each of which is compared while it is alive. JSON.
#[pyfunction]
pub(crate) fn diff_tensors(
    py: Python<'_>,
    base: Option<Base<'_>>,
    tensors: &Bound<'_, PyAny>,
    out: PathBuf,
    kept: bool,
    making: Making,
    progress: Option<Py<PyAny>>,
) -> PyResult<String> {
    let (options, watch) = (making.options()?, Watch::default());
    let listener = Listener { watch: &watch, progress: progress.as_ref() };
    let others = if kept { Others::Kept } else { Others::Refused };
    let (mut checkpoint, mut memory, mut held) = (None, None, Vec::new());
    match base {
        None => {}
        Some(Base::Path(path)) => {
            checkpoint = Some(py.detach(|| open_settled(&path, &options.limits)).map_err(Failure::from)?);
        }
        Some(Base::Tensors(pairs)) => {
            for (name, tensor) in pairs {
                let tensor = Tensor::of(&name, &tensor)?;
                held.push((name, tensor));
            }
        }
    }
    let views: Vec<(&str, &Tensor)> = held.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    if !views.is_empty() {
        let state = MemoryState::new(views.iter().map(|(name, tensor)| (*name, tensor)));
        memory = Some(state.map_err(Failure::from)?);
    }
    let snapshot = match (&checkpoint, &memory) {
        (Some(checkpoint), _) => Some(Snapshot::of(checkpoint).map_err(Failure::from)?),
        (None, Some(memory)) => Some(memory.snapshot()),
        (None, None) => None,
    };
    watch.start("encode", snapshot.as_ref().map_or(0, |base| base.state.schema().state_bytes()));
    let advance = |bytes| watch.advance(bytes);
    let diff = TensorDiff::new(snapshot.as_ref(), &options, Progress::stoppable(&advance));
    let mut diff = diff.map_err(Failure::from)?;
    for pair in tensors.try_iter()? {
        let (name, tensor): (String, Bound<'_, PyAny>) = pair?.extract()?;
        let tensor = Tensor::of(&name, &tensor)?;
        interruptible(py, &listener, || Ok(diff.add(&name, &&tensor)?))?;
    }
    let inputs =
        checkpoint.iter().fold(Places::default(), |places, base| places.read_checkpoint(Role::Base, base));
    let report = interruptible(py, &listener, || Ok(diff.write(others, &out, inputs)?))?;
    Ok(made(&report, options.leaf_hash).to_string())
}

/// What tensors are compared with: a checkpoint, or other tensors.
#[derive(Debug, FromPyObject)]
pub(crate) enum Base<'py> {
    Path(PathBuf),
    Tensors(Vec<(String, Bound<'py, PyAny>)>),
}

fn made(report: &DiffReport, leaf_hash: LeafHash) -> Value {
    let digest = |digest| TaggedStateDigest { leaf_hash, digest }.to_string();
    let encoding = |used: &tensorpatch::delta::EncodingUse| json!({"encoding": used.encoding.name(), "chunks": used.chunks, "bytes": used.bytes});
    json!({
        "kind": report.kind.name(),
        "base": (report.kind != Kind::Full).then(|| digest(report.base)),
        "target": digest(report.target),
        "patch_bytes": report.patch_bytes,
        "changed_elements": report.changed_elements,
        "total_elements": report.total_elements,
        "total_chunks": report.total_chunks,
        "encodings": report.encodings.iter().map(encoding).collect::<Vec<_>>(),
    })
}

/// Applies a patch to a checkpoint, in place or to a new one; unpacks a full one without a base. JSON.
#[pyfunction]
pub(crate) fn apply(
    py: Python<'_>,
    base: Option<PathBuf>,
    patch: PathBuf,
    out: Option<PathBuf>,
    threads: Option<usize>,
    progress: Option<Py<PyAny>>,
) -> PyResult<String> {
    let (options, watch) = (options(threads)?, Watch::default());
    interruptible(py, &Listener { watch: &watch, progress: progress.as_ref() }, || {
        let advance = |bytes| watch.advance(bytes);
        let patch = Patch::open(&patch)?;
        let digest = |digest| TaggedStateDigest { leaf_hash: patch.leaf_hash(), digest }.to_string();
        let apply = Apply::new(&patch).with_options(options).with_progress(Progress::stoppable(&advance));
        // Why a base cannot be opened is for the application to say.
        let limits = tensorpatch::Limits::default();
        let opened = base.as_ref().and_then(|base| open_settled(base, &limits).ok());
        let schema = patch.listed_schema().or(opened.as_ref().map(|base| base.schema()));
        watch.start("apply", schema.map_or(0, Schema::state_bytes));
        drop(opened);
        let (report, recovered) = match (&base, &out) {
            (Some(base), Some(out)) => (Some(apply.to(base, out)?), None),
            (None, Some(out)) => (Some(apply.unpack(out)?), None),
            (Some(base), None) => match apply.in_place(base)? {
                AppliedInPlace::Applied(report) => (Some(report), None),
                AppliedInPlace::Finished { state_bytes, same_layout, .. } => {
                    (None, Some((state_bytes, same_layout)))
                }
            },
            (None, None) => {
                return Err(Failure::refused("a full patch is unpacked to out, which is missing"));
            }
        };
        let (bytes, same) = match &report {
            Some(report) => (report.state_bytes, report.same_layout),
            None => recovered.unwrap_or_default(),
        };
        let has_base = patch.kind() != Kind::Full;
        Ok(json!({
            "base": has_base.then(|| digest(patch.base_digest())),
            "target": digest(patch.target_digest()),
            "recovered": report.is_none(),
            "changed_chunks": report.map(|report| report.changed_chunks),
            "state_bytes": bytes,
            "same_files": same,
        })
        .to_string())
    })
}

/// What is in a patch. JSON.
#[pyfunction]
pub(crate) fn inspect(py: Python<'_>, patch: PathBuf) -> PyResult<String> {
    let watch = Watch::default();
    interruptible(py, &Listener { watch: &watch, progress: None }, || {
        Ok(contents(&Patch::open(&patch)?).to_string())
    })
}

fn contents(patch: &Patch<'_>) -> Value {
    let mut encodings: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for record in patch.wire().blocks().iter().flat_map(|block| block.records()) {
        let used = encodings.entry(record.encoding.name()).or_default();
        *used = (used.0 + 1, used.1 + record.payload.len() as u64);
    }
    let (header, ends) = (patch.wire().header(), patch.trailer().ends);
    let digest = |digest: StateDigest| TaggedStateDigest { leaf_hash: header.leaf_hash, digest }.to_string();
    let has_base = patch.kind() != Kind::Full;
    let encoding = |(name, (chunks, bytes))| json!({"encoding": name, "chunks": chunks, "bytes": bytes});
    json!({
        "format_version": format!("1.{}", header.minor),
        "kind": header.kind.name(),
        "profile": header.profile.name(),
        "leaf_hash": header.leaf_hash.name(),
        "file_bytes": patch.trailer().file_len,
        "base": has_base.then(|| digest(ends.base_state)),
        "target": digest(ends.target_state),
        "tensors": patch.listed_schema().map(|schema| {
            schema.tensors().iter().map(|spec| spec.name.clone()).collect::<Vec<_>>()
        }),
        "files": patch.listed_layout().map(|layout| {
            layout.files().iter().map(|file| file.name.clone()).collect::<Vec<_>>()
        }),
        "encodings": encodings.into_iter().map(encoding).collect::<Vec<_>>(),
    })
}

/// The digest of the state of a checkpoint.
#[pyfunction]
pub(crate) fn digest_path(
    py: Python<'_>,
    checkpoint: PathBuf,
    hash: &str,
    threads: Option<usize>,
) -> PyResult<String> {
    let (options, hash, watch) = (options(threads)?, leaf_hash(hash)?, Watch::default());
    interruptible(py, &Listener { watch: &watch, progress: None }, || {
        let advance = |bytes| watch.advance(bytes);
        let checkpoint = open_settled(&checkpoint, &options.limits)?;
        let state = State::of(&checkpoint)?;
        let leaves = LeafTable::of(&state, hash, options.threads, Progress::stoppable(&advance))?;
        let digest = leaves.state_digest(state.schema());
        Ok(TaggedStateDigest { leaf_hash: hash, digest }.to_string())
    })
}

/// The digest of a state in memory: the tensors of an iterator, one at a time.
#[pyfunction]
pub(crate) fn digest_tensors(
    py: Python<'_>,
    tensors: &Bound<'_, PyAny>,
    hash: &str,
    threads: Option<usize>,
) -> PyResult<String> {
    let (options, watch) = (options(threads)?.with_leaf_hash(leaf_hash(hash)?), Watch::default());
    let listener = Listener { watch: &watch, progress: None };
    let advance = |bytes| watch.advance(bytes);
    let mut state = StateHasher::new(&options, Progress::stoppable(&advance));
    for pair in tensors.try_iter()? {
        let (name, tensor): (String, Bound<'_, PyAny>) = pair?.extract()?;
        let tensor = Tensor::of(&name, &tensor)?;
        interruptible(py, &listener, || Ok(state.add(&name, &&tensor)?))?;
    }
    Ok(state.finish().map_err(Failure::from)?.to_string())
}
