//! What changes in a checkpoint, layer by layer: how many elements, and how far they move.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use tensorpatch_format::{ElementFormat, TensorIndex};

use crate::{ApplyError, ChangedTensor, ChangedTensors, Progress};

/// What changes in a layer: in all tensors whose names begin alike.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct LayerChange {
    /// What the names of its tensors begin with, up to the number of the layer: see [`layer_of`].
    pub name: String,
    /// Its tensors.
    pub tensors: u64,
    /// Their elements; of a dtype that packs several in a byte, their bytes.
    pub elements: u64,
    /// Those that change.
    pub changed: u64,
    /// How far they move.
    pub steps: Steps,
}

/// How far elements move, in units of the last place: by powers of two.
///
/// Of floats the unit is the next value of the same width, so that 1 is the least change there is; of others
/// it is one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Steps(Vec<u64>);

impl Steps {
    /// How many elements move by 1, by 2, by 3 to 4, by 5 to 8, and so on, up to the farthest.
    pub fn counts(&self) -> &[u64] {
        &self.0
    }

    /// Counts the elements of `other` as well.
    pub fn add(&mut self, other: &Self) {
        for (bucket, count) in other.0.iter().enumerate() {
            self.put(bucket, *count);
        }
    }

    fn put(&mut self, bucket: usize, count: u64) {
        if self.0.len() <= bucket {
            self.0.resize(bucket + 1, 0);
        }
        if let Some(known) = self.0.get_mut(bucket) {
            *known = known.saturating_add(count);
        }
    }

    fn take(&mut self, format: ElementFormat, old: &[u8], new: &[u8]) {
        let distance = place(format, old).abs_diff(place(format, new));
        // One is the first bucket, two the second, three and four the third.
        let bits = u64::BITS - distance.saturating_sub(1).leading_zeros();
        self.put(bits as usize, 1);
    }
}

/// The layer that a tensor belongs to: its name up to and with the first part that is a number, as in
/// `model.layers.12`; without one, the name without its last part.
///
/// ```
/// use tensorpatch_delta::layer_of;
///
/// assert_eq!(layer_of("model.layers.12.mlp.up_proj.weight"), "model.layers.12");
/// assert_eq!(layer_of("model.norm.weight"), "model.norm");
/// assert_eq!(layer_of("lm_head"), "lm_head");
/// ```
pub fn layer_of(tensor: &str) -> &str {
    let mut end = 0;
    for part in tensor.split('.') {
        end += part.len();
        if !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()) {
            return tensor.get(..end).unwrap_or(tensor);
        }
        end += 1;
    }
    tensor.rsplit_once('.').map_or(tensor, |(layer, _)| layer)
}

