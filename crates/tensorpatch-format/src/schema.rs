//! The tensors of a state without their bytes (section 2).

use std::sync::Arc;

use crate::bytes::Reader;
use crate::digest::blake3_of;
use crate::{CHUNK_BYTES, Dtype, Error, LimitKind, Limits, SchemaDigest};

const MAX_NAME_BYTES: usize = 65_535;
const MAX_RANK: usize = 64;
/// A tensor with an empty name, a one-byte dtype and no dims: 4 + 4+1 + 4 + 8.
const MIN_TENSOR_BYTES: u64 = 21;

/// A tensor's place in the order of its schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorIndex(pub u32);

/// A chunk's place in its tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChunkIndex(pub u32);

/// A chunk's place in the grid of a state; ordered as the grid is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChunkAddress {
    /// The tensor.
    pub tensor: TensorIndex,
    /// The chunk of the tensor.
    pub chunk: ChunkIndex,
}

/// Name, dtype, shape and size of one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// The name in the checkpoint.
    pub name: String,
    /// The dtype.
    pub dtype: Dtype,
    /// The dims, outermost first; empty for a scalar.
    pub shape: Vec<u64>,
    /// The number of bytes.
    pub byte_len: u64,
}

impl TensorSpec {
    /// A tensor whose size follows from its dtype and shape.
    ///
    /// # Errors
    /// If the dtype's size is not known, or the bits do not fill whole bytes, or overflow.
    pub fn new(name: impl Into<String>, dtype: Dtype, shape: Vec<u64>) -> Result<Self, SchemaError> {
        let name = name.into();
        match byte_len(&dtype, &shape) {
            Ok(Some(byte_len)) => Ok(Self { name, dtype, shape, byte_len }),
            Ok(None) => Err(SchemaError::UnknownSize { name, dtype }),
            Err(()) => Err(SchemaError::BadShape { name, dtype, shape }),
        }
    }

    /// Says that a schema may have this tensor.
    ///
    /// # Errors
    /// If it breaks a rule of section 2.1.
    pub fn check(&self) -> Result<(), SchemaError> {
        check_tensor(self)
    }

    /// The number of chunks.
    pub fn chunk_count(&self) -> u32 {
        // Schema::new has checked that this fits.
        u32::try_from(self.byte_len.div_ceil(CHUNK_BYTES as u64)).unwrap_or(u32::MAX)
    }

    /// The bytes of the tensor that `chunk` covers, or `None` if the tensor has no such chunk.
    pub fn chunk_range(&self, chunk: ChunkIndex) -> Option<std::ops::Range<u64>> {
        let start = u64::from(chunk.0).checked_mul(CHUNK_BYTES as u64)?;
        let end = start.checked_add(CHUNK_BYTES as u64)?.min(self.byte_len);
        (start < end).then_some(start..end)
    }

    /// Whether this tensor of a target may be encoded against `base`, a tensor of the same name (section
    /// 7.1).
    pub fn continues(&self, base: &TensorSpec) -> bool {
        self.name == base.name && self.dtype == base.dtype && self.byte_len == base.byte_len
    }
}

/// The bytes of a tensor; `Ok(None)` if the dtype is not known, `Err` if there is no such size.
fn byte_len(dtype: &Dtype, shape: &[u64]) -> Result<Option<u64>, ()> {
    let Some(bits) = dtype.bits() else { return Ok(None) };
    // A zero anywhere makes the product zero, even where the other dims alone would overflow.
    if shape.contains(&0) {
        return Ok(Some(0));
    }
    let bits = shape.iter().try_fold(bits, |product, &dim| product.checked_mul(dim)).ok_or(())?;
    if bits % 8 != 0 {
        return Err(());
    }
    Ok(Some(bits / 8))
}

/// The tensors of a state in ascending order of their names; checked, so that whoever holds one may rely on
/// it.
///
/// A clone shares the tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    tensors: Arc<[TensorSpec]>,
    state_bytes: u64,
}

