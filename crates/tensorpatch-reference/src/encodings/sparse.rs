//! `encodings/sparse.md`, in its order.

use crate::input::{Code, Error, Input, Result};
use crate::metadata::Format;

/// What can be wrong has no place of its own.
type Maybe<T> = std::result::Result<T, &'static str>;

pub(super) fn decode(format: Format, payload: Input<'_>, base: &[u8]) -> Result<Vec<u8>> {
    let width = format.width();
    let mut elements: Vec<u64> = base.chunks(width).map(integer).collect();
    match decode_elements(format, payload, &mut elements) {
        Ok(()) => {
            Ok(elements.iter().flat_map(|element| element.to_le_bytes().into_iter().take(width)).collect())
        }
        Err(what) => Err(Error { code: Code::Invalid, offset: payload.at(), what }),
    }
}

fn integer(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn decode_elements(format: Format, payload: Input<'_>, elements: &mut [u64]) -> Maybe<()> {
    let bits = 8_u64.saturating_mul(format.width() as u64);
    let mut string = BitString::new(payload.rest());
    let model = Model::read(&mut string, bits)?;
    let rest = string.rest()?;
    // Classes come from the base, not from what has been decoded.
    let classes: Vec<usize> = elements.iter().map(|element| model.class(key(format, *element))).collect();
    let all: Vec<usize> = (0..elements.len()).collect();
    let hot: Vec<usize> = all.iter().copied().filter(|e| model.is_hot(get(&classes, *e))).collect();
    let has_hot = model.classes.iter().any(|class| class.rate >= HOT);
    let has_cold = model.classes.iter().any(|class| (1..HOT).contains(&class.rate));

    if model.hot_streams == 0 {
        let mut stream = Serial::new(rest)?;
        read_hot(&model, std::slice::from_mut(&mut stream), &hot, &classes, elements, bits)?;
        cold(&model, &mut stream, &all, &classes, elements, bits)?;
        return stream.end();
    }

    let (mut of_hot, of_cold) = split(
        Input::new(rest, 0),
        if has_hot { model.hot_streams } else { 0 },
        if has_cold { STRIPS } else { 0 },
    )?;
    read_hot(&model, &mut of_hot, &hot, &classes, elements, bits)?;
    of_hot.into_iter().try_for_each(Serial::end)?;
    for (strip, mut stream) in of_cold.into_iter().enumerate() {
        let width = format.width();
        let of_strip: Vec<usize> =
            all.iter().copied().filter(|e| e.saturating_mul(width) / 8192 % STRIPS == strip).collect();
        cold(&model, &mut stream, &of_strip, &classes, elements, bits)?;
        stream.end()?;
    }
    Ok(())
}

const STRIPS: usize = 8;

/// The streams of the two groups, so many of each.
fn split(mut rest: Input<'_>, hot: usize, strips: usize) -> Maybe<(Vec<Serial<'_>>, Vec<Serial<'_>>)> {
    let mut varint = || rest.varint().map_err(|error| error.what);
    let h = if hot > 0 && strips > 0 { Some(varint()?) } else { None };
    let of_hot = (1..hot).map(|_| varint()).collect::<Maybe<Vec<u64>>>()?;
    let of_strips = (1..strips).map(|_| varint()).collect::<Maybe<Vec<u64>>>()?;
    let h = h.unwrap_or(if hot > 0 { rest.left() } else { 0 });
    let hot_bytes = rest.take(h).map_err(|error| error.what)?;
    Ok((group(hot_bytes, hot, &of_hot)?, group(rest.rest(), strips, &of_strips)?))
}

/// The streams of a group that fills `bytes`. `numbers` are those of all streams but the last.
fn group<'a>(bytes: &'a [u8], count: usize, numbers: &[u64]) -> Maybe<Vec<Serial<'a>>> {
    let mut bytes = Input::new(bytes, 0);
    let mut streams = Vec::new();
    for (m, z) in (1..=count as u64).rev().zip(numbers) {
        let share = bytes.left().checked_div(m).unwrap_or(0);
        let len = if z.is_multiple_of(2) {
            share.checked_add(z / 2)
        } else {
            share.checked_sub((z / 2).saturating_add(1))
        };
        let len = len.ok_or("the length of a stream is below 0 or beyond all numbers")?;
        streams.push(Serial::new(bytes.take(len).map_err(|error| error.what)?)?);
    }
    if count > 0 {
        streams.push(Serial::new(bytes.rest())?);
        return Ok(streams);
    }
    bytes.end().map_err(|error| error.what)?;
    Ok(streams)
}

