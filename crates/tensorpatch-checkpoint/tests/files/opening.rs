//! What is accepted on opening.

use crate::support::{contents, file_of, one_tensor, open, put, put_index, sharded};
use tensorpatch_checkpoint::{CheckpointError, Companions, Placement, SafetensorsHeader};
use tensorpatch_format::{FileLayout, Layout, Limits, TensorIndex};

#[test]
fn a_single_file_of_any_name_is_called_model_safetensors_in_its_layout() {
    let directory = tempfile::tempdir().unwrap();
    let bytes = one_tensor("t", 4);
    let checkpoint = open(&put(directory.path(), "step-7.bin", &bytes)).unwrap();
    assert!(!checkpoint.is_directory());
    assert_eq!(checkpoint.companions(&[]).unwrap(), Companions::default());
    let [file] = checkpoint.layout().files() else { panic!() };
    assert_eq!(file.name, "model.safetensors");
    assert_eq!(file.header, bytes[..bytes.len() - 4]);
    assert_eq!(contents(&checkpoint), [("t".to_owned(), vec![0, 1, 2, 3])]);
    assert_eq!(checkpoint.placement().file_len(0), bytes.len() as u64);
    assert_eq!(checkpoint.tensor(TensorIndex(1)), None);
}

#[test]
fn shards_and_index_are_opened_and_kept_verbatim() {
    let directory = tempfile::tempdir().unwrap();
    sharded(directory.path());
    let checkpoint = open(directory.path()).unwrap();
    assert!(checkpoint.is_directory());
    assert_eq!(
        contents(&checkpoint),
        [("x".to_owned(), vec![0, 1, 2]), ("y".to_owned(), vec![0, 1, 2, 3, 4]),]
    );
    let names: Vec<_> = checkpoint.layout().files().iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["a.safetensors", "b.safetensors"]);
    let index = std::fs::read(directory.path().join("model.safetensors.index.json")).unwrap();
    assert_eq!(checkpoint.layout().index(), Some(&index[..]));
}

#[test]
fn unknown_and_sub_byte_dtypes_scalars_and_empty_tensors_are_opened() {
    let directory = tempfile::tempdir().unwrap();
    let json = r#"{
        "scalar":{"dtype":"F64","shape":[],"data_offsets":[0,8]},
        "empty":{"dtype":"BF16","shape":[3,0,5],"data_offsets":[8,8]},
        "first":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},
        "future":{"dtype":"F12_NEXT","shape":[1000],"data_offsets":[8,11],"block_size":32},
        "packed":{"dtype":"F4","shape":[3,2],"data_offsets":[11,14]},
        "overflowing":{"dtype":"U8","shape":[18446744073709551615,18446744073709551615,0],"data_offsets":[14,14]}
    }   "#;
    let checkpoint = open(&put(directory.path(), "t.safetensors", &file_of(json, 14))).unwrap();
    let lens: Vec<_> = contents(&checkpoint).into_iter().map(|(name, bytes)| (name, bytes.len())).collect();
    let expected =
        [("empty", 0), ("first", 0), ("future", 3), ("overflowing", 0), ("packed", 3), ("scalar", 8)];
    assert_eq!(lens, expected.map(|(name, len)| (name.to_owned(), len)));
}

#[test]
fn a_file_without_tensors_is_a_checkpoint() {
    let directory = tempfile::tempdir().unwrap();
    for json in ["{}", r#"{"__metadata__":{"format":"pt"}}"#] {
        let checkpoint = open(&put(directory.path(), "t.safetensors", &file_of(json, 0))).unwrap();
        assert!(checkpoint.tensors().is_empty());
    }
}

#[test]
fn a_replaced_file_leaves_the_opened_one_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = put(directory.path(), "t.safetensors", &one_tensor("t", 4));
    let checkpoint = open(&path).unwrap();
    let other = put(directory.path(), "other", &one_tensor("t", 2));
    std::fs::rename(other, &path).unwrap();
    assert_eq!(contents(&checkpoint), [("t".to_owned(), vec![0, 1, 2, 3])]);
}

