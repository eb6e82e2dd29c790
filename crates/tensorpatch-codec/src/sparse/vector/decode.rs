//! Blocks that are read.
#![expect(unsafe_code, reason = "vectors are made where their instructions are")]

use super::{Chances, GROUP_BYTES, Ladder, States, Vector, WIDTH, at, at_mut, group_of, low_bits};
use crate::kernels::{GROUP, Survey};
use crate::sparse::lengths::{Lengths, Places};
use crate::sparse::payload::Input;
use crate::sparse::source::{Source, far_distance};
use crate::sparse::symbols::{NEAR, SYMBOL_BITS, Symbols};

/// Lists of groups in which something changes.
#[derive(Debug, Default)]
pub(in crate::sparse) struct Groups {
    numbers: Vec<u16>,
    /// The first element that may change.
    firsts: Vec<u16>,
    /// The sums of the lengths from there on.
    sums: Vec<u16>,
    len: usize,
}

impl Groups {
    fn make_room(&mut self, groups: usize) {
        let room = groups + 2 * WIDTH;
        self.numbers.resize(room, 0);
        self.firsts.resize(room, 0);
        self.sums.resize(room, 0);
        self.len = 0;
    }
}

/// Scratch memory for a block.
#[derive(Debug, Default)]
pub(in crate::sparse) struct Scratch {
    groups: [Groups; 2],
    values: Vec<u16>,
}

/// Lists the cold elements of a block that change, 8 or 16 lanes at a time. `None` if a place is beyond its
/// group.
///
/// # Safety
/// The instructions must be there.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "a block has 2^15 elements")]
pub(in crate::sparse) unsafe fn find_cold<V: Vector, const LANES: usize>(
    source: &mut Source<'_>,
    lengths: &Lengths,
    block: &[u8],
    survey: &Survey,
    scratch: &mut Scratch,
    changed: &mut Vec<u16>,
) -> Option<()> {
    let Source { lanes, input } = source;
    let all_lanes = low_bits(LANES);
    // SAFETY: as the caller says.
    let (mut states, of_group, chance, slot_mask, first_numbers) = unsafe {
        let (iota, mut number) = ([0; WIDTH], 0);
        let iota = iota.map(|_: u16| {
            number += 1;
            number - 1
        });
        (
            States::<V>::load(lanes.states.first_chunk()?),
            V::lengths(lengths),
            Chances::<V>::new(lengths.chance),
            V::splat((1 << SYMBOL_BITS) - 1),
            V::load(&iota),
        )
    };
    let Chances { full, zero, .. } = chance;
    let elements = block.len() / 2;
    let count = survey.sums().len();
    let [now, later] = &mut scratch.groups;
    now.make_room(count);
    later.make_room(count);
    now.sums.get_mut(..count)?.copy_from_slice(survey.sums());
    now.len = count;
    changed.clear();
    let mut is_first = true;
    while now.len > 0 {
        let mut left = 0;
        for start in (0..now.len).step_by(LANES) {
            let before = states;
            let read = all_lanes & low_bits(now.len - start);
            // SAFETY: as the caller says.
            let sums = unsafe { V::load(at(&now.sums, start)) };
            let unchanged = chance.unchanged(sums);
            let slot = states.low.and(slot_mask);
            let stays = unchanged.exceeds(slot);
            let freq = unchanged.select(stays, full.sub(unchanged));
            let offset = slot.select(stays, slot.sub(unchanged));
            states.take(freq, offset, read, input);
            if read != all_lanes {
                states = states.only(read, before);
            }
            let changes = !V::bits(stays) & read;
            if changes == 0 {
                continue;
            }
            // SAFETY: as the caller says.
            let (numbers, firsts) = unsafe {
                if is_first {
                    (first_numbers.add(V::splat(start as u16)), zero)
                } else {
                    (V::load(at(&now.numbers, start)), V::load(at(&now.firsts, start)))
                }
            };
            numbers.compress(changes, at_mut(&mut later.numbers, left)?);
            firsts.compress(changes, at_mut(&mut later.firsts, left)?);
            sums.compress(changes, at_mut(&mut later.sums, left)?);
            left += changes.count_ones() as usize;
        }
        later.len = left;
        is_first = false;
        std::mem::swap(now, later);

        let first_change = changed.len();
        changed.resize(first_change + now.len, 0);
        for start in (0..now.len).step_by(LANES) {
            let row = LANES.min(now.len - start);
            let (mut slots, mut freqs, mut offsets) = ([0; WIDTH], [1; WIDTH], [0; WIDTH]);
            states.low.store(&mut slots);
            let numbers = now.numbers.get(start..start + row)?;
            let firsts = now.firsts.get_mut(start..start + row)?;
            let sums = now.sums.get_mut(start..start + row)?;
            let changed = changed.get_mut(first_change + start..first_change + start + row)?;
            for lane in 0..row {
                let (number, slot) = (numbers[lane], slots[lane % WIDTH]);
                let group = group_of(block, usize::from(number));
                let Found { index, start, end, sum } =
                    find::<V>(&of_group, &group, firsts[lane], sums[lane], slot)?;
                let position = usize::from(number) * GROUP + usize::from(index);
                if position >= elements {
                    return None;
                }
                freqs[lane % WIDTH] = end.wrapping_sub(start);
                offsets[lane % WIDTH] = slot.wrapping_sub(start);
                changed[lane] = position as u16;
                firsts[lane] = index + 1;
                sums[lane] = sums[lane].wrapping_sub(sum);
            }
            let before = states;
            let read = low_bits(row);
            // SAFETY: as the caller says.
            let (freqs, offsets) = unsafe { (V::load(&freqs), V::load(&offsets)) };
            states.take_place(freqs, offsets, read, input);
            if read != all_lanes {
                states = states.only(read, before);
            }
        }
    }
    states.store(lanes.states.first_chunk_mut()?);
    Some(())
}

