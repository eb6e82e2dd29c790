//! Synthetic training runs whose checkpoints change the way reinforcement learning changes real ones.
//!
//! At the learning rates of RL fine-tuning (about 3e-6) an Adam step is smaller than half the distance
//! between two neighbouring bf16 values for about 99 % of the weights, so that they stay bit for bit what
//! they were. Which weights flip, and by how much, depends on the size of the weight, of the step, and on
//! where the f32 master weight lies between two bf16 values. This crate simulates exactly that: f32 master
//! weights in the shapes and scales of a transformer, Adam moments in their steady state, sampled gradients,
//! and a cast to the checkpoint's dtype with round-to-nearest-even. `tests/calibration.rs` compares density,
//! exponents, flip rates and step sizes with those of a recorded run.
//!
//! A run is a function of its [`Config`] alone: the same on every machine and for any number of threads,
//! since it uses only operations that IEEE 754 rounds exactly.
//!
//! ```
//! use tensorpatch_synthetic::{Config, Run};
//!
//! let config = Config { bytes: 1 << 20, ..Config::default() };
//! let mut run = Run::new(&config);
//! let before: Vec<Vec<u8>> = (0..run.model().tensors.len()).map(|i| run.tensor_bytes(i)).collect();
//! run.step();
//! let changed = (0..before.len()).filter(|&i| run.tensor_bytes(i) != before[i]).count();
//! assert!(changed > 0);
//! ```
//!
//! A [`Run`] keeps 12 bytes per element in memory. [`write_pair`] writes two consecutive checkpoints of any
//! size piece by piece instead.

mod cast;
mod file;
mod model;
mod piece;
mod run;

pub use cast::Dtype;
pub use file::{write_pair, write_run, write_run_sharded, write_series};
pub use model::{Model, Tensor};
pub use run::Run;

use std::num::NonZeroUsize;

/// What a synthetic run is made from.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The size of a checkpoint's tensor data in bytes. The model gets as near to it from below as whole rows
    /// of its embedding allow, and has at least a few hundred elements.
    pub bytes: u64,
    /// The dtype of every tensor in the checkpoints.
    pub dtype: Dtype,
    /// Adam's learning rate. About 3e-6 in RL fine-tuning.
    pub learning_rate: f32,
    /// The same seed gives the same run.
    pub seed: u64,
    /// How many threads work on a step. The bytes do not depend on it.
    pub threads: NonZeroUsize,
}

impl Default for Config {
    /// 64 MiB of bf16 at a learning rate of 3e-6, on as many threads as there are cores.
    fn default() -> Self {
        Self {
            bytes: 64 << 20,
            dtype: Dtype::Bf16,
            learning_rate: 3e-6,
            seed: 0,
            threads: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
        }
    }
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadMe;
