//! The parts of a `sparse` payload, written from the specification, so that any of them can be false.

use crate::raw::varint;

/// A coded number of the head, but the first of its kind.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Number {
    /// Zero bits, a one bit, and one more bit.
    Near(u32, u64),
    /// Zero bits, a one bit, and the value: eight zero bits are what is due.
    After(u32, u64),
}

pub(crate) fn plain_number(value: u64) -> Number {
    Number::After(8, value)
}

/// The bit string: the first rate and the first reach stand apart, as they are coded otherwise.
pub(crate) struct Head {
    pub(crate) streams: u64,
    pub(crate) first_key: u64,
    pub(crate) rates: (u64, Vec<Number>),
    pub(crate) reaches: Option<(u64, Vec<Number>)>,
}

impl Head {
    /// One class.
    pub(crate) fn one(streams: u64, rate: u64, reach: u64) -> Self {
        let reaches = (reach > 0).then(|| (reach, Vec::new()));
        Self { streams, first_key: 0, rates: (rate, Vec::new()), reaches }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bits = Vec::new();
        let mut put = |value: u64, count: u32| bits.extend((0..count).map(|bit| value >> bit & 1 == 1));
        let reaching = self.reaches.as_ref().map_or(0, |(_, later)| 1 + later.len() as u64);
        put(self.streams, 2);
        put(self.rates.1.len() as u64, 5);
        put(reaching, 6);
        put(self.first_key, 8);
        let numbers = [(Some(&self.rates), 7), (self.reaches.as_ref(), 8)];
        for (numbers, width) in numbers {
            let Some((first, later)) = numbers else { continue };
            put(*first, width);
            for number in later {
                match *number {
                    Number::Near(zeros, b) => put(1 << zeros | b << (zeros + 1), zeros + 2),
                    Number::After(zeros, value) => put(1 << zeros | value << (zeros + 1), zeros + 1 + width),
                }
            }
        }
        let byte = |bits: &[bool]| bits.iter().rev().fold(0, |byte, bit| byte << 1 | u8::from(*bit));
        bits.chunks(8).map(byte).collect()
    }
}

/// What `take(T, f, o)` undoes, for any `o`: `f` slots from `start` on in a number of `width` bits, above `low_width` bits that
/// read `low`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    pub(crate) f: u64,
    pub(crate) start: u64,
    pub(crate) width: u32,
    pub(crate) low: u64,
    pub(crate) low_width: u32,
}

pub(crate) fn plain(value: u64, count: u32) -> Step {
    Step { f: 1, start: 0, width: 0, low: value, low_width: count }
}

pub(crate) fn symbol(start: u64, f: u64) -> Step {
    Step { f, start, width: 10, low: 0, low_width: 0 }
}

/// The stream that these steps are read from.
pub(crate) fn serial(steps: &[Step]) -> Vec<u8> {
    let mut x = 0_u64;
    let mut words: Vec<[u8; 4]> = Vec::new();
    for step in steps.iter().rev() {
        let t = step.width + step.low_width;
        if x.unbounded_shr(64 - t) >= step.f {
            words.push((x as u32).to_le_bytes());
            x >>= 32;
        }
        x = ((x / step.f) << step.width | (step.start + x % step.f)) << step.low_width | step.low;
    }
    let mut out = x.to_le_bytes().to_vec();
    out.truncate((64 - x.leading_zeros()).div_ceil(8) as usize);
    out.extend(words.iter().rev().flatten());
    out
}

/// The numbers of the streams of a group, from which their lengths follow.
pub(crate) fn numbers(group: &[Vec<u8>]) -> Vec<u64> {
    let mut rest: usize = group.iter().map(Vec::len).sum();
    let mut out = Vec::new();
    for (i, stream) in group.iter().enumerate().take(group.len().saturating_sub(1)) {
        let (share, len) = (rest / (group.len() - i), stream.len());
        out.push(if len >= share { 2 * (len - share) } else { 2 * (share - len) - 1 } as u64);
        rest -= len;
    }
    out
}

/// A payload of several streams as its parts, so that any of them can be false.
#[derive(Debug, Clone)]
pub(crate) struct Streams {
    pub(crate) head: Vec<u8>,
    pub(crate) h: Option<u64>,
    pub(crate) hot: Vec<u64>,
    pub(crate) strips: Vec<u64>,
    pub(crate) streams: Vec<u8>,
}

impl Streams {
    pub(crate) fn new(head: &Head, hot: &[Vec<u8>], strips: &[Vec<u8>]) -> Self {
        let streams = [hot.concat(), strips.concat()].concat();
        let h = (!hot.is_empty() && !strips.is_empty()).then(|| hot.concat().len() as u64);
        Self { head: head.bytes(), h, hot: numbers(hot), strips: numbers(strips), streams }
    }

    pub(crate) fn payload(&self) -> Vec<u8> {
        let mut out = self.head.clone();
        out.extend(self.h.iter().chain(&self.hot).chain(&self.strips).flat_map(|number| varint(*number)));
        out.extend(&self.streams);
        out
    }
}

/// The cold changes of a strip whose elements all have the same length.
pub(crate) struct Axis {
    pub(crate) elements: u64,
    pub(crate) length: u64,
    pub(crate) scale: u32,
}

impl Axis {
    /// Of a single cold class.
    pub(crate) fn new(elements: u64, rate: u32) -> Self {
        let scale = 14 + ((67 - rate) / 4).min(4);
        let h = 35 - rate / 4 - scale;
        let q = [32_768_u64, 38_968, 46_341, 55_109][rate as usize % 4];
        Self { elements, length: ((q + (1 << (h - 1))) >> h).max(1), scale }
    }

    fn before(&self, u: u64) -> u64 {
        (5 * u).min(4 * u + (1 << (self.scale - 2))).min(3 * u + (1 << self.scale))
    }

    pub(crate) fn place(&self, q: u64, slots: std::ops::Range<u64>, down: bool) -> Vec<Step> {
        let f = slots.end - slots.start;
        let of = |low, low_width| Step { f, start: slots.start, width: self.scale + 2, low, low_width };
        let direction = u64::from(down);
        if q < 11 {
            return vec![of(((1 << q) - 1) | (direction << (q + 1)), q as u32 + 2)];
        }
        vec![plain((1 << 11) - 1, 11), plain(q - 11, 20), of(direction, 1)]
    }

    /// An element that moves, after what ends at `e`.
    pub(crate) fn change(&self, e: u64, element: u64, down: bool) -> Vec<Step> {
        let bucket = 1 << self.scale;
        let gap = element * self.length - e;
        let (q, u) = (gap / bucket, gap % bucket);
        self.place(q, self.before(u)..self.before((u + self.length).min(bucket)), down)
    }

    /// The end, told by the bucket that it lies in.
    pub(crate) fn end(&self, e: u64, down: bool) -> Vec<Step> {
        let (bucket, gap) = (1 << self.scale, self.elements * self.length - e);
        self.place(gap / bucket, self.before(gap % bucket)..4 * bucket, down)
    }

    /// Changes by one unit, and the end.
    pub(crate) fn all(&self, changes: &[(u64, bool)]) -> Vec<Step> {
        let (mut e, mut steps) = (0, Vec::new());
        for (element, down) in changes {
            steps.extend(self.change(e, *element, *down));
            e = (element + 1) * self.length;
        }
        steps.extend(self.end(e, false));
        steps
    }
}
