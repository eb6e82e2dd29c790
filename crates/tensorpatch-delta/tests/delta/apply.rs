//! From a base and a patch to a new checkpoint, and every way in which that must be refused.

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use crate::common::{
    Tensor, bf16, full_patch, layout_saying, nudged, open, patch_between, raw, sharded_layout, write,
    write_as,
};
use tensorpatch_checkpoint::Form;
use tensorpatch_delta::{
    ApplyError, ApplyReport, DiffError, LeafTable, Options, Patch, Progress, Snapshot, State, StateError,
    apply_full, apply_in_place, apply_to, encode_diff,
};
use tensorpatch_format::{
    Encoding, Ends, ErrorClass, FileLayout, Kind, Layout, LayoutDigest, LeafHash, Limits, Listing, Packed,
    PatchHeader, PatchWriter, Profile, StateDigest,
};

const MIB: u64 = 1 << 20;

fn apply(base: &Path, patch: &[u8], dest: &Path, form: Form) -> Result<ApplyReport, ApplyError> {
    let patch = Patch::parse(patch, &Limits::default())?;
    apply_to(&open(base), &patch, dest, form, &Options::default(), Progress::none())
}

/// A base with tensors over and under the size of a chunk, and a target a step on.
fn pair(dir: &Path) -> (PathBuf, PathBuf) {
    let base = [bf16("big", &[3, MIB / 3], 1), bf16("norm", &[7], 2), bf16("scalar", &[], 3)];
    let target: Vec<_> = base.iter().map(|tensor| nudged(tensor, 100)).collect();
    (write(&dir.join("base.safetensors"), &base), write(&dir.join("target.safetensors"), &target))
}

fn assert_same_file(found: &Path, expected: &Path) {
    assert!(fs::read(found).unwrap() == fs::read(expected).unwrap(), "{} differs", found.display());
}

#[test]
fn the_result_is_the_target_byte_for_byte_in_both_profiles_and_with_both_leaf_hashes() {
    let dir = tempfile::tempdir().unwrap();
    let (base, target) = pair(dir.path());
    for profile in [Profile::Compact, Profile::Direct] {
        for leaf_hash in [LeafHash::Xxh3, LeafHash::Blake3] {
            let options = Options::default().with_profile(profile).with_leaf_hash(leaf_hash);
            let (patch, report) = patch_between(&base, &target, &options);
            assert_eq!(report.kind, Kind::Delta);
            let out = dir.path().join("out.safetensors");
            let applied = apply(&base, &patch, &out, Form::File).unwrap();
            assert_same_file(&out, &target);
            assert_eq!((applied.base, applied.target), (report.base, report.target));
            assert!(applied.same_layout);
        }
    }
}

#[test]
fn the_bytes_of_a_patch_do_not_depend_on_the_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    // More than a span of 8 MiB, so that threads really share the work.
    let base = [bf16("a", &[9 * MIB], 1), bf16("b", &[3 * MIB], 2)];
    let target: Vec<_> = base.iter().map(|tensor| nudged(tensor, 1000)).collect();
    let base = write(&dir.path().join("base.safetensors"), &base);
    let target = write(&dir.path().join("target.safetensors"), &target);
    let with = |threads| {
        let options = Options::default().with_threads(NonZeroUsize::new(threads).unwrap());
        patch_between(&base, &target, &options).0
    };
    let one = with(1);
    assert!(one == with(2) && one == with(5));
}

#[test]
fn a_full_patch_needs_no_base_and_a_delta_does() {
    let dir = tempfile::tempdir().unwrap();
    let (base, target) = pair(dir.path());
    let bytes = full_patch(&target, &Options::default());
    let patch = Patch::parse(&bytes, &Limits::default()).unwrap();
    let out = dir.path().join("out.safetensors");
    apply_full(&patch, &out, Form::File, &Options::default(), Progress::none()).unwrap();
    assert_same_file(&out, &target);
    assert!(matches!(
        apply(&base, &bytes, &out, Form::File),
        Err(ApplyError::Kind { found: Kind::Full, .. })
    ));
    let (delta, _) = patch_between(&base, &target, &Options::default());
    let delta = Patch::parse(&delta, &Limits::default()).unwrap();
    let refused = apply_full(&delta, &out, Form::File, &Options::default(), Progress::none());
    assert!(matches!(refused, Err(ApplyError::Kind { found: Kind::Delta, .. })));
}

