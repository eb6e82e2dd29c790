//! Sections 2 and 3: schemas, layouts, dtypes.

use crate::input::{Code, Input, Result, refuse};

pub(crate) const CHUNK: u64 = 1_048_576;

/// Section 11: what a reader should accept at least is all that this one accepts.
pub(crate) const MOST_TENSORS: u64 = 1_048_576;
const MOST_STATE: u64 = 64 << 40;

/// Section 2.2: of a file. Section 11: of an index.
const MOST_HEADER: u64 = 100_000_008;

/// One tensor of a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Its dtype, as safetensors files spell it.
    pub dtype: String,
    /// Its shape; empty for a scalar.
    pub shape: Vec<u64>,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Section 4: how the bytes of a chunk are hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeafHash {
    /// XXH3-128
    Xxh3,
    /// BLAKE3
    Blake3,
}

/// One tensor of a schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spec {
    pub(crate) name: String,
    pub(crate) dtype: String,
    pub(crate) shape: Vec<u64>,
    pub(crate) byte_len: u64,
}

impl Spec {
    pub(crate) fn of(tensor: &Tensor) -> Self {
        let Tensor { name, dtype, shape, bytes } = tensor;
        let byte_len = bytes.len() as u64;
        Self { name: name.clone(), dtype: dtype.clone(), shape: shape.clone(), byte_len }
    }

    pub(crate) fn chunk_count(&self) -> u64 {
        self.byte_len.div_ceil(CHUNK)
    }

    /// The length of a chunk that the tensor has.
    pub(crate) fn chunk_len(&self, chunk: u64) -> u64 {
        self.byte_len.saturating_sub(chunk.saturating_mul(CHUNK)).min(CHUNK)
    }
}

/// Section 3: the bits of an element, for the dtypes that the table names.
fn bits(dtype: &str) -> Option<u64> {
    Some(match dtype {
        "BF16" | "F16" | "I16" | "U16" => 16,
        "F32" | "I32" | "U32" => 32,
        "F8_E4M3" | "F8_E4M3FNUZ" | "F8_E5M2" | "F8_E5M2FNUZ" | "BOOL" | "U8" | "I8" | "F8_E8M0" => 8,
        "F64" | "I64" | "U64" | "C64" => 64,
        "F4" => 4,
        "F6_E2M3" | "F6_E3M2" => 6,
        _ => return None,
    })
}

/// Section 3: what the chunk encodings see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Bf16,
    F16,
    F32,
    E4m3,
    E5m2,
    W8,
    W16,
    W32,
    W64,
}

impl Format {
    pub(crate) fn of(dtype: &str) -> Self {
        match dtype {
            "BF16" => Self::Bf16,
            "F16" => Self::F16,
            "F32" => Self::F32,
            "F8_E4M3" | "F8_E4M3FNUZ" => Self::E4m3,
            "F8_E5M2" | "F8_E5M2FNUZ" => Self::E5m2,
            "I16" | "U16" => Self::W16,
            "I32" | "U32" => Self::W32,
            "F64" | "I64" | "U64" | "C64" => Self::W64,
            _ => Self::W8,
        }
    }

    /// The bytes of an element.
    pub(crate) fn width(self) -> usize {
        match self {
            Self::E4m3 | Self::E5m2 | Self::W8 => 1,
            Self::Bf16 | Self::F16 | Self::W16 => 2,
            Self::F32 | Self::W32 => 4,
            Self::W64 => 8,
        }
    }
}

/// Section 2.1: the canonical bytes of a schema.
pub(crate) fn schema_bytes(specs: &[Spec]) -> Vec<u8> {
    let mut out = (specs.len() as u64).to_le_bytes().to_vec();
    for Spec { name, dtype, shape, byte_len } in specs {
        out.extend(u32_len(name.len()));
        out.extend(name.as_bytes());
        out.extend(u32_len(dtype.len()));
        out.extend(dtype.as_bytes());
        out.extend(u32_len(shape.len()));
        for dim in shape {
            out.extend(dim.to_le_bytes());
        }
        out.extend(byte_len.to_le_bytes());
    }
    out
}

/// Names, dtypes and ranks are far shorter than this could cut off; longer ones would only change a digest.
fn u32_len(len: usize) -> [u8; 4] {
    u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes()
}

