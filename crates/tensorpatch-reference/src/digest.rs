//! Section 4: the digests.

use crate::metadata::{CHUNK, LeafHash, Spec, Tensor, schema_bytes};

/// The leaf digest of a chunk.
pub fn leaf(hash: LeafHash, chunk: &[u8]) -> Vec<u8> {
    match hash {
        // The canonical form is big endian.
        LeafHash::Xxh3 => twox_hash::XxHash3_128::oneshot(chunk).to_be_bytes().to_vec(),
        LeafHash::Blake3 => blake3::hash(chunk).as_bytes().to_vec(),
    }
}

pub(crate) fn code(hash: LeafHash) -> u8 {
    match hash {
        LeafHash::Xxh3 => 1,
        LeafHash::Blake3 => 2,
    }
}

fn tensor_digest(hash: LeafHash, bytes: &[u8]) -> [u8; 32] {
    let mut input = b"tensorpatch.v1.tensor\0".to_vec();
    input.push(code(hash));
    input.extend((bytes.len() as u64).to_le_bytes());
    #[expect(clippy::cast_possible_truncation, reason = "a chunk has a million bytes")]
    for chunk in bytes.chunks(CHUNK as usize) {
        input.extend(leaf(hash, chunk));
    }
    *blake3::hash(&input).as_bytes()
}

/// The digest of the schema of a state, whose tensors are in the order of their names.
pub fn schema_digest(state: &[Tensor]) -> [u8; 32] {
    let specs: Vec<Spec> = state.iter().map(Spec::of).collect();
    digest_of_schema(&specs)
}

/// The canonical bytes of the schema of a state, whose tensors are in the order of their names.
pub fn canonical_schema(state: &[Tensor]) -> Vec<u8> {
    let specs: Vec<Spec> = state.iter().map(Spec::of).collect();
    schema_bytes(&specs)
}

pub(crate) fn digest_of_schema(specs: &[Spec]) -> [u8; 32] {
    let mut input = b"tensorpatch.v1.schema\0".to_vec();
    input.extend(schema_bytes(specs));
    *blake3::hash(&input).as_bytes()
}

/// The digest of a layout, given its canonical bytes.
pub fn layout_digest(canonical: &[u8]) -> [u8; 32] {
    let mut input = b"tensorpatch.v1.layout\0".to_vec();
    input.extend(canonical);
    *blake3::hash(&input).as_bytes()
}

/// The digest of a state, whose tensors are in the order of their names.
pub fn state_digest(hash: LeafHash, state: &[Tensor]) -> [u8; 32] {
    let mut input = b"tensorpatch.v1.state\0".to_vec();
    input.extend(schema_digest(state));
    for tensor in state {
        input.extend(tensor_digest(hash, &tensor.bytes));
    }
    *blake3::hash(&input).as_bytes()
}

/// A state digest as people read it.
pub fn tagged(hash: LeafHash, digest: &[u8; 32]) -> String {
    let name = match hash {
        LeafHash::Xxh3 => "xxh3",
        LeafHash::Blake3 => "blake3",
    };
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{name}:{hex}")
}
