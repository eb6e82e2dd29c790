//! Tensors with their bytes, in memory.

use std::fmt;

use tensorpatch_format::{Schema, TensorSpec};

/// One tensor and its bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Name, dtype and shape.
    pub spec: TensorSpec,
    /// As many bytes as the spec says.
    pub bytes: Vec<u8>,
}

/// The tensors of a checkpoint, in the order of its schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    tensors: Vec<Tensor>,
    schema: Schema,
}

impl Tensor {
    /// A tensor of a dtype whose size is known.
    pub fn new(name: &str, dtype: &str, shape: &[u64], bytes: Vec<u8>) -> Self {
        let dtype = tensorpatch_format::Dtype::new(dtype).unwrap();
        Self { spec: TensorSpec::new(name, dtype, shape.to_vec()).unwrap(), bytes }
    }
}

impl Model {
    /// A model of these tensors, in any order. Panics if their names are not distinct or a size is wrong.
    pub fn new(mut tensors: Vec<Tensor>) -> Self {
        tensors.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
        for tensor in &tensors {
            assert_eq!(tensor.bytes.len() as u64, tensor.spec.byte_len, "{tensor:?}");
        }
        let schema = Schema::new(tensors.iter().map(|tensor| tensor.spec.clone()).collect()).unwrap();
        Self { tensors, schema }
    }

    /// The tensors, in order.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The schema.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// The bytes of each tensor, in order.
    pub fn slices(&self) -> Vec<&[u8]> {
        self.tensors.iter().map(|tensor| tensor.bytes.as_slice()).collect()
    }
}

/// Without the bytes, of which a failing test could print megabytes.
impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = &self.bytes[..self.bytes.len().min(16)];
        let TensorSpec { name, dtype, shape, byte_len } = &self.spec;
        write!(f, "{name:?} {dtype} {shape:?}, {byte_len} bytes {start:02x?}")?;
        if self.bytes.len() > start.len() { f.write_str("…") } else { Ok(()) }
    }
}
