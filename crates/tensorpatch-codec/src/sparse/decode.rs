//! A `sparse` payload back to the changes of a chunk: the reference path.

use crate::CodecError;
use crate::bits::BitReader;
use crate::bytes::Reader;
use crate::element::{Element, Key};

use super::layout::{self, Head, QUOTIENT_BITS, QUOTIENT_ESCAPE, STRIPS};
use super::model::{Class, Model, Symbol, Symbols};
use super::stream::{Lanes, SYMBOL_SCALE, Serial};

/// Decodes chunks, with scratch memory kept in between.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    /// Element number and new value, ascending after a call.
    changes: Vec<(u32, u64)>,
}

const BAD_DISTANCE: &str = "a distance has more bits than an element, or is cut short";

/// Plain bits, from wherever they lie.
trait Plain {
    fn plain(&mut self, len: u32) -> Option<u32>;
}

impl Plain for BitReader<'_> {
    fn plain(&mut self, len: u32) -> Option<u32> {
        self.take(len)
    }
}

impl Plain for Serial<'_> {
    fn plain(&mut self, len: u32) -> Option<u32> {
        Some(self.bits(len))
    }
}

/// The element that `old` becomes; `None` if the plain bits end, or the distance has more bits than an element.
fn moved<T: Element>(old: T, symbol: Symbol, plain: &mut impl Plain) -> Option<T> {
    let (bits, down) = match symbol {
        Symbol::Unchanged => return Some(old),
        Symbol::Moved { bits, down } => (bits, down),
        Symbol::Escape => {
            let both = plain.plain(7)?;
            (both & 63, both >> 6 == 1)
        }
    };
    if bits as usize >= T::WIDTH * 8 {
        return None;
    }
    let len = bits.saturating_sub(1);
    let mut beyond = u64::from(plain.plain(len.min(32))?);
    if len > 32 {
        beyond |= u64::from(plain.plain(len - 32)?) << 32;
    }
    if bits > 0 {
        beyond |= 1 << len;
    }
    let distance = beyond.wrapping_add(1);
    let old = old.to_u64();
    Some(T::from_u64(if down { old.wrapping_sub(distance) } else { old.wrapping_add(distance) }))
}

impl Decoder {
    /// Finds the changes that `payload` makes to `base`: element numbers, ascending, and new values.
    ///
    /// Their number is at most that of the elements, whatever the payload says.
    pub(crate) fn changes<T: Element>(
        &mut self,
        key: Key,
        payload: &[u8],
        base: &[u8],
    ) -> Result<&[(u32, u64)], CodecError> {
        self.changes.clear();
        let mut bits = BitReader::new(payload);
        let head = Head::read(&mut bits).ok_or(CodecError::new("the payload is empty", 0))?;
        let model = Model::read(&mut bits)?;
        let taken =
            bits.whole_bytes().ok_or(CodecError::new("the classes are not filled up with zeros", 0))?;
        let mut reader = Reader::new(payload);
        reader.take(taken, "the classes are cut short")?;

        if head.serial {
            let offset = reader.offset();
            let mut stream = Serial::new(reader.rest());
            self.read_hot_serial::<T>(key, &model, base, &mut stream, offset)?;
            self.read_cold::<T>(key, &model, base, 0, 1, &mut stream, offset)?;
            stream.finish(offset)?;
        } else {
            let hot = if model.has_hot() { 2 } else { 0 };
            let streams = hot + if model.has_cold() { STRIPS } else { 0 };
            let mut lens = [0; 2 + STRIPS];
            for len in lens.iter_mut().take(streams.saturating_sub(1)) {
                *len = reader.varint(payload.len(), "the length of a stream")?;
            }
            let mut next = |index: usize| -> Result<(usize, &[u8]), CodecError> {
                let offset = reader.offset();
                let last = index + 1 == streams;
                let len = if last { payload.len() - offset } else { lens[index] };
                Ok((offset, reader.take(len, "a stream is cut short")?))
            };
            if model.has_hot() {
                let (offset, lanes) = next(0)?;
                let lanes = Lanes::new(lanes, head.lanes(), offset)?;
                let (offset, plain) = next(1)?;
                self.read_hot_lanes::<T>(key, &model, base, lanes, plain, offset)?;
            }
            if model.has_cold() {
                for strip in 0..STRIPS {
                    let (offset, bytes) = next(hot + strip)?;
                    let mut stream = Serial::new(bytes);
                    self.read_cold::<T>(key, &model, base, strip, STRIPS, &mut stream, offset)?;
                    stream.finish(offset)?;
                }
            }
            reader.finish("bytes after the last stream")?;
        }
        self.changes.sort_unstable_by_key(|&(position, _)| position);
        Ok(&self.changes)
    }

    /// Turns `chunk` from the base into the target.
    pub(crate) fn apply<T: Element>(
        &mut self,
        key: Key,
        payload: &[u8],
        chunk: &mut [u8],
    ) -> Result<(), CodecError> {
        self.changes::<T>(key, payload, chunk)?;
        for &(position, value) in &self.changes {
            let at = position as usize * T::WIDTH;
            if let Some(element) = chunk.get_mut(at..at + T::WIDTH) {
                T::from_u64(value).store(element);
            }
        }
        Ok(())
    }

