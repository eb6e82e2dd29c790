//! Publishing and pulling: every version bit for bit, from nothing and from any other version.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{
    arguments, command, finish, fixture, read, run, same_checkpoint, shard, temporary, tree, write,
};

const REFUSED: i32 = 2;
const BAD_INPUT: i32 = 3;
const CONFLICT: i32 = 5;
const NOT_FOUND: i32 = 6;
const LOCAL_DAMAGE: i32 = 8;

/// A stream with the three snapshots of the fixture, as single files or as directories.
struct Scene {
    dir: tempfile::TempDir,
    checkpoints: Vec<PathBuf>,
}

impl Scene {
    fn empty(sharded: bool) -> Self {
        let dir = temporary();
        let checkpoints = [4, 5, 6].map(|number| {
            if !sharded {
                return fixture(number);
            }
            let directory = dir.path().join(format!("checkpoint-{number}"));
            shard(&fixture(number), &directory, 3);
            write(&directory.join("generation_config.json"), format!("{{\"step\": {number}}}").as_bytes());
            // The same contents twice, and none.
            write(&directory.join("added_tokens.json"), &read(&directory.join("config.json")));
            write(&directory.join("merges.txt"), b"");
            directory
        });
        Self { dir, checkpoints: checkpoints.to_vec() }
    }

