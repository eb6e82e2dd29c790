//! Small checkpoints on disk, and a way to compare directories.

#[allow(dead_code, reason = "the tests beside the code use more of it")]
pub(crate) mod faulty_store;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tensorpatch_store::{
    AnchorPolicy, ApplyMode, CreateOptions, Policy, PublishOptions, Publisher, Replica, ReplicaOptions,
    Stream, Version, open_store,
};

/// A checkpoint file with these tensors of one-byte elements.
pub(crate) fn safetensors(tensors: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for (name, bytes) in tensors {
        let start = data.len();
        data.extend_from_slice(bytes);
        let entry = serde_json::json!({
            "dtype": "BF16", "shape": [bytes.len() / 2], "data_offsets": [start, data.len()],
        });
        header.insert((*name).into(), entry);
    }
    let mut header = serde_json::Value::Object(header).to_string().into_bytes();
    while !header.len().is_multiple_of(8) {
        header.push(b' ');
    }
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(&header);
    file.extend_from_slice(&data);
    file
}

/// The values of a tensor at a training step: some elements differ from step to step, most do not.
pub(crate) fn values(seed: u64, step: u64, elements: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(elements * 2);
    for i in 0..elements as u64 {
        let mut x = (i ^ (seed << 32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        x ^= x >> 29;
        // An element moves every so many steps, each at its own time.
        let moves = (step + x % 64) / 64;
        let value = (0x3c00 + (x >> 50)).wrapping_add(moves) as u16;
        out.extend_from_slice(&value.to_le_bytes());
    }
    out
}

/// Writes a single-file checkpoint directory of two tensors as they are at `step`, with companions.
pub(crate) fn write_single(dir: &Path, step: u64) {
    std::fs::create_dir_all(dir).unwrap();
    let tensors = [("a", values(1, step, 3000)), ("b.weight", values(2, step, 5000))];
    std::fs::write(dir.join("model.safetensors"), safetensors(&tensors)).unwrap();
    std::fs::write(dir.join("config.json"), br#"{"model_type":"test"}"#).unwrap();
    std::fs::write(dir.join("tokenizer.json"), br#"{"version":"1.0"}"#).unwrap();
}

/// Writes a sharded checkpoint directory with the same tensors.
pub(crate) fn write_sharded(dir: &Path, step: u64) {
    std::fs::create_dir_all(dir).unwrap();
    let (a, b) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
    std::fs::write(dir.join(a), safetensors(&[("a", values(1, step, 3000))])).unwrap();
    std::fs::write(dir.join(b), safetensors(&[("b.weight", values(2, step, 5000))])).unwrap();
    let index = serde_json::json!({
        "metadata": {"total_size": 16000}, "weight_map": {"a": a, "b.weight": b},
    });
    std::fs::write(dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
    std::fs::write(dir.join("config.json"), br#"{"model_type":"test"}"#).unwrap();
}

/// All visible files of a directory.
pub(crate) fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if !name.starts_with('.') {
            files.insert(name, std::fs::read(entry.path()).unwrap());
        }
    }
    files
}

pub(crate) fn assert_same(left: &Path, right: &Path) {
    let (left, right) = (files(left), files(right));
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&left), names(&right));
    for (name, bytes) in &left {
        assert!(bytes == &right[name], "{name} differs");
    }
}

/// A stream in a local directory, and what belongs to it.
pub(crate) struct World {
    pub(crate) dir: TempDir,
    pub(crate) stream: Stream,
}

impl World {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (store, prefix) =
            open_store(dir.path().join("bucket").to_str().unwrap(), &Policy::default()).unwrap();
        let stream = Stream::create(store, prefix, CreateOptions::default()).await.unwrap();
        Self { dir, stream }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A checkpoint as it is at `step`.
    pub(crate) fn step(&self, step: u64) -> PathBuf {
        let path = self.path(&format!("step-{step}"));
        write_single(&path, step);
        path
    }

    /// Removes the checkpoint of a step, which then cannot take the place of the baseline.
    pub(crate) fn forget(&self, step: u64) {
        std::fs::remove_dir_all(self.path(&format!("step-{step}"))).unwrap();
    }

    /// A publisher that adds no anchors by itself.
    pub(crate) async fn publisher(&self) -> Publisher {
        self.anchoring(AnchorPolicy::NEVER).await
    }

    pub(crate) async fn anchoring(&self, anchors: AnchorPolicy) -> Publisher {
        let options = PublishOptions::default().with_publisher("trainer").with_anchors(anchors);
        Publisher::on(self.stream.clone(), self.path("baseline"), options).await.unwrap()
    }

    pub(crate) fn replica(&self, name: &str, mode: ApplyMode) -> Replica {
        let options = ReplicaOptions::default().with_mode(mode);
        Replica::of(self.stream.clone(), self.path(name), options)
    }

    pub(crate) async fn publish_steps(&self, steps: u64) {
        let publisher = self.publisher().await;
        for step in 1..=steps {
            let published = publisher.publish(&self.step(step)).await.unwrap();
            assert_eq!(published.version.get(), step);
        }
        publisher.catch_up().await.unwrap();
    }
}

pub(crate) fn v(number: u64) -> Version {
    Version::new(number).unwrap()
}

/// Copies a directory with everything in it over another.
pub(crate) fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Writes a checkpoint of `elements` random elements: no patch from one to another is small.
pub(crate) fn write_noise(dir: &Path, seed: u64, elements: usize) {
    std::fs::create_dir_all(dir).unwrap();
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(elements * 2);
    for _ in 0..elements.div_ceil(4) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    std::fs::write(dir.join("model.safetensors"), safetensors(&[("a", bytes)])).unwrap();
}

/// A policy that polls as often as it can.
pub(crate) fn quick_polls() -> Policy {
    let mut policy = Policy::default();
    policy.following.poll = std::time::Duration::from_millis(1);
    policy
}

/// A policy whose plans have at most so many edges.
pub(crate) fn short_plans(max_edges: usize) -> Policy {
    let mut policy = Policy::default();
    policy.plans.max_edges = max_edges;
    policy
}
