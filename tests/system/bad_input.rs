//! Every bad input: the right exit code, a message that names what is wrong and where, and nothing changed.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::support::{
    Outcome, arguments, assemble, fixture, parse, read, run, shard, temporary, tree, write,
};

const FAILED: i32 = 1;
const REFUSED: i32 = 2;
const BAD_INPUT: i32 = 3;
const WRONG_BASE: i32 = 4;

/// A directory with a base, the patch to its target, and whatever a test adds.
struct Scene {
    dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let scene = Self { dir: temporary() };
        fs::copy(fixture(4), scene.path("base.safetensors")).unwrap();
        run(&arguments!["diff", fixture(4), fixture(5), "-o", scene.path("good.tpatch")]).ok();
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Applies `patch` to `base` beside it and in place; both must fail alike and change nothing.
    #[track_caller]
    fn refuses(&self, base: &str, patch: &str, code: i32, words: &[&str]) {
        let before = tree(self.dir.path());
        let output = self.path("out.safetensors");
        run(&arguments!["apply", self.path(base), self.path(patch), "-o", output]).fails(code, words);
        run(&arguments!["apply", self.path(base), self.path(patch), "--in-place"]).fails(code, words);
        let after = tree(self.dir.path());
        assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
        assert!(after == before, "a file was changed");
    }
}

/// Runs a command that must fail and change nothing in `dir`.
#[track_caller]
fn refused_without_a_trace(
    dir: &Path,
    arguments: &[std::ffi::OsString],
    code: i32,
    words: &[&str],
) -> Outcome {
    let before = tree(dir);
    let outcome = run(arguments).fails(code, words);
    assert!(tree(dir) == before, "something was changed");
    outcome
}

#[test]
fn a_truncated_patch_is_refused_wherever_it_ends() {
    let scene = Scene::new();
    let good = read(&scene.path("good.tpatch"));
    for length in [0, 7, 31, 32, 40, good.len() / 2, good.len() - 1] {
        write(&scene.path("bad.tpatch"), &good[..length]);
        scene.refuses(
            "base.safetensors",
            "bad.tpatch",
            BAD_INPUT,
            &["bad.tpatch", "offset", "fetch it again"],
        );
    }
}

#[test]
fn a_patch_with_one_altered_byte_is_refused() {
    let scene = Scene::new();
    let good = read(&scene.path("good.tpatch"));
    for place in (0..good.len()).step_by(good.len() / 40) {
        let mut bad = good.clone();
        bad[place] ^= 0x10;
        write(&scene.path("bad.tpatch"), &bad);
        scene.refuses("base.safetensors", "bad.tpatch", BAD_INPUT, &["bad.tpatch", "offset"]);
    }
}

#[test]
fn a_foreign_file_is_refused_as_no_patch() {
    let scene = Scene::new();
    scene.refuses(
        "base.safetensors",
        "base.safetensors",
        BAD_INPUT,
        &["base.safetensors", "not a tensorpatch file"],
    );
}

#[test]
fn a_patch_of_a_future_version_is_refused_with_the_advice_to_upgrade() {
    let scene = Scene::new();
    let mut bad = read(&scene.path("good.tpatch"));
    bad[8] = 2;
    write(&scene.path("bad.tpatch"), &bad);
    let words = ["bad.tpatch", "version 2", "offset 8", "newer version"];
    scene.refuses("base.safetensors", "bad.tpatch", BAD_INPUT, &words);
}

#[test]
fn a_patch_with_trailing_bytes_is_refused() {
    let scene = Scene::new();
    let mut bad = read(&scene.path("good.tpatch"));
    let end = bad.len();
    bad.push(0);
    write(&scene.path("bad.tpatch"), &bad);
    scene.refuses("base.safetensors", "bad.tpatch", BAD_INPUT, &["bad.tpatch", &format!("offset {end}")]);
}

#[test]
fn a_wrong_base_is_refused_with_both_digests() {
    let scene = Scene::new();
    fs::copy(fixture(6), scene.path("other.safetensors")).unwrap();
    let digest = |path: PathBuf| run(&arguments!["digest", path, "--json"]).ok().json()["state"].clone();
    let (expected, found) = (digest(fixture(4)), digest(fixture(6)));
    let words = [expected.as_str().unwrap(), found.as_str().unwrap(), "other.safetensors"];
    scene.refuses("other.safetensors", "good.tpatch", WRONG_BASE, &words);
    let (base, patch) = (scene.path("other.safetensors"), scene.path("good.tpatch"));
    let trailer = read(&patch).len() - 192;
    let told = run(&arguments!["apply", base, patch, "--in-place", "--json"]).fails(WRONG_BASE, &[]).json();
    assert_eq!((&told["error"]["class"], &told["error"]["offset"]), (&json!("wrong_base"), &json!(trailer)));
}

