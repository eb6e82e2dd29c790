//! Small checkpoints for the tests of this crate.

pub(crate) mod scene;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tensorpatch_checkpoint::{Checkpoint, CheckpointWriter, Form, Placement, generate_layout};
use tensorpatch_delta::{DiffReport, Options, Progress, Snapshot, State, encode_diff, encode_full};
use tensorpatch_format::{
    Dtype, FileLayout, Layout, LeafHash, Limits, Profile, Schema, TensorIndex, TensorSpec,
};

/// A tensor by name, dtype, shape and bytes.
#[derive(Clone)]
pub(crate) struct Tensor {
    pub(crate) spec: TensorSpec,
    pub(crate) bytes: Vec<u8>,
}

/// `len` elements of bf16 around 0.02, as weights are, from a seed.
pub(crate) fn bf16(name: &str, shape: &[u64], seed: u64) -> Tensor {
    let spec = TensorSpec::new(name, Dtype::new("BF16").unwrap(), shape.to_vec()).unwrap();
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let element = |bits: u64| ((bits & 0x8000) | (0x3a00 + (bits & 0x3ff))) as u16;
    let bytes = (0..spec.byte_len / 2).flat_map(|_| element(next() >> 20).to_le_bytes()).collect();
    Tensor { spec, bytes }
}

/// The same tensor with every `step`th element one unit in the last place up.
pub(crate) fn nudged(tensor: &Tensor, step: usize) -> Tensor {
    let mut tensor = tensor.clone();
    for element in tensor.bytes.chunks_exact_mut(2).step_by(step) {
        let up = u16::from_le_bytes([element[0], element[1]]).wrapping_add(1);
        element.copy_from_slice(&up.to_le_bytes());
    }
    tensor
}

pub(crate) fn raw(name: &str, dtype: &str, shape: &[u64], bytes: &[u8]) -> Tensor {
    let spec = TensorSpec::new(name, Dtype::new(dtype).unwrap(), shape.to_vec()).unwrap();
    assert_eq!(spec.byte_len, bytes.len() as u64);
    Tensor { spec, bytes: bytes.to_vec() }
}

/// Writes the tensors as a checkpoint with the plain layout.
pub(crate) fn write(path: &Path, tensors: &[Tensor]) -> PathBuf {
    let schema = Schema::new(tensors.iter().map(|t| t.spec.clone()).collect()).unwrap();
    write_as(path, Form::File, tensors, &generate_layout(&schema).unwrap())
}

pub(crate) fn write_as(path: &Path, form: Form, tensors: &[Tensor], layout: &Layout) -> PathBuf {
    let schema = Schema::new(tensors.iter().map(|t| t.spec.clone()).collect()).unwrap();
    let placement = Placement::new(&schema, layout, &Limits::default()).unwrap();
    let writer = CheckpointWriter::create(path, form, &schema, layout, &placement).unwrap();
    for tensor in tensors {
        writer.write(schema.find(&tensor.spec.name).unwrap(), 0, &tensor.bytes).unwrap();
    }
    writer.commit().unwrap();
    path.to_owned()
}

/// A layout with one file for each tensor, and an index.
pub(crate) fn sharded_layout(tensors: &[Tensor]) -> Layout {
    let count = tensors.len();
    let name = |i: usize| format!("model-{:05}-of-{count:05}.safetensors", i + 1);
    let files = tensors.iter().enumerate().map(|(i, tensor)| {
        let schema = Schema::new(vec![tensor.spec.clone()]).unwrap();
        FileLayout { name: name(i), header: generate_layout(&schema).unwrap().files()[0].header.clone() }
    });
    let map: Vec<_> = (0..count).map(|i| format!(r#""{}": "{}""#, tensors[i].spec.name, name(i))).collect();
    let index = format!(r#"{{"metadata": {{}}, "weight_map": {{{}}}}}"#, map.join(", "));
    Layout::new(files.collect(), Some(index.into_bytes())).unwrap()
}

/// The layout of a single file whose `__metadata__` says `text`, which is padded to the same length for short
/// texts.
pub(crate) fn layout_saying(tensors: &[Tensor], text: &str) -> Layout {
    let schema = Schema::new(tensors.iter().map(|t| t.spec.clone()).collect()).unwrap();
    let plain = generate_layout(&schema).unwrap();
    let json = std::str::from_utf8(&plain.files()[0].header[8..]).unwrap().trim_end();
    let mut json =
        json.replace(r#"{"format":"pt"}"#, &format!(r#"{{"format":"pt","note":"{text}"}}"#)).into_bytes();
    json.resize(json.len().next_multiple_of(64), b' ');
    let header = [&(json.len() as u64).to_le_bytes()[..], &json].concat();
    Layout::new(vec![FileLayout { name: Layout::SINGLE_FILE.into(), header }], None).unwrap()
}

pub(crate) fn open(path: &Path) -> Checkpoint {
    Checkpoint::open(path, &Limits::default()).unwrap()
}

pub(crate) fn version(checkpoint: &Checkpoint) -> Snapshot<'_> {
    Snapshot { state: State::of(checkpoint).unwrap(), layout: checkpoint.layout(), leaves: None }
}

pub(crate) fn patch_between(base: &Path, target: &Path, options: &Options) -> (Vec<u8>, DiffReport) {
    let (base, target) = (open(base), open(target));
    let mut patch = Vec::new();
    let report =
        encode_diff(&version(&base), &version(&target), options, Progress::none(), &mut patch).unwrap();
    (patch, report)
}

pub(crate) fn full_patch(target: &Path, options: &Options) -> Vec<u8> {
    let mut patch = Vec::new();
    encode_full(&version(&open(target)), options, Progress::none(), &mut patch).unwrap();
    patch
}

pub(crate) fn tensor_of(path: &Path, name: &str) -> Vec<u8> {
    let opened = open(path);
    let index: TensorIndex = opened.schema().find(name).unwrap();
    opened.tensor(index).unwrap().to_vec()
}

/// Options of every profile and hash, and some threads.
pub(crate) fn options() -> impl Strategy<Value = Options> {
    let profile = prop::sample::select(vec![Profile::Compact, Profile::Direct]);
    let hash = prop::sample::select(vec![LeafHash::Xxh3, LeafHash::Blake3]);
    (profile, hash, 1_usize..4).prop_map(|(profile, hash, threads)| {
        let threads = NonZeroUsize::new(threads).unwrap();
        Options::default().with_profile(profile).with_leaf_hash(hash).with_threads(threads)
    })
}
