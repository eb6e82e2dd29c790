//! NeMo RL's sparse refit payload, read only: its three parts as files, since the whole travels as a Python
//! pickle.
//!
//! `locations.bin` has the positions of all tensors, `values-N-DTYPE.bin` one file for each width of element,
//! `metadata.json` the list of items that says who owns which bytes. There is no checksum and no version.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use tensorpatch_format::{LimitKind, Limits, TensorSpec};

use crate::tensor_delta::elements;
use crate::{Fault, Operation, Places, TensorDelta, Violation, json, positions, torch};

/// The names of the first two parts.
pub const LOCATIONS: &str = "locations.bin";
/// The list of items.
pub const METADATA: &str = "metadata.json";

/// The number of the group of values in a file of this name: `values-0-int32.bin` is 0.
pub fn value_group(name: &str) -> Option<u64> {
    let (number, dtype) = name.strip_prefix("values-")?.strip_suffix(".bin")?.split_once('-')?;
    let plain = !dtype.is_empty() && dtype.bytes().all(|byte| byte.is_ascii_alphanumeric());
    plain.then(|| number.parse().ok()).flatten()
}

#[derive(Debug, Deserialize)]
struct Item {
    name: String,
    shape: Vec<u64>,
    dtype: String,
    operation: String,
    index_start: u64,
    index_end: u64,
    value_group: u64,
    value_start: u64,
    value_end: u64,
    index_encoding: String,
    range_start: Option<u64>,
}

/// A payload, its items checked against each other.
#[derive(Debug)]
pub struct NemoRlDelta<'a> {
    locations: &'a [u8],
    values: BTreeMap<u64, &'a [u8]>,
    /// The items of each tensor, in the order of the list.
    tensors: BTreeMap<String, Vec<Item>>,
}

impl<'a> NemoRlDelta<'a> {
    /// Reads the three parts: the list of items, the positions, and the groups of values by their numbers.
    ///
    /// # Errors
    /// If the JSON is broken, a field has a value that is not known, two items share bytes of positions or
    /// leave some out, or the list asks for more than `limits` allow.
    pub fn parse(
        metadata: &[u8],
        locations: &'a [u8],
        values: BTreeMap<u64, &'a [u8]>,
        limits: &Limits,
    ) -> Result<Self, Fault> {
        let items: Vec<Item> = json::parse(metadata, limits).map_err(|fault| fault.in_file(METADATA))?;
        Violation::limit(LimitKind::Tensors, items.len() as u64, limits.tensors)?;
        let mut tensors: BTreeMap<String, Vec<Item>> = BTreeMap::new();
        let mut index_end = 0;
        let mut value_ends: BTreeMap<u64, u64> = BTreeMap::new();
        for item in items {
            let refuse = |violation: Violation| Err(violation.of(&item.name).in_file(METADATA));
            if item.index_start != index_end || item.index_end < item.index_start {
                return refuse(Violation::differs("index_start", index_end, item.index_start));
            }
            index_end = item.index_end;
            let value_end = value_ends.entry(item.value_group).or_default();
            if item.value_start != *value_end || item.value_end <= item.value_start {
                return refuse(Violation::differs("value_start", *value_end, item.value_start));
            }
            *value_end = item.value_end;
            if !["xor", "overwrite"].contains(&item.operation.as_str()) {
                return refuse(Violation::differs("operation", "xor or overwrite", &item.operation));
            }
            match (item.index_encoding.as_str(), item.range_start) {
                ("deltas", _) => {}
                ("range", Some(_)) if item.index_start == item.index_end => {}
                ("range", Some(_)) => {
                    return refuse(Violation::differs(
                        "index_end of a range",
                        item.index_start,
                        item.index_end,
                    ));
                }
                ("range", None) => return refuse(Violation::Missing("range_start")),
                (other, _) => return refuse(Violation::differs("index_encoding", "range or deltas", other)),
            }
            let of_tensor = tensors.entry(item.name.clone()).or_default();
            if let Some(before) = of_tensor.first()
                && before.operation != item.operation
            {
                return refuse(Violation::differs("operation", &before.operation, &item.operation));
            }
            of_tensor.push(item);
        }
        if index_end != locations.len() as u64 {
            let violation = Violation::differs("bytes of positions", index_end, locations.len());
            return Err(Fault::from(violation).in_file(LOCATIONS));
        }
        if let Some(group) = values.keys().find(|group| !value_ends.contains_key(group)) {
            let violation = Violation::differs("a group of values", "one that an item has", group);
            return Err(Fault::from(violation).in_file(METADATA));
        }
        let delta = Self { locations, values, tensors };
        delta.check_values(&value_ends)?;
        Ok(delta)
    }

