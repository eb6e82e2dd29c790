//! The speed of the codec on prepared buffers, relative to memcpy in the same run, on one thread and on all.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Barrier;
use std::time::Instant;

use anyhow::{Result, ensure};
use serde::Serialize;
use tensorpatch_codec::{ChunkContext, ChunkDecoder, ChunkEncoder, Level, leaf_digest};
use tensorpatch_format::{ElementFormat, Encoding, LeafDigest, LeafHash, Profile};

use crate::clock::{Seconds, median};
use crate::pair::Pair;
use crate::rivals::XOR;

/// One number for each thing that is timed.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Each {
    /// Copying the base.
    pub memcpy: f64,
    /// Hashing the base, chunk by chunk.
    pub hash: f64,
    /// Encoding a pair without a change, the base's leaves known.
    pub unchanged: f64,
    /// Encoding, with the hash of the new bytes.
    pub encode: f64,
    /// Applying into another buffer, and hashing what changed.
    pub apply: f64,
    /// Applying in place, and hashing what changed.
    pub in_place: f64,
}

impl Each {
    fn of(mut work: impl FnMut(Kind) -> f64) -> Self {
        Self {
            memcpy: work(Kind::Memcpy),
            hash: work(Kind::Hash),
            unchanged: work(Kind::Unchanged),
            encode: work(Kind::Encode),
            apply: work(Kind::Apply),
            in_place: work(Kind::InPlace),
        }
    }

    fn get(&self, kind: Kind) -> f64 {
        match kind {
            Kind::Memcpy => self.memcpy,
            Kind::Hash => self.hash,
            Kind::Unchanged => self.unchanged,
            Kind::Encode => self.encode,
            Kind::Apply => self.apply,
            Kind::InPlace => self.in_place,
        }
    }
}

/// What is timed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Memcpy,
    Hash,
    Unchanged,
    Encode,
    Apply,
    InPlace,
}

/// What one level does. All numbers are medians over the passes; ratios are taken within each pass.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The instructions.
    pub level: &'static str,
    /// Bytes of all payloads.
    pub payload_bytes: usize,
    /// Seconds on one thread, of its processor.
    pub seconds: Each,
    /// GB of model a second on one thread, by the time of its processor.
    pub one_thread: Each,
    /// The same relative to memcpy.
    pub per_memcpy: Each,
    /// How many times as fast as the XOR of whole tensors through zstd-1 with the same hash: encode, and
    /// apply in place.
    pub per_xor: [f64; 2],
    /// The same on all threads, by the clock on the wall.
    pub all_threads: AllThreads,
}

/// What one level does on all threads, each with its own encoder and decoder over its share of the chunks.
#[derive(Debug, Clone, Serialize)]
pub struct AllThreads {
    /// How many.
    pub threads: usize,
    /// GB of model a second.
    pub speed: Each,
    /// Relative to memcpy on as many threads.
    pub per_memcpy: Each,
    /// Relative to one thread, both by the clock on the wall.
    pub per_one_thread: Each,
}

type Record = Option<(Encoding, Range<usize>, LeafDigest)>;

/// A share of the chunks, and what works on it.
pub(crate) struct Worker {
    chunks: Vec<(ElementFormat, Range<usize>)>,
    leaves: Vec<LeafDigest>,
    records: Vec<Record>,
    payloads: Vec<u8>,
    encoder: ChunkEncoder,
    decoder: ChunkDecoder,
    profile: Profile,
}

/// The workers of so many threads. Each gets every so manieth chunk, since tensors differ in what they cost.
pub(crate) fn workers(pair: &Pair, level: Level, profile: Profile, threads: usize) -> Vec<Worker> {
    let worker = || Worker {
        chunks: Vec::new(),
        leaves: Vec::new(),
        records: Vec::new(),
        payloads: Vec::with_capacity(pair.bytes() / threads),
        encoder: ChunkEncoder::with_level(level),
        decoder: ChunkDecoder::with_level(level),
        profile,
    };
    let mut workers: Vec<Worker> = (0..threads).map(|_| worker()).collect();
    for (number, (format, range)) in pair.chunks().enumerate() {
        let worker = &mut workers[number % threads];
        worker.leaves.push(leaf_digest(LeafHash::Xxh3, &pair.base[range.clone()]));
        worker.records.push(None);
        worker.chunks.push((format, range));
    }
    workers
}

