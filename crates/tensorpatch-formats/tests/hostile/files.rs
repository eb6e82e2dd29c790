//! Files and directories that are incomplete, ambiguous or not what they are taken for.

use std::fs;
use std::path::{Path, PathBuf};

use tensorpatch_format::{ErrorKind, Limits};
use tensorpatch_formats::{
    ChecksumKind, ConvertOptions, Delta, DeltaFiles, Format, FormatsError, Report, To, convert,
};
use tensorpatch_testkit::Tensor;

use crate::{file, frame, refused, row};

/// A directory with a base of two tensors, and room for the rest.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        place.put("base.safetensors", &file(&[t([0; 4]), Tensor::new("u", "U8", &[2], vec![7; 2])], &[]));
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    /// A delta directory in which `t` becomes 1, 0, 0, 0.
    fn delta(&self) -> PathBuf {
        let sum = ChecksumKind::Adler32.of(&[1, 0, 0, 0]);
        self.put(
            "delta/model-00000-of-00001.safetensors",
            &file(&[row("t", &frame(&[1, 0, 0, 0]))], &[("t", &sum)]),
        );
        let index = br#"{"metadata":{"version":"2","base_version":"1","delta_encoding":"xor","compression_format":"zstd",
            "checksum_format":"adler32"},"weight_map":{"t":"model-00000-of-00001.safetensors"}}"#;
        self.put("delta/model.safetensors.index.json", index);
        self.path("delta")
    }

    fn apply(&self, source: &Path, base: &Path) -> Result<Report, FormatsError> {
        let dest = self.path("result.safetensors");
        let result = convert(source, Some(base), &dest, &ConvertOptions::new(To::Checkpoint));
        assert_eq!(dest.exists(), result.is_ok());
        let left = fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(
            left.filter(|name| name.to_string_lossy().starts_with('.')).count(),
            0,
            "something is left behind"
        );
        result
    }
}

fn t(bytes: [u8; 4]) -> Tensor {
    Tensor::new("t", "BF16", &[2], bytes.to_vec())
}

#[test]
fn a_delta_directory_is_refused_without_its_index_or_a_file_or_with_one_too_many() {
    let place = Place::new();
    let (delta, base) = (place.delta(), place.path("base.safetensors"));
    place.apply(&delta, &base).unwrap();
    fs::remove_file(place.path("result.safetensors")).unwrap();

    let stray = place.put("delta/model-00001-of-00002.safetensors", &file(&[], &[]));
    refused(place.apply(&delta, &base), "file: expected one that the index names, found model-00001");
    fs::remove_file(stray).unwrap();

    let index = delta.join("model.safetensors.index.json");
    let json = fs::read(&index).unwrap();
    fs::remove_file(&index).unwrap();
    refused(place.apply(&delta, &base), "its index is missing");
    // Under the name of a whole checkpoint it is none either.
    fs::rename(delta.join("model-00000-of-00001.safetensors"), delta.join("model.safetensors")).unwrap();
    refused(place.apply(&delta, &base), "the index of what looks like a delta is missing");
    fs::remove_file(delta.join("model.safetensors")).unwrap();
    fs::write(&index, json).unwrap();
    let error = place.apply(&delta, &base).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadInput);
    refused::<(), _>(Err(error), "model-00000-of-00001.safetensors: the file is missing");
}

