//! A whole training run in memory.

use crate::model::Model;
use crate::piece::{Piece, pieces};
use crate::{Config, Dtype};

/// A training run: a model somewhere in the middle of training, and the means to take the next step.
#[derive(Debug)]
pub struct Run {
    config: Config,
    model: Model,
    /// In order of tensor, then of rows.
    pieces: Vec<Piece>,
    /// For each tensor its first piece; one more entry at the end.
    first_piece: Vec<usize>,
    steps: u64,
}

impl Run {
    /// A run at step 0. It keeps 12 bytes of memory per element of the model.
    pub fn new(config: &Config) -> Self {
        let model = Model::new(config);
        let mut plan = Vec::new();
        let mut first_piece = vec![0];
        for (index, tensor) in model.tensors.iter().enumerate() {
            plan.extend(pieces(tensor).map(|rows| (index, rows)));
            first_piece.push(plan.len());
        }
        let build = |(index, rows): &(usize, std::ops::Range<usize>)| {
            Piece::new(config.seed, *index, &model.tensors[*index], rows.clone())
        };
        let share = plan.len().div_ceil(config.threads.get()).max(1);
        let pieces = std::thread::scope(|scope| {
            let workers: Vec<_> = plan
                .chunks(share)
                .map(|part| scope.spawn(move || part.iter().map(build).collect::<Vec<_>>()))
                .collect();
            workers.into_iter().flat_map(join).collect()
        });
        Self { config: config.clone(), model, pieces, first_piece, steps: 0 }
    }

    /// The tensors.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// How many steps were taken since the run began.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The dtype of the checkpoints.
    pub fn dtype(&self) -> Dtype {
        self.config.dtype
    }

    /// Trains for one step.
    pub fn step(&mut self) {
        let learning_rate = self.config.learning_rate;
        let share = self.pieces.len().div_ceil(self.config.threads.get()).max(1);
        std::thread::scope(|scope| {
            for part in self.pieces.chunks_mut(share) {
                scope.spawn(move || part.iter_mut().for_each(|piece| piece.step(learning_rate)));
            }
        });
        self.steps += 1;
    }

    /// The bytes of tensor number `tensor` as a checkpoint of this step holds them; empty if there is no such
    /// tensor.
    pub fn tensor_bytes(&self, tensor: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for piece in self.tensor_pieces(tensor) {
            self.config.dtype.cast(piece.weights(), piece.row(), &mut out);
        }
        out
    }

    pub(crate) fn tensor_pieces(&self, tensor: usize) -> &[Piece] {
        let range = self.first_piece.get(tensor).zip(self.first_piece.get(tensor + 1));
        range.and_then(|(&start, &end)| self.pieces.get(start..end)).unwrap_or_default()
    }
}

/// A panic of a worker goes on in the caller.
pub(crate) fn join<T>(worker: std::thread::ScopedJoinHandle<'_, T>) -> T {
    worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;

    fn bytes(run: &Run) -> Vec<Vec<u8>> {
        (0..run.model().tensors.len()).map(|i| run.tensor_bytes(i)).collect()
    }

    fn config(seed: u64, threads: usize) -> Config {
        let threads = NonZeroUsize::new(threads).unwrap_or(NonZeroUsize::MIN);
        Config { bytes: 4 << 20, seed, threads, ..Config::default() }
    }

    #[test]
    fn a_run_is_the_same_for_any_number_of_threads() {
        let mut one = Run::new(&config(1, 1));
        let mut many = Run::new(&config(1, 5));
        for _ in 0..2 {
            assert_eq!(bytes(&one), bytes(&many));
            one.step();
            many.step();
        }
        assert_eq!(one.steps(), 2);
    }

    #[test]
    fn another_seed_is_another_run() {
        assert_ne!(bytes(&Run::new(&config(1, 2))), bytes(&Run::new(&config(2, 2))));
    }

    #[test]
    fn a_known_run_keeps_its_bytes_across_machines_and_releases() {
        let mut run = Run::new(&Config { bytes: 100_000, seed: 42, ..Config::default() });
        run.step();
        // FNV-1a over all bytes. If this changes, every figure measured on synthetic runs changes with it.
        let hash = bytes(&run).concat().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        assert_eq!(hash, 0xce35_97c3_0f69_cbdb, "{hash:#x}");
    }
}
