//! The cold changes of a block, in the order in which they are coded.

use crate::element::Element;
use crate::kernels::{GROUP, Survey};

use super::bits::BitWriter;
use super::block::Block;
use super::lengths::{Chance, Lengths, PLACE_BITS, Places};
use super::rans::{LEAST, MAX_LANES, States, Steps};
use super::symbols::{SLOTS, SYMBOL_BITS, Symbols};

/// For each element of a group the sum of the lengths before it, and at the end that of all.
pub(super) type Sums = [u16; GROUP + 1];

/// A change.
#[derive(Debug, Clone, Copy, Default)]
struct Change {
    position: u16,
    /// The first slot of its place, and how many there are.
    start: u16,
    freq: u16,
    /// The lengths after it in its group.
    rest: u16,
}

impl Change {
    fn group(&self) -> usize {
        usize::from(self.position) / GROUP
    }
}

/// The changes that are number `n` in their group, for some `n`, and room for one more.
#[derive(Debug, Default)]
struct Round {
    changes: Vec<Change>,
    len: usize,
}

impl Round {
    fn changes(&self) -> &[Change] {
        &self.changes[..self.len]
    }
}

/// The cold changes of a block.
#[derive(Debug, Default)]
pub(super) struct ColdChanges {
    rounds: [Round; GROUP],
    by_one: Vec<u16>,
    /// Scratch memory: lengths of groups, and all ones for those in which something changes.
    flags: [Vec<u16>; 2],
}

impl ColdChanges {
    pub(super) fn clear(&mut self) {
        self.rounds.iter_mut().for_each(|round| round.len = 0);
        self.by_one.clear();
    }

    /// Finds the cold ones among the changed elements of a block. Those whose class has a reach are added to
    /// the hot elements, for they have symbols as these do. `sums_of` gives the lengths of a group.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "numbers of slots, below 2^16")]
    pub(super) fn find<T: Element>(
        &mut self,
        symbols: &Symbols,
        block: Block<'_>,
        survey: &mut Survey,
        changed: &[u16],
        mut sums_of: impl FnMut(usize) -> Sums,
    ) {
        self.clear();
        let groups = survey.sums().len();
        for of_group in changed.chunk_by(|a, b| usize::from(*a) / GROUP == usize::from(*b) / GROUP) {
            let group = usize::from(of_group.first().copied().unwrap_or(0)) / GROUP;
            let sums = sums_of(group);
            let all = survey.sums()[group];
            let (mut round, mut passed) = (0, 0);
            for &position in of_group {
                let index = usize::from(position) % GROUP;
                let (before, end) = (sums[index], sums[index + 1]);
                let of_round = &mut self.rounds[round];
                if of_round.changes.len() <= groups {
                    of_round.changes.resize(groups + 1, Change::default());
                }
                // Which changes are cold cannot be foreseen: so no branch depends on it.
                let is_cold = before != end;
                let places = Places::new(u32::from(all - passed).max(1));
                let start = places.before(u32::from(before - passed));
                let freq = places.before(u32::from(end - passed)) - start;
                let change = Change { position, start: start as u16, freq: freq as u16, rest: all - end };
                of_round.changes[of_round.len] = change;
                passed = if is_cold { end } else { passed };
                of_round.len += usize::from(is_cold);
                round += usize::from(is_cold);
            }
        }
        self.by_one.resize(changed.len() + 1, 0);
        let mut by_one = 0;
        for &Change { position, .. } in self.rounds.iter().flat_map(Round::changes) {
            let reaches = symbols.reaches(symbols.class(block.key.find(block.old::<T>(position))));
            survey.push_hot_if(position, reaches);
            self.by_one[by_one] = position;
            by_one += usize::from(!reaches);
        }
        self.by_one.truncate(by_one);
    }

    /// How many changes are by one unit, so that their directions are all that is left to tell.
    pub(super) fn directions(&self) -> usize {
        self.by_one.len()
    }

