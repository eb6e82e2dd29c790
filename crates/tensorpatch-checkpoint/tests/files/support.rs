//! Files made by hand, so that nothing under test has made what it reads.

use std::fs;
use std::path::{Path, PathBuf};

use tensorpatch_checkpoint::{Checkpoint, CheckpointError};
use tensorpatch_format::{Limits, TensorIndex};

/// A safetensors file of this JSON and `data_len` bytes that count up.
pub(crate) fn file_of(json: &str, data_len: usize) -> Vec<u8> {
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(json.as_bytes());
    bytes.extend((0..data_len).map(|i| (i % 251) as u8));
    bytes
}

/// A file of one U8 tensor called `name`.
pub(crate) fn one_tensor(name: &str, len: usize) -> Vec<u8> {
    file_of(&format!(r#"{{"{name}":{{"dtype":"U8","shape":[{len}],"data_offsets":[0,{len}]}}}}"#), len)
}

pub(crate) fn put(directory: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, bytes).unwrap();
    path
}

/// Shards `a` (tensor `x`) and `b` (tensor `y`) and their index.
pub(crate) fn sharded(directory: &Path) {
    put(directory, "a.safetensors", &one_tensor("x", 3));
    put(directory, "b.safetensors", &one_tensor("y", 5));
    put_index(
        directory,
        r#"{"metadata":{"total_size":8},"weight_map":{"y":"b.safetensors","x":"a.safetensors"}}"#,
    );
}

pub(crate) fn put_index(directory: &Path, json: &str) {
    put(directory, "model.safetensors.index.json", json.as_bytes());
}

pub(crate) fn open(path: &Path) -> Result<Checkpoint, CheckpointError> {
    Checkpoint::open(path, &Limits::default())
}

/// All tensors by name.
pub(crate) fn contents(checkpoint: &Checkpoint) -> Vec<(String, Vec<u8>)> {
    let tensors = checkpoint.tensors();
    checkpoint
        .schema()
        .tensors()
        .iter()
        .zip(0..)
        .map(|(spec, index)| {
            assert_eq!(checkpoint.tensor(TensorIndex(index)).unwrap(), tensors[index as usize]);
            (spec.name.clone(), tensors[index as usize].to_vec())
        })
        .collect()
}
