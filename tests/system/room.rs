//! No room, and no permission: said, and nothing that was there is harmed.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tensorpatch_synthetic::{Config, write_pair};

use crate::support::{Outcome, arguments, finish, read, run, same_checkpoint, temporary, tree};

const FAILED: i32 = 1;

/// A stream of two versions with several chunks, and the checkpoints that they are.
struct Scene {
    dir: tempfile::TempDir,
    base: PathBuf,
    target: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let dir = temporary();
        let (base, target) = (dir.path().join("base.safetensors"), dir.path().join("target.safetensors"));
        write_pair(&Config { bytes: 12 << 20, seed: 9, ..Config::default() }, 1, &base, &target).unwrap();
        let scene = Self { dir, base, target };
        for checkpoint in [&scene.base, &scene.target] {
            run(&scene.publish(checkpoint)).ok();
        }
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn stream(&self) -> PathBuf {
        self.path("stream")
    }

    fn publish(&self, checkpoint: &Path) -> Vec<OsString> {
        let (stream, baseline) = (self.stream(), self.path("baseline"));
        arguments!["publish", checkpoint, "--to", stream, "--baseline", baseline, "--json"].to_vec()
    }
}

/// Runs the binary where no file can have more than `kib` KiB: what is written beyond that fails as on a full
/// disk.
fn run_with_room(arguments: &[OsString], kib: u64) -> Outcome {
    let mut command = Command::new("sh");
    // The units of `ulimit -f` are 512 bytes.
    command.arg("-c").arg(format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"", kib * 2));
    command.arg(env!("CARGO_BIN_EXE_tensorpatch")).args(arguments).stdin(Stdio::null());
    finish(&mut command)
}

#[test]
fn a_pull_that_runs_out_of_room_leaves_a_version_that_the_next_one_goes_on_from() {
    let scene = Scene::new();
    let mut failures = 0;
    for mode in ["--threads=2", "--beside"] {
        let pull = |dir: &Path, version: &str| {
            arguments!["pull", scene.stream(), dir, "--version", version, mode].to_vec()
        };
        for kib in [0, 1, 8, 64, 1024, 4096, 8192, 11_000, 16_384] {
            let (fresh, replica) = (scene.path("fresh"), scene.path("replica"));
            run(&pull(&replica, "1")).ok();
            for (dir, before) in [(&fresh, None), (&replica, Some(&scene.base))] {
                let outcome = run_with_room(&pull(dir, "2"), kib);
                if outcome.code == 0 {
                    same_checkpoint(dir, &scene.target);
                    continue;
                }
                failures += 1;
                outcome.fails(FAILED, &[dir.to_str().unwrap()]);
                // In place it may be between the two, which the state file says.
                let state = String::from_utf8(read_or_empty(&dir.join(".tensorpatch/state.json"))).unwrap();
                match before {
                    Some(before) if !state.contains("\"applying\"") => same_checkpoint(dir, before),
                    Some(_) => {}
                    None => assert!(!dir.join("model.safetensors").exists()),
                }
                run(&pull(dir, "2")).ok();
                same_checkpoint(dir, &scene.target);
            }
            fs::remove_dir_all(&fresh).unwrap();
        }
    }
    assert!(failures > 10, "{failures}");
}

fn read_or_empty(path: &Path) -> Vec<u8> {
    if path.exists() { read(path) } else { Vec::new() }
}

#[test]
fn a_publisher_that_runs_out_of_room_publishes_nothing_or_all_of_it() {
    let scene = Scene::new();
    let (mut version, mut failures) = (2, 0);
    for kib in [0, 1, 8, 32, 64, 1024, 8192, 16_384] {
        let checkpoint = if version % 2 == 0 { &scene.base } else { &scene.target };
        let outcome = run_with_room(&scene.publish(checkpoint), kib);
        if outcome.code == 0 {
            version += 1;
            continue;
        }
        failures += 1;
        outcome.fails(FAILED, &[]);
        run(&arguments!["fsck", scene.stream()]).ok();
        version += 1;
        let report = run(&scene.publish(checkpoint)).ok().json();
        assert_eq!(report["version"], version, "with {kib} KiB");
    }
    assert!(failures > 2, "{failures}");
    run(&arguments!["pull", scene.stream(), scene.path("replica")]).ok();
    same_checkpoint(&scene.path("replica"), if version % 2 == 0 { &scene.target } else { &scene.base });
    run(&arguments!["fsck", scene.stream()]).ok();
}

/// Runs the binary as somebody who owns nothing of the scene: permissions do not hold whoever runs everything
/// as root.
fn run_as_another(scene: &Scene, arguments: &[OsString]) -> Outcome {
    let program = scene.path("tensorpatch");
    if !program.exists() {
        fs::copy(env!("CARGO_BIN_EXE_tensorpatch"), &program).unwrap();
        fs::set_permissions(scene.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).env("HOME", "/nonexistent").env_remove("XDG_CACHE_HOME");
    if rustix::process::geteuid().is_root() {
        command.uid(65_534).gid(65_534);
    }
    finish(&mut command)
}

/// Takes the permission to write from a directory and all below.
fn protect(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            protect(&path);
        } else {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
        }
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(0o555)).unwrap();
}

#[test]
fn a_replica_that_cannot_be_written_to_is_left_as_it_is_and_a_stream_need_not_be_writable_for_replicas() {
    let scene = Scene::new();
    let replica = scene.path("replica");
    run(&arguments!["pull", scene.stream(), replica, "--version", "1"]).ok();
    let before = tree(&replica);
    protect(&replica);
    protect(&scene.stream());
    let pull = arguments!["pull", scene.stream(), replica];
    run_as_another(&scene, &pull).fails(FAILED, &["replica", "ermission denied"]);
    assert!(tree(&replica) == before);
    // A replica that may be written to, of a stream that may only be read.
    let own = scene.path("own");
    fs::create_dir(&own).unwrap();
    fs::set_permissions(&own, fs::Permissions::from_mode(0o777)).unwrap();
    run_as_another(&scene, &arguments!["pull", scene.stream(), own, "--lease", "engine"]).ok();
    same_checkpoint(&own, &scene.target);
    // Publishing to it is said to be forbidden.
    let baseline = own.join("baseline");
    let publish = arguments!["publish", scene.base, "--to", scene.stream(), "--baseline", baseline];
    run_as_another(&scene, &publish).fails(FAILED, &["ermission denied"]);
    run(&arguments!["fsck", scene.stream()]).ok();
}

#[test]
fn nothing_appears_in_a_directory_that_cannot_be_opened_to_make_it_durable() {
    let scene = Scene::new();
    let dir = scene.path("unreadable");
    let (copy, patch) = (dir.join("copy.safetensors"), scene.path("step.tpatch"));
    run(&arguments!["diff", scene.base, scene.target, "-o", patch]).ok();
    fs::create_dir(&dir).unwrap();
    fs::copy(&scene.base, &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o666)).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o333)).unwrap();
    for command in [
        arguments!["apply", scene.base, patch, "-o", dir.join("out.safetensors")].to_vec(),
        arguments!["diff", scene.base, scene.target, "-o", dir.join("out.tpatch")].to_vec(),
        arguments!["apply", copy, patch, "--in-place"].to_vec(),
    ] {
        run_as_another(&scene, &command).fails(FAILED, &["ermission denied"]);
    }
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(tree(&dir).into_keys().collect::<Vec<_>>(), [PathBuf::from("copy.safetensors")]);
    same_checkpoint(&copy, &scene.base);
}
