//! Changes that a format cannot express, and requests that make no sense.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tensorpatch_format::ErrorKind;
use tensorpatch_formats::index_delta::{DeltaEncoding, Dialect};
use tensorpatch_formats::{ChecksumKind, ConvertOptions, Flavour, FormatsError, Note, Report, To, convert};
use tensorpatch_testkit::Tensor;

use crate::{file, refused};

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, name: &str, tensors: &[Tensor]) -> PathBuf {
        std::fs::write(self.path(name), file(tensors, &[])).unwrap();
        self.path(name)
    }

    /// Converts, and says that nothing is left behind if that fails.
    fn write(
        &self,
        target: &Path,
        base: Option<&Path>,
        options: &ConvertOptions,
    ) -> Result<Report, FormatsError> {
        let before = std::fs::read_dir(self.0.path()).unwrap().count();
        let result = convert(target, base, &self.path("out"), options);
        if let Err(error) = &result {
            assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
            assert_eq!(std::fs::read_dir(self.0.path()).unwrap().count(), before);
        }
        result
    }
}

fn t(dtype: &str, shape: &[u64], byte: u8) -> Tensor {
    let len = shape.iter().product::<u64>() * if dtype == "F32" { 4 } else { 2 };
    Tensor::new("t", dtype, shape, vec![byte; len as usize])
}

fn slime() -> ConvertOptions {
    ConvertOptions::new(To::index_delta(Dialect::Numbered)).with_versions("2", "1")
}

fn trl(flavour: Flavour) -> ConvertOptions {
    ConvertOptions::new(To::Trl(flavour)).with_versions("2", "1")
}

#[test]
fn tensors_that_come_go_or_change_their_shape_cannot_be_said_in_a_delta() {
    let place = Place::new();
    let base = place.put("base", &[t("BF16", &[2], 0)]);
    let more = place.put("more", &[t("BF16", &[2], 0), Tensor::new("u", "BF16", &[0], vec![])]);
    for options in [slime(), trl(Flavour::A), trl(Flavour::CGaps)] {
        for (target, base, words) in [
            (&more, &base, "tensor \"u\": the base has no such tensor"),
            (&base, &more, "tensor \"u\": the target has no such tensor"),
            (&place.put("shaped", &[t("BF16", &[1, 2], 0)]), &base, "the base has another dtype or shape"),
            (&place.put("typed", &[t("F16", &[2], 0)]), &base, "the base has another dtype or shape"),
        ] {
            refused(place.write(target, Some(base), &options), words);
        }
    }
    // A patch can say all of that.
    place.write(&more, Some(&base), &ConvertOptions::new(To::Patch)).unwrap();
}

#[test]
fn what_is_not_bf16_cannot_be_said_in_a_file_of_trl() {
    let place = Place::new();
    let tensors =
        |norm: u8, weight: u8| [t("BF16", &[2], weight), Tensor::new("norm", "F32", &[1], vec![norm; 4])];
    let base = place.put("base", &tensors(0, 0));
    let (weight, norm) = (place.put("weight", &tensors(0, 1)), place.put("norm", &tensors(1, 0)));
    refused(place.write(&norm, Some(&base), &trl(Flavour::B)), "tensor \"norm\": it is F32");
    // The first flavour has a checksum over all tensors, as bf16.
    refused(place.write(&weight, Some(&base), &trl(Flavour::A)), "tensor \"norm\": it is F32");
    refused(place.write(&weight, None, &trl(Flavour::B)), "tensor \"norm\": it is F32");
    let report = place.write(&weight, Some(&base), &trl(Flavour::B)).unwrap();
    assert_eq!((report.changed_tensors, report.files), (1, 1));
}

/// A file of one tensor of zeros that takes no room on disk, and then one byte of something else.
fn sparse(path: &Path, dtype: &str, elements: u64, byte: u8) {
    let width = if dtype == "U8" { 1 } else { 2 };
    let json = format!(
        r#"{{"t":{{"dtype":"{dtype}","shape":[{elements}],"data_offsets":[0,{}]}}}}"#,
        elements * width
    );
    let file = File::create(path).unwrap();
    file.write_all_at(&(json.len() as u64).to_le_bytes(), 0).unwrap();
    file.write_all_at(json.as_bytes(), 8).unwrap();
    let start = 8 + json.len() as u64;
    file.set_len(start + elements * width).unwrap();
    file.write_all_at(&[byte], start).unwrap();
}

#[test]
fn positions_beyond_their_four_bytes_are_refused_and_do_not_wrap() {
    let place = Place::new();
    let (base, target) = (place.path("base"), place.path("target"));
    sparse(&base, "U8", (1 << 32) + 1, 0);
    sparse(&target, "U8", (1 << 32) + 1, 1);
    let to = To::IndexDelta {
        dialect: Dialect::Numbered,
        encoding: DeltaEncoding::Overwrite,
        checksum: ChecksumKind::Xxh3,
        file_bytes: 1,
    };
    let options = ConvertOptions::new(to).with_versions("2", "1");
    refused(
        place.write(&target, Some(&base), &options),
        "it has 4294967297 bytes, and positions of overwrite end at",
    );
    sparse(&base, "BF16", (1 << 31) + 1, 0);
    sparse(&target, "BF16", (1 << 31) + 1, 1);
    refused(
        place.write(&target, Some(&base), &trl(Flavour::CRaw)),
        "it has 2147483649 elements, and positions end at",
    );
}

