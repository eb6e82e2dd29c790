//! The `sparse` encoding: positions and differences, conditioned on the exponents of the base
//! (`spec/encodings/sparse.md`).
//!
//! An optimiser step flips an element's bits with a probability that halves with each exponent, so the
//! payload describes one *rate* per exponent and then codes the changes close to the entropy of that model.
//! Elements of *hot* classes, which change often, get a symbol each. Of the others, *cold* ones, it is coded
//! for each group of 32 whether any changes, which has a chance that follows from the rates, and then which
//! one.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod bits;
mod block;
mod cold;
mod decode;
mod distance;
mod encode;
mod head;
mod lengths;
mod model;
mod moves;
#[deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod payload;
mod rans;
#[cfg_attr(not(target_arch = "x86_64"), path = "simd_absent.rs")]
mod simd;
mod slots;
mod source;
mod symbols;
mod tables;
mod target;
#[cfg(target_arch = "x86_64")]
mod vector;
mod writer;

pub(crate) use decode::Decoder;
pub(crate) use encode::Encoder;
#[cfg(target_arch = "x86_64")]
pub(crate) use lengths::HOT_MARK;
pub(crate) use lengths::{HOT_BIT, Lengths};
pub(crate) use target::TargetBlocks;
