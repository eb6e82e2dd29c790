//! States by rule: what a tensor holds is said in a few words, so that a base of megabytes costs a line of
//! the manifest.

use serde_json::{Value, json};
use tensorpatch_reference::{LeafHash, Tensor, state_digest, tagged};
use tensorpatch_testkit::{Model, Tensor as ModelTensor};

/// Where the bytes of a tensor come from.
#[derive(Debug, Clone)]
pub(crate) enum Bytes {
    /// These.
    Hex(Vec<u8>),
    /// A pattern, again and again, cut off at the length.
    Repeat(Vec<u8>, usize),
    /// The generator, with each byte AND one pattern and then OR another.
    Random { seed: u64, len: usize, and: Vec<u8>, or: Vec<u8> },
    /// One part after the other.
    Parts(Vec<Bytes>),
    /// Those of a tensor of another state, with edits one after the other.
    Edited { state: &'static str, tensor: String, edits: Vec<Edit> },
}

/// How bytes differ from others.
#[derive(Debug, Clone)]
pub(crate) enum Edit {
    /// These are written at an offset.
    Write { at: usize, hex: Vec<u8> },
    /// Some elements move up or down.
    Nudge { width: usize, seed: u64, one_in: u64, reach: u64 },
}

/// A tensor and where its bytes come from.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    pub(crate) name: String,
    pub(crate) dtype: &'static str,
    pub(crate) shape: Vec<u64>,
    pub(crate) bytes: Bytes,
}

/// A state with a name.
#[derive(Debug, Clone)]
pub(crate) struct State {
    pub(crate) id: &'static str,
    pub(crate) rules: Vec<Rule>,
    pub(crate) tensors: Vec<Tensor>,
}

/// The generator of the manifest: a linear congruential one, of which the highest byte of each state is used.
struct Generator(u64);

impl Generator {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0
    }
}

impl Bytes {
    pub(crate) fn random(seed: u64, len: usize) -> Self {
        Self::Random { seed, len, and: vec![0xff], or: vec![0] }
    }

    fn make(&self, states: &[State]) -> Vec<u8> {
        match self {
            Self::Hex(bytes) => bytes.clone(),
            Self::Repeat(pattern, len) => pattern.iter().copied().cycle().take(*len).collect(),
            Self::Random { seed, len, and, or } => {
                let mut generator = Generator(*seed);
                let masks = and.iter().cycle().zip(or.iter().cycle());
                masks.take(*len).map(|(and, or)| (generator.next() >> 56) as u8 & and | or).collect()
            }
            Self::Parts(parts) => parts.iter().flat_map(|part| part.make(states)).collect(),
            Self::Edited { state, tensor, edits } => {
                let state = states.iter().find(|known| known.id == *state).expect("a state made before");
                let mut bytes = state.tensor(tensor).bytes.clone();
                for edit in edits {
                    edit.apply(&mut bytes);
                }
                bytes
            }
        }
    }

    fn to_json(&self) -> Value {
        match self {
            Self::Hex(bytes) => json!({"hex": hex(bytes)}),
            Self::Repeat(pattern, len) => json!({"repeat": hex(pattern), "length": len}),
            Self::Random { seed, len, and, or } if and == &[0xff] && or == &[0] => {
                json!({"random": seed, "length": len})
            }
            Self::Random { seed, len, and, or } => {
                json!({"random": seed, "length": len, "and": hex(and), "or": hex(or)})
            }
            Self::Parts(parts) => json!({"parts": parts.iter().map(Self::to_json).collect::<Vec<_>>()}),
            Self::Edited { state, tensor, edits } => {
                let edits: Vec<_> = edits.iter().map(Edit::to_json).collect();
                json!({"state": state, "tensor": tensor, "edits": edits})
            }
        }
    }
}

