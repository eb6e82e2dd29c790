//! Base, target and the marks of what changed to a `sparse` payload.

use crate::bits::BitWriter;
use crate::bytes::put_varint;
use crate::element::{Element, Key};
use crate::kernels::{self, BLOCK_BYTES, Found, GROUP, Marks};
use crate::level::{Kind, Level};

use super::decode::element;
use super::distance::{Distance, SymbolTables};
use super::layout::{self, FEW_LANES, MANY_LANES, STRIP_BYTES, STRIPS, Streams};
use super::model::{Counts, Model};
use super::plan::Lengths;
use super::stream::{Slots, Step, put_lanes, put_serial};

/// Up to this many changed elements, all goes into one stream: several cost about ten bytes more.
const ONE_STREAM_CHANGES: usize = 512;
/// From this many hot elements on, four lanes instead of a serial stream: they cost about twelve bytes more.
const SERIAL_HOT: usize = 1 << 12;
/// From this many hot elements on, sixteen lanes: they cost another 30 bytes.
const MANY_HOT: usize = 1 << 15;
/// About so many elements are looked at to estimate how many there are of each key.
const SAMPLE: usize = 1 << 15;

/// Encodes chunks, with scratch memory kept in between.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    counts: Counts,
    hot: Marks,
    sums: Vec<u16>,
    starts: Vec<u32>,
    cold: Vec<u32>,
    symbols: SymbolTables,
    slots: Vec<Slots>,
    plain: Vec<u8>,
    steps: [Vec<Step>; STRIPS],
    words: Vec<u32>,
    streams: Vec<u8>,
}

impl Encoder {
    /// Appends the payload. `base` and `target` have the same length; the marked elements, at least one, are those that differ.
    pub(crate) fn encode<T: Element>(
        &mut self,
        level: Level,
        key: Key,
        base: &[u8],
        target: &[u8],
        marks: &Marks,
        out: &mut Vec<u8>,
    ) {
        self.count::<T>(key, base, target, marks);
        let mut model = Model::fit(&self.counts, T::WIDTH);
        let scale = model.axis_scale();
        let lengths = Lengths::new(&model, key, scale);
        self.survey::<T>(level, &lengths, base);
        if model.has_hot() {
            self.counts.forget_elements();
            for position in self.hot.positions(T::WIDTH) {
                self.counts.add_elements(key.find(element::<T>(base, position)), 1);
            }
            model.refit_hot(&self.counts);
        }
        self.symbols.fill(&model, T::WIDTH);

        let streams = match self.hot.len() {
            _ if marks.len() <= ONE_STREAM_CHANGES => Streams::One,
            0..SERIAL_HOT => Streams::Serial,
            SERIAL_HOT..MANY_HOT => Streams::FewLanes,
            _ => Streams::ManyLanes,
        };
        let strips = if streams == Streams::One { 1 } else { STRIPS };
        self.steps.iter_mut().for_each(Vec::clear);
        self.streams.clear();
        let mut lens = Vec::new();
        match streams {
            Streams::One => self.push_hot_steps::<T>(key, base, target),
            _ if !model.has_hot() => {}
            Streams::Serial => {
                self.push_hot_steps::<T>(key, base, target);
                put_serial(&self.steps[0], &mut self.words, &mut self.streams);
                lens.push(self.streams.len());
                self.steps[0].clear();
            }
            Streams::FewLanes => self.put_hot::<T>(key, base, target, FEW_LANES, &mut lens),
            Streams::ManyLanes => self.put_hot::<T>(key, base, target, MANY_LANES, &mut lens),
        }
        let hot = lens.len();
        if model.has_cold() {
            self.push_cold_steps::<T>(level, &lengths, scale, base, target, marks, strips);
        }
        if streams == Streams::One || model.has_cold() {
            for steps in self.steps.iter().take(strips) {
                let start = self.streams.len();
                put_serial(steps, &mut self.words, &mut self.streams);
                lens.push(self.streams.len() - start);
            }
        }

        let mut bits = BitWriter::new(out);
        streams.write(&mut bits);
        model.write(&mut bits);
        bits.finish();
        let mut rest = self.streams.len();
        for (i, &len) in lens.iter().enumerate().take(lens.len().saturating_sub(1)) {
            if i < hot {
                put_varint(out, len);
            } else {
                layout::put_share(len, rest, lens.len() - i, out);
            }
            rest -= len;
        }
        out.extend_from_slice(&self.streams);
    }