/// Why a list of tensors is not a schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SchemaError {
    /// Two tensors have the same name.
    #[error("tensor {0:?} occurs twice")]
    Duplicate(String),
    /// A name is too long.
    #[error("tensor name of {0} bytes: at most 65535 are allowed")]
    NameLength(usize),
    /// More dims than the format allows.
    #[error("tensor {name:?} has {rank} dims: at most 64 are allowed")]
    Rank {
        /// The tensor.
        name: String,
        /// Its number of dims.
        rank: usize,
    },
    /// A size that the dtype and the shape do not give.
    #[error("tensor {name:?} of dtype {dtype} and shape {shape:?} has {found} bytes")]
    Size {
        /// The tensor.
        name: String,
        /// Its dtype.
        dtype: Dtype,
        /// Its shape.
        shape: Vec<u64>,
        /// The bytes it is said to have.
        found: u64,
    },
    /// A shape whose size overflows, or is no whole number of bytes.
    #[error("tensor {name:?} of dtype {dtype} cannot have the shape {shape:?}")]
    BadShape {
        /// The tensor.
        name: String,
        /// Its dtype.
        dtype: Dtype,
        /// Its shape.
        shape: Vec<u64>,
    },
    /// A dtype whose size is not known, where the size is needed.
    #[error("tensor {name:?} has the unknown dtype {dtype}")]
    UnknownSize {
        /// The tensor.
        name: String,
        /// Its dtype.
        dtype: Dtype,
    },
    /// More than 2^32 - 1 tensors, chunks of a tensor, or 2^63 bytes in all.
    #[error("the state is too large for the format")]
    TooLarge,
}

impl Schema {
    /// A schema of these tensors, in any order.
    ///
    /// # Errors
    /// If two have the same name or one breaks a rule of section 2.1.
    pub fn new(mut tensors: Vec<TensorSpec>) -> Result<Self, SchemaError> {
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        Self::from_sorted(tensors)
    }

    fn from_sorted(tensors: Vec<TensorSpec>) -> Result<Self, SchemaError> {
        let mut state_bytes = 0_u64;
        if u32::try_from(tensors.len()).is_err() {
            return Err(SchemaError::TooLarge);
        }
        for tensor in &tensors {
            check_tensor(tensor)?;
            state_bytes = state_bytes
                .checked_add(tensor.byte_len)
                .filter(|total| i64::try_from(*total).is_ok())
                .ok_or(SchemaError::TooLarge)?;
        }
        for pair in tensors.windows(2) {
            if let [a, b] = pair
                && a.name >= b.name
            {
                return Err(SchemaError::Duplicate(b.name.clone()));
            }
        }
        Ok(Self { tensors: tensors.into(), state_bytes })
    }

    /// The tensors, in order.
    pub fn tensors(&self) -> &[TensorSpec] {
        &self.tensors
    }

    /// The tensor at `index`.
    pub fn get(&self, index: TensorIndex) -> Option<&TensorSpec> {
        self.tensors.get(usize::try_from(index.0).ok()?)
    }

    /// The place of the tensor called `name`.
    pub fn find(&self, name: &str) -> Option<TensorIndex> {
        let at = self.tensors.binary_search_by(|t| t.name.as_str().cmp(name)).ok()?;
        u32::try_from(at).ok().map(TensorIndex)
    }

    /// The bytes of all tensors together.
    pub fn state_bytes(&self) -> u64 {
        self.state_bytes
    }

    /// The number of chunks of all tensors together.
    pub fn chunk_count(&self) -> u64 {
        self.tensors.iter().map(|t| u64::from(t.chunk_count())).sum()
    }

