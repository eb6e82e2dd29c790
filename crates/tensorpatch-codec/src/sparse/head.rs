//! The head of a payload, which is the first of its bits.

use crate::CodecError;

use super::model::Model;
use super::payload::Input;
use super::rans::{MAX_LANES, States};

/// The head of a payload.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) model: Model,
    pub(super) lanes: usize,
    pub(super) states: States,
}

/// The numbers of lanes, by their code.
pub(super) const LANES: [usize; 4] = [1, 8, 16, MAX_LANES];

impl Head {
    pub(super) fn read(input: &mut Input<'_>) -> Result<Self, CodecError> {
        let lanes = LANES.get(input.bits(2) as usize).copied().unwrap_or(1);
        let model = Model::read(input)?;
        let mut states = [0; MAX_LANES];
        for state in states.iter_mut().take(lanes) {
            let len = input.bits(4).saturating_add(16);
            *state = 1 << len | input.bits(len);
        }
        Ok(Self { model, lanes, states })
    }
}
