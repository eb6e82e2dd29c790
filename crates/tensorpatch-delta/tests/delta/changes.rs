//! Patches from lists of changes.

use crate::common::{Tensor, bf16, nudged, open, patch_between, raw, write};
use tensorpatch_delta::{
    ChangesError, DiffError, LeafTable, Options, Progress, Snapshot, State, TensorChanges, encode_changes,
};
use tensorpatch_format::{Profile, TensorIndex};

const MIB: usize = 1 << 20;

/// The elements that differ, and every `also`th, with their values in `target`.
fn listed(base: &Tensor, target: &Tensor, width: usize, also: usize) -> (Vec<u64>, Vec<u8>) {
    let pairs = base.bytes.chunks(width).zip(target.bytes.chunks(width));
    let listed = (0..).zip(pairs).filter(|(i, (old, new))| old != new || i % also as u64 == 0);
    let (positions, values): (Vec<u64>, Vec<&[u8]>) = listed.map(|(i, (_, new))| (i, new)).unzip();
    (positions, values.concat())
}

fn index(number: u32) -> TensorIndex {
    TensorIndex(number)
}

#[test]
fn listed_changes_give_the_patch_of_the_two_states_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let bytes: Vec<u8> = (0..251).cycle().take(3 * MIB).collect();
    let mut moved = bytes.clone();
    moved.iter_mut().step_by(40_000).for_each(|byte| *byte ^= 0x11);
    let whole = raw("f32", "F32", &[3 * MIB as u64 / 4], &bytes);
    let base = [
        bf16("big", &[3, MIB as u64 / 3 * 2], 1),
        whole.clone(),
        bf16("norm", &[7], 2),
        bf16("same", &[9], 3),
    ];
    let target = [
        nudged(&base[0], 97),
        Tensor { spec: whole.spec.clone(), bytes: moved },
        nudged(&base[2], 3),
        base[3].clone(),
    ];
    let base_path = write(&dir.path().join("base.safetensors"), &base);
    let target_path = write(&dir.path().join("target.safetensors"), &target);
    let lists: Vec<_> =
        base.iter().zip(&target).zip([2, 4, 2, 2]).map(|((a, b), width)| listed(a, b, width, 1000)).collect();
    // Schemas are in the order of names: big, f32, norm, same.
    let changes: Vec<_> = (0..)
        .zip(&lists)
        .map(|(i, (positions, values))| TensorChanges { tensor: index(i), positions, values })
        .collect();
    let checkpoint = open(&base_path);
    for profile in [Profile::Compact, Profile::Direct] {
        let options = Options::default().with_profile(profile);
        let (expected, report) = patch_between(&base_path, &target_path, &options);
        let state = State::of(&checkpoint).unwrap();
        let leaves = LeafTable::of(&state, options.leaf_hash, options.threads, Progress::none()).unwrap();
        for leaves in [None, Some(&leaves)] {
            let base = Snapshot { state: state.clone(), layout: checkpoint.layout(), leaves };
            let mut patch = Vec::new();
            let found = encode_changes(&base, &changes, &options, Progress::none(), &mut patch).unwrap();
            assert!(patch == expected);
            assert_eq!((found.base, found.target), (report.base, report.target));
            assert_eq!(found.changed_elements, report.changed_elements);
        }
    }
}

#[test]
fn changes_that_are_none_of_the_base_are_refused_with_the_tensor_and_the_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(&dir.path().join("base.safetensors"), &[bf16("a", &[10], 1)]);
    let checkpoint = open(&path);
    let base = Snapshot { state: State::of(&checkpoint).unwrap(), layout: checkpoint.layout(), leaves: None };
    let refused = |changes: &[TensorChanges<'_>]| {
        let mut out = Vec::new();
        let found = encode_changes(&base, changes, &Options::default(), Progress::none(), &mut out);
        assert!(out.is_empty());
        match found.unwrap_err() {
            DiffError::NoChanges(error) => error,
            other => panic!("{other}"),
        }
    };
    let of = |tensor, positions, values| TensorChanges { tensor: index(tensor), positions, values };
    let tensor = || "a".to_owned();
    assert_eq!(refused(&[of(1, &[], &[])]), ChangesError::NoSuchTensor(1));
    assert_eq!(refused(&[of(0, &[], &[]), of(0, &[], &[])]), ChangesError::Twice { tensor: tensor() });
    for (positions, index, position) in [(&[3, 3][..], 1, 3), (&[4, 3], 1, 3), (&[9, 10], 1, 10)] {
        let expected = ChangesError::Position { tensor: tensor(), index, position, elements: 10 };
        assert_eq!(refused(&[of(0, positions, &[0; 4])]), expected);
    }
    let expected = ChangesError::Values { tensor: tensor(), positions: 2, expected: 4, found: 3 };
    assert_eq!(refused(&[of(0, &[1, 2], &[0; 3])]), expected);
}
