//! Base and target to a `sparse` payload: the reference path.

use crate::bits::BitWriter;
use crate::bytes::put_varint;
use crate::element::{Element, Key};

use super::layout::{self, Head, STRIPS};
use super::model::{Counts, Model, Symbol, Symbols};
use super::stream::{SYMBOL_SCALE, Step, put_lanes, put_serial};

/// Up to this many changed elements, all goes into one serial stream: several streams cost about 15 bytes.
const SERIAL_CHANGES: u64 = 512;
/// From this many hot elements on, sixteen lanes instead of four: they cost 40 bytes more.
const MANY_HOT: usize = 1 << 15;

/// Encodes chunks, with scratch memory kept in between.
#[derive(Debug)]
pub(crate) struct Encoder {
    counts: Box<[Counts; 256]>,
    steps: Vec<Step>,
    words: Vec<u32>,
    streams: Vec<u8>,
    lens: Vec<usize>,
}

impl Default for Encoder {
    fn default() -> Self {
        Self {
            counts: Box::new([Counts::default(); 256]),
            steps: Vec::new(),
            words: Vec::new(),
            streams: Vec::new(),
            lens: Vec::new(),
        }
    }
}

/// How far a changed element moved, beyond one unit, and whether down.
struct Distance {
    down: bool,
    beyond: u64,
    bits: u32,
}

impl Distance {
    fn between<T: Element>(old: T, new: T) -> Self {
        let difference = new.minus(old);
        let beyond = difference.unsigned_abs() - 1;
        Self { down: difference < 0, beyond, bits: u64::BITS - beyond.leading_zeros() }
    }

    fn symbol(&self) -> Symbol {
        Symbol::Moved { bits: self.bits, down: self.down }
    }

    /// The bits below the leading one, and how many.
    fn extra(&self) -> (u64, u32) {
        let len = self.bits.saturating_sub(1);
        (self.beyond & ((1 << len) - 1), len)
    }
}

impl Encoder {
    /// Appends the payload and returns the number of changed elements. `base` and `target` have the same length and differ.
    pub(crate) fn encode<T: Element>(
        &mut self,
        key: Key,
        base: &[u8],
        target: &[u8],
        out: &mut Vec<u8>,
    ) -> u64 {
        let changed = self.count::<T>(key, base, target);
        let model = Model::fit(&self.counts, T::WIDTH);
        self.streams.clear();
        self.lens.clear();
        let serial = changed <= SERIAL_CHANGES;
        let lanes = if serial { None } else { self.put_hot_lanes::<T>(key, &model, base, target) };
        self.steps.clear();
        if serial {
            self.push_hot_steps::<T>(key, &model, base, target);
            self.push_cold_steps::<T>(key, &model, base, target, 0, 1);
            put_serial(&self.steps, &mut self.words, &mut self.streams);
            self.lens.push(self.streams.len());
        } else if model.has_cold() {
            for strip in 0..STRIPS {
                self.steps.clear();
                self.push_cold_steps::<T>(key, &model, base, target, strip, STRIPS);
                let start = self.streams.len();
                put_serial(&self.steps, &mut self.words, &mut self.streams);
                self.lens.push(self.streams.len() - start);
            }
        }

        let mut bits = BitWriter::new(out);
        Head { serial, many_lanes: lanes == Some(layout::MANY_LANES) }.write(&mut bits);
        model.write(&mut bits);
        bits.finish();
        if let [lens @ .., _] = &*self.lens {
            lens.iter().for_each(|&len| put_varint(out, len));
        }
        out.extend_from_slice(&self.streams);
        changed
    }

    fn count<T: Element>(&mut self, key: Key, base: &[u8], target: &[u8]) -> u64 {
        self.counts.fill(Counts::default());
        let mut changed = 0;
        for (old, new) in layout::elements::<T>(base).zip(layout::elements::<T>(target)) {
            let counts = &mut self.counts[key.find(old)];
            counts.elements += 1;
            if old != new {
                counts.changed[Distance::between(old, new).bits as usize] += 1;
                changed += 1;
            }
        }
        changed
    }

    /// Appends the lanes of the hot symbols and their plain bits; returns the number of lanes, if there is a hot class.
    fn put_hot_lanes<T: Element>(
        &mut self,
        key: Key,
        model: &Model,
        base: &[u8],
        target: &[u8],
    ) -> Option<usize> {
        if !model.has_hot() {
            return None;
        }
        let symbols: Vec<Symbols> =
            model.classes.iter().map(|&class| Symbols::new(class, T::WIDTH)).collect();
        let mut slots = Vec::new();
        let mut plain = Vec::new();
        let mut bits = BitWriter::new(&mut plain);
        for (old, new) in layout::elements::<T>(base).zip(layout::elements::<T>(target)) {
            let class = model.class_of(key.find(old));
            if !model.classes[class].is_hot() {
                continue;
            }
            if old == new {
                slots.push(symbols[class].slots(Symbol::Unchanged).unwrap_or((0, 1)));
                continue;
            }
            let distance = Distance::between(old, new);
            match symbols[class].slots(distance.symbol()) {
                Some(slot) => slots.push(slot),
                None => {
                    slots.push(symbols[class].slots(Symbol::Escape).unwrap_or((0, 1)));
                    bits.put(distance.bits, 6);
                    bits.put(u32::from(distance.down), 1);
                }
            }
            let (extra, len) = distance.extra();
            layout::halves(extra, len).for_each(|(half, len)| bits.put(half, len));
        }
        bits.finish();
        let lanes = if slots.len() < MANY_HOT { layout::FEW_LANES } else { layout::MANY_LANES };
        let start = self.streams.len();
        put_lanes(&slots, lanes, &mut self.words, &mut self.streams);
        self.lens.push(self.streams.len() - start);
        self.streams.extend_from_slice(&plain);
        self.lens.push(plain.len());
        Some(lanes)
    }

