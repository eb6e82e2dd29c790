//! Any two states with the same tensors, through every format that is written: format to changes to state to
//! format, bit for bit.

#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, reason = "tests may panic")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::{Scratch, tensors, to};
use proptest::collection::{btree_map, btree_set};
use proptest::prelude::*;
use tensorpatch_format::{Dtype, TensorSpec};
use tensorpatch_formats::index_delta::{DeltaEncoding, Dialect};
use tensorpatch_formats::{ChecksumKind, ConvertOptions, Flavour, Note, To, Verified, convert};
use tensorpatch_testkit::{Change, FileStyle, Fill, Model, Rng, Tensor, write_sharded, write_single};

/// A tensor in both states.
#[derive(Debug, Clone)]
struct Both {
    spec: TensorSpec,
    base: Vec<u8>,
    target: Vec<u8>,
}

fn both(dtypes: &'static [&'static str]) -> impl Strategy<Value = Both> {
    let shapes = prop_oneof![
        1 => Just(vec![]),
        1 => Just(vec![0]),
        1 => Just(vec![3, 0, 2]),
        5 => prop::collection::vec(1_u64..40, 1..3),
    ];
    let fill = prop::sample::select(vec![Fill::Zeros, Fill::Weights, Fill::Noise, Fill::Extremes]);
    let change =
        prop::sample::select(vec![Change::Ulp, Change::Few, Change::Sign, Change::Noise, Change::Extremes]);
    let density = prop_oneof![Just(0), Just(1000), 1_u32..200];
    (prop::sample::select(dtypes), shapes, fill, change, density, any::<u64>()).prop_map(
        |(dtype, shape, fill, change, density, seed)| {
            let dtype = Dtype::new(dtype).unwrap();
            let byte_len = shape.iter().product::<u64>() * dtype.bits().unwrap_or(16).max(8) / 8;
            let spec = TensorSpec { name: String::new(), dtype, shape, byte_len };
            let (format, mut rng) = (spec.dtype.element_format(), Rng::new(seed));
            let base = fill.bytes(format, byte_len as usize, &mut rng);
            let mut target = base.clone();
            change.apply(format, density, &mut target, &mut rng);
            Both { spec, base, target }
        },
    )
}

/// One tensor of bf16 in which single elements change, as far apart as gaps of two bytes reach, and farther.
fn far_apart() -> impl Strategy<Value = Both> {
    let near = |border: u64| (border - 2)..(border + 3);
    let positions =
        btree_set(prop_oneof![Just(0), 0_u64..200_000, near(65_536), near(131_072), near(131_073)], 0..5);
    let last = prop_oneof![Just(200_000_u64), near(65_536), near(131_072)];
    (positions, last).prop_map(|(positions, elements)| {
        let spec = TensorSpec::new("", Dtype::new("BF16").unwrap(), vec![elements]).unwrap();
        let base = vec![0; spec.byte_len as usize];
        let mut target = base.clone();
        for position in positions.into_iter().chain([elements - 1]).filter(|position| *position < elements) {
            // Negative zero: the same number, and other bits.
            target[position as usize * 2 + 1] = 0x80;
        }
        Both { spec, base, target }
    })
}

fn names() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-c]\\.[0-2]\\.(weight|bias)",
        // Names that look like parts of other names.
        2 => "(a|weight)(\\.indices|\\.values|\\.idx|\\.val){1,2}",
        1 => "[ -~é☃\"\\\\\n]{1,12}",
        1 => Just("__empty_delta__".to_owned()),
    ]
    .prop_filter("the name of the metadata", |name| name != "__metadata__")
}

fn states(dtypes: &'static [&'static str]) -> impl Strategy<Value = (Model, Model)> {
    let tensor = prop_oneof![6 => both(dtypes), 1 => far_apart()];
    btree_map(names(), tensor, 1..6).prop_map(|tensors: BTreeMap<String, Both>| {
        let state = |bytes: fn(&Both) -> &Vec<u8>| {
            let tensor = |(name, both): (&String, &Both)| Tensor {
                spec: TensorSpec { name: name.clone(), ..both.spec.clone() },
                bytes: bytes(both).clone(),
            };
            Model::new(tensors.iter().map(tensor).collect())
        };
        (state(|both| &both.base), state(|both| &both.target))
    })
}

/// Everything in a file or directory.
fn files(path: &Path) -> BTreeMap<String, Vec<u8>> {
    if path.is_file() {
        return BTreeMap::from([(String::new(), std::fs::read(path).unwrap())]);
    }
    let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
        .collect()
}

