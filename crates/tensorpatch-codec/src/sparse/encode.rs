//! Base, target and the marks of what changed to a `sparse` payload.

use crate::bits::BitWriter;
use crate::bytes::put_varint;
use crate::element::{Element, Key};
use crate::kernels::{self, BLOCK_BYTES, GROUP, Marks};
use crate::level::Level;

use super::decode::element;
use super::distance::{Distance, SymbolTables};
use super::layout::{self, MAX_HOT_STREAMS, STRIP_BYTES, STRIPS, Streams};
use super::model::{Counts, MAX_CLASSES, Model};
use super::places::{Block, Places};
use super::plan::Lengths;
use super::stream::{Step, Writer};
use super::wide::Wide;

/// Up to this many changed elements, all goes into one stream: several cost about 20 bytes more.
const ONE_STREAM_CHANGES: usize = 1024;
/// From this many hot elements on, eight streams of hot symbols instead of one: they cost about 13 bytes more.
const SERIAL_HOT: usize = 1 << 12;
/// From this many hot elements on, sixteen: they cost about 15 bytes more again.
const MANY_HOT: usize = 1 << 15;
/// About so many elements are looked at to estimate how many there are of each key.
const SAMPLE: usize = 1 << 15;

/// Encodes chunks, with scratch memory kept in between.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    counts: Counts,
    tallies: Tallies,
    observed: usize,
    hot: Marks,
    sums: Vec<u16>,
    starts: Vec<u32>,
    cold: Vec<u16>,
    symbols: SymbolTables,
    kinds: Kinds,
    /// Instead of their kinds, where vectors find these: the old and the new values of hot elements.
    hot_olds: Vec<u16>,
    hot_news: Vec<u16>,
    writers: [Writer; MAX_HOT_STREAMS + STRIPS],
    steps: [Vec<Step>; STRIPS],
    streams: Vec<u8>,
    lens: Vec<usize>,
}

/// Class and kind of hot elements, and the distances that are more than a kind, in order.
#[derive(Debug, Default)]
struct Kinds {
    all: Vec<(u8, u8)>,
    far: Vec<Distance>,
}

impl Kinds {
    fn clear(&mut self) {
        self.all.clear();
        self.far.clear();
    }

    fn push(&mut self, symbols: &SymbolTables, key: usize, distance: Distance) {
        self.all.push((symbols.class(key), distance.kind()));
        if distance.is_far() {
            self.far.push(distance);
        }
    }
}

/// Counts of elements by key. Four of each, since neighbours often have the same key and would wait for each other.
#[derive(Debug)]
struct Tallies([[u32; 256]; 4]);

impl Default for Tallies {
    fn default() -> Self {
        Self([[0; 256]; 4])
    }
}

impl Encoder {
    /// Forgets the chunk before.
    pub(crate) fn begin(&mut self) {
        self.counts.reset();
        self.tallies = Tallies::default();
        self.observed = 0;
    }

    /// Counts what matters for the model up to the end of a block, while the block is in the cache.
    ///
    /// `base` and `target` are the whole chunks; `marks` are the changed elements of the block that starts at `start`. Blocks
    /// without changes may be left out until there is one.
    pub(crate) fn observe<T: Element>(
        &mut self,
        key: Key,
        base: &[u8],
        target: &[u8],
        start: usize,
        marks: &[u16],
    ) {
        let (olds, news) = (&base[start..], &target[start..]);
        for &mark in marks {
            let old: T = element(olds, usize::from(mark));
            let distance = Distance::between(old, element(news, usize::from(mark)));
            self.counts.add_change(key.find(old), distance.bits());
        }
        // One group in `every`, a power of two.
        let every = 1usize << (base.len() / T::WIDTH / SAMPLE).max(1).ilog2();
        let end = base.len().min(start + BLOCK_BYTES);
        let unobserved = base.get(self.observed..end).unwrap_or_default();
        self.observed = end;
        for group in unobserved.chunks(GROUP * T::WIDTH).step_by(every) {
            let mut fours = group.chunks_exact(4 * T::WIDTH);
            for four in &mut fours {
                for (bytes, tally) in four.chunks_exact(T::WIDTH).zip(&mut self.tallies.0) {
                    tally[key.find(T::load(bytes)) & 0xff] += 1;
                }
            }
            for bytes in fours.remainder().chunks_exact(T::WIDTH) {
                self.tallies.0[0][key.find(T::load(bytes)) & 0xff] += 1;
            }
        }
        if end == base.len() {
            for key in 0..256 {
                let tally: u32 = self.tallies.0.iter().map(|tally| tally[key]).sum();
                self.counts.add_elements(key, u64::from(tally) * every as u64);
            }
        }
    }

