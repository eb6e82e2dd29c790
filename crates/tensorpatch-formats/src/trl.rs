//! TRL's sparse safetensors in three flavours: anchors with all tensors, deltas with positions and bf16
//! values.
//!
//! Only bf16 is possible, and a tensor has at most 2^31 elements. The first flavour has a SHA-256 of the
//! whole state; the others have none, and do not name their base. TRL finds changes by comparing numbers, so
//! that its own files lack a change of +0.0 to -0.0; files written here have it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use tensorpatch_format::{Limits, TensorSpec};

use crate::safetensors::File;
use crate::{Fault, Operation, Places, TensorDelta, Violation, json, positions};

/// A flavour of these files, named by when TRL had it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// The first: `.indices` and `.values`, a checksum of the state, the version before.
    A,
    /// The second: as the first, without checksum and without the version before.
    B,
    /// The third, with positions in four bytes each: `.idx` and `.val`.
    CRaw,
    /// The third, with gaps between positions in two bytes each, or four.
    CGaps,
}

impl Flavour {
    /// What a delta's positions are called.
    pub(crate) const fn index_suffix(self) -> &'static str {
        match self {
            Self::A | Self::B => ".indices",
            Self::CRaw | Self::CGaps => ".idx",
        }
    }

    /// What a delta's values are called.
    pub(crate) const fn value_suffix(self) -> &'static str {
        match self {
            Self::A | Self::B => ".values",
            Self::CRaw | Self::CGaps => ".val",
        }
    }

    /// The `encoding` in the metadata.
    pub(crate) const fn encoding(self) -> Option<&'static str> {
        match self {
            Self::A | Self::B => None,
            Self::CRaw => Some("raw"),
            Self::CGaps => Some("gap_delta"),
        }
    }
}

/// The tensor in a delta of flavour A in which nothing changes.
pub(crate) const EMPTY: &str = "__empty_delta__";
/// The most elements of a tensor whose every element has a position.
pub const ELEMENTS: u64 = 1 << 31;

/// What a file is.
#[derive(Debug)]
pub enum Patch<'a> {
    /// All tensors of a version, in a file that is a checkpoint too.
    Anchor(Anchor),
    /// What changes.
    Delta(Box<Delta<'a>>),
}

/// What the metadata of an anchor say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anchor {
    /// The version.
    pub model_version: u64,
    /// SHA-256 over the bytes of all tensors in ascending order of their names.
    pub checksum: Option<String>,
}

/// A delta, its parts checked against each other.
#[derive(Debug)]
pub struct Delta<'a> {
    /// The flavour.
    pub flavour: Flavour,
    /// The version.
    pub model_version: u64,
    /// The version that it is a delta from, if the file says.
    pub base_version: Option<u64>,
    /// SHA-256 over the bytes of all tensors of the new version in ascending order of their names.
    pub checksum: Option<String>,
    tensors: BTreeMap<String, Sparse<'a>>,
}

