//! The index-delta directory: slime, miles, SGLang's `/pull_weights`, ModelExpress.
//!
//! A version is a directory with `model.safetensors.index.json` and safetensors files in which each changed
//! tensor is one zstd frame: the XOR with the old bytes, or the bytes that changed with their positions.
//! `__metadata__` of each file has the checksums of the new tensors. Tensors that do not change are nowhere,
//! so that nothing here tells whether the base is the right one.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;
use tensorpatch_format::{LimitKind, Limits, TensorSpec};

use crate::json::{self, UniqueMap};
use crate::safetensors::File;
use crate::tensor_delta::xor;
use crate::{ChecksumKind, Fault, Operation, Places, TensorDelta, Violation, frame, positions};

/// How a tensor's change is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DeltaEncoding {
    /// The XOR of old and new bytes, as long as the tensor.
    #[default]
    Xor,
    /// The bytes that changed and their positions, below 2^32.
    Overwrite,
}

impl DeltaEncoding {
    /// The name in an index.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Xor => "xor",
            Self::Overwrite => "overwrite",
        }
    }
}

/// The most bytes of a tensor whose every byte has a position.
pub const OVERWRITE_BYTES: u64 = 1 << 32;

/// Who is to read an index, as far as it shows in the bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Dialect {
    /// slime, miles, SGLang, vime: versions are numbers of six digits.
    #[default]
    Numbered,
    /// ModelExpress: versions are opaque.
    ModelExpress,
}

/// What the index of a version says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// The version.
    pub version: String,
    /// The version that it is a delta from.
    pub base_version: String,
    /// How changes are written.
    pub encoding: DeltaEncoding,
    /// The kind of the checksums.
    pub checksum: ChecksumKind,
    /// The file of each changed tensor.
    pub weight_map: BTreeMap<String, String>,
}

/// What an index is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IndexKind {
    /// A full checkpoint, with checksums of its tensors if a kind is given.
    Full(Option<ChecksumKind>),
    /// A delta.
    Delta(Index),
}

#[derive(Deserialize)]
struct RawIndex {
    metadata: Option<UniqueMap<Value>>,
    weight_map: UniqueMap<String>,
}

impl Index {
    /// Reads `model.safetensors.index.json`.
    ///
    /// # Errors
    /// If the JSON is broken or has a key twice, the index says that it is of a delta but not of which kind,
    /// a kind is not known, or it asks for more than `limits` allow.
    pub fn parse(json: &[u8], limits: &Limits) -> Result<IndexKind, Fault> {
        let raw: RawIndex = json::parse(json, limits)?;
        let metadata = raw.metadata.map(|metadata| metadata.0).unwrap_or_default();
        let checksum = match metadata.get("checksum_format") {
            None => None,
            Some(found) => Some(checksum_kind(found)?),
        };
        if !["delta_encoding", "base_version", "compression_format"]
            .iter()
            .any(|key| metadata.contains_key(*key))
        {
            return Ok(IndexKind::Full(checksum));
        }
        let text = |key: &'static str| match metadata.get(key) {
            Some(Value::String(text)) if !text.is_empty() => Ok(text.as_str()),
            Some(other) => Err(Violation::differs(key, "a text", other)),
            None => Err(Violation::Missing(key)),
        };
        let encoding = match text("delta_encoding")? {
            "xor" => DeltaEncoding::Xor,
            "overwrite" => DeltaEncoding::Overwrite,
            other => return Err(Violation::differs("delta_encoding", "xor or overwrite", other).into()),
        };
        let compression = text("compression_format")?;
        if compression != "zstd" {
            return Err(Violation::differs("compression_format", "zstd", compression).into());
        }
        let checksum = checksum.ok_or(Violation::Missing("checksum_format"))?;
        let (version, base_version) = (text("version")?.to_owned(), text("base_version")?.to_owned());
        let index = Self { version, base_version, encoding, checksum, weight_map: raw.weight_map.0 };
        Violation::limit(LimitKind::Tensors, index.weight_map.len() as u64, limits.tensors)?;
        Violation::limit(LimitKind::Files, index.files().len() as u64, limits.files)?;
        for (tensor, file) in &index.weight_map {
            if !is_file_name(file) {
                let violation = Violation::differs("file", "a plain name that ends in .safetensors", file);
                return Err(violation.of(tensor));
            }
        }
        Ok(IndexKind::Delta(index))
    }

    /// The files, in ascending order of their names.
    pub fn files(&self) -> BTreeSet<&str> {
        self.weight_map.values().map(String::as_str).collect()
    }

    /// The bytes of the index, as the programs of `dialect` write them.
    pub fn to_json(&self, dialect: Dialect) -> Vec<u8> {
        let text = |text: &str| Value::from(text).to_string();
        let fields = [
            ("version", text(&self.version)),
            ("base_version", text(&self.base_version)),
            ("delta_encoding", text(self.encoding.name())),
            ("compression_format", text("zstd")),
            ("checksum_format", text(self.checksum.name())),
        ];
        let weights = self.weight_map.iter().map(|(tensor, file)| (tensor.as_str(), text(file)));
        match dialect {
            Dialect::Numbered => {
                let metadata = object(fields, ", ", ": ");
                object([("metadata", metadata), ("weight_map", object(weights, ", ", ": "))], ", ", ": ")
            }
            Dialect::ModelExpress => {
                let metadata = object(BTreeMap::from(fields), ",", ":");
                object([("metadata", metadata), ("weight_map", object(weights, ",", ":"))], ",", ":")
            }
        }
        .into_bytes()
    }
}

