//! What a replica says of itself is so, and a version is there whole or not at all.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::{
    Outcome, arguments, finish, fixture, read, run, same_checkpoint, shard, temporary, write,
};

const FAILED: i32 = 1;
const REFUSED: i32 = 2;
const LOCAL_DAMAGE: i32 = 8;

/// Two versions whose files beside the weights differ, and a replica of the first.
struct Scene {
    dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let scene = Self { dir: temporary() };
        for number in [1, 2] {
            let checkpoint = scene.checkpoint(number);
            shard(&fixture(number + 3), &checkpoint, 2);
            fs::create_dir(checkpoint.join("sub")).unwrap();
            write(&checkpoint.join("sub/tokenizer.json"), format!("{{\"version\": {number}}}").as_bytes());
            write(&checkpoint.join("notes.txt"), format!("version {number}").as_bytes());
            let (stream, baseline) = (scene.stream(), scene.path("baseline"));
            run(&arguments!["publish", checkpoint, "--to", stream, "--baseline", baseline]).ok();
        }
        scene.pull(&["--version", "1"]).ok();
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn stream(&self) -> PathBuf {
        self.path("stream")
    }

    fn replica(&self) -> PathBuf {
        self.path("replica")
    }

    fn checkpoint(&self, number: u32) -> PathBuf {
        self.path(&format!("checkpoint-{number}"))
    }

    fn pull(&self, more: &[&str]) -> Outcome {
        let mut arguments = arguments!["pull", self.stream(), self.replica(), "--json"].to_vec();
        arguments.extend(more.iter().map(Into::into));
        run(&arguments)
    }

    fn verify(&self) -> Outcome {
        run(&arguments!["verify", self.replica(), "--json"])
    }

    #[track_caller]
    fn restored(&self, more: &[&str]) -> Vec<String> {
        let report = self.pull(&[&["--version", "1"], more].concat()).ok().json();
        same_checkpoint(&self.replica(), &self.checkpoint(1));
        let restored = report["restored"].as_array().cloned().unwrap_or_default();
        restored.iter().map(|what| what.as_str().unwrap().to_owned()).collect()
    }

    fn shard(&self) -> PathBuf {
        self.replica().join("model-00001-of-00002.safetensors")
    }
}

#[test]
fn a_file_that_is_missing_or_of_another_size_is_restored_by_every_pull() {
    let scene = Scene::new();
    assert_eq!(scene.restored(&[]), Vec::<String>::new());
    for name in ["notes.txt", "sub/tokenizer.json"] {
        let path = scene.replica().join(name);
        fs::remove_file(&path).unwrap();
        assert_eq!(scene.restored(&[]), [name]);
        write(&path, b"");
        assert_eq!(scene.restored(&[]), [name]);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert_eq!(scene.restored(&[]), [name]);
    }
    fs::remove_dir_all(scene.replica().join("sub")).unwrap();
    assert_eq!(scene.restored(&[]), ["sub/tokenizer.json"]);
    // In a pull to another version too.
    write(&scene.replica().join("config.json"), b"");
    scene.pull(&[]).ok();
    same_checkpoint(&scene.replica(), &scene.checkpoint(2));
}

#[test]
fn weights_that_are_missing_or_cut_are_restored_by_every_pull() {
    let scene = Scene::new();
    fs::remove_file(scene.shard()).unwrap();
    assert_eq!(scene.restored(&[]).len(), 1);
    let bytes = read(&scene.shard());
    write(&scene.shard(), &bytes[..bytes.len() / 2]);
    assert_eq!(scene.restored(&[]).len(), 1);
    fs::remove_file(scene.replica().join("model.safetensors.index.json")).unwrap();
    assert_eq!(scene.restored(&[]).len(), 1);
    for name in fs::read_dir(scene.replica()).unwrap().flatten().filter(|entry| entry.path().is_file()) {
        fs::remove_file(name.path()).unwrap();
    }
    scene.restored(&[]);
    let outcome = scene.pull(&["--version", "1"]).ok().json();
    assert_eq!(outcome["downloaded_bytes"], 0);
}

