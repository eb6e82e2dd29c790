//! The table: every encoding on the same pair in the same run.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, ensure};
use serde::Serialize;
use tensorpatch_codec::{ChunkContext, ChunkDecoder, ChunkEncoder};
use tensorpatch_format::{ElementFormat, Encoding, LeafHash, Profile};

use crate::clock::{Seconds, median};
use crate::pair::Pair;
use crate::rivals::{RIVALS, Rival};

/// One encoding, measured.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The encoding.
    pub name: String,
    /// Bytes of the patch.
    pub bytes: u64,
    /// On one thread, by the time of its processor.
    pub one_thread: Speed,
    /// On all threads, by the clock on the wall.
    pub all_threads: Speed,
}

/// GB of model a second, the median of all passes.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Speed {
    /// Base and target to a patch.
    pub encode: f64,
    /// Base and patch to the target, in place, and the hash of what changed.
    pub apply_verify: f64,
}

/// Does `work` for each index below `count` on so many threads.
fn on_threads(threads: usize, count: usize, work: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
    let next = AtomicUsize::new(0);
    let run = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return Ok(());
            }
            work(index)?;
        }
    };
    if threads == 1 {
        return run();
    }
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap_or_else(|_| anyhow::bail!("a thread panicked")))
    })
}

/// Seconds of that work: of the processor if there is one thread, which what others do counts less in, else
/// on the wall.
fn timed(threads: usize, count: usize, work: impl Fn(usize) -> Result<()> + Sync) -> Result<f64> {
    let mut result = Ok(());
    let seconds = Seconds::of(|| result = on_threads(threads, count, work));
    result.map(|()| if threads == 1 { seconds.thread } else { seconds.wall })
}

/// What is worked on by one thread at a time: a tensor, or a chunk of one.
struct Piece {
    format: ElementFormat,
    range: std::ops::Range<usize>,
}

/// A way to encode and apply a piece.
trait Method: Sync {
    fn name(&self) -> String;
    fn encode(&self, format: ElementFormat, old: &[u8], new: &[u8]) -> Result<Vec<u8>>;
    fn apply(&self, format: ElementFormat, patch: &[u8], target: &mut [u8]) -> Result<()>;
}

impl Method for Rival {
    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn encode(&self, _: ElementFormat, old: &[u8], new: &[u8]) -> Result<Vec<u8>> {
        self.encode_and_hash(old, new)
    }

    fn apply(&self, _: ElementFormat, patch: &[u8], target: &mut [u8]) -> Result<()> {
        self.apply_and_hash(patch, target)
    }
}

/// tensorpatch, chunk by chunk.
struct Own(Profile);

thread_local! {
    static CODEC: std::cell::RefCell<(ChunkEncoder, ChunkDecoder)> = std::cell::RefCell::default();
}

impl Method for Own {
    fn name(&self) -> String {
        format!("tensorpatch {}", self.0)
    }

    fn encode(&self, format: ElementFormat, old: &[u8], new: &[u8]) -> Result<Vec<u8>> {
        let cx = ChunkContext { format, profile: self.0, leaf_hash: LeafHash::Xxh3 };
        let mut out = vec![0];
        CODEC.with_borrow_mut(|(encoder, _)| {
            let encoded = encoder.encode(cx, old, new, None, &mut out);
            out[0] = encoded.encoding.map_or(0, Encoding::code);
        });
        Ok(out)
    }

    fn apply(&self, format: ElementFormat, patch: &[u8], target: &mut [u8]) -> Result<()> {
        let cx = ChunkContext { format, profile: self.0, leaf_hash: LeafHash::Xxh3 };
        if let Some(encoding) = Encoding::from_code(patch[0]) {
            CODEC
                .with_borrow_mut(|(_, decoder)| decoder.decode_in_place(cx, encoding, &patch[1..], target))?;
        }
        Ok(())
    }
}