#[derive(Debug, Clone, Default)]
struct Sparse<'a> {
    indices: Option<(TensorSpec, &'a [u8])>,
    values: Option<(TensorSpec, &'a [u8])>,
}

/// Whether `metadata` of a safetensors file is that of one of these files.
pub(crate) fn is_patch(metadata: &BTreeMap<String, String>) -> bool {
    matches!(metadata.get("format").map(String::as_str), Some("sparse_weight_patch" | "anchor_checkpoint"))
}

impl<'a> Patch<'a> {
    /// Reads a file.
    ///
    /// # Errors
    /// If the header or a field breaks a rule, positions and values do not pair, counts disagree, or the file
    /// asks for more than `limits` allow.
    pub fn parse(bytes: &'a [u8], limits: &Limits) -> Result<Self, Fault> {
        let file = File::parse(bytes, limits)?;
        let metadata = file.metadata()?;
        let text = |key: &'static str| metadata.get(key).map(String::as_str).ok_or(Violation::Missing(key));
        let number = |key: &'static str| {
            let text = text(key)?;
            text.parse::<u64>().map_err(|_| Violation::differs(key, "a number", text))
        };
        let version = text("version")?;
        if version != "1" {
            return Err(Violation::differs("version", "1", version).into());
        }
        let model_version = number("model_version")?;
        let checksum = metadata.get("checksum_sha256").cloned();
        let sparse = match (text("format")?, metadata.get("sparse").map(String::as_str)) {
            ("anchor_checkpoint", _) | ("sparse_weight_patch", Some("False")) => false,
            ("sparse_weight_patch", None | Some("True")) => true,
            ("sparse_weight_patch", Some(other)) => {
                return Err(Violation::differs("sparse", "True or False", other).into());
            }
            (other, _) => {
                return Err(
                    Violation::differs("format", "sparse_weight_patch or anchor_checkpoint", other).into()
                );
            }
        };
        if !sparse {
            return Ok(Self::Anchor(Anchor { model_version, checksum }));
        }
        let flavour = match (metadata.get("encoding").map(String::as_str), &checksum) {
            (Some("raw"), _) => Flavour::CRaw,
            (Some("gap_delta"), _) => Flavour::CGaps,
            (Some(other), _) => return Err(Violation::differs("encoding", "raw or gap_delta", other).into()),
            (None, Some(_)) => Flavour::A,
            (None, None) => Flavour::B,
        };
        let base_version = metadata.contains_key("prev_model_version").then(|| number("prev_model_version"));
        let base_version = base_version.transpose()?;
        let mut delta = Delta { flavour, model_version, base_version, checksum, tensors: BTreeMap::new() };
        let empty = delta.collect(&file)?;
        delta.check(
            number("num_changed_params")?,
            number("total_changed_elements")?,
            metadata.get("changed_params").map(String::as_str),
            empty,
            limits,
        )?;
        Ok(Self::Delta(Box::new(delta)))
    }
}

impl<'a> Delta<'a> {
    /// Sorts the tensors of the file into pairs; true if it has the mark of a delta in which nothing changes.
    fn collect(&mut self, file: &File<'a>) -> Result<bool, Fault> {
        let mut empty = false;
        for (spec, bytes) in file.tensors() {
            if spec.name == EMPTY && self.flavour == Flavour::A {
                empty = true;
                continue;
            }
            let (indices, values) = (self.flavour.index_suffix(), self.flavour.value_suffix());
            let (name, place) = if let Some(name) = spec.name.strip_suffix(indices) {
                (name, &mut self.tensors.entry(name.to_owned()).or_default().indices)
            } else if let Some(name) = spec.name.strip_suffix(values) {
                (name, &mut self.tensors.entry(name.to_owned()).or_default().values)
            } else {
                let expected = format_args!("NAME{indices} or NAME{values}");
                return Err(Violation::differs("name", expected, &spec.name).of(&spec.name));
            };
            if spec.shape.len() != 1 {
                return Err(Violation::differs("dims", 1, spec.shape.len()).of(name));
            }
            *place = Some((spec.clone(), bytes));
        }
        Ok(empty)
    }

    /// Says that positions and values pair, and that counts and names are what the metadata say.
    fn check(
        &self,
        tensors: u64,
        elements: u64,
        names: Option<&str>,
        empty: bool,
        limits: &Limits,
    ) -> Result<(), Fault> {
        let (mut changed, mut listed) = (0_u64, 0_u64);
        for (name, sparse) in &self.tensors {
            let (Some((indices, _)), Some((values, _))) = (&sparse.indices, &sparse.values) else {
                let missing =
                    if sparse.values.is_some() { "the list of positions" } else { "the list of values" };
                return Err(Violation::Missing(missing).of(name));
            };
            let widths: &[&str] = if self.flavour == Flavour::CGaps { &["U16", "U32"] } else { &["I32"] };
            if !widths.contains(&indices.dtype.as_str()) {
                return Err(
                    Violation::differs("dtype of positions", widths.join(" or "), &indices.dtype).of(name)
                );
            }
            if values.dtype.as_str() != "BF16" {
                return Err(Violation::differs("dtype of values", "BF16", &values.dtype).of(name));
            }
            let count = values.shape.first().copied().unwrap_or_default();
            if indices.shape != values.shape {
                let found = indices.shape.first().copied().unwrap_or_default();
                return Err(Violation::differs("positions", count, found).of(name));
            }
            listed = listed.saturating_add(count);
            changed = changed.saturating_add(u64::from(count > 0));
        }
        // The third flavour may list tensors in which nothing changes.
        if tensors != changed && tensors != self.tensors.len() as u64 {
            return Err(Violation::differs("num_changed_params", changed, tensors).into());
        }
        if elements != listed {
            return Err(Violation::differs("total_changed_elements", listed, elements).into());
        }
        if empty && !self.tensors.is_empty() {
            return Err(Violation::differs(EMPTY, "no other tensor", self.tensors.len()).into());
        }
        if let Some(names) = names {
            let names: Vec<String> = json::parse(names.as_bytes(), limits)?;
            let unique: BTreeSet<&str> = names.iter().map(String::as_str).collect();
            if unique.len() != names.len() {
                return Err(Violation::Twice("a name in changed_params").into());
            }
            if !unique.iter().copied().eq(self.tensors()) {
                return Err(Violation::differs(
                    "changed_params",
                    "the names of the tensors",
                    names.join(", "),
                )
                .into());
            }
        }
        Ok(())
    }

