//! What changes in each layer: between two checkpoints, or by a patch and its base.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::Serialize;
use tensorpatch::delta::{ChangedTensors, LayerChange, Patch, Progress, Steps, layer_of};

use crate::output::{count, counted, percent};
use crate::session::Session;
use crate::table::{Column, fitted};

/// What changes in each layer.
#[derive(Serialize)]
pub(super) struct Layers {
    layers: Vec<Layer>,
    /// How many elements move by 1, by 2, by 3 to 4, by 5 to 8 units of the last place, and so on.
    distances: Vec<u64>,
}

#[derive(Serialize)]
struct Layer {
    name: String,
    tensors: u64,
    elements: u64,
    changed_elements: u64,
    /// Bytes of payload in the patch.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    /// The encodings of its chunks in the patch.
    #[serde(skip_serializing_if = "Option::is_none")]
    encodings: Option<Vec<&'static str>>,
}

impl Layers {
    /// What `changed` says of each layer, and what of `patch` is about it.
    pub(super) fn of(
        changed: &ChangedTensors<'_>,
        patch: Option<&Patch<'_>>,
        session: &Session,
    ) -> Result<Self> {
        let bar = session.bar("comparing", changed.schema().state_bytes());
        let advance = |bytes| bar.advance(bytes);
        let found = changed.by_layer(Progress::new(&advance))?;
        drop(bar);
        let mut distances = Steps::default();
        found.iter().for_each(|layer| distances.add(&layer.steps));
        let mut used: BTreeMap<&str, (u64, Vec<&'static str>)> = BTreeMap::new();
        if let Some(patch) = patch {
            for record in patch.wire().blocks().iter().flat_map(|block| block.records()) {
                let Some(tensor) = changed.schema().get(record.address.tensor) else { continue };
                let (bytes, encodings) = used.entry(layer_of(&tensor.name)).or_default();
                *bytes += record.payload.len() as u64;
                if !encodings.contains(&record.encoding.name()) {
                    encodings.push(record.encoding.name());
                }
            }
        }
        let layer = |LayerChange { name, tensors, elements, changed, .. }: LayerChange| {
            let used = patch.map(|_| used.remove(name.as_str()).unwrap_or_default());
            let (bytes, encodings) = used.unzip();
            Layer { name, tensors, elements, changed_elements: changed, bytes, encodings }
        };
        Ok(Self { layers: found.into_iter().map(layer).collect(), distances: distances.counts().to_vec() })
    }

    /// How many elements change, of how many.
    pub(super) fn summary(&self) -> String {
        let sum = |of: fn(&Layer) -> u64| self.layers.iter().map(of).sum::<u64>();
        let (changed, elements) = (sum(|layer| layer.changed_elements), sum(|layer| layer.elements));
        let layers = counted(self.layers.len() as u64, "layer");
        format!(
            "{} of {} elements ({}) in {layers}",
            count(changed),
            count(elements),
            percent(changed, elements)
        )
    }

    /// The table for people, and below it how far elements move.
    pub(super) fn lines(&self, width: usize) -> Vec<String> {
        let share = |layer: &Layer| layer.changed_elements as f64 / layer.elements.max(1) as f64;
        let layers = || self.layers.iter();
        let optional = |value: Option<u64>| value.map_or_else(|| "-".into(), count);
        let mut lines = fitted(
            vec![
                Column::left("layer", 0, layers().map(|layer| layer.name.clone())),
                Column::right("elements", 3, layers().map(|layer| count(layer.elements))),
                Column::right("changed", 0, layers().map(|l| percent(l.changed_elements, l.elements))),
                Column::right("bytes", 2, layers().map(|layer| optional(layer.bytes))),
                Column::left(
                    "encoding",
                    4,
                    layers().map(|l| l.encodings.as_ref().map_or_else(String::new, |names| names.join(", "))),
                ),
                Column::bars(1, layers().map(share)),
            ],
            width,
        );
        let moved: u64 = self.distances.iter().sum();
        if moved > 0 {
            let buckets = || self.distances.iter().enumerate();
            lines.push(String::new());
            lines.extend(fitted(
                vec![
                    Column::right("moved by", 0, buckets().map(|(bucket, _)| distance(bucket))),
                    Column::right("elements", 0, buckets().map(|(_, moved)| count(*moved))),
                    Column::right("share", 2, buckets().map(|(_, of)| percent(*of, moved))),
                    Column::bars(1, buckets().map(|(_, moved)| *moved as f64)),
                ],
                width,
            ));
        }
        lines
    }
}

/// The units of the last place that a place in the list stands for.
fn distance(bucket: usize) -> String {
    let high = 1_u128 << bucket.min(64);
    if bucket < 2 { format!("{high} ulp") } else { format!("{} to {high}", high / 2 + 1) }
}

#[cfg(test)]
mod tests {
    use super::distance;

    #[test]
    fn distances_are_told_in_ranges() {
        assert_eq!([0, 1, 2, 3].map(distance), ["1 ulp", "2 ulp", "3 to 4", "5 to 8"]);
    }
}
