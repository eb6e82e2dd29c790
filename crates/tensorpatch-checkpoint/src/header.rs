//! Strict reading of a safetensors header.
//!
//! It reads what the `safetensors` crate reads, and beyond that headers with dtypes of tomorrow, for it must
//! carry any checkpoint without loss. What it refuses and the crate does not:
//!
//! * a tensor name or a key of `__metadata__` that occurs twice: the crate lets the last one win;
//! * an entry that is a list of its fields instead of an object, or a dtype that is an object instead of a
//!   string;
//! * more than 64 dims, and names over 65535 bytes.
//!
//! One thing it reads and the crate does not: a shape with a zero whose other dims overflow.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use serde_json::Number;
use tensorpatch_format::{Dtype, LimitKind, Limits, SchemaError, TensorSpec};

use crate::error::short;
use crate::raw_header::{KEPT_DIMS, RawHeader, RawTensor};

/// The hard limit of safetensors on the JSON, padding included.
const MAX_JSON_BYTES: u64 = 100_000_000;
const LENGTH_BYTES: u64 = 8;

/// What the header of a safetensors file says: its tensors, and where in the file their bytes lie.
///
/// Checked: whoever holds one may rely on the ranges being in order, without hole or overlap, from the end of
/// the header to [`SafetensorsHeader::file_len`].
///
/// ```
/// use tensorpatch_checkpoint::SafetensorsHeader;
/// use tensorpatch_format::Limits;
///
/// let json = br#"{"scale":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}"#;
/// let mut file = (json.len() as u64).to_le_bytes().to_vec();
/// file.extend_from_slice(json);
/// let header = SafetensorsHeader::parse(&file, &Limits::default())?;
/// assert_eq!(header.tensors()[0].0.name, "scale");
/// assert_eq!(header.file_len(), file.len() as u64 + 4);
/// # Ok::<(), tensorpatch_checkpoint::HeaderError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SafetensorsHeader {
    len: u64,
    file_len: u64,
    tensors: Vec<(TensorSpec, Range<u64>)>,
    metadata: Option<BTreeMap<String, String>>,
}

/// A broken rule of a header, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{violation} ({place})")]
pub struct HeaderError {
    /// The rule.
    pub violation: HeaderViolation,
    /// Where it is broken.
    pub place: HeaderPlace,
}

/// Where a header breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeaderPlace {
    /// At this byte of the file.
    Offset(u64),
    /// In the entry of this tensor; very long names are cut.
    Tensor(String),
}

/// What is wrong with a header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderViolation {
    /// The bytes end before the header does.
    #[error("truncated header: expected {expected} bytes, found {found}")]
    Truncated {
        /// Bytes that the header needs.
        expected: u64,
        /// Bytes that are there.
        found: u64,
    },
    /// The declared length is over the hard limit of safetensors.
    #[error(
        "the header claims {found} bytes: at most 100000000 are allowed; this may be no safetensors file"
    )]
    TooLong {
        /// The declared length.
        found: u64,
    },
    /// More than the caller allows.
    #[error("{kind} is {value}, over the limit of {limit}")]
    Limit {
        /// Which limit.
        kind: LimitKind,
        /// The value found.
        value: u64,
        /// The limit in force.
        limit: u64,
    },
    /// The header does not begin with `{`, after white space at most.
    #[error("the header does not begin with an opening brace; this may be no safetensors file")]
    NotAnObject,
    /// Broken JSON, or a field that is missing, doubled or of another type.
    #[error("broken header: {0}")]
    Json(String),
    /// The same tensor name twice.
    #[error("the tensor occurs twice")]
    Duplicate,
    /// A dim or offset that is negative, no integer, or not below 2^64.
    #[error("{field} has {found}: expected an integer from 0 to 2^64 - 1")]
    NotAnInteger {
        /// `shape` or `data_offsets`.
        field: &'static str,
        /// The number found.
        found: String,
    },
    /// A dtype that could not be one of any version.
    #[error("{0:?} is no dtype: expected 1 to 32 of A-Z, 0-9 and _")]
    Dtype(String),
    /// The first offset is after the second.
    #[error("data_offsets begin at {begin} and end before, at {end}")]
    Reversed {
        /// The first offset.
        begin: u64,
        /// The second offset.
        end: u64,
    },
    /// Bytes that belong to no tensor.
    #[error("hole in the data: expected the next tensor at {expected}, found it at {found}")]
    Hole {
        /// The end of the tensor before.
        expected: u64,
        /// Where the tensor begins.
        found: u64,
    },
    /// Bytes that belong to two tensors.
    #[error("overlapping tensors: expected the next tensor at {expected}, found it at {found}")]
    Overlap {
        /// The end of the tensor before.
        expected: u64,
        /// Where the tensor begins.
        found: u64,
    },
    /// The tensors end beyond 2^63 bytes.
    #[error("the data would have {0} bytes, more than a file can have")]
    TooLarge(u64),
    /// A tensor that no schema admits.
    #[error(transparent)]
    Tensor(SchemaError),
    /// Bytes after the header where there may be none.
    #[error("expected a header of {expected} bytes, found {found}")]
    TrailingBytes {
        /// Bytes that the header has by its length field.
        expected: u64,
        /// Bytes that are there.
        found: u64,
    },
    /// The file is shorter or longer than the header says.
    #[error("the header describes a file of {expected} bytes, found {found}")]
    FileLength {
        /// Bytes that the file should have.
        expected: u64,
        /// Bytes that it has.
        found: u64,
    },
}