    fn push_hot_steps<T: Element>(&mut self, key: Key, model: &Model, base: &[u8], target: &[u8]) {
        if !model.has_hot() {
            return;
        }
        let symbols: Vec<Symbols> =
            model.classes.iter().map(|&class| Symbols::new(class, T::WIDTH)).collect();
        for (old, new) in layout::elements::<T>(base).zip(layout::elements::<T>(target)) {
            let class = model.class_of(key.find(old));
            if !model.classes[class].is_hot() {
                continue;
            }
            if old == new {
                self.push_symbol(&symbols[class], Symbol::Unchanged);
            } else {
                let distance = Distance::between(old, new);
                self.push_distance(&symbols[class], &distance);
            }
        }
    }

    fn push_cold_steps<T: Element>(
        &mut self,
        key: Key,
        model: &Model,
        base: &[u8],
        target: &[u8],
        strip: usize,
        strips: usize,
    ) {
        if !model.has_cold() {
            return;
        }
        let scale = model.axis_scale();
        let lengths = model.lengths(scale);
        let symbols: Vec<Symbols> = model
            .classes
            .iter()
            .map(|class| Symbols::new(super::model::Class { rate: 0, reach: class.reach }, T::WIDTH))
            .collect();
        let (mut end_of_last, mut axis) = (0u32, 0u32);
        for range in layout::strip(base.len(), strip, strips) {
            let news = layout::elements::<T>(&target[range.clone()]);
            for (old, new) in layout::elements::<T>(&base[range]).zip(news) {
                let class = model.class_of(key.find(old));
                let length = lengths[class];
                if old != new && length > 0 {
                    let distance = Distance::between(old, new);
                    self.push_place(axis - end_of_last, length, scale);
                    self.push_distance(&symbols[class], &distance);
                    end_of_last = axis + length;
                }
                axis += length;
            }
        }
        if axis > 0 {
            self.push_end(axis - end_of_last, scale);
        }
    }

    /// The place of a changed element, `gap` after the end of the last one on the axis and of the given length.
    fn push_place(&mut self, gap: u32, length: u32, scale: u32) {
        let quotient = gap >> scale;
        let within = gap - (quotient << scale);
        let before = length.min((1 << scale) - within);
        let after = length - before;
        // An element across a border has two codes. The second costs a bit more, so it must be twice as likely.
        if after > 2 * before {
            self.push_bucket(quotient + 1, 0, after, scale);
        } else {
            self.push_bucket(quotient, within, before, scale);
        }
    }

    /// The end of the axis, `gap` after the end of the last changed element: as if an element without end were there.
    fn push_end(&mut self, gap: u32, scale: u32) {
        let quotient = gap >> scale;
        let within = gap - (quotient << scale);
        let rest = (1 << scale) - within;
        if rest < 1 << (scale - 1) {
            self.push_bucket(quotient + 1, 0, 1 << scale, scale);
        } else {
            self.push_bucket(quotient, within, rest, scale);
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "a scale is at most 18")]
    fn push_bucket(&mut self, quotient: u32, start: u32, freq: u32, scale: u32) {
        let scale = scale as u8;
        if quotient < layout::QUOTIENT_ESCAPE {
            let raw = (1 << quotient) - 1;
            self.steps.push(Step { freq, start, raw, scale, raw_len: quotient as u8 + 1 });
        } else {
            let ones = (1 << layout::QUOTIENT_ESCAPE) - 1;
            self.steps.push(Step::bits(ones, layout::QUOTIENT_ESCAPE as u8));
            self.steps.push(Step::bits(quotient - layout::QUOTIENT_ESCAPE, layout::QUOTIENT_BITS as u8));
            self.steps.push(Step::symbol(start, freq, scale));
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "at most 32 bits at a time")]
    fn push_distance(&mut self, symbols: &Symbols, distance: &Distance) {
        if symbols.slots(distance.symbol()).is_some() {
            self.push_symbol(symbols, distance.symbol());
        } else {
            self.push_symbol(symbols, Symbol::Escape);
            self.steps.push(Step::bits(distance.bits | u32::from(distance.down) << 6, 7));
        }
        let (extra, len) = distance.extra();
        self.steps.extend(layout::halves(extra, len).map(|(half, len)| Step::bits(half, len as u8)));
    }

    #[expect(clippy::cast_possible_truncation, reason = "the scale is 10")]
    fn push_symbol(&mut self, symbols: &Symbols, symbol: Symbol) {
        let (start, freq) = symbols.slots(symbol).unwrap_or((0, 1));
        self.steps.push(Step::symbol(start, freq, SYMBOL_SCALE as u8));
    }
}
