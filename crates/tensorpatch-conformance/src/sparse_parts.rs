//! `sparse` payloads written from the specification, part by part, so that any part can be false.

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

/// The head without the states. The first rate and the first reach stand apart, as they are coded otherwise.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    /// The code of the number of lanes.
    pub(crate) lanes: u64,
    /// The code of `hot_from`.
    pub(crate) hot: u64,
    pub(crate) first_key: u64,
    pub(crate) rates: (u64, Vec<Number>),
    pub(crate) reaches: Option<(u64, Vec<Number>)>,
}

impl Head {
    /// One lane, one class, hot from 68 on.
    pub(crate) fn one(rate: u64, reach: u64) -> Self {
        let reaches = (reach > 0).then(|| (reach, Vec::new()));
        Self { lanes: 0, hot: 1, first_key: 0, rates: (rate, Vec::new()), reaches }
    }

    fn put(&self, bits: &mut Bits) {
        bits.put(self.lanes, 2);
        bits.put(self.hot, 2);
        bits.put(self.rates.1.len() as u64, 5);
        bits.put(u64::from(self.reaches.is_some()), 1);
        if let Some((_, later)) = &self.reaches {
            bits.put(later.len() as u64, 5);
        }
        bits.put(self.first_key, 8);
        for (numbers, width) in [(Some(&self.rates), 7), (self.reaches.as_ref(), 8)] {
            let Some((first, later)) = numbers else { continue };
            bits.put(*first, width);
            for number in later {
                match *number {
                    Number::Near(zeros, b) => bits.put(2 | b, zeros + 2),
                    Number::After(zeros, value) => bits.put(1 << width | value, zeros + 1 + width),
                }
            }
        }
    }
}

/// Bits in the order in which they are read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bits(Vec<bool>);

impl Bits {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn put(&mut self, value: u64, count: u32) {
        self.0.extend((0..count).rev().map(|bit| value >> bit & 1 == 1));
    }
}

/// What a decoder reads.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Read {
    /// From a lane: one of `f` of `2^s` slots, the first of which is `start`, each `stride` after the one
    /// before.
    Slot {
        lane: usize,
        s: u32,
        f: u64,
        start: u64,
        stride: u64,
        what: &'static str,
    },
    Bits(u64, u32, &'static str),
}

/// A payload as its parts.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    pub(crate) head: Head,
    pub(crate) reads: Vec<Read>,
    /// What the states are in the end.
    pub(crate) left: Vec<u64>,
}

impl Parts {
    /// What the states are at first, and the words.
    fn encoded(&self) -> (Vec<u64>, Vec<u16>) {
        let mut states = self.left.clone();
        let mut words = Vec::new();
        for read in self.reads.iter().rev() {
            let Read::Slot { lane, s, f, start, stride, .. } = *read else { continue };
            let x = &mut states[lane];
            if *x >> (32 - s) >= f {
                words.insert(0, *x as u16);
                *x >>= 16;
            }
            *x = (*x / f) << s | (start + stride * (*x % f));
        }
        (states, words)
    }

    /// The slot of each read, 0 for bits.
    pub(crate) fn slots(&self) -> Vec<u64> {
        let (mut states, words) = self.encoded();
        let mut words = words.iter();
        let slot = |read: &Read| {
            let Read::Slot { lane, s, f, start, stride, .. } = *read else { return 0 };
            let x = &mut states[lane];
            let slot = *x & ((1 << s) - 1);
            *x = (*x >> s) * f + (slot - start) / stride;
            if *x < 1 << 16 {
                *x = *x << 16 | u64::from(*words.next().expect("a word"));
            }
            slot
        };
        self.reads.iter().map(slot).collect()
    }

    /// Words, and bits.
    pub(crate) fn ends(&self) -> (Vec<u16>, Bits) {
        let (states, words) = self.encoded();
        let mut bits = Bits::default();
        self.head.put(&mut bits);
        for x in states {
            let len = x.ilog2();
            bits.put(u64::from(len - 16), 4);
            bits.put(x & ((1 << len) - 1), len);
        }
        for read in &self.reads {
            if let Read::Bits(value, count, _) = *read {
                bits.put(value, count);
            }
        }
        (words, bits)
    }

