//! Directories of SkyRL.

use serde_json::{Value, json};
use tensorpatch_format::Limits;
use tensorpatch_formats::skyrl::{Manifest, SkyRlDelta};
use tensorpatch_formats::{ChecksumKind, Fault};
use tensorpatch_testkit::Tensor;

use crate::{edited, file, frame, limits, refused, removed, row, spec, text};

const FILE: &str = "delta-rank00000-file000000.safetensors";
const TARGET: [u8; 8] = [1, 0, 0, 0, 0, 0, 0, 0];

fn manifest() -> Value {
    let packed = frame(&TARGET).len();
    json!({
        "version": 2, "base_version": 1,
        "tensors": [{
            "name": "t", "dtype": "bfloat16", "shape": [4], "uncompressed_num_bytes": 8, "compressed_num_bytes": packed,
            "payload_file": FILE, "payload_key": "p", "checksum": ChecksumKind::Xxh3.of(&TARGET),
            "checksum_algorithm": "xxh3-128",
        }],
        "total_uncompressed_num_bytes": 8, "total_compressed_num_bytes": packed, "payload_files": [FILE],
    })
}

fn decode(manifest: &Value, bytes: &[u8], limits: &Limits) -> Result<Vec<u8>, Fault> {
    let manifest = Manifest::parse(&text(manifest), limits)?;
    let delta = SkyRlDelta::parse(manifest, &[(FILE, bytes)], limits)?;
    let change = delta.decode(&spec("t", "BF16", &[4]))?.unwrap();
    change.apply(&[0; 8]).map_err(Into::into)
}

fn payload() -> Vec<u8> {
    file(&[row("p", &frame(&TARGET))], &[])
}

#[test]
fn a_manifest_that_breaks_a_rule_is_refused() {
    let good = manifest();
    let check = |manifest: &Value, words| refused(decode(manifest, &payload(), &Limits::default()), words);
    assert_eq!(decode(&good, &payload(), &Limits::default()).unwrap(), TARGET);
    for (path, new, words) in [
        ("version", removed(), "missing field `version`"),
        ("base_version", json!("1"), "broken JSON"),
        ("tensors/0/shape", json!([-4]), "broken JSON"),
        ("payload_files", json!([FILE, FILE]), "a file in payload_files occurs twice"),
        ("payload_files", json!(["../x.safetensors"]), "a plain name that ends in .safetensors"),
        ("tensors/0/payload_file", json!("other.safetensors"), "expected one of payload_files"),
        ("tensors/0/checksum_algorithm", json!("adler32"), "expected xxh3-128 or sha256"),
        ("tensors/0/checksum_algorithm", json!("md5"), "expected xxh3-128 or sha256"),
        ("total_uncompressed_num_bytes", json!(9), "total_uncompressed_num_bytes: expected 8, found 9"),
        ("total_compressed_num_bytes", json!(9), "total_compressed_num_bytes: expected "),
        ("tensors/0/dtype", json!("float16"), "dtype: expected BF16 as in the base, found float16"),
        ("tensors/0/shape", json!([2, 2]), "shape: expected [4] as in the base, found [2, 2]"),
        ("tensors/0/checksum", json!("00"), "the xxh3-128 checksum of the result differs"),
        ("tensors/0/payload_key", json!("q"), "the payload's tensor in the manifest is missing"),
    ] {
        check(&edited(&good, path, new), words);
    }
    let twice = |path: &str, new: &str| {
        let second = edited(&good["tensors"][0], path, json!(new));
        edited(&good, "tensors", json!([good["tensors"][0], second]))
    };
    check(&twice("payload_key", "q"), "the tensor occurs twice");
    check(&twice("name", "u"), "the payload occurs twice");
    let key = text(&good);
    let key = String::from_utf8(key).unwrap().replace(r#""version":2"#, r#""version":2,"version":2"#);
    refused(Manifest::parse(key.as_bytes(), &Limits::default()), "duplicate field `version`");
    for (limits, words) in [
        (limits(|l| l.tensors = 0), "the number of tensors is 1"),
        (limits(|l| l.files = 0), "the number of files is 1"),
        (limits(|l| l.state_bytes = 7), "the size of the state is 8"),
        (limits(|l| l.header_bytes = 20), "over the limit of 20"),
    ] {
        refused(Manifest::parse(&text(&good), &limits), words);
    }
}

#[test]
fn payloads_that_are_not_those_of_the_manifest_are_refused() {
    let good = manifest();
    let packed = frame(&TARGET);
    let check = |bytes: Vec<u8>, words| refused(decode(&good, &bytes, &Limits::default()), words);
    check(file(&[], &[]), "the payload is missing");
    check(
        file(&[row("p", &packed), row("q", &packed)], &[]),
        "the payload's tensor in the manifest is missing",
    );
    check(
        file(&[Tensor::new("p", "I8", &[packed.len() as u64], packed.clone())], &[]),
        "expected U8 [bytes]",
    );
    check(file(&[row("p", &[&packed[..], &[0]].concat())], &[]), "compressed_num_bytes: expected ");
    // Sizes that agree with each other, and not with the base.
    let mut larger = edited(&good, "tensors/0/uncompressed_num_bytes", json!(9));
    larger["total_uncompressed_num_bytes"] = json!(9);
    refused(decode(&larger, &payload(), &Limits::default()), "uncompressed_num_bytes: expected 8, found 9");
    let other = frame(&[0; 9]);
    let mut larger = edited(&good, "tensors/0/compressed_num_bytes", json!(other.len()));
    larger["total_compressed_num_bytes"] = json!(other.len());
    refused(
        decode(&larger, &file(&[row("p", &other)], &[]), &Limits::default()),
        "bytes in the frame: expected 8",
    );
}