#[test]
fn altered_bytes_are_found_by_verify_and_restored_by_a_pull_that_verifies() {
    let scene = Scene::new();
    let report = scene.verify().ok().json();
    assert_eq!((&report["sound"], &report["version"]), (&true.into(), &1.into()));
    let flip = |path: &Path| {
        let mut bytes = read(path);
        *bytes.last_mut().unwrap() ^= 1;
        write(path, &bytes);
    };
    for path in [scene.shard(), scene.replica().join("sub/tokenizer.json")] {
        flip(&path);
        let outcome = scene.verify().fails(LOCAL_DAMAGE, &["not what was published", "pull --verify"]);
        let faults = outcome.json()["faults"].as_array().unwrap().clone();
        assert_eq!(faults.len(), 1, "{faults:?}");
        let before = read(&path);
        // Sizes are as they should be, so this costs no more than looking.
        scene.pull(&["--version", "1"]).ok();
        assert!(read(&path) == before);
        assert_eq!(scene.restored(&["--verify"]).len(), 1);
        scene.verify().ok();
    }
    // The library's check alters nothing.
    flip(&scene.shard());
    let before = read(&scene.shard());
    scene.verify().fails(LOCAL_DAMAGE, &[]);
    assert!(read(&scene.shard()) == before);
}

#[test]
fn a_pull_says_that_weights_were_hashed_exactly_where_they_were() {
    let scene = Scene::new();
    let verified = |more: &[&str]| {
        let report = scene.pull(&[&["--version", "1"], more].concat()).ok().json();
        assert_eq!(report["from"], 1, "{report}");
        report["verified"].as_bool().unwrap()
    };
    assert!(!verified(&[]));
    assert!(verified(&["--verify"]));
    // Without a state file the weights are taken for a version by their digest.
    fs::remove_dir_all(scene.replica().join(".tensorpatch")).unwrap();
    assert!(verified(&[]));
    assert!(!verified(&[]));
}