    fn new(sharded: bool) -> Self {
        let scene = Self::empty(sharded);
        for (number, checkpoint) in scene.checkpoints.iter().enumerate() {
            let report = scene.publish(checkpoint, "baseline").ok().json();
            assert_eq!(report["version"], number + 1);
        }
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn stream(&self) -> PathBuf {
        self.path("stream")
    }

    fn publish(&self, checkpoint: &Path, baseline: &str) -> crate::support::Outcome {
        let baseline = self.path(baseline);
        run(&arguments!["publish", checkpoint, "--to", self.stream(), "--baseline", baseline, "--json"])
    }

    #[track_caller]
    fn pull(&self, dir: &str, version: usize) -> Value {
        let version = version.to_string();
        run(&arguments!["pull", self.stream(), self.path(dir), "--version", version, "--json"]).ok().json()
    }

    /// The objects of the stream whose key begins with `prefix`.
    fn objects(&self, prefix: &str) -> Vec<PathBuf> {
        tree(&self.stream()).into_keys().filter(|key| key.starts_with(prefix)).collect()
    }
}

#[test]
fn every_version_is_pulled_from_nothing_and_from_any_other_version() {
    for sharded in [false, true] {
        let scene = Scene::new(sharded);
        for from in 0..=3 {
            for to in 1..=3 {
                let dir = format!("replica-{from}-{to}");
                if from > 0 {
                    scene.pull(&dir, from);
                }
                let report = scene.pull(&dir, to);
                assert_eq!(report["to"], to);
                same_checkpoint(&scene.path(&dir), &scene.checkpoints[to - 1]);
            }
        }
    }
}

#[test]
fn complete_files_beside_the_old_ones_give_the_same() {
    let scene = Scene::new(true);
    scene.pull("replica", 1);
    let outcome = run(&arguments!["pull", scene.stream(), scene.path("replica"), "--beside"]).ok();
    assert!(String::from_utf8_lossy(&outcome.stdout).contains("2 patches"));
    same_checkpoint(&scene.path("replica"), &scene.checkpoints[2]);
}

#[test]
fn the_log_lists_each_version_and_the_bytes_of_the_chain() {
    let scene = Scene::new(false);
    let log = run(&arguments!["log", scene.stream(), "--json"]).ok().json();
    let versions = log["versions"].as_array().unwrap();
    assert_eq!(versions.len(), 3);
    let bytes = |version: usize, field: &str| versions[version - 1][field].as_u64().unwrap();
    assert_eq!(versions[0]["kind"], "anchor");
    assert_eq!(versions[1]["kind"], "delta");
    assert_eq!(bytes(2, "changed_elements"), 1_116);
    assert_eq!(bytes(3, "chain_bytes"), bytes(2, "bytes") + bytes(3, "bytes"));
    for (version, checkpoint) in scene.checkpoints.iter().enumerate() {
        let digest = run(&arguments!["digest", checkpoint, "--json"]).ok().json();
        assert_eq!(versions[version]["state"], digest["state"]);
    }
    let text = String::from_utf8(run(&arguments!["log", scene.stream()]).ok().stdout).unwrap();
    assert!(text.contains("3 versions") && text.contains("anchor") && text.contains(" chain "), "{text}");
}

#[test]
fn the_baseline_is_kept_in_the_cache_by_stream_and_made_anew_when_it_is_missing() {
    let scene = Scene::empty(true);
    let cache = scene.path("cache");
    let publish = |checkpoint: &Path| {
        let mut publish = command(&arguments!["publish", checkpoint, "--to", scene.stream(), "--json"]);
        finish(publish.env("XDG_CACHE_HOME", &cache)).ok().json()
    };
    let first = publish(&scene.checkpoints[0]);
    let baseline = cache.join("tensorpatch/baselines").join(first["stream"].as_str().unwrap());
    same_checkpoint(&baseline, &scene.checkpoints[0]);
    fs::remove_dir_all(&cache).unwrap();
    let second = publish(&scene.checkpoints[1]);
    assert_eq!((&second["version"], &second["kind"]), (&2.into(), &"delta".into()));
    same_checkpoint(&baseline, &scene.checkpoints[1]);
}

#[test]
fn a_publisher_with_an_old_baseline_catches_up_first() {
    let scene = Scene::empty(false);
    scene.publish(&scene.checkpoints[0], "one").ok();
    scene.publish(&scene.checkpoints[1], "other").ok();
    let report = scene.publish(&scene.checkpoints[2], "one").ok().json();
    assert_eq!(report["version"], 3);
    assert_eq!(report["changed_elements"], 1_075);
    scene.pull("replica", 3);
    same_checkpoint(&scene.path("replica"), &scene.checkpoints[2]);
}

#[test]
fn a_base_that_is_not_the_newest_version_is_refused_and_creates_no_stream() {
    let scene = Scene::empty(false);
    let publish = |to: &Path, base| run(&arguments!["publish", fixture(6), "--to", to, "--base", base]);
    publish(&scene.path("typo"), fixture(5)).fails(6, &["there is no stream"]);
    assert!(!scene.path("typo").exists());
    for step in [4, 5] {
        scene.publish(&fixture(step), "baseline").ok();
    }
    let refused = publish(&scene.stream(), fixture(4)).fails(4, &["is not version 2", "published last"]);
    assert!(!refused.stderr.contains("run the same command again"), "{}", refused.stderr);
    publish(&scene.stream(), fixture(5)).ok();
}

#[test]
fn a_version_with_the_same_label_and_state_is_not_published_twice() {
    let scene = Scene::empty(false);
    let publish = || {
        let baseline = scene.path("baseline");
        let checkpoint = &scene.checkpoints[0];
        run(&arguments![
            "publish",
            checkpoint,
            "--to",
            scene.stream(),
            "--baseline",
            baseline,
            "--label",
            "step 7",
            "--json"
        ])
        .ok()
        .json()
    };
    assert_eq!(publish()["resumed"], false);
    let again = publish();
    assert_eq!((&again["resumed"], &again["version"]), (&true.into(), &1.into()));
}

#[test]
fn an_unchanged_checkpoint_is_a_version_of_its_own_that_says_so_if_that_is_asked_for() {
    let scene = Scene::new(false);
    let publish = arguments![
        "publish",
        scene.checkpoints[2],
        "--to",
        scene.stream(),
        "--baseline",
        scene.path("baseline"),
        "--allow-unchanged",
        "--json",
    ];
    let report = run(&publish).ok().json();
    assert_eq!((&report["version"], &report["kind"]), (&4.into(), &"empty".into()));
    scene.pull("replica", 4);
    same_checkpoint(&scene.path("replica"), &scene.checkpoints[2]);
}

#[test]
fn a_pull_of_the_version_held_does_nothing() {
    let scene = Scene::new(false);
    scene.pull("replica", 3);
    let modified = || fs::metadata(scene.path("replica/model.safetensors")).unwrap().modified().unwrap();
    let before = modified();
    let report = scene.pull("replica", 3);
    assert_eq!(report["downloaded_bytes"], 0);
    assert_eq!(report["edges"], serde_json::json!([]));
    assert_eq!(modified(), before);
    same_checkpoint(&scene.path("replica"), &scene.checkpoints[2]);
}

#[test]
fn streams_and_versions_that_do_not_exist_are_said_not_to() {
    let scene = Scene::new(false);
    let (none, replica) = (scene.path("none"), scene.path("replica"));
    run(&arguments!["pull", none, replica]).fails(NOT_FOUND, &["none", "no stream"]);
    run(&arguments!["log", none]).fails(NOT_FOUND, &["none", "no stream"]);
    fs::create_dir(scene.path("empty")).unwrap();
    run(&arguments!["log", scene.path("empty")]).fails(NOT_FOUND, &["empty", "no stream"]);
    run(&arguments!["pull", scene.stream(), replica, "--version", "4"])
        .fails(NOT_FOUND, &["version 4", "newest is 3"]);
    run(&arguments!["pull", scene.stream(), replica, "--version", "0"]).fails(REFUSED, &["at least 1"]);
    run(&arguments!["pull", "carrier-pigeon://roof", replica]).fails(REFUSED, &["carrier-pigeon"]);
    assert!(!none.exists());
    assert!(!replica.join("model.safetensors").exists());
}

#[test]
fn a_directory_with_other_weights_is_left_alone_unless_they_may_go() {
    let scene = Scene::new(false);
    let dir = scene.path("precious");
    shard(&fixture(4), &dir, 2);
    write(&dir.join("config.json"), b"{}");
    let bytes = read(&fixture(4));
    let mut other = bytes.clone();
    *other.last_mut().unwrap() ^= 1;
    fs::remove_dir_all(&dir).unwrap();
    fs::create_dir(&dir).unwrap();
    write(&dir.join("model.safetensors"), &other);
    let pull = arguments!["pull", scene.stream(), dir];
    run(&pull).fails(REFUSED, &["precious", "--replace"]);
    assert!(read(&dir.join("model.safetensors")) == other);
    run(&[&pull[..], &arguments!["--replace"][..]].concat()).ok();
    same_checkpoint(&dir, &scene.checkpoints[2]);
}

#[test]
fn a_directory_that_holds_a_version_already_is_taken_for_it() {
    let scene = Scene::new(false);
    let dir = scene.path("copied");
    fs::create_dir(&dir).unwrap();
    fs::copy(fixture(5), dir.join("model.safetensors")).unwrap();
    let report = scene.pull("copied", 3);
    assert_eq!(report["from"], 2);
    same_checkpoint(&dir, &scene.checkpoints[2]);
}

#[test]
fn a_replica_of_one_stream_refuses_another() {
    let (one, other) = (Scene::new(false), Scene::new(false));
    one.pull("replica", 2);
    let before = tree(&one.path("replica"));
    run(&arguments!["pull", other.stream(), one.path("replica")])
        .fails(CONFLICT, &["replica", "belongs to the stream"]);
    let publish =
        arguments!["publish", fixture(4), "--to", other.stream(), "--baseline", one.path("baseline")];
    run(&publish).fails(CONFLICT, &["baseline", "belongs to the stream"]);
    assert!(tree(&one.path("replica")) == before);
}

#[test]
fn a_damaged_or_missing_object_stops_a_pull_at_the_version_held() {
    for damage in ["altered", "truncated", "missing"] {
        let scene = Scene::new(false);
        scene.pull("replica", 1);
        let weights = read(&scene.path("replica/model.safetensors"));
        for key in scene.objects("patches") {
            let path = scene.stream().join(key);
            let mut bytes = read(&path);
            match damage {
                "altered" => {
                    let middle = bytes.len() / 2;
                    bytes[middle] ^= 4;
                    write(&path, &bytes);
                }
                "truncated" => write(&path, &bytes[..bytes.len() - 1]),
                _ => fs::remove_file(&path).unwrap(),
            }
        }
        run(&arguments!["pull", scene.stream(), scene.path("replica")]).fails(BAD_INPUT, &["patches/"]);
        assert!(read(&scene.path("replica/model.safetensors")) == weights, "{damage}");
        // Not even with nothing to lose.
        run(&arguments!["pull", scene.stream(), scene.path("fresh")]).fails(BAD_INPUT, &["patches/"]);
        assert!(!scene.path("fresh/model.safetensors").exists(), "{damage}");
        scene.pull("fresh", 1);
        same_checkpoint(&scene.path("fresh"), &scene.checkpoints[0]);
    }
}

#[test]
fn a_commit_record_that_is_none_stops_everything() {
    let scene = Scene::new(false);
    let newest = scene.objects("commits").pop().unwrap();
    write(&scene.stream().join(&newest), b"{\"format\": \"tensorpatch-commit\", \"major\": 1}");
    for arguments in [
        arguments!["pull", scene.stream(), scene.path("replica")].to_vec(),
        arguments!["log", scene.stream()].to_vec(),
        arguments!["publish", fixture(4), "--to", scene.stream(), "--baseline", scene.path("baseline")]
            .to_vec(),
    ] {
        run(&arguments).fails(BAD_INPUT, &["commits/"]);
    }
    assert!(!scene.path("replica/model.safetensors").exists());
}

#[test]
fn a_replica_whose_weights_were_damaged_is_repaired() {
    let scene = Scene::new(false);
    scene.pull("replica", 2);
    let path = scene.path("replica/model.safetensors");
    let mut bytes = read(&path);
    *bytes.last_mut().unwrap() ^= 1;
    write(&path, &bytes);
    scene.pull("replica", 3);
    same_checkpoint(&scene.path("replica"), &scene.checkpoints[2]);
}

#[test]
fn a_state_file_that_cannot_be_understood_is_said_and_can_be_removed() {
    let scene = Scene::new(false);
    scene.pull("replica", 2);
    let state = scene.path("replica/.tensorpatch/state.json");
    write(&state, br#"{"format": "of another program", "major": 1}"#);
    let pull = arguments!["pull", scene.stream(), scene.path("replica")];
    run(&pull).fails(LOCAL_DAMAGE, &["state.json", "Remove it"]);
    same_checkpoint(&scene.path("replica"), &scene.checkpoints[1]);
    fs::remove_file(&state).unwrap();
    let report = scene.pull("replica", 3);
    assert_eq!(report["from"], 2);
    same_checkpoint(&scene.path("replica"), &scene.checkpoints[2]);
}

#[test]
fn a_broken_checkpoint_is_not_published() {
    let scene = Scene::new(false);
    let before = tree(&scene.stream());
    let bad = scene.path("bad.safetensors");
    write(&bad, &read(&fixture(4))[..100_000]);
    scene.publish(&bad, "baseline").fails(BAD_INPUT, &["bad.safetensors"]);
    assert!(tree(&scene.stream()) == before);
    scene.publish(&scene.checkpoints[0], "baseline").ok();
}

#[test]
fn the_leaf_hash_of_a_stream_is_set_once() {
    let scene = Scene::empty(false);
    let publish = |hash: &str| {
        let baseline = scene.path("baseline");
        let (stream, checkpoint) = (scene.stream(), &scene.checkpoints[0]);
        run(&arguments![
            "publish",
            checkpoint,
            "--to",
            stream,
            "--baseline",
            baseline,
            "--leaf-hash",
            hash,
            "--json"
        ])
    };
    assert!(publish("blake3").ok().json()["state"].as_str().unwrap().starts_with("blake3:"));
    publish("xxh3").fails(REFUSED, &["blake3"]);
    scene.pull("replica", 1);
    same_checkpoint(&scene.path("replica"), &scene.checkpoints[0]);
}

#[test]
fn several_publishers_at_once_lose_no_version_and_double_none() {
    let scene = Scene::empty(false);
    scene.publish(&scene.checkpoints[0], "first").ok();
    let mut published = Vec::new();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|number| {
                let scene = &scene;
                scope.spawn(move || {
                    scene.publish(&scene.checkpoints[1 + number % 2], &format!("baseline-{number}"))
                })
            })
            .collect();
        for worker in workers {
            let outcome = worker.join().unwrap();
            match outcome.code {
                // Two have the same state, and may find it published already.
                0 if outcome.json()["unchanged"] == true => {}
                0 => published.push(outcome.json()["version"].as_u64().unwrap()),
                CONFLICT => assert!(outcome.stderr.contains("publish again"), "{}", outcome.stderr),
                code => panic!("{code}: {}", outcome.stderr),
            }
        }
    });
    published.sort_unstable();
    assert_eq!(published, (2..2 + published.len() as u64).collect::<Vec<_>>());
    let log = run(&arguments!["log", scene.stream(), "--json"]).ok().json();
    assert_eq!(log["versions"].as_array().unwrap().len(), 1 + published.len());
}
