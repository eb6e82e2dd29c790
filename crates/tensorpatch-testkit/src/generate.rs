//! Strategies for models and for pairs of a base and a target.

use std::collections::BTreeMap;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use tensorpatch_format::{CHUNK_BYTES, Dtype, TensorSpec};

use crate::{Change, Fill, Model, Rng, Tensor};

/// How large the tensors of a model may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// A few thousand bytes: for hundreds of cases in a second.
    Small,
    /// One tensor has one to three chunks, with its end on or beside the border of one.
    Chunks,
}

/// A base and a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The base.
    pub base: Model,
    /// The target.
    pub target: Model,
}

/// Models with every kind of dtype, shape and content, those without any tensor too.
pub fn models(size: Size) -> impl Strategy<Value = Model> {
    tensor_maps(size).prop_map(|tensors| Model::new(tensors.into_values().collect()))
}

/// Pairs whose target keeps, changes, reshapes, retypes, resizes, removes and adds tensors of the base.
///
/// In half of the pairs both have the same schema, as in training; in some they are equal.
pub fn pairs(size: Size) -> impl Strategy<Value = Pair> {
    (tensor_maps(size), vec(fate(), 16), tensor_maps(Size::Small), any::<bool>(), any::<u64>()).prop_map(
        |(base, fates, added, same_schema, seed)| {
            let mut rng = Rng::new(seed);
            let mut target = BTreeMap::new();
            for (tensor, fate) in base.values().zip(fates.iter().cycle()) {
                let fate = match fate {
                    Fate::Change(..) => fate,
                    _ if same_schema => &Fate::Keep,
                    _ => fate,
                };
                if let Some(tensor) = fate.apply(tensor, &mut rng) {
                    target.insert(tensor.spec.name.clone(), tensor);
                }
            }
            if !same_schema {
                for (name, tensor) in added {
                    target.entry(name).or_insert(tensor);
                }
            }
            let model = |tensors: BTreeMap<String, Tensor>| Model::new(tensors.into_values().collect());
            Pair { base: model(base), target: model(target) }
        },
    )
}

/// What becomes of a tensor of the base.
#[derive(Debug, Clone)]
enum Fate {
    Keep,
    Change(Change, u32),
    Reshape,
    Retype,
    Resize,
    Remove,
}

impl Fate {
    fn apply(&self, tensor: &Tensor, rng: &mut Rng) -> Option<Tensor> {
        let Tensor { spec, bytes } = tensor;
        let (mut spec, mut bytes) = (spec.clone(), bytes.clone());
        match *self {
            Self::Keep => {}
            Self::Change(change, density) => {
                change.apply(spec.dtype.element_format(), density, &mut bytes, rng);
            }
            Self::Reshape => {
                spec.shape.push(1);
                Change::Ulp.apply(spec.dtype.element_format(), 20, &mut bytes, rng);
            }
            Self::Retype => {
                spec.shape = vec![spec.byte_len];
                spec.dtype = Dtype::new(if spec.dtype.as_str() == "U8" { "I8" } else { "U8" }).unwrap();
            }
            Self::Resize => {
                spec = TensorSpec::new(spec.name, Dtype::new("BF16").unwrap(), vec![1, 17]).unwrap();
                bytes = Fill::Weights.bytes(spec.dtype.element_format(), 34, rng);
            }
            Self::Remove => return None,
        }
        Some(Tensor { spec, bytes })
    }
}

fn fate() -> impl Strategy<Value = Fate> {
    let change = prop::sample::select(vec![
        Change::Ulp,
        Change::Ulp,
        Change::Few,
        Change::Sign,
        Change::Noise,
        Change::Extremes,
    ]);
    let density = prop_oneof![Just(0), Just(1000), 1_u32..20, 1_u32..1000];
    prop_oneof![
        2 => Just(Fate::Keep),
        8 => (change, density).prop_map(|(change, density)| Fate::Change(change, density)),
        1 => Just(Fate::Reshape),
        1 => Just(Fate::Retype),
        1 => Just(Fate::Resize),
        1 => Just(Fate::Remove),
    ]
}