impl SafetensorsHeader {
    /// Reads the header at the start of `bytes`; what follows the header is not looked at.
    ///
    /// # Errors
    /// If `bytes` do not start with a whole header, the header breaks a rule, or it asks for more than
    /// `limits` allow. Never panics, whatever the bytes.
    pub fn parse(bytes: &[u8], limits: &Limits) -> Result<Self, HeaderError> {
        let found = bytes.len() as u64;
        let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
            return Err(at(0, HeaderViolation::Truncated { expected: LENGTH_BYTES, found }));
        };
        let json_len = u64::from_le_bytes(*length);
        if json_len > MAX_JSON_BYTES {
            return Err(at(0, HeaderViolation::TooLong { found: json_len }));
        }
        let len = LENGTH_BYTES.saturating_add(json_len);
        check_limit(len, limits.header_bytes, LimitKind::HeaderBytes)?;
        let Some(json) = usize::try_from(json_len).ok().and_then(|json_len| rest.get(..json_len)) else {
            return Err(at(0, HeaderViolation::Truncated { expected: len, found }));
        };
        if json.trim_ascii_start().first() != Some(&b'{') {
            return Err(at(LENGTH_BYTES, HeaderViolation::NotAnObject));
        }
        let raw = RawHeader::parse(json, limits.tensors).map_err(|(offset, message)| {
            at(LENGTH_BYTES.saturating_add(offset), HeaderViolation::Json(message))
        })?;
        check_limit(raw.tensor_count, limits.tensors, LimitKind::Tensors)?;
        Self::check(raw, len, limits)
    }

    fn check(mut raw: RawHeader, len: u64, limits: &Limits) -> Result<Self, HeaderError> {
        raw.tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
        for pair in raw.tensors.windows(2) {
            if let [(a, _), (b, _)] = pair
                && a == b
            {
                return Err(in_tensor(a, HeaderViolation::Duplicate));
            }
        }
        let tensors = raw.tensors.into_iter().map(|(name, raw)| check_tensor(name, raw));
        let mut tensors = tensors.collect::<Result<Vec<_>, _>>()?;
        // An empty tensor shares its offset with the next one: the end decides then.
        tensors.sort_by_key(|(_, range)| (range.start, range.end));
        let mut expected = 0;
        for (spec, range) in &tensors {
            let found = range.start;
            if found > expected {
                return Err(in_tensor(&spec.name, HeaderViolation::Hole { expected, found }));
            }
            if found < expected {
                return Err(in_tensor(&spec.name, HeaderViolation::Overlap { expected, found }));
            }
            expected = range.end;
        }
        check_limit(expected, limits.state_bytes, LimitKind::StateBytes)?;
        let file_len = len
            .checked_add(expected)
            .filter(|total| i64::try_from(*total).is_ok())
            .ok_or_else(|| at(LENGTH_BYTES, HeaderViolation::TooLarge(expected)))?;
        for (_, range) in &mut tensors {
            // No end is after `expected`, for which the sum has just been checked.
            *range = range.start.saturating_add(len)..range.end.saturating_add(len);
        }
        Ok(Self { len, file_len, tensors, metadata: raw.metadata })
    }

    /// Bytes of the header in the file: the 8-byte length and the JSON with its padding.
    pub fn header_len(&self) -> u64 {
        self.len
    }

    /// Bytes that the whole file must have.
    pub fn file_len(&self) -> u64 {
        self.file_len
    }

    /// The tensors and the range of bytes of the file that each has, in the order of the file.
    pub fn tensors(&self) -> &[(TensorSpec, Range<u64>)] {
        &self.tensors
    }

    /// What stands under `__metadata__`, if anything.
    pub fn metadata(&self) -> Option<&BTreeMap<String, String>> {
        self.metadata.as_ref()
    }

    /// Says that a file of `found` bytes is as long as the header wants it.
    ///
    /// # Errors
    /// [`HeaderViolation::FileLength`] if it is not.
    pub fn check_file_len(&self, found: u64) -> Result<(), HeaderError> {
        check_file_len(self.file_len, found)
    }
}