#[test]
fn nothing_changed_is_said_and_applies() {
    let dir = tempfile::tempdir().unwrap();
    let (base, _) = pair(dir.path());
    let (patch, report) = patch_between(&base, &base, &Options::default());
    assert_eq!((report.kind, report.changed_elements), (Kind::Empty, 0));
    assert_eq!(Patch::parse(&patch, &Limits::default()).unwrap().kind(), Kind::Empty);
    let out = dir.path().join("out.safetensors");
    apply(&base, &patch, &out, Form::File).unwrap();
    assert_same_file(&out, &base);
}

#[test]
fn only_the_metadata_of_a_header_may_change() {
    let dir = tempfile::tempdir().unwrap();
    let tensors = [bf16("w", &[100], 1)];
    let base = write_as(&dir.path().join("a"), Form::File, &tensors, &layout_saying(&tensors, "step 1"));
    let target = write_as(
        &dir.path().join("b"),
        Form::File,
        &tensors,
        &layout_saying(&tensors, "a much longer text than before"),
    );
    let (patch, report) = patch_between(&base, &target, &Options::default());
    assert_eq!(report.kind, Kind::Empty);
    let out = dir.path().join("out");
    apply(&base, &patch, &out, Form::File).unwrap();
    assert_same_file(&out, &target);
}

#[test]
fn tensors_may_be_added_removed_retyped_resized_and_reshaped() {
    let dir = tempfile::tempdir().unwrap();
    let base = [
        bf16("kept", &[50], 1),
        bf16("removed", &[MIB], 2),
        raw("retyped", "F32", &[2], &[1; 8]),
        bf16("resized", &[10], 3),
        bf16("reshaped", &[6, 10], 4),
        raw("was.empty", "U8", &[0, 3], &[]),
    ];
    let mut reshaped = nudged(&base[4], 7);
    reshaped.spec.shape = vec![60];
    let target = [
        nudged(&base[0], 5),
        bf16("added", &[MIB + 5], 5),
        raw("retyped", "I32", &[2], &[1; 8]),
        bf16("resized", &[11], 6),
        reshaped,
        raw("was.empty", "U8", &[2], &[0, 255]),
        raw("packed", "F4", &[4], &[0x12, 0x34]),
        raw("next.year", "U8", &[3], &[9, 8, 7]),
    ];
    for (a, b) in [(&base[..], &target[..]), (&target[..], &base[..])] {
        let a = write(&dir.path().join("a"), a);
        let b = write(&dir.path().join("b"), b);
        for profile in [Profile::Compact, Profile::Direct] {
            let (patch, report) = patch_between(&a, &b, &Options::default().with_profile(profile));
            let out = dir.path().join("out");
            let applied = apply(&a, &patch, &out, Form::File).unwrap();
            assert_same_file(&out, &b);
            assert_eq!(applied.base, report.base);
        }
    }
}

#[test]
fn a_sharded_checkpoint_comes_back_as_it_was_with_its_companions() {
    let dir = tempfile::tempdir().unwrap();
    let base = [bf16("a", &[MIB], 1), bf16("b", &[10], 2)];
    let target: Vec<Tensor> = base.iter().map(|tensor| nudged(tensor, 3)).collect();
    let layout = sharded_layout(&base);
    let base = write_as(&dir.path().join("base"), Form::Directory, &base, &layout);
    let target = write_as(&dir.path().join("target"), Form::Directory, &target, &layout);
    fs::write(base.join("config.json"), "{}").unwrap();
    let (patch, _) = patch_between(&base, &target, &Options::default());
    let out = dir.path().join("out");
    apply(&base, &patch, &out, Form::Directory).unwrap();
    for file in layout.files() {
        assert_same_file(&out.join(&file.name), &target.join(&file.name));
    }
    assert_same_file(&out.join("model.safetensors.index.json"), &target.join("model.safetensors.index.json"));
    assert_same_file(&out.join("config.json"), &base.join("config.json"));
}