/// An element of a group, its slots, and the lengths up to it.
struct Found {
    index: u16,
    start: u16,
    end: u16,
    sum: u16,
}

/// Finds the element that has a slot.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "halves, and a number below 32")]
fn find<V: Vector>(
    lengths: &V::Lengths,
    group: &[u8; GROUP_BYTES],
    first: u16,
    sum: u16,
    slot: u16,
) -> Option<Found> {
    let factor = Places::new(u32::from(sum.max(1))).factor();
    let sums = V::sums(lengths, group, first);
    // SAFETY: lengths exist only where the instructions do.
    let (high, low, slot) =
        unsafe { (V::splat((factor >> 16) as u16), V::splat(factor as u16), V::splat(slot)) };
    let ends = sums.map(|sums| sums.mul_low(high).add(sums.mul_high(low)));
    let zero = slot.xor(slot);
    let [first_half, second_half] = ends.map(|ends| !V::bits(ends.sub_or_zero(slot).equals(zero)) & 0xffff);
    let beyond = first_half | second_half << WIDTH;
    if beyond == 0 {
        return None;
    }
    let index = beyond.trailing_zeros() as usize;
    // A place before the first element ends at slot 0.
    let (mut all_ends, mut all_sums) = ([0; 3 * WIDTH], [0; 2 * WIDTH]);
    ends[0].store(at_mut(&mut all_ends, WIDTH)?);
    ends[1].store(at_mut(&mut all_ends, 2 * WIDTH)?);
    sums[0].store(at_mut(&mut all_sums, 0)?);
    sums[1].store(at_mut(&mut all_sums, WIDTH)?);
    Some(Found {
        index: index as u16,
        start: all_ends[WIDTH + index - 1],
        end: all_ends[WIDTH + index],
        sum: all_sums[index],
    })
}