    /// All chunks in grid order.
    pub fn grid(&self) -> impl Iterator<Item = ChunkAddress> + '_ {
        (0_u32..).zip(self.tensors.iter()).flat_map(|(index, tensor)| {
            (0..tensor.chunk_count())
                .map(move |chunk| ChunkAddress { tensor: TensorIndex(index), chunk: ChunkIndex(chunk) })
        })
    }

    /// The canonical bytes (section 2.1): what the digest covers and what a SCHEMA section lists.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&(self.tensors.len() as u64).to_le_bytes());
        for tensor in self.tensors.iter() {
            put_string(&mut out, &tensor.name);
            put_string(&mut out, tensor.dtype.as_str());
            put_u32(&mut out, tensor.shape.len());
            for dim in &tensor.shape {
                out.extend_from_slice(&dim.to_le_bytes());
            }
            out.extend_from_slice(&tensor.byte_len.to_le_bytes());
        }
        out
    }

    /// Reads canonical bytes that start at `offset` of the file.
    ///
    /// # Errors
    /// If the bytes are not the canonical bytes of a schema, or ask for more than `limits` allow.
    pub fn from_bytes(bytes: &[u8], offset: u64, limits: &Limits) -> Result<Self, Error> {
        let mut reader = Reader::new(bytes, offset);
        let count = reader.u64("tensor_count")?;
        limits.check(LimitKind::Tensors, count, "tensor_count", offset)?;
        reader.check_count(count, MIN_TENSOR_BYTES, "tensor_count", offset)?;
        let mut tensors: Vec<TensorSpec> = Vec::new();
        for _ in 0..count {
            let at = reader.offset();
            let tensor = read_tensor(&mut reader)?;
            check_tensor(&tensor).map_err(|e| Error::invalid(e.to_string(), "tensor", at))?;
            if tensors.last().is_some_and(|last| last.name >= tensor.name) {
                let message = format!("tensor {:?} is out of order or occurs twice", tensor.name);
                return Err(Error::invalid(message, "name", at));
            }
            tensors.push(tensor);
        }
        reader.finish("schema")?;
        let schema =
            Self::from_sorted(tensors).map_err(|e| Error::invalid(e.to_string(), "schema", offset))?;
        limits.check(LimitKind::StateBytes, schema.state_bytes, "byte_len", offset)?;
        Ok(schema)
    }

    /// The digest of the schema (section 4).
    pub fn digest(&self) -> SchemaDigest {
        SchemaDigest::from_bytes(blake3_of("tensorpatch.v1.schema\0", &[&self.to_bytes()]))
    }
}

fn check_tensor(tensor: &TensorSpec) -> Result<(), SchemaError> {
    let name = || tensor.name.clone();
    if tensor.name.len() > MAX_NAME_BYTES {
        return Err(SchemaError::NameLength(tensor.name.len()));
    }
    if tensor.shape.len() > MAX_RANK {
        return Err(SchemaError::Rank { name: name(), rank: tensor.shape.len() });
    }
    if u32::try_from(tensor.byte_len.div_ceil(CHUNK_BYTES as u64)).is_err() {
        return Err(SchemaError::TooLarge);
    }
    let (dtype, shape) = (tensor.dtype.clone(), tensor.shape.clone());
    match byte_len(&tensor.dtype, &tensor.shape) {
        Ok(Some(expected)) if expected != tensor.byte_len => {
            Err(SchemaError::Size { name: name(), dtype, shape, found: tensor.byte_len })
        }
        Err(()) => Err(SchemaError::BadShape { name: name(), dtype, shape }),
        Ok(_) => Ok(()),
    }
}

fn read_tensor(reader: &mut Reader<'_>) -> Result<TensorSpec, Error> {
    let name = read_string(reader, MAX_NAME_BYTES, "name")?.to_owned();
    let at = reader.offset();
    let dtype = read_string(reader, 32, "dtype")?;
    let dtype =
        Dtype::new(dtype).ok_or_else(|| Error::invalid(format!("{dtype:?} is no dtype"), "dtype", at))?;
    let at = reader.offset();
    let rank = reader.u32("rank")?;
    if rank as usize > MAX_RANK {
        return Err(Error::invalid(format!("rank {rank}: at most 64 are allowed"), "rank", at));
    }
    let shape = (0..rank).map(|_| reader.u64("dim")).collect::<Result<_, _>>()?;
    let byte_len = reader.u64("byte_len")?;
    Ok(TensorSpec { name, dtype, shape, byte_len })
}

pub(crate) fn read_string<'a>(
    reader: &mut Reader<'a>,
    max: usize,
    field: &'static str,
) -> Result<&'a str, Error> {
    let at = reader.offset();
    let len = reader.u32(field)?;
    if len as usize > max {
        return Err(Error::invalid(format!("{len} bytes: at most {max} are allowed"), field, at));
    }
    let bytes = reader.take(u64::from(len), field)?;
    std::str::from_utf8(bytes).map_err(|_| Error::invalid("not UTF-8", field, at))
}