    /// The tensors that change.
    pub fn tensors(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The change of a tensor of the base, or `None` if it keeps its bytes.
    ///
    /// # Errors
    /// If the tensor is not of bf16, or there are more positions than elements, or one is negative or
    /// overflows.
    pub fn decode(&self, spec: &TensorSpec) -> Result<Option<TensorDelta<'a>>, Fault> {
        let sparse = self.tensors.get(&spec.name).cloned().unwrap_or_default();
        let (Some((indices, raw)), Some((_, values))) = (sparse.indices, sparse.values) else {
            return Ok(None);
        };
        if spec.dtype.as_str() != "BF16" {
            return Err(Violation::differs("dtype in the base", "BF16", &spec.dtype).of(&spec.name));
        }
        let count = spec.byte_len / 2;
        let positions = match indices.dtype.as_str() {
            "U16" => positions::from_gaps(raw, 2, count),
            "U32" => positions::from_gaps(raw, 4, count),
            _ => positions::from_i32(raw, count),
        };
        let positions = positions.map_err(|violation| violation.of(&spec.name))?;
        let (places, values) = (Places::At { width: 2, positions }, Cow::Borrowed(values));
        Ok(Some(TensorDelta { operation: Operation::Overwrite, places, values, checksum: None }))
    }
}

/// What the metadata of a file to be written says, apart from what depends on the flavour.
pub(crate) struct Metadata {
    pub(crate) model_version: u64,
    /// None for an anchor. Only the first flavour writes it down.
    pub(crate) base_version: Option<u64>,
    pub(crate) changed: Vec<String>,
    pub(crate) changed_elements: u64,
    pub(crate) total_elements: u64,
    pub(crate) checksum: Option<String>,
}

impl Metadata {
    /// The metadata of a delta, or of an anchor if there is no base.
    pub(crate) fn of(&self, flavour: Flavour) -> BTreeMap<String, String> {
        let mut out = BTreeMap::new();
        let mut put = |key: &str, value: String| out.insert(key.to_owned(), value);
        put("version", "1".into());
        put("model_version", self.model_version.to_string());
        let anchor = self.base_version.is_none();
        if flavour == Flavour::A {
            put("format", if anchor { "anchor_checkpoint" } else { "sparse_weight_patch" }.into());
            put("base_model_id", String::new());
            put("checksum_sha256", self.checksum.clone().unwrap_or_default());
            if anchor {
                return out;
            }
            let base = self.base_version.unwrap_or_default().to_string();
            put("anchor_step", base.clone());
            put("prev_model_version", base);
        } else {
            put("format", "sparse_weight_patch".into());
            put("sparse", if anchor { "False" } else { "True" }.into());
        }
        if let Some(encoding) = flavour.encoding() {
            put("encoding", encoding.into());
        } else {
            put("changed_params", serde_json::Value::from(self.changed.clone()).to_string());
        }
        put("num_changed_params", self.changed.len().to_string());
        put("total_changed_elements", self.changed_elements.to_string());
        put("total_elements", self.total_elements.to_string());
        // A number for people; TRL reads it into no decision.
        let share = self.changed_elements as f64 / self.total_elements.max(1) as f64;
        put("sparsity", format!("{:?}", 1.0 - share));
        out
    }
}
