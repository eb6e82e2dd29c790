//! What others have written reaches a terminal as text, and secrets reach nobody.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::support::{
    Outcome, arguments, assemble, command, finish, fixture, parse, read, run, temporary, write,
};

const FAILED: i32 = 1;
const REFUSED: i32 = 2;

/// A sequence that clears the screen, one that turns text around, and a space without width.
const HOSTILE: &str = "a\u{1b}[2Jb\u{202e}c\u{200b}d";
/// The same without control characters, for what records allow.
const HIDDEN: &str = "b\u{202e}c\u{200b}d";

#[track_caller]
fn nothing_raw(outcome: &Outcome) {
    for text in [&String::from_utf8_lossy(&outcome.stdout), &*outcome.stderr] {
        let raw = text.chars().find(|c| (c.is_control() && *c != '\n') || "\u{202e}\u{200b}".contains(*c));
        assert_eq!(raw, None, "{text:?}");
    }
}

/// A checkpoint with a tensor of a hostile name.
fn hostile_checkpoint(path: &Path) {
    let bytes = read(&fixture(4));
    let (mut header, data) = parse(&bytes);
    let first = header.keys().find(|name| *name != "__metadata__").unwrap().clone();
    let tensor = header.remove(&first).unwrap();
    header.insert(HOSTILE.into(), tensor);
    write(path, &assemble(&header, data));
}

struct Scene {
    dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        Self { dir: temporary() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

#[test]
fn names_and_labels_of_others_are_escaped_in_reports_errors_and_logs() {
    let scene = Scene::new();
    let hostile = scene.path("hostile.safetensors");
    hostile_checkpoint(&hostile);
    let patch = scene.path("patch");
    run(&arguments!["diff", fixture(4), hostile, "-o", patch]).ok();
    let shown = run(&arguments!["inspect", patch, "--tensors"]).ok();
    nothing_raw(&shown);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("a\\u{1b}[2Jb\\u{202e}c\\u{200b}d"));
    // In JSON it is escaped too, and means the same.
    let report = run(&arguments!["inspect", patch, "--tensors", "--json"]).ok();
    nothing_raw(&report);
    assert!(report.json().to_string().contains(HIDDEN));

    let checkpoint = scene.path("checkpoint");
    fs::create_dir(&checkpoint).unwrap();
    fs::copy(fixture(4), checkpoint.join("model.safetensors")).unwrap();
    write(&checkpoint.join(format!("{HIDDEN}.txt")), b"hidden");
    write(&checkpoint.join(format!("{HOSTILE}.bin")), b"left out");
    let (stream, baseline) = (scene.path("stream"), scene.path("baseline"));
    let publish =
        arguments!["publish", checkpoint, "--to", stream, "--baseline", baseline, "--label", HIDDEN];
    nothing_raw(&run(&publish).ok());
    for line in [&["log"][..], &["log", "--json"], &["fsck"], &["gc", "--keep", "1"]] {
        nothing_raw(&run(&[
            arguments![line[0], stream].to_vec(),
            line[1..].iter().map(Into::into).collect(),
        ]
        .concat()));
    }
    let mut pull = command(&arguments!["pull", stream, scene.path("replica")]);
    nothing_raw(&finish(pull.env("TENSORPATCH_LOG", "trace")).ok());
    // Errors and usage, with names from the command line, which a script may have got from anybody.
    nothing_raw(&run(&arguments!["digest", scene.path(HOSTILE)]).fails(FAILED, &["a\\u{1b}[2Jb"]));
    nothing_raw(&run(&arguments!["digest", scene.path(HOSTILE), "--json"]).fails(FAILED, &[]));
    nothing_raw(&run(&arguments!["digest", "a", HOSTILE]).fails(REFUSED, &["b\\u{202e}c"]));
    let mut log = command(&arguments!["log", stream]);
    nothing_raw(
        &finish(log.env("TENSORPATCH_LOG", format!("{HOSTILE}=="))).fails(REFUSED, &["TENSORPATCH_LOG"]),
    );
}

#[test]
fn what_a_record_says_against_the_rules_is_escaped_in_the_error() {
    let scene = Scene::new();
    let (stream, baseline) = (scene.path("stream"), scene.path("baseline"));
    run(&arguments!["publish", fixture(4), "--to", stream, "--baseline", baseline]).ok();
    let record = stream.join("commits/00000000000000000001.json");
    let mut commit: serde_json::Value = serde_json::from_slice(&read(&record)).unwrap();
    commit["label"] = json!(HOSTILE);
    write(&record, commit.to_string().as_bytes());
    fs::create_dir_all(stream.join("edges")).unwrap();
    write(&stream.join(format!("edges/{HOSTILE}")), b"");
    for line in ["log", "fsck"] {
        nothing_raw(&run(&arguments![line, stream]));
    }
}

#[test]
fn a_password_in_an_endpoint_is_refused_and_not_shown() {
    for (name, url) in [("AWS_ENDPOINT_URL", "s3://bucket/run"), ("HF_S3_ENDPOINT", "hf://buckets/a/b/c")] {
        for value in ["http://user:hunter2@127.0.0.1:9", "user:hunter2@127.0.0.1:9", "https://hunter2@h/p"] {
            let mut log = command(&["log", url]);
            log.env(name, value).env("TENSORPATCH_LOG", "trace");
            for key in [
                "AWS_ACCESS_KEY_ID",
                "AWS_SECRET_ACCESS_KEY",
                "HF_S3_ACCESS_KEY_ID",
                "HF_S3_SECRET_ACCESS_KEY",
            ] {
                log.env(key, "k");
            }
            let outcome = finish(&mut log).fails(REFUSED, &[name]);
            assert!(!outcome.stderr.contains("hunter2"), "{value}: {}", outcome.stderr);
        }
    }
    let outcome = run(&["log", "s3://user:hunter2@bucket/run"]).fails(REFUSED, &["s3://...@bucket/run"]);
    assert!(!outcome.stderr.contains("hunter2"), "{}", outcome.stderr);
}

#[test]
fn a_signing_key_that_others_can_read_is_warned_about() {
    let scene = Scene::new();
    let (key, stream) = (scene.path("key"), scene.path("stream"));
    run(&arguments!["keygen", key]).ok();
    let publish = arguments![
        "publish",
        fixture(4),
        "--to",
        stream,
        "--baseline",
        scene.path("baseline"),
        "--sign-key",
        key
    ];
    assert!(!run(&publish).ok().stderr.contains("chmod"));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(run(&publish).ok().stderr.contains("others can read or replace the signing key: chmod 600"));
    // What is no key has no secret to tell.
    let text = scene.path("text");
    write(&text, b"no key at all");
    fs::set_permissions(&text, fs::Permissions::from_mode(0o644)).unwrap();
    let said =
        run(&arguments!["key", "show", text]).fails(REFUSED, &["is no signing key", "tensorpatch keygen"]);
    assert!(!said.stderr.contains("chmod"), "{}", said.stderr);
}

#[test]
fn bytes_that_are_asked_for_are_piped_as_they_are() {
    let scene = Scene::new();
    let patch = scene.path("patch");
    run(&arguments!["diff", fixture(4), fixture(5), "-o", patch]).ok();
    let mut piped = command(&arguments!["diff", fixture(4), fixture(5), "-o", "-"]);
    let mut child =
        piped.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null()).spawn().unwrap();
    let mut bytes = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut bytes).unwrap();
    assert!(child.wait().unwrap().success() && bytes == read(&patch));
}
