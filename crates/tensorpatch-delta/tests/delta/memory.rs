//! Patches of tensors in memory: byte for byte those of files.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::common::options;
use proptest::prelude::*;
use safetensors::tensor::TensorView;
use safetensors::{SafeTensors, View, serialize};
use tensorpatch_checkpoint::{Checkpoint, ViewError, dtype_to_safetensors, view_of};
use tensorpatch_delta::{
    Diff, DiffError, MemoryState, Options, Others, Patch, Progress, Snapshot, TensorDiff, TensorsError, diff,
    diff_tensors, encode_diff, encode_full, full, full_tensors,
};
use tensorpatch_format::{ErrorKind, Limits};
use tensorpatch_testkit::{Model, Pair, Size, Tensor, pairs};

/// A pair without dtypes that the crate does not know.
fn known_pairs(size: Size) -> impl Strategy<Value = Pair> {
    let known = |model: Model| {
        let is_known = |tensor: &&Tensor| view_of(&tensor.spec, &tensor.bytes).is_ok();
        Model::new(model.tensors().iter().filter(is_known).cloned().collect())
    };
    pairs(size).prop_map(move |Pair { base, target, .. }| Pair { base: known(base), target: known(target) })
}

fn views(model: &Model) -> Vec<(&str, TensorView<'_>)> {
    let tensors = model.tensors().iter();
    tensors.map(|Tensor { spec, bytes }| (spec.name.as_str(), view_of(spec, bytes).unwrap())).collect()
}

/// The file that the crate makes of a model.
fn file_of(model: &Model) -> Vec<u8> {
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    serialize(views(model), Some(metadata)).unwrap()
}

