//! Converting to and from the delta formats of other projects.

use std::fs;
use std::path::Path;

use crate::support::{arguments, fixture, run, same_checkpoint, shard, temporary, write};

#[test]
fn a_version_goes_from_trl_to_a_patch_to_a_directory_and_back() {
    let dir = temporary();
    let path = |name: &str| dir.path().join(name);
    let (base, target) = (fixture(4), fixture(5));
    let (sent, patch) = (path("step.safetensors"), path("step.tpatch"));
    let anchor = path("anchor.safetensors");
    run(&arguments!["convert", base, "--to", "trl-a", "--target-version", "4", "-o", anchor]).ok();
    let versions = ["--target-version", "5", "--base-version", "4"].map(Into::into);
    let write_sent = arguments!["convert", target, "--base", anchor, "--to", "trl-a", "-o", sent];
    run(&[&write_sent[..], &versions].concat()).ok();

    let json =
        run(&arguments!["convert", sent, "--base", base, "--to", "patch", "-o", patch, "--json"]).ok().json();
    assert_eq!((&json["source_format"], &json["verified"]), (&"trl-delta".into(), &"state".into()));
    assert_eq!((&json["source_version"], &json["source_base_version"]), (&"5".into(), &"4".into()));
    let digest = run(&arguments!["digest", target, "--json"]).ok().json();
    assert_eq!(json["target"], digest["state"]);
    let applied = path("applied.safetensors");
    run(&arguments!["apply", base, patch, "-o", applied]).ok();
    same_checkpoint(&applied, &target);

    for (number, options) in
        [&["slime", "--encoding", "overwrite", "--checksum", "blake3"][..], &["slime"], &["modelexpress"]]
            .iter()
            .enumerate()
    {
        let (directory, pulled) =
            (path(&format!("weight_v{number}")), path(&format!("pulled-{number}.safetensors")));
        let write_directory = arguments!["convert", patch, "--base", base, "-o", directory, "--to"].to_vec();
        let options: Vec<_> = options.iter().map(Into::into).collect();
        run(&[&write_directory[..], &options, &versions].concat()).ok();
        run(&arguments!["convert", directory, "--base", base, "--to", "checkpoint", "-o", pulled]).ok();
        same_checkpoint(&pulled, &target);
    }
}

#[test]
fn a_sharded_checkpoint_keeps_its_files_and_its_companions() {
    let dir = temporary();
    let path = |name: &str| dir.path().join(name);
    let (base, target, delta, pulled) = (path("base"), path("target"), path("delta"), path("pulled"));
    shard(&fixture(4), &base, 3);
    shard(&fixture(5), &target, 3);
    write(&base.join("config.json"), b"{}");
    write(&target.join("config.json"), b"{}");
    let versions = ["--target-version", "2", "--base-version", "1"].map(Into::into);
    let write_delta = arguments!["convert", target, "--base", base, "--to", "slime", "-o", delta];
    run(&[&write_delta[..], &versions].concat()).ok();
    run(&arguments!["convert", delta, "--base", base, "--to", "checkpoint", "-o", pulled]).ok();
    same_checkpoint(&pulled, &target);
}

#[test]
fn what_cannot_be_converted_ends_with_the_code_for_who_must_act() {
    let dir = temporary();
    let path = |name: &str| dir.path().join(name);
    let (base, target, delta, out) = (fixture(4), fixture(5), path("delta"), path("out.tpatch"));
    let convert = |source: &Path, base: &Path, options: &[&str]| {
        let known = arguments!["convert", source, "--base", base, "-o", out];
        run(&known.into_iter().chain(options.iter().map(Into::into)).collect::<Vec<_>>())
    };
    // Refused: a request that makes no sense, and what the format has no way to say.
    convert(&target, &base, &["--to", "slime"])
        .fails(2, &["the version is not known", "--target-version N and --base-version N"]);
    convert(&target, &base, &["--to", "patch", "--checksum", "blake3"])
        .fails(2, &["for index-delta directories"]);
    convert(&target, &base, &["--to", "patch", "--target-version", "2"]).fails(2, &["has no version"]);
    let other = path("other.safetensors");
    let header = br#"{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#;
    write(&other, &[&(header.len() as u64).to_le_bytes()[..], header, &[0]].concat());
    let versions = ["--to", "slime", "--target-version", "2", "--base-version", "1"];
    convert(&other, &base, &versions).fails(2, &["the base has no such tensor"]);
    // Damaged: the index, which is written last, is missing.
    let write_delta = arguments!["convert", target, "--base", base, "-o", delta];
    run(&write_delta.into_iter().chain(versions.map(Into::into)).collect::<Vec<_>>()).ok();
    let without_base = run(&arguments!["convert", delta, "--to", "patch", "-o", out]);
    without_base.fails(2, &["needs a base", "--base CHECKPOINT"]);
    // Another base: by a checksum of what changes, or by its digest.
    convert(&delta, &fixture(6), &["--to", "patch"]).fails(4, &["checksum of the result differs"]);
    let digest = run(&arguments!["digest", base, "--json"]).ok().json()["state"].clone();
    let digest = digest.as_str().unwrap_or_default();
    convert(&delta, &base, &["--to", "patch", "--base-digest", digest]).ok();
    fs::remove_file(&out).unwrap();
    convert(&delta, &fixture(6), &["--to", "patch", "--base-digest", digest])
        .fails(4, &["the base has the digest"]);
    fs::remove_file(delta.join("model.safetensors.index.json")).unwrap();
    convert(&delta, &base, &["--to", "patch"]).fails(3, &["its index is missing"]);
    // Input or output.
    convert(&path("absent"), &base, &["--to", "patch"]).fails(1, &["absent: cannot open"]);
    assert!(!out.exists());
}