pub(crate) fn put_string(out: &mut Vec<u8>, text: &str) {
    put_u32(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

/// Appends a length that a check has bounded far below 2^32.
pub(crate) fn put_u32(out: &mut Vec<u8>, len: usize) {
    let len = u32::try_from(len).unwrap_or(u32::MAX);
    out.extend_from_slice(&len.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorClass;

    fn spec(name: &str, dtype: &str, shape: &[u64]) -> TensorSpec {
        TensorSpec::new(name, Dtype::new(dtype).unwrap(), shape.to_vec()).unwrap()
    }

    fn sample() -> Schema {
        Schema::new(vec![spec("b", "BF16", &[3, 4]), spec("a", "F32", &[]), spec("c", "F4", &[2, 0])])
            .unwrap()
    }

    #[test]
    fn canonical_bytes_round_trip_and_are_sorted() {
        let schema = sample();
        let names: Vec<_> = schema.tensors().iter().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert_eq!(Schema::from_bytes(&schema.to_bytes(), 0, &Limits::default()).unwrap(), schema);
    }

    #[test]
    fn every_strict_prefix_is_invalid() {
        let bytes = sample().to_bytes();
        for len in 0..bytes.len() {
            let error = Schema::from_bytes(&bytes[..len], 0, &Limits::default()).unwrap_err();
            assert_eq!(error.class(), ErrorClass::Invalid, "{len}: {error}");
        }
    }

    #[test]
    fn a_count_beyond_the_bytes_is_refused_before_anything_is_allocated() {
        let bytes = (1_u64 << 19).to_le_bytes();
        let error = Schema::from_bytes(&bytes, 100, &Limits::default()).unwrap_err();
        assert_eq!((error.class(), error.offset), (ErrorClass::Invalid, 100));
        let bytes = (1_u64 << 60).to_le_bytes();
        let error = Schema::from_bytes(&bytes, 100, &Limits::default()).unwrap_err();
        assert_eq!(error.class(), ErrorClass::Limit);
    }

    #[test]
    fn duplicates_overflows_and_false_sizes_are_refused() {
        assert!(matches!(
            Schema::new(vec![spec("a", "U8", &[1]), spec("a", "U8", &[2])]),
            Err(SchemaError::Duplicate(name)) if name == "a"
        ));
        let huge = TensorSpec::new("a", Dtype::new("F32").unwrap(), vec![1 << 40, 1 << 40]);
        assert!(matches!(huge, Err(SchemaError::BadShape { .. })));
        let mut wrong = spec("a", "U8", &[4]);
        wrong.byte_len = 5;
        assert!(matches!(Schema::new(vec![wrong]), Err(SchemaError::Size { .. })));
        assert!(TensorSpec::new("a", Dtype::new("F4").unwrap(), vec![3]).is_err());
        let of_rank = |rank| Schema::new(vec![spec("a", "U8", &vec![1; rank])]);
        assert!(of_rank(64).is_ok());
        assert!(matches!(of_rank(65), Err(SchemaError::Rank { rank: 65, .. })));
    }

    #[test]
    fn chunks_cover_a_tensor_exactly() {
        let tensor = spec("t", "U8", &[2 * CHUNK_BYTES as u64 + 5]);
        assert_eq!(tensor.chunk_count(), 3);
        assert_eq!(
            tensor.chunk_range(ChunkIndex(2)),
            Some(2 * CHUNK_BYTES as u64..2 * CHUNK_BYTES as u64 + 5)
        );
        assert_eq!(tensor.chunk_range(ChunkIndex(3)), None);
        assert_eq!(spec("t", "U8", &[0]).chunk_range(ChunkIndex(0)), None);
        // Beyond 4 GiB, which no 32-bit position reaches.
        let large = spec("t", "BF16", &[5_000_000_000]);
        let (chunk, start) =
            (large.chunk_count() - 1, u64::from(large.chunk_count() - 1) * CHUNK_BYTES as u64);
        assert!(start > 1 << 33);
        assert_eq!(large.chunk_range(ChunkIndex(chunk)), Some(start..10_000_000_000));
    }
}
