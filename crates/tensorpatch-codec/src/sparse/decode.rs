//! A `sparse` payload on its base to the target, block by block.

use crate::CodecError;
use crate::bits::BitReader;
use crate::bytes::Reader;
use crate::element::{Element, Key};
use crate::kernels::{self, BLOCK_BYTES, GROUP, Marks};
use crate::level::Level;

use super::chain::{self, Chain, LookUp, Parts, Patch, Patches};
use super::layout::{self, MAX_HOT_STREAMS, STRIP_BYTES, STRIPS, Streams};
use super::model::Model;
use super::plan::{Lengths, Tables};
use super::shift::{BAD_DISTANCE, shifted};
use super::stream::Serial;
use super::work::Work;

/// Decodes chunks, with scratch memory kept in between.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    tables: Tables,
    sums: Vec<u16>,
    parts: Parts,
    marks: Marks,
    patches: Patches,
}

/// A payload, taken apart.
struct Payload<'a> {
    streams: Streams,
    model: Model,
    /// The streams of the hot symbols; if there is but one stream, it is the first of them.
    hot: Vec<Stream<'a>>,
    /// The streams of the strips.
    strips: Vec<Stream<'a>>,
}

/// A stream, and where in the payload it lies.
struct Stream<'a> {
    offset: usize,
    serial: Serial<'a>,
}

impl Stream<'_> {
    fn finish(&self) -> Result<(), CodecError> {
        self.serial.finish(self.offset)
    }
}

impl<'a> Payload<'a> {
    fn parse(payload: &'a [u8]) -> Result<Self, CodecError> {
        let mut bits = BitReader::new(payload);
        let streams = Streams::read(&mut bits).ok_or(CodecError::new("the payload is empty", 0))?;
        let model = Model::read(&mut bits)?;
        let taken =
            bits.whole_bytes().ok_or(CodecError::new("the classes are not filled up with zeros", 0))?;
        let mut reader = Reader::new(payload);
        reader.take(taken, "the classes are cut short")?;

        let (hot, strips) = match streams {
            Streams::One => (1, 0),
            Streams::Apart { hot } => {
                (if model.has_hot() { hot } else { 0 }, if model.has_cold() { STRIPS } else { 0 })
            }
        };
        let mut of_hot = None;
        if hot > 0 && strips > 0 {
            of_hot = Some(reader.varint(usize::MAX, "the length of the hot streams")?);
        }
        let mut shares = [0; MAX_HOT_STREAMS + STRIPS];
        let written = hot.saturating_sub(1) + strips.saturating_sub(1);
        for share in shares.iter_mut().take(written) {
            *share = reader.varint(usize::MAX, "the length of a stream")?;
        }
        let rest = payload.len() - reader.offset();
        let of_hot = of_hot.unwrap_or(if hot > 0 { rest } else { 0 });
        let of_strips = rest
            .checked_sub(of_hot)
            .ok_or(CodecError::new("the hot streams are longer than the payload", reader.offset()))?;
        let (of_hot_shares, of_strip_shares) = shares.split_at(hot.saturating_sub(1));
        let hot = streams_of(&mut reader, hot, of_hot, of_hot_shares)?;
        let strips = streams_of(&mut reader, strips, of_strips, of_strip_shares)?;
        reader.finish("bytes after the last stream")?;
        Ok(Self { streams, model, hot, strips })
    }
}

/// The next `count` streams, which take `rest` bytes; `shares` tell how long each but the last is.
fn streams_of<'a>(
    reader: &mut Reader<'a>,
    count: usize,
    mut rest: usize,
    shares: &[usize],
) -> Result<Vec<Stream<'a>>, CodecError> {
    let mut streams = Vec::with_capacity(count);
    for i in 0..count {
        let offset = reader.offset();
        let bad = CodecError::new("a stream is cut short", offset);
        let len = match shares.get(i) {
            Some(&share) if i + 1 < count => layout::take_share(share, rest, count - i).ok_or(bad)?,
            _ => rest,
        };
        streams.push(Stream { offset, serial: Serial::new(reader.take(len, bad.what)?, offset)? });
        rest -= len;
    }
    Ok(streams)
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
        let mut payload = Payload::parse(payload)?;
        let scale = payload.model.axis_scale();
        let lengths = Lengths::new(&payload.model, key, scale);
        self.tables.fill(&payload.model, T::WIDTH);
        if payload.streams == Streams::One {
            return self.apply_one::<T>(level, &payload, &lengths, scale, work.whole());
        }
        self.apply_blocks::<T>(level, &mut payload, &lengths, scale, work)
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
                self.patches.put(Patch::new(position, new), true);
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
        payload: &mut Payload<'_>,
        lengths: &Lengths,
        scale: u32,
        work: &mut Work<'_>,
    ) -> Result<(), CodecError> {
        let cold = payload.model.has_cold();
        let mut next_hot = 0;
        let first_strip = payload.strips.first().map_or(0, |strip| strip.offset);
        let mut chains: Option<[Chain<'_>; STRIPS]> =
            payload.strips.iter().map(|strip| Chain::new(strip.serial)).collect::<Vec<_>>().try_into().ok();
        let per_strip = STRIP_BYTES / T::WIDTH / GROUP;
        for start in (0..work.len()).step_by(BLOCK_BYTES) {
            let range = start..work.len().min(start + BLOCK_BYTES);
            let block = work.begin(range.clone());
            let elements = block.len() / T::WIDTH;
            self.sums.resize(elements.div_ceil(GROUP), 0);
            self.marks.reset(elements);
            self.marks.block(|marks| kernels::survey::<T>(level, lengths, block, &mut self.sums, marks));
            if let Some(chains) = &mut chains {
                self.parts.fill(&self.sums, per_strip);
                let parts = std::array::from_fn(|strip| self.parts.part(strip));
                self.patches.clear();
                chain::run::<T, STRIPS>(
                    level,
                    chains,
                    LookUp { tables: &self.tables, lengths, scale },
                    block,
                    &parts,
                    &mut self.patches,
                )
                .ok_or(CodecError::new(BAD_DISTANCE, first_strip))?;
                self.patches.apply::<T>(block);
            }
            let marks = self.marks.blocks().next().unwrap_or_default();
            for &mark in marks {
                let at = usize::from(mark) * T::WIDTH;
                let bytes = block.get_mut(at..at + T::WIDTH).unwrap_or_default();
                if let Some(stream) = payload.hot.get_mut(next_hot) {
                    stream
                        .serial
                        .hot::<T>(&self.tables, lengths.key, bytes)
                        .ok_or(CodecError::new(BAD_DISTANCE, stream.offset))?;
                }
                next_hot = if next_hot + 1 < payload.hot.len() { next_hot + 1 } else { 0 };
            }
            work.end(range);
        }
        payload.hot.iter().try_for_each(Stream::finish)?;
        if cold && let Some(chains) = &mut chains {
            for (chain, strip) in chains.iter_mut().zip(&payload.strips) {
                chain.finish(scale).finish(strip.offset)?;
            }
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
