//! Index-delta directories.

use serde_json::{Value, json};
use tensorpatch_format::Limits;
use tensorpatch_formats::index_delta::{Index, IndexDelta, IndexKind};
use tensorpatch_formats::{ChecksumKind, Fault};
use tensorpatch_testkit::Tensor;

use crate::{edited, file, frame, limits, refused, removed, row, spec, text};

const FILE: &str = "model-00000-of-00001.safetensors";

fn index(encoding: &str) -> Value {
    json!({
        "metadata": {
            "version": "000002", "base_version": "000001", "delta_encoding": encoding,
            "compression_format": "zstd", "checksum_format": "adler32",
        },
        "weight_map": { "t": FILE },
    })
}

fn parse_index(index: &Value, limits: &Limits) -> Result<Index, Fault> {
    match Index::parse(&text(index), limits)? {
        IndexKind::Delta(index) => Ok(index),
        IndexKind::Full(_) => panic!("taken for a full checkpoint"),
    }
}

/// Reads one file under the name that the index has for `t`, and decodes `t` of eight bytes.
fn decode(index: &Value, bytes: &[u8]) -> Result<Vec<u8>, Fault> {
    let index = parse_index(index, &Limits::default())?;
    let delta = IndexDelta::parse(index, &[(FILE, bytes)], &Limits::default())?;
    let spec = spec("t", "BF16", &[4]);
    let change = delta.decode(&spec)?.unwrap();
    change.apply(&[0; 8]).map_err(Into::into)
}

/// The checksum of the target `1 0 0 0 0 0 0 0`.
fn sum() -> String {
    ChecksumKind::Adler32.of(&[1, 0, 0, 0, 0, 0, 0, 0])
}

fn of_frame(content: &[u8]) -> Vec<u8> {
    file(&[row("t", &frame(content))], &[("t", &sum())])
}

