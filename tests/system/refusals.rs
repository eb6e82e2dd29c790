//! What a replica takes for its own, and what a directory is like after a command that was refused.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{Outcome, arguments, fixture, run, same_checkpoint, shard, temporary, tree, write};

const REFUSED: i32 = 2;
const NOT_FOUND: i32 = 6;
const LOCAL_DAMAGE: i32 = 8;

/// A stream of three versions whose `config.json` is another each time.
struct Scene {
    dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let scene = Self { dir: temporary() };
        for version in 1..=3 {
            let step = scene.path(&format!("step-{version}"));
            shard(&fixture(3 + version), &step, 2);
            write(&step.join("config.json"), config(version).as_bytes());
            scene.publish(&step, "stream").ok();
        }
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn publish(&self, checkpoint: &Path, to: &str) -> Outcome {
        let baseline = self.path(&format!("baseline of {}", to.replace('/', " ")));
        run(&arguments!["publish", checkpoint, "--to", self.path(to), "--baseline", baseline])
    }

    fn pull(&self, replica: &str, options: &[&str]) -> Outcome {
        let mut line = arguments!["pull", self.path("stream"), self.path(replica)].to_vec();
        line.extend(options.iter().map(Into::into));
        run(&line)
    }

    /// A replica of version 2 that has lost its state file.
    fn stateless(&self, name: &str) -> PathBuf {
        self.pull(name, &["--version", "2"]).ok();
        let replica = self.path(name);
        fs::remove_file(replica.join(".tensorpatch/state.json")).unwrap();
        replica
    }
}

fn config(version: u32) -> String {
    format!("{{\"step\": {version}}}")
}

#[test]
fn files_of_the_version_that_the_weights_are_came_with_it_though_the_state_file_is_gone() {
    let scene = Scene::new();
    // To the newest, and to the same.
    for (name, version) in [("ahead", 3), ("there", 2)] {
        let replica = scene.stateless(name);
        scene.pull(name, &["--version", &version.to_string()]).ok();
        same_checkpoint(&replica, &scene.path(&format!("step-{version}")));
        run(&arguments!["verify", replica]).ok();
        write(&replica.join("config.json"), b"{\"step\": 9}");
        run(&arguments!["verify", replica]).fails(LOCAL_DAMAGE, &[]);
    }
}

#[test]
fn a_pull_that_is_refused_does_not_certify_what_lies_there() {
    let scene = Scene::new();
    let replica = scene.stateless("r");
    write(&replica.join("config.json"), b"{\"step\": 9}");
    let before = tree(&replica);
    scene.pull("r", &[]).fails(REFUSED, &["config.json", "did not come with a version", "--replace"]);
    assert_eq!(tree(&replica), before);
    run(&arguments!["verify", replica]).fails(REFUSED, &["is no replica"]);
    scene.pull("r", &["--replace"]).ok();
    same_checkpoint(&replica, &scene.path("step-3"));
    run(&arguments!["verify", replica]).ok();
}

#[test]
fn a_file_that_is_missing_beside_recognised_weights_is_fetched() {
    let scene = Scene::new();
    let replica = scene.stateless("r");
    fs::remove_file(replica.join("config.json")).unwrap();
    scene.pull("r", &["--version", "2"]).ok();
    same_checkpoint(&replica, &scene.path("step-2"));
}

#[test]
fn a_directory_in_which_nothing_may_be_replaced_is_left_as_it_was() {
    let scene = Scene::new();
    let (foreign, text, own) = (scene.path("foreign"), scene.path("text"), scene.path("own"));
    fs::create_dir(&foreign).unwrap();
    fs::copy(fixture(6), foreign.join("model.safetensors")).unwrap();
    let mut bytes = fs::read(foreign.join("model.safetensors")).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    write(&foreign.join("model.safetensors"), &bytes);
    fs::create_dir(&text).unwrap();
    write(&text.join("notes.txt"), b"mine");
    shard(&fixture(6), &own, 2);
    for directory in ["foreign", "text", "own"] {
        let before = tree(&scene.path(directory));
        scene.pull(directory, &[]).fails(REFUSED, &["--replace"]);
        assert_eq!(tree(&scene.path(directory)), before, "{directory}");
        assert!(!scene.path(directory).join(".tensorpatch").exists(), "{directory}");
    }
}