#[test]
fn versions_that_are_not_known_or_of_the_wrong_kind_are_refused() {
    let place = Place::new();
    let (base, target) =
        (place.put("base", &[t("BF16", &[2], 0)]), place.put("target", &[t("BF16", &[2], 1)]));
    let write = |to: To, version: Option<&str>, base_version: Option<&str>| {
        let mut options = ConvertOptions::new(to);
        (options.version, options.base_version) =
            (version.map(str::to_owned), base_version.map(str::to_owned));
        place.write(&target, Some(&base), &options)
    };
    let slime = To::index_delta(Dialect::Numbered);
    refused(write(slime, None, Some("1")), "the version is not known");
    refused(write(slime, Some("2"), None), "the version of the base is not known");
    refused(write(slime, Some("two"), Some("1")), "the version \"two\" is no number");
    refused(write(slime, Some("2"), Some("-1")), "the version of the base \"-1\" is no number");
    refused(write(To::index_delta(Dialect::ModelExpress), Some(""), Some("1")), "the version is not known");
    refused(write(To::Trl(Flavour::A), Some("2"), None), "the version of the base is not known");
    refused(write(To::Trl(Flavour::B), Some("run/b"), None), "the version \"run/b\" is no number");
    write(To::Trl(Flavour::B), Some("2"), None).unwrap();
}

#[test]
fn what_no_reader_of_a_dialect_reads_is_not_written() {
    let place = Place::new();
    let (base, target) =
        (place.put("base", &[t("BF16", &[2], 0)]), place.put("target", &[t("BF16", &[2], 1)]));
    let write = |dialect, encoding, checksum, base| {
        let to = To::IndexDelta { dialect, encoding, checksum, file_bytes: 1 << 20 };
        place.write(&target, base, &ConvertOptions::new(to).with_versions("2", "1"))
    };
    let (mx, base) = (Dialect::ModelExpress, Some(base.as_path()));
    refused(
        write(mx, DeltaEncoding::Overwrite, ChecksumKind::Adler32, base),
        "ModelExpress reads xor with adler32 alone",
    );
    refused(
        write(mx, DeltaEncoding::Xor, ChecksumKind::Xxh3, base),
        "ModelExpress reads xor with adler32 alone",
    );
    refused(
        write(Dialect::Numbered, DeltaEncoding::Xor, ChecksumKind::Sha256, base),
        "readers do not know sha256",
    );
    refused(write(Dialect::Numbered, DeltaEncoding::Xor, ChecksumKind::Xxh3, None), "there is no base");
    let report = write(Dialect::Numbered, DeltaEncoding::Xor, ChecksumKind::Adler32, base).unwrap();
    assert_eq!(report.notes, [Note::WeakChecksum]);
}

#[test]
fn nothing_is_replaced_but_an_empty_directory() {
    let place = Place::new();
    let (base, target) =
        (place.put("base", &[t("BF16", &[2], 0)]), place.put("target", &[t("BF16", &[2], 1)]));
    std::fs::create_dir(place.path("out")).unwrap();
    refused(place.write(&target, Some(&base), &ConvertOptions::new(To::Patch)), "is a directory");
    std::fs::write(place.path("out/kept"), b"").unwrap();
    let error = convert(&target, Some(&base), &place.path("out"), &slime()).unwrap_err();
    assert!(matches!(error, FormatsError::Io { .. }), "{error}");
    std::fs::remove_file(place.path("out/kept")).unwrap();
    place.write(&target, Some(&base), &slime()).unwrap();
}

#[test]
fn another_layout_of_the_files_is_told_where_it_is_lost() {
    let place = Place::new();
    let base = place.put("base", &[t("BF16", &[2], 0)]);
    std::fs::write(place.path("target"), file(&[t("BF16", &[2], 1)], &[("step", "2")])).unwrap();
    let report = place.write(&place.path("target"), Some(&base), &slime()).unwrap();
    assert_eq!(report.notes, [Note::LayoutLost]);
}

#[test]
fn nothing_changed_is_written_where_the_format_has_a_file_for_it_and_told_where_not() {
    let place = Place::new();
    let base = place.put("base", &[t("BF16", &[2], 0)]);
    for flavour in [Flavour::B, Flavour::CRaw, Flavour::CGaps] {
        let report = place.write(&base, Some(&base), &trl(flavour)).unwrap();
        assert_eq!((report.files, report.notes), (0, vec![Note::NothingWritten]));
        assert!(!place.path("out").exists());
    }
    let report = place.write(&base, Some(&base), &trl(Flavour::A)).unwrap();
    assert_eq!((report.files, report.changed_tensors), (1, 0));
}
