//! Base, target and the changed elements to a `sparse` payload.

use crate::element::{Element, Key};
use crate::kernels::{self, BLOCK_BYTES, GROUP, Marks, Survey};
use crate::level::Level;

use super::bits::BitWriter;
use super::block::{Block, element};
use super::cold::{ColdChanges, put_flags, sums_of};
use super::distance::Distance;
use super::head::LANES;
use super::lengths::Lengths;
use super::model::{Counts, HotFrom, MAX_CLASSES, Model};
use super::moves::put_moves;
use super::rans::{MAX_LANES, Steps};
use super::simd::Simd;
use super::symbols::{SYMBOL_BITS, Symbols};
use super::writer::Writer;

/// About so many elements are looked at to estimate how many there are of each key: to choose which classes
/// are hot, whose elements are counted then, and where all have a symbol and none is counted.
const SAMPLE: usize = 1 << 13;
const DENSE_SAMPLE: usize = 1 << 16;
/// Of a block of which more than one element in so many changes, one in [`CHANGES_EVERY`] changes is looked
/// at.
const MANY_CHANGES: usize = 4;
const CHANGES_EVERY: u16 = 4;
/// What lanes may cost: a byte in so many changes, which take about as many bytes. Eight are worth more than
/// the others, since one lane alone is slow.
const EIGHT_LANES_SHARE: usize = 20;
const LANES_SHARE: usize = 100;

/// Encodes chunks, with scratch memory kept in between.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    counts: Counts,
    surveys: Vec<Survey>,
    symbols: Symbols,
    cold: ColdChanges,
    steps: Steps,
    /// Old and new values of elements.
    values: [Vec<u16>; 2],
    writer: Writer,
    head: BitWriter,
    /// The plain bits of each block.
    plain: Vec<BitWriter>,
}

/// How many elements there are of each key, by about `sample` of them.
fn count_keys<T: Element>(key: Key, base: &[u8], sample: usize, counts: &mut Counts) {
    // Four counts of each, since neighbours often have the same key and would wait for each other.
    let mut tallies = [[0_u32; 256]; 4];
    // One group in `every`, a power of two.
    let every = 1_u64 << (base.len() / T::WIDTH / sample).max(1).ilog2();
    let groups = base.chunks(GROUP * T::WIDTH);
    for group in groups.step_by(usize::try_from(every).unwrap_or(usize::MAX)) {
        let mut fours = group.chunks_exact(4 * T::WIDTH);
        for four in &mut fours {
            for (bytes, tally) in four.chunks_exact(T::WIDTH).zip(&mut tallies) {
                tally[key.find(T::load(bytes)) & 0xff] += 1;
            }
        }
        for bytes in fours.remainder().chunks_exact(T::WIDTH) {
            tallies[0][key.find(T::load(bytes)) & 0xff] += 1;
        }
    }
    let sum = |key: usize| tallies.iter().map(|tally| u64::from(tally[key])).sum::<u64>();
    counts.set_elements((0..256).map(|key| every * sum(key)));
}

impl Encoder {
    /// Forgets the chunk before.
    pub(crate) fn begin(&mut self) {
        self.counts.reset();
    }

    /// Counts what matters for the model of a block, `olds` and `news`, while it is in the cache: the changed
    /// elements are marked.
    pub(crate) fn observe<T: Element>(&mut self, key: Key, olds: &[u8], news: &[u8], marks: &[u16]) {
        let mut add = |mark: u16, weight| {
            let old: T = element(olds, usize::from(mark));
            let distance = Distance::between(old, element(news, usize::from(mark)));
            self.counts.add_change(key.find(old), distance.bits() as usize, weight);
        };
        if marks.len() * MANY_CHANGES * T::WIDTH > olds.len() {
            let some = marks.iter().step_by(usize::from(CHANGES_EVERY));
            some.for_each(|&mark| add(mark, u32::from(CHANGES_EVERY)));
        } else {
            marks.iter().for_each(|&mark| add(mark, 1));
        }
    }

