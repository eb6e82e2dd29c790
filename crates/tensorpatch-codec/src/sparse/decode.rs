//! A `sparse` payload on its base to the target, block by block.

use crate::CodecError;
use crate::element::{Element, Key};
use crate::kernels::{self, BLOCK_BYTES, GROUP, Survey};
use crate::level::Level;

use super::block::{element, store};
use super::head::Head;
use super::lengths::{Lengths, PLACE_BITS, Places};
use super::payload::Padded;
use super::rans::{Lanes, MAX_LANES};
use super::simd::{Scratch, Simd};
use super::slots::Slots;
use super::source::Source;
use super::symbols::{SYMBOL_BITS, Symbols};
use super::target::TargetBlocks;

const BAD_DISTANCE: &str = "a distance has more bits than an element";
const BAD_PLACE: &str = "a place is beyond its group";
const NOT_USED_UP: &str = "words and bits do not meet, or a state is left over";

/// Decodes chunks, with scratch memory kept in between.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    payload: Padded,
    blocks: BlockDecoder,
}

/// What is known of the chunk, and scratch memory of a block.
#[derive(Debug, Default)]
struct BlockDecoder {
    symbols: Symbols,
    slots: Slots,
    survey: Survey,
    /// The listed elements, side by side.
    elements: Vec<u8>,
    groups: Vec<Group>,
    /// The sums of their lengths, and the slots that say that nothing changes.
    sums: Vec<u16>,
    unchanged: Vec<u16>,
    scratch: Scratch,
    changed: Vec<u16>,
}

/// A group in which something more changes.
#[derive(Debug, Clone, Copy)]
struct Group {
    number: u16,
    /// The first element that may change.
    from: u16,
    /// The sum of the lengths from there on.
    sum: u16,
}

impl Decoder {
    /// Turns the base in `target` into the target. On an error its bytes are unspecified.
    pub(crate) fn apply<T: Element>(
        &mut self,
        level: Level,
        key: Key,
        payload: &[u8],
        target: &mut TargetBlocks<'_>,
    ) -> Result<(), CodecError> {
        let Self { payload: padded, blocks } = self;
        let mut input = padded.fill(payload);
        let Head { model, lanes: count, states } = Head::read(&mut input)?;
        let lengths = Lengths::new(&model, key);
        blocks.symbols.fill(&model, T::WIDTH);
        blocks.slots.clear();
        let simd = Simd::new::<T>(level, count);
        let mut source = Source { lanes: Lanes { states, count }, input };
        let len = target.len();
        let has_cold = model.highest_cold_rate() > 0;
        for start in (0..len.max(1)).step_by(BLOCK_BYTES) {
            let range = start..len.min(start + BLOCK_BYTES);
            let is_last = range.end == len;
            let block = target.begin(range.clone());
            blocks.changed.clear();
            if model.is_dense() {
                blocks.dense::<T>(simd, &mut source, &lengths, block).ok_or(bad(BAD_DISTANCE))?;
            } else {
                kernels::survey::<T>(level, &lengths, block, &mut blocks.survey);
                if has_cold {
                    blocks.find_cold::<T>(simd, &mut source, &lengths, block).ok_or(bad(BAD_PLACE))?;
                    blocks.split::<T>(key, block);
                }
                blocks.moves::<T>(simd, &mut source, &lengths, block).ok_or(bad(BAD_DISTANCE))?;
            }
            source.directions::<T>(block, &blocks.changed, is_last).ok_or(bad(NOT_USED_UP))?;
            target.end(range);
        }
        if source.input.is_used_up() { Ok(()) } else { Err(bad(NOT_USED_UP)) }
    }
}

impl BlockDecoder {
    /// Moves all elements of a block as their symbols say.
    fn dense<T: Element>(
        &mut self,
        simd: Option<Simd>,
        source: &mut Source<'_>,
        lengths: &Lengths,
        block: &mut [u8],
    ) -> Option<()> {
        match simd {
            Some(simd) => simd.dense(source, lengths, &self.symbols, block),
            None => source.symbols::<T>(&self.symbols, &mut self.slots, lengths.key, block),
        }
    }