fn get(classes: &[usize], element: usize) -> usize {
    classes.get(element).copied().unwrap_or(0)
}

/// What becomes of an element: nothing, or up or down by so much.
type Step = Option<(bool, u64)>;

fn apply(elements: &mut [u64], element: usize, step: Step, bits: u64) {
    if let (Some(old), Some((up, by))) = (elements.get_mut(element), step) {
        let new = if up { old.wrapping_add(by) } else { old.wrapping_sub(by) };
        *old = if bits == 64 { new } else { low(new, bits) };
    }
}

// 1. Classes

const HOT: u64 = 68;

fn key(format: Format, v: u64) -> u64 {
    match format {
        Format::Bf16 => v >> 7 & 255,
        Format::F16 => v >> 10 & 31,
        Format::F32 => v >> 23 & 255,
        Format::E4m3 => v >> 3 & 15,
        Format::E5m2 => v >> 2 & 31,
        Format::W8 | Format::W16 | Format::W32 | Format::W64 => 0,
    }
}

struct Class {
    rate: u64,
    reach: u64,
    /// Section 3: each symbol with its first slot and the slot after its last.
    symbols: Vec<(Symbol, u64, u64)>,
}

struct Model {
    /// How many there are if there are any; 0 if one stream holds everything.
    hot_streams: usize,
    first_key: u64,
    classes: Vec<Class>,
}

impl Model {
    // 2. Payload
    fn read(string: &mut BitString<'_>, bits: u64) -> Maybe<Self> {
        let hot_streams = match string.number(2)? {
            0 => 0,
            1 => 1,
            2 => 8,
            _ => 16,
        };
        let count = string.number(5)?.saturating_add(1);
        let reaching = string.number(6)?;
        let first_key = string.number(8)?;
        if reaching > count {
            return Err("more reaches than classes");
        }
        let mut rates: Vec<u64> = Vec::new();
        for _ in 0..count {
            let rate = match rates.last() {
                None => string.number(7)?,
                Some(before) => string.near(before.saturating_sub(4).max(1), 7)?,
            };
            if rate > 95 {
                return Err("a rate is over 95");
            }
            rates.push(rate);
        }
        // From the last to the first.
        let mut reaches: Vec<u64> = Vec::new();
        for _ in 0..reaching {
            let reach = match reaches.last() {
                None => string.number(8)?,
                Some(before) => string.near(before.saturating_add(5).min(255), 8)?,
            };
            if reach > 255 {
                return Err("a reach is over 255");
            }
            reaches.push(reach);
        }
        reaches.reverse();
        let reaches = reaches.into_iter().chain(std::iter::repeat(0));
        let classes = rates
            .into_iter()
            .zip(reaches)
            .map(|(rate, reach)| Class { rate, reach, symbols: symbols(rate, reach, bits) })
            .collect();
        Ok(Self { hot_streams, first_key, classes })
    }

    fn class(&self, key: u64) -> usize {
        let beyond = usize::try_from(key.saturating_sub(self.first_key)).unwrap_or(usize::MAX);
        beyond.min(self.classes.len().saturating_sub(1))
    }

    fn get(&self, class: usize) -> &Class {
        static NONE: Class = Class { rate: 0, reach: 0, symbols: Vec::new() };
        self.classes.get(class).unwrap_or(&NONE)
    }