fn put(path: &Path, model: &Model) {
    fs::write(path, file_of(model)).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_patch_of_tensors_one_at_a_time_is_that_of_files(
        pair in known_pairs(Size::Small), options in options(), reversed in any::<bool>()
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (base, target) = (dir.path().join("base"), dir.path().join("target"));
        put(&base, &pair.base);
        put(&target, &pair.target);
        let (mut expected, mut found, mut expected_full, mut found_full) = (vec![], vec![], vec![], vec![]);
        let report =
            Diff::open(Some(&base), &target, options.clone()).unwrap().write_to(&mut expected).unwrap();
        Diff::open(None, &target, options.clone()).unwrap().write_to(&mut expected_full).unwrap();
        let mut tensors = views(&pair.target);
        if reversed {
            tensors.reverse();
        }
        let made = diff_tensors(&base, tensors.clone()).unwrap().with_options(options.clone());
        let again = made.with_others(Others::Removed).write_to(&mut found).unwrap();
        prop_assert!(found == expected);
        prop_assert_eq!(
            (again.kind, again.base, again.target, again.changed_elements, again.encodings, again.leaves),
            (report.kind, report.base, report.target, report.changed_elements, report.encodings, report.leaves)
        );
        full_tensors(tensors).with_options(options).write_to(&mut found_full).unwrap();
        prop_assert!(found_full == expected_full);
        // What a receiver makes of it is what the crate would have written.
        let rebuilt = dir.path().join("rebuilt");
        Patch::parse(&found, &Limits::default()).unwrap().apply(&base, &rebuilt).unwrap();
        prop_assert!(fs::read(&rebuilt).unwrap() == file_of(&pair.target));
    }

    #[test]
    fn the_patch_of_states_in_memory_is_that_of_files_and_decodes_to_the_state(
        pair in known_pairs(Size::Small), options in options()
    ) {
        let dir = tempfile::tempdir().unwrap();
        let paths = [dir.path().join("base"), dir.path().join("target")];
        put(&paths[0], &pair.base);
        put(&paths[1], &pair.target);
        let (mut expected, mut found, mut whole) = (vec![], vec![], vec![]);
        Diff::open(Some(&paths[0]), &paths[1], options.clone()).unwrap().write_to(&mut expected).unwrap();
        let file = file_of(&pair.base);
        let base = MemoryState::of(&SafeTensors::deserialize(&file).unwrap()).unwrap();
        let tensors = views(&pair.target);
        let target = MemoryState::new(tensors.iter().map(|(name, view)| (name, view))).unwrap();
        encode_diff(&base.snapshot(), &target.snapshot(), &options, Progress::none(), &mut found).unwrap();
        prop_assert!(found == expected);
        encode_full(&target.snapshot(), &options, Progress::none(), &mut whole).unwrap();
        for (bytes, base) in [(&found, Some(&base)), (&whole, None)] {
            let patch = Patch::parse(bytes, &Limits::default()).unwrap();
            let decoded = MemoryState::decode(base, &patch, &options, Progress::none()).unwrap();
            prop_assert_eq!(serialize(decoded.views().unwrap(), None).unwrap(), serialize(views(&pair.target), None).unwrap());
            // It is the base of the next patch, with the same files.
            prop_assert_eq!(decoded.snapshot().layout, target.snapshot().layout);
        }
    }

    #[test]
    fn tensors_that_are_not_given_stay(pair in known_pairs(Size::Small), options in options()) {
        let dir = tempfile::tempdir().unwrap();
        let paths = [dir.path().join("base"), dir.path().join("target")];
        // Every second tensor of the target over the base.
        let given: Vec<_> = pair.target.tensors().iter().step_by(2).cloned().collect();
        let kept = pair.base.tensors().iter().filter(|old| given.iter().all(|new| new.spec.name != old.spec.name));
        let whole = Model::new(given.iter().chain(kept).cloned().collect());
        put(&paths[0], &pair.base);
        put(&paths[1], &whole);
        let (mut expected, mut found) = (vec![], vec![]);
        Diff::open(Some(&paths[0]), &paths[1], options.clone()).unwrap().write_to(&mut expected).unwrap();
        let given = Model::new(given);
        let made = diff_tensors(&paths[0], views(&given)).unwrap().with_options(options);
        made.with_others(Others::Kept).write_to(&mut found).unwrap();
        prop_assert!(found == expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn tensors_of_several_chunks_give_the_patch_of_files_too(
        pair in known_pairs(Size::Chunks), options in options()
    ) {
        let dir = tempfile::tempdir().unwrap();
        let paths = [dir.path().join("base"), dir.path().join("target")];
        put(&paths[0], &pair.base);
        put(&paths[1], &pair.target);
        let (mut expected, mut found) = (vec![], vec![]);
        Diff::open(Some(&paths[0]), &paths[1], options.clone()).unwrap().write_to(&mut expected).unwrap();
        let made = diff_tensors(&paths[0], views(&pair.target)).unwrap().with_options(options);
        made.with_others(Others::Removed).write_to(&mut found).unwrap();
        prop_assert!(found == expected);
    }
}

fn model(tensors: &[(&str, &str, &[u64], &[u8])]) -> Model {
    let tensor = |&(name, dtype, shape, bytes): &(&str, &str, &[u64], &[u8])| {
        Tensor::new(name, dtype, shape, bytes.to_vec())
    };
    Model::new(tensors.iter().map(tensor).collect())
}

/// A tensor that counts itself while it is alive.
struct Counted<'a> {
    bytes: Vec<u8>,
    alive: &'a AtomicUsize,
}

impl View for Counted<'_> {
    fn dtype(&self) -> safetensors::Dtype {
        safetensors::Dtype::U8
    }

    fn shape(&self) -> &[usize] {
        &[4]
    }

    fn data(&self) -> Cow<'_, [u8]> {
        // As one that lies on an accelerator.
        Cow::Owned(self.bytes.clone())
    }

    fn data_len(&self) -> usize {
        4
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

#[test]
fn no_two_tensors_of_an_iterator_are_alive_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("base");
    let (alive, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let names: Vec<String> = (0..20).map(|n| format!("t{n:02}")).collect();
    put(&base, &Model::new(names.iter().map(|name| Tensor::new(name, "U8", &[4], vec![0; 4])).collect()));
    let tensors = names.iter().map(|name| {
        most.fetch_max(alive.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        (name, Counted { bytes: vec![1; 4], alive: &alive })
    });
    let mut patch = Vec::new();
    let report = diff_tensors(&base, tensors).unwrap().write_to(&mut patch).unwrap();
    assert_eq!(report.changed_elements, 80);
    assert_eq!((alive.into_inner(), most.into_inner()), (0, 1));
}

#[test]
fn a_base_of_shards_keeps_them_while_it_has_the_same_tensors() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::create_dir(path("base")).unwrap();
    let (a, b) = (model(&[("a", "U8", &[2], &[1, 2])]), model(&[("b", "U8", &[1], &[3])]));
    put(&path("base/model-1.safetensors"), &a);
    put(&path("base/model-2.safetensors"), &b);
    let index = r#"{"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors"}}"#;
    fs::write(path("base/model.safetensors.index.json"), index).unwrap();
    let next = model(&[("a", "U8", &[2], &[1, 9]), ("b", "U8", &[1], &[3])]);
    diff_tensors(path("base"), views(&next)).unwrap().write(path("step.tpatch")).unwrap();
    Patch::open(path("step.tpatch")).unwrap().apply(path("base"), path("rebuilt")).unwrap();
    let rebuilt = Checkpoint::open(&path("rebuilt"), &Limits::default()).unwrap();
    assert_eq!(rebuilt.layout().files().len(), 2);
    assert_eq!(
        fs::read(path("rebuilt/model-1.safetensors")).unwrap(),
        file_of(&model(&[("a", "U8", &[2], &[1, 9])]))
    );
    // Another tensor makes it one file, as the crate would write it.
    let grown = model(&[("a", "U8", &[2], &[1, 9]), ("b", "U8", &[1], &[3]), ("c", "F32", &[0], &[])]);
    diff_tensors(path("base"), views(&grown)).unwrap().write(path("step.tpatch")).unwrap();
    Patch::open(path("step.tpatch")).unwrap().apply(path("base"), path("grown")).unwrap();
    assert_eq!(fs::read(path("grown/model.safetensors")).unwrap(), file_of(&grown));
}

#[test]
fn positions_and_values_give_the_patch_of_the_whole_tensors() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let old = model(&[("a", "U16", &[4], &[1, 0, 2, 0, 3, 0, 4, 0]), ("b", "U8", &[1], &[3])]);
    let new = model(&[("a", "U16", &[4], &[1, 0, 7, 0, 3, 0, 9, 1]), ("b", "U8", &[1], &[3])]);
    put(&path("base"), &old);
    put(&path("target"), &new);
    let (mut expected, mut found) = (Vec::new(), Vec::new());
    diff(path("base"), path("target")).unwrap().write_to(&mut expected).unwrap();
    let base = Checkpoint::open(&path("base"), &Limits::default()).unwrap();
    let base = Snapshot::of(&base).unwrap();
    let start = || TensorDiff::new(Some(&base), &Options::default(), Progress::none()).unwrap();
    let mut changes = start();
    changes.add_changes("a", &[1, 3], &[7, 0, 9, 1]).unwrap();
    changes.finish(Others::Kept, &mut found).unwrap();
    assert!(found == expected);
    let refusal = |name: &str, positions: &[u64]| start().add_changes(name, positions, &[7, 0]).unwrap_err();
    assert!(matches!(refusal("c", &[0]), DiffError::Tensors(TensorsError::NotInBase { .. })));
    assert!(matches!(refusal("a", &[4]), DiffError::NoChanges(_)));
    let mut first = TensorDiff::new(None, &Options::default(), Progress::none()).unwrap();
    let refused = first.add_changes("a", &[0], &[7, 0]).unwrap_err();
    assert!(matches!(refused, DiffError::Tensors(TensorsError::NotInBase { .. })));
}

