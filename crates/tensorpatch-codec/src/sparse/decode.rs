//! A `sparse` payload on its base to the target, block by block.

use crate::CodecError;
use crate::element::{Element, Key};
use crate::kernels::{self, BLOCK_BYTES, GROUP, Marks};
use crate::level::Level;

use super::chain::{self, Chain, LookUp, Parts, Patch, Patches};
use super::layout::{STRIP_BYTES, STRIPS, Streams};
use super::payload::{Payload, Stream};
use super::plan::{Lengths, Tables};
use super::shift::{BAD_DISTANCE, shifted};
use super::wide::{Packed, Wide};
use super::work::Work;

/// Decodes chunks, with scratch memory kept in between.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    tables: Tables,
    sums: Vec<u16>,
    parts: Parts,
    marks: Marks,
    patches: Patches,
    packed: Packed,
    hot: Vec<u16>,
}

impl Decoder {
    /// Turns the base in `work` into the target. On an error the target's bytes are unspecified.
    pub(crate) fn apply<T: Element>(
        &mut self,
        level: Level,
        key: Key,
        payload: &[u8],
        work: &mut Work<'_>,
    ) -> Result<(), CodecError> {
        let payload = Payload::parse(payload)?;
        let scale = payload.model.axis_scale();
        let lengths = Lengths::new(&payload.model, key, scale);
        self.tables.fill(&payload.model, T::WIDTH);
        if payload.streams == Streams::One {
            return self.apply_one::<T>(level, &payload, &lengths, scale, work.whole());
        }
        self.apply_blocks::<T>(level, payload, &lengths, scale, work)
    }

    fn apply_one<T: Element>(
        &mut self,
        level: Level,
        payload: &Payload<'_>,
        lengths: &Lengths,
        scale: u32,
        chunk: &mut [u8],
    ) -> Result<(), CodecError> {
        let Some(&Stream { offset, serial: mut stream }) = payload.hot.first() else { return Ok(()) };
        let elements = chunk.len() / T::WIDTH;
        self.sums.resize(elements.div_ceil(GROUP), 0);
        self.marks.reset(elements);
        let block_sums = self.sums.chunks_mut(BLOCK_BYTES / T::WIDTH / GROUP);
        for (block, sums) in chunk.chunks(BLOCK_BYTES).zip(block_sums) {
            self.marks.block(|marks| kernels::survey::<T>(level, lengths, block, sums, marks));
        }
        self.patches.clear();
        let bad = CodecError::new(BAD_DISTANCE, offset);
        for position in self.marks.positions(T::WIDTH) {
            let old = element::<T>(chunk, position);
            let code = stream.symbol(&self.tables, lengths.key.find(old));
            if code != 0 {
                let new = shifted(old, code, &mut stream).ok_or(bad)?;
                self.patches.make_room(1);
                self.patches.put(Patch::new(position, new));
            }
        }
        if payload.model.has_cold() {
            self.parts.fill(&self.sums, self.sums.len());
            let mut chains = [Chain::new(stream)];
            chain::run::<T, 1>(
                level,
                &mut chains,
                LookUp { tables: &self.tables, lengths, scale },
                chunk,
                &[self.parts.part(0)],
                &mut self.patches,
            )
            .ok_or(bad)?;
            stream = chains[0].finish(scale);
        }
        stream.finish(offset)?;
        self.patches.apply::<T>(chunk);
        Ok(())
    }