    /// What a decoder reads, with every state, as a table.
    pub(crate) fn told(&self) -> String {
        let (mut states, words) = self.encoded();
        let mut words = words.iter();
        let mut text = "| what | lane | x | slot | of | f | o | word | x after |\n|---|---|---|---|---|---|---|---|---|\n".to_owned();
        for read in &self.reads {
            match *read {
                Read::Slot { lane, s, f, start, stride, what } => {
                    let before = states[lane];
                    let slot = before & ((1 << s) - 1);
                    let o = (slot - start) / stride;
                    let mut x = (before >> s) * f + o;
                    let word = if x < 1 << 16 { words.next() } else { None };
                    if let Some(word) = word {
                        x = x << 16 | u64::from(*word);
                    }
                    let direction = match (stride, slot % 2) {
                        (2, 0) => ", up",
                        (2, _) => ", down",
                        _ => "",
                    };
                    let word = word.map_or_else(String::new, |word| format!("{word:#06x}"));
                    text += &format!(
                        "| {what}{direction} | {lane} | {before:#x} | {slot} | 2^{s} | {f} | {o} | {word} | {x:#x} |\n"
                    );
                    states[lane] = x;
                }
                Read::Bits(_, 0, _) => {}
                Read::Bits(value, count, what) => {
                    text += &format!("| {what}: {value:#b} of {count} | | | | | | | | |\n");
                }
            }
        }
        assert_eq!(states, self.left);
        text
    }

    pub(crate) fn payload(&self) -> Vec<u8> {
        let (words, bits) = self.ends();
        payload(&words, &bits)
    }
}

/// Words from the start, bits from the end.
pub(crate) fn payload(words: &[u16], bits: &Bits) -> Vec<u8> {
    let words = words.iter().flat_map(|word| word.to_le_bytes());
    let byte = |bits: &[bool]| (0..8).fold(0, |byte, i| byte << 1 | u8::from(bits.get(i) == Some(&true)));
    let bits: Vec<u8> = bits.0.chunks(8).map(byte).collect();
    words.chain(bits.into_iter().rev()).collect()
}

/// The classes of a payload of one block, and how they are coded.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    pub(crate) lanes: usize,
    pub(crate) hot_from: u64,
    /// Rate and reach of each class.
    pub(crate) classes: Vec<(u64, u64)>,
    /// The bits of an element.
    pub(crate) bits: u64,
    /// Whether moves take the escape though they have symbols of their own.
    pub(crate) escape: bool,
}

impl Model {
    fn is_hot(&self, class: usize) -> bool {
        self.classes[class].0 >= self.hot_from
    }

    fn highest_cold_rate(&self) -> u64 {
        let cold = self.classes.iter().filter(|(rate, _)| *rate < self.hot_from);
        cold.map(|(rate, _)| *rate).max().unwrap_or(0)
    }

    fn length(&self, class: usize) -> u64 {
        let rate = self.classes[class].0;
        if self.is_hot(class) || rate == 0 {
            return 0;
        }
        let h = 5 + self.highest_cold_rate() / 4 - rate / 4;
        (([32_768, 38_968, 46_341, 55_109][rate as usize % 4] + (1 << (h - 1))) >> h).max(1)
    }

    /// The slots of a move by `1 + t` with `b` bits in `t`, and of `unchanged` for `None`.
    fn run(&self, class: usize, b: Option<u64>) -> (u64, u64) {
        let (rate, reach) = self.classes[class];
        let unchanged = match (self.is_hot(class), rate) {
            (false, _) => 0,
            (true, 0) => 4096,
            _ => (2 * (survival(rate as i64) / 32).max(1)).min(if reach > 0 { 4092 } else { 4094 }),
        };
        let Some(b) = b else { return (0, unchanged) };
        if reach == 0 {
            assert_eq!(b, 0, "a class without reach");
            return (unchanged, 4096);
        }
        let end = |b: u64| {
            let p = survival(96 + 5 * b as i64 - reach as i64);
            unchanged + 2 * ((4094_u64.saturating_sub(unchanged) / 2) * (65_536 - p) / 65_536)
        };
        if b == self.bits {
            return (end(b - 1), 4096);
        }
        (if b > 0 { end(b - 1) } else { unchanged }, end(b))
    }

    /// What is read for a block that is the only one: the class of each element, and how it moves: up or down
    /// by so much, or not at all. Also what the states are in the end.
    pub(crate) fn block(&self, elements: &[(usize, i64)]) -> (Vec<Read>, Vec<u64>) {
        let mut reads = Vec::new();
        let changed = self.cold_changes(elements, &mut reads);
        let hot = (0..elements.len()).filter(|i| self.is_hot(elements[*i].0));
        let (reaching, by_one): (Vec<usize>, Vec<usize>) =
            changed.into_iter().partition(|i| self.classes[elements[*i].0].1 > 0);
        let moving: Vec<(usize, i64)> = hot.chain(reaching).map(|i| elements[i]).collect();
        moving.chunks(self.lanes).for_each(|row| self.row(row, &mut reads));
        let down = |elements_of: &[usize]| {
            (0..).zip(elements_of).fold(0, |v, (bit, i)| v | u64::from(elements[*i].1 < 0) << bit)
        };
        let mut left = by_one.as_slice();
        let mut states = Vec::new();
        for _ in 0..self.lanes {
            let (own, others) = left.split_at(left.len().min(16));
            states.push(1 << 16 | down(own));
            left = others;
        }
        reads.extend(left.chunks(32).map(|own| Read::Bits(down(own), own.len() as u32, "directions")));
        (reads, states)
    }

