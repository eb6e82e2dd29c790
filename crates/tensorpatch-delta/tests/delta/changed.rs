//! What changes, tensor by tensor: scattered into the base it is the target.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use proptest::prelude::*;
use tensorpatch_checkpoint::{generate_layout, view_of};
use tensorpatch_delta::{
    ApplyError, ChangedTensor, ChangedTensors, LeafTable, Options, Patch, Progress, Snapshot, State,
    StateHasher, encode_diff, encode_full,
};
use tensorpatch_format::{Limits, Profile, TaggedStateDigest};
use tensorpatch_testkit::{Model, Pair, Size, Tensor, pairs};

fn state(model: &Model) -> State<'_> {
    State::new(model.schema(), model.slices()).unwrap()
}

fn patch(base: Option<&Model>, target: &Model, options: &Options) -> Vec<u8> {
    let layouts =
        (base.map(|base| generate_layout(base.schema()).unwrap()), generate_layout(target.schema()));
    let layout = layouts.1.unwrap();
    let to = Snapshot { state: state(target), layout: &layout, leaves: None };
    let mut bytes = Vec::new();
    match base.zip(layouts.0.as_ref()) {
        None => encode_full(&to, options, Progress::none(), &mut bytes).unwrap(),
        Some((base, layout)) => {
            let from = Snapshot { state: state(base), layout, leaves: None };
            encode_diff(&from, &to, options, Progress::none(), &mut bytes).unwrap()
        }
    };
    bytes
}

/// What a receiver holds after it has scattered the changes into a copy of the base.
fn scattered(base: &Model, changed: &ChangedTensors<'_>, target: &Model) -> BTreeMap<String, Vec<u8>> {
    let of = |model: &Model| -> BTreeMap<String, Vec<u8>> {
        model.tensors().iter().map(|tensor| (tensor.spec.name.clone(), tensor.bytes.clone())).collect()
    };
    let mut held = of(base);
    held.retain(|name, _| target.schema().find(name).is_some());
    for tensor in changed.iter() {
        let ChangedTensor { spec, positions, values, .. } = tensor.unwrap();
        let Some(positions) = positions else {
            held.insert(spec.name, values);
            continue;
        };
        assert!(positions.is_sorted_by(|a, b| a < b), "ascending, and none twice");
        let width = spec.dtype.element_format().width();
        let bytes = held.get_mut(&spec.name).unwrap();
        assert_eq!(positions.len() * width, values.len());
        for (position, value) in positions.iter().zip(values.chunks(width)) {
            let place = &mut bytes[*position as usize * width..][..width];
            assert_ne!(place, value, "only what changes");
            place.copy_from_slice(value);
        }
    }
    held
}

fn bytes(model: &Model) -> BTreeMap<String, Vec<u8>> {
    model.tensors().iter().map(|tensor| (tensor.spec.name.clone(), tensor.bytes.clone())).collect()
}

fn options(threads: usize, profile: Profile) -> Options {
    Options::default().with_threads(NonZeroUsize::new(threads).unwrap()).with_profile(profile)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn changes_scattered_into_the_base_are_the_target(
        pair in pairs(Size::Small), threads in 1_usize..4, direct in any::<bool>(),
    ) {
        let Pair { base, target, .. } = pair;
        let options = options(threads, if direct { Profile::Direct } else { Profile::Compact });
        let between = ChangedTensors::between(Some(state(&base)), state(&target), &options);
        prop_assert_eq!(scattered(&base, &between, &target), bytes(&target));

        let delta = patch(Some(&base), &target, &options);
        let patches = [Patch::parse(&delta, &Limits::default()).unwrap()];
        let by_patch = ChangedTensors::by_patches(Some(state(&base)), &patches, &options).unwrap();
        let collect = |changed: &ChangedTensors<'_>| changed.iter().map(Result::unwrap).collect::<Vec<_>>();
        prop_assert_eq!(collect(&by_patch), collect(&between));

        let full = patch(None, &target, &options);
        let patches = [Patch::parse(&full, &Limits::default()).unwrap()];
        let whole = ChangedTensors::by_patches(None, &patches, &options).unwrap();
        prop_assert_eq!(scattered(&Model::new(Vec::new()), &whole, &target), bytes(&target));
    }

    #[test]
    fn tensors_hashed_one_at_a_time_have_the_digest_of_the_state(pair in pairs(Size::Small)) {
        let known = pair.base.tensors().iter().filter(|t| view_of(&t.spec, &t.bytes).is_ok());
        let model = Model::new(known.cloned().collect());
        let options = Options::default();
        let mut hasher = StateHasher::new(&options, Progress::none());
        for Tensor { spec, bytes } in model.tensors().iter().rev() {
            hasher.add(&spec.name, &view_of(spec, bytes).unwrap()).unwrap();
        }
        let leaves = LeafTable::of(&state(&model), options.leaf_hash, options.threads, Progress::none());
        let digest = leaves.unwrap().state_digest(model.schema());
        prop_assert_eq!(hasher.finish().unwrap(), TaggedStateDigest { leaf_hash: options.leaf_hash, digest });
    }
}