/// Passes over all pieces: the speeds, and the bytes of all patches.
fn measure(
    method: &dyn Method,
    pieces: &[Piece],
    pair: &Pair,
    threads: usize,
    passes: usize,
) -> Result<(Speed, u64)> {
    let slots: Vec<_> = pieces.iter().map(|_| std::sync::Mutex::new((Vec::new(), Vec::new()))).collect();
    let (mut encode, mut apply) = (Vec::new(), Vec::new());
    let lock = |index: usize| slots[index].lock().map_err(|_| anyhow::anyhow!("a thread panicked"));
    for pass in 0..=passes {
        let encoded = timed(threads, pieces.len(), |index| {
            let Piece { format, range } = &pieces[index];
            let patch = method.encode(*format, &pair.base[range.clone()], &pair.target[range.clone()])?;
            lock(index)?.0 = patch;
            Ok(())
        })?;
        for (index, piece) in pieces.iter().enumerate() {
            let target = &mut lock(index)?.1;
            target.clear();
            target.extend_from_slice(&pair.base[piece.range.clone()]);
        }
        let applied = timed(threads, pieces.len(), |index| {
            let (patch, target) = &mut *lock(index)?;
            method.apply(pieces[index].format, patch, target)
        })?;
        for (index, piece) in pieces.iter().enumerate() {
            ensure!(
                lock(index)?.1 == pair.target[piece.range.clone()],
                "{} does not give the target",
                method.name()
            );
        }
        // The first pass warms caches, pages and contexts up.
        if pass > 0 {
            encode.push(encoded);
            apply.push(applied);
        }
    }
    let mut bytes = 0;
    for index in 0..pieces.len() {
        bytes += lock(index)?.0.len() as u64;
    }
    let speed = |seconds| pair.bytes() as f64 / median(seconds) / 1e9;
    Ok((Speed { encode: speed(encode), apply_verify: speed(apply) }, bytes))
}

/// The speed of memcpy over the tensors, in GB a second: on one thread, and on all.
///
/// # Errors
/// If a thread panics.
pub fn memcpy(pair: &Pair, threads: NonZeroUsize, passes: usize) -> Result<[f64; 2]> {
    let chunks: Vec<_> = pair.chunks().map(|(_, range)| range).collect();
    let copies: Vec<_> =
        chunks.iter().map(|range| std::sync::Mutex::new(pair.base[range.clone()].to_vec())).collect();
    let mut speeds = [0.0; 2];
    for (speed, threads) in speeds.iter_mut().zip([1, threads.get()]) {
        let mut seconds = Vec::new();
        for _ in 0..passes {
            seconds.push(timed(threads, chunks.len(), |index| {
                let mut copy = copies[index].lock().map_err(|_| anyhow::anyhow!("a thread panicked"))?;
                copy.copy_from_slice(&pair.base[chunks[index].clone()]);
                Ok(())
            })?);
        }
        *speed = pair.bytes() as f64 / median(seconds) / 1e9;
    }
    Ok(speeds)
}

/// Measures every encoding that can hold the pair's elements. `file_bytes` are the sizes of whole patch files
/// of the two profiles.
///
/// # Errors
/// If an encoding does not give the target back.
pub fn rows(pair: &Pair, file_bytes: [u64; 2], threads: NonZeroUsize, passes: usize) -> Result<Vec<Row>> {
    let two_bytes = pair.tensors.iter().all(|tensor| tensor.format.width() == 2);
    let tensors: Vec<Piece> = pair
        .tensors
        .iter()
        .map(|tensor| Piece { format: tensor.format, range: tensor.range.clone() })
        .collect();
    let chunks: Vec<Piece> = pair.chunks().map(|(format, range)| Piece { format, range }).collect();
    let mut rows = Vec::new();
    let mut add = |method: &dyn Method, pieces: &[Piece], file_bytes: Option<u64>| -> Result<()> {
        let (one_thread, bytes) = measure(method, pieces, pair, 1, passes)?;
        let (all_threads, _) = measure(method, pieces, pair, threads.get(), passes)?;
        let bytes = file_bytes.unwrap_or(bytes);
        rows.push(Row { name: method.name(), bytes, one_thread, all_threads });
        Ok(())
    };
    for (profile, bytes) in [Profile::Compact, Profile::Direct].into_iter().zip(file_bytes) {
        add(&Own(profile), &chunks, Some(bytes))?;
    }
    for rival in RIVALS.iter().filter(|rival| two_bytes || rival.any_width) {
        add(rival, &tensors, None)?;
    }
    Ok(rows)
}
