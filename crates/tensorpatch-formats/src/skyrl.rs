//! SkyRL's delta directory, read only: `manifest.json` and safetensors files of zstd frames.
//!
//! As the index-delta directory with XOR, but the manifest also gives dtypes, shapes and sizes. Tensors that
//! do not change are nowhere, so that nothing here tells whether the base is the right one.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use tensorpatch_format::{LimitKind, Limits, TensorSpec};

use crate::index_delta::{check_bytes, is_file_name, whole_xor};
use crate::safetensors::File;
use crate::{ChecksumKind, Fault, TensorDelta, Violation, frame, json, torch};

/// The name of the manifest.
pub const MANIFEST: &str = "manifest.json";

/// What the manifest of a version says.
#[derive(Debug, Deserialize)]
pub struct Manifest {
    version: u64,
    base_version: u64,
    tensors: Vec<Tensor>,
    total_uncompressed_num_bytes: u64,
    total_compressed_num_bytes: u64,
    payload_files: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Tensor {
    name: String,
    dtype: String,
    shape: Vec<u64>,
    uncompressed_num_bytes: u64,
    compressed_num_bytes: u64,
    payload_file: String,
    payload_key: String,
    checksum: String,
    checksum_algorithm: String,
}

impl Manifest {
    /// Reads `manifest.json`.
    ///
    /// # Errors
    /// If the JSON is broken, a file name is not plain, files or tensors are listed twice, sums disagree, or
    /// it asks for more than `limits` allow.
    pub fn parse(json: &[u8], limits: &Limits) -> Result<Self, Fault> {
        let manifest: Self = json::parse(json, limits).map_err(|fault| fault.in_file(MANIFEST))?;
        manifest.check(limits).map_err(|fault| fault.in_file(MANIFEST))?;
        Ok(manifest)
    }

    fn check(&self, limits: &Limits) -> Result<(), Fault> {
        Violation::limit(LimitKind::Tensors, self.tensors.len() as u64, limits.tensors)?;
        Violation::limit(LimitKind::Files, self.payload_files.len() as u64, limits.files)?;
        let files: BTreeSet<&str> = self.payload_files.iter().map(String::as_str).collect();
        if files.len() != self.payload_files.len() {
            return Err(Violation::Twice("a file in payload_files").into());
        }
        if let Some(file) = files.iter().find(|file| !is_file_name(file)) {
            let expected = "a plain name that ends in .safetensors";
            return Err(Violation::differs("a file in payload_files", expected, file).into());
        }
        let (mut names, mut keys) = (BTreeSet::new(), BTreeSet::new());
        let (mut unpacked, mut packed) = (0_u64, 0_u64);
        for tensor in &self.tensors {
            let refuse = |violation: Violation| Err(violation.of(&tensor.name));
            if !names.insert(tensor.name.as_str()) {
                return refuse(Violation::Twice("the tensor"));
            }
            if !keys.insert((tensor.payload_file.as_str(), tensor.payload_key.as_str())) {
                return refuse(Violation::Twice("the payload"));
            }
            if !files.contains(tensor.payload_file.as_str()) {
                let expected = "one of payload_files";
                return refuse(Violation::differs("payload_file", expected, &tensor.payload_file));
            }
            if !matches!(tensor.checksum_kind(), Some(ChecksumKind::Xxh3 | ChecksumKind::Sha256)) {
                let expected = "xxh3-128 or sha256";
                return refuse(Violation::differs(
                    "checksum_algorithm",
                    expected,
                    &tensor.checksum_algorithm,
                ));
            }
            unpacked = unpacked.saturating_add(tensor.uncompressed_num_bytes);
            packed = packed.saturating_add(tensor.compressed_num_bytes);
        }
        Violation::limit(LimitKind::StateBytes, unpacked, limits.state_bytes)?;
        for (what, expected, found) in [
            ("total_uncompressed_num_bytes", unpacked, self.total_uncompressed_num_bytes),
            ("total_compressed_num_bytes", packed, self.total_compressed_num_bytes),
        ] {
            if expected != found {
                return Err(Violation::differs(what, expected, found).into());
            }
        }
        Ok(())
    }