/// Section 2.1: reads the canonical bytes of a schema.
pub(crate) fn parse_schema(mut input: Input<'_>) -> Result<Vec<Spec>> {
    let start = input.at();
    let count = input.u64()?;
    if count > MOST_TENSORS {
        return refuse(Code::Limit, start, "more tensors than this reader takes");
    }
    if count > input.left() / 22 {
        return refuse(Code::Invalid, start, "more tensors than there is room for");
    }
    let mut specs: Vec<Spec> = Vec::new();
    let mut total = 0_u64;
    for _ in 0..count {
        let tensor_at = input.at();
        let name_len = input.u32()?;
        if name_len == 0 || name_len > 65_535 {
            return refuse(Code::Invalid, tensor_at, "a name has 1 to 65535 bytes");
        }
        let name = text(input.take(name_len.into())?, tensor_at)?;
        let dtype_at = input.at();
        let dtype_len = input.u32()?;
        if dtype_len == 0 || dtype_len > 32 {
            return refuse(Code::Invalid, dtype_at, "a dtype has 1 to 32 bytes");
        }
        let dtype = text(input.take(dtype_len.into())?, dtype_at)?;
        if !dtype.bytes().all(|byte| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_')) {
            return refuse(Code::Invalid, dtype_at, "a dtype is made of A-Z, 0-9 and _");
        }
        let rank_at = input.at();
        let rank = input.u32()?;
        if rank > 64 {
            return refuse(Code::Invalid, rank_at, "a rank is at most 64");
        }
        let mut shape = Vec::new();
        for _ in 0..rank {
            shape.push(input.u64()?);
        }
        let byte_len = input.u64()?;
        let spec = Spec { name, dtype, shape, byte_len };
        if !size_is_right(&spec) {
            return refuse(Code::Invalid, tensor_at, "the byte length is not that of the shape");
        }
        if spec.chunk_count() > u64::from(u32::MAX) {
            return refuse(Code::Invalid, tensor_at, "a tensor has too many chunks");
        }
        if specs.last().is_some_and(|last| last.name.as_bytes() >= spec.name.as_bytes()) {
            return refuse(Code::Invalid, tensor_at, "the names are not strictly ascending");
        }
        total = match total.checked_add(byte_len) {
            Some(total) if total <= u64::MAX >> 1 => total,
            _ => return refuse(Code::Invalid, start, "all tensors together are too large"),
        };
        specs.push(spec);
    }
    input.end()?;
    if total > MOST_STATE {
        return refuse(Code::Limit, start, "more bytes of tensors than this reader takes");
    }
    Ok(specs)
}

fn text(bytes: &[u8], at: u64) -> Result<String> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => refuse(Code::Invalid, at, "a string is not UTF-8"),
    }
}

/// Section 2.1: whether `byte_len` is what dtype and shape ask for.
fn size_is_right(spec: &Spec) -> bool {
    let Some(bits) = bits(&spec.dtype) else {
        return true;
    };
    let elements = if spec.shape.contains(&0) {
        Some(0)
    } else {
        spec.shape.iter().try_fold(1_u64, |product, dim| product.checked_mul(*dim))
    };
    // 2^64 elements of 64 bits fit 128 bits.
    let total = elements.and_then(|elements| u128::from(elements).checked_mul(bits.into()));
    total == u128::from(spec.byte_len).checked_mul(8)
}

/// Section 2.2: checks the canonical bytes of a layout.
pub(crate) fn check_layout(mut input: Input<'_>) -> Result<()> {
    let start = input.at();
    let count = input.u32()?;
    if count == 0 {
        return refuse(Code::Invalid, start, "a layout has at least one file");
    }
    if u64::from(count) > input.left() / 13 {
        return refuse(Code::Invalid, start, "more files than there is room for");
    }
    let mut last: Option<String> = None;
    for _ in 0..count {
        let file_at = input.at();
        let name_len = input.u32()?;
        if name_len == 0 || name_len > 255 {
            return refuse(Code::Invalid, file_at, "a file name has 1 to 255 bytes");
        }
        let name = text(input.take(name_len.into())?, file_at)?;
        let is_plain = !name.chars().any(|c| c == '/' || c == '\\' || c.is_control())
            && !name.starts_with('.')
            && name.ends_with(".safetensors");
        if !is_plain {
            return refuse(Code::Invalid, file_at, "not a plain file name");
        }
        if last.is_some_and(|last| last.as_bytes() >= name.as_bytes()) {
            return refuse(Code::Invalid, file_at, "the file names are not strictly ascending");
        }
        last = Some(name);
        let header_at = input.at();
        let header_len = input.u64()?;
        if header_len > MOST_HEADER {
            return refuse(Code::Invalid, header_at, "a header has at most 100000008 bytes");
        }
        input.take(header_len)?;
    }
    let has_index_at = input.at();
    match input.u8()? {
        0 => {}
        1 => {
            let index_at = input.at();
            let index_len = input.u64()?;
            if index_len > MOST_HEADER {
                return refuse(Code::Limit, index_at, "a longer index than this reader takes");
            }
            input.take(index_len)?;
        }
        _ => return refuse(Code::Invalid, has_index_at, "has_index is 0 or 1"),
    }
    input.end()
}