    fn apply_blocks<T: Element>(
        &mut self,
        level: Level,
        payload: Payload<'_>,
        lengths: &Lengths,
        scale: u32,
        work: &mut Work<'_>,
    ) -> Result<(), CodecError> {
        let Payload { mut hot, strips, .. } = payload;
        let first_strip = strips.first().map_or(0, |strip| strip.offset);
        let mut chains: Option<[Chain<'_>; STRIPS]> =
            strips.iter().map(|strip| Chain::new(strip.serial)).collect::<Vec<_>>().try_into().ok();
        let mut next_hot = 0;
        for start in (0..work.len()).step_by(BLOCK_BYTES) {
            let range = start..work.len().min(start + BLOCK_BYTES);
            let ahead = work.ahead(range.end);
            let block = work.begin(range.clone());
            let elements = block.len() / T::WIDTH;
            self.sums.resize(elements.div_ceil(GROUP), 0);
            self.marks.reset(elements);
            self.marks.block(|marks| kernels::survey::<T>(level, lengths, block, &mut self.sums, marks));
            if let Some(chains) = &mut chains {
                self.cold_block::<T>(level, chains, lengths, scale, block, ahead)
                    .ok_or(CodecError::new(BAD_DISTANCE, first_strip))?;
            }
            self.hot_block::<T>(level, &mut hot, &mut next_hot, lengths, block)?;
            work.end(range);
        }
        hot.iter().try_for_each(Stream::finish)?;
        for (chain, strip) in chains.iter_mut().flatten().zip(strips) {
            chain.finish(scale).finish(strip.offset)?;
        }
        Ok(())
    }

    /// Makes the cold changes of a block whose lengths are summed up. `ahead` is where the next block lies.
    fn cold_block<T: Element>(
        &mut self,
        level: Level,
        chains: &mut [Chain<'_>; STRIPS],
        lengths: &Lengths,
        scale: u32,
        block: &mut [u8],
        ahead: *const u8,
    ) -> Option<()> {
        let look_up = LookUp { tables: &self.tables, lengths, scale };
        self.parts.fill(&self.sums, STRIP_BYTES / T::WIDTH / GROUP);
        if let Some(wide) = Wide::new::<T>(level)
            && let Ok(block) = block.try_into()
        {
            return wide.cold(chains, look_up, block, &self.parts, &mut self.packed, ahead);
        }
        let parts = std::array::from_fn(|strip| self.parts.part(strip));
        self.patches.clear();
        chain::run::<T, STRIPS>(level, chains, look_up, block, &parts, &mut self.patches)?;
        self.patches.apply::<T>(block);
        Some(())
    }

    /// Moves the marked elements of a block; the first of them belongs to stream number `next`.
    fn hot_block<T: Element>(
        &mut self,
        level: Level,
        streams: &mut [Stream<'_>],
        next: &mut usize,
        lengths: &Lengths,
        block: &mut [u8],
    ) -> Result<(), CodecError> {
        let marks = self.marks.last_block();
        if let Some(wide) = Wide::new::<T>(level)
            && streams.len() > 1
        {
            let (elements, _) = block.as_chunks_mut::<2>();
            self.hot.clear();
            self.hot.resize(*next, 0);
            self.hot.extend(marks.iter().map(|&mark| u16::from_le_bytes(elements[usize::from(mark)])));
            let moved = wide.hot(streams, *next, lengths, &self.tables, &mut self.hot);
            moved.ok_or(CodecError::new(BAD_DISTANCE, streams.first().map_or(0, |stream| stream.offset)))?;
            for (&mark, new) in marks.iter().zip(self.hot.iter().skip(*next)) {
                elements[usize::from(mark)] = new.to_le_bytes();
            }
            *next = (*next + marks.len()) % streams.len();
            return Ok(());
        }
        for &mark in marks {
            let at = usize::from(mark) * T::WIDTH;
            let element = block.get_mut(at..at + T::WIDTH).unwrap_or_default();
            if let Some(Stream { offset, serial }) = streams.get_mut(*next) {
                let moved = serial.hot::<T>(&self.tables, lengths.key, element);
                moved.ok_or(CodecError::new(BAD_DISTANCE, *offset))?;
            }
            *next = if *next + 1 < streams.len() { *next + 1 } else { 0 };
        }
        Ok(())
    }
}

/// Element number `position`.
#[inline(always)]
pub(super) fn element<T: Element>(bytes: &[u8], position: usize) -> T {
    let at = position * T::WIDTH;
    bytes.get(at..at + T::WIDTH).map_or(T::from_u64(0), T::load)
}