    fn read_hot_lanes<T: Element>(
        &mut self,
        key: Key,
        model: &Model,
        base: &[u8],
        mut lanes: Lanes<'_>,
        plain: &[u8],
        offset: usize,
    ) -> Result<(), CodecError> {
        let symbols: Vec<Symbols> =
            model.classes.iter().map(|&class| Symbols::new(class, T::WIDTH)).collect();
        let mut bits = BitReader::new(plain);
        for (position, old) in (0..).zip(layout::elements::<T>(base)) {
            let class = model.class_of(key.find(old));
            if !model.classes[class].is_hot() {
                continue;
            }
            let slot = lanes.slot();
            let (symbol, start, freq) = symbols[class].find(slot);
            lanes.consume(freq, slot - start)?;
            if symbol == Symbol::Unchanged {
                continue;
            }
            let new = moved(old, symbol, &mut bits).ok_or(CodecError::new(BAD_DISTANCE, offset))?;
            self.changes.push((position, new.to_u64()));
        }
        if bits.whole_bytes() != Some(plain.len()) {
            return Err(CodecError::new("plain bits are left: broken, or another base", offset));
        }
        lanes.finish()
    }

    fn read_hot_serial<T: Element>(
        &mut self,
        key: Key,
        model: &Model,
        base: &[u8],
        stream: &mut Serial<'_>,
        offset: usize,
    ) -> Result<(), CodecError> {
        if !model.has_hot() {
            return Ok(());
        }
        let symbols: Vec<Symbols> =
            model.classes.iter().map(|&class| Symbols::new(class, T::WIDTH)).collect();
        for (position, old) in (0..).zip(layout::elements::<T>(base)) {
            let class = model.class_of(key.find(old));
            if !model.classes[class].is_hot() {
                continue;
            }
            let symbol = read_symbol(&symbols[class], stream);
            if symbol == Symbol::Unchanged {
                continue;
            }
            let new = moved(old, symbol, stream).ok_or(CodecError::new(BAD_DISTANCE, offset))?;
            self.changes.push((position, new.to_u64()));
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "a strip of a chunk, and a stream with its place")]
    fn read_cold<T: Element>(
        &mut self,
        key: Key,
        model: &Model,
        base: &[u8],
        strip: usize,
        strips: usize,
        stream: &mut Serial<'_>,
        offset: usize,
    ) -> Result<(), CodecError> {
        if !model.has_cold() {
            return Ok(());
        }
        let scale = model.axis_scale();
        let lengths = model.lengths(scale);
        let symbols: Vec<Symbols> = model
            .classes
            .iter()
            .map(|class| Symbols::new(Class { rate: 0, reach: class.reach }, T::WIDTH))
            .collect();
        // All on the axis; u64, because a broken quotient may lie far beyond its end.
        let mut place: Option<Place> = None;
        let mut axis = 0u64;
        for range in layout::strip(base.len(), strip, strips) {
            let first = range.start / T::WIDTH;
            for (position, old) in (first..).zip(layout::elements::<T>(&base[range])) {
                let class = model.class_of(key.find(old));
                let (start, end) = (axis, axis + u64::from(lengths[class]));
                axis = end;
                if start == end {
                    continue;
                }
                let found = *place.get_or_insert_with(|| Place::read(stream, 0, scale));
                if found.point >= end {
                    continue;
                }
                found.take(stream, start, end, scale);
                let symbol = read_symbol(&symbols[class], stream);
                let new = moved(old, symbol, stream).ok_or(CodecError::new(BAD_DISTANCE, offset))?;
                let position = u32::try_from(position).map_err(|_| CodecError::new(BAD_DISTANCE, offset))?;
                self.changes.push((position, new.to_u64()));
                place = Some(Place::read(stream, end, scale));
            }
        }
        if let Some(found) = place {
            found.take(stream, axis, u64::MAX, scale);
        }
        Ok(())
    }
}

fn read_symbol(symbols: &Symbols, stream: &mut Serial<'_>) -> Symbol {
    let slot = (stream.state() & ((1 << SYMBOL_SCALE) - 1)) as u32;
    let (symbol, start, freq) = symbols.find(slot);
    stream.consume(SYMBOL_SCALE, freq, slot - start);
    symbol
}

/// A point on the axis, read from the low bits of a stream that still holds them.
#[derive(Debug, Clone, Copy)]
struct Place {
    point: u64,
    /// Where the bucket of the point begins.
    bucket: u64,
    /// The bits of the state that were looked at.
    total: u32,
}

impl Place {
    /// Looks at the next point after `from`.
    fn read(stream: &mut Serial<'_>, from: u64, scale: u32) -> Self {
        let state = stream.state();
        let ones = state.trailing_ones().min(QUOTIENT_ESCAPE);
        let (quotient, read) = if ones < QUOTIENT_ESCAPE {
            (ones, ones + 1)
        } else {
            stream.bits(QUOTIENT_ESCAPE);
            (QUOTIENT_ESCAPE + stream.bits(QUOTIENT_BITS), 0)
        };
        let bucket = from + (u64::from(quotient) << scale);
        let point = bucket + (stream.state() >> read & ((1 << scale) - 1));
        Self { point, bucket, total: read + scale }
    }

    /// Removes the point from the stream: it lies in what spans `start..end` on the axis.
    #[expect(clippy::cast_possible_truncation, reason = "both are at most the size of a bucket")]
    fn take(self, stream: &mut Serial<'_>, start: u64, end: u64, scale: u32) {
        let start = start.max(self.bucket);
        let end = end.min(self.bucket + (1 << scale));
        stream.consume(self.total, (end - start) as u32, (self.point - start) as u32);
    }
}
