//! Deltas of other projects.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;
use std::sync::OnceLock;

use tensorpatch_checkpoint::Checkpoint;
use tensorpatch_format::{Limits, TensorIndex, TensorSpec};
use tensorpatch_formats::index_delta::{Index, IndexKind};
use tensorpatch_formats::skyrl::Manifest;
use tensorpatch_formats::{Delta, Dialect, GrailDelta, IndexDelta, NemoRlDelta, SkyRlDelta, Violation, trl};

/// An index-delta directory, whatever its index and files, is refused, or its changes make tensors as long as
/// the base's; so with the other formats below.
pub fn index_delta(bytes: &[u8]) {
    check(parse_index_delta(bytes));
}

/// See [`index_delta`].
pub fn trl_delta(bytes: &[u8]) {
    check(parse_trl(bytes));
}

/// See [`index_delta`].
pub fn skyrl_delta(bytes: &[u8]) {
    check(parse_skyrl(bytes));
}

/// See [`index_delta`].
pub fn nemo_rl_delta(bytes: &[u8]) {
    check(parse_nemo_rl(bytes));
}

/// See [`index_delta`]; so too when the bytes are what is in the frame.
pub fn grail_delta(bytes: &[u8]) {
    check(parse_grail(bytes));
    check(parse_grail(&zstd_frame(bytes)));
}

fn parse_index_delta(bytes: &[u8]) -> Option<Delta<'_>> {
    let pieces = pieces(bytes);
    let (json, rest) = pieces.split_first()?;
    let IndexKind::Delta(index) = accepted(Index::parse(json, &limits()))? else { return None };
    // What is written for it says the same.
    for dialect in [Dialect::Numbered, Dialect::ModelExpress] {
        assert_eq!(Index::parse(&index.to_json(dialect), &limits()), Ok(IndexKind::Delta(index.clone())));
    }
    let names: Vec<String> = index.files().into_iter().map(str::to_owned).collect();
    let files: Vec<_> = names.iter().map(String::as_str).zip(rest.iter().copied()).collect();
    accepted(IndexDelta::parse(index, &files, &limits())).map(Delta::IndexDelta)
}

fn parse_trl(bytes: &[u8]) -> Option<Delta<'_>> {
    match accepted(trl::Patch::parse(bytes, &limits()))? {
        trl::Patch::Delta(delta) => Some(Delta::Trl(delta)),
        trl::Patch::Anchor(_) => None,
    }
}

fn parse_skyrl(bytes: &[u8]) -> Option<Delta<'_>> {
    let pieces = pieces(bytes);
    let (json, rest) = pieces.split_first()?;
    let manifest = accepted(Manifest::parse(json, &limits()))?;
    let names = manifest.files().to_vec();
    let files: Vec<_> = names.iter().map(String::as_str).zip(rest.iter().copied()).collect();
    accepted(SkyRlDelta::parse(manifest, &files, &limits())).map(Delta::SkyRl)
}

fn parse_nemo_rl(bytes: &[u8]) -> Option<Delta<'_>> {
    let pieces = pieces(bytes);
    let [metadata, locations, values @ ..] = &pieces[..] else { return None };
    let values: BTreeMap<u64, &[u8]> = (0..).zip(values.iter().copied()).collect();
    accepted(NemoRlDelta::parse(metadata, locations, values, &limits())).map(Delta::NemoRl)
}

fn parse_grail(bytes: &[u8]) -> Option<Delta<'_>> {
    let state_bytes = base().values().map(|(_, bytes)| bytes.len() as u64).sum();
    accepted(GrailDelta::parse(bytes, state_bytes, &limits())).map(Delta::Grail)
}

/// A frame of blocks that are not compressed.
fn zstd_frame(bytes: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0xa0];
    frame.extend((bytes.len() as u32).to_le_bytes());
    let mut blocks = bytes.chunks(1 << 16).peekable();
    while let Some(block) = blocks.next() {
        let head = (block.len() as u32) << 3 | u32::from(blocks.peek().is_none());
        frame.extend(&head.to_le_bytes()[..3]);
        frame.extend(block);
    }
    frame
}

/// Limits that keep a frame that unpacks to much from slowing a run.
fn limits() -> Limits {
    let mut limits = super::limits();
    limits.header_bytes = 1 << 16;
    limits
}

/// What was accepted. Every refusal can be told to a person, in bounded space.
fn accepted<T, E: Display>(result: Result<T, E>) -> Option<T> {
    result.map_err(|error| assert!(error.to_string().len() < 4096, "{error}")).ok()
}

/// Applies a delta to the base, and returns how many tensors it makes.
fn check(delta: Option<Delta<'_>>) -> usize {
    let Some(delta) = delta else { return 0 };
    let mut count = 0;
    for (spec, bytes) in base().values() {
        let listed = delta.tensors().contains(&spec.name.as_str());
        let change = accepted(delta.decode(spec));
        assert!(change.as_ref().is_none_or(|change| change.is_some() == listed), "{spec:?}");
        if let Some(change) = change.flatten() {
            // A position for each unit, no two the same, and all within the tensor.
            let unchecked = tensorpatch_formats::TensorDelta { checksum: None, ..change.clone() };
            let made = accepted(unchecked.apply(bytes));
            assert!(made.as_ref().is_none_or(|made| made.len() == bytes.len()), "{spec:?}");
            match change.apply(bytes) {
                Ok(checked) => {
                    count += 1;
                    assert_eq!(Some(checked), made);
                }
                Err(Violation::Checksum { .. }) => assert!(made.is_some()),
                Err(_) => assert!(made.is_none()),
            }
        }
        accepted(delta.apply(spec, bytes));
    }
    count
}