    fn is_hot(&self, class: usize) -> bool {
        self.get(class).rate >= HOT
    }
}

/// A bit string, filled from the least significant bit of each byte on.
struct BitString<'a> {
    bytes: &'a [u8],
    used: usize,
}

impl<'a> BitString<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, used: 0 }
    }

    fn bit(&mut self) -> Maybe<u64> {
        let byte = self.bytes.get(self.used / 8).ok_or("a bit string runs over its end")?;
        let bit = u64::from(byte >> (self.used % 8) & 1);
        self.used = self.used.saturating_add(1);
        Ok(bit)
    }

    fn number(&mut self, k: u64) -> Maybe<u64> {
        let mut value = 0;
        for place in 0..k {
            value |= self.bit()? << place;
        }
        Ok(value)
    }

    /// A number coded against an expected one.
    fn near(&mut self, expected: u64, bits: u64) -> Maybe<u64> {
        let mut zeros = 0_u64;
        while self.bit()? == 0 {
            zeros = zeros.saturating_add(1);
            if zeros > 8 {
                return Err("more than eight zero bits");
            }
        }
        if zeros == 8 {
            return self.number(bits);
        }
        let d = zeros.saturating_mul(2).saturating_add(self.bit()?);
        if d.is_multiple_of(2) {
            Ok(expected.saturating_add(d / 2))
        } else {
            expected.checked_sub(d.saturating_add(1) / 2).ok_or("a number is below zero")
        }
    }

    /// The bits up to the end of the byte are zero. What comes after it.
    fn rest(&mut self) -> Maybe<&'a [u8]> {
        while !self.used.is_multiple_of(8) {
            if self.bit()? != 0 {
                return Err("filling bits are not zero");
            }
        }
        Ok(self.bytes.get(self.used / 8..).unwrap_or_default())
    }
}

// 3. Symbols

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Symbol {
    Unchanged,
    Up(u64),
    Down(u64),
    /// Of cold classes: the direction is known from the place.
    Moved(u64),
    Escape,
}

fn symbols(rate: u64, reach: u64, bits: u64) -> Vec<(Symbol, u64, u64)> {
    let unchanged = if rate >= HOT { (survival(rate) >> 6).max(1) } else { 0 };
    let mut out = vec![(Symbol::Unchanged, 0, unchanged)];
    let mut share = |b: u64, from: u64, to: u64| {
        if rate < HOT {
            out.push((Symbol::Moved(b), from, to));
            return;
        }
        let middle = from.saturating_add(to.saturating_sub(from).div_ceil(2));
        out.push((Symbol::Up(b), from, middle));
        out.push((Symbol::Down(b), middle, to));
    };
    let mut from = unchanged;
    if reach == 0 {
        share(0, from, 1024);
    } else {
        for b in 0..bits {
            let index = b.saturating_mul(5).saturating_add(96);
            let p = index.checked_sub(reach).map_or(65_536, survival);
            let part =
                1023_u64.saturating_sub(unchanged).saturating_mul(65_536_u64.saturating_sub(p)) / 65_536;
            let to = unchanged.saturating_add(part);
            share(b, from, to);
            from = to;
        }
        out.push((Symbol::Escape, from, 1024));
    }
    out
}

impl Symbol {
    /// What the symbol means, with the plain bits that it calls for; `known` is the direction if the class is cold.
    fn step(self, bits: u64, known: Option<bool>, stream: &mut Serial<'_>) -> Maybe<Step> {
        let (up, b) = match (self, known) {
            (Self::Unchanged, _) => return Ok(None),
            (Self::Up(b), _) => (true, b),
            (Self::Down(b), _) => (false, b),
            (Self::Moved(b), up) => (up.ok_or("a hot class has no such symbol")?, b),
            (Self::Escape, Some(up)) => (up, stream.plain(6)),
            (Self::Escape, None) => {
                let both = stream.plain(7);
                (both >> 6 == 0, low(both, 6))
            }
        };
        if b >= bits {
            return Err("an element has not so many bits");
        }
        let t = match b.checked_sub(1) {
            None => 0,
            Some(below) => {
                let low = stream.plain(below.min(32));
                let high = if below > 32 { stream.plain(below.saturating_sub(32)) } else { 0 };
                1 << below | high << 32 | low
            }
        };
        Ok(Some((up, t.wrapping_add(1))))
    }
}