#[test]
fn a_directory_of_two_formats_or_of_none_is_refused() {
    let place = Place::new();
    let detect = |path: &Path| Format::detect(path, &Limits::default());
    let delta = place.delta();
    // What lies beside weights or their index may be called anything.
    place.put("delta/manifest.json", b"{}");
    assert_eq!(detect(&delta).unwrap(), Format::IndexDelta);
    place.put("whole/manifest.json", b"{}");
    place.put("whole/model.safetensors", &file(&[t([0; 4])], &[]));
    assert_eq!(detect(&place.path("whole")).unwrap(), Format::Checkpoint);
    place.put("other/manifest.json", b"{}");
    place.put("other/locations.bin", b"{}");
    refused(detect(&place.path("other")), "a directory of two formats at once");
    place.put("none/README.md", b"");
    refused(detect(&place.path("none")), "neither a checkpoint nor a delta");
    refused(detect(&place.path("absent")), "cannot open");
    refused(detect(&place.put("garbage", b"RIFFRIFFRIFF")), "the header claims");
    refused(detect(&place.put("nothing", b"")), "truncated header");
    place.put("delta/model.safetensors.index.json", b"{\"weight_map\":");
    refused(detect(&delta), "model.safetensors.index.json: broken JSON: EOF while parsing a value");
}

#[test]
fn two_files_for_one_group_of_values_are_refused() {
    let place = Place::new();
    place.put("nemo/metadata.json", b"[]");
    place.put("nemo/locations.bin", b"");
    place.put("nemo/values-0-int16.bin", b"");
    let few = crate::limits(|limits| limits.files = 2);
    refused(DeltaFiles::open(&place.path("nemo"), Format::NemoRl, &few), "the number of files is 3");
    place.put("nemo/values-00-int16.bin", b"");
    refused(
        place.apply(&place.path("nemo"), &place.path("base.safetensors")),
        "the group of values occurs twice",
    );
}

#[test]
fn a_change_of_a_tensor_that_the_base_does_not_have_is_refused() {
    let place = Place::new();
    let base = place.put("other.safetensors", &file(&[Tensor::new("u", "U8", &[2], vec![7; 2])], &[]));
    refused(place.apply(&place.delta(), &base), "tensor \"t\": the base has no such tensor");
}

#[test]
fn a_wrong_base_is_told_by_its_digest_or_by_a_checksum() {
    let place = Place::new();
    let base = place.path("base.safetensors");
    let right = place.apply(&place.delta(), &base).unwrap().base.unwrap();
    // Another bit in a tensor that the delta does not touch: only the digest of the base can tell.
    let untouched = place
        .put("untouched.safetensors", &file(&[t([0; 4]), Tensor::new("u", "U8", &[2], vec![7, 6])], &[]));
    let with_digest = |base: &Path| {
        let options = ConvertOptions::new(To::Checkpoint).with_base_digest(right);
        convert(&place.path("delta"), Some(base), &place.path("checked.safetensors"), &options)
    };
    assert!(with_digest(&base).unwrap().notes.is_empty());
    let error = with_digest(&untouched).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongBase);
    refused::<(), _>(Err(error), "the base has the digest xxh3:");
    let report = place.apply(&place.path("delta"), &untouched).unwrap();
    assert_eq!(report.notes, [tensorpatch_formats::Note::BaseUnchecked]);
    fs::remove_file(place.path("result.safetensors")).unwrap();

    let touched = place
        .put("touched.safetensors", &file(&[t([0, 0, 0, 1]), Tensor::new("u", "U8", &[2], vec![7; 2])], &[]));
    let error = place.apply(&place.path("delta"), &touched).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongBase);
    refused::<(), _>(Err(error), "model-00000-of-00001.safetensors: tensor \"t\": the adler32 checksum");
}

#[test]
fn a_delta_is_no_base() {
    let place = Place::new();
    let delta = place.delta();
    refused(place.apply(&delta, &delta), "the base must be a checkpoint");
}

#[test]
fn a_full_checkpoint_that_does_not_have_its_checksums_is_refused() {
    let place = Place::new();
    let put = |metadata: &[(&str, &str)]| {
        place.put("full/model-00001-of-00001.safetensors", &file(&[t([1, 0, 0, 0])], metadata));
        let index = br#"{"metadata":{"total_size":4,"checksum_format":"adler32"},
            "weight_map":{"t":"model-00001-of-00001.safetensors"}}"#;
        place.put("full/model.safetensors.index.json", index);
        place.path("full")
    };
    let sum = ChecksumKind::Adler32.of(&[1, 0, 0, 0]);
    let full = put(&[("t", &sum)]);
    // It can be a base; what it says of itself is not said of the target.
    let report = place.apply(&place.path("base.safetensors"), &full).unwrap();
    assert_eq!(report.changed_tensors, 2);
    fs::remove_file(place.path("result.safetensors")).unwrap();
    refused(place.apply(&full, &put(&[("t", "00000001")])), "the adler32 checksum of the result differs");
    refused(place.apply(&full, &put(&[("format", "pt")])), "the checksum is missing");
}