impl Edit {
    fn apply(&self, bytes: &mut [u8]) {
        match self {
            Self::Write { at, hex } => bytes[*at..*at + hex.len()].copy_from_slice(hex),
            Self::Nudge { width, seed, one_in, reach } => {
                let mut generator = Generator(*seed);
                for element in bytes.chunks_exact_mut(*width) {
                    if !(generator.next() >> 33).is_multiple_of(*one_in) {
                        continue;
                    }
                    let drawn = generator.next() >> 32;
                    let distance = 1 + (drawn >> 1) % reach;
                    let old = element.iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
                    let new = match drawn & 1 {
                        0 => old.wrapping_add(distance),
                        _ => old.wrapping_sub(distance),
                    };
                    element.copy_from_slice(&new.to_le_bytes()[..*width]);
                }
            }
        }
    }

    fn to_json(&self) -> Value {
        match self {
            Self::Write { at, hex: bytes } => json!({"write": hex(bytes), "at": at}),
            Self::Nudge { width, seed, one_in, reach } => {
                json!({"nudge": seed, "width": width, "one_in": one_in, "reach": reach})
            }
        }
    }
}

/// What the manifest says of the rules.
pub(crate) fn rules_in_words() -> Value {
    json!({
        "hex": "the bytes themselves",
        "repeat": "the bytes, again and again, cut off at `length` bytes",
        "random": "`length` bytes of the generator with this seed; byte i is then combined with byte i modulo the length of `and` by AND, and with that of `or` likewise by OR, where they are given",
        "generator": "x is the seed at first; each draw sets x to (x * 6364136223846793005 + 1442695040888963407) modulo 2^64 and gives x. A byte is the highest byte of a draw",
        "parts": "one after the other",
        "state": "the bytes of `tensor` of this state, with the edits made in their order",
        "write": "these bytes replace those from offset `at` on",
        "nudge": "a generator with this seed visits each element of `width` bytes (little endian) in order: if a draw, shifted right by 33, is not a multiple of `one_in`, the element stays. Otherwise let v be a second draw shifted right by 32: the element moves by 1 + (v shifted right by 1) modulo `reach`, up if v is even and down if it is odd, modulo 2^(8 * width)",
    })
}

impl State {
    pub(crate) fn make(id: &'static str, mut rules: Vec<Rule>, states: &[State]) -> Self {
        rules.sort_by(|a, b| a.name.cmp(&b.name));
        let tensors = rules.iter().map(|rule| Tensor {
            name: rule.name.clone(),
            dtype: rule.dtype.to_owned(),
            shape: rule.shape.clone(),
            bytes: rule.bytes.make(states),
        });
        let tensors = tensors.collect();
        Self { id, rules, tensors }
    }

    pub(crate) fn tensor(&self, name: &str) -> &Tensor {
        self.tensors.iter().find(|tensor| tensor.name == name).expect("a tensor of the state")
    }

    /// The state as the fast decoder has it.
    pub(crate) fn model(&self) -> Model {
        let tensors = self.tensors.iter().map(|tensor| {
            let Tensor { name, dtype, shape, bytes } = tensor.clone();
            let dtype = tensorpatch_format::Dtype::new(&dtype).expect("a dtype");
            let byte_len = bytes.len() as u64;
            ModelTensor { spec: tensorpatch_format::TensorSpec { name, dtype, shape, byte_len }, bytes }
        });
        Model::new(tensors.collect())
    }

    pub(crate) fn to_json(&self) -> Value {
        let tensors: Vec<_> = self
            .rules
            .iter()
            .zip(&self.tensors)
            .map(|(rule, tensor)| {
                json!({
                    "name": rule.name,
                    "dtype": rule.dtype,
                    "shape": rule.shape,
                    "bytes": rule.bytes.to_json(),
                    "byte_len": tensor.bytes.len(),
                    "blake3": blake3::hash(&tensor.bytes).to_hex().as_str(),
                })
            })
            .collect();
        let digests =
            [LeafHash::Xxh3, LeafHash::Blake3].map(|hash| tagged(hash, &state_digest(hash, &self.tensors)));
        json!({"id": self.id, "digests": digests, "tensors": tensors})
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