#[test]
fn a_patch_that_was_applied_already_is_said_to_be() {
    let scene = Scene::new();
    fs::copy(fixture(5), scene.path("done.safetensors")).unwrap();
    let before = tree(scene.dir.path());
    let (done, patch) = (scene.path("done.safetensors"), scene.path("good.tpatch"));
    let beside = arguments!["apply", done, patch, "-o", scene.path("out.safetensors")];
    run(&beside).fails(WRONG_BASE, &["is the target of this patch already", "copy it"]);
    let in_place = run(&arguments!["apply", done, patch, "--in-place"]).ok();
    assert!(String::from_utf8_lossy(&in_place.stdout).contains("the target already: nothing to do"));
    let report = run(&arguments!["apply", done, patch, "--in-place", "--json"]).ok().json();
    assert_eq!((&report["already"], &report["changed_chunks"]), (&true.into(), &0.into()));
    assert!(tree(scene.dir.path()) == before);
}

#[test]
fn a_base_with_one_flipped_bit_is_refused_wherever_the_bit_is() {
    let scene = Scene::new();
    let good = read(&fixture(4));
    // In the first tensor, in the middle, in a tensor that no patch touches, and in the last byte.
    for place in [good.len() - 161_280, good.len() / 2, good.len() - 2000, good.len() - 1] {
        let mut bad = good.clone();
        bad[place] ^= 1;
        write(&scene.path("flipped.safetensors"), &bad);
        scene.refuses(
            "flipped.safetensors",
            "good.tpatch",
            WRONG_BASE,
            &["flipped.safetensors", "another base"],
        );
    }
}

#[test]
fn a_base_of_another_schema_is_refused() {
    let scene = Scene::new();
    let bytes = read(&fixture(4));
    let (mut header, data) = parse(&bytes);
    let info = header.remove("pooler.dense.weight").unwrap();
    header.insert("pooler.renamed.weight".into(), info);
    write(&scene.path("renamed.safetensors"), &assemble(&header, data));
    scene.refuses("renamed.safetensors", "good.tpatch", WRONG_BASE, &["renamed.safetensors", "schema"]);
}

#[test]
fn broken_headers_are_refused_by_file_and_reason() {
    let dir = temporary();
    let good = read(&fixture(4));
    let (header, data) = parse(&good);
    let with = |change: &dyn Fn(&mut serde_json::Map<String, serde_json::Value>)| {
        let mut header = header.clone();
        change(&mut header);
        assemble(&header, data)
    };
    let duplicate = String::from_utf8_lossy(&good[8..good.len() - data.len()])
        .replace("encoder.layer.0.attention.self.key.bias", "encoder.layer.5.output.LayerNorm.bias");
    let duplicate = [&(duplicate.len() as u64).to_le_bytes(), duplicate.as_bytes(), data].concat();
    let overlap = with(&|header| {
        let ends = header["embeddings.LayerNorm.bias"]["data_offsets"].clone();
        header["embeddings.LayerNorm.weight"]["data_offsets"] = ends;
    });
    let cases: [(&str, Vec<u8>, &[&str]); 8] = [
        ("an empty file", Vec::new(), &[]),
        ("a header length past the end", [&u64::MAX.to_le_bytes(), &good[8..]].concat(), &["header"]),
        ("no JSON", [&good[..8], b"?", &good[9..]].concat(), &["offset"]),
        ("data cut short", good[..good.len() - 1].to_vec(), &[]),
        ("a byte too many", [&good[..], b"\0"].concat(), &[]),
        ("a duplicate tensor", duplicate, &["encoder.layer.5.output.LayerNorm.bias"]),
        ("overlapping tensors", overlap, &["embeddings.LayerNorm"]),
        (
            "a shape that does not fit",
            with(&|header| header["embeddings.LayerNorm.bias"]["shape"] = json!([383])),
            &["embeddings.LayerNorm.bias"],
        ),
    ];
    let bad = dir.path().join("bad.safetensors");
    for (what, bytes, words) in cases {
        write(&bad, &bytes);
        let words = [words, &["bad.safetensors"]].concat();
        eprintln!("{what}");
        let output = dir.path().join("out.tpatch");
        refused_without_a_trace(
            dir.path(),
            &arguments!["diff", bad, fixture(5), "-o", output],
            BAD_INPUT,
            &words,
        );
        refused_without_a_trace(
            dir.path(),
            &arguments!["diff", fixture(5), bad, "-o", output],
            BAD_INPUT,
            &words,
        );
        refused_without_a_trace(dir.path(), &arguments!["digest", bad], BAD_INPUT, &words);
    }
}

