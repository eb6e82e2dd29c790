//! The shapes and scales of the simulated transformer.

use crate::Config;

/// The tensors of a synthetic checkpoint, in ascending order of name.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// Every tensor once.
    pub tensors: Vec<Tensor>,
}

/// One tensor: what a safetensors header says about it, and how its weights are distributed.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// The name, in the manner of Hugging Face checkpoints.
    pub name: String,
    /// One or two dimensions; rows first.
    pub shape: Vec<usize>,
    pub(crate) scale: Scale,
}

/// The distribution of the weights of one tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Scale {
    pub(crate) mean: f32,
    pub(crate) deviation: f32,
    /// The share of rows that have ever had a gradient.
    pub(crate) live_rows: f32,
    /// Whether the live rows are tokens: a gradient arrives only in the steps in which the token occurs.
    pub(crate) tokens: bool,
}

impl Tensor {
    /// The number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The length of a row: the last dimension.
    pub(crate) fn row(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }
}

/// Elements of a layer with hidden size `h`: q and o of h², k and v of h²/4, three feed-forward matrices of
/// 3.5 h², and vectors of q, k, v biases and two norms.
fn layer_elements(h: usize) -> usize {
    h * h * 5 / 2 + 3 * h * (h * 7 / 2) + h * 3 / 2 + 2 * h
}

/// Hidden sizes to choose from; multiples of 8, so that h/4 and 7h/2 are whole.
const HIDDEN: [usize; 13] = [8, 16, 32, 64, 128, 256, 384, 512, 768, 1024, 2048, 4096, 8192];

/// Per cent of the elements that go to the layers; the embedding gets the others. As in the recorded run,
/// whose density of change the model must reproduce: embedding rows of tokens that never occurred do not
/// move.
const LAYER_PERCENT: usize = 45;

/// A model should have at least this many layers before its hidden size grows.
const LEAST_LAYERS: usize = 12;

impl Model {
    /// A model whose checkpoint has about `config.bytes` bytes of tensor data.
    pub fn new(config: &Config) -> Self {
        let elements = usize::try_from(config.bytes.saturating_mul(8) / config.dtype.bits() as u64)
            .unwrap_or(usize::MAX);
        let for_layers = elements / 100 * LAYER_PERCENT;
        let h = HIDDEN
            .into_iter()
            .rev()
            .find(|&h| layer_elements(h) * LEAST_LAYERS <= for_layers)
            .unwrap_or(HIDDEN[0]);
        let layers = (for_layers / layer_elements(h)).max(1);
        let rows = (elements.saturating_sub(layers * layer_elements(h) + h) / h).max(1);

        // Deviations are those of all-MiniLM-L6-v2, the model of the recorded run: 0.056 for the embedding,
        // 0.07 to 0.1 for queries and keys, 0.04 to 0.065 for the others.
        let mut tensors = vec![
            Tensor {
                name: "model.embed_tokens.weight".into(),
                shape: vec![rows, h],
                scale: Scale { mean: 0.0, deviation: 0.055, live_rows: 0.11, tokens: true },
            },
            vector("model.norm.weight".into(), h, 0.6, 0.07),
        ];
        for layer in 0..layers {
            let name = |rest: &str| format!("model.layers.{layer}.{rest}");
            let ffn = h * 7 / 2;
            tensors.extend([
                vector(name("input_layernorm.weight"), h, 0.6, 0.08),
                vector(name("post_attention_layernorm.weight"), h, 0.6, 0.08),
                vector(name("self_attn.q_proj.bias"), h, 0.0, 0.2),
                vector(name("self_attn.k_proj.bias"), h / 4, 0.0, 0.001),
                vector(name("self_attn.v_proj.bias"), h / 4, 0.0, 0.05),
                matrix(name("self_attn.q_proj.weight"), h, h, 0.085),
                matrix(name("self_attn.k_proj.weight"), h / 4, h, 0.085),
                matrix(name("self_attn.v_proj.weight"), h / 4, h, 0.052),
                matrix(name("self_attn.o_proj.weight"), h, h, 0.047),
                matrix(name("mlp.gate_proj.weight"), ffn, h, 0.060),
                matrix(name("mlp.up_proj.weight"), ffn, h, 0.055),
                matrix(name("mlp.down_proj.weight"), h, ffn, 0.043),
            ]);
        }
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        Self { tensors }
    }

    /// The number of elements of all tensors.
    pub fn elements(&self) -> usize {
        self.tensors.iter().map(Tensor::elements).sum()
    }
}

fn vector(name: String, len: usize, mean: f32, deviation: f32) -> Tensor {
    Tensor { name, shape: vec![len], scale: Scale { mean, deviation, live_rows: 1.0, tokens: false } }
}

fn matrix(name: String, rows: usize, columns: usize, deviation: f32) -> Tensor {
    Tensor {
        name,
        shape: vec![rows, columns],
        scale: Scale { mean: 0.0, deviation, live_rows: 1.0, tokens: false },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dtype;

    #[test]
    fn a_model_is_as_large_as_asked_for_but_for_a_row() {
        for bytes in [100_000_u64, 1 << 20, 64 << 20, 1 << 30, 8 << 30, 140_000_000_000] {
            for dtype in Dtype::ALL {
                let model = Model::new(&Config { bytes, dtype, ..Config::default() });
                let size = (model.elements() * dtype.bits() / 8) as u64;
                let row = (model.tensors[0].row() * dtype.bits() / 8) as u64;
                assert!(size <= bytes && bytes - size < row, "{bytes} asked, {size} made");
            }
        }
    }

    #[test]
    fn a_layer_has_the_elements_that_the_plan_counts() {
        let model = Model::new(&Config { bytes: 1 << 20, ..Config::default() });
        let h = model.tensors[0].row();
        let first: usize = model
            .tensors
            .iter()
            .filter(|t| t.name.starts_with("model.layers.0."))
            .map(Tensor::elements)
            .sum();
        assert_eq!(first, layer_elements(h));
    }

    #[test]
    fn the_smallest_request_still_gives_a_model() {
        let model = Model::new(&Config { bytes: 0, ..Config::default() });
        assert!(model.tensors.iter().all(|t| t.elements() > 0));
        assert!(model.tensors.is_sorted_by(|a, b| a.name < b.name));
    }
}
