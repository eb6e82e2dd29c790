//! safetensors files as containers of other things than tensors.

use std::collections::BTreeMap;

use serde_json::Value;
use tensorpatch_checkpoint::SafetensorsHeader;
use tensorpatch_format::{Limits, TensorSpec};

use crate::{Fault, Violation};

/// A safetensors file in one slice, its header checked.
pub(crate) struct File<'a> {
    header: SafetensorsHeader,
    bytes: &'a [u8],
}

impl<'a> File<'a> {
    pub(crate) fn parse(bytes: &'a [u8], limits: &Limits) -> Result<Self, Fault> {
        let header = SafetensorsHeader::parse(bytes, limits)?;
        header.check_file_len(bytes.len() as u64)?;
        Ok(Self { header, bytes })
    }

    /// What stands under `__metadata__`.
    pub(crate) fn metadata(&self) -> Result<&BTreeMap<String, String>, Violation> {
        self.header.metadata().ok_or(Violation::Missing("__metadata__"))
    }

    /// The tensors and their bytes, in the order of the file.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = (&TensorSpec, &'a [u8])> {
        self.header.tensors().iter().filter_map(|(spec, range)| {
            // Every range is within the file: its length has been compared with the header.
            let range = usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?;
            Some((spec, self.bytes.get(range)?))
        })
    }
}

/// One tensor of a file to be written: its name, dtype and shape, and the range of its bytes after the
/// header.
pub(crate) struct Entry<'a> {
    pub(crate) name: &'a str,
    pub(crate) dtype: &'static str,
    pub(crate) shape: &'a [u64],
    pub(crate) begin: u64,
    pub(crate) end: u64,
}

/// The header of a file: the length, the JSON, and spaces up to a multiple of 8, or up to `len` if that is
/// more.
pub(crate) fn header(entries: &[Entry<'_>], metadata: &BTreeMap<String, String>, len: usize) -> Vec<u8> {
    let mut json = format!(r#"{{"__metadata__":{}"#, Value::from_iter(metadata.clone()));
    for Entry { name, dtype, shape, begin, end } in entries {
        let (name, shape) = (Value::from(*name), Value::from(*shape));
        json += &format!(r#",{name}:{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}"#);
    }
    json.push('}');
    let padded = json.len().next_multiple_of(8).max(len.saturating_sub(8));
    let mut header = Vec::with_capacity(padded.saturating_add(8));
    header.extend_from_slice(&(padded as u64).to_le_bytes());
    header.extend_from_slice(json.as_bytes());
    header.resize(padded.saturating_add(8), b' ');
    header
}
