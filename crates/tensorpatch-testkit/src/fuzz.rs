//! The bodies of the fuzz targets. Each is a sentence that holds for all bytes; it panics where it does not.

mod checkpoint;
mod chunk;
mod differential;
mod formats;
mod header;
mod patch;
mod pieces;
mod records;
mod safetensors_crate;

use std::path::Path;

use tensorpatch_format::Limits;

pub use checkpoint::checkpoint_round_trip;
pub use chunk::{decode_chunk, round_trip};
pub use differential::{chunk_decoders_agree, decoders_agree};
pub use formats::{grail_delta, index_delta, nemo_rl_delta, skyrl_delta, trl_delta};
pub use header::safetensors_header;
pub use patch::{apply_patch, parse_patch};
pub use pieces::parse_pieces;
pub use records::stream_records;
pub use safetensors_crate::safetensors_crate;

/// A fuzz target: its file is `fuzz/fuzz_targets/NAME.rs`.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The name.
    pub name: &'static str,
    /// What is done with an input.
    pub run: fn(&[u8]),
    /// Makes inputs to start from, each with a name.
    pub seeds: fn() -> Vec<(&'static str, Vec<u8>)>,
}

impl Target {
    /// What a fuzzer starts from, each with the name of its file: the seeds, and what once made the target
    /// fail (`fuzz/crashes/TARGET.what-was-wrong`).
    ///
    /// # Errors
    /// If the crashes cannot be read.
    pub fn inputs(&self) -> std::io::Result<Vec<(String, Vec<u8>)>> {
        self.inputs_with(Path::new(CRASHES))
    }

    fn inputs_with(&self, crashes: &Path) -> std::io::Result<Vec<(String, Vec<u8>)>> {
        let seeds = (self.seeds)().into_iter().map(|(name, bytes)| (format!("seed-{name}"), bytes));
        let mut inputs: Vec<_> = seeds.collect();
        for entry in std::fs::read_dir(crashes)? {
            let path = entry?.path();
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            if let Some((_, what)) = file.split_once('.').filter(|(name, _)| *name == self.name) {
                inputs.push((format!("crash-{what}"), std::fs::read(&path)?));
            }
        }
        inputs.sort();
        Ok(inputs)
    }
}

/// What once made a target fail.
const CRASHES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/crashes");

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "safetensors_header", run: safetensors_header, seeds: header::seeds },
    Target { name: "safetensors_crate", run: safetensors_crate, seeds: safetensors_crate::seeds },
    Target { name: "stream_records", run: stream_records, seeds: records::seeds },
    Target { name: "parse_patch", run: parse_patch, seeds: differential::vectors },
    Target { name: "apply_patch", run: apply_patch, seeds: patch::real_patches },
    Target { name: "decode_chunk", run: decode_chunk, seeds: chunk::payloads },
    Target { name: "round_trip", run: round_trip, seeds: chunk::pairs },
    Target { name: "parse_pieces", run: parse_pieces, seeds: pieces::seeds },
    Target { name: "checkpoint_round_trip", run: checkpoint_round_trip, seeds: checkpoint::seeds },
    Target { name: "decoders_agree", run: decoders_agree, seeds: differential::patches },
    Target { name: "chunk_decoders_agree", run: chunk_decoders_agree, seeds: differential::payloads },
    Target { name: "index_delta", run: index_delta, seeds: formats::index_deltas },
    Target { name: "trl_delta", run: trl_delta, seeds: formats::trl_deltas },
    Target { name: "skyrl_delta", run: skyrl_delta, seeds: formats::skyrl_deltas },
    Target { name: "nemo_rl_delta", run: nemo_rl_delta, seeds: formats::nemo_rl_deltas },
    Target { name: "grail_delta", run: grail_delta, seeds: formats::grail_deltas },
];

/// Limits that keep one run of a fuzz target small.
fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.tensors = 1 << 16;
    limits.metadata_bytes = 1 << 24;
    limits.state_bytes = 1 << 24;
    limits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fuzzer_starts_from_the_seeds_and_from_what_once_made_its_target_fail() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["parse_patch.overflow", "parse_pieces.other", "README.md"] {
            std::fs::write(directory.path().join(name), name).unwrap();
        }
        let target = TARGETS.iter().find(|target| target.name == "parse_patch").unwrap();
        let inputs = target.inputs_with(directory.path()).unwrap();
        let crashes: Vec<_> = inputs.iter().filter(|(name, _)| name.starts_with("crash-")).collect();
        assert_eq!(crashes, [&("crash-overflow".to_owned(), b"parse_patch.overflow".to_vec())]);
        assert!(inputs.iter().any(|(name, _)| name == "seed-header-crc"));
        assert_eq!(inputs.len(), (target.seeds)().len() + 1);
        assert!(target.inputs().unwrap().len() >= (target.seeds)().len());
    }
}
