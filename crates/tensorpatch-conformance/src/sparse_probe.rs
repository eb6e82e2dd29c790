//! The tables of `sparse` as constants of the format: whether the codec reads payloads that are written by
//! the formulas of the specification, at every rate and every reach.

use tensorpatch_codec::{ChunkContext, ChunkDecoder};
use tensorpatch_format::{ElementFormat, Encoding, LeafHash, Profile};

use crate::sparse_by_hand::{HOT_FROM, LONG, LONG_BYTES, far_moves, long_moves, model, parts};
use crate::sparse_parts::Head;

/// A line for each form of the encoding: how many payloads are read as they were written, and a digest of
/// all of them.
pub(crate) fn lines() -> Vec<String> {
    let (near, far) = (long_moves(), far_moves());
    let mut lines = Vec::new();
    for (code, hot_from) in HOT_FROM.iter().enumerate() {
        let classes = (1..=95).map(|rate| (rate, 0));
        lines.push(line(&format!("rates, hot from {hot_from}"), code, classes, &near));
    }
    for (kind, code, rate) in [("hot", 0, 50), ("cold", 1, 60)] {
        let classes = (1..=255).map(|reach| (rate, reach));
        lines.push(line(&format!("reaches, {kind}"), code, classes, &far));
    }
    lines
}

fn line(
    name: &str,
    code: usize,
    classes: impl Iterator<Item = (u64, u64)>,
    moves: &[(usize, i64)],
) -> String {
    let base: Vec<u8> = LONG_BYTES.iter().copied().cycle().take(LONG).collect();
    let target: Vec<u8> =
        base.iter().zip(moves).map(|(byte, (_, by))| byte.wrapping_add(*by as u8)).collect();
    let context =
        ChunkContext { format: ElementFormat::W8, profile: Profile::Compact, leaf_hash: LeafHash::Xxh3 };
    let (mut decoder, mut all, mut read, mut payloads) = (ChunkDecoder::new(), blake3::Hasher::new(), 0, 0);
    for (rate, reach) in classes {
        let head = Head { hot: code as u64, ..Head::one(rate, reach) };
        let payload = parts(head, &model(0, code, vec![(rate, reach)]), moves).payload();
        all.update(&payload);
        let mut found = vec![0; base.len()];
        let decoded = decoder.decode(context, Encoding::Sparse, &payload, Some(&base), &mut found);
        payloads += 1;
        read += u32::from(decoded.is_ok() && found == target);
    }
    format!(
        "sparse, {name}: {read} of {payloads} payloads read as they were written, {}",
        all.finalize().to_hex()
    )
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_codec_has_the_tables_of_the_specification() {
        for line in super::lines() {
            assert!(line.contains(": 95 of 95 ") || line.contains(": 255 of 255 "), "{line}");
        }
    }
}