fn layout(files: &[(&str, &str)], index: Option<&str>) -> Layout {
    let files = files
        .iter()
        .map(|(name, json)| FileLayout { name: (*name).into(), header: file_of(json, 0) })
        .collect();
    Layout::new(files, index.map(|json| json.as_bytes().to_vec())).unwrap()
}

const X: &str = r#"{"x":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}"#;
const Y: &str = r#"{"y":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}"#;

#[test]
fn a_placement_is_refused_where_layout_schema_and_index_disagree() {
    let directory = tempfile::tempdir().unwrap();
    let schema_of = |json: &str| {
        open(&put(directory.path(), "t.safetensors", &file_of(json, 3))).unwrap().schema().clone()
    };
    let (x, y) = (schema_of(X), schema_of(Y));
    let single = "model.safetensors";
    let place = |schema, layout: &Layout| Placement::new(schema, layout, &Limits::default());

    assert_eq!(place(&x, &layout(&[(single, X)], None)).unwrap().locate(TensorIndex(0)), Some((0, 61..64)));
    let error = place(&y, &layout(&[(single, X)], None)).unwrap_err();
    assert!(matches!(error, CheckpointError::UnexpectedTensor { .. }), "{error}");
    let error = place(&x, &layout(&[(single, "{}")], None)).unwrap_err();
    assert!(matches!(error, CheckpointError::MissingTensor { .. }), "{error}");
    let error = place(&x, &layout(&[(single, &X.replace("U8", "I8"))], None)).unwrap_err();
    assert!(matches!(error, CheckpointError::TensorDiffers { .. }), "{error}");
    let error = place(&x, &layout(&[(single, &format!("{X}}}"))], None)).unwrap_err();
    assert!(matches!(error, CheckpointError::Header { .. }), "{error}");

    let index = r#"{"weight_map":{"x":"a.safetensors"}}"#;
    assert!(place(&x, &layout(&[("a.safetensors", X)], Some(index))).is_ok());
    assert!(place(&x, &layout(&[("a.safetensors", X)], None)).is_ok());
    let error = place(&x, &layout(&[("a.safetensors", X), (single, "{}")], None)).unwrap_err();
    assert!(matches!(error, CheckpointError::NoIndex { .. }), "{error}");
    for files in [&[("b.safetensors", X)][..], &[("a.safetensors", X), ("b.safetensors", "{}")]] {
        let error = place(&x, &layout(files, Some(index))).unwrap_err();
        assert!(matches!(error, CheckpointError::Index { .. }), "{error}");
    }
    // A whole file is not a header.
    let mut with_data = file_of(X, 3);
    with_data.push(0);
    let file = FileLayout { name: single.into(), header: with_data };
    let error = place(&x, &Layout::new(vec![file], None).unwrap()).unwrap_err();
    assert!(matches!(error, CheckpointError::Header { .. }), "{error}");
}

#[test]
fn an_index_may_name_model_safetensors_itself() {
    let directory = tempfile::tempdir().unwrap();
    put(directory.path(), "model.safetensors", &one_tensor("x", 3));
    put_index(directory.path(), r#"{"weight_map":{"x":"model.safetensors"}}"#);
    let checkpoint = open(directory.path()).unwrap();
    assert!(checkpoint.layout().index().is_some());
}

#[test]
fn what_other_writers_may_write_is_opened() {
    let directory = tempfile::tempdir().unwrap();
    for (json, name, metadata) in [
        (r#"{"__metadata__":null,"t":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#, "t", None),
        (r#"{"":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"__metadata__":{}}"#, "", Some(0)),
        (" \t\r\n{\"t\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}} \n", "t", None),
    ] {
        let bytes = file_of(json, 4);
        let header = SafetensorsHeader::parse(&bytes, &Limits::default()).unwrap();
        assert_eq!(header.metadata().map(|map| map.len()), metadata, "{json}");
        let checkpoint = open(&put(directory.path(), "t.safetensors", &bytes)).unwrap();
        assert_eq!(contents(&checkpoint), [(name.to_owned(), vec![0, 1, 2, 3])], "{json}");
    }
}
