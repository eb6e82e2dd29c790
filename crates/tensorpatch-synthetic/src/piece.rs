//! The training state of some consecutive rows of one tensor, independent of all other pieces.

use std::ops::Range;

use rand_pcg::Pcg64Mcg;
use rand_pcg::rand_core::Rng;

use crate::model::{Scale, Tensor};

/// The decay of Adam's first moment.
const BETA1: f32 = 0.9;
/// The decay of Adam's second moment.
const BETA2: f32 = 0.999;
/// The deviation of the first moment when gradients are white noise of deviation 1: √((1 - β1) / (1 + β1)).
const MOMENT_DEVIATION: f32 = 0.229_415_73;
/// The part of every element's gradient that stays the same from step to step, as a share of its noise.
/// Without it the mean step would be 0.18 of the learning rate; in the recorded run it is 0.23, and flips
/// persist in their direction.
const SIGNAL: f32 = 0.18;
/// Gradients are about this large. Only Adam's epsilon sees it.
const GRADIENT: f32 = 1e-4;
const EPSILON: f32 = 1e-8;

/// Pieces have at most this many elements, unless a single row has more.
pub(crate) const PIECE_ELEMENTS: usize = 1 << 18;

/// The pieces of a tensor as ranges of rows.
pub(crate) fn pieces(tensor: &Tensor) -> impl Iterator<Item = Range<usize>> {
    let row = tensor.row().max(1);
    let rows = tensor.elements() / row;
    let step = (PIECE_ELEMENTS / row).max(1);
    (0..rows).step_by(step).map(move |start| start..(start + step).min(rows))
}

/// Master weights and moments of some rows.
#[derive(Debug)]
pub(crate) struct Piece {
    rng: Pcg64Mcg,
    row: usize,
    /// For each row the probability that a step brings it a gradient; 0 for rows that never had one.
    occurrence: Vec<f32>,
    weights: Vec<f32>,
    first: Vec<f32>,
    second: Vec<f32>,
    signal_seed: u64,
}

impl Piece {
    /// The state in the middle of training, of rows `rows` of tensor number `index`.
    pub(crate) fn new(seed: u64, index: usize, tensor: &Tensor, rows: Range<usize>) -> Self {
        let key = mix(mix(mix(seed) ^ index as u64) ^ rows.start as u64);
        let mut rng = Pcg64Mcg::new(u128::from(key) << 64 | u128::from(mix(key)));
        let row = tensor.row();
        let elements = rows.len() * row;
        let Scale { mean, deviation, live_rows, tokens } = tensor.scale;
        let mut piece = Self {
            rng: Pcg64Mcg::new(0),
            row,
            occurrence: Vec::with_capacity(rows.len()),
            weights: Vec::with_capacity(elements),
            first: Vec::with_capacity(elements),
            second: Vec::with_capacity(elements),
            signal_seed: mix(key ^ 1),
        };
        for number in 0..rows.len() {
            // Rows differ in scale: from two fifths of the tensor's deviation to one and a half times.
            let spread = deviation * (0.4 + 1.1 * uniform(&mut rng));
            let occurrence = if uniform(&mut rng) >= live_rows {
                0.0
            } else if tokens {
                // Few tokens occur in every step, most of them now and then.
                0.1 + 0.9 * uniform(&mut rng)
            } else {
                1.0
            };
            piece.occurrence.push(occurrence);
            let mut signal = Pcg64Mcg::new(piece.signal_state(number));
            for _ in 0..row {
                piece.weights.push(mean + spread * normal(&mut rng));
                if occurrence == 0.0 {
                    piece.first.push(0.0);
                    piece.second.push(0.0);
                    continue;
                }
                let expected = occurrence * SIGNAL * normal(&mut signal);
                let noise = occurrence.sqrt() * MOMENT_DEVIATION * normal(&mut rng);
                piece.first.push(GRADIENT * (expected + noise));
                // About 1/(1 - β2) squared gradients are averaged, so the second moment scatters by about 3
                // %.
                let scatter = 1.0 + 0.03 * normal(&mut rng);
                piece.second.push(GRADIENT * GRADIENT * occurrence * scatter);
            }
        }
        piece.rng = rng;
        piece
    }

