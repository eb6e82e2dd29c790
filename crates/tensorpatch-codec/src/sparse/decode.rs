//! A `sparse` payload on its base to the target, block by block.

use crate::CodecError;
use crate::bits::BitReader;
use crate::bytes::Reader;
use crate::element::{Element, Key};
use crate::kernels::{self, BLOCK_BYTES, GROUP, Marks};
use crate::level::Level;

use super::chain::{self, Chain, LookUp, Parts, Patch};
use super::layout::{self, FEW_LANES, MANY_LANES, STRIP_BYTES, STRIPS, Streams};
use super::model::Model;
use super::plan::{Lengths, Tables};
use super::shift::{BAD_DISTANCE, shifted};
use super::stream::{Lanes, Serial};
use super::work::Work;

/// Decodes chunks, with scratch memory kept in between.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    tables: Tables,
    sums: Vec<u16>,
    parts: Parts,
    marks: Marks,
    patches: Vec<Patch>,
}

/// A part of a payload, and where it lies.
type Slice<'a> = (usize, &'a [u8]);

/// A payload, taken apart.
struct Payload<'a> {
    streams: Streams,
    model: Model,
    /// The hot symbols, and their plain bits if those are apart.
    hot: [Slice<'a>; 2],
    /// The strips; if there is but one stream, it is the first of them.
    strips: [Slice<'a>; STRIPS],
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

        let hot = match streams {
            Streams::One => 0,
            _ if !model.has_hot() => 0,
            Streams::Serial => 1,
            Streams::FewLanes | Streams::ManyLanes => 2,
        };
        let cold = if streams == Streams::One {
            1
        } else if model.has_cold() {
            STRIPS
        } else {
            0
        };
        let mut parsed = Self { streams, model, hot: [(0, &[]); 2], strips: [(0, &[]); STRIPS] };
        let mut lens = [0; 2 + STRIPS];
        for len in lens.iter_mut().take((hot + cold).saturating_sub(1)) {
            *len = reader.varint(usize::MAX, "the length of a stream")?;
        }
        for (i, len) in lens.into_iter().take(hot + cold).enumerate() {
            let offset = reader.offset();
            let rest = payload.len() - offset;
            let left = hot + cold - i;
            let bad = CodecError::new("a stream is cut short", offset);
            let len = match left {
                1 => rest,
                _ if i < hot => len,
                _ => layout::take_share(len, rest, left).ok_or(bad)?,
            };
            let slice = (offset, reader.take(len, bad.what)?);
            match i.checked_sub(hot) {
                Some(strip) => parsed.strips[strip] = slice,
                None => parsed.hot[i] = slice,
            }
        }
        reader.finish("bytes after the last stream")?;
        Ok(parsed)
    }
}

