//! Blocks that are written.
#![expect(unsafe_code, reason = "vectors are made where their instructions are")]

use super::{Chances, Ladder, Vector, WIDTH, at, group_of, low_bits};
use crate::kernels::{GROUP, Survey};
use crate::sparse::bits::BitWriter;
use crate::sparse::block::Block;
use crate::sparse::cold::{ColdChanges, Sums};
use crate::sparse::lengths::{Chance, Lengths};
use crate::sparse::moves::put_far;
use crate::sparse::rans::{EVERY_SECOND, Steps};
use crate::sparse::symbols::{NEAR, Symbols};

/// [`ColdChanges::find`].
///
/// # Safety
/// The instructions must be there.
#[inline(always)]
pub(in crate::sparse) unsafe fn find_changes<V: Vector>(
    lengths: &Lengths,
    symbols: &Symbols,
    block: Block<'_>,
    survey: &mut Survey,
    changed: &[u16],
    cold: &mut ColdChanges,
) {
    // SAFETY: as the caller says.
    let of_group = unsafe { V::lengths(lengths) };
    cold.find::<u16>(symbols, block, survey, changed, |group| {
        let mut sums: Sums = [0; GROUP + 1];
        let [first, second] = V::sums(&of_group, &group_of(block.olds, group), 0);
        if let Some((_, ends)) = sums.split_first_mut()
            && let [one, two] = ends.as_chunks_mut().0
        {
            first.store(one);
            second.store(two);
        }
        sums
    });
}

/// Puts for each group whether something changes in it.
///
/// # Safety
/// The instructions must be there.
#[inline(always)]
pub(in crate::sparse) unsafe fn put_flags<V: Vector>(
    chance: Chance,
    sums: &[u16],
    changed: &[u16],
    steps: &mut Steps,
) {
    // SAFETY: as the caller says.
    let chance = unsafe { Chances::<V>::new(chance) };
    let first = steps.make_room(sums.len());
    let (all_sums, last_sums) = sums.as_chunks();
    let (all_changed, last_changed) = changed.as_chunks();
    for (number, (sums, changed)) in all_sums.iter().zip(all_changed).enumerate() {
        chance.put(sums, changed, first + number * WIDTH, steps);
    }
    let mut last = [[0; WIDTH]; 2];
    last[0].iter_mut().zip(last_sums).for_each(|(to, from)| *to = *from);
    last[1].iter_mut().zip(last_changed).for_each(|(to, from)| *to = *from);
    chance.put(&last[0], &last[1], first + all_sums.len() * WIDTH, steps);
    steps.truncate(first + sums.len());
}

/// Puts the symbols that take elements from old to new values, and the plain bits that they call for, by rows
/// of `LANES`. There must be `WIDTH` values more than `count` says.
///
/// # Safety
/// The instructions must be there.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "numbers of slots, and few bits")]
pub(in crate::sparse) unsafe fn put_moves<V: Vector, const N: usize, const LANES: usize>(
    lengths: &Lengths,
    symbols: &Symbols,
    [olds, news]: [&[u16]; 2],
    count: usize,
    steps: &mut Steps,
    plain: &mut BitWriter,
) {
    // SAFETY: as the caller says.
    let (ladder, every_second) = unsafe { (Ladder::<V>::new(lengths, symbols), V::splat(EVERY_SECOND)) };
    let (zero, one) = (ladder.zero, ladder.one);
    let first = steps.make_room(count + LANES);
    for row in (0..count).step_by(LANES) {
        let read = low_bits(LANES.min(count - row));
        let mut planes = [0_u32; NEAR - 3];
        let mut far = 0;
        let mut beyonds = [zero; N];
        for (n, beyond) in beyonds.iter_mut().enumerate() {
            let read = read >> (n * WIDTH) & 0xffff;
            // SAFETY: as the caller says.
            let (old, new) =
                unsafe { (V::load(at(olds, row + n * WIDTH)), V::load(at(news, row + n * WIDTH))) };
            let difference = new.sub(old);
            let down = difference.shr::<15>();
            let sign = zero.sub(down);
            let distance = difference.xor(sign).sub(sign);
            let index = ladder.class(old).index();
            let unchanged = distance.equals(zero);
            let (mut below, mut last) = (unchanged, V::look_up(&ladder.near[0], &index));
            let (mut start, mut end) = (zero, last);
            let mut belows = [unchanged; NEAR - 3];
            for step in 1..NEAR {
                let next = V::look_up(&ladder.near[step], &index);
                start = start.select(below, last);
                end = end.select(below, next);
                if step >= 3 {
                    belows[step - 3] = below;
                }
                // SAFETY: as the caller says.
                let most = unsafe { V::splat(1 << (step - 1)) };
                (below, last) = (distance.sub_or_zero(most).equals(zero), next);
            }
            let of_no_slots = V::bits(start.equals(end)) | !V::bits(below);
            let far_here = of_no_slots & read & !V::bits(unchanged);
            far |= far_here << (n * WIDTH);
            if !V::bits(belows[0]) & read != 0 {
                for (plane, below) in planes.iter_mut().zip(belows) {
                    *plane |= (!V::bits(below) & read) << (n * WIDTH);
                }
            }
            let slots = end.sub(start);
            let start = start.select(unchanged, start.add(down).or(every_second)).keep_bits(read);
            let freq = slots.select(unchanged, slots.shr::<1>()).keep_bits(read);
            if let Some((starts, freqs)) = steps.room(first + row + n * WIDTH) {
                start.store(starts);
                freq.store(freqs);
            }
            *beyond = distance.sub(one);
        }
        let mut left = far;
        while left != 0 {
            let lane = row + left.trailing_zeros() as usize;
            left &= left - 1;
            let (class, distance) = ladder.far_move(olds[lane], news[lane]);
            let symbol = symbols.moved(class, distance.bits());
            let start = symbol.start as u16 + u16::from(distance.down);
            steps.starts[first + lane] = start | EVERY_SECOND;
            steps.freqs[first + lane] = ((symbol.end - symbol.start) / 2) as u16;
        }
        for (bit, plane) in planes.into_iter().enumerate() {
            let plane = plane & !far;
            if plane == 0 {
                break;
            }
            let mut bits = 0;
            for (n, beyond) in beyonds.iter().enumerate() {
                bits |= V::bits(beyond.shr_by(bit as u32).and(one).equals(one)) << (n * WIDTH);
            }
            plain.put(V::extract(bits, plane), plane.count_ones());
        }
        while far != 0 {
            let lane = row + far.trailing_zeros() as usize;
            far &= far - 1;
            let (class, distance) = ladder.far_move(olds[lane], news[lane]);
            if symbols.moved(class, distance.bits()).step > NEAR as u32 - 1 {
                put_far(symbols, class, distance, plain);
            }
        }
    }
    steps.truncate(first + count);
}
