//! Other bytes with the XXH3-128 digest of given ones: what signed streams must withstand.
//!
//! In a block of 1024 bytes, each of eight lanes has sixteen words `d`. The digest depends on a lane only by
//! the sum of its words and the sum of `low(d ^ s) * high(d ^ s)`, with `s` from a public constant. Setting a
//! bit in one word and clearing the same bit in another keeps the first sum, and moves the second by a known
//! number, which other bits of the low halves do not change. So enough such moves have a subset whose numbers
//! add up to nothing, and meeting in the middle finds it.

use std::collections::HashMap;

/// Bytes of a block.
pub const BLOCK: usize = 1024;
const STRIPE: usize = 64;
/// The 44 moves of the lowest bits have more subsets than their sums have values.
const MOVES: usize = 44;

/// The secret of XXH3 when no other is given; word `stripe + lane` meets the word of a lane in a stripe.
const SECRET: [u64; 24] = [
    0xbe4b_a423_396c_feb8,
    0x1cad_21f7_2c81_017c,
    0xdb97_9083_e96d_d4de,
    0x1f67_b3b7_a4a4_4072,
    0x78e5_c0cc_4ee6_79cb,
    0x2172_ffcc_7dd0_5a82,
    0x8e24_43f7_7446_08b8,
    0x4c26_3a81_e690_35e0,
    0xcb00_c391_bb52_283c,
    0xa32e_531b_8b65_d088,
    0x4ef9_0da2_9748_6471,
    0xd8ac_dea9_46ef_1938,
    0x3f34_9ce3_3f76_faa8,
    0x1d4f_0bc7_c7bb_dcf9,
    0x3159_b4cd_4be0_518a,
    0x6473_78d9_c97e_9fc8,
    0xc3eb_d334_83ac_c5ea,
    0xeb63_13fa_ffa0_81c5,
    0x49da_f0b7_51dd_0d17,
    0x9e68_d429_2655_16d3,
    0xfca1_477d_58be_162b,
    0xce31_d07a_d1b8_f88f,
    0x2804_1695_8f3a_cb45,
    0x7e40_4bbb_cafb_d7af,
];

fn word(block: &[u8; BLOCK], lane: usize, stripe: usize) -> u64 {
    let at = STRIPE * stripe + 8 * lane;
    u64::from_le_bytes(block[at..at + 8].try_into().unwrap())
}

/// One bit that two words of a lane exchange, and by how much that moves the sum of products.
#[derive(Debug, Clone, Copy)]
struct Move {
    bit: u32,
    stripes: [usize; 2],
    moves_by: u64,
}

/// The moves of the lowest bits of a lane.
fn moves(block: &[u8; BLOCK], lane: usize) -> Vec<Move> {
    let mut moves = Vec::new();
    for bit in 0..32 {
        let is_set = |stripe: &usize| word(block, lane, *stripe) >> bit & 1 == 1;
        let (set, clear): (Vec<usize>, Vec<usize>) = (0..16).partition(is_set);
        for (one, other) in set.into_iter().zip(clear) {
            let change = |stripe: usize| {
                let key = word(block, lane, stripe) ^ SECRET[stripe + lane];
                let step = (key >> 32) << bit;
                if key >> bit & 1 == 1 { step.wrapping_neg() } else { step }
            };
            let moves_by = change(one).wrapping_add(change(other));
            moves.push(Move { bit, stripes: [one, other], moves_by });
        }
    }
    moves.truncate(MOVES);
    moves
}

/// The sums of all subsets, by the bits of their number.
fn sums(moves: &[Move]) -> impl Iterator<Item = (u64, u32)> {
    let mut sum = 0_u64;
    (0..1_u32 << moves.len()).map(move |number| {
        // In the order of Gray codes one move comes or goes at a time.
        if number > 0 {
            let changed = number.trailing_zeros();
            let by = moves[changed as usize].moves_by;
            let is_in = (number ^ number >> 1) >> changed & 1 == 1;
            sum = if is_in { sum.wrapping_add(by) } else { sum.wrapping_sub(by) };
        }
        (sum, number ^ number >> 1)
    })
}

/// Another block that can stand in the place of `block`, where more bytes follow, without altering the
/// XXH3-128 digest of the whole; `None` if the few lowest bits of no lane allow it.
pub fn second_preimage(block: &[u8; BLOCK]) -> Option<[u8; BLOCK]> {
    (0..8).find_map(|lane| in_lane(block, lane))
}

fn in_lane(block: &[u8; BLOCK], lane: usize) -> Option<[u8; BLOCK]> {
    let moves = moves(block, lane);
    let (left, right) = moves.split_at(moves.len() / 2);
    let known: HashMap<u64, u32> = sums(left).filter(|(_, subset)| *subset != 0).collect();
    let found = sums(right).find_map(|(sum, subset)| Some((*known.get(&sum.wrapping_neg())?, subset)));
    let (in_left, in_right) = found?;
    let chosen = |subset: u32| move |(number, _): &(usize, &Move)| subset >> number & 1 == 1;
    let chosen = left
        .iter()
        .enumerate()
        .filter(chosen(in_left))
        .chain(right.iter().enumerate().filter(chosen(in_right)));
    let mut other = *block;
    for (_, exchanged) in chosen {
        for stripe in exchanged.stripes {
            other[STRIPE * stripe + 8 * lane + exchanged.bit as usize / 8] ^= 1 << (exchanged.bit % 8);
        }
    }
    Some(other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;
    use twox_hash::XxHash3_128;

    #[test]
    fn other_bytes_have_the_same_digest_whatever_surrounds_them() {
        let mut rng = Rng::new(7);
        let mut bytes: Vec<u8> = (0..4096).map(|_| rng.bits() as u8).collect();
        let block: [u8; BLOCK] = bytes[1024..2048].try_into().unwrap();
        let other = second_preimage(&block).unwrap();
        assert_ne!(block, other);
        let digest = XxHash3_128::oneshot(&bytes);
        bytes[1024..2048].copy_from_slice(&other);
        assert_eq!(XxHash3_128::oneshot(&bytes), digest);
    }
}