/// The symbols of hot elements, being read in whichever way they are coded.
enum Hot<'a> {
    None,
    Serial(Serial<'a>, usize),
    Few(Lanes<'a, FEW_LANES>, BitReader<'a>, Slice<'a>),
    Many(Lanes<'a, MANY_LANES>, BitReader<'a>, Slice<'a>),
}

impl<'a> Hot<'a> {
    fn new(payload: &Payload<'a>) -> Result<Self, CodecError> {
        let [(offset, symbols), plain] = payload.hot;
        Ok(match payload.streams {
            _ if !payload.model.has_hot() => Self::None,
            Streams::One => Self::None,
            Streams::Serial => Self::Serial(Serial::new(symbols), offset),
            Streams::FewLanes => Self::Few(Lanes::new(symbols, offset)?, BitReader::new(plain.1), plain),
            Streams::ManyLanes => Self::Many(Lanes::new(symbols, offset)?, BitReader::new(plain.1), plain),
        })
    }

    /// Moves the marked elements of a block.
    fn run<T: Element>(
        &mut self,
        tables: &Tables,
        key: Key,
        block: &mut [u8],
        marks: &[u16],
    ) -> Result<(), CodecError> {
        let (done, offset) = match self {
            Self::None => (Some(()), 0),
            Self::Serial(stream, offset) => (stream.run::<T>(tables, key, block, marks), *offset),
            Self::Few(lanes, bits, (offset, _)) => (lanes.run::<T>(tables, key, block, marks, bits), *offset),
            Self::Many(lanes, bits, (offset, _)) => {
                (lanes.run::<T>(tables, key, block, marks, bits), *offset)
            }
        };
        done.ok_or(CodecError::new(BAD_DISTANCE, offset))
    }

    fn finish(self) -> Result<(), CodecError> {
        let (bits, (offset, plain)) = match self {
            Self::None => return Ok(()),
            Self::Serial(stream, offset) => return stream.finish(offset),
            Self::Few(lanes, bits, plain) => {
                lanes.finish()?;
                (bits, plain)
            }
            Self::Many(lanes, bits, plain) => {
                lanes.finish()?;
                (bits, plain)
            }
        };
        if bits.whole_bytes() == Some(plain.len()) {
            return Ok(());
        }
        Err(CodecError::new("plain bits are left: broken, or another base", offset))
    }
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
        self.apply_blocks::<T>(level, &payload, &lengths, scale, work)
    }

    fn apply_one<T: Element>(
        &mut self,
        level: Level,
        payload: &Payload<'_>,
        lengths: &Lengths,
        scale: u32,
        chunk: &mut [u8],
    ) -> Result<(), CodecError> {
        let (offset, bytes) = payload.strips[0];
        let mut stream = Serial::new(bytes);
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
                self.patches.push(Patch::new(position, new));
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
        patch::<T>(&self.patches, chunk);
        Ok(())
    }

    fn apply_blocks<T: Element>(
        &mut self,
        level: Level,
        payload: &Payload<'_>,
        lengths: &Lengths,
        scale: u32,
        work: &mut Work<'_>,
    ) -> Result<(), CodecError> {
        let mut hot = Hot::new(payload)?;
        let cold = payload.model.has_cold();
        let mut chains = payload.strips.map(|(_, bytes)| Chain::new(Serial::new(bytes)));
        let per_strip = STRIP_BYTES / T::WIDTH / GROUP;
        for start in (0..work.len()).step_by(BLOCK_BYTES) {
            let range = start..work.len().min(start + BLOCK_BYTES);
            let block = work.begin(range.clone());
            let elements = block.len() / T::WIDTH;
            self.sums.resize(elements.div_ceil(GROUP), 0);
            self.marks.reset(elements);
            self.marks.block(|marks| kernels::survey::<T>(level, lengths, block, &mut self.sums, marks));
            if cold {
                self.parts.fill(&self.sums, per_strip);
                let parts = std::array::from_fn(|strip| self.parts.part(strip));
                self.patches.clear();
                chain::run::<T, STRIPS>(
                    level,
                    &mut chains,
                    LookUp { tables: &self.tables, lengths, scale },
                    block,
                    &parts,
                    &mut self.patches,
                )
                .ok_or(CodecError::new(BAD_DISTANCE, payload.strips[0].0))?;
                patch::<T>(&self.patches, block);
            }
            let marks = self.marks.blocks().next().unwrap_or_default();
            hot.run::<T>(&self.tables, lengths.key, block, marks)?;
            work.end(range);
        }
        hot.finish()?;
        if cold {
            for (chain, (offset, _)) in chains.iter_mut().zip(payload.strips) {
                chain.finish(scale).finish(offset)?;
            }
        }
        Ok(())
    }
}

fn patch<T: Element>(patches: &[Patch], bytes: &mut [u8]) {
    for patch in patches {
        let at = patch.position as usize * T::WIDTH;
        if let Some(element) = bytes.get_mut(at..at + T::WIDTH) {
            T::from_u64(patch.value).store(element);
        }
    }
}

/// Element number `position`.
#[inline(always)]
pub(super) fn element<T: Element>(bytes: &[u8], position: usize) -> T {
    let at = position * T::WIDTH;
    bytes.get(at..at + T::WIDTH).map_or(T::from_u64(0), T::load)
}
