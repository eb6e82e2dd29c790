//! The speed of the codec on prepared buffers, relative to memcpy in the same run.

use tensorpatch_codec::{ChunkContext, ChunkDecoder, ChunkEncoder, Level};
use tensorpatch_format::{Encoding, LeafDigest, LeafHash, Profile};

use crate::pair::Pair;

/// Seconds of one pass over a pair.
#[derive(Debug, Clone, Copy)]
pub struct Seconds {
    /// Copying the base.
    pub memcpy: f64,
    /// Encoding, with the hash of the new bytes.
    pub encode: f64,
    /// Applying into another buffer and hashing.
    pub apply: f64,
    /// Applying in place and hashing.
    pub in_place: f64,
}

/// What one level does on one thread.
#[derive(Debug, Clone)]
pub struct Report {
    /// The instructions.
    pub level: Level,
    /// Bytes of all payloads.
    pub payload_bytes: usize,
    /// Chunks with a payload.
    pub records: usize,
    /// Changed elements.
    pub changed: u64,
    /// The fastest pass of each kind.
    pub best: Seconds,
    /// Medians of the ratios to the memcpy of the same pass: encode, apply, in place.
    pub ratios: [f64; 3],
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Processor seconds of this thread: what others do on a shared machine counts less than on a wall clock.
fn time(work: impl FnOnce()) -> f64 {
    let now = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
    };
    let start = now();
    work();
    now() - start
}

/// Runs one level over a pair on this thread, `passes` times.
///
/// # Panics
/// If what is decoded is not the target.
pub fn run(pair: &Pair, level: Level, profile: Profile, passes: usize) -> Report {
    let chunks: Vec<_> = pair.chunks().collect();
    let cx = |format| ChunkContext { format, profile, leaf_hash: LeafHash::Xxh3 };
    let mut encoder = ChunkEncoder::with_level(level);
    let mut decoder = ChunkDecoder::with_level(level);
    let mut records: Vec<Option<(Encoding, std::ops::Range<usize>, LeafDigest)>> = vec![None; chunks.len()];
    let mut payloads = Vec::with_capacity(pair.bytes());
    let mut copy = pair.base.clone();
    let mut beside = pair.base.clone();
    let mut changed = 0;
    let mut passed: Vec<Seconds> = Vec::new();
    for _ in 0..=passes {
        let memcpy = time(|| {
            for (_, range) in &chunks {
                copy[range.clone()].copy_from_slice(&pair.base[range.clone()]);
            }
        });
        let encode = time(|| {
            payloads.clear();
            changed = 0;
            for ((format, range), record) in chunks.iter().zip(&mut records) {
                let start = payloads.len();
                let (old, new) = (&pair.base[range.clone()], &pair.target[range.clone()]);
                let encoded = encoder.encode(cx(*format), old, new, None, &mut payloads);
                changed += encoded.changed_elements;
                *record = encoded.encoding.map(|encoding| (encoding, start..payloads.len(), encoded.leaf));
            }
        });
        let apply = time(|| {
            for ((format, range), record) in chunks.iter().zip(&records) {
                let (old, new) = (&pair.base[range.clone()], &mut beside[range.clone()]);
                match record {
                    Some((encoding, payload, leaf)) => {
                        let payload = &payloads[payload.clone()];
                        let found = decoder.decode(cx(*format), *encoding, payload, Some(old), new);
                        assert_eq!(found, Ok(*leaf));
                    }
                    None => new.copy_from_slice(old),
                }
            }
        });
        let in_place = time(|| {
            for ((format, range), record) in chunks.iter().zip(&records) {
                if let Some((encoding, payload, leaf)) = record {
                    let payload = &payloads[payload.clone()];
                    let found =
                        decoder.decode_in_place(cx(*format), *encoding, payload, &mut copy[range.clone()]);
                    assert_eq!(found, Ok(*leaf));
                }
            }
        });
        assert!(beside == pair.target && copy == pair.target, "the target comes back");
        passed.push(Seconds { memcpy, encode, apply, in_place });
    }
    passed.remove(0);
    let best = |of: fn(&Seconds) -> f64| passed.iter().map(of).fold(f64::INFINITY, f64::min);
    let ratio = |of: fn(&Seconds) -> f64| median(passed.iter().map(|pass| pass.memcpy / of(pass)).collect());
    Report {
        level,
        payload_bytes: payloads.len(),
        records: records.iter().flatten().count(),
        changed,
        best: Seconds {
            memcpy: best(|pass| pass.memcpy),
            encode: best(|pass| pass.encode),
            apply: best(|pass| pass.apply),
            in_place: best(|pass| pass.in_place),
        },
        ratios: [ratio(|pass| pass.encode), ratio(|pass| pass.apply), ratio(|pass| pass.in_place)],
    }
}