#[test]
fn a_base_sharded_anew_keeps_its_own_layout_and_still_verifies() {
    let dir = tempfile::tempdir().unwrap();
    let tensors = [bf16("a", &[1000], 1), bf16("b", &[10], 2)];
    let next: Vec<Tensor> = tensors.iter().map(|tensor| nudged(tensor, 3)).collect();
    let base = write(&dir.path().join("base"), &tensors);
    let target = write(&dir.path().join("target"), &next);
    let resharded =
        write_as(&dir.path().join("shards"), Form::Directory, &tensors, &sharded_layout(&tensors));
    let (patch, report) = patch_between(&base, &target, &Options::default());
    let out = dir.path().join("out");
    let applied = apply(&resharded, &patch, &out, Form::Directory).unwrap();
    assert!(!applied.same_layout);
    assert_eq!(applied.target, report.target);
    let out = open(&out);
    let found = LeafTable::of(&State::of(&out).unwrap(), LeafHash::Xxh3, NonZeroUsize::MIN, Progress::none())
        .unwrap();
    assert_eq!(found.state_digest(out.schema()), report.target);
    assert_eq!(out.layout().files().len(), 2);
}

#[test]
fn a_base_with_one_flipped_bit_is_refused_wherever_the_bit_lies() {
    let dir = tempfile::tempdir().unwrap();
    let (base, target) = pair(dir.path());
    let (patch, report) = patch_between(&base, &target, &Options::default());
    let good = fs::read(&base).unwrap();
    let header = good.len() - open(&base).schema().state_bytes() as usize;
    for at in [header, header + 200, header + 1_500_000, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        let bad_base = dir.path().join("bad.safetensors");
        fs::write(&bad_base, bad).unwrap();
        let out = dir.path().join("out.safetensors");
        let error = apply(&bad_base, &patch, &out, Form::File).unwrap_err();
        let ApplyError::WrongBase { expected, found, offset } = &error else { panic!("{error}") };
        assert_eq!((expected.digest, found.digest == report.base), (report.base, false));
        assert_eq!(*offset, patch.len() as u64 - 192);
        assert!(!out.exists());
    }
}

#[test]
fn the_digest_of_the_base_covers_tensors_that_the_target_does_not_have() {
    let dir = tempfile::tempdir().unwrap();
    let tensors = [bf16("kept", &[50], 1), bf16("removed", &[MIB], 2)];
    let base = write(&dir.path().join("base"), &tensors);
    let target = write(&dir.path().join("target"), &tensors[..1]);
    let (patch, report) = patch_between(&base, &target, &Options::default());
    let opened = open(&base);
    let leaves =
        LeafTable::of(&State::of(&opened).unwrap(), LeafHash::Xxh3, NonZeroUsize::MIN, Progress::none())
            .unwrap();
    assert_eq!(report.base, leaves.state_digest(opened.schema()));

    let other = write(&dir.path().join("other"), &[tensors[0].clone(), nudged(&tensors[1], 1000)]);
    let out = dir.path().join("out");
    assert!(matches!(apply(&other, &patch, &out, Form::File), Err(ApplyError::WrongBase { .. })));
    assert!(!out.exists());
}

#[test]
fn a_base_of_another_schema_is_a_wrong_base() {
    let dir = tempfile::tempdir().unwrap();
    let (base, target) = pair(dir.path());
    let (patch, _) = patch_between(&base, &target, &Options::default());
    let other = write(&dir.path().join("other"), &[bf16("something", &[5], 1)]);
    let out = dir.path().join("out");
    let error = apply(&other, &patch, &out, Form::File).unwrap_err();
    assert_eq!(error.class(), Some(ErrorClass::WrongBase), "{error}");
    assert!(!out.exists());
}