impl Worker {
    /// Bytes of all payloads.
    pub(crate) fn payload_bytes(&self) -> usize {
        self.payloads.len()
    }

    fn cx(&self, format: ElementFormat) -> ChunkContext {
        ChunkContext { format, profile: self.profile, leaf_hash: LeafHash::Xxh3 }
    }

    /// `buffers` are the bytes of the chunks of the share.
    fn work(&mut self, kind: Kind, pair: &Pair, buffers: &mut [&mut [u8]]) -> Result<()> {
        for (index, buffer) in buffers.iter_mut().enumerate() {
            let (format, range) = self.chunks[index].clone();
            let cx = self.cx(format);
            let (old, new) = (&pair.base[range.clone()], &pair.target[range.clone()]);
            match (kind, &self.records[index]) {
                (Kind::Memcpy, _) | (Kind::Apply, None) => buffer.copy_from_slice(old),
                (Kind::Hash, _) => {
                    std::hint::black_box(leaf_digest(LeafHash::Xxh3, old));
                }
                (Kind::Unchanged, _) => {
                    let leaf = Some(self.leaves[index]);
                    let encoded = self.encoder.encode(cx, old, buffer, leaf, &mut self.payloads);
                    ensure!(encoded.encoding.is_none(), "the copy differs from the base");
                }
                (Kind::Encode, _) => {
                    if index == 0 {
                        self.payloads.clear();
                    }
                    let (start, leaf) = (self.payloads.len(), Some(self.leaves[index]));
                    let encoded = self.encoder.encode(cx, old, new, leaf, &mut self.payloads);
                    self.records[index] =
                        encoded.encoding.map(|encoding| (encoding, start..self.payloads.len(), encoded.leaf));
                }
                (Kind::Apply, Some((encoding, payload, leaf))) => {
                    let payload = &self.payloads[payload.clone()];
                    let found = self.decoder.decode(cx, *encoding, payload, Some(old), buffer)?;
                    ensure!(found == *leaf, "a chunk has another digest");
                }
                (Kind::InPlace, Some((encoding, payload, leaf))) => {
                    let payload = &self.payloads[payload.clone()];
                    let found = self.decoder.decode_in_place(cx, *encoding, payload, buffer)?;
                    ensure!(found == *leaf, "a chunk has another digest");
                }
                (Kind::InPlace, None) => {}
            }
        }
        Ok(())
    }
}

/// Does one kind of work on as many threads as there are workers. The clock on the wall runs from when all
/// are ready to when the last is done.
pub(crate) fn timed(workers: &mut [Worker], kind: Kind, pair: &Pair, buffer: &mut [u8]) -> Result<Seconds> {
    let (mut buffers, mut rest, mut at) = (Vec::new(), buffer, 0);
    buffers.resize_with(workers.len(), Vec::new);
    for number in 0..workers.iter().map(|worker| worker.chunks.len()).sum() {
        let (owner, index) = (number % workers.len(), number / workers.len());
        let range = &workers[owner].chunks[index].1;
        let (chunk, after) = rest.split_at_mut(range.end - at);
        buffers[owner].push(&mut chunk[range.start - at..]);
        (rest, at) = (after, range.end);
    }
    let shares: Vec<(&mut Worker, Vec<&mut [u8]>)> = workers.iter_mut().zip(buffers).collect();
    let barrier = Barrier::new(shares.len());
    let run = |worker: &mut Worker, mut share: Vec<&mut [u8]>| {
        barrier.wait();
        let start = Instant::now();
        let mut result = Ok(());
        let seconds = Seconds::of(|| result = worker.work(kind, pair, &mut share));
        result.map(|()| (start, Instant::now(), seconds))
    };
    let done: Vec<_> = if shares.len() == 1 {
        shares.into_iter().map(|(worker, share)| run(worker, share)).collect()
    } else {
        std::thread::scope(|scope| {
            let run = &run;
            let threads: Vec<_> =
                shares.into_iter().map(|(worker, share)| scope.spawn(move || run(worker, share))).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|_| anyhow::bail!("a thread panicked")))
                .collect()
        })
    };
    let done = done.into_iter().collect::<Result<Vec<_>>>()?;
    let start = done.iter().map(|(start, ..)| *start).min();
    let end = done.iter().map(|(_, end, _)| *end).max();
    let wall = start.zip(end).map_or(0.0, |(start, end)| (end - start).as_secs_f64());
    Ok(Seconds { wall, thread: done.iter().map(|(.., seconds)| seconds.thread).sum() })
}