fn symbol_of(class: &Class, slot: u64) -> Maybe<(Symbol, u64, u64)> {
    let found = class.symbols.iter().find(|(_, from, to)| (*from..*to).contains(&slot));
    found.copied().ok_or("a class has no symbols")
}

fn survival(index: u64) -> u64 {
    usize::try_from(index).ok().and_then(|index| SURVIVAL.get(index)).copied().unwrap_or(0)
}

#[rustfmt::skip]
const SURVIVAL: [u64; 96] = [
    65536, 65536, 65536, 65536, 65536, 65536, 65536, 65536, 65536, 65536, 65536, 65536,
    65536, 65536, 65536, 65535, 65535, 65535, 65535, 65535, 65535, 65534, 65534, 65534,
    65533, 65533, 65532, 65531, 65530, 65529, 65528, 65527, 65525, 65523, 65520, 65517,
    65514, 65510, 65505, 65499, 65492, 65483, 65473, 65461, 65447, 65431, 65411, 65387,
    65359, 65325, 65286, 65238, 65182, 65115, 65036, 64942, 64830, 64697, 64540, 64353,
    64132, 63869, 63559, 63192, 62757, 62245, 61641, 60931, 60097, 59120, 57978, 56650,
    55109, 53331, 51292, 48968, 46341, 43400, 40144, 36589, 32768, 28740, 24590, 20427,
    16384, 12604,  9227,  6367,  4096,  2424,  1299,   619,   256,    90,    26,     6,
];

// 4. Serial streams

struct Serial<'a> {
    x: u64,
    words: std::slice::Chunks<'a, u8>,
}

impl<'a> Serial<'a> {
    fn new(bytes: &'a [u8]) -> Maybe<Self> {
        let s = bytes.len();
        let first = if s <= 8 { s } else { s.saturating_sub(1).wrapping_rem(4).saturating_add(5) };
        let (state, words) = bytes.split_at(first);
        if state.last() == Some(&0) {
            return Err("a state has more bytes than it needs");
        }
        Ok(Self { x: integer(state), words: words.chunks(4) })
    }

    fn take(&mut self, shift: u64, f: u64, o: u64) {
        // f is at most 2^shift, and o less than f.
        self.x = (self.x >> shift).wrapping_mul(f).wrapping_add(o);
        if self.x < 1 << 32
            && let Some(word) = self.words.next()
        {
            self.x = self.x << 32 | integer(word);
        }
    }

    fn plain(&mut self, k: u64) -> u64 {
        let value = low(self.x, k);
        if k > 0 {
            self.take(k, 1, 0);
        }
        value
    }

    fn symbol(&mut self, class: &Class) -> Maybe<Symbol> {
        let slot = low(self.x, 10);
        let (symbol, from, to) = symbol_of(class, slot)?;
        self.take(10, to.saturating_sub(from), slot.saturating_sub(from));
        Ok(symbol)
    }

    fn end(mut self) -> Maybe<()> {
        if self.x == 0 && self.words.next().is_none() {
            Ok(())
        } else {
            Err("a stream does not end with state 0")
        }
    }
}

/// The lowest `k` bits, `k` below 64.
fn low(x: u64, k: u64) -> u64 {
    x & (1_u64 << k).wrapping_sub(1)
}

// 5. Hot elements

