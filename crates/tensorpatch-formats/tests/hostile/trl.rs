//! Files of TRL.

use tensorpatch_format::Limits;
use tensorpatch_formats::Fault;
use tensorpatch_formats::trl::Patch;
use tensorpatch_testkit::Tensor;

use crate::{file, refused, spec};

type Metadata = Vec<(&'static str, &'static str)>;

fn metadata(flavour: char) -> Metadata {
    let mut metadata = vec![
        ("format", "sparse_weight_patch"),
        ("version", "1"),
        ("model_version", "2"),
        ("num_changed_params", "1"),
        ("total_changed_elements", "2"),
        ("total_elements", "4"),
    ];
    metadata.extend(match flavour {
        'a' => vec![("checksum_sha256", "x"), ("changed_params", "[\"t\"]"), ("prev_model_version", "1")],
        'b' => vec![("sparse", "True"), ("changed_params", "[\"t\"]")],
        'r' => vec![("sparse", "True"), ("encoding", "raw")],
        _ => vec![("sparse", "True"), ("encoding", "gap_delta")],
    });
    metadata
}

fn indices(name: &str, positions: &[i32]) -> Tensor {
    let bytes = positions.iter().flat_map(|position| position.to_le_bytes()).collect();
    Tensor::new(name, "I32", &[positions.len() as u64], bytes)
}

fn values(name: &str, count: usize) -> Tensor {
    Tensor::new(name, "BF16", &[count as u64], vec![1; 2 * count])
}

/// Two changes of `t`.
fn tensors(flavour: char) -> Vec<Tensor> {
    match flavour {
        'a' | 'b' => vec![indices("t.indices", &[0, 3]), values("t.values", 2)],
        'r' => vec![indices("t.idx", &[0, 3]), values("t.val", 2)],
        _ => vec![Tensor::new("t.idx", "U16", &[2], vec![0, 0, 2, 0]), values("t.val", 2)],
    }
}

/// Reads a delta and applies it to `t` of this dtype.
fn decode(tensors: &[Tensor], metadata: &[(&str, &str)], dtype: &str) -> Result<Vec<u8>, Fault> {
    let bytes = file(tensors, metadata);
    let Patch::Delta(delta) = Patch::parse(&bytes, &Limits::default())? else { panic!("an anchor") };
    let spec = spec("t", dtype, &[4]);
    let change = delta.decode(&spec)?.unwrap();
    change.apply(&vec![0; spec.byte_len as usize]).map_err(Into::into)
}

fn with(mut metadata: Metadata, key: &'static str, value: &'static str) -> Metadata {
    metadata.retain(|(other, _)| *other != key);
    metadata.push((key, value));
    metadata
}

#[test]
fn metadata_that_are_broken_or_contradict_the_tensors_are_refused() {
    for flavour in ['a', 'b', 'r', 'g'] {
        assert_eq!(decode(&tensors(flavour), &metadata(flavour), "BF16").unwrap(), [1, 1, 0, 0, 0, 0, 1, 1]);
        for (key, value, words) in [
            ("version", "2", "version: expected 1, found 2"),
            ("model_version", "two", "model_version: expected a number, found two"),
            ("format", "dense", "expected sparse_weight_patch or anchor_checkpoint, found dense"),
            ("num_changed_params", "2", "num_changed_params: expected 1, found 2"),
            ("total_changed_elements", "3", "total_changed_elements: expected 2, found 3"),
            ("sparse", "maybe", "sparse: expected True or False, found maybe"),
            ("encoding", "nvcomp_cascaded", "encoding: expected raw or gap_delta, found nvcomp_cascaded"),
            ("prev_model_version", "-1", "prev_model_version: expected a number"),
            ("changed_params", "[\"u\"]", "changed_params: expected the names of the tensors, found u"),
            ("changed_params", "[\"t\",\"t\"]", "a name in changed_params occurs twice"),
            ("changed_params", "t", "broken JSON"),
        ] {
            refused(decode(&tensors(flavour), &with(metadata(flavour), key, value), "BF16"), words);
        }
        for key in ["version", "model_version", "format", "num_changed_params", "total_changed_elements"] {
            let mut without = metadata(flavour);
            without.retain(|(other, _)| *other != key);
            refused(decode(&tensors(flavour), &without, "BF16"), &format!("{key} is missing"));
        }
    }
    refused(decode(&tensors('a'), &[], "BF16"), "__metadata__ is missing");
}

#[test]
fn positions_and_values_that_do_not_pair_are_refused() {
    for flavour in ['a', 'r'] {
        let [first, second] = <[Tensor; 2]>::try_from(tensors(flavour)).unwrap();
        let metadata = metadata(flavour);
        let check = |tensors: &[Tensor], words| refused(decode(tensors, &metadata, "BF16"), words);
        check(std::slice::from_ref(&first), "the list of values is missing");
        check(std::slice::from_ref(&second), "the list of positions is missing");
        check(&[first.clone(), second.clone(), values("u", 1)], "name: expected NAME.");
        let index = first.spec.name.clone();
        let value = second.spec.name.clone();
        check(&[indices(&index, &[0]), second.clone()], "positions: expected 2, found 1");
        check(
            &[Tensor::new(&index, "I32", &[2, 1], vec![0; 8]), second.clone()],
            "dims: expected 1, found 2",
        );
        check(
            &[first.clone(), Tensor::new(&value, "BF16", &[1, 2], vec![0; 4])],
            "dims: expected 1, found 2",
        );
        check(
            &[Tensor::new(&index, "U32", &[2], vec![0; 8]), second.clone()],
            "dtype of positions: expected I32",
        );
        check(
            &[first.clone(), Tensor::new(&value, "F16", &[2], vec![0; 4])],
            "dtype of values: expected BF16",
        );
        for (positions, words) in [
            ([-1, 3], "number 0 of those listed"),
            ([3, 3], "position 3, number 1"),
            ([3, 0], "position 0, number 1"),
            ([0, 4], "position 4, number 1"),
        ] {
            check(&[indices(&index, &positions), second.clone()], words);
        }
    }
    let wrong = Tensor::new("t.idx", "I32", &[2], vec![0; 8]);
    refused(
        decode(&[wrong, values("t.val", 2)], &metadata('g'), "BF16"),
        "dtype of positions: expected U16 or U32",
    );
    let far = Tensor::new("t.idx", "U16", &[2], vec![0, 0, 3, 0]);
    refused(decode(&[far, values("t.val", 2)], &metadata('g'), "BF16"), "position 4, number 1");
}

#[test]
fn bf16_values_for_a_tensor_of_another_dtype_are_refused() {
    refused(decode(&tensors('a'), &metadata('a'), "F16"), "dtype in the base: expected BF16, found F16");
}

#[test]
fn more_positions_than_elements_are_refused_before_they_are_read() {
    let tensors = [indices("t.indices", &[0, 1, 2, 3, 4]), values("t.values", 5)];
    let metadata = with(metadata('b'), "total_changed_elements", "5");
    refused(decode(&tensors, &metadata, "BF16"), "positions: expected at most 4, found 5");
}

#[test]
fn the_mark_of_an_empty_delta_beside_changes_is_refused() {
    let mut tensors = tensors('a');
    tensors.push(indices("__empty_delta__", &[0]));
    refused(decode(&tensors, &metadata('a'), "BF16"), "__empty_delta__: expected no other tensor");
    // Other flavours have no such mark.
    let mut tensors = self::tensors('b');
    tensors.push(indices("__empty_delta__", &[0]));
    refused(decode(&tensors, &metadata('b'), "BF16"), "name: expected NAME.indices or NAME.values");
}