    /// Puts the phases that tell which elements change: for each round whether something does in a group, and
    /// then where. `put_flags` puts the flags of some groups.
    pub(super) fn put(
        &mut self,
        sums: &[u16],
        lanes: usize,
        steps: &mut Steps,
        put_flags: impl Fn(&[u16], &[u16], &mut Steps),
    ) {
        let [rests, followed] = &mut self.flags;
        followed.clear();
        followed.resize(sums.len(), 0);
        let first = self.rounds[0].changes();
        first.iter().for_each(|change| followed[change.group()] = u16::MAX);
        put_flags(sums, followed, steps);
        steps.end_phase(SYMBOL_BITS, lanes);
        for (number, round) in self.rounds.iter().enumerate() {
            let changes = round.changes();
            if changes.is_empty() {
                break;
            }
            steps.starts.extend(changes.iter().map(|change| change.start));
            steps.freqs.extend(changes.iter().map(|change| change.freq));
            steps.end_phase(PLACE_BITS, lanes);
            rests.clear();
            rests.extend(changes.iter().map(|change| change.rest));
            // All ones for those whose group has another one in the next round.
            let next = self.rounds.get(number + 1).map(Round::changes).unwrap_or_default();
            let mut passed = 0;
            followed.clear();
            followed.extend(changes.iter().map(|change| {
                let is_followed = next.get(passed).is_some_and(|next| next.group() == change.group());
                passed += usize::from(is_followed);
                if is_followed { u16::MAX } else { 0 }
            }));
            put_flags(rests, followed, steps);
            steps.end_phase(SYMBOL_BITS, lanes);
        }
    }

    /// Puts the directions, but for those that the states of the first lanes can hold: returns these states.
    #[expect(clippy::cast_possible_truncation, reason = "at most 32")]
    pub(super) fn put_directions<T: Element>(
        &self,
        block: Block<'_>,
        lanes: usize,
        plain: &mut BitWriter,
    ) -> States {
        let down = |positions: &[u16]| {
            positions
                .iter()
                .rev()
                .fold(0, |down, &position| down << 1 | u32::from(block.distance::<T>(position).down))
        };
        let mut positions = self.by_one.as_slice();
        let mut states = [LEAST; MAX_LANES];
        for state in states.iter_mut().take(lanes) {
            *state |= down(positions.split_off(..positions.len().min(16)).unwrap_or_default());
        }
        for positions in positions.chunks(32) {
            plain.put(down(positions), positions.len() as u32);
        }
        states
    }
}

/// Puts for each group whether something changes in it.
#[expect(clippy::cast_possible_truncation, reason = "4096")]
pub(super) fn put_flags(chance: Chance, sums: &[u16], changed: &[u16], steps: &mut Steps) {
    let of_group = |(&sum, &changed): (&u16, &u16)| {
        let unchanged = chance.unchanged(sum);
        (unchanged & changed, unchanged ^ (unchanged ^ (SLOTS as u16 - unchanged)) & changed)
    };
    let groups = sums.iter().zip(changed);
    steps.starts.extend(groups.clone().map(|group| of_group(group).0));
    steps.freqs.extend(groups.map(|group| of_group(group).1));
}

/// The sums of the lengths of a group.
#[expect(clippy::cast_possible_truncation, reason = "a group is shorter than 2^16")]
pub(super) fn sums_of<T: Element>(lengths: &Lengths, olds: &[u8], group: usize) -> Sums {
    let mut sums = [0; GROUP + 1];
    let mut sum = 0;
    let first = group * GROUP * T::WIDTH;
    let olds = olds.get(first..olds.len().min(first + GROUP * T::WIDTH)).unwrap_or_default();
    let mut ends = sums.iter_mut().skip(1);
    lengths.each::<T>(olds, |marked| {
        sum += marked as u16;
        if let Some(end) = ends.next() {
            *end = sum;
        }
    });
    sums
}
