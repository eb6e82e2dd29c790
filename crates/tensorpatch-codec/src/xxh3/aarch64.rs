//! The accumulation of whole blocks with NEON.
#![expect(unsafe_code, reason = "vector instructions; compared with twox-hash in tests")]

use std::arch::aarch64::*;

use super::{Accumulators, BLOCK, PRIME32_1, SECRET, STRIPE};

pub(super) fn blocks(accumulators: &mut Accumulators, blocks: &[[u8; BLOCK]]) {
    // SAFETY: called at the NEON level alone.
    unsafe { neon(accumulators, blocks) }
}

/// Eight words, two in each vector.
type Eight = [uint64x2_t; 4];

#[target_feature(enable = "neon")]
fn neon(accumulators: &mut Accumulators, blocks: &[[u8; BLOCK]]) {
    let at = accumulators.0.as_mut_ptr();
    // SAFETY: eight words, two at a time.
    let mut acc: Eight =
        unsafe { [vld1q_u64(at), vld1q_u64(at.add(2)), vld1q_u64(at.add(4)), vld1q_u64(at.add(6))] };
    for block in blocks {
        for (stripe, key) in block.as_chunks::<STRIPE>().0.iter().zip(SECRET.0.windows(STRIPE).step_by(8)) {
            let Some(key) = key.first_chunk() else { continue };
            let (data, key) = (load(stripe), load(key));
            for ((acc, data), key) in acc.iter_mut().zip(data).zip(key) {
                let key = veorq_u64(data, key);
                let sum = vaddq_u64(*acc, vextq_u64::<1>(data, data));
                *acc = vmlal_u32(sum, vmovn_u64(key), vshrn_n_u64::<32>(key));
            }
        }
        let key = SECRET.0.last_chunk().map_or([vdupq_n_u64(0); 4], |key| load(key));
        for (acc, key) in acc.iter_mut().zip(key) {
            let mixed = veorq_u64(veorq_u64(*acc, vshrq_n_u64::<47>(*acc)), key);
            let prime = vmovn_u64(vdupq_n_u64(PRIME32_1));
            let high = vmull_u32(vshrn_n_u64::<32>(mixed), prime);
            *acc = vmlal_u32(vshlq_n_u64::<32>(high), vmovn_u64(mixed), prime);
        }
    }
    // SAFETY: as for the loads.
    unsafe {
        vst1q_u64(at, acc[0]);
        vst1q_u64(at.add(2), acc[1]);
        vst1q_u64(at.add(4), acc[2]);
        vst1q_u64(at.add(6), acc[3]);
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn load(bytes: &[u8; STRIPE]) -> Eight {
    let at = bytes.as_ptr();
    // SAFETY: four times 16 of the 64 bytes, at any alignment.
    let quarters =
        unsafe { [vld1q_u8(at), vld1q_u8(at.add(16)), vld1q_u8(at.add(32)), vld1q_u8(at.add(48))] };
    quarters.map(|quarter| vreinterpretq_u64_u8(quarter))
}
