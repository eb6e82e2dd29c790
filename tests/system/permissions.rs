//! Who may read what is written: files keep the permissions of those that they replace, and copies are no
//! more open than their source. What nobody asked for is not installed.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tensorpatch::delta::{Options, Progress, prepare_in_place};
use tensorpatch::{Limits, Patch};

use crate::support::{arguments, command, finish, fixture, read, run, shard, temporary, tree, write};

const FAILED: i32 = 1;
const REFUSED: i32 = 2;

struct Scene {
    dir: tempfile::TempDir,
}

impl Scene {
    /// Two checkpoints that nobody else may read, and the patch between them.
    fn new() -> Self {
        let scene = Self { dir: temporary() };
        for (number, name) in [(4, "old"), (5, "new")] {
            shard(&fixture(number), &scene.path(name), 2);
            for path in tree(&scene.path(name)).into_keys() {
                chmod(&scene.path(name).join(path), 0o600);
            }
            chmod(&scene.path(name), 0o700);
        }
        run(&arguments!["diff", scene.path("old"), scene.path("new"), "-o", scene.path("patch")]).ok();
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn publish(&self, name: &str, more: &[&str]) {
        let (stream, baseline) = (self.path("stream"), self.path("baseline"));
        let mut publish =
            arguments!["publish", self.path(name), "--to", stream, "--baseline", baseline].to_vec();
        publish.extend(more.iter().map(Into::into));
        run(&publish).ok();
    }

    fn modes(&self, name: &str) -> Vec<(PathBuf, u32)> {
        let files = tree(&self.path(name)).into_keys();
        files.map(|file| (file.clone(), mode(&self.path(name).join(file)))).collect()
    }
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn what_takes_the_place_of_a_file_keeps_its_mode() {
    let scene = Scene::new();
    let out = scene.path("out.safetensors");
    let (file_old, file_new) = (fixture(4), fixture(5));
    for expected in [0o600, 0o640, 0o664] {
        write(&out, b"");
        chmod(&out, expected);
        run(&arguments!["diff", file_old, file_new, "-o", out]).ok();
        assert_eq!(mode(&out), expected, "diff");
        fs::rename(&out, scene.path("single.tpatch")).unwrap();
        write(&out, b"an older one");
        chmod(&out, expected);
        run(&arguments!["apply", file_old, scene.path("single.tpatch"), "-o", out]).ok();
        assert_eq!(mode(&out), expected, "apply");
    }
}

#[test]
fn new_files_beside_the_old_ones_of_a_replica_keep_their_modes() {
    let scene = Scene::new();
    scene.publish("old", &[]);
    let pull = arguments!["pull", scene.path("stream"), scene.path("replica"), "--beside"];
    run(&pull).ok();
    let weights: Vec<PathBuf> = tree(&scene.path("replica"))
        .into_keys()
        .filter(|file| !file.starts_with(".tensorpatch"))
        .map(|file| scene.path("replica").join(file))
        .collect();
    weights.iter().for_each(|file| chmod(file, 0o640));
    write(&scene.path("new/config.json"), b"{\"model_type\": \"another\"}\n");
    scene.publish("new", &[]);
    run(&pull).ok();
    assert!(read(&scene.path("replica/config.json")) == read(&scene.path("new/config.json")));
    for file in weights {
        assert_eq!(mode(&file), 0o640, "{}", file.display());
    }
}

#[test]
fn copies_of_private_weights_are_private() {
    let scene = Scene::new();
    run(&arguments!["apply", scene.path("old"), scene.path("patch"), "-o", scene.path("rebuilt")]).ok();
    assert_eq!(mode(&scene.path("rebuilt")), 0o700);
    let convert =
        arguments!["convert", scene.path("patch"), "--base", scene.path("old"), "--to", "checkpoint"];
    run(&[&convert[..], &arguments!["-o", scene.path("converted")]].concat()).ok();
    scene.publish("old", &[]);
    for copy in ["rebuilt", "converted", "baseline"] {
        for (file, mode) in
            scene.modes(copy).into_iter().filter(|(file, _)| !file.starts_with(".tensorpatch"))
        {
            assert_eq!(mode & 0o077, 0, "{copy}/{}: {mode:o}", file.display());
        }
    }
}

#[test]
fn what_is_made_of_private_weights_is_private() {
    let scene = Scene::new();
    assert_eq!(mode(&scene.path("patch")), 0o600, "diff");
    let convert = |to: &str, out: &str| {
        let versions = ["--target-version", "2", "--base-version", "1"].map(Into::into);
        let convert = arguments!["convert", scene.path("new"), "--base", scene.path("old"), "--to", to];
        let out = arguments!["-o", scene.path(out)];
        let versions = if to == "patch" { &versions[..0] } else { &versions[..] };
        run(&[&convert[..], &out, versions].concat()).ok();
    };
    convert("patch", "converted.tpatch");
    assert_eq!(mode(&scene.path("converted.tpatch")), 0o600, "convert to a patch");
    convert("slime", "delta");
    for (file, mode) in scene.modes("delta") {
        assert_eq!(mode, 0o600, "delta/{}", file.display());
    }
    assert_eq!(mode(&scene.path("delta")), 0o700);
}

#[test]
fn nobody_else_reads_the_parts_of_weights_that_lie_beside_them_in_a_replica_or_a_baseline() {
    let scene = Scene::new();
    scene.publish("old", &[]);
    let (stream, replica) = (scene.path("stream"), scene.path("replica"));
    run(&arguments!["pull", stream, replica]).ok();
    let hidden = [replica.join(".tensorpatch/downloads"), scene.path("baseline/.tensorpatch/downloads")];
    for hidden in &hidden {
        assert_eq!(mode(hidden), 0o700, "{}", hidden.display());
        // As earlier versions have made it.
        chmod(hidden, 0o755);
    }
    scene.publish("new", &[]);
    run(&arguments!["pull", stream, replica]).ok();
    for hidden in &hidden {
        assert_eq!(mode(hidden), 0o700, "{}", hidden.display());
    }
    assert_eq!(mode(&replica.join(".tensorpatch/inverse")), 0o600);
}

#[test]
fn the_journal_of_private_weights_is_private_before_a_byte_is_in_it() {
    let scene = Scene::new();
    let journal = scene.path("old/.tensorpatch-journal");
    let patch = Patch::open_within(scene.path("patch"), &Limits::default()).unwrap();
    prepare_in_place(&scene.path("old"), &patch, &journal, &Options::default(), Progress::none()).unwrap();
    assert_eq!(mode(&journal), 0o600);
}

#[test]
fn what_is_kept_in_the_cache_is_private_whatever_it_is_a_copy_of() {
    let scene = Scene::new();
    let cache = scene.path("cache");
    let publish = arguments!["publish", fixture(4), "--to", scene.path("stream")];
    finish(command(&publish).env("XDG_CACHE_HOME", &cache)).ok();
    let mirror = arguments!["mirror", scene.path("stream"), scene.path("copy")];
    finish(command(&mirror).env("XDG_CACHE_HOME", &cache)).ok();
    for directory in ["tensorpatch", "tensorpatch/baselines", "tensorpatch/mirrors"] {
        assert_eq!(mode(&cache.join(directory)), 0o700, "{directory}");
    }
}

#[test]
fn a_file_of_the_users_own_in_a_replica_is_not_overwritten_without_being_asked() {
    let scene = Scene::new();
    scene.publish("old", &[]);
    let (stream, replica) = (scene.path("stream"), scene.path("replica"));
    run(&arguments!["pull", stream, replica]).ok();
    write(&replica.join("serve.sh"), b"mine");
    write(&scene.path("new/serve.sh"), b"theirs");
    scene.publish("new", &[]);
    let before = tree(&replica);
    let refused = run(&arguments!["pull", stream, replica]);
    assert!([FAILED, REFUSED].contains(&refused.code), "{}", refused.stderr);
    refused_with(&refused.stderr, &["serve.sh", "did not come with a version", "--replace"]);
    let weights = |files: std::collections::BTreeMap<PathBuf, Vec<u8>>| -> Vec<_> {
        files.into_iter().filter(|(file, _)| !file.starts_with(".tensorpatch")).collect()
    };
    assert!(weights(tree(&replica)) == weights(before));
    // The same contents are no other file.
    write(&replica.join("serve.sh"), b"theirs");
    run(&arguments!["pull", stream, replica]).ok();
    write(&replica.join("run.sh"), b"mine");
    write(&scene.path("new/run.sh"), b"theirs");
    scene.publish("new", &[]);
    run(&arguments!["pull", stream, replica, "--replace"]).ok();
    assert_eq!(read(&replica.join("run.sh")), b"theirs");
    // What came with a version is replaced with the next.
    write(&scene.path("new/run.sh"), b"newer");
    scene.publish("new", &[]);
    run(&arguments!["pull", stream, replica]).ok();
    assert_eq!(read(&replica.join("run.sh")), b"newer");
}

fn refused_with(said: &str, words: &[&str]) {
    for word in words {
        assert!(said.contains(word), "{word:?} is not said in: {said}");
    }
}

#[test]
fn a_file_that_can_run_code_is_installed_only_if_that_is_asked_for() {
    let scene = Scene::new();
    write(&scene.path("old/training_args.BIN"), b"a pickle");
    scene.publish("old", &["--carry", "training_args.BIN"]);
    let (stream, replica) = (scene.path("stream"), scene.path("replica"));
    for command in ["pull", "follow"] {
        run(&arguments![command, stream, replica])
            .fails(REFUSED, &["training_args.BIN", "can run code", "--allow-code"]);
    }
    assert!(!replica.join("training_args.BIN").exists() && !replica.join("config.json").exists());
    run(&arguments!["pull", stream, replica, "--allow-code"]).ok();
    assert_eq!(read(&replica.join("training_args.BIN")), b"a pickle");
    // A publisher goes on, and makes its baseline anew.
    fs::remove_dir_all(scene.path("baseline")).unwrap();
    scene.publish("new", &[]);
}

#[test]
fn a_file_whose_bytes_can_run_code_is_installed_only_if_that_is_asked_for_whatever_its_name_is() {
    let scene = Scene::new();
    let code: [(&str, &[u8]); 2] =
        [("state.json", b"\x80\x04\x95\x1d\0\0"), ("training_args", b"PK\x03\x04\x14\0")];
    for (name, bytes) in code {
        write(&scene.path("old").join(name), bytes);
    }
    scene.publish("old", &["--carry", "state.json", "--carry", "training_args"]);
    let (stream, replica) = (scene.path("stream"), scene.path("replica"));
    run(&arguments!["pull", stream, replica]).fails(REFUSED, &["state.json", "can run code", "--allow-code"]);
    assert!(!replica.join("state.json").exists() && !replica.join("config.json").exists());
    run(&arguments!["pull", stream, replica, "--allow-code"]).ok();
    assert_eq!(read(&replica.join("state.json")), code[0].1);
}