    /// Appends the payload. `base` and `target` have the same length; the marked elements, at least one, are
    /// those that differ, and all blocks were observed.
    pub(crate) fn encode<T: Element>(
        &mut self,
        level: Level,
        key: Key,
        base: &[u8],
        target: &[u8],
        marks: &Marks,
        out: &mut Vec<u8>,
    ) {
        count_keys::<T>(key, base, SAMPLE, &mut self.counts);
        let hot_from = self.counts.hot_from();
        if hot_from == HotFrom::DENSE {
            count_keys::<T>(key, base, DENSE_SAMPLE, &mut self.counts);
        }
        let mut model = Model::fit(&self.counts, hot_from, T::WIDTH);
        let lengths = Lengths::new(&model, key);
        let has_cold = model.highest_cold_rate() > 0;
        self.symbols.fill(&model, T::WIDTH);
        let blocks = base.chunks(BLOCK_BYTES).zip(target.chunks(BLOCK_BYTES)).zip(marks.blocks());
        let blocks: Vec<_> =
            blocks.map(|((olds, news), changed)| (Block { key, olds, news }, changed)).collect();
        self.surveys.resize_with(self.surveys.len().max(blocks.len()), Survey::default);
        let mut hot_elements = [0; MAX_CLASSES];
        for ((block, _), survey) in blocks.iter().zip(&mut self.surveys) {
            if model.is_dense() {
                break;
            }
            kernels::survey::<T>(level, &lengths, block.olds, survey);
            for &position in survey.hot() {
                hot_elements[self.symbols.class(key.find(block.old::<T>(position)))] += 1;
            }
        }
        if !model.is_dense() {
            model.refit_hot(&self.counts, &hot_elements);
            self.symbols.fill(&model, T::WIDTH);
        }
        self.plain.resize_with(self.plain.len().max(blocks.len()), BitWriter::default);
        let mut lanes = lanes_for(marks.len(), 0, MAX_LANES);
        // What is read last is put first, and the states that this begins with hold directions of the last
        // block.
        for (i, &(block, changed)) in blocks.iter().enumerate().rev() {
            let is_last = i + 1 == blocks.len();
            let survey = &mut self.surveys[i];
            if model.is_dense() {
                self.cold.clear();
            } else {
                match Simd::of_level::<T>(level) {
                    Some(simd) => {
                        simd.find_changes(&lengths, &self.symbols, block, survey, changed, &mut self.cold)
                    }
                    None => {
                        let sums_of = |group| sums_of::<T>(&lengths, block.olds, group);
                        self.cold.find::<T>(&self.symbols, block, survey, changed, sums_of);
                    }
                }
                if is_last {
                    lanes = lanes_for(marks.len(), self.cold.directions(), MAX_LANES / 2);
                }
            }
            let simd = Simd::new::<T>(level, lanes);
            let plain = &mut self.plain[i];
            plain.clear();
            self.steps.clear();
            if has_cold {
                self.cold.put(survey.sums(), lanes, &mut self.steps, |sums, changed, steps| match simd {
                    Some(simd) => simd.put_flags(lengths.chance, sums, changed, steps),
                    None => put_flags(lengths.chance, sums, changed, steps),
                });
            }
            match simd {
                Some(simd) if model.is_dense() => {
                    simd.put_dense(&lengths, &self.symbols, block, &mut self.values, &mut self.steps, plain);
                }
                Some(simd) => {
                    let values = &mut self.values;
                    simd.put_moves(
                        &lengths,
                        &self.symbols,
                        block,
                        survey.hot(),
                        values,
                        &mut self.steps,
                        plain,
                    );
                }
                None => {
                    if model.is_dense() {
                        survey.mark_all(block.olds.len() / T::WIDTH);
                    }
                    put_moves::<T>(lanes, &self.symbols, block, survey.hot(), &mut self.steps, plain);
                }
            }
            self.steps.end_phase(SYMBOL_BITS, lanes);
            let held = if is_last { lanes } else { 0 };
            let states = self.cold.put_directions::<T>(block, held, plain);
            if is_last {
                // A symbol for each element, or a flag for each group, and for each change a place and a
                // flag.
                let symbols = base.len() / T::WIDTH + 2 * marks.len() + base.len() / (T::WIDTH * GROUP) + 1;
                self.writer.begin(lanes, states, symbols);
            }
            self.writer.put(simd, &self.steps);
        }
        self.head.clear();
        let code = (0..).zip(LANES).find(|&(_, count)| count == lanes).map_or(0, |(code, _)| code);
        self.head.put(code, 2);
        model.write(&mut self.head);
        for state in self.writer.states() {
            let len = state.ilog2();
            self.head.put(len - 16, 4);
            self.head.put(state & !(1 << len), len);
        }
        for plain in &self.plain[..blocks.len()] {
            self.head.append(plain);
        }
        self.writer.finish(out);
        self.head.finish(out);
    }
}

/// How many lanes pay, `most` at most: each costs half a byte, and two more if there are no directions for it
/// to hold.
fn lanes_for(changes: usize, directions: usize, most: usize) -> usize {
    let cost = |lanes: usize| lanes / 2 + 2 * lanes.saturating_sub(directions.div_ceil(16));
    let share = |lanes| if lanes == 8 { EIGHT_LANES_SHARE } else { LANES_SHARE };
    let pays = |&lanes: &usize| lanes <= most && cost(lanes) * share(lanes) <= changes;
    LANES.into_iter().rev().find(pays).unwrap_or(1)
}
