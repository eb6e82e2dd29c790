//! A plain layout for states that come without one.

use serde_json::Value;
use tensorpatch_format::{FileLayout, Layout, LayoutError, Schema, TensorSpec};

use crate::dtype_to_safetensors;

/// The layout of a single file that holds the tensors of `schema`: `model.safetensors`.
///
/// It has the header that [`safetensors::serialize`] writes for these tensors with the metadata `{"format":
/// "pt"}`, without which older loaders refuse a file: wide dtypes come first, so that every tensor is aligned
/// to its elements, then names in ascending order, and spaces fill the header to a multiple of 8 bytes.
/// Tensors of dtypes that the crate does not know come last.
///
/// # Errors
/// [`LayoutError::HeaderLength`] if the names and shapes take more than a safetensors header may have.
///
/// ```
/// use tensorpatch_checkpoint::{Placement, generate_layout};
/// use tensorpatch_format::{Dtype, Limits, Schema, TensorIndex, TensorSpec};
///
/// let dtype = Dtype::new("BF16").ok_or("no dtype")?;
/// let schema = Schema::new(vec![TensorSpec::new("weight", dtype, vec![4, 8])?])?;
/// let layout = generate_layout(&schema)?;
/// let placement = Placement::new(&schema, &layout, &Limits::default())?;
/// let located = placement.locate(TensorIndex(0));
/// assert_eq!(located.map(|(file, range)| (file, range.end - range.start)), Some((0, 64)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn generate_layout(schema: &Schema) -> Result<Layout, LayoutError> {
    let mut tensors: Vec<&TensorSpec> = schema.tensors().iter().collect();
    tensors.sort_by_cached_key(|tensor| std::cmp::Reverse(dtype_to_safetensors(&tensor.dtype)));
    let mut json = String::from(r#"{"__metadata__":{"format":"pt"}"#);
    let mut begin = 0_u64;
    for tensor in tensors {
        // No overflow: a schema has checked the sum.
        let end = begin.saturating_add(tensor.byte_len);
        let name = Value::from(tensor.name.as_str());
        let shape = Value::from(tensor.shape.as_slice());
        json += &format!(
            r#",{name}:{{"dtype":"{}","shape":{shape},"data_offsets":[{begin},{end}]}}"#,
            tensor.dtype
        );
        begin = end;
    }
    json.push('}');
    let padded = json.len().next_multiple_of(8);
    let mut header = Vec::with_capacity(padded.saturating_add(8));
    header.extend_from_slice(&(padded as u64).to_le_bytes());
    header.extend_from_slice(json.as_bytes());
    header.resize(padded.saturating_add(8), b' ');
    Layout::new(vec![FileLayout { name: Layout::SINGLE_FILE.to_owned(), header }], None)
}
