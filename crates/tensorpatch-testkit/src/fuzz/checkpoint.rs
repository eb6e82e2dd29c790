//! Whole checkpoints of any structure.

use std::collections::BTreeMap;

use arbitrary::{Result, Unstructured};
use tensorpatch_checkpoint::generate_layout;
use tensorpatch_delta::{Options, Progress, Snapshot, encode_diff, encode_full};
use tensorpatch_format::{Dtype, LeafHash, Profile, TensorSpec};

use super::patch::state;
use crate::{Change, Fill, Model, Rng, Tensor, Verdict};

const DTYPES: [&str; 12] =
    ["BF16", "F16", "F32", "F8_E4M3", "F8_E5M2", "BOOL", "U8", "I16", "I32", "F64", "F4", "F3_NEXT_YEAR"];

/// Whatever base and target are, both decoders make the target of the base and the patch between them, and of
/// the full patch alone.
pub fn checkpoint_round_trip(bytes: &[u8]) {
    // Too few bytes for a pair are no pair.
    let Ok((base, target, options)) = pair(&mut Unstructured::new(bytes)) else { return };
    let layouts = [&base, &target].map(|model| generate_layout(model.schema()).unwrap());
    let version = |model, layout| Snapshot { state: state(model), layout, leaves: None };
    let new = version(&target, &layouts[1]);
    let (mut delta, mut whole) = (Vec::new(), Vec::new());
    encode_diff(&version(&base, &layouts[0]), &new, &options, Progress::none(), &mut delta).unwrap();
    encode_full(&new, &options, Progress::none(), &mut whole).unwrap();
    for (patch, base) in [(delta, Some(&base)), (whole, None)] {
        for verdict in [Verdict::of_fast(&patch, base), Verdict::of_reference(&patch, base)] {
            let Verdict::Target { state, .. } = verdict else { panic!("{verdict:?}") };
            assert_eq!(state, target);
        }
    }
}

fn pair(u: &mut Unstructured<'_>) -> Result<(Model, Model, Options)> {
    let profile = if u.arbitrary()? { Profile::Compact } else { Profile::Direct };
    let hash = if u.arbitrary()? { LeafHash::Xxh3 } else { LeafHash::Blake3 };
    let options = Options::default()
        .with_profile(profile)
        .with_leaf_hash(hash)
        .with_threads(std::num::NonZeroUsize::MIN);
    let mut base = BTreeMap::new();
    for _ in 0..u.int_in_range(0..=4)? {
        let tensor = tensor(u)?;
        base.insert(tensor.spec.name.clone(), tensor);
    }
    let mut target = BTreeMap::new();
    for (name, tensor) in &base {
        if let Some(tensor) = successor(u, tensor)? {
            target.insert(name.clone(), tensor);
        }
    }
    if u.arbitrary()? {
        let tensor = tensor(u)?;
        target.insert(tensor.spec.name.clone(), tensor);
    }
    let model = |tensors: BTreeMap<String, Tensor>| Model::new(tensors.into_values().collect());
    Ok((model(base), model(target), options))
}

fn tensor(u: &mut Unstructured<'_>) -> Result<Tensor> {
    let name = format!("t{}{}", u.int_in_range(0..=9)?, ["", ".weight", "é", "\n"][u.choose_index(4)?]);
    let dtype = Dtype::new(DTYPES[u.choose_index(DTYPES.len())?]).unwrap();
    let shape = (0..u.int_in_range(0..=3)?).map(|_| u.int_in_range(0..=20)).collect::<Result<Vec<u64>>>()?;
    let spec = match TensorSpec::new(&name, dtype.clone(), shape.clone()) {
        Ok(spec) => spec,
        // A dtype of unknown size, or elements that fill no whole bytes.
        Err(_) if dtype.bits().is_none() => {
            TensorSpec { name, dtype, shape, byte_len: u.int_in_range(0..=500)? }
        }
        Err(_) => TensorSpec::new(&name, dtype, vec![2, 2]).unwrap(),
    };
    let fill = [Fill::Weights, Fill::Noise, Fill::Extremes, Fill::Zeros][u.choose_index(4)?];
    let mut bytes =
        fill.bytes(spec.dtype.element_format(), spec.byte_len as usize, &mut Rng::new(u.arbitrary()?));
    // Some bytes that the fuzzer chooses.
    for byte in bytes.iter_mut().take(u.int_in_range(0..=64)?) {
        *byte = u.arbitrary()?;
    }
    Ok(Tensor { spec, bytes })
}

/// What becomes of a tensor.
fn successor(u: &mut Unstructured<'_>, tensor: &Tensor) -> Result<Option<Tensor>> {
    let mut new = tensor.clone();
    match u.int_in_range(0..=5)? {
        0 => return Ok(None),
        1 => new.spec.shape.push(1),
        2 => {
            return self::tensor(u).map(|other| {
                let spec = TensorSpec { name: tensor.spec.name.clone(), ..other.spec };
                Some(Tensor { spec, ..other })
            });
        }
        _ => {}
    }
    let change =
        [Change::Ulp, Change::Few, Change::Sign, Change::Noise, Change::Extremes][u.choose_index(5)?];
    let density = u.int_in_range(0..=1000)?;
    change.apply(new.spec.dtype.element_format(), density, &mut new.bytes, &mut Rng::new(u.arbitrary()?));
    Ok(Some(new))
}

/// Some bytes to make pairs of.
pub(super) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    ["a", "b", "c", "d", "e", "f"]
        .into_iter()
        .zip(1_u64..)
        .map(|(name, seed)| {
            let format = tensorpatch_format::ElementFormat::W8;
            (name, Fill::Noise.bytes(format, 400, &mut Rng::new(seed)))
        })
        .collect()
}