#[test]
fn an_index_that_breaks_a_rule_is_refused() {
    let good = index("xor");
    assert!(parse_index(&good, &Limits::default()).is_ok());
    for (path, new, words) in [
        // Half of what makes a delta does not make a full checkpoint.
        ("metadata/delta_encoding", removed(), "delta_encoding is missing"),
        ("metadata/base_version", removed(), "base_version is missing"),
        ("metadata/compression_format", removed(), "compression_format is missing"),
        ("metadata/version", removed(), "version is missing"),
        ("metadata/checksum_format", removed(), "checksum_format is missing"),
        ("metadata/version", json!(""), "version: expected a text"),
        ("metadata/base_version", json!(1), "base_version: expected a text"),
        ("metadata/delta_encoding", json!("sparse"), "expected xor or overwrite, found sparse"),
        ("metadata/compression_format", json!("none"), "expected zstd, found none"),
        ("metadata/checksum_format", json!("crc32"), "expected adler32, xxh3-128 or blake3"),
        ("metadata/checksum_format", json!("sha256"), "expected adler32, xxh3-128 or blake3"),
        ("weight_map", removed(), "missing field `weight_map`"),
        ("weight_map/t", json!("../t.safetensors"), "a plain name that ends in .safetensors"),
        ("weight_map/t", json!("t.bin"), "a plain name that ends in .safetensors"),
        ("weight_map/t", json!(7), "broken JSON"),
    ] {
        refused(parse_index(&edited(&good, path, new), &Limits::default()), words);
    }
    let twice = text(&good);
    let twice = String::from_utf8(twice).unwrap().replace(r#""t":"#, &format!(r#""t":"{FILE}","t":"#));
    refused(Index::parse(twice.as_bytes(), &Limits::default()), r#""t" occurs twice"#);
    refused(parse_index(&good, &limits(|l| l.header_bytes = 100)), "over the limit of 100");
    refused(parse_index(&good, &limits(|l| l.tensors = 0)), "the number of tensors is 1");
    refused(parse_index(&good, &limits(|l| l.files = 0)), "the number of files is 1");
}

#[test]
fn files_that_hold_something_else_than_the_index_says_are_refused() {
    let good = index("xor");
    let xor = frame(&[1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(decode(&good, &of_frame(&[1, 0, 0, 0, 0, 0, 0, 0])).unwrap(), [1, 0, 0, 0, 0, 0, 0, 0]);
    let sum = sum();
    let shaped = Tensor::new("t", "U8", &[1, xor.len() as u64], xor.clone());
    let signed = Tensor::new("t", "I8", &[xor.len() as u64], xor.clone());
    for (bytes, words) in [
        (
            file(&[row("t", &xor), row("u", &xor)], &[("t", &sum), ("u", &sum)]),
            "the index's file of the tensor",
        ),
        (file(&[row("t", &xor)], &[("u", &sum)]), "the checksum is missing"),
        (file(&[row("t", &xor)], &[("t", &sum), ("u", &sum)]), "the tensor of a checksum is missing"),
        (file(&[row("t", &xor)], &[]), "__metadata__ is missing"),
        (file(&[], &[("x", "y")]), "the tensor of a checksum is missing"),
        (file(&[shaped], &[("t", &sum)]), "expected U8 [bytes], found U8 [1, "),
        (file(&[signed], &[("t", &sum)]), "expected U8 [bytes], found I8 ["),
        ([&file(&[row("t", &xor)], &[("t", &sum)])[..], b"x"].concat(), "the header describes a file of"),
    ] {
        refused(decode(&good, &bytes), words);
    }
    let elsewhere = edited(&good, "weight_map/t", json!("model-00001-of-00002.safetensors"));
    refused(decode(&elsewhere, &of_frame(&[0; 8])), "the index's file of the tensor");
    let mut more = good.clone();
    more["weight_map"]["u"] = json!(FILE);
    refused(decode(&more, &of_frame(&[0; 8])), "\"u\": the tensor is missing");
}

#[test]
fn a_frame_that_cannot_be_the_change_of_its_tensor_is_refused() {
    let xor = index("xor");
    refused(decode(&xor, &of_frame(&[0; 7])), "bytes in the frame: expected 8, found 7");
    refused(decode(&xor, &of_frame(&[0; 9])), "bytes in the frame: expected 8, found 9");
    refused(decode(&xor, &of_frame(&[2, 0, 0, 0, 0, 0, 0, 0])), "the adler32 checksum of the result differs");
    let doubled = [frame(&[0; 8]), frame(&[0; 8])].concat();
    refused(decode(&xor, &file(&[row("t", &doubled)], &[("t", "")])), "bytes follow the frame");

    let overwrite = index("overwrite");
    let content = |count: u32, positions: &[u32], values: &[u8]| {
        let positions = positions.iter().flat_map(|position| position.to_le_bytes());
        of_frame(
            &count
                .to_le_bytes()
                .into_iter()
                .chain(positions)
                .chain(values.iter().copied())
                .collect::<Vec<_>>(),
        )
    };
    assert_eq!(decode(&overwrite, &content(1, &[0], &[1])).unwrap(), [1, 0, 0, 0, 0, 0, 0, 0]);
    for (bytes, words) in [
        (of_frame(&[0; 3]), "expected 4 and 5 for each of at most 8, found 3"),
        (of_frame(&[0; 10]), "expected 4 and 5 for each of at most 8, found 10"),
        (
            content(9, &[0, 1, 2, 3, 4, 5, 6, 7, 7], &[0; 9]),
            "expected 4 and 5 for each of at most 8, found 49",
        ),
        (content(2, &[0], &[1]), "count: expected 1, found 2"),
        (content(1, &[8], &[1]), "position 8, number 0"),
        (content(2, &[0, 0], &[1, 1]), "position 0, number 1"),
        (content(2, &[1, 0], &[0, 1]), "position 0, number 1"),
    ] {
        refused(decode(&overwrite, &bytes), words);
    }
}

#[test]
fn byte_positions_in_a_tensor_of_more_than_4_gib_are_refused_because_they_wrap() {
    let bytes = of_frame(&[0; 4]);
    let index = parse_index(&index("overwrite"), &Limits::default()).unwrap();
    let delta = IndexDelta::parse(index, &[(FILE, &bytes)], &Limits::default()).unwrap();
    refused(delta.decode(&spec("t", "U8", &[(1 << 32) + 1])), "wrap at 4294967296");
    assert!(delta.decode(&spec("t", "U8", &[1 << 32])).is_ok());
}