    /// Counts the changes by key, and the elements by key in a sample.
    fn count<T: Element>(&mut self, key: Key, base: &[u8], target: &[u8], marks: &Marks) {
        self.counts.reset();
        for position in marks.positions(T::WIDTH) {
            let old: T = element(base, position);
            let distance = Distance::between(old, element(target, position));
            self.counts.add_change(key.find(old), distance.bits());
        }
        // One group in `every`, a power of two.
        let every = 1 << (base.len() / T::WIDTH / SAMPLE).max(1).ilog2();
        let mut tallies = [[0u32; 256]; 4];
        for group in base.chunks(GROUP * T::WIDTH).step_by(every) {
            let (fours, rest) = group.split_at(group.len() / (4 * T::WIDTH) * 4 * T::WIDTH);
            for four in fours.chunks_exact(4 * T::WIDTH) {
                for (bytes, tally) in four.chunks_exact(T::WIDTH).zip(&mut tallies) {
                    tally[key.find(T::load(bytes))] += 1;
                }
            }
            for bytes in rest.chunks_exact(T::WIDTH) {
                tallies[0][key.find(T::load(bytes))] += 1;
            }
        }
        for key in 0..256 {
            let tally: u32 = tallies.iter().map(|tally| tally[key]).sum();
            self.counts.add_elements(key, u64::from(tally) * every as u64);
        }
    }

    fn survey<T: Element>(&mut self, level: Level, lengths: &Lengths, base: &[u8]) {
        let elements = base.len() / T::WIDTH;
        self.sums.clear();
        self.sums.resize(elements.div_ceil(GROUP), 0);
        self.hot.reset(elements);
        let block_sums = self.sums.chunks_mut(BLOCK_BYTES / T::WIDTH / GROUP);
        for (block, sums) in base.chunks(BLOCK_BYTES).zip(block_sums) {
            self.hot.block(|marks| kernels::survey::<T>(level, lengths, block, sums, marks));
        }
    }

    fn push_hot_steps<T: Element>(&mut self, key: Key, base: &[u8], target: &[u8]) {
        for position in self.hot.positions(T::WIDTH) {
            let old: T = element(base, position);
            let distance = Distance::between(old, element(target, position));
            self.symbols.push(key.find(old), &distance, &mut self.steps[0]);
        }
    }

    /// Appends the lanes of the hot symbols, and their plain bits.
    fn put_hot<T: Element>(
        &mut self,
        key: Key,
        base: &[u8],
        target: &[u8],
        lanes: usize,
        lens: &mut Vec<usize>,
    ) {
        self.slots.clear();
        self.plain.clear();
        let mut bits = BitWriter::new(&mut self.plain);
        for position in self.hot.positions(T::WIDTH) {
            let old: T = element(base, position);
            let distance = Distance::between(old, element(target, position));
            let (slots, is_near) = self.symbols.find(key.find(old), &distance);
            self.slots.push(slots);
            if !is_near {
                distance.plain(slots, |value, len| bits.put(value, len));
            }
        }
        bits.finish();
        let start = self.streams.len();
        put_lanes(&self.slots, lanes, &mut self.words, &mut self.streams);
        lens.push(self.streams.len() - start);
        self.streams.extend_from_slice(&self.plain);
        lens.push(self.plain.len());
    }

    #[expect(clippy::too_many_arguments, reason = "what a chunk is encoded with")]
    #[expect(clippy::cast_possible_truncation, reason = "a chunk has at most 2^20 elements")]
    fn push_cold_steps<T: Element>(
        &mut self,
        level: Level,
        lengths: &Lengths,
        scale: u32,
        base: &[u8],
        target: &[u8],
        marks: &Marks,
        strips: usize,
    ) {
        // Where each group starts on the axis of its strip, and how long the axes are.
        let per_strip = STRIP_BYTES / T::WIDTH / GROUP;
        let mut axes = [0u32; STRIPS];
        self.starts.clear();
        for (part, sums) in self.sums.chunks(per_strip).enumerate() {
            let mut start = axes[part % strips];
            self.starts.extend(sums.iter().map(|&sum| {
                let own = start;
                start += u32::from(sum);
                own
            }));
            axes[part % strips] = start;
        }

        self.cold.clear();
        self.cold.extend(
            marks
                .positions(T::WIDTH)
                .filter(|&position| lengths.of(element::<T>(base, position)) > 0)
                .map(|position| position as u32),
        );
        let places =
            Places { lengths, scale, starts: &self.starts, symbols: &self.symbols, per_strip, strips };
        let ends = places.push::<T>(level, base, target, &self.cold, &mut self.steps);
        for ((steps, axis), end) in self.steps.iter_mut().zip(axes).zip(ends).take(strips) {
            if axis > 0 {
                layout::push_end(axis - end, scale, steps);
            }
        }
    }
}

