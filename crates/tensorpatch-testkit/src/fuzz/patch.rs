//! Patch files.

use tensorpatch_checkpoint::generate_layout;
use tensorpatch_delta::{
    LeafTable, Options, Patch, Progress, Snapshot, State, apply_chunks, encode_diff, encode_full,
};
use tensorpatch_format::{self as format, ChunkAddress, ErrorClass, Kind, Profile, Violation};

use super::limits;
use crate::{Change, Fill, Model, Rng, Tensor, repair_checksums};

/// A patch is refused with an offset in it, or its parts agree with each other and every prefix of it is
/// truncated; so too when its checksums have been made right.
pub fn parse_patch(bytes: &[u8]) {
    check_patch(bytes);
    let mut repaired = bytes.to_vec();
    repair_checksums(&mut repaired);
    check_patch(&repaired);
}

fn check_patch(bytes: &[u8]) {
    let patch = match format::PatchView::parse(bytes, &limits()) {
        Ok(patch) => patch,
        Err(error) => {
            assert!(error.offset <= bytes.len() as u64, "{error}");
            assert!(error.to_string().len() < 4096);
            return;
        }
    };
    assert_eq!(patch.trailer().file_len, bytes.len() as u64);
    // Over several blocks the order is a matter of the grid, which is not at hand here.
    let mut addresses = Vec::new();
    for block in patch.blocks() {
        let of_block: Vec<_> = block.records().map(|record| record.address).collect();
        assert!(of_block.is_sorted_by(|a, b| a < b));
        addresses.extend(of_block);
    }
    assert_eq!(addresses, patch.index().addresses());
    for len in [0, bytes.len() / 2, bytes.len() - 1] {
        let error = format::PatchView::parse(&bytes[..len], &limits()).unwrap_err();
        assert!(matches!(error.violation, Violation::Truncated { .. }), "{len}: {error}");
    }
}

/// On a given base, a patch is refused, or what it makes has the digest that it says.
pub fn apply_patch(bytes: &[u8]) {
    check_application(bytes);
    let mut repaired = bytes.to_vec();
    repair_checksums(&mut repaired);
    check_application(&repaired);
}

fn check_application(bytes: &[u8]) {
    let options = options(Profile::Compact);
    let patch = match Patch::parse(bytes, &options.limits) {
        Ok(patch) => patch,
        Err(error) => {
            assert!(error.offset <= bytes.len() as u64, "{error}");
            return;
        }
    };
    let model = base();
    let state = state(&model);
    let base = (patch.kind() != Kind::Full).then_some(&state);
    let chunks = std::sync::Mutex::new(std::collections::BTreeMap::<ChunkAddress, Vec<u8>>::new());
    let keep = |address, bytes: &[u8]| {
        let twice = chunks.lock().unwrap().insert(address, bytes.to_vec());
        assert!(twice.is_none(), "{address:?} is written twice");
    };
    let leaves = match apply_chunks(base, &patch, &options, Progress::none(), &keep) {
        Ok(leaves) => leaves,
        Err(error) => {
            assert!(error.class().is_some_and(|class| class != ErrorClass::Truncated), "{error}");
            return;
        }
    };
    let schema = patch.listed_schema().unwrap_or(model.schema());
    let chunks = chunks.into_inner().unwrap();
    let mut tensors = vec![Vec::new(); schema.tensors().len()];
    for (address, bytes) in &chunks {
        tensors[address.tensor.0 as usize].extend_from_slice(bytes);
    }
    let target = State::new(schema, tensors.iter().map(Vec::as_slice).collect()).unwrap();
    let recomputed = LeafTable::of(&target, patch.leaf_hash(), options.threads, Progress::none()).unwrap();
    assert_eq!(recomputed, leaves);
    assert_eq!(recomputed.state_digest(schema), patch.target_digest());
}

fn options(profile: Profile) -> Options {
    Options::default().with_threads(std::num::NonZeroUsize::MIN).with_profile(profile).with_limits(limits())
}

/// A few tensors of different formats, always the same.
pub(super) fn base() -> Model {
    let mut rng = Rng::new(1);
    let mut tensor = |name: &str, dtype: &str, shape: &[u64], len| {
        let format = format::Dtype::new(dtype).unwrap().element_format();
        Tensor::new(name, dtype, shape, Fill::Weights.bytes(format, len, &mut rng))
    };
    Model::new(vec![
        tensor("a", "BF16", &[3, 300], 1800),
        tensor("b", "F32", &[], 4),
        tensor("c", "U8", &[0], 0),
        tensor("d", "F8_E4M3", &[600], 600),
        tensor("e", "I64", &[5], 40),
    ])
}

/// Patches from and to the base of [`apply_patch`].
pub(super) fn real_patches() -> Vec<(&'static str, Vec<u8>)> {
    let base = base();
    let target = |change: Change, density| {
        let mut rng = Rng::new(2);
        let mut tensors = base.tensors().to_vec();
        for Tensor { spec, bytes } in &mut tensors {
            change.apply(spec.dtype.element_format(), density, bytes, &mut rng);
        }
        tensors
    };
    let mut other_schema = target(Change::Ulp, 10);
    other_schema.remove(3);
    other_schema.push(Tensor::new("new", "BF16", &[4], vec![0x3f; 8]));
    other_schema[0].spec.shape = vec![900];
    let cases = [
        ("sparse", target(Change::Ulp, 20), Profile::Compact),
        ("scatter", target(Change::Few, 20), Profile::Direct),
        ("dense", target(Change::Few, 1000), Profile::Compact),
        ("noise", target(Change::Noise, 1000), Profile::Compact),
        ("empty", target(Change::Ulp, 0), Profile::Compact),
        ("schema", other_schema, Profile::Compact),
    ];
    let patch = |base: Option<&Model>, target: &Model, profile| {
        let layouts = [base.unwrap_or(target), target].map(|model| generate_layout(model.schema()).unwrap());
        let [base_layout, target_layout] = &layouts;
        let version = |model, layout| Snapshot { state: state(model), layout, leaves: None };
        let mut out = Vec::new();
        let (target, options) = (version(target, target_layout), options(profile));
        match base {
            Some(base) => {
                encode_diff(&version(base, base_layout), &target, &options, Progress::none(), &mut out)
            }
            None => encode_full(&target, &options, Progress::none(), &mut out),
        }
        .unwrap();
        out
    };
    let mut patches = vec![("full", patch(None, &base, Profile::Compact))];
    for (name, tensors, profile) in cases {
        patches.push((name, patch(Some(&base), &Model::new(tensors), profile)));
    }
    patches
}

pub(super) fn state(model: &Model) -> State<'_> {
    State::new(model.schema(), model.slices()).unwrap()
}
