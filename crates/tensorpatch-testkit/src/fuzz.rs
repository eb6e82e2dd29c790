//! The bodies of the fuzz targets. Each is a sentence that holds for all bytes; it panics where it does not.

mod checkpoint;
mod chunk;
mod differential;
mod header;
mod patch;
mod pieces;
mod records;

use tensorpatch_format::Limits;

pub use checkpoint::checkpoint_round_trip;
pub use chunk::{decode_chunk, round_trip};
pub use differential::{chunk_decoders_agree, decoders_agree};
pub use header::safetensors_header;
pub use patch::{apply_patch, parse_patch};
pub use pieces::parse_pieces;
pub use records::stream_records;

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

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "safetensors_header", run: safetensors_header, seeds: header::seeds },
    Target { name: "stream_records", run: stream_records, seeds: records::seeds },
    Target { name: "parse_patch", run: parse_patch, seeds: differential::vectors },
    Target { name: "apply_patch", run: apply_patch, seeds: patch::real_patches },
    Target { name: "decode_chunk", run: decode_chunk, seeds: chunk::payloads },
    Target { name: "round_trip", run: round_trip, seeds: chunk::pairs },
    Target { name: "parse_pieces", run: parse_pieces, seeds: pieces::seeds },
    Target { name: "checkpoint_round_trip", run: checkpoint_round_trip, seeds: checkpoint::seeds },
    Target { name: "decoders_agree", run: decoders_agree, seeds: differential::patches },
    Target { name: "chunk_decoders_agree", run: chunk_decoders_agree, seeds: differential::payloads },
];

/// Limits that keep one run of a fuzz target small.
fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.tensors = 1 << 16;
    limits.metadata_bytes = 1 << 24;
    limits.state_bytes = 1 << 24;
    limits
}