/// The elements take turns with the streams.
fn read_hot(
    model: &Model,
    streams: &mut [Serial<'_>],
    hot: &[usize],
    classes: &[usize],
    elements: &mut [u64],
    bits: u64,
) -> Maybe<()> {
    let count = streams.len();
    for (number, element) in hot.iter().enumerate() {
        let turn = number.checked_rem(count).unwrap_or(0);
        let stream = streams.get_mut(turn).ok_or("a hot element without a stream")?;
        let symbol = stream.symbol(model.get(get(classes, *element)))?;
        let step = symbol.step(bits, None, stream)?;
        apply(elements, *element, step, bits);
    }
    Ok(())
}

// 6. Cold changes

fn cold(
    model: &Model,
    stream: &mut Serial<'_>,
    strip: &[usize],
    classes: &[usize],
    elements: &mut [u64],
    bits: u64,
) -> Maybe<()> {
    let cold = || model.classes.iter().map(|class| class.rate).filter(|rate| (1..HOT).contains(rate));
    let Some(highest) = cold().max() else {
        return Ok(());
    };
    let scale = 14_u64.saturating_add((67_u64.saturating_sub(highest) / 4).min(4));
    let bucket = 1_u64 << scale;
    // Where on the axis each element begins and ends.
    let mut axis = Vec::new();
    let mut end = 0_u64;
    for element in strip {
        let length = length(model.get(get(classes, *element)).rate, scale);
        let from = end;
        end = end.saturating_add(length);
        axis.push((*element, from, end));
    }
    if end == 0 {
        return Ok(());
    }
    let mut e = 0_u64;
    let mut place = axis.into_iter();
    loop {
        let mut q = u64::from(stream.x.trailing_ones()).min(11);
        let width = scale.saturating_add(2);
        let mut c = q.saturating_add(1);
        if q == 11 {
            stream.plain(11);
            q = q.saturating_add(stream.plain(20));
            c = 0;
        }
        let up = stream.x >> c & 1 == 0;
        let p = low(stream.x >> c.saturating_add(1), width);
        let shift = c.saturating_add(1).saturating_add(width);
        let b = e.saturating_add(q.saturating_mul(bucket));
        // The largest unit that has no more slots before it than the slot is; `before` never falls.
        let mut u = 0;
        for step in (0..=scale).rev().map(|bit| 1_u64 << bit) {
            if before(u | step, scale) <= p {
                u |= step;
            }
        }
        let point = b.saturating_add(u);
        if point >= end {
            let a = before(end.saturating_sub(b), scale);
            stream.take(shift, (bucket << 2).saturating_sub(a), p.saturating_sub(a));
            return Ok(());
        }
        let Some((element, i, j)) = place.find(|(_, i, j)| (*i..*j).contains(&point)) else {
            return Err("a point lies on no element");
        };
        let a = before(i.saturating_sub(b), scale);
        let z = before(j.saturating_sub(b).min(bucket), scale);
        stream.take(shift, z.saturating_sub(a), p.saturating_sub(a));
        let class = model.get(get(classes, element));
        let step = if class.reach == 0 {
            Some((up, 1))
        } else {
            stream.symbol(class)?.step(bits, Some(up), stream)?
        };
        apply(elements, element, step, bits);
        e = j;
    }
}

/// The slots of a bucket before one of its units.
fn before(u: u64, scale: u64) -> u64 {
    let five = u.saturating_mul(5);
    let four = u.saturating_mul(4).saturating_add(1 << scale.saturating_sub(2));
    let three = u.saturating_mul(3).saturating_add(1 << scale);
    five.min(four).min(three)
}

fn length(rate: u64, scale: u64) -> u64 {
    if rate == 0 || rate >= HOT {
        return 0;
    }
    let q = match rate % 4 {
        0 => 32_768_u64,
        1 => 38_968,
        2 => 46_341,
        _ => 55_109,
    };
    // At least 35 - 16 - 18.
    let h = 35_u64.saturating_sub(rate / 4).saturating_sub(scale);
    (q.saturating_add(1 << h.saturating_sub(1)) >> h).max(1)
}