    /// One step of Adam without weight decay, with moments old enough that bias correction is 1.
    pub(crate) fn step(&mut self, learning_rate: f32) {
        for number in 0..self.occurrence.len() {
            let occurrence = self.occurrence[number];
            if occurrence == 0.0 {
                continue;
            }
            let occurs = uniform(&mut self.rng) < occurrence;
            let mut signal = Pcg64Mcg::new(self.signal_state(number));
            let range = number * self.row..(number + 1) * self.row;
            let weights = &mut self.weights[range.clone()];
            let moments = self.first[range.clone()].iter_mut().zip(&mut self.second[range]);
            for (weight, (first, second)) in weights.iter_mut().zip(moments) {
                let gradient = if occurs {
                    GRADIENT * (SIGNAL * normal(&mut signal) + normal(&mut self.rng))
                } else {
                    0.0
                };
                *first = BETA1 * *first + (1.0 - BETA1) * gradient;
                *second = BETA2 * *second + (1.0 - BETA2) * gradient * gradient;
                *weight -= learning_rate * *first / (second.sqrt() + EPSILON);
            }
        }
    }

    /// The master weights.
    pub(crate) fn weights(&self) -> &[f32] {
        &self.weights
    }

    /// The length of a row.
    pub(crate) fn row(&self) -> usize {
        self.row
    }

    /// The signal is drawn anew in every step from the same state, which costs less memory than keeping it.
    fn signal_state(&self, row: usize) -> u128 {
        let key = mix(self.signal_seed ^ row as u64);
        u128::from(key) << 64 | u128::from(mix(key))
    }
}

/// Spreads a key over 64 bits (the finaliser of SplitMix64).
fn mix(key: u64) -> u64 {
    let mut z = key.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Uniform in [0, 1), in steps of 2^-24.
fn uniform(rng: &mut Pcg64Mcg) -> f32 {
    (rng.next_u32() >> 8) as f32 / 16_777_216.0
}

/// Mean 0, deviation 1: the sum of four 16-bit integers, exact, so the same everywhere. Its tails end at 3.5
/// deviations, which the spread of the rows' scales makes up for.
fn normal(rng: &mut Pcg64Mcg) -> f32 {
    let bits = rng.next_u64();
    let lane = |shift: u32| ((bits >> shift) & 0xffff) as i32;
    let sum = lane(0) + lane(16) + lane(32) + lane(48) - 2 * 0xffff;
    // The deviation of the sum is 65536 · √(4/12).
    sum as f32 / 37_837.227
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_noise_has_mean_zero_and_deviation_one() {
        let mut rng = Pcg64Mcg::new(7);
        let samples: Vec<f64> = (0..100_000).map(|_| f64::from(normal(&mut rng))).collect();
        let mean = samples.iter().sum::<f64>() / samples.len() as f64;
        let variance = samples.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / samples.len() as f64;
        assert!(mean.abs() < 0.02, "mean {mean}");
        assert!((variance - 1.0).abs() < 0.02, "variance {variance}");
    }

    #[test]
    fn pieces_cover_a_tensor_once() {
        let scale = Scale { mean: 0.0, deviation: 1.0, live_rows: 1.0, tokens: false };
        for shape in [vec![1], vec![PIECE_ELEMENTS + 1], vec![1000, 700], vec![3, PIECE_ELEMENTS * 2]] {
            let tensor = Tensor { name: "t".into(), shape, scale };
            let mut next = 0;
            for rows in pieces(&tensor) {
                assert_eq!(rows.start, next);
                assert!(!rows.is_empty());
                next = rows.end;
            }
            assert_eq!(next * tensor.row(), tensor.elements());
        }
    }

    #[test]
    fn rows_without_gradients_do_not_move() {
        let scale = Scale { mean: 0.0, deviation: 0.05, live_rows: 0.5, tokens: true };
        let tensor = Tensor { name: "t".into(), shape: vec![200, 16], scale };
        let mut piece = Piece::new(3, 0, &tensor, 0..200);
        let before = piece.weights().to_vec();
        piece.step(1e-3);
        for (number, (old, new)) in before.chunks(16).zip(piece.weights().chunks(16)).enumerate() {
            assert_eq!(old == new, piece.occurrence[number] == 0.0, "row {number}");
        }
    }
}