    /// Moves the listed elements as their symbols say.
    fn moves<T: Element>(
        &mut self,
        simd: Option<Simd>,
        source: &mut Source<'_>,
        lengths: &Lengths,
        block: &mut [u8],
    ) -> Option<()> {
        let listed = self.survey.hot();
        if let Some(simd) = simd
            && source.lanes.count < MAX_LANES
        {
            return simd.moves(source, lengths, &self.symbols, block, listed, &mut self.scratch);
        }
        let elements = &mut self.elements;
        elements.resize(listed.len() * T::WIDTH, 0);
        for (bytes, &position) in elements.chunks_exact_mut(T::WIDTH).zip(listed) {
            element::<T>(block, usize::from(position)).store(bytes);
        }
        source.symbols::<T>(&self.symbols, &mut self.slots, lengths.key, elements)?;
        for (bytes, &position) in elements.chunks_exact(T::WIDTH).zip(listed) {
            store(block, usize::from(position), T::load(bytes));
        }
        Some(())
    }

    /// Takes those cold changes out of the list whose class has a reach: they have symbols as the hot
    /// elements do.
    fn split<T: Element>(&mut self, key: Key, block: &[u8]) {
        let Self { symbols, survey, changed, .. } = self;
        if symbols.any_cold_reach() {
            // Which class an element is of cannot be foreseen: so no branch depends on it.
            let mut by_one = 0;
            for i in 0..changed.len() {
                let position = changed[i];
                let reaches =
                    symbols.reaches(symbols.class(key.find(element::<T>(block, usize::from(position)))));
                survey.push_hot_if(position, reaches);
                changed[by_one] = position;
                by_one += usize::from(!reaches);
            }
            changed.truncate(by_one);
        }
    }

    /// Lists the cold elements of a block that change. `None` if a place is beyond its group.
    #[expect(clippy::cast_possible_truncation, reason = "a block has at most 2^16 elements")]
    fn find_cold<T: Element>(
        &mut self,
        simd: Option<Simd>,
        source: &mut Source<'_>,
        lengths: &Lengths,
        block: &[u8],
    ) -> Option<()> {
        if let Some(simd) = simd
            && source.lanes.count < MAX_LANES
        {
            return simd.find_cold(
                source,
                lengths,
                block,
                &self.survey,
                &mut self.scratch,
                &mut self.changed,
            );
        }
        let Source { lanes, input } = source;
        let Self { groups, sums, unchanged, .. } = self;
        groups.clear();
        let all = (0_u16..).zip(self.survey.sums());
        groups.extend(all.map(|(number, &sum)| Group { number, from: 0, sum }));
        while !groups.is_empty() {
            sums.clear();
            sums.extend(groups.iter().map(|group| group.sum));
            lengths.chance.all_unchanged(sums, unchanged);
            let mut left = 0;
            for (first, row) in (0..).step_by(lanes.count).zip(unchanged.chunks(lanes.count)) {
                // In which groups something changes cannot be foreseen: so no branch depends on it.
                for (lane, &unchanged) in row.iter().enumerate() {
                    let (slot, unchanged) = (lanes.slot(lane, SYMBOL_BITS), u32::from(unchanged));
                    let changes = slot >= unchanged;
                    let freq = if changes { (1 << SYMBOL_BITS) - unchanged } else { unchanged };
                    let offset = if changes { slot - unchanged } else { slot };
                    lanes.take(lane, SYMBOL_BITS, freq, offset, input);
                    groups[left] = groups[first + lane];
                    left += usize::from(changes);
                }
            }
            groups.truncate(left);
            for (i, group) in groups.iter_mut().enumerate() {
                let lane = i % lanes.count;
                let slot = lanes.slot(lane, PLACE_BITS);
                let places = Places::new(u32::from(group.sum));
                let first = usize::from(group.number) * GROUP;
                let later = block.get(first * T::WIDTH..).unwrap_or_default().chunks_exact(T::WIDTH);
                let (mut sum, mut start, mut end) = (0, 0, 0);
                let index = (0..GROUP).zip(later).skip(usize::from(group.from)).find(|(_, old)| {
                    sum += lengths.of(T::load(old));
                    start = end;
                    end = places.before(sum);
                    end > slot
                });
                let (index, _) = index?;
                lanes.take(lane, PLACE_BITS, end - start, slot - start, input);
                self.changed.push((first + index) as u16);
                *group = Group { from: index as u16 + 1, sum: group.sum - sum as u16, ..*group };
            }
        }
        Some(())
    }
}

fn bad(what: &'static str) -> CodecError {
    CodecError::new(what, 0)
}