#[test]
fn what_is_no_replica_is_not_verified_and_left_alone() {
    let dir = temporary();
    run(&arguments!["verify", dir.path()]).fails(REFUSED, &["no replica", "the directory of a pull"]);
    run(&arguments!["verify", dir.path().join("absent")]).fails(REFUSED, &["no replica"]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_file_that_cannot_be_put_in_its_place_keeps_the_version_held_whole() {
    let scene = Scene::new();
    // A directory of the user's lies where the second version has a file.
    fs::remove_file(scene.replica().join("notes.txt")).unwrap();
    fs::create_dir(scene.replica().join("notes.txt")).unwrap();
    write(&scene.replica().join("notes.txt/mine"), b"mine");
    for more in [&[][..], &["--beside"]] {
        scene.pull(more).fails(FAILED, &["notes.txt", "not a directory", "the version held stays as it was"]);
        for name in ["model-00001-of-00002.safetensors", "sub/tokenizer.json"] {
            assert!(read(&scene.replica().join(name)) == read(&scene.checkpoint(1).join(name)), "{name}");
        }
    }
    fs::remove_dir_all(scene.replica().join("notes.txt")).unwrap();
    scene.pull(&[]).ok();
    same_checkpoint(&scene.replica(), &scene.checkpoint(2));
    scene.verify().ok();
}

#[test]
fn a_file_where_a_directory_of_the_version_belongs_keeps_the_version_held_whole() {
    let scene = Scene::new();
    fs::remove_dir_all(scene.replica().join("sub")).unwrap();
    write(&scene.replica().join("sub"), b"mine");
    scene.pull(&[]).fails(FAILED, &["sub", "a directory of the version belongs here"]);
    assert!(read(&scene.shard()) == read(&scene.checkpoint(1).join("model-00001-of-00002.safetensors")));
    fs::remove_file(scene.replica().join("sub")).unwrap();
    scene.pull(&[]).ok();
    same_checkpoint(&scene.replica(), &scene.checkpoint(2));
}

/// Runs a pull behind `setup`, in a mount namespace of its own; `None` where that is not allowed.
fn pull_with_mounts(scene: &Scene, setup: &str) -> Option<Outcome> {
    let allowed = Command::new("unshare").args(["-m", "mount", "--bind", "/tmp", "/tmp"]).status();
    if !allowed.is_ok_and(|status| status.success()) {
        eprintln!("left out: this system allows no mounts");
        return None;
    }
    let mut command = Command::new("unshare");
    let script = format!("cd \"$1\" && {setup} && shift && exec \"$0\" \"$@\"");
    command.args(["-m", "sh", "-c", &script, env!("CARGO_BIN_EXE_tensorpatch")]);
    command.arg(scene.replica()).args(arguments!["pull", scene.stream(), scene.replica(), "--json"]);
    Some(finish(&mut command))
}

#[test]
fn a_mounted_file_is_written_through_and_one_mounted_read_only_keeps_the_version_held_whole() {
    let scene = Scene::new();
    let mounted = scene.path("mounted");
    write(&mounted, &read(&scene.replica().join("notes.txt")));
    let bind = format!("mount --bind {} notes.txt", mounted.display());
    let Some(outcome) = pull_with_mounts(&scene, &format!("{bind} && mount -o remount,bind,ro notes.txt"))
    else {
        return;
    };
    outcome.fails(FAILED, &["notes.txt", "mount", "the version held stays as it was"]);
    same_checkpoint(&scene.replica(), &scene.checkpoint(1));
    pull_with_mounts(&scene, &bind).unwrap().ok();
    assert_eq!(read(&mounted), b"version 2");
    // Behind the mount lies what was there.
    assert_eq!(read(&scene.replica().join("notes.txt")), b"version 1");
    let report: Value = scene.pull(&["--verify"]).ok().json();
    assert_eq!(report["restored"], serde_json::json!(["notes.txt"]));
    same_checkpoint(&scene.replica(), &scene.checkpoint(2));
}

#[test]
fn a_read_only_or_other_file_system_in_a_subdirectory_is_found_before_weights_are_altered() {
    let scene = Scene::new();
    let old = read(&scene.replica().join("sub/tokenizer.json"));
    let copy = scene.path("copy");
    write(&copy, &old);
    let mount = format!("mount -t tmpfs none sub && cp {} sub/tokenizer.json", copy.display());
    let Some(outcome) = pull_with_mounts(&scene, &format!("{mount} && mount -o remount,ro sub")) else {
        return;
    };
    outcome.fails(FAILED, &["sub", "the version held stays as it was"]);
    same_checkpoint(&scene.replica(), &scene.checkpoint(1));
    pull_with_mounts(&scene, &mount).unwrap().ok();
    // What was behind the mount is of the version before, and is found to be.
    scene.pull(&["--verify"]).ok();
    same_checkpoint(&scene.replica(), &scene.checkpoint(2));
}

#[test]
fn an_immutable_file_keeps_the_version_held_whole() {
    let scene = Scene::new();
    let chattr = |flag: &str, path: &Path| {
        Command::new("chattr").arg(flag).arg(path).status().is_ok_and(|status| status.success())
    };
    for name in ["notes.txt", "sub", "model-00001-of-00002.safetensors"] {
        let path = scene.replica().join(name);
        if !chattr("+i", &path) {
            eprintln!("left out: this file system has no immutable files");
            return;
        }
        let outcome = scene.pull(&[]);
        assert!(chattr("-i", &path));
        outcome.fails(FAILED, &[name, "immutable", "the version held stays as it was"]);
        same_checkpoint(&scene.replica(), &scene.checkpoint(1));
    }
    scene.pull(&[]).ok();
    same_checkpoint(&scene.replica(), &scene.checkpoint(2));
}