#[test]
fn broken_directories_are_refused_by_file_and_tensor() {
    let dir = temporary();
    let checkpoint = dir.path().join("checkpoint");
    let index_path = checkpoint.join("model.safetensors.index.json");
    let fresh = || {
        let _ = fs::remove_dir_all(&checkpoint);
        shard(&fixture(4), &checkpoint, 3);
    };
    let digest = arguments!["digest", checkpoint];
    let with_index = |change: &dyn Fn(&mut serde_json::Map<String, serde_json::Value>)| {
        fresh();
        let mut index: serde_json::Value = serde_json::from_slice(&read(&index_path)).unwrap();
        change(index["weight_map"].as_object_mut().unwrap());
        write(&index_path, index.to_string().as_bytes());
    };

    fresh();
    fs::remove_file(checkpoint.join("model-00002-of-00003.safetensors")).unwrap();
    refused_without_a_trace(dir.path(), &digest, BAD_INPUT, &["model-00002-of-00003.safetensors", "missing"]);

    with_index(&|map| {
        map.insert("embeddings.LayerNorm.bias".into(), "../outside.safetensors".into());
    });
    write(&dir.path().join("outside.safetensors"), &read(&fixture(4)));
    refused_without_a_trace(dir.path(), &digest, BAD_INPUT, &["index.json", "outside.safetensors"]);

    with_index(&|map| {
        map.insert("embeddings.LayerNorm.bias".into(), "/etc/passwd".into());
    });
    refused_without_a_trace(dir.path(), &digest, BAD_INPUT, &["index.json", "/etc/passwd"]);

    with_index(&|map| {
        map.insert("no.such.tensor".into(), "model-00001-of-00003.safetensors".into());
    });
    refused_without_a_trace(dir.path(), &digest, BAD_INPUT, &["index.json", "no.such.tensor"]);

    fresh();
    let first = read(&checkpoint.join("model-00001-of-00003.safetensors"));
    write(&checkpoint.join("model-00002-of-00003.safetensors"), &first);
    refused_without_a_trace(dir.path(), &digest, BAD_INPUT, &["model-0000"]);

    fresh();
    write(&index_path, b"{\"weight_map\": 7}");
    refused_without_a_trace(dir.path(), &digest, BAD_INPUT, &["index.json"]);

    fs::remove_dir_all(&checkpoint).unwrap();
    fs::create_dir(&checkpoint).unwrap();
    refused_without_a_trace(dir.path(), &digest, BAD_INPUT, &["not a checkpoint"]);
}

#[test]
fn inputs_that_are_not_there_are_named() {
    let dir = temporary();
    let (none, out) = (dir.path().join("none"), dir.path().join("out"));
    refused_without_a_trace(dir.path(), &arguments!["digest", none], FAILED, &["none", "No such file"]);
    refused_without_a_trace(dir.path(), &arguments!["inspect", none], FAILED, &["none", "No such file"]);
    let apply = arguments!["apply", fixture(4), none, "-o", out];
    refused_without_a_trace(dir.path(), &apply, FAILED, &["none", "No such file"]);
}

#[test]
fn outputs_that_would_do_harm_are_refused() {
    let scene = Scene::new();
    let dir = scene.dir.path();
    let base = scene.path("base.safetensors");
    // Over an input, over a directory, over a directory that is not empty.
    let over_base = arguments!["diff", base, fixture(5), "-o", base];
    refused_without_a_trace(dir, &over_base, REFUSED, &["the base ", "the output ", "a place of its own"]);
    refused_without_a_trace(
        dir,
        &arguments!["diff", base, fixture(5), "-o", dir],
        REFUSED,
        &["the output ", "lies in the other"],
    );
    shard(&fixture(4), &scene.path("sharded"), 2);
    let over_directory =
        arguments!["apply", scene.path("sharded"), scene.path("good.tpatch"), "-o", scene.path("sharded")];
    refused_without_a_trace(dir, &over_directory, REFUSED, &["sharded"]);
    // Into a directory that does not exist.
    let nowhere = arguments!["diff", base, fixture(5), "-o", scene.path("none/step.tpatch")];
    refused_without_a_trace(dir, &nowhere, FAILED, &["none/step.tpatch", "no directory"]);
    let nowhere = arguments!["apply", base, scene.path("good.tpatch"), "-o", scene.path("none/out")];
    refused_without_a_trace(dir, &nowhere, FAILED, &["none/out", "no directory"]);
}