/// The order in which people count layers: 2 comes before 10.
pub fn compare_layers(a: &str, b: &str) -> Ordering {
    let number = |part: &str| part.parse::<u64>().ok();
    let (mut left, mut right) = (a.split('.'), b.split('.'));
    loop {
        let order = match (left.next(), right.next()) {
            (None, None) => return a.cmp(b),
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(a), Some(b)) => match (number(a), number(b)) {
                (Some(a), Some(b)) => a.cmp(&b),
                _ => a.cmp(b),
            },
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

impl ChangedTensors<'_> {
    /// What changes in each layer, in the order of their numbers; those without a change too. `progress`
    /// hears of the bytes of the tensors that were looked at.
    ///
    /// # Errors
    /// If a chunk does not decode, or not to what its digest says, or `progress` stops it.
    pub fn by_layer(&self, progress: Progress<'_>) -> Result<Vec<LayerChange>, ApplyError> {
        let mut layers: BTreeMap<&str, LayerChange> = BTreeMap::new();
        for (index, spec) in (0..).zip(self.schema().tensors()) {
            let tensor = TensorIndex(index);
            let name = layer_of(&spec.name);
            let layer =
                layers.entry(name).or_insert_with(|| LayerChange { name: name.into(), ..Default::default() });
            layer.tensors += 1;
            layer.elements += spec.byte_len / spec.dtype.element_format().width() as u64;
            if let Some(changed) = self.tensor(tensor)? {
                layer.take(&changed, self.base_bytes(tensor));
            }
            progress.advance(spec.byte_len)?;
        }
        let mut layers: Vec<LayerChange> = layers.into_values().collect();
        layers.sort_by(|a, b| compare_layers(&a.name, &b.name));
        Ok(layers)
    }
}

impl LayerChange {
    fn take(&mut self, tensor: &ChangedTensor, base: Option<&[u8]>) {
        let format = tensor.spec.dtype.element_format();
        let width = format.width();
        let Some(base) = base else {
            // There is nothing that its elements could have moved from.
            self.changed += (tensor.values.len() / width) as u64;
            return;
        };
        match &tensor.positions {
            Some(positions) => {
                self.changed += positions.len() as u64;
                for (position, new) in positions.iter().zip(tensor.values.chunks_exact(width)) {
                    let start =
                        usize::try_from(*position).ok().and_then(|position| position.checked_mul(width));
                    let old = start.and_then(|start| base.get(start..)?.get(..width));
                    self.steps.take(format, old.unwrap_or(new), new);
                }
            }
            None => {
                let pairs = base.chunks_exact(width).zip(tensor.values.chunks_exact(width));
                for (old, new) in pairs.filter(|(old, new)| old != new) {
                    self.changed += 1;
                    self.steps.take(format, old, new);
                }
            }
        }
    }
}

/// The place of an element among all of its format: of floats their order, from the lowest to the highest.
fn place(format: ElementFormat, element: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    for (to, from) in bytes.iter_mut().zip(element) {
        *to = *from;
    }
    let value = u64::from_le_bytes(bytes);
    let sign = 1_u64 << (format.width() * 8 - 1);
    match format {
        ElementFormat::W8 | ElementFormat::W16 | ElementFormat::W32 | ElementFormat::W64 => value,
        _ if value & sign == 0 => value | sign,
        _ => !value & (sign | (sign - 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MemoryState, Options};
    use safetensors::{Dtype, tensor::TensorView};

    #[test]
    fn names_belong_to_the_layer_of_their_first_number() {
        for (name, layer) in [
            ("encoder.layer.3.attention.self.query.weight", "encoder.layer.3"),
            ("h.0.1.w", "h.0"),
            ("embed.weight", "embed"),
            ("w", "w"),
            ("", ""),
            ("..", "."),
            ("ü.1.é", "ü.1"),
        ] {
            assert_eq!(layer_of(name), layer, "{name}");
        }
        let mut layers = ["l.10", "l.2", "head", "l"];
        layers.sort_by(|a, b| compare_layers(a, b));
        assert_eq!(layers, ["head", "l", "l.2", "l.10"]);
    }

    #[test]
    fn steps_are_counted_from_one_value_to_the_next_across_zero_and_exponents() {
        let mut steps = Steps::default();
        // 1.0 and the next bf16; the last of an exponent and the first of the next; both sides of zero.
        let moves: [(u16, u16); 4] = [(0x3f80, 0x3f81), (0x3fff, 0x4000), (0x8000, 0x0000), (0x3f80, 0x3f7e)];
        for (old, new) in moves {
            steps.take(ElementFormat::Bf16, &old.to_le_bytes(), &new.to_le_bytes());
        }
        steps.take(ElementFormat::W16, &7_u16.to_le_bytes(), &12_u16.to_le_bytes());
        assert_eq!(steps.counts(), [3, 1, 0, 1]);
        steps.take(ElementFormat::F32, &f32::MAX.to_le_bytes(), &f32::MIN.to_le_bytes());
        assert_eq!(steps.counts().len(), 33);
    }

    #[test]
    fn changes_are_summed_over_the_tensors_of_a_layer() {
        let bytes = |values: &[u16]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let old = [("l.0.a", bytes(&[1, 2, 3, 4])), ("l.0.b", bytes(&[5, 6])), ("l.1.a", bytes(&[7]))];
        // A few of a tensor, more than half of another, and a tensor that is new.
        let new = [
            ("l.0.a", bytes(&[1, 2, 3, 5])),
            ("l.0.b", bytes(&[7, 10])),
            ("l.1.a", bytes(&[7])),
            ("l.2.a", bytes(&[1, 2, 3])),
        ];
        let view = |(name, bytes): &'static (&'static str, Vec<u8>)| {
            (*name, TensorView::new(Dtype::BF16, vec![bytes.len() / 2], bytes).unwrap())
        };
        let (old, new): (&'static [_; 3], &'static [_; 4]) =
            (Box::leak(Box::new(old)), Box::leak(Box::new(new)));
        let (old, new): (Vec<_>, Vec<_>) = (old.iter().map(view).collect(), new.iter().map(view).collect());
        let old = MemoryState::new(old.iter().map(|(name, view)| (name, view))).unwrap();
        let new = MemoryState::new(new.iter().map(|(name, view)| (name, view))).unwrap();
        let changed = ChangedTensors::between(Some(old.state()), new.state(), &Options::default());
        let layers = changed.by_layer(Progress::none()).unwrap();
        let summary: Vec<_> = layers
            .iter()
            .map(|l| (l.name.as_str(), l.tensors, l.elements, l.changed, l.steps.counts().to_vec()))
            .collect();
        assert_eq!(
            summary,
            [("l.0", 2, 6, 3, vec![1, 1, 1]), ("l.1", 1, 1, 0, vec![]), ("l.2", 1, 3, 3, vec![]),]
        );
    }
}