#[test]
fn an_anchor_that_does_not_have_its_checksum_is_refused() {
    let place = Place::new();
    let anchor = |sum: &str| {
        let metadata = [
            ("format", "anchor_checkpoint"),
            ("version", "1"),
            ("model_version", "1"),
            ("checksum_sha256", sum),
        ];
        place.put("anchor.safetensors", &file(&[t([1, 0, 0, 0])], &metadata))
    };
    let sum = ChecksumKind::Sha256.of(&[1, 0, 0, 0]);
    let base = place.path("base.safetensors");
    place.apply(&anchor(&sum), &base).unwrap();
    fs::remove_file(place.path("result.safetensors")).unwrap();
    refused(place.apply(&anchor(&sum.replace('a', "b")), &base), "the sha256 checksum of the result differs");
}

#[test]
fn what_a_base_says_of_itself_is_not_said_of_its_successor() {
    let place = Place::new();
    let metadata = [
        ("format", "anchor_checkpoint"),
        ("version", "1"),
        ("model_version", "1"),
        ("checksum_sha256", &ChecksumKind::Sha256.of(&[0; 4])),
    ];
    let anchor = place.put("anchor.safetensors", &file(&[t([0; 4])], &metadata));
    let report = place.apply(&place.delta(), &anchor).unwrap();
    assert!(report.notes.contains(&tensorpatch_formats::Note::LayoutReplaced));
    let result = place.path("result.safetensors");
    assert_eq!(Format::detect(&result, &Limits::default()).unwrap(), Format::Checkpoint);
}

#[test]
fn a_delta_opened_as_another_format_is_refused() {
    let place = Place::new();
    let (delta, base) = (place.delta(), place.path("base.safetensors"));
    let limits = Limits::default();
    for format in [Format::Checkpoint, Format::Patch, Format::TrlAnchor] {
        refused(DeltaFiles::open(&delta, format, &limits), "not a delta of another project");
    }
    refused(DeltaFiles::open(&delta, Format::SkyRl, &limits), "manifest.json");
    let files = DeltaFiles::open(&delta, Format::IndexDelta, &limits).unwrap();
    let base = tensorpatch_checkpoint::Checkpoint::open(&base, &limits).unwrap();
    let opened = files.parse(base.schema(), &limits).unwrap();
    assert!(matches!(opened, Delta::IndexDelta(_)));
    assert_eq!(opened.tensors(), ["t"]);
}

#[test]
fn a_state_that_does_not_have_the_checksum_of_a_delta_is_refused() {
    let place = Place::new();
    let base = place.put("state.safetensors", &file(&[t([0; 4])], &[]));
    let delta = |sum: &str| {
        let metadata = [
            ("format", "sparse_weight_patch"),
            ("version", "1"),
            ("model_version", "2"),
            ("num_changed_params", "1"),
            ("total_changed_elements", "1"),
            ("checksum_sha256", sum),
        ];
        let indices = Tensor::new("t.indices", "I32", &[1], vec![0; 4]);
        let values = Tensor::new("t.values", "BF16", &[1], vec![1, 0]);
        place.put("delta.safetensors", &file(&[indices, values], &metadata))
    };
    let sum = ChecksumKind::Sha256.of(&[1, 0, 0, 0]);
    let error = place.apply(&delta(&sum.replace('a', "b")), &base).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongBase);
    refused::<(), _>(Err(error), "the sha256 checksum of the result differs");
    place.apply(&delta(&sum), &base).unwrap();
}