#[test]
fn a_truncated_patch_is_never_applied() {
    let dir = tempfile::tempdir().unwrap();
    let tensors = [bf16("w", &[300], 1)];
    let base = write(&dir.path().join("base"), &tensors);
    let target = write(&dir.path().join("target"), &[nudged(&tensors[0], 10)]);
    let (patch, _) = patch_between(&base, &target, &Options::default());
    for len in 0..patch.len() {
        let error = Patch::parse(&patch[..len], &Limits::default()).unwrap_err();
        assert_eq!(error.class(), ErrorClass::Truncated, "{len}: {error}");
    }
}

#[test]
fn a_patch_with_any_bit_flipped_is_refused_or_gives_the_target() {
    let dir = tempfile::tempdir().unwrap();
    let tensors = [bf16("w", &[300], 1)];
    let base = write(&dir.path().join("base"), &tensors);
    let target = write(&dir.path().join("target"), &[nudged(&tensors[0], 10)]);
    let (patch, report) = patch_between(&base, &target, &Options::default());
    let out = dir.path().join("out");
    for bit in 0..patch.len() * 8 {
        let mut bad = patch.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        match apply(&base, &bad, &out, Form::File) {
            Ok(applied) => assert_eq!(applied.target, report.target, "bit {bit}"),
            Err(_) => assert!(!out.exists(), "bit {bit}"),
        }
        let _ = fs::remove_file(&out);
    }
}

/// A patch whose every checksum is right but which lies about its target.
fn forged(patch: &[u8], at_from_end: usize) -> Vec<u8> {
    let mut forged = patch.to_vec();
    let trailer = forged.len() - 192;
    forged[trailer + at_from_end] ^= 1;
    let mut crc = crc32fast::Hasher::new();
    crc.update(&forged[..28]);
    crc.update(&forged[trailer..trailer + 180]);
    forged[trailer + 180..trailer + 184].copy_from_slice(&crc.finalize().to_le_bytes());
    forged
}

#[test]
fn a_patch_that_lies_about_its_ends_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (base, target) = pair(dir.path());
    let (patch, _) = patch_between(&base, &target, &Options::default());
    let out = dir.path().join("out");
    let trailer = patch.len() as u64 - 192;
    let error = apply(&base, &forged(&patch, 0), &out, Form::File).unwrap_err();
    assert_eq!((error.class(), error.offset()), (Some(ErrorClass::WrongBase), Some(trailer)));
    let error = apply(&base, &forged(&patch, 32), &out, Form::File).unwrap_err();
    assert_eq!((error.class(), error.offset()), (Some(ErrorClass::TargetMismatch), Some(trailer + 32)));
    assert!(!out.exists());
}

#[test]
fn a_false_leaf_digest_is_a_target_mismatch_at_its_own_place_and_a_false_payload_is_invalid_at_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let (base, target) = pair(dir.path());
    for leaf_hash in [LeafHash::Xxh3, LeafHash::Blake3] {
        let (patch, _) = patch_between(&base, &target, &Options::default().with_leaf_hash(leaf_hash));
        let parsed = Patch::parse(&patch, &Limits::default()).unwrap();
        let records: Vec<_> = parsed.wire().blocks().iter().flatten().collect();
        assert!(records.len() >= 3);
        let leaves = patch.len() - 192 - records.len() * leaf_hash.digest_len();
        let out = dir.path().join("out");
        for (number, record) in records.iter().enumerate() {
            let leaf = leaves + number * leaf_hash.digest_len();
            let payload = record.payload_offset as usize;
            // Raw bytes decode whatever they are, and then it is the digest that tells.
            let told = match record.encoding {
                Encoding::Raw => (ErrorClass::TargetMismatch, leaf),
                _ => (ErrorClass::Invalid, payload),
            };
            for (at, (class, offset)) in [(leaf + 5, (ErrorClass::TargetMismatch, leaf)), (payload, told)] {
                let mut bad = patch.clone();
                bad[at] = !bad[at];
                tensorpatch_testkit::repair_checksums(&mut bad);
                let error = apply(&base, &bad, &out, Form::File).unwrap_err();
                assert_eq!((error.class(), error.offset()), (Some(class), Some(offset as u64)), "{error}");
                assert!(!out.exists());
            }
        }
        assert_eq!(parsed.wire().leaf_offset(records.len()), None);
    }
}

