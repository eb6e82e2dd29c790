//! The `sparse` encoding: positions and differences, conditioned on the exponents of the base
//! (`spec/encodings/sparse.md`).
//!
//! An optimiser step flips an element's bits with a probability that halves with each exponent, so the payload describes
//! one *rate* per exponent and then codes the changes close to the entropy of that model. Elements of *hot* classes, where
//! about one in thirteen or more changes, get a symbol each. Those of *cold* classes lie on an axis, each as long as its
//! class changes often; the distance from one changed element to the next is then geometric with the same parameter
//! everywhere, and a range coder takes the element's place on the axis.

mod chain;
mod decode;
mod distance;
mod encode;
mod layout;
mod model;
#[deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod payload;
mod places;
mod plan;
#[cfg(test)]
mod reference;
mod shift;
mod stream;
mod tables;
#[cfg_attr(not(target_arch = "x86_64"), path = "wide_absent.rs")]
mod wide;
mod work;

pub(crate) use decode::Decoder;
pub(crate) use encode::Encoder;
#[cfg(target_arch = "x86_64")]
pub(crate) use plan::HOT_MARK;
pub(crate) use plan::{HOT_BIT, Lengths};
pub(crate) use work::Work;