/// What the place of a cold change is found with.
struct Places<'a> {
    lengths: &'a Lengths,
    scale: u32,
    starts: &'a [u32],
    symbols: &'a SymbolTables,
    per_strip: usize,
    strips: usize,
}

impl Places<'_> {
    /// Appends the steps of the cold changes to those of their strips; returns where the last one of each strip ends.
    fn push<T: Element>(
        &self,
        level: Level,
        base: &[u8],
        target: &[u8],
        cold: &[u32],
        steps: &mut [Vec<Step>; STRIPS],
    ) -> [u32; STRIPS] {
        match level.kind() {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 if T::WIDTH == 2 => self.push_avx512(base, target, cold, steps),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 if T::WIDTH == 2 => self.push_avx2(base, target, cold, steps),
            _ => self.push_with::<T>(base, target, cold, steps, |group, index| {
                kernels::before::<T>(self.lengths, group, index)
            }),
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[expect(unsafe_code, reason = "a call of what needs the instructions of the level")]
    fn push_avx512(
        &self,
        base: &[u8],
        target: &[u8],
        cold: &[u32],
        steps: &mut [Vec<Step>; STRIPS],
    ) -> [u32; STRIPS] {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,bmi1,bmi2,lzcnt,popcnt")]
        fn inner(
            places: &Places<'_>,
            base: &[u8],
            target: &[u8],
            cold: &[u32],
            steps: &mut [Vec<Step>; STRIPS],
        ) -> [u32; STRIPS] {
            let classes = kernels::avx512::Classes::load(places.lengths);
            places.push_with::<u16>(base, target, cold, steps, |group, index| {
                kernels::avx512::before(&classes, places.lengths, group, index)
            })
        }
        // SAFETY: called at the AVX-512 level alone, which has all these instructions.
        unsafe { inner(self, base, target, cold, steps) }
    }

    #[cfg(target_arch = "x86_64")]
    #[expect(unsafe_code, reason = "a call of what needs the instructions of the level")]
    fn push_avx2(
        &self,
        base: &[u8],
        target: &[u8],
        cold: &[u32],
        steps: &mut [Vec<Step>; STRIPS],
    ) -> [u32; STRIPS] {
        #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
        fn inner(
            places: &Places<'_>,
            base: &[u8],
            target: &[u8],
            cold: &[u32],
            steps: &mut [Vec<Step>; STRIPS],
        ) -> [u32; STRIPS] {
            let classes = kernels::avx2::Classes::load(places.lengths);
            places.push_with::<u16>(base, target, cold, steps, |group, index| {
                kernels::avx2::before(&classes, places.lengths, group, index)
            })
        }
        // SAFETY: called at the AVX2 level alone, which has all these instructions.
        unsafe { inner(self, base, target, cold, steps) }
    }

    #[inline(always)]
    fn push_with<T: Element>(
        &self,
        base: &[u8],
        target: &[u8],
        cold: &[u32],
        steps: &mut [Vec<Step>; STRIPS],
        before: impl Fn(&[u8], usize) -> Found,
    ) -> [u32; STRIPS] {
        let mut ends = [0u32; STRIPS];
        for &position in cold {
            let position = position as usize;
            let (group, index) = (position / GROUP, position % GROUP);
            let strip = group / self.per_strip % self.strips;
            let rest = base.get(group * GROUP * T::WIDTH..).unwrap_or_default();
            let found = before(rest.get(..GROUP * T::WIDTH).unwrap_or(rest), index);
            let start = self.starts[group] + found.before;
            let steps = &mut steps[strip];
            layout::push_place(start - ends[strip], found.length, self.scale, steps);
            ends[strip] = start + found.length;
            let old: T = element(base, position);
            let distance = Distance::between(old, element(target, position));
            self.symbols.push(self.lengths.key.find(old), &distance, steps);
        }
        ends
    }
}