#[test]
fn a_listed_layout_that_is_not_the_one_in_the_trailer_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (_, target) = pair(dir.path());
    let patch = full_patch(&target, &Options::default());
    let error = Patch::parse(&forged(&patch, 128), &Limits::default()).unwrap_err();
    assert_eq!((error.class(), error.field), (ErrorClass::Invalid, "target layout digest"));
}

#[test]
fn a_full_patch_that_leaves_a_chunk_out_is_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let target = open(&write(&dir.path().join("target"), &[bf16("w", &[5], 1)]));
    let (schema, layout) = (target.schema(), target.layout());
    let ends = Ends {
        base_state: StateDigest::NONE,
        target_state: StateDigest::from_bytes([1; 32]),
        target_schema: schema.digest(),
        base_layout: LayoutDigest::NONE,
        target_layout: layout.digest(),
    };
    let (schema, layout) = (schema.to_bytes(), layout.to_bytes());
    let (writer, mut bytes) =
        PatchWriter::start(&PatchHeader::new(Kind::Full, Profile::Compact, LeafHash::Xxh3));
    let (writer, part) = writer.schema(&Listing::Listed(Packed::plain(&schema))).unwrap();
    bytes.extend(part);
    let (writer, part) = writer.layout(&Listing::Listed(Packed::plain(&layout))).unwrap();
    bytes.extend(part);
    bytes.extend(writer.finish(&ends).unwrap().1);

    let patch = Patch::parse(&bytes, &Limits::default()).unwrap();
    let out = dir.path().join("out");
    let error = apply_full(&patch, &out, Form::File, &Options::default(), Progress::none()).unwrap_err();
    assert_eq!(error.class(), Some(ErrorClass::Invalid), "{error}");
    assert!(!out.exists());
}