#[test]
fn tensors_that_make_no_state_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("base");
    put(&base, &model(&[("a", "U8", &[1], &[1]), ("b", "U8", &[1], &[3])]));
    let one = model(&[("a", "U8", &[1], &[2])]);
    let refuse = |tensors: Vec<(&str, TensorView<'_>)>| {
        let error = diff_tensors(&base, tensors).unwrap().write(dir.path().join("patch")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert!(!dir.path().join("patch").exists());
        error
    };
    let missing = refuse(views(&one));
    assert!(matches!(&missing, DiffError::Tensors(TensorsError::Missing { tensor }) if tensor == "b"));
    let twice = refuse([views(&one), views(&one)].concat());
    assert!(matches!(&twice, DiffError::Tensors(TensorsError::Twice { tensor }) if tensor == "a"));
    let alive = AtomicUsize::new(1);
    let short = Counted { bytes: vec![1; 3], alive: &alive };
    let error = full_tensors([("t", short)]).write_to(std::io::sink()).unwrap_err();
    let DiffError::Tensors(TensorsError::View(ViewError::Length { expected: 4, found: 3, .. })) = error
    else {
        panic!("{error:?}")
    };
    let both = views(&one);
    let doubled = MemoryState::new(both.iter().chain(&both).map(|(name, view)| (name, view)));
    assert!(matches!(doubled, Err(TensorsError::View(ViewError::Schema(_)))));
    let unknown = tensorpatch_format::Dtype::new("F3_NEXT_YEAR").unwrap();
    assert_eq!(dtype_to_safetensors(&unknown), None);
}

#[test]
fn cancelling_ends_it_between_tensors() {
    let stop = |_| ControlFlow::Break(());
    let tensors = model(&[("a", "U8", &[1], &[1])]);
    let made = full_tensors(views(&tensors)).with_progress(Progress::stoppable(&stop));
    assert!(matches!(made.write_to(std::io::sink()), Err(DiffError::Cancelled(_))));
}

#[test]
fn changes_that_outgrow_memory_come_back_from_the_temporary_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("target");
    // Noise, which does not shrink.
    let mut state = 7_u64;
    let mut noise = |len: usize| -> Vec<u8> {
        let next = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as u8
        };
        (0..len).map(next).collect()
    };
    let tensors = ["b", "a"].map(|name| Tensor::new(name, "U8", &[40 << 20], noise(40 << 20)));
    let target = Model::new(tensors.to_vec());
    put(&path, &target);
    let (mut expected, mut found) = (Vec::new(), Vec::new());
    full(&path).unwrap().write_to(&mut expected).unwrap();
    let mut tensors = views(&target);
    tensors.reverse();
    full_tensors(tensors).write_to(&mut found).unwrap();
    assert!(found == expected);
}