impl<V: Vector> Ladder<'_, V> {
    /// Reads the symbols of a row, of the elements among `read`, and returns what they become. `None` if one
    /// cannot be moved so.
    #[inline(always)]
    fn row<const N: usize>(
        &self,
        states: &mut [States<V>; N],
        olds: [V; N],
        read: u32,
        input: &mut Input<'_>,
    ) -> Option<[V; N]> {
        let mut planes = [0_u32; NEAR - 3];
        let mut far = 0;
        let mut downs = [self.zero; N];
        let mut distances = [self.zero; N];
        let mut far_bits = [[0_u8; WIDTH]; N];
        for n in 0..N {
            let read = read >> (n * WIDTH) & 0xffff;
            let slot = states[n].low.and(self.slot_mask);
            let index = self.class(olds[n]).index();
            let end = V::look_up(&self.near[0], &index);
            let unchanged = end.exceeds(slot);
            let (mut start, mut end, mut distance) = (self.zero, end, self.zero);
            // Where the slot is below the end of the step before, the symbol is found.
            let (mut below, mut last) = (unchanged, end);
            let mut belows = [unchanged; NEAR - 3];
            for step in 1..NEAR {
                let next = V::look_up(&self.near[step], &index);
                start = start.select(below, last);
                end = end.select(below, next);
                let by = 1 + (1_u16 << step >> 2);
                // SAFETY: tables exist only where the instructions do.
                distance = distance.select(below, unsafe { V::splat(by) });
                if step >= 3 {
                    belows[step - 3] = below;
                }
                (below, last) = (next.exceeds(slot), next);
            }
            let with_plain = !V::bits(belows[0]) & read;
            if with_plain != 0 {
                for (plane, below) in planes.iter_mut().zip(belows) {
                    *plane |= (!V::bits(below) & read) << (n * WIDTH);
                }
            }
            let beyond = if with_plain != 0 { !V::bits(below) & read } else { 0 };
            far |= beyond << (n * WIDTH);
            if beyond != 0 {
                let (mut old, mut slots) = ([0; WIDTH], [0; WIDTH]);
                let (mut starts, mut ends) = ([0; WIDTH], [0; WIDTH]);
                olds[n].store(&mut old);
                slot.store(&mut slots);
                start.store(&mut starts);
                end.store(&mut ends);
                self.far(&old, &slots, beyond, [&mut starts, &mut ends], &mut far_bits[n]);
                // SAFETY: tables exist only where the instructions do.
                (start, end) = unsafe { (V::load(&starts), V::load(&ends)) };
            }
            let (freq, offset) = (end.sub(start), slot.sub(start));
            let freq = freq.select(unchanged, freq.shr::<1>());
            let down = offset.and(self.one);
            let down = self.zero.select(unchanged, down);
            let offset = offset.select(unchanged, offset.shr::<1>());
            states[n].take(freq, offset, read, input);
            downs[n] = self.zero.sub(down);
            distances[n] = distance.keep_bits(read);
        }
        if planes[0] != 0 {
            for (bit, plane) in planes.into_iter().enumerate() {
                let plane = plane & !far;
                if plane == 0 {
                    break;
                }
                let bits = V::deposit(input.bits(plane.count_ones()), plane);
                // SAFETY: tables exist only where the instructions do.
                let by = unsafe { V::splat(1 << bit) };
                for (n, distance) in distances.iter_mut().enumerate() {
                    *distance = distance.add(by.keep_bits(bits >> (n * WIDTH) & 0xffff));
                }
            }
            if far != 0 {
                for n in 0..N {
                    let mut all = [0; WIDTH];
                    distances[n].store(&mut all);
                    far_distances(&mut all, far >> (n * WIDTH) & 0xffff, &far_bits[n], input)?;
                    // SAFETY: tables exist only where the instructions do.
                    distances[n] = unsafe { V::load(&all) };
                }
            }
        }
        let mut news = olds;
        for n in 0..N {
            news[n] = olds[n].add(distances[n].xor(downs[n]).sub(downs[n]));
        }
        Some(news)
    }

    /// Reads the symbols of a row, of the elements among `read`, and moves them. `None` if one cannot be
    /// moved so.
    #[inline(always)]
    fn move_row<const N: usize>(
        &self,
        row: &mut [[u8; 2 * WIDTH]; N],
        states: &mut [States<V>; N],
        read: u32,
        input: &mut Input<'_>,
    ) -> Option<()> {
        // SAFETY: tables exist only where the instructions do.
        let olds = row.each_ref().map(|vector| unsafe { V::load_bytes(vector) });
        let news = self.row(states, olds, read, input)?;
        for (news, vector) in news.into_iter().zip(row) {
            news.store_bytes(vector);
        }
        Some(())
    }

    /// The starts and the ends of symbols that are not near.
    #[cold]
    #[inline(never)]
    #[expect(clippy::cast_possible_truncation, reason = "slots and bits of an element")]
    fn far(
        &self,
        olds: &[u16; WIDTH],
        slots: &[u16; WIDTH],
        mut far: u32,
        [starts, ends]: [&mut [u16; WIDTH]; 2],
        bits: &mut [u8; WIDTH],
    ) {
        while far != 0 {
            let lane = far.trailing_zeros() as usize % WIDTH;
            let class = self.symbols.class(self.lengths.key.find(olds[lane]));
            let symbol = self.symbols.far_at(class, u32::from(slots[lane]));
            starts[lane] = symbol.start as u16;
            ends[lane] = symbol.end as u16;
            bits[lane] = (symbol.step - 1) as u8;
            far &= far - 1;
        }
    }
}

