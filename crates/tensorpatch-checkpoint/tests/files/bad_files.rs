//! What is refused on opening, and what the refusal says.

use std::path::Path;

use crate::support::{contents, file_of, one_tensor, open, put, put_index, sharded};
use tensorpatch_checkpoint::{
    Checkpoint, CheckpointError, ForeignFile, HeaderError, HeaderPlace, HeaderViolation, IndexError,
    SafetensorsHeader,
};
use tensorpatch_format::{LimitKind, Limits, SchemaError};

fn header_error(path: &Path) -> HeaderError {
    match open(path) {
        Err(CheckpointError::Header { path: named, source }) => {
            assert_eq!(named, path);
            source
        }
        other => panic!("{other:?}"),
    }
}

/// The refusal of a file with this JSON and this many bytes of data.
fn refusal(json: &str, data_len: usize) -> HeaderError {
    let directory = tempfile::tempdir().unwrap();
    header_error(&put(directory.path(), "t.safetensors", &file_of(json, data_len)))
}

fn index_error(directory: &Path) -> IndexError {
    match open(directory) {
        Err(CheckpointError::Index { path, source }) => {
            assert_eq!(path, directory.join("model.safetensors.index.json"));
            source
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_strict_prefix_of_a_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let bytes = one_tensor("t", 16);
    for len in 1..bytes.len() {
        let error = header_error(&put(directory.path(), "t.safetensors", &bytes[..len]));
        let header_len = bytes.len() - 16;
        match error.violation {
            HeaderViolation::Truncated { found, expected } => {
                assert!(len < header_len);
                assert_eq!((found, expected), (len as u64, if len < 8 { 8 } else { header_len as u64 }));
            }
            HeaderViolation::FileLength { expected, found } => {
                assert!(len >= header_len);
                assert_eq!((expected, found), (bytes.len() as u64, len as u64));
            }
            other => panic!("{len}: {other:?}"),
        }
    }
}

#[test]
fn bytes_after_the_data_are_refused() {
    let error = refusal(r#"{"t":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#, 5);
    assert!(matches!(error.violation, HeaderViolation::FileLength { .. }), "{error}");
}

#[test]
fn a_false_header_length_is_refused_before_anything_is_allocated() {
    let directory = tempfile::tempdir().unwrap();
    for (len, too_long) in [(u64::MAX, true), (100_000_001, true), (100_000_000, false)] {
        let mut bytes = len.to_le_bytes().to_vec();
        bytes.extend_from_slice(b"{}");
        let error = header_error(&put(directory.path(), "t.safetensors", &bytes));
        assert_eq!(matches!(error.violation, HeaderViolation::TooLong { .. }), too_long, "{error}");
        assert_eq!(matches!(error.violation, HeaderViolation::Truncated { .. }), !too_long, "{error}");
    }
}

#[test]
fn a_header_that_is_no_object_is_refused() {
    for json in ["", " ", "[]", " []", "null", "\u{feff}{}"] {
        assert_eq!(refusal(json, 0).violation, HeaderViolation::NotAnObject, "{json:?}");
    }
}

#[test]
fn broken_json_names_the_offset() {
    let error = refusal(r#"{"t":nonsense}"#, 0);
    assert!(matches!(error.violation, HeaderViolation::Json(_)), "{error}");
    let HeaderPlace::Offset(offset) = error.place else { panic!("{error}") };
    assert!((13..=15).contains(&offset), "{error}");
    let error = refusal("{\n\n\"t\":\nnonsense}", 0);
    let HeaderPlace::Offset(offset) = error.place else { panic!("{error}") };
    assert!((16..=18).contains(&offset), "{error}");
}

#[test]
fn a_field_that_is_missing_doubled_or_of_another_type_names_the_tensor() {
    for fields in [
        r#""shape":[],"data_offsets":[0,1]"#,
        r#""dtype":"U8","data_offsets":[0,1]"#,
        r#""dtype":"U8","shape":[]"#,
        r#""dtype":"U8","dtype":"U8","shape":[],"data_offsets":[0,1]"#,
        r#""dtype":"U8","shape":[],"data_offsets":[0,1],"data_offsets":[0,1]"#,
        r#""dtype":8,"shape":[],"data_offsets":[0,1]"#,
        r#""dtype":"U8","shape":{},"data_offsets":[0,1]"#,
        r#""dtype":"U8","shape":["1"],"data_offsets":[0,1]"#,
        r#""dtype":"U8","shape":[],"data_offsets":[0]"#,
        r#""dtype":"U8","shape":[],"data_offsets":[0,1,2]"#,
        r#""dtype":"U8","shape":[],"data_offsets":"01""#,
    ] {
        let error = refusal(&format!(r#"{{"the.tensor":{{{fields}}}}}"#), 1);
        let HeaderViolation::Json(message) = &error.violation else { panic!("{fields}: {error}") };
        assert!(message.contains("\"the.tensor\""), "{fields}: {error}");
    }
    for value in [r#"["U8",[],[0,1]]"#, "null", "1"] {
        let error = refusal(&format!(r#"{{"the.tensor":{value}}}"#), 1);
        assert!(matches!(error.violation, HeaderViolation::Json(_)), "{value}: {error}");
    }
}

#[test]
fn metadata_is_a_map_of_strings_that_occurs_once() {
    for json in [
        r#"{"__metadata__":{"step":1}}"#,
        r#"{"__metadata__":[]}"#,
        r#"{"__metadata__":null,"__metadata__":null}"#,
        r#"{"__metadata__":{"a":"1","a":"2"}}"#,
        r#"{"__metadata__":{},"__metadata__":{}}"#,
    ] {
        let error = refusal(json, 0);
        let HeaderViolation::Json(message) = &error.violation else { panic!("{json}: {error}") };
        assert!(message.contains("__metadata__"), "{json}: {error}");
    }
}

#[test]
fn a_tensor_that_occurs_twice_is_refused_however_its_name_is_escaped() {
    let entry = r#"{"dtype":"U8","shape":[0],"data_offsets":[0,0]}"#;
    for (a, b) in [("a", "a"), ("a", "\\u0061")] {
        let error = refusal(&format!(r#"{{"{a}":{entry},"b":{entry},"{b}":{entry}}}"#), 0);
        assert_eq!(error.violation, HeaderViolation::Duplicate);
        assert_eq!(error.place, HeaderPlace::Tensor("a".into()));
    }
}

#[test]
fn dims_and_offsets_that_are_no_integers_are_refused() {
    for number in ["-1", "1.0", "1e3", "18446744073709551616", "-0"] {
        for (field, json) in [
            ("shape", format!(r#"{{"t":{{"dtype":"U8","shape":[{number}],"data_offsets":[0,1]}}}}"#)),
            ("data_offsets", format!(r#"{{"t":{{"dtype":"U8","shape":[1],"data_offsets":[0,{number}]}}}}"#)),
            ("data_offsets", format!(r#"{{"t":{{"dtype":"U8","shape":[1],"data_offsets":[{number},1]}}}}"#)),
        ] {
            let error = refusal(&json, 1);
            assert!(
                matches!(&error.violation, HeaderViolation::NotAnInteger { field: found, .. } if *found == field),
                "{json}: {error}"
            );
            assert_eq!(error.place, HeaderPlace::Tensor("t".into()));
        }
    }
}

#[test]
fn offsets_that_leave_holes_overlap_run_backwards_or_overflow_are_refused() {
    let two = |a: (u64, u64), b: (u64, u64)| {
        let entry = |(begin, end): (u64, u64)| {
            let dim = end.saturating_sub(begin);
            format!(r#"{{"dtype":"U8","shape":[{dim}],"data_offsets":[{begin},{end}]}}"#)
        };
        refusal(&format!(r#"{{"a":{},"b":{}}}"#, entry(a), entry(b)), 8).violation
    };
    assert_eq!(two((0, 4), (5, 8)), HeaderViolation::Hole { expected: 4, found: 5 });
    assert_eq!(two((1, 4), (4, 8)), HeaderViolation::Hole { expected: 0, found: 1 });
    assert_eq!(two((0, 4), (3, 8)), HeaderViolation::Overlap { expected: 4, found: 3 });
    assert_eq!(two((0, 8), (0, 8)), HeaderViolation::Overlap { expected: 8, found: 0 });
    assert_eq!(two((0, 8), (4, 4)), HeaderViolation::Overlap { expected: 8, found: 4 });
    assert_eq!(two((4, 0), (4, 8)), HeaderViolation::Reversed { begin: 4, end: 0 });
    assert!(matches!(two((0, 4), (4, u64::MAX)), HeaderViolation::Tensor(SchemaError::TooLarge)));
    assert!(matches!(two((0, 4), (4, 7)), HeaderViolation::FileLength { .. }));
}

#[test]
fn a_size_that_dtype_and_shape_do_not_give_is_refused() {
    for (dtype, shape, len) in [
        ("F32", "[2]", 4),
        ("BF16", "[]", 1),
        ("F4", "[3]", 2),
        ("U8", "[4294967296,4294967296]", 0),
        ("F64", "[2305843009213693952]", 0),
    ] {
        let error = refusal(
            &format!(r#"{{"t":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,{len}]}}}}"#),
            len,
        );
        assert!(
            matches!(
                error.violation,
                HeaderViolation::Tensor(SchemaError::Size { .. } | SchemaError::BadShape { .. })
            ),
            "{dtype} {shape}: {error}"
        );
    }
}

#[test]
fn a_rank_over_64_is_refused_and_counted() {
    let dims = |rank: usize| vec!["1"; rank].join(",");
    let json = |rank| format!(r#"{{"t":{{"dtype":"U8","shape":[{}],"data_offsets":[0,1]}}}}"#, dims(rank));
    let error = refusal(&json(1000), 1);
    assert!(
        matches!(error.violation, HeaderViolation::Tensor(SchemaError::Rank { rank: 1000, .. })),
        "{error}"
    );
    let directory = tempfile::tempdir().unwrap();
    assert!(open(&put(directory.path(), "t.safetensors", &file_of(&json(64), 1))).is_ok());
}

#[test]
fn names_and_dtypes_that_no_schema_admits_are_refused() {
    let long = "x".repeat(65_536);
    let error = refusal(&format!(r#"{{"{long}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}}}"#), 0);
    assert!(matches!(error.violation, HeaderViolation::Tensor(SchemaError::NameLength(65_536))), "{error}");
    for dtype in ["", "bf16", "BF16 ", "\\u0000"] {
        let error = refusal(&format!(r#"{{"t":{{"dtype":"{dtype}","shape":[0],"data_offsets":[0,0]}}}}"#), 0);
        assert!(matches!(error.violation, HeaderViolation::Dtype(_)), "{error}");
    }
}

#[test]
fn deep_nesting_is_refused_or_skipped_without_overflowing_the_stack() {
    let deep = "[".repeat(1_000_000);
    let error = refusal(&format!(r#"{{"t":{{"extra":{deep}"#), 0);
    assert!(matches!(error.violation, HeaderViolation::Json(_)), "{error}");
    let closed = format!("{deep}{}", "]".repeat(1_000_000));
    for json in [format!(r#"{{"t":{closed}}}"#), format!(r#"{{"__metadata__":{closed}}}"#)] {
        assert!(matches!(refusal(&json, 0).violation, HeaderViolation::Json(_)));
    }
    // In a member that is skipped too, but not within the depth that the format asks of every reader.
    let extra = |depth: usize| {
        let value = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        format!(r#"{{"t":{{"dtype":"U8","shape":[],"data_offsets":[0,1],"extra":{value}}}}}"#)
    };
    assert!(matches!(refusal(&extra(1_000_000), 1).violation, HeaderViolation::Json(_)));
    let directory = tempfile::tempdir().unwrap();
    assert!(open(&put(directory.path(), "t.safetensors", &file_of(&extra(100), 1))).is_ok());
}

#[test]
fn what_is_skipped_must_be_sound_json_too() {
    for extra in [r#""\ud800""#, "1e400", "\"\u{1}\""] {
        let json = format!(r#"{{"t":{{"dtype":"U8","shape":[],"data_offsets":[0,1],"extra":{extra}}}}}"#);
        assert!(matches!(refusal(&json, 1).violation, HeaderViolation::Json(_)), "{extra}");
    }
    let mut bytes = file_of(r#"{"t":{"dtype":"U8","shape":[],"data_offsets":[0,1],"extra":"?"}}"#, 1);
    let at = bytes.iter().position(|&byte| byte == b'?').unwrap();
    bytes[at] = 0xff;
    let error = SafetensorsHeader::parse(&bytes, &Limits::default()).unwrap_err();
    assert_eq!(error.place, HeaderPlace::Offset(at as u64));
}

#[test]
fn messages_stay_short_however_long_the_names_are() {
    let name = "é".repeat(50_000);
    let error = refusal(&format!(r#"{{"{name}":{{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}}}"#), 2);
    assert!(error.to_string().len() < 1000);
}

#[test]
fn each_limit_is_checked() {
    let directory = tempfile::tempdir().unwrap();
    sharded(directory.path());
    let single = put(directory.path(), "s.safetensors", &one_tensor("t", 100));
    let found = |path: &Path, change: fn(&mut Limits)| {
        let mut limits = Limits::default();
        change(&mut limits);
        match Checkpoint::open(path, &limits) {
            Err(CheckpointError::Limit { kind, .. }) => kind,
            Err(CheckpointError::Header { source, .. }) => match source.violation {
                HeaderViolation::Limit { kind, .. } => kind,
                other => panic!("{other:?}"),
            },
            Err(CheckpointError::Index { source: IndexError::Limit { kind, .. }, .. }) => kind,
            other => panic!("{other:?}"),
        }
    };
    for path in [&single, directory.path()] {
        assert_eq!(found(path, |limits| limits.header_bytes = 50), LimitKind::HeaderBytes);
        assert_eq!(found(path, |limits| limits.tensors = 0), LimitKind::Tensors);
        assert_eq!(found(path, |limits| limits.metadata_bytes = 50), LimitKind::MetadataBytes);
        assert_eq!(found(path, |limits| limits.state_bytes = 7), LimitKind::StateBytes);
    }
    assert_eq!(found(directory.path(), |limits| limits.files = 1), LimitKind::Files);
    // Each shard alone is within the limit, the two together are not.
    assert_eq!(found(directory.path(), |limits| limits.metadata_bytes = 200), LimitKind::MetadataBytes);
    for (name, tensors) in [("a.safetensors", ["x", "p"]), ("b.safetensors", ["y", "q"])] {
        let [first, second] = tensors;
        let json = format!(
            r#"{{"{first}":{{"dtype":"U8","shape":[],"data_offsets":[0,1]}},"{second}":{{"dtype":"U8","shape":[],"data_offsets":[1,2]}}}}"#
        );
        put(directory.path(), name, &file_of(&json, 2));
    }
    assert_eq!(found(directory.path(), |limits| limits.tensors = 3), LimitKind::Tensors);
}

#[test]
fn a_header_alone_is_checked_against_the_limit_on_the_state() {
    let mut limits = Limits::default();
    limits.state_bytes = 99;
    let error = SafetensorsHeader::parse(&one_tensor("t", 100), &limits).unwrap_err();
    let expected = HeaderViolation::Limit { kind: LimitKind::StateBytes, value: 100, limit: 99 };
    assert_eq!(error.violation, expected);
}

#[test]
fn data_that_no_file_could_hold_are_refused_without_limits_too() {
    let len = 1_u64 << 51;
    let entries: Vec<_> = (0..4097_u64)
        .map(|i| {
            let (begin, end) = (i * len, (i * len).saturating_add(len));
            format!(r#""{i}":{{"dtype":"U8","shape":[{len}],"data_offsets":[{begin},{end}]}}"#)
        })
        .collect();
    let json = |count: usize| file_of(&format!("{{{}}}", entries[..count].join(",")), 0);
    SafetensorsHeader::parse(&json(4095), &Limits::unlimited()).unwrap();
    let error = SafetensorsHeader::parse(&json(4096), &Limits::unlimited()).unwrap_err();
    assert_eq!(error.violation, HeaderViolation::TooLarge(1 << 63));
}

#[test]
fn what_is_no_checkpoint_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    assert!(matches!(open(&path.join("absent")), Err(CheckpointError::Io { action: "open", .. })));
    assert!(matches!(open(path), Err(CheckpointError::NotACheckpoint { .. })));
    std::fs::create_dir(path.join("model.safetensors")).unwrap();
    assert!(matches!(open(path), Err(CheckpointError::NotAFile { .. })));
    put(path, "empty.safetensors", b"");
    let error = open(&path.join("empty.safetensors")).unwrap_err();
    assert!(matches!(error, CheckpointError::Foreign { found: ForeignFile::Empty, .. }), "{error}");
}

#[test]
fn a_named_pipe_is_refused_without_waiting_for_a_writer() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.safetensors");
    let status = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(status.success());
    for path in [&path, directory.path()] {
        assert!(matches!(open(path), Err(CheckpointError::NotAFile { .. })));
    }
}

#[test]
fn a_missing_shard_is_named_with_a_tensor_of_it() {
    let directory = tempfile::tempdir().unwrap();
    sharded(directory.path());
    let shard = directory.path().join("b.safetensors");
    std::fs::remove_file(&shard).unwrap();
    match open(directory.path()) {
        Err(CheckpointError::MissingShard { path, tensor }) => {
            assert_eq!((path, tensor.as_str()), (shard.clone(), "y"));
        }
        other => panic!("{other:?}"),
    }
    std::os::unix::fs::symlink("/nowhere/at/all", &shard).unwrap();
    assert!(matches!(open(directory.path()), Err(CheckpointError::MissingShard { .. })));
}

#[test]
fn an_index_that_the_shards_contradict_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    sharded(path);
    let with = |map: &str| {
        put_index(path, &format!(r#"{{"weight_map":{{{map}}}}}"#));
        index_error(path)
    };
    let absent = IndexError::Absent { tensor: "z".into(), shard: "b.safetensors".into() };
    assert_eq!(with(r#""x":"a.safetensors","y":"b.safetensors","z":"b.safetensors""#), absent);
    let swapped = with(r#""y":"a.safetensors","x":"b.safetensors""#);
    assert!(matches!(swapped, IndexError::Unlisted { expected: Some(_), .. }), "{swapped}");
    put(
        path,
        "b.safetensors",
        &file_of(
            r#"{"y":{"dtype":"U8","shape":[5],"data_offsets":[0,5]},"more":{"dtype":"U8","shape":[],"data_offsets":[5,6]}}"#,
            6,
        ),
    );
    let extra = with(r#""x":"a.safetensors","y":"b.safetensors""#);
    let expected =
        IndexError::Unlisted { tensor: "more".into(), shard: "b.safetensors".into(), expected: None };
    assert_eq!(extra, expected);
}

#[test]
fn a_tensor_in_two_shards_names_both() {
    let directory = tempfile::tempdir().unwrap();
    sharded(directory.path());
    put(
        directory.path(),
        "b.safetensors",
        &file_of(
            r#"{"x":{"dtype":"U8","shape":[5],"data_offsets":[0,5]},"y":{"dtype":"U8","shape":[],"data_offsets":[5,6]}}"#,
            6,
        ),
    );
    match open(directory.path()) {
        Err(CheckpointError::TensorInTwoFiles { path, tensor, first, second }) => {
            assert_eq!(path, directory.path());
            assert_eq!(
                (tensor.as_str(), first.as_str(), second.as_str()),
                ("x", "a.safetensors", "b.safetensors")
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn shard_names_that_leave_the_directory_are_refused() {
    let outer = tempfile::tempdir().unwrap();
    put(outer.path(), "out.safetensors", &one_tensor("x", 3));
    let directory = outer.path().join("inner");
    std::fs::create_dir(&directory).unwrap();
    let absolute = outer.path().join("out.safetensors");
    for name in [
        "../out.safetensors",
        absolute.to_str().unwrap(),
        "sub/x.safetensors",
        "..",
        ".x.safetensors",
        "x.json",
    ] {
        put_index(&directory, &format!(r#"{{"weight_map":{{"x":"{name}"}}}}"#));
        let error = index_error(&directory);
        assert_eq!(error, IndexError::ShardName { tensor: "x".into(), shard: name.into() });
    }
}

#[test]
fn a_broken_index_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    sharded(path);
    for json in [
        "",
        "[]",
        "{}",
        r#"{"weight_map":[]}"#,
        r#"{"weight_map":{"x":1}}"#,
        r#"{"weight_map":{"x":"a.safetensors","x":"b.safetensors"}}"#,
        r#"{"weight_map":{"x":"a.safetensors"},"weight_map":{"y":"b.safetensors"}}"#,
        r#"{"weight_map":{"x":"a.safetensors","y":"b.safetensors"}} trailing"#,
    ] {
        put_index(path, json);
        assert!(matches!(index_error(path), IndexError::Json { .. }), "{json}");
    }
    put_index(path, r#"{"weight_map":{}}"#);
    assert_eq!(index_error(path), IndexError::Empty);
}

#[test]
fn an_index_beside_an_unrelated_single_file_is_ambiguous() {
    let directory = tempfile::tempdir().unwrap();
    sharded(directory.path());
    put(directory.path(), "model.safetensors", &one_tensor("x", 3));
    assert!(matches!(open(directory.path()), Err(CheckpointError::NotACheckpoint { .. })));
    // Other weight files, such as those of other runtimes, do no harm.
    std::fs::remove_file(directory.path().join("model.safetensors")).unwrap();
    put(directory.path(), "consolidated.safetensors", &one_tensor("x", 3));
    assert_eq!(contents(&open(directory.path()).unwrap()).len(), 2);
}

#[test]
fn an_index_link_to_nothing_does_not_pass_for_no_index() {
    let directory = tempfile::tempdir().unwrap();
    put(directory.path(), "model.safetensors", &one_tensor("x", 3));
    let index = directory.path().join("model.safetensors.index.json");
    std::os::unix::fs::symlink("nowhere", &index).unwrap();
    assert!(matches!(open(directory.path()), Err(CheckpointError::Io { path, .. }) if path == index));
}