#[test]
fn no_stream_and_no_copy_is_made_in_a_directory_with_something_else() {
    let scene = Scene::new();
    scene.pull("replica", &[]).ok();
    fs::create_dir(scene.path("text")).unwrap();
    write(&scene.path("text/notes.txt"), b"mine");
    let work = scene.path("work");
    for (directory, said) in
        [("step-2", "is a checkpoint"), ("replica", "is a replica"), ("text", "has \"notes.txt\"")]
    {
        let before = tree(&scene.path(directory));
        let said = [said, "empty or missing"];
        scene.publish(&scene.path("step-1"), directory).fails(REFUSED, &said);
        let mirror =
            arguments!["mirror", scene.path("stream"), scene.path(directory), "--work", work].to_vec();
        run(&mirror).fails(REFUSED, &said);
        assert_eq!(tree(&scene.path(directory)), before);
    }
    // What is hidden is no obstacle.
    fs::create_dir(scene.path("fresh")).unwrap();
    write(&scene.path("fresh/.keep"), b"");
    scene.publish(&scene.path("step-1"), "fresh").ok();
}

#[test]
fn a_replica_is_no_baseline_of_a_publisher_and_a_baseline_no_replica() {
    let scene = Scene::new();
    scene.pull("replica", &[]).ok();
    let (replica, baseline) = (scene.path("replica"), scene.path("baseline of stream"));
    let before = [tree(&replica), tree(&baseline)];
    let publish =
        arguments!["publish", scene.path("step-1"), "--to", scene.path("stream"), "--baseline", replica];
    run(&publish).fails(REFUSED, &["is a replica", "name another directory"]);
    for options in [&[][..], &["--replace"]] {
        scene
            .pull("baseline of stream", options)
            .fails(REFUSED, &["the baseline of a publisher", "name another"]);
    }
    assert_eq!([tree(&replica), tree(&baseline)], before);
    // For an anchor a replica will do, and stays one.
    run(&arguments!["anchor", scene.path("stream"), "--baseline", replica]).ok();
    scene.pull("replica", &[]).ok();
    scene.publish(&scene.path("step-1"), "stream").ok();
}

#[test]
fn what_is_refused_leaves_no_directory_that_was_not_there() {
    let scene = Scene::new();
    scene.pull("a/b", &["--version", "9"]).fails(NOT_FOUND, &["no version 9"]);
    assert!(!scene.path("a").exists());
    fs::create_dir(scene.path("a")).unwrap();
    scene.pull("a/b", &["--version", "9"]).fails(NOT_FOUND, &[]);
    assert!(scene.path("a").exists() && !scene.path("a/b").exists());
    // Another stream is meant than the one that would be created.
    let id = "00112233445566778899aabbccddeeff";
    let place = scene.path("c/d");
    let publish = arguments!["publish", scene.path("step-1"), "--to", place, "--stream", id];
    run(&publish).fails(NOT_FOUND, &["no stream"]);
    assert!(!scene.path("c").exists());
    let mirror = arguments!["mirror", scene.path("stream"), place, "--work", scene.path("text/work")];
    write(&scene.path("text"), b"no directory");
    run(&mirror).fails(REFUSED, &["is a file"]);
    assert!(!scene.path("c").exists());
}

#[test]
fn a_stream_in_the_directory_of_a_checkpoint_is_no_part_of_it() {
    let scene = Scene::new();
    let checkpoint = scene.path("step-1");
    fs::rename(scene.path("stream"), checkpoint.join("stream")).unwrap();
    let report = run(&arguments![
        "publish",
        checkpoint,
        "--to",
        scene.path("other"),
        "--baseline",
        scene.path("b"),
        "--json"
    ])
    .ok()
    .json();
    assert_eq!(report["left_out"], serde_json::json!([{"name": "stream/", "why": "stream"}]));
    assert_eq!(report["companions"], serde_json::json!(["config.json"]));
}