/// Writes a change in a format, reads it, and writes what was read again.
fn check(base: &Path, target: &Path, scratch: &Scratch, format: To) {
    let path =
        |name: &str| scratch.path(&format!("{name}-{format:?}").replace(|c: char| !c.is_alphanumeric(), "-"));
    let (written, again) = (path("written"), path("again"));
    let checkpoint = path("state").with_extension("safetensors");
    let options = ConvertOptions::new(format).with_versions("12", "11");
    let report = convert(target, Some(base), &written, &options).unwrap();
    let expected = tensors(target);
    let changed = expected.iter().filter(|(name, tensor)| tensors(base).get(*name) != Some(*tensor)).count();
    assert_eq!(report.changed_tensors, changed as u64);
    if report.notes.contains(&Note::NothingWritten) {
        assert!(changed == 0 && !written.exists() && matches!(format, To::Trl(_)));
        return;
    }
    let read = to(&written, Some(base), &checkpoint, To::Checkpoint).unwrap();
    assert!(tensors(&checkpoint) == expected, "{format:?}");
    assert_eq!((read.target, read.base), (report.target, report.base));
    assert_eq!(read.source_version.as_deref().map(|version| version.trim_start_matches('0')), Some("12"));
    assert_eq!(read.verified == Verified::State, format == To::Trl(Flavour::A));

    convert(&checkpoint, Some(base), &again, &options).unwrap();
    assert!(files(&again) == files(&written), "{format:?}");
}

const ANY: &[&str] = &[
    "BF16",
    "BF16",
    "F16",
    "F32",
    "F64",
    "F8_E4M3",
    "F8_E5M2",
    "U8",
    "BOOL",
    "I32",
    "I64",
    "C64",
    "F3_NEXT_YEAR",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn states_of_any_dtype_come_through_index_delta_directories((base, target) in states(ANY), sharded in any::<bool>()) {
        let scratch = Scratch::new();
        let (from, into) = (scratch.path("base"), scratch.path("target"));
        if sharded {
            write_sharded(&from, &base, 2, &FileStyle::default());
            write_sharded(&into, &target, 2, &FileStyle::default());
        } else {
            write_single(&from, &base, &FileStyle::default());
            write_single(&into, &target, &FileStyle::default());
        }
        for (dialect, encoding, checksum) in [
            (Dialect::Numbered, DeltaEncoding::Xor, ChecksumKind::Xxh3),
            (Dialect::Numbered, DeltaEncoding::Overwrite, ChecksumKind::Blake3),
            (Dialect::ModelExpress, DeltaEncoding::Xor, ChecksumKind::Adler32),
        ] {
            let format = To::IndexDelta { dialect, encoding, checksum, file_bytes: 600 };
            if sharded {
                check_sharded(&from, &into, &scratch, format);
            } else {
                check(&from, &into, &scratch, format);
            }
        }
    }

    #[test]
    fn states_of_bf16_come_through_all_flavours_of_trl((base, target) in states(&["BF16"])) {
        let scratch = Scratch::new();
        let (from, into) = (scratch.path("base"), scratch.path("target"));
        write_single(&from, &base, &FileStyle::default());
        write_single(&into, &target, &FileStyle::default());
        for flavour in [Flavour::A, Flavour::B, Flavour::CRaw, Flavour::CGaps] {
            check(&from, &into, &scratch, To::Trl(flavour));
            let anchor = scratch.path(&format!("anchor-{flavour:?}"));
            let mut options = ConvertOptions::new(To::Trl(flavour));
            options.version = Some("11".into());
            convert(&from, None, &anchor, &options).unwrap();
            prop_assert!(tensors(&anchor) == tensors(&from));
        }
    }
}

/// As [`check`] for one direction: a sharded target comes back in the base's files.
fn check_sharded(base: &Path, target: &Path, scratch: &Scratch, format: To) {
    let name =
        |name: &str| scratch.path(&format!("{name}-{format:?}").replace(|c: char| !c.is_alphanumeric(), "-"));
    let (written, state) = (name("written"), name("state"));
    let options = ConvertOptions::new(format).with_versions("12", "11");
    convert(target, Some(base), &written, &options).unwrap();
    to(&written, Some(base), &state, To::Checkpoint).unwrap();
    assert!(files(&state) == files(target), "{format:?}");
}