fn checksum_kind(found: &Value) -> Result<ChecksumKind, Violation> {
    found
        .as_str()
        .and_then(ChecksumKind::from_name)
        // No index has it; in SkyRL's manifests it stands.
        .filter(|kind| *kind != ChecksumKind::Sha256)
        .ok_or_else(|| Violation::differs("checksum_format", "adler32, xxh3-128 or blake3", found))
}

fn object<'a>(fields: impl IntoIterator<Item = (&'a str, String)>, comma: &str, colon: &str) -> String {
    let fields = fields.into_iter().map(|(key, value)| format!("{}{colon}{value}", Value::from(key)));
    format!("{{{}}}", fields.collect::<Vec<_>>().join(comma))
}

/// A name that stays in its directory.
pub(crate) fn is_file_name(name: &str) -> bool {
    let file = tensorpatch_format::FileLayout { name: name.to_owned(), header: Vec::new() };
    tensorpatch_format::Layout::new(vec![file], None).is_ok()
}

/// A version, its files checked against its index.
#[derive(Debug)]
pub struct IndexDelta<'a> {
    index: Index,
    tensors: BTreeMap<String, Compressed<'a>>,
}

#[derive(Debug)]
struct Compressed<'a> {
    file: String,
    frame: &'a [u8],
    checksum: String,
}