/// Says that a file of `found` bytes has the `expected` bytes.
pub(crate) fn check_file_len(expected: u64, found: u64) -> Result<(), HeaderError> {
    if found == expected {
        return Ok(());
    }
    Err(at(found.min(expected), HeaderViolation::FileLength { expected, found }))
}

impl fmt::Display for HeaderPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Offset(offset) => write!(f, "at offset {offset}"),
            Self::Tensor(name) => write!(f, "tensor {name:?}"),
        }
    }
}

fn at(offset: u64, violation: HeaderViolation) -> HeaderError {
    HeaderError { violation, place: HeaderPlace::Offset(offset) }
}

fn in_tensor(name: &str, violation: HeaderViolation) -> HeaderError {
    HeaderError { violation, place: HeaderPlace::Tensor(short(name)) }
}

fn check_limit(value: u64, limit: u64, kind: LimitKind) -> Result<(), HeaderError> {
    if value > limit {
        return Err(at(0, HeaderViolation::Limit { kind, value, limit }));
    }
    Ok(())
}

fn check_tensor(name: String, raw: RawTensor) -> Result<(TensorSpec, Range<u64>), HeaderError> {
    let integer = |field: &'static str, number: &Number| {
        number.as_u64().ok_or_else(|| {
            in_tensor(&name, HeaderViolation::NotAnInteger { field, found: short(&number.to_string()) })
        })
    };
    if raw.shape.rank >= KEPT_DIMS {
        let rank = raw.shape.rank;
        return Err(in_tensor(
            &name,
            HeaderViolation::Tensor(SchemaError::Rank { name: short(&name), rank }),
        ));
    }
    let shape =
        raw.shape.dims.iter().map(|dim| integer("shape", dim)).collect::<Result<Vec<_>, HeaderError>>()?;
    let [begin, end] = &raw.data_offsets;
    let (begin, end) = (integer("data_offsets", begin)?, integer("data_offsets", end)?);
    let Some(byte_len) = end.checked_sub(begin) else {
        return Err(in_tensor(&name, HeaderViolation::Reversed { begin, end }));
    };
    let Some(dtype) = Dtype::new(&raw.dtype) else {
        return Err(in_tensor(&name, HeaderViolation::Dtype(short(&raw.dtype))));
    };
    let spec = TensorSpec { name, dtype, shape, byte_len };
    spec.check().map_err(|error| in_tensor(&spec.name, HeaderViolation::Tensor(error)))?;
    Ok((spec, begin..end))
}