    /// Appends the payload. `base` and `target` have the same length; the marked elements, at least one, are those that differ,
    /// and all blocks were observed.
    pub(crate) fn encode<T: Element>(
        &mut self,
        level: Level,
        key: Key,
        base: &[u8],
        target: &[u8],
        marks: &Marks,
        out: &mut Vec<u8>,
    ) {
        let mut model = Model::fit(&self.counts, T::WIDTH);
        let scale = model.axis_scale();
        let lengths = Lengths::new(&model, key, scale);
        self.symbols.fill(&model, T::WIDTH);
        let one = marks.len() <= ONE_STREAM_CHANGES;
        let strips = if one { 1 } else { STRIPS };
        let ends = self.walk::<T>(level, &model, &lengths, scale, base, target, marks, strips);
        if model.has_hot() {
            let mut elements = [0; MAX_CLASSES];
            for &(class, _) in &self.kinds.all {
                elements[usize::from(class) % MAX_CLASSES] += 1;
            }
            for &old in &self.hot_olds {
                elements[usize::from(self.symbols.class(key.find(old))) % MAX_CLASSES] += 1;
            }
            model.refit_hot(&self.counts, &elements);
            self.symbols.fill(&model, T::WIDTH);
        }

        let hot_elements = self.kinds.all.len() + self.hot_olds.len();
        let streams = match hot_elements {
            _ if one => Streams::One,
            0..SERIAL_HOT => Streams::Apart { hot: 1 },
            SERIAL_HOT..MANY_HOT => Streams::Apart { hot: 8 },
            _ => Streams::Apart { hot: MAX_HOT_STREAMS },
        };
        let hot_streams = match streams {
            Streams::Apart { hot } if model.has_hot() => hot,
            Streams::Apart { .. } => 0,
            Streams::One => 1,
        };
        let strips = if one || model.has_cold() { strips } else { 0 };
        for (steps, (axis, end)) in self.steps.iter_mut().zip(ends).take(strips) {
            if axis > 0 {
                layout::push_end(axis - end, scale, steps);
            }
        }
        // What is read last is put first. In the one stream these are the cold changes.
        let begun = if one { 1 } else { hot_streams + strips };
        // A symbol, and for its distance at most an escape and two parts of plain bits.
        let hot_steps = 4 * hot_elements.div_ceil(hot_streams.max(1));
        for (i, writer) in self.writers.iter_mut().enumerate().take(begun) {
            let of_strip = if one { Some(0) } else { i.checked_sub(hot_streams) };
            let cold = of_strip.and_then(|strip| self.steps.get(strip)).map_or(0, Vec::len);
            writer.begin(cold + if i < hot_streams { hot_steps } else { 0 });
        }
        let first_strip = if one { 0 } else { hot_streams };
        put_cold(&self.steps[..strips], self.writers.get_mut(first_strip..).unwrap_or_default());
        self.put_hot(Wide::new::<T>(level), &lengths, hot_streams);
        self.streams.clear();
        self.lens.clear();
        for writer in self.writers.iter().take(begun) {
            let start = self.streams.len();
            writer.finish(&mut self.streams);
            self.lens.push(self.streams.len() - start);
        }

        let mut bits = BitWriter::new(out);
        streams.write(&mut bits);
        model.write(&mut bits);
        bits.finish();
        let (hot, cold) = self.lens.split_at(if one { 1 } else { hot_streams });
        if !hot.is_empty() && !cold.is_empty() {
            put_varint(out, hot.iter().sum());
        }
        layout::put_shares(hot, out);
        layout::put_shares(cold, out);
        out.extend_from_slice(&self.streams);
    }