/// One tensor of some chunks whose elements at `changed` are other than zero.
fn model(changed: &[(usize, u8)]) -> Model {
    let mut bytes = vec![0; 5 << 19];
    changed.iter().for_each(|&(at, value)| bytes[at] = value);
    let len = bytes.len() as u64;
    Model::new(vec![Tensor::new("w", "U8", &[len], bytes)])
}

#[test]
fn patches_one_after_the_other_are_taken_together() {
    let options = options(2, Profile::Compact);
    let steps = [
        model(&[]),
        model(&[(3, 1), (2 << 20, 1)]),
        model(&[(3, 1), (4, 2)]),
        model(&[(3, 5), (1 << 20, 7)]),
    ];
    let written: Vec<Vec<u8>> =
        steps.windows(2).map(|pair| patch(Some(&pair[0]), &pair[1], &options)).collect();
    let patches: Vec<Patch<'_>> =
        written.iter().map(|bytes| Patch::parse(bytes, &Limits::default()).unwrap()).collect();
    let changed = ChangedTensors::by_patches(Some(state(&steps[0])), &patches, &options).unwrap();
    let tensors: Vec<ChangedTensor> = changed.iter().map(Result::unwrap).collect();
    // What was changed and changed back is not told.
    assert_eq!(tensors.len(), 1);
    assert_eq!(tensors[0].positions.as_deref(), Some(&[3, 1 << 20][..]));
    assert_eq!(tensors[0].values, [5, 7]);

    let gap = [
        Patch::parse(&written[0], &Limits::default()).unwrap(),
        Patch::parse(&written[2], &Limits::default()).unwrap(),
    ];
    let error = ChangedTensors::by_patches(Some(state(&steps[0])), &gap, &options).unwrap_err();
    assert!(matches!(error, ApplyError::WrongBase { .. }), "{error}");
}

#[test]
fn a_patch_over_another_base_is_found_out_by_its_chunks() {
    let options = options(1, Profile::Compact);
    let (base, target, other) = (model(&[]), model(&[(3, 1)]), model(&[(9, 1)]));
    let written = patch(Some(&base), &target, &options);
    let patches = [Patch::parse(&written, &Limits::default()).unwrap()];
    let changed = ChangedTensors::by_patches(Some(state(&other)), &patches, &options).unwrap();
    let error = changed.iter().next().unwrap().unwrap_err();
    assert!(matches!(error, ApplyError::Chunk { .. }), "{error}");
}

#[test]
fn a_tensor_of_which_more_than_half_changes_is_whole() {
    let options = options(3, Profile::Compact);
    let base = model(&[]);
    let len = base.tensors()[0].bytes.len();
    for (count, whole) in [(len / 2, false), (len / 2 + 1, true), (len, true)] {
        let every: Vec<(usize, u8)> = (0..count).map(|at| (at, 1)).collect();
        let target = model(&every);
        let changed = ChangedTensors::between(Some(state(&base)), state(&target), &options);
        let tensor = changed.iter().next().unwrap().unwrap();
        assert_eq!(tensor.positions.is_none(), whole, "{count} of {len}");
        assert_eq!(scattered(&base, &changed, &target), bytes(&target));
    }
}