fn names() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => "[a-d]\\.[0-3]\\.(weight|bias)",
        2 => "[ -~éß☃🦀\"\\\\\n\t]{1,20}",
        1 => "[x-z]{250,400}",
    ]
    .prop_filter("the name of the metadata", |name| name != "__metadata__")
}

fn tensor_maps(size: Size) -> impl Strategy<Value = BTreeMap<String, Tensor>> {
    let fill =
        prop::sample::select(vec![Fill::Zeros, Fill::Weights, Fill::Weights, Fill::Noise, Fill::Extremes]);
    let filled = move |shapes: BoxedStrategy<(Dtype, Vec<u64>, Option<u64>)>| {
        (shapes, fill.clone(), any::<u64>()).prop_map(|((dtype, shape, byte_len), fill, seed)| {
            let spec = match byte_len {
                Some(byte_len) => TensorSpec { name: "t".into(), dtype, shape, byte_len },
                None => TensorSpec::new("t", dtype, shape).unwrap(),
            };
            let format = spec.dtype.element_format();
            let bytes = fill.bytes(format, spec.byte_len as usize, &mut Rng::new(seed));
            Tensor { spec, bytes }
        })
    };
    let large = match size {
        Size::Small => Just(None).boxed(),
        Size::Chunks => filled(chunk_shapes().boxed()).prop_map(Some).boxed(),
    };
    (btree_map(names(), filled(small_shapes().boxed()), 0..8), names(), large).prop_map(
        |(mut tensors, name, large)| {
            tensors.extend(large.map(|large| (name, large)));
            for (name, tensor) in &mut tensors {
                tensor.spec.name.clone_from(name);
            }
            tensors
        },
    )
}

const DTYPES: [&str; 18] = [
    "BF16",
    "BF16",
    "BF16",
    "BF16",
    "F16",
    "F32",
    "F8_E4M3",
    "F8_E5M2",
    "F8_E4M3FNUZ",
    "F8_E8M0",
    "BOOL",
    "U8",
    "I16",
    "I32",
    "F64",
    "I64",
    "C64",
    "U16",
];

/// Scalars, vectors, empty tensors, packed and unknown dtypes.
fn small_shapes() -> impl Strategy<Value = (Dtype, Vec<u64>, Option<u64>)> {
    let dtype = |name: &str| Dtype::new(name).unwrap();
    let known = (prop::sample::select(DTYPES.to_vec()), vec(0_u64..16, 0..4))
        .prop_map(move |(name, shape)| (dtype(name), shape, None));
    let packed = (prop::sample::select(vec!["F4", "F6_E2M3", "F6_E3M2"]), vec(0_u64..9, 0..3)).prop_map(
        move |(name, mut shape)| {
            // Four elements of 4 or 6 bits fill whole bytes.
            shape.push(4);
            (dtype(name), shape, None)
        },
    );
    let unknown = (vec(any::<u64>(), 0..3), 0_u64..300)
        .prop_map(move |(shape, byte_len)| (dtype("F3_NEXT_YEAR"), shape, Some(byte_len)));
    prop_oneof![8 => known, 1 => packed, 1 => unknown]
}

/// Up to three chunks, the end within three elements of a border.
fn chunk_shapes() -> impl Strategy<Value = (Dtype, Vec<u64>, Option<u64>)> {
    (prop::sample::select(DTYPES.to_vec()), 1_u64..4, -3_i64..4).prop_map(|(name, chunks, beside)| {
        let dtype = Dtype::new(name).unwrap();
        let width = dtype.element_format().width() as u64;
        let elements = (chunks * CHUNK_BYTES as u64 / width).saturating_add_signed(beside);
        (dtype, vec![elements.min(3 * CHUNK_BYTES as u64 / width)], None)
    })
}