    /// Goes over the chunk block by block: finds the hot elements and their kinds, and makes the steps of the cold changes.
    /// Returns for each strip how long its axis is, and where its last change ends on it.
    #[expect(clippy::too_many_arguments, reason = "what a chunk is encoded with")]
    fn walk<T: Element>(
        &mut self,
        level: Level,
        model: &Model,
        lengths: &Lengths,
        scale: u32,
        base: &[u8],
        target: &[u8],
        marks: &Marks,
        strips: usize,
    ) -> [(u32, u32); STRIPS] {
        let mut ends = [(0, 0); STRIPS];
        let per_strip = STRIP_BYTES / T::WIDTH / GROUP;
        let (has_hot, has_cold) = (model.has_hot(), model.has_cold());
        self.kinds.clear();
        self.hot_olds.clear();
        self.hot_news.clear();
        self.steps.iter_mut().for_each(Vec::clear);
        let blocks = base.chunks(BLOCK_BYTES).zip(target.chunks(BLOCK_BYTES));
        for ((olds, news), marks) in blocks.zip(marks.blocks()) {
            let elements = olds.len() / T::WIDTH;
            self.sums.resize(elements.div_ceil(GROUP), 0);
            self.hot.reset(elements);
            self.hot.block(|hot| kernels::survey::<T>(level, lengths, olds, &mut self.sums, hot));
            if has_cold {
                self.starts.clear();
                for (part, sums) in self.sums.chunks(per_strip).enumerate() {
                    let (axis, _) = &mut ends[part % strips];
                    self.starts.extend(sums.iter().map(|&sum| {
                        let start = *axis;
                        *axis += u32::from(sum);
                        start
                    }));
                }
                // Which elements are cold cannot be foreseen: so no branch depends on it.
                self.cold.resize(marks.len() + 1, 0);
                let mut cold = 0;
                for &mark in marks {
                    self.cold[cold] = mark;
                    cold += usize::from(lengths.of(element::<T>(olds, usize::from(mark))) > 0);
                }
                let places = Places {
                    lengths,
                    scale,
                    starts: &self.starts,
                    symbols: &self.symbols,
                    per_strip,
                    strips,
                };
                let block = Block { olds, news, cold: &self.cold[..cold] };
                places.push::<T>(level, block, &mut self.steps, &mut ends);
            }
            if has_hot && Wide::new::<T>(level).is_some() {
                let value = |of: &[[u8; 2]], mark: &u16| u16::from_le_bytes(of[usize::from(*mark)]);
                let (olds, news) = (olds.as_chunks().0, news.as_chunks().0);
                self.hot_olds.extend(self.hot.last_block().iter().map(|mark| value(olds, mark)));
                self.hot_news.extend(self.hot.last_block().iter().map(|mark| value(news, mark)));
            } else if has_hot {
                for &mark in self.hot.last_block() {
                    let old: T = element(olds, usize::from(mark));
                    let new = element(news, usize::from(mark));
                    self.kinds.push(&self.symbols, lengths.key.find(old), Distance::between(old, new));
                }
            }
        }
        ends
    }

    /// Puts the hot symbols into so many streams, from the last one on: so they take turns, and none waits for its own last one.
    fn put_hot(&mut self, wide: Option<Wide>, lengths: &Lengths, streams: usize) {
        let writers = self.writers.get_mut(..streams).unwrap_or_default();
        if let Some(wide) = wide
            && streams > 1
        {
            return wide.put_hot(writers, lengths, &self.symbols, &mut self.hot_olds, &mut self.hot_news);
        }
        for (&old, &new) in self.hot_olds.iter().zip(&self.hot_news) {
            self.kinds.push(&self.symbols, lengths.key.find(old), Distance::between(old, new));
        }
        let mut far = self.kinds.far.iter().rev();
        for kinds in self.kinds.all.chunks(streams.max(1)).rev() {
            for (&(class, kind), writer) in kinds.iter().zip(&mut *writers).rev() {
                self.symbols.put(class, kind, || far.next().copied(), writer);
            }
        }
    }
}

/// Puts the steps of each strip into its stream. The strips take turns as long as they all have steps.
fn put_cold(steps: &[Vec<Step>], writers: &mut [Writer]) {
    let shortest = steps.iter().map(Vec::len).min().unwrap_or(0);
    for (steps, writer) in steps.iter().zip(&mut *writers) {
        steps.iter().skip(shortest).rev().for_each(|&step| writer.put(step));
    }
    for i in (0..shortest).rev() {
        for (steps, writer) in steps.iter().zip(&mut *writers) {
            if let Some(&step) = steps.get(i) {
                writer.put(step);
            }
        }
    }
}