    /// The version, and the version that it is a delta from.
    pub fn versions(&self) -> (u64, u64) {
        (self.version, self.base_version)
    }

    /// The files that the manifest names.
    pub fn files(&self) -> &[String] {
        &self.payload_files
    }
}

impl Tensor {
    fn checksum_kind(&self) -> Option<ChecksumKind> {
        ChecksumKind::from_name(&self.checksum_algorithm)
    }
}

/// A version, its files checked against its manifest.
#[derive(Debug)]
pub struct SkyRlDelta<'a> {
    manifest: Manifest,
    /// By the name of the tensor: its place in the manifest, and its frame.
    frames: BTreeMap<String, (usize, &'a [u8])>,
}

impl<'a> SkyRlDelta<'a> {
    /// Reads the files of `manifest`, each with its name.
    ///
    /// # Errors
    /// If a file holds other payloads than the manifest says, one is not a row of bytes of the given length,
    /// or a header breaks a rule or asks for more than `limits` allow.
    pub fn parse(manifest: Manifest, files: &[(&str, &'a [u8])], limits: &Limits) -> Result<Self, Fault> {
        let key = |tensor: &Tensor| (tensor.payload_file.clone(), tensor.payload_key.clone());
        let mut payloads: BTreeMap<(String, String), usize> =
            manifest.tensors.iter().map(key).zip(0..).collect();
        let mut frames = BTreeMap::new();
        for (name, bytes) in files {
            let file = File::parse(bytes, limits).map_err(|fault| fault.in_file(name))?;
            for (spec, frame) in file.tensors() {
                let refuse = |violation: Violation| violation.of(&spec.name).in_file(name);
                let number = payloads.remove(&((*name).to_owned(), spec.name.clone()));
                let found = number.and_then(|number| Some((number, manifest.tensors.get(number)?)));
                let Some((number, tensor)) = found else {
                    return Err(refuse(Violation::Missing("the payload's tensor in the manifest")));
                };
                check_bytes(spec).map_err(refuse)?;
                if tensor.compressed_num_bytes != spec.byte_len {
                    let (expected, found) = (spec.byte_len, tensor.compressed_num_bytes);
                    return Err(refuse(Violation::differs("compressed_num_bytes", expected, found)));
                }
                frames.insert(tensor.name.clone(), (number, frame));
            }
        }
        match payloads.into_keys().next() {
            Some((file, payload)) => Err(Violation::Missing("the payload").of(&payload).in_file(&file)),
            None => Ok(Self { manifest, frames }),
        }
    }

    /// What the manifest says.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The tensors that change.
    pub fn tensors(&self) -> impl Iterator<Item = &str> {
        self.frames.keys().map(String::as_str)
    }

    /// The change of a tensor of the base, or `None` if it keeps its bytes.
    ///
    /// # Errors
    /// If dtype, shape or size are not those of the base, or the payload is not one zstd frame that states
    /// that size.
    pub fn decode(&self, spec: &TensorSpec) -> Result<Option<TensorDelta<'_>>, Fault> {
        let found = self.frames.get(&spec.name);
        let found = found.and_then(|(number, frame)| Some((self.manifest.tensors.get(*number)?, frame)));
        let Some((tensor, frame)) = found else { return Ok(None) };
        let decode = || {
            torch::check(spec, &tensor.dtype, &tensor.shape)?;
            if tensor.uncompressed_num_bytes != spec.byte_len {
                let (expected, found) = (spec.byte_len, tensor.uncompressed_num_bytes);
                return Err(Violation::differs("uncompressed_num_bytes", expected, found));
            }
            let checksum = tensor.checksum_kind().map(|kind| (kind, Cow::Borrowed(tensor.checksum.as_str())));
            let delta = whole_xor(frame::unpack(frame, spec.byte_len)?);
            Ok(TensorDelta { checksum, ..delta })
        };
        decode().map(Some).map_err(|violation| violation.of(&spec.name).in_file(&tensor.payload_file))
    }
}
