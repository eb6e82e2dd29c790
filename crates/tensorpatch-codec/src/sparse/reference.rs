//! A `sparse` payload back to the changes of a chunk, as the specification tells it: what the fast path is tested against.

#![expect(clippy::cast_possible_truncation, reason = "what is cut off is not meant")]

use crate::CodecError;
use crate::bits::BitReader;
use crate::bytes::Reader;
use crate::element::{Element, Key};

use super::layout::{self, QUOTIENT_BITS, QUOTIENT_ESCAPE, STRIPS, Streams};
use super::model::{Class, Model, Symbol, Symbols};
use super::stream::{SYMBOL_SCALE, Serial};

/// Decodes chunks, with scratch memory kept in between.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    /// Element number and new value, ascending after a call.
    changes: Vec<(u32, u64)>,
}

const BAD_DISTANCE: &str = "a distance has more bits than an element";

/// The element that `old` becomes; `None` if the plain bits end, or the distance has more bits than an element.
fn moved<T: Element>(old: T, symbol: Symbol, plain: &mut Serial<'_>) -> Option<T> {
    let (bits, down) = match symbol {
        Symbol::Unchanged => return Some(old),
        Symbol::Moved { bits, down } => (bits, down),
        Symbol::Escape => {
            let both = plain.bits(7);
            (both & 63, both >> 6 == 1)
        }
    };
    if bits as usize >= T::WIDTH * 8 {
        return None;
    }
    let len = bits.saturating_sub(1);
    let mut beyond = if len > 0 { u64::from(plain.bits(len.min(32))) } else { 0 };
    if len > 32 {
        beyond |= u64::from(plain.bits(len - 32)) << 32;
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
        let streams = Streams::read(&mut bits).ok_or(CodecError::new("the payload is empty", 0))?;
        let model = Model::read(&mut bits)?;
        let taken =
            bits.whole_bytes().ok_or(CodecError::new("the classes are not filled up with zeros", 0))?;
        let mut reader = Reader::new(payload);
        reader.take(taken, "the classes are cut short")?;

        match streams {
            Streams::One => {
                let offset = reader.offset();
                let bytes = reader.take(payload.len() - offset, "the rest")?;
                let mut stream = [(offset, Serial::new(bytes, offset)?)];
                self.read_hot::<T>(key, &model, base, &mut stream)?;
                let [(_, mut stream)] = stream;
                self.read_cold::<T>(key, &model, base, 0, 1, &mut stream, offset)?;
                stream.finish(offset)?;
            }
            Streams::Apart { hot } => {
                let hot = if model.has_hot() { hot } else { 0 };
                let strips = if model.has_cold() { STRIPS } else { 0 };
                let mut varint = || reader.varint(usize::MAX, "a length");
                let of_hot = if hot > 0 && strips > 0 { Some(varint()?) } else { None };
                let mut shares = Vec::new();
                for count in [hot, strips] {
                    let written =
                        (0..count.saturating_sub(1)).map(|_| varint()).collect::<Result<Vec<_>, _>>()?;
                    shares.push(written);
                }
                let rest = payload.len() - reader.offset();
                let of_hot = of_hot.unwrap_or(if hot > 0 { rest } else { 0 });
                let of_strips = rest.checked_sub(of_hot).ok_or_else(|| reader.error("the hot streams"))?;
                let mut streams = Vec::new();
                for (mut rest, count, shares) in [(of_hot, hot, &shares[0]), (of_strips, strips, &shares[1])]
                {
                    for i in 0..count {
                        let offset = reader.offset();
                        let len = match shares.get(i) {
                            None => rest,
                            Some(&zigzag) => {
                                let (share, zigzag) = ((rest / (count - i)) as i64, zigzag as i64);
                                let off = if zigzag % 2 == 0 { zigzag / 2 } else { -(zigzag / 2) - 1 };
                                let len = share.checked_add(off).and_then(|len| usize::try_from(len).ok());
                                len.ok_or_else(|| reader.error("the length of a stream"))?
                            }
                        };
                        let bytes = reader.take(len, "a stream is cut short")?;
                        rest = rest.checked_sub(len).ok_or_else(|| reader.error("the length of a stream"))?;
                        streams.push((offset, Serial::new(bytes, offset)?));
                    }
                }
                reader.finish("bytes after the last stream")?;
                let (hot, strips) = streams.split_at_mut(hot);
                self.read_hot::<T>(key, &model, base, hot)?;
                for (strip, (offset, stream)) in strips.iter_mut().enumerate() {
                    self.read_cold::<T>(key, &model, base, strip, STRIPS, stream, *offset)?;
                }
                for (offset, stream) in streams {
                    stream.finish(offset)?;
                }
            }
        }
        self.changes.sort_unstable_by_key(|&(position, _)| position);
        Ok(&self.changes)
    }

    /// The hot elements take turns with the streams.
    fn read_hot<T: Element>(
        &mut self,
        key: Key,
        model: &Model,
        base: &[u8],
        streams: &mut [(usize, Serial<'_>)],
    ) -> Result<(), CodecError> {
        let symbols: Vec<Symbols> =
            model.classes.iter().map(|&class| Symbols::new(class, T::WIDTH)).collect();
        let count = streams.len();
        let mut next = (0..count).cycle();
        for (position, old) in (0..).zip(layout::elements::<T>(base)) {
            let class = model.class_of(key.find(old));
            if !model.classes[class].is_hot() {
                continue;
            }
            let (offset, stream) = &mut streams[next.next().unwrap_or(0)];
            let symbol = read_symbol(&symbols[class], stream);
            if symbol == Symbol::Unchanged {
                continue;
            }
            let new = moved(old, symbol, stream).ok_or(CodecError::new(BAD_DISTANCE, *offset))?;
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
                let bits = match model.classes[class].reach {
                    0 => Some(0),
                    _ => match read_symbol(&symbols[class], stream) {
                        Symbol::Moved { bits, .. } => Some(bits),
                        Symbol::Escape => Some(stream.bits(6)),
                        Symbol::Unchanged => None,
                    },
                };
                let new = bits
                    .and_then(|bits| moved(old, Symbol::Moved { bits, down: found.down }, stream))
                    .ok_or(CodecError::new(BAD_DISTANCE, offset))?;
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

/// The slots before a unit of a bucket: five for each in the first quarter, then four, in the last quarter three.
fn slots(unit: u32, scale: u32) -> u32 {
    let quarter = 1 << (scale - 2);
    let in_quarter = |i: u32| unit.saturating_sub(i * quarter).min(quarter);
    5 * in_quarter(0) + 4 * in_quarter(1) + 4 * in_quarter(2) + 3 * in_quarter(3)
}

/// A point on the axis, read from the low bits of a stream that still holds them.
#[derive(Debug, Clone, Copy)]
struct Place {
    point: u64,
    /// Where the bucket of the point begins.
    bucket: u64,
    slot: u32,
    /// The bits of the state that were looked at.
    total: u32,
    down: bool,
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
        let down = stream.state() >> read & 1 == 1;
        let slot = (stream.state() >> (read + 1)) as u32 & ((4 << scale) - 1);
        let (mut unit, mut above) = (0, 1 << scale);
        while above - unit > 1 {
            let middle = (unit + above) / 2;
            if slots(middle, scale) <= slot { unit = middle } else { above = middle }
        }
        Self { point: bucket + u64::from(unit), bucket, slot, total: read + scale + 3, down }
    }

    /// Removes the point from the stream: it lies in what spans `start..end` on the axis.
    #[expect(clippy::cast_possible_truncation, reason = "both are at most the size of a bucket")]
    fn take(self, stream: &mut Serial<'_>, start: u64, end: u64, scale: u32) {
        let start = slots((start.max(self.bucket) - self.bucket) as u32, scale);
        let end = slots((end.min(self.bucket + (1 << scale)) - self.bucket) as u32, scale);
        stream.consume(self.total, end - start, self.slot - start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::level::Level;
    use crate::sparse::{Encoder, Work};
    use tensorpatch_format::ElementFormat;

    fn xorshift(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    /// Weights of a bell curve, of which a share changes that doubles with each lower exponent.
    fn pair<T: Element>(elements: usize, hottest: u32, seed: u64) -> (Vec<u8>, Vec<u8>) {
        let mut random = seed | 1;
        let (mut base, mut target) = (vec![0; elements * T::WIDTH], vec![0; elements * T::WIDTH]);
        let bits = T::WIDTH as u32 * 8;
        for (old, new) in base.chunks_exact_mut(T::WIDTH).zip(target.chunks_exact_mut(T::WIDTH)) {
            let depth = xorshift(&mut random).trailing_zeros().min(12);
            let exponent = u64::from(120 - depth);
            let bf16 = exponent << 7 | xorshift(&mut random) & 0x807f;
            let value = if bits < 16 { bf16 >> 4 } else { bf16 << (bits - 16) };
            let value = T::from_u64(value);
            value.store(old);
            let moves = xorshift(&mut random) % 1024 < u64::from(hottest) << depth >> 10;
            let far = xorshift(&mut random).trailing_zeros().saturating_sub(3);
            let step = 1 + (xorshift(&mut random) & ((1 << far) - 1));
            let step = if random & 2 == 0 { step } else { step.wrapping_neg() };
            let moved = T::from_u64(value.to_u64().wrapping_add(step));
            if moves { moved.store(new) } else { value.store(new) }
        }
        (base, target)
    }

    fn compare<T: Element>(format: ElementFormat) {
        let key = Key::of(format);
        for (elements, hottest, seed) in [
            (1, 1 << 20, 1),
            (333, 3000, 2),
            (100_000, 300, 3),
            (100_001, 3000, 4),
            ((1 << 20) / T::WIDTH, 40_000, 5),
        ] {
            let (base, target) = pair::<T>(elements, hottest, seed);
            let mut expected: Option<Vec<u8>> = None;
            for level in Level::available() {
                let mut marks = crate::kernels::Marks::default();
                crate::kernels::mark_changed::<T>(level, &base, &target, &mut marks);
                if marks.len() == 0 {
                    continue;
                }
                let mut payload = Vec::new();
                let mut encoder = Encoder::default();
                encoder.begin();
                for (i, marks) in marks.blocks().enumerate() {
                    encoder.observe::<T>(key, &base, &target, i * crate::kernels::BLOCK_BYTES, marks);
                }
                encoder.encode::<T>(level, key, &base, &target, &marks, &mut payload);
                let expected = expected.get_or_insert_with(|| payload.clone());
                assert!(payload == *expected, "{format:?}: payload at {}", level.name());

                let mut reference = Decoder::default();
                let changes = reference.changes::<T>(key, &payload, &base).unwrap();
                let mut rebuilt = base.clone();
                for &(position, value) in changes {
                    let at = position as usize * T::WIDTH;
                    T::from_u64(value).store(&mut rebuilt[at..at + T::WIDTH]);
                }
                assert!(rebuilt == target, "{format:?}: the reference");

                let (mut buffer, mut fast) = (Vec::new(), vec![0; target.len()]);
                let mut work = Work::new(level, Some(&base), &mut fast, &mut buffer, false);
                crate::sparse::Decoder::default().apply::<T>(level, key, &payload, &mut work).unwrap();
                assert!(fast == target, "{format:?}: decoded at {}", level.name());

                // Damage: every level must say the same as the reference, on every payload.
                for i in 0..24u64 {
                    let mut damaged = payload.clone();
                    let at = (i * 7919) as usize % damaged.len();
                    damaged[at] ^= 1 << (i % 8);
                    let by_reference = reference.changes::<T>(key, &damaged, &base).is_ok();
                    let mut fast = base.clone();
                    let mut work = Work::new(level, None, &mut fast, &mut buffer, false);
                    let result =
                        crate::sparse::Decoder::default().apply::<T>(level, key, &damaged, &mut work);
                    assert_eq!(result.is_ok(), by_reference, "{format:?}: bit {i} at {}", level.name());
                }
            }
        }
    }

    #[test]
    fn every_level_agrees_with_the_reference_on_good_and_on_damaged_payloads() {
        compare::<u16>(ElementFormat::Bf16);
        compare::<u16>(ElementFormat::F16);
        compare::<u16>(ElementFormat::W16);
        compare::<u32>(ElementFormat::F32);
        compare::<u8>(ElementFormat::E4m3);
        compare::<u8>(ElementFormat::W8);
        compare::<u64>(ElementFormat::W64);
    }
}