    /// Says that each group has as many values as its items take.
    fn check_values(&self, ends: &BTreeMap<u64, u64>) -> Result<(), Fault> {
        for items in self.tensors.values() {
            for item in items {
                let width = torch::width(&item.dtype).unwrap_or(1);
                let expected = ends.get(&item.value_group).map(|count| count.saturating_mul(width));
                let found = self.values.get(&item.value_group).map(|bytes| bytes.len() as u64);
                let violation = match found {
                    Some(_) if found == expected => continue,
                    Some(found) => Violation::differs("bytes of values", expected.unwrap_or_default(), found),
                    None => Violation::Missing("the group of values"),
                };
                return Err(violation.of(&item.name).in_file(METADATA));
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
    /// If dtype or shape are not those of the base, or the bytes of an item are not positions and values of
    /// it.
    pub fn decode(&self, spec: &TensorSpec) -> Result<Option<TensorDelta<'a>>, Fault> {
        let Some(items) = self.tensors.get(&spec.name) else { return Ok(None) };
        self.decode_items(spec, items)
            .map(Some)
            .map_err(|violation| violation.of(&spec.name).in_file(METADATA))
    }

    fn decode_items(&self, spec: &TensorSpec, items: &[Item]) -> Result<TensorDelta<'a>, Violation> {
        let width = spec.dtype.element_format().width();
        let elements = elements(spec, width);
        let (mut positions, mut values) = (Vec::new(), Cow::Borrowed(&[][..]));
        for item in items {
            torch::check(spec, &item.dtype, &item.shape)?;
            let count = item.value_end.saturating_sub(item.value_start);
            positions.extend(self.positions(item, count, elements)?);
            let group = self.values.get(&item.value_group).copied().unwrap_or_default();
            let taken = range(group, item.value_start, item.value_end, width as u64);
            let taken = taken.ok_or(Violation::Missing("a part of the values"))?;
            if values.is_empty() { values = taken.into() } else { values.to_mut().extend_from_slice(taken) }
        }
        let xor = items.first().is_some_and(|item| item.operation == "xor");
        let operation = if xor { Operation::Xor } else { Operation::Overwrite };
        Ok(TensorDelta { operation, places: Places::At { width, positions }, values, checksum: None })
    }

    fn positions(&self, item: &Item, count: u64, elements: u64) -> Result<Vec<u64>, Violation> {
        if let (Some(start), "range") = (item.range_start, item.index_encoding.as_str()) {
            let refused = Violation::Position { number: 0, position: start, count: elements };
            // As many as there are values; whether they are in the tensor is asked when they are used.
            return Ok((start..start.checked_add(count).ok_or(refused)?).collect());
        }
        let bytes = range(self.locations, item.index_start, item.index_end, 1);
        let bytes = bytes.ok_or(Violation::Missing("a part of the positions"))?;
        let width = usize::try_from(count).ok().and_then(|count| bytes.len().checked_div(count));
        // Bytes that are left over are more positions than values, which is found out when they are used.
        match width {
            Some(width @ (2 | 4 | 8)) => positions::from_gaps(bytes, width, elements),
            other => {
                let found = other.unwrap_or_default();
                Err(Violation::differs("bytes of a position", "2, 4 or 8", found))
            }
        }
    }
}

/// The bytes of the elements from `start` to `end`, each of `width` bytes.
fn range(bytes: &[u8], start: u64, end: u64, width: u64) -> Option<&[u8]> {
    let start = usize::try_from(start.checked_mul(width)?).ok()?;
    bytes.get(start..usize::try_from(end.checked_mul(width)?).ok()?)
}