#[test]
fn a_listed_layout_that_is_no_checkpoint_s_is_refused_where_it_stands() {
    let dir = tempfile::tempdir().unwrap();
    let tensors = [bf16("a", &[5], 1), bf16("b", &[6], 2)];
    let base = open(&write(&dir.path().join("base"), &tensors));
    let target =
        open(&write(&dir.path().join("target"), &tensors.each_ref().map(|tensor| nudged(tensor, 2))));
    let sharded = sharded_layout(&tensors);
    let index = |text: &str| Some(text.as_bytes().to_vec());
    let (one, two) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
    let with = |index| Layout::new(sharded.files().to_vec(), index).unwrap();
    let single = |name: &str, header: &[u8]| {
        Layout::new(vec![FileLayout { name: name.into(), header: header.to_vec() }], None).unwrap()
    };
    let whole = &base.layout().files()[0].header;
    for (what, layout) in [
        ("several files and no index", with(None)),
        ("a header with a byte after it", single(Layout::SINGLE_FILE, &[whole.as_slice(), b" "].concat())),
        ("a header that ends too early", single(Layout::SINGLE_FILE, &whole[..20])),
        ("a tensor in no file", single(Layout::SINGLE_FILE, &sharded.files()[0].header)),
        ("an index that is no JSON", with(index("{"))),
        ("an index without a map", with(index("{}"))),
        ("an index that leaves a tensor out", with(index(&format!(r#"{{"weight_map":{{"a":"{one}"}}}}"#)))),
        (
            "an index with the files changed over",
            with(index(&format!(r#"{{"weight_map":{{"a":"{two}","b":"{one}"}}}}"#))),
        ),
        (
            "an index with a tensor too many",
            with(index(&format!(r#"{{"weight_map":{{"a":"{one}","b":"{two}","c":"{two}"}}}}"#))),
        ),
        (
            "an index with a tensor twice",
            with(index(&format!(r#"{{"weight_map":{{"a":"{one}","b":"{two}","b":"{two}"}}}}"#))),
        ),
    ] {
        let version = Snapshot { layout: &layout, ..crate::common::version(&target) };
        let mut patch = Vec::new();
        encode_diff(
            &crate::common::version(&base),
            &version,
            &Options::default(),
            Progress::none(),
            &mut patch,
        )
        .unwrap();
        let out = dir.path().join("out");
        let patch = Patch::parse(&patch, &Limits::default()).unwrap();
        let Listing::Listed(packed) = patch.wire().layout() else { panic!("{what}: no layout") };
        let error = apply_to(&base, &patch, &out, Form::Directory, &Options::default(), Progress::none());
        let error = error.map(|_| ()).unwrap_err();
        assert!(matches!(error, ApplyError::Layout { .. }), "{what}: {error}");
        assert_eq!((error.class(), error.offset()), (Some(ErrorClass::Invalid), Some(packed.bytes_offset())));
        assert!(!out.exists(), "{what}");
        let mut few = Limits::default();
        few.header_bytes = 20;
        let few = Options::default().with_limits(few);
        let limited = apply_to(&base, &patch, &out, Form::Directory, &few, Progress::none());
        assert_eq!(limited.map(|_| ()).unwrap_err().class(), Some(ErrorClass::Limit), "{what}");
        let in_place = apply_in_place(
            base.path(),
            &patch,
            &dir.path().join("journal"),
            &Options::default(),
            Progress::none(),
        );
        assert!(matches!(in_place.map(|_| ()).unwrap_err(), ApplyError::Layout { .. }), "{what}");
    }
}

#[test]
fn a_known_leaf_table_of_another_leaf_hash_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (base, target) = pair(dir.path());
    let (base, target) = (open(&base), open(&target));
    let known =
        LeafTable::of(&State::of(&base).unwrap(), LeafHash::Blake3, NonZeroUsize::MIN, Progress::none())
            .unwrap();
    let base = Snapshot { leaves: Some(&known), ..crate::common::version(&base) };
    let mut patch = Vec::new();
    let refused = encode_diff(
        &base,
        &crate::common::version(&target),
        &Options::default(),
        Progress::none(),
        &mut patch,
    );
    let Err(DiffError::LeafHash { expected, found }) = refused else { panic!("{refused:?}") };
    assert_eq!((expected, found), (LeafHash::Xxh3, LeafHash::Blake3));
    assert!(patch.is_empty());
}

#[test]
fn slices_that_are_not_those_of_the_schema_make_no_state() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open(&pair(dir.path()).0);
    let (schema, tensors) = (opened.schema(), opened.tensors());
    let few = State::new(schema, tensors[1..].to_vec());
    assert_eq!(few.map(|_| ()), Err(StateError::Count { expected: 3, found: 2 }));
    let many = State::new(schema, [&tensors[..], &[&[]]].concat());
    assert_eq!(many.map(|_| ()), Err(StateError::Count { expected: 3, found: 4 }));
    let short = State::new(schema, vec![tensors[0], &tensors[1][1..], tensors[2]]);
    assert!(matches!(short, Err(StateError::Length { expected: 14, found: 13, .. })), "{short:?}");
}

#[test]
fn a_known_leaf_table_gives_the_same_patch() {
    let dir = tempfile::tempdir().unwrap();
    let (base, target) = pair(dir.path());
    let options = Options::default();
    let (expected, report) = patch_between(&base, &target, &options);
    let (base, target) = (open(&base), open(&target));
    let known =
        LeafTable::of(&State::of(&base).unwrap(), LeafHash::Xxh3, options.threads, Progress::none()).unwrap();
    let mut base = crate::common::version(&base);
    base.leaves = Some(&known);
    let mut patch = Vec::new();
    let again =
        encode_diff(&base, &crate::common::version(&target), &options, Progress::none(), &mut patch).unwrap();
    assert!(patch == expected);
    assert_eq!(again.base, report.base);
    assert_ne!(again.base, StateDigest::NONE);
}