    fn cold_changes(&self, elements: &[(usize, i64)], reads: &mut Vec<Read>) -> Vec<usize> {
        let m = self.highest_cold_rate();
        let mut changed = Vec::new();
        let mut groups: Vec<(usize, &[(usize, i64)])> =
            if m == 0 { Vec::new() } else { (0..).step_by(32).zip(elements.chunks(32)).collect() };
        let length = |element: &(usize, i64)| self.length(element.0);
        while !groups.is_empty() {
            let flags = groups.iter().enumerate().map(|(i, (_, group))| {
                let unchanged = unchanged(group.iter().map(length).sum(), m);
                let lane = i % self.lanes;
                if group.iter().any(|element| element.1 != 0 && self.length(element.0) > 0) {
                    Read::Slot {
                        lane,
                        s: 12,
                        f: 4096 - unchanged,
                        start: unchanged,
                        stride: 1,
                        what: "group: something changes",
                    }
                } else {
                    Read::Slot {
                        lane,
                        s: 12,
                        f: unchanged,
                        start: 0,
                        stride: 1,
                        what: "group: nothing changes",
                    }
                }
            });
            reads.extend(flags);
            groups.retain(|(_, group)| {
                group.iter().any(|element| element.1 != 0 && self.length(element.0) > 0)
            });
            for (i, (first, group)) in groups.iter_mut().enumerate() {
                let at = group.iter().position(|element| element.1 != 0 && self.length(element.0) > 0);
                let at = at.expect("a change");
                let k = 0xffff_ffff / group.iter().map(length).sum::<u64>();
                let before = |count: usize| (group[..count].iter().map(length).sum::<u64>() * k) >> 16;
                let (start, end) = (before(at), before(at + 1));
                let (lane, f) = (i % self.lanes, end - start);
                reads.push(Read::Slot { lane, s: 16, f, start, stride: 1, what: "place" });
                changed.push(*first + at);
                *first += at + 1;
                *group = &group[at + 1..];
            }
        }
        changed
    }

    fn row(&self, row: &[(usize, i64)], reads: &mut Vec<Read>) {
        let mut plain: Vec<(u64, u64)> = Vec::new();
        for (lane, (class, by)) in row.iter().enumerate() {
            if *by == 0 {
                let (start, end) = self.run(*class, None);
                reads.push(Read::Slot { lane, s: 12, f: end, start, stride: 1, what: "unchanged" });
                continue;
            }
            let t = by.unsigned_abs() - 1;
            let b = u64::from(u64::BITS - t.leading_zeros());
            let own = self.run(*class, Some(b));
            let escape = self.escape || own.0 == own.1;
            let (start, end) = if escape { self.run(*class, Some(self.bits)) } else { own };
            let start_of = start + u64::from(*by < 0);
            let what = if escape { "escape" } else { "moved" };
            reads.push(Read::Slot { lane, s: 12, f: (end - start) / 2, start: start_of, stride: 2, what });
            plain.push((if escape { self.bits + b } else { b }, t));
        }
        for j in 0..5 {
            let plane = plain.iter().filter(|(b, _)| (2 + j..=6).contains(b));
            let bits: Vec<u64> = plane.map(|(_, t)| t >> j & 1).collect();
            let number = bits.iter().rev().fold(0, |number, bit| number << 1 | bit);
            reads.push(Read::Bits(number, bits.len() as u32, "a bit of t each"));
        }
        for (b, t) in plain.into_iter().filter(|(b, _)| *b >= 7) {
            let b = if b >= self.bits {
                reads.push(Read::Bits(b - self.bits, 6, "b"));
                b - self.bits
            } else {
                b
            };
            let below = b.saturating_sub(1) as u32;
            reads.push(Read::Bits(t & ((1 << below) - 1), below, "t without its leading one"));
        }
    }
}

/// The slots, of 4096, that say that nothing changes among lengths of this sum.
fn unchanged(t: u64, m: u64) -> u64 {
    if t == 0 {
        return 4096;
    }
    let u = 65_535 - 2 * ((t * ((5678 << (m / 4)) >> 15)) >> 16).min(16_383);
    (0..3).fold(u, |u, _| (u * u) >> 16) / 16
}

fn survival(level: i64) -> u64 {
    match level {
        ..0 => 65_536,
        0..96 => (65_536.0 * (-((level as f64 - 80.0) / 4.0).exp2()).exp2()).round() as u64,
        _ => 0,
    }
}
