//! Safetensors files of generated models, written without the code under test.

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;
use serde_json::Value;

use crate::{Model, Tensor};

/// What two writers of the same tensors may do differently.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FileStyle {
    /// What stands under `__metadata__`, in this order; nothing stands there if it is empty.
    pub metadata: Vec<(String, String)>,
    /// How many spaces follow the JSON.
    pub padding: usize,
    /// Whether the data are in descending order of names and not in ascending order.
    pub descending: bool,
    /// Whether the header lists the tensors in the opposite order of their data.
    pub header_reversed: bool,
}

/// Any style.
pub fn styles() -> impl Strategy<Value = FileStyle> {
    let metadata = prop::collection::btree_map("[a-z]{1,8}", "[ -~]{0,12}", 0..3);
    (metadata, 0_usize..20, any::<bool>(), any::<bool>()).prop_map(
        |(metadata, padding, descending, header_reversed)| FileStyle {
            metadata: metadata.into_iter().rev().collect(),
            padding,
            descending,
            header_reversed,
        },
    )
}

/// The header of a file that holds `tensors`: the 8-byte length, the JSON, the padding.
pub fn header_bytes(tensors: &[&Tensor], style: &FileStyle) -> Vec<u8> {
    let mut entries = Vec::new();
    let mut begin = 0;
    for tensor in in_order(tensors, style) {
        let end = begin + tensor.bytes.len();
        entries.push(format!(
            r#"{}:{{"dtype":"{}","shape":{},"data_offsets":[{begin},{end}]}}"#,
            Value::from(tensor.spec.name.as_str()),
            tensor.spec.dtype,
            Value::from(tensor.spec.shape.as_slice()),
        ));
        begin = end;
    }
    if style.header_reversed {
        entries.reverse();
    }
    if !style.metadata.is_empty() {
        let pairs = style.metadata.iter();
        let pairs = pairs.map(|(key, value)| format!("{}:{}", Value::from(&**key), Value::from(&**value)));
        entries.insert(0, format!(r#""__metadata__":{{{}}}"#, pairs.collect::<Vec<_>>().join(",")));
    }
    let json = format!("{{{}}}{}", entries.join(","), " ".repeat(style.padding));
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(json.as_bytes());
    bytes
}

/// A whole safetensors file that holds `tensors`.
pub fn file_bytes(tensors: &[&Tensor], style: &FileStyle) -> Vec<u8> {
    let mut bytes = header_bytes(tensors, style);
    for tensor in in_order(tensors, style) {
        bytes.extend_from_slice(&tensor.bytes);
    }
    bytes
}

fn in_order<'a>(tensors: &[&'a Tensor], style: &FileStyle) -> Vec<&'a Tensor> {
    let mut tensors = tensors.to_vec();
    if style.descending {
        tensors.reverse();
    }
    tensors
}

/// Writes a model to one safetensors file at `path`.
pub fn write_single(path: &Path, model: &Model, style: &FileStyle) {
    let tensors: Vec<_> = model.tensors().iter().collect();
    std::fs::write(path, file_bytes(&tensors, style)).unwrap();
}

/// Writes a model to a new Hugging Face directory at `path`: its tensors dealt out to `shards` files, an
/// index, and a `config.json`.
///
/// A shard that would be empty is left out. A model without tensors cannot be written so: an index must name
/// one.
pub fn write_sharded(path: &Path, model: &Model, shards: usize, style: &FileStyle) {
    assert!(shards > 0 && !model.tensors().is_empty());
    std::fs::create_dir(path).unwrap();
    let mut weight_map = BTreeMap::new();
    for shard in 0..shards {
        let tensors: Vec<_> = model.tensors().iter().skip(shard).step_by(shards).collect();
        if tensors.is_empty() {
            continue;
        }
        let name = format!("model-{:05}-of-{shards:05}.safetensors", shard + 1);
        std::fs::write(path.join(&name), file_bytes(&tensors, style)).unwrap();
        weight_map.extend(tensors.iter().map(|tensor| (tensor.spec.name.clone(), name.clone())));
    }
    let index = serde_json::json!({
        "metadata": { "total_size": model.schema().state_bytes() },
        "weight_map": weight_map,
    });
    let index = serde_json::to_vec_pretty(&index).unwrap();
    std::fs::write(path.join("model.safetensors.index.json"), index).unwrap();
    std::fs::write(path.join("config.json"), b"{\"model_type\": \"generated\"}\n").unwrap();
}