/// Reads the distances of the far elements.
#[cold]
#[inline(never)]
#[expect(clippy::cast_possible_truncation, reason = "the low half of a distance")]
fn far_distances(
    distances: &mut [u16; WIDTH],
    mut far: u32,
    bits: &[u8; WIDTH],
    input: &mut Input<'_>,
) -> Option<()> {
    while far != 0 {
        let lane = far.trailing_zeros() as usize % WIDTH;
        distances[lane] = far_distance(u32::from(bits[lane]), 16, input)? as u16;
        far &= far - 1;
    }
    Some(())
}

/// Reads the symbols of the listed elements, 8 or 16 lanes at a time, and moves them. `None` if one cannot be
/// moved so.
///
/// # Safety
/// The instructions must be there.
#[inline(always)]
pub(in crate::sparse) unsafe fn moves<V: Vector, const LANES: usize>(
    source: &mut Source<'_>,
    lengths: &Lengths,
    symbols: &Symbols,
    block: &mut [u8],
    positions: &[u16],
    scratch: &mut Scratch,
) -> Option<()> {
    let Source { lanes, input } = source;
    // SAFETY: as the caller says.
    let (ladder, mut states) =
        unsafe { (Ladder::<V>::new(lengths, symbols), [States::<V>::load(lanes.states.first_chunk()?)]) };
    let (elements, _) = block.as_chunks_mut::<2>();
    let values = &mut scratch.values;
    values.clear();
    values.extend(positions.iter().map(|&position| u16::from_le_bytes(elements[usize::from(position)])));
    values.resize(positions.len() + WIDTH, 0);
    for start in (0..positions.len()).step_by(LANES) {
        let row = LANES.min(positions.len() - start);
        let read = low_bits(row);
        let before = states;
        // SAFETY: as the caller says.
        let olds = unsafe { V::load(at(values, start)) };
        let [news] = ladder.row(&mut states, [olds], read, input)?;
        if row < LANES {
            states = [states[0].only(read, before[0])];
        }
        // Those of the next row are written again.
        news.store(at_mut(values, start)?);
    }
    for (&position, value) in positions.iter().zip(values) {
        elements[usize::from(position)] = value.to_le_bytes();
    }
    states[0].store(lanes.states.first_chunk_mut()?);
    Some(())
}

/// Reads a symbol for each element of a block, by rows of `LANES`, which `N` vectors hold, and moves them.
/// `None` if one cannot be moved so.
///
/// # Safety
/// The instructions must be there.
#[inline(always)]
pub(in crate::sparse) unsafe fn dense<V: Vector, const N: usize, const LANES: usize>(
    source: &mut Source<'_>,
    lengths: &Lengths,
    symbols: &Symbols,
    block: &mut [u8],
) -> Option<()> {
    let Source { lanes, input } = source;
    let (of_lanes, _) = lanes.states.as_chunks_mut::<WIDTH>();
    // SAFETY: as the caller says.
    let (ladder, mut states) = unsafe {
        let first = States::<V>::load(of_lanes.first()?);
        let mut states = [first; N];
        for (states, of_lanes) in states.iter_mut().zip(&*of_lanes) {
            *states = States::load(of_lanes);
        }
        (Ladder::<V>::new(lengths, symbols), states)
    };
    let is_whole = LANES == N * WIDTH;
    let row_bytes = 2 * LANES;
    let (vectors, _) = block.as_chunks_mut();
    let (rows, _) = vectors.as_chunks_mut();
    let whole = if is_whole { rows.len() * row_bytes } else { 0 };
    for row in rows.iter_mut().filter(|_| is_whole) {
        ladder.move_row(row, &mut states, low_bits(LANES), input)?;
    }
    // Rows that fill no vectors, or not all of them.
    for elements in block.get_mut(whole..).unwrap_or_default().chunks_mut(row_bytes) {
        let before = states;
        let mut row = [[0; 2 * WIDTH]; N];
        row.as_flattened_mut().iter_mut().zip(&*elements).for_each(|(to, from)| *to = *from);
        let read = low_bits(elements.len() / 2);
        ladder.move_row(&mut row, &mut states, read, input)?;
        if elements.len() < row_bytes {
            for (n, (states, before)) in states.iter_mut().zip(before).enumerate() {
                *states = states.only(read >> (n * WIDTH) & 0xffff, before);
            }
        }
        elements.iter_mut().zip(row.as_flattened()).for_each(|(to, from)| *to = *from);
    }
    for (states, of_lanes) in states.into_iter().zip(of_lanes) {
        states.store(of_lanes);
    }
    Some(())
}