const VECTORS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tensorpatch-formats/tests/vectors");

/// The tensors that the vectors change, but for a large one that would slow every run.
fn base() -> &'static BTreeMap<String, (TensorSpec, Vec<u8>)> {
    static BASE: OnceLock<BTreeMap<String, (TensorSpec, Vec<u8>)>> = OnceLock::new();
    BASE.get_or_init(|| {
        let path = Path::new(VECTORS).join("states/base.safetensors");
        let checkpoint = Checkpoint::open(&path, &Limits::default()).unwrap();
        let specs = checkpoint.schema().tensors().iter().filter(|spec| spec.byte_len < 1 << 16);
        let bytes = |index: TensorIndex| checkpoint.tensor(index).unwrap().to_vec();
        let index = |name: &str| checkpoint.schema().find(name).unwrap();
        specs.map(|spec| (spec.name.clone(), (spec.clone(), bytes(index(&spec.name))))).collect()
    })
}

/// Bytes taken apart into pieces, each after its length in four bytes; a length that is too large takes the
/// rest.
fn pieces(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    while let Some((len, rest)) = bytes.split_first_chunk::<4>() {
        let (piece, after) = rest.split_at(rest.len().min(u32::from_le_bytes(*len) as usize));
        pieces.push(piece);
        bytes = after;
    }
    pieces
}

/// The files of a vector as [`pieces`], in this order.
fn vector(name: &str, files: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    for file in files {
        let bytes = read(&format!("{name}/{file}"));
        out.extend((bytes.len() as u32).to_le_bytes());
        out.extend(bytes);
    }
    out
}

fn read(name: &str) -> Vec<u8> {
    let path = Path::new(VECTORS).join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"))
}

pub(super) fn index_deltas() -> Vec<(&'static str, Vec<u8>)> {
    let (index, one) = ("model.safetensors.index.json", "model-00000-of-00001.safetensors");
    let two = ["model-00000-of-00002.safetensors", "model-00001-of-00002.safetensors"];
    vec![
        ("xor", vector("index-delta/xor-blake3", &[index, two[0], two[1]])),
        ("overwrite", vector("index-delta/overwrite-adler32", &[index, one])),
        ("modelexpress", vector("index-delta/modelexpress", &[index, one])),
        ("nothing", vector("index-delta/nothing", &[index])),
    ]
}

pub(super) fn trl_deltas() -> Vec<(&'static str, Vec<u8>)> {
    ["a", "a-nothing", "b", "c-raw", "c-gaps"]
        .map(|name| (name, read(&format!("trl/{name}.safetensors"))))
        .into()
}

pub(super) fn skyrl_deltas() -> Vec<(&'static str, Vec<u8>)> {
    let whole = vector("skyrl", &["manifest.json", "delta-rank00000-file000000.safetensors"]);
    let manifest = vector("skyrl", &["manifest.json"]);
    let empty = br#"{"version":1,"base_version":0,"tensors":[],"total_uncompressed_num_bytes":0,"total_compressed_num_bytes":0,"payload_files":[]}"#;
    let empty = [&(empty.len() as u32).to_le_bytes()[..], empty].concat();
    vec![("whole", whole), ("no-payload", manifest), ("empty", empty)]
}

pub(super) fn nemo_rl_deltas() -> Vec<(&'static str, Vec<u8>)> {
    let values = ["values-0-int16.bin", "values-1-int32.bin", "values-2-uint8.bin", "values-3-int64.bin"];
    let files = [&["metadata.json", "locations.bin"][..], &values].concat();
    let of = |operation: &str, files: &[&str]| vector(&format!("nemo-rl/{operation}"), files);
    vec![
        ("xor", of("xor", &files)),
        ("overwrite", of("overwrite", &files)),
        ("no-values", of("xor", &files[..2])),
    ]
}

pub(super) fn grail_deltas() -> Vec<(&'static str, Vec<u8>)> {
    let empty = br#"{"version":3,"tensors":[]}"#;
    let empty = [&(empty.len() as u32).to_le_bytes()[..], empty].concat();
    let files = ["v2", "v3", "v31"].map(|name| (name, read(&format!("grail/{name}.zst"))));
    files.into_iter().chain([("empty", empty)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_are_deltas_that_the_base_takes() {
        let made = |parse: fn(&[u8]) -> Option<Delta<'_>>, seeds: Vec<(&str, Vec<u8>)>| {
            seeds.iter().map(|(_, bytes)| check(parse(bytes))).collect::<Vec<_>>()
        };
        // Of the tensors that change, one is too large for this base.
        assert_eq!(made(parse_index_delta, index_deltas()), [6, 6, 6, 0]);
        assert_eq!(made(parse_trl, trl_deltas()), [2, 0, 2, 2, 3]);
        assert_eq!(made(parse_skyrl, skyrl_deltas()), [6, 0, 0]);
        assert_eq!(made(parse_nemo_rl, nemo_rl_deltas()), [6, 6, 0]);
        assert_eq!(made(parse_grail, grail_deltas()), [3, 3, 3, 0]);
    }
}