#[test]
fn a_full_disk_is_found_before_any_work_and_nothing_is_left_there() {
    let scene = Scene::new();
    let mount = scene.path("small");
    fs::create_dir(&mount).unwrap();
    // A file system of 64 KiB that vanishes with the namespace of the shell.
    let script =
        "mount -t tmpfs -o size=64k tmpfs \"$1\" || exit 99; shift; \"$@\"; code=$?; ls -A small; exit $code";
    let mut shell = std::process::Command::new("unshare");
    shell.current_dir(scene.dir.path()).args(["--mount", "sh", "-c", script, "sh"]).arg(&mount);
    shell.arg(env!("CARGO_BIN_EXE_tensorpatch")).arg("apply").arg(scene.path("base.safetensors"));
    shell.arg(scene.path("good.tpatch")).arg("-o").arg(mount.join("out.safetensors"));
    match shell.output() {
        Ok(output)
            if matches!(output.status.code(), Some(0 | 2..=6) | Some(FAILED)) && !mount_refused(&output) =>
        {
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(FAILED), "{stderr}");
            assert!(stderr.contains("no room") && stderr.contains("out.safetensors"), "{stderr}");
            assert_eq!(String::from_utf8_lossy(&output.stdout), "", "something is left in the directory");
        }
        _ => eprintln!("no small file system can be mounted here: a full disk is not tested"),
    }
}

/// Whether it is `unshare` that failed, which ends with 1 as well.
fn mount_refused(output: &std::process::Output) -> bool {
    String::from_utf8_lossy(&output.stderr).starts_with("unshare:")
}

#[test]
fn a_replica_and_shared_files_are_not_patched_in_place() {
    let scene = Scene::new();
    let dir = scene.dir.path();
    let linked = scene.path("linked.safetensors");
    fs::hard_link(scene.path("base.safetensors"), &linked).unwrap();
    let apply = arguments!["apply", linked, scene.path("good.tpatch"), "--in-place"];
    refused_without_a_trace(dir, &apply, REFUSED, &["linked.safetensors", "hard links"]);
    fs::remove_file(&linked).unwrap();

    std::os::unix::fs::symlink(scene.path("base.safetensors"), &linked).unwrap();
    refused_without_a_trace(dir, &apply, REFUSED, &["linked.safetensors", "symbolic link"]);

    let replica = scene.path("replica");
    fs::create_dir_all(replica.join(".tensorpatch")).unwrap();
    fs::copy(fixture(4), replica.join("model.safetensors")).unwrap();
    write(&replica.join(".tensorpatch/state.json"), b"{}");
    let apply = arguments!["apply", replica, scene.path("good.tpatch"), "--in-place"];
    refused_without_a_trace(dir, &apply, REFUSED, &["replica", "tensorpatch pull"]);
}

#[test]
fn errors_are_json_too_if_asked_for() {
    let scene = Scene::new();
    let good = read(&scene.path("good.tpatch"));
    write(&scene.path("bad.tpatch"), &good[..good.len() - 1]);
    let error = run(&arguments!["inspect", scene.path("bad.tpatch"), "--json"]).fails(BAD_INPUT, &[]).json();
    let error = &error["error"];
    assert_eq!(error["exit_code"], BAD_INPUT);
    assert_eq!(error["class"], "truncated");
    assert!(error["offset"].is_u64());
    assert!(error["message"].as_str().unwrap().contains("bad.tpatch"));
}

#[test]
fn a_wrong_command_line_is_refused() {
    run(&arguments!["apply", fixture(4), fixture(4)]).fails(REFUSED, &["--in-place"]);
    run(&arguments!["diff", fixture(4)]).fails(REFUSED, &["TARGET"]);
    run(&arguments!["frobnicate"]).fails(REFUSED, &["frobnicate"]);
}

#[test]
fn help_lists_every_exit_code() {
    let help = String::from_utf8(run(&arguments!["--help"]).ok().stdout).unwrap();
    for code in ["0 ", "1 ", "2 ", "3 ", "4 ", "5 ", "6 ", "141 "] {
        assert!(help.lines().any(|line| line.trim_start().starts_with(code)), "{code} is not in: {help}");
    }
}