impl<'a> IndexDelta<'a> {
    /// Reads the files of `index`, each with its name.
    ///
    /// # Errors
    /// If a file is none that the index names or holds other tensors than the index says, a tensor is not a
    /// row of bytes or has no checksum, or a header breaks a rule or asks for more than `limits` allow.
    pub fn parse(index: Index, files: &[(&str, &'a [u8])], limits: &Limits) -> Result<Self, Fault> {
        let mut delta = Self { index, tensors: BTreeMap::new() };
        for (name, bytes) in files {
            delta.add(name, bytes, limits).map_err(|fault| fault.in_file(name))?;
        }
        match delta.index.weight_map.keys().find(|tensor| !delta.tensors.contains_key(*tensor)) {
            Some(tensor) => {
                let file = delta.index.weight_map.get(tensor).map_or("", String::as_str);
                Err(Violation::Missing("the tensor").of(tensor).in_file(file))
            }
            None => Ok(delta),
        }
    }

    fn add(&mut self, name: &str, bytes: &'a [u8], limits: &Limits) -> Result<(), Fault> {
        let file = File::parse(bytes, limits)?;
        let checksums = file.metadata()?;
        for (spec, frame) in file.tensors() {
            let refuse = |violation: Violation| violation.of(&spec.name);
            match self.index.weight_map.get(&spec.name) {
                Some(listed) if listed == name => {}
                listed => {
                    let found = listed.map_or("no file", String::as_str);
                    return Err(refuse(Violation::differs("the index's file of the tensor", name, found)));
                }
            }
            check_bytes(spec).map_err(refuse)?;
            let checksum =
                checksums.get(&spec.name).ok_or_else(|| refuse(Violation::Missing("the checksum")))?;
            let compressed = Compressed { file: name.to_owned(), frame, checksum: checksum.clone() };
            self.tensors.insert(spec.name.clone(), compressed);
        }
        match checksums
            .keys()
            .find(|tensor| self.index.weight_map.get(*tensor).is_none_or(|file| file != name))
        {
            Some(tensor) => Err(Violation::Missing("the tensor of a checksum").of(tensor)),
            None => Ok(()),
        }
    }

    /// What the index says.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The tensors that change.
    pub fn tensors(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The change of a tensor of the base, or `None` if it keeps its bytes.
    ///
    /// # Errors
    /// If it is not one zstd frame that states a size possible for the tensor, or does not hold what its
    /// encoding says.
    pub fn decode(&self, spec: &TensorSpec) -> Result<Option<TensorDelta<'_>>, Fault> {
        let Some(Compressed { file, frame, checksum }) = self.tensors.get(&spec.name) else {
            return Ok(None);
        };
        let delta = match self.index.encoding {
            DeltaEncoding::Xor => frame::unpack(frame, spec.byte_len).map(whole_xor),
            DeltaEncoding::Overwrite => overwritten(frame, spec.byte_len),
        };
        let delta = delta.map_err(|violation| violation.of(&spec.name).in_file(file))?;
        let checksum = Some((self.index.checksum, Cow::Borrowed(checksum.as_str())));
        Ok(Some(TensorDelta { checksum, ..delta }))
    }

    /// The file that a change stands in.
    pub(crate) fn file_of(&self, tensor: &str) -> &str {
        self.tensors.get(tensor).map_or("", |compressed| &compressed.file)
    }
}

/// Says that what is called a tensor is a row of bytes.
pub(crate) fn check_bytes(spec: &TensorSpec) -> Result<(), Violation> {
    if spec.dtype.as_str() == "U8" && spec.shape.len() == 1 {
        return Ok(());
    }
    Err(Violation::differs("dtype and shape", "U8 [bytes]", format_args!("{} {:?}", spec.dtype, spec.shape)))
}

pub(crate) fn whole_xor<'a>(values: Vec<u8>) -> TensorDelta<'a> {
    TensorDelta { operation: Operation::Xor, places: Places::All, values: values.into(), checksum: None }
}

fn overwritten<'a>(frame: &[u8], byte_len: u64) -> Result<TensorDelta<'a>, Violation> {
    if byte_len > OVERWRITE_BYTES {
        return Err(Violation::PositionsWrap(byte_len));
    }
    let size = frame::content_size(frame)?;
    let count = size.checked_sub(4).filter(|rest| rest % 5 == 0).map(|rest| rest / 5);
    let Some(count) = count.filter(|count| *count <= byte_len) else {
        let expected = format_args!("4 and 5 for each of at most {byte_len}");
        return Err(Violation::differs("bytes in the frame", expected, size));
    };
    let mut content = frame::unpack(frame, size)?;
    // Below 4 + 4 × 2^32, and so is what the frame has been found to hold.
    let head = usize::try_from(count).unwrap_or(usize::MAX).saturating_mul(4).saturating_add(4);
    let values = content.split_off(head.min(content.len()));
    let (declared, listed) = content.split_first_chunk::<4>().ok_or(Violation::Missing("the count"))?;
    let declared = u64::from(u32::from_le_bytes(*declared));
    if declared != count {
        return Err(Violation::differs("count", count, declared));
    }
    let positions = positions::unsigned(listed, 4, byte_len)?;
    let places = Places::At { width: 1, positions };
    Ok(TensorDelta { operation: Operation::Overwrite, places, values: values.into(), checksum: None })
}

/// The frame that says how `base` becomes `target`, which is as long and, for [`DeltaEncoding::Overwrite`],
/// not longer than [`OVERWRITE_BYTES`].
///
/// # Errors
/// If the compression fails.
pub fn encode(encoding: DeltaEncoding, base: &[u8], target: &[u8]) -> std::io::Result<Vec<u8>> {
    frame::pack(&match encoding {
        DeltaEncoding::Xor => {
            let mut bytes = target.to_vec();
            xor(&mut bytes, base);
            bytes
        }
        DeltaEncoding::Overwrite => {
            let delta = TensorDelta::between(base, target, 1);
            let positions = delta.positions().unwrap_or_default();
            let mut bytes = positions::to_u32(&[positions.len() as u64]);
            bytes.extend(positions::to_u32(positions));
            bytes.extend_from_slice(&delta.values);
            bytes
        }
    })
}

/// The most bytes that [`encode`] gives for a tensor of `byte_len`.
pub(crate) fn most_encoded(encoding: DeltaEncoding, byte_len: u64) -> usize {
    let len = usize::try_from(byte_len).unwrap_or(usize::MAX);
    frame::bound(match encoding {
        DeltaEncoding::Xor => len,
        DeltaEncoding::Overwrite => len.saturating_mul(5).saturating_add(4),
    })
}
