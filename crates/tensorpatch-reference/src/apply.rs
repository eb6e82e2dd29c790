//! Sections 7.1, 9 and 10: from a base and a patch to the target.

use std::collections::BTreeMap;

use crate::digest::{digest_of_schema, leaf, state_digest};
use crate::encodings::decode_chunk;
use crate::file::{File, Kind, Record, parse};
use crate::input::{Code, Result, refuse};
use crate::metadata::{CHUNK, Format, LeafHash, Spec, Tensor};

/// What a patch makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// The target state, which has the digest that the patch gives for it.
    pub state: Vec<Tensor>,
    /// With which leaf hash.
    pub leaf_hash: LeafHash,
    /// The canonical bytes of the target layout; `None` if it is that of the base.
    pub layout: Option<Vec<u8>>,
}

/// Decodes a patch. `base` is the state that it is for, its tensors in the order of their names; `None` for a full patch.
/// A base given to a full patch is ignored.
///
/// # Errors
///
/// With the class and the offset that the specification gives. What can be checked without the base comes first, then the base,
/// then what needs it.
pub fn decode(patch: &[u8], base: Option<&[Tensor]>) -> Result<Decoded> {
    let file = parse(patch)?;
    let hash = file.header.hash;
    let base = if file.header.kind == Kind::Full { Some(&[][..]) } else { base };
    let Some(base) = base else {
        return refuse(Code::WrongBase, file.trailer.at, "the patch needs a base");
    };
    let schema = match &file.schema {
        Some(schema) => schema.clone(),
        None => base.iter().map(Spec::of).collect(),
    };
    if digest_of_schema(&schema) != file.trailer.target_schema {
        return refuse(Code::WrongBase, file.trailer.at.saturating_add(64), "the base has another schema");
    }
    if file.header.kind != Kind::Full && state_digest(hash, base) != file.trailer.base_state {
        return refuse(Code::WrongBase, file.trailer.at, "not the base that the patch is for");
    }
    let by_name: BTreeMap<&str, &Tensor> = base.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
    let continued: Vec<Option<&Tensor>> = schema
        .iter()
        .map(|spec| by_name.get(spec.name.as_str()).copied().filter(|b| continues(b, spec)))
        .collect();
    check_records(&file, &schema, &continued)?;

    let mut records: BTreeMap<(u64, u64), &Record<'_>> =
        file.records.iter().map(|record| ((record.tensor, record.chunk), record)).collect();
    let mut state = Vec::new();
    for ((number, spec), old) in (0_u64..).zip(&schema).zip(continued) {
        let mut bytes = Vec::new();
        for chunk in 0..spec.chunk_count() {
            let len = as_usize(spec.chunk_len(chunk));
            let start = as_usize(chunk.saturating_mul(CHUNK));
            let old = old.and_then(|old| old.bytes.get(start..start.saturating_add(len)));
            match (records.remove(&(number, chunk)), old) {
                (Some(record), old) => {
                    let new =
                        decode_chunk(record.encoding, Format::of(&spec.dtype), record.payload, old, len)?;
                    if leaf(hash, &new) != record.leaf {
                        return refuse(
                            Code::TargetMismatch,
                            record.leaf_at,
                            "a chunk has another leaf digest",
                        );
                    }
                    bytes.extend(new);
                }
                (None, Some(old)) => bytes.extend(old),
                (None, None) => return refuse(Code::Invalid, file.index_at, "fresh chunks are missing"),
            }
        }
        let Spec { name, dtype, shape, .. } = spec.clone();
        state.push(Tensor { name, dtype, shape, bytes });
    }
    if state_digest(hash, &state) != file.trailer.target_state {
        let at = file.trailer.at.saturating_add(32);
        return refuse(Code::TargetMismatch, at, "the result has another state digest");
    }
    Ok(Decoded { state, leaf_hash: hash, layout: file.layout })
}

/// Section 7.1: whether a tensor of the target is continued.
fn continues(base: &Tensor, target: &Spec) -> bool {
    base.dtype == target.dtype && base.bytes.len() as u64 == target.byte_len
}

/// Section 7.4: what needs the schema.
fn check_records(file: &File<'_>, schema: &[Spec], continued: &[Option<&Tensor>]) -> Result<()> {
    // The chunks that must be in the file, in the order of the grid.
    let mut fresh = (0_u64..)
        .zip(schema.iter().zip(continued))
        .filter(|(_, (_, old))| old.is_none())
        .flat_map(|(number, (spec, _))| (0..spec.chunk_count()).map(move |chunk| (number, chunk)))
        .peekable();
    let mut last = None;
    for record in &file.records {
        let here = (record.tensor, record.chunk);
        let spec = usize::try_from(record.tensor).ok().and_then(|tensor| schema.get(tensor));
        if spec.is_none_or(|spec| record.chunk >= spec.chunk_count()) {
            return refuse(Code::Invalid, record.at, "a record lies outside the grid");
        }
        if last.is_some_and(|last| here <= last) {
            return refuse(Code::Invalid, record.at, "the records are not strictly ascending");
        }
        last = Some(here);
        let is_fresh = match fresh.peek() {
            Some(due) if *due < here => {
                return refuse(Code::Invalid, record.at, "a record passes over a fresh chunk");
            }
            Some(due) => *due == here,
            None => false,
        };
        if is_fresh {
            fresh.next();
        }
        let needs_base = matches!(record.encoding, 1 | 3);
        let for_continued = matches!(record.encoding, 1..=3);
        if (needs_base && file.header.direct) || (for_continued && is_fresh) {
            return refuse(Code::Invalid, record.encoding_at, "an encoding is not allowed here");
        }
    }
    if fresh.peek().is_some() {
        return refuse(Code::Invalid, file.index_at, "fresh chunks are missing");
    }
    Ok(())
}

/// Lengths of what lies in memory.
fn as_usize(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}
