//! How many times as fast as the XOR of whole tensors the codec is, at every level and in one run.

use anyhow::{Result, ensure};
use serde::Serialize;
use tensorpatch_codec::Level;
use tensorpatch_format::Profile;

use crate::kernels::{Kind, timed, workers, xor};
use crate::pair::Pair;

/// What one level does. Times are the least of all passes: what others do on the machine only adds to them.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The instructions.
    pub level: &'static str,
    /// Bytes of all payloads.
    pub payload_bytes: usize,
    /// Seconds on one thread, of its processor: to encode, with the hash of the new bytes, and to apply in
    /// place, with the hash of what changed.
    pub seconds: [f64; 2],
    /// GB of model a second.
    pub speed: [f64; 2],
    /// How many times as fast as the XOR of whole tensors through zstd-1 with the same hash.
    pub per_xor: [f64; 2],
}

/// Runs all levels and the XOR over a pair `passes` times, in turn.
///
/// # Errors
/// If what is decoded is not the target.
pub fn run(pair: &Pair, levels: &[Level], passes: usize) -> Result<Vec<Row>> {
    let mut of_levels: Vec<_> =
        levels.iter().map(|&level| (workers(pair, level, Profile::Compact, 1), [f64::INFINITY; 2])).collect();
    let mut of_xor = [f64::INFINITY; 2];
    let mut copy = pair.base.clone();
    // The first pass warms caches, pages and contexts up.
    for _ in 0..=passes {
        for (least, seconds) in of_xor.iter_mut().zip(xor(pair, &mut copy)?) {
            *least = least.min(seconds);
        }
        for (workers, seconds) in &mut of_levels {
            copy.copy_from_slice(&pair.base);
            for (least, kind) in seconds.iter_mut().zip([Kind::Encode, Kind::InPlace]) {
                *least = least.min(timed(workers, kind, pair, &mut copy)?.thread);
            }
            ensure!(copy == pair.target, "the target does not come back");
        }
    }
    let bytes = pair.bytes() as f64;
    let row = |(level, (workers, seconds)): (&Level, &(Vec<_>, [f64; 2]))| Row {
        level: level.name(),
        payload_bytes: workers.iter().map(crate::kernels::Worker::payload_bytes).sum(),
        seconds: *seconds,
        speed: seconds.map(|seconds| bytes / seconds / 1e9),
        per_xor: [of_xor[0] / seconds[0], of_xor[1] / seconds[1]],
    };
    Ok(levels.iter().zip(&of_levels).map(row).collect())
}