/// Everything once, in an order in which each finds the buffers as it needs them.
fn pass(workers: &mut [Worker], pair: &Pair, copy: &mut [u8], beside: &mut [u8]) -> Result<[Each; 2]> {
    let mut failed = None;
    let mut wall = Vec::new();
    let thread = Each::of(|kind| {
        let buffer = if matches!(kind, Kind::Apply) { &mut *beside } else { &mut *copy };
        let seconds = timed(workers, kind, pair, buffer).unwrap_or_else(|error| {
            failed.get_or_insert(error);
            Seconds::default()
        });
        wall.push(seconds.wall);
        seconds.thread
    });
    if let Some(error) = failed {
        return Err(error);
    }
    ensure!(beside == &*pair.target && copy == &*pair.target, "the target does not come back");
    let mut wall = wall.into_iter();
    Ok([thread, Each::of(|_| wall.next().unwrap_or(f64::NAN))])
}

/// The XOR of whole tensors through zstd-1, with the hash of the new state on both sides: seconds to encode
/// and to apply in place, on this thread.
pub(crate) fn xor(pair: &Pair, copy: &mut [u8]) -> Result<[f64; 2]> {
    let mut seconds = [0.0; 2];
    copy.copy_from_slice(&pair.base);
    for tensor in &pair.tensors {
        let range = tensor.range.clone();
        let (old, new) = (&pair.base[range.clone()], &pair.target[range.clone()]);
        let mut patch = Ok(Vec::new());
        seconds[0] += Seconds::of(|| patch = XOR.encode_and_hash(old, new)).thread;
        let patch = patch?;
        let mut applied = Ok(());
        seconds[1] += Seconds::of(|| applied = XOR.apply_and_hash(&patch, &mut copy[range])).thread;
        applied?;
    }
    ensure!(copy == &*pair.target, "the XOR does not give the target back");
    Ok(seconds)
}

/// Runs one level over a pair `passes` times.
///
/// # Errors
/// If what is decoded is not the target.
pub fn run(
    pair: &Pair,
    level: Level,
    profile: Profile,
    threads: NonZeroUsize,
    passes: usize,
) -> Result<Report> {
    let mut one = workers(pair, level, profile, 1);
    let mut all = workers(pair, level, profile, threads.get());
    let mut copy = pair.base.clone();
    let mut beside = pair.base.clone();
    let mut passed = Vec::new();
    for number in 0..=passes {
        let [thread, wall] = pass(&mut one, pair, &mut copy, &mut beside)?;
        let [_, all_wall] = pass(&mut all, pair, &mut copy, &mut beside)?;
        let xor = xor(pair, &mut copy)?;
        // The first pass warms caches, pages and contexts up.
        if number > 0 {
            passed.push((thread, wall, all_wall, xor));
        }
    }
    let speed = |seconds: f64| pair.bytes() as f64 / seconds / 1e9;
    let thread = |kind| passed.iter().map(move |(thread, ..)| thread.get(kind));
    let wall = |kind| passed.iter().map(move |(_, wall, ..)| wall.get(kind));
    let all_wall = |kind| passed.iter().map(move |(_, _, all, _)| all.get(kind));
    let ratio = |of: Vec<f64>, to: Vec<f64>| median(of.iter().zip(&to).map(|(of, to)| to / of));
    let per_xor = |kind, index: usize| {
        ratio(thread(kind).collect(), passed.iter().map(|(.., xor)| xor[index]).collect())
    };
    let memcpy = Kind::Memcpy;
    Ok(Report {
        level: level.name(),
        payload_bytes: one.iter().map(Worker::payload_bytes).sum(),
        seconds: Each::of(|kind| median(thread(kind))),
        one_thread: Each::of(|kind| speed(median(thread(kind)))),
        per_memcpy: Each::of(|kind| ratio(thread(kind).collect(), thread(memcpy).collect())),
        per_xor: [per_xor(Kind::Encode, 0), per_xor(Kind::InPlace, 1)],
        all_threads: AllThreads {
            threads: all.len(),
            speed: Each::of(|kind| speed(median(all_wall(kind)))),
            per_memcpy: Each::of(|kind| ratio(all_wall(kind).collect(), all_wall(memcpy).collect())),
            per_one_thread: Each::of(|kind| ratio(all_wall(kind).collect(), wall(kind).collect())),
        },
    })
}
