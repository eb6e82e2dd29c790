//! Following, checking, folding, collecting, mirroring and signing streams.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};

use crate::scene::{Scene, snapshot};
use crate::support::{arguments, command, finish, fixture, read, run, same_checkpoint, shard, tree, write};

const FAILED: i32 = 1;
const REFUSED: i32 = 2;
const BAD_INPUT: i32 = 3;
const UNTRUSTED: i32 = 7;
const CONFLICT: i32 = 5;

#[test]
fn a_follower_takes_each_version_and_runs_a_command_for_it() {
    let scene = Scene::new(1);
    let (replica, told) = (scene.path("replica"), scene.path("told"));
    let exec = format!(
        "echo noise; cat; echo \"$TENSORPATCH_VERSION $TENSORPATCH_STATE $TENSORPATCH_DIR\" >> {}",
        told.display()
    );
    let follow = arguments![
        "follow",
        scene.stream(),
        replica,
        "--poll",
        "20ms",
        "--until",
        "3",
        "--exec",
        exec,
        "--json"
    ];
    let child = command(&follow).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    scene.publish(2, &[]).ok();
    scene.publish(3, &[]).ok();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    same_checkpoint(&replica, &snapshot(3));
    let digest = run(&arguments!["digest", snapshot(3), "--json"]).ok().json()["state"].clone();
    let text = String::from_utf8(read(&told)).unwrap();
    assert_eq!(
        text.lines().last().unwrap(),
        format!("3 {} {}", digest.as_str().unwrap(), replica.display()),
        "the command runs for the last version too"
    );
    let lines: Vec<serde_json::Value> = output
        .stdout
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).expect("a line that is no JSON"))
        .collect();
    assert_eq!(lines.len(), text.lines().count());
    assert_eq!(lines.last().unwrap()["state"], digest);
}

#[test]
fn a_follower_ends_when_its_command_fails_and_says_so() {
    let scene = Scene::new(1);
    let follow = arguments!["follow", scene.stream(), scene.path("replica"), "--exec", "exit 7"];
    run(&follow).fails(FAILED, &["version 1 is held", "command", "7"]);
    same_checkpoint(&scene.path("replica"), &snapshot(1));
}

#[test]
fn a_follower_ends_in_order_when_it_is_asked_to() {
    let scene = Scene::new(1);
    for signal in [Signal::TERM, Signal::INT] {
        let ready = scene.path("ready");
        let exec = format!("touch {}", ready.display());
        let follow = arguments![
            "follow",
            scene.stream(),
            scene.path("replica"),
            "--lease",
            "one",
            "--exec",
            exec,
            "--quiet"
        ];
        let child = command(&follow).stderr(Stdio::piped()).spawn().unwrap();
        while !ready.exists() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        kill_process(Pid::from_child(&child), signal).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(!tree(&scene.stream()).keys().any(|key| key.starts_with("leases")), "the lease is given up");
        fs::remove_file(ready).unwrap();
    }
}

#[test]
fn a_sound_stream_is_said_to_be_and_a_damaged_one_is_not() {
    let scene = Scene::new(3);
    let report = run(&arguments!["fsck", scene.stream(), "--json"]).ok().json();
    assert_eq!((&report["sound"], &report["deep"], &report["tip"]), (&true.into(), &true.into(), &3.into()));
    assert!(
        String::from_utf8_lossy(&run(&arguments!["fsck", scene.stream()]).ok().stdout).ends_with("\nsound\n")
    );

    let patch = tree(&scene.stream()).into_keys().rfind(|key| key.starts_with("patches")).unwrap();
    let mut bytes = read(&scene.stream().join(&patch));
    bytes[200] ^= 1;
    write(&scene.stream().join(&patch), &bytes);
    // The size is still the same.
    run(&arguments!["fsck", scene.stream(), "--shallow"]).ok();
    let name = patch.to_str().unwrap();
    let outcome = run(&arguments!["fsck", scene.stream(), "--json"]).fails(BAD_INPUT, &["not sound"]);
    let report = outcome.json();
    assert_eq!(report["sound"], false);
    assert!(report["problems"].to_string().contains(name), "{report}");

    fs::remove_file(scene.stream().join(&patch)).unwrap();
    let outcome = run(&arguments!["fsck", scene.stream(), "--shallow"]).fails(BAD_INPUT, &["not sound"]);
    assert!(String::from_utf8_lossy(&outcome.stdout).contains(&format!("problem: {name}")));
}

#[test]
fn a_fold_is_taken_by_replicas_that_are_far_behind() {
    let scene = Scene::new(7);
    scene.pull("replica", &["--version", "1"]).ok();
    let work = scene.path("work");
    let fold = arguments!["fold", scene.stream(), "--from", "1", "--to", "6", "--work", work, "--json"];
    let report = run(&fold).ok().json();
    assert_eq!((&report["from"], &report["to"], &report["added"]), (&1.into(), &6.into(), &true.into()));
    assert!(report["bytes"].as_u64() < report["replaced_bytes"].as_u64());
    assert_eq!(run(&fold).ok().json()["added"], false, "once is enough");

    let pulled = run(&arguments!["pull", scene.stream(), scene.path("replica"), "--json"]).ok().json();
    assert_eq!(pulled["edges"].as_array().unwrap().len(), 2);
    same_checkpoint(&scene.path("replica"), &snapshot(7));
    run(&arguments!["fold", scene.stream(), "--from", "3", "--to", "3", "--work", work])
        .fails(REFUSED, &["nothing"]);
}

#[test]
fn collecting_shows_first_and_deletes_only_what_nobody_can_need() {
    let scene = Scene::new(1);
    for version in 2..=6 {
        scene.publish(version, &["--anchor-every", "2"]).ok();
    }
    scene.pull("replica", &["--version", "4"]).ok();
    run(&arguments!["pull", scene.stream(), scene.path("leased"), "--version", "5", "--lease", "engine"])
        .ok();
    let before = tree(&scene.stream());
    let gc = |options: &[&str]| {
        let mut gc = arguments!["gc", scene.stream(), "--json"].to_vec();
        gc.extend(options.iter().map(Into::into));
        run(&gc).ok().json()
    };
    let dry = gc(&["--keep", "1"]);
    assert!(tree(&scene.stream()) == before, "nothing is deleted unasked");
    assert_eq!(dry["deleted"], false);
    assert_eq!(dry["leases"][0]["holder"], "engine");

    let report = gc(&["--keep", "1", "--delete"]);
    assert_eq!((&report["deleted"], &report["garbage_bytes"]), (&true.into(), &dry["garbage_bytes"]));
    assert!(report["garbage_bytes"].as_u64().unwrap() > 100_000, "{report}");
    assert!(tree(&scene.stream()).len() < before.len());
    run(&arguments!["fsck", scene.stream()]).ok();
    scene.pull("fresh", &["--version", "6"]).ok();
    same_checkpoint(&scene.path("fresh"), &snapshot(6));
    scene.pull("leased", &["--version", "6"]).ok();
    same_checkpoint(&scene.path("leased"), &snapshot(6));
    // One that nobody kept anything for still gets there, by way of an anchor.
    scene.pull("replica", &["--version", "6"]).ok();
    same_checkpoint(&scene.path("replica"), &snapshot(6));
}

#[test]
fn a_mirror_is_the_same_stream_and_is_brought_up_to_date() {
    let scene = Scene::new(2);
    // With files beside the weights, which are in the stream twice.
    let sharded = scene.path("sharded");
    shard(&snapshot(2), &sharded, 2);
    write(&sharded.join("tokenizer.json"), b"{\"model\": {}}");
    let other = Scene::new(0);
    run(&arguments!["publish", sharded, "--to", other.stream(), "--baseline", other.path("baseline")]).ok();
    run(&arguments!["mirror", other.stream(), other.path("copy"), "--work", other.path("work")]).ok();
    run(&arguments!["pull", other.path("copy"), other.path("replica")]).ok();
    same_checkpoint(&other.path("replica"), &sharded);

    let copy = scene.path("copy");
    let mirror = || {
        let work = scene.path("work");
        run(&arguments!["mirror", scene.stream(), copy, "--work", work, "--json"]).ok().json()
    };
    assert_eq!(mirror()["to"], 2);
    let pull = arguments!["pull", copy, scene.path("replica")];
    run(&pull).ok();
    same_checkpoint(&scene.path("replica"), &snapshot(2));
    assert_eq!(mirror()["objects"], 0);
    scene.publish(3, &[]).ok();
    let report = mirror();
    assert_eq!((&report["from"], &report["to"]), (&2.into(), &3.into()));
    run(&pull).ok();
    same_checkpoint(&scene.path("replica"), &snapshot(3));
    run(&arguments!["fsck", copy]).ok();
    // A replica of the original goes on with the copy.
    scene.pull("other", &["--version", "1"]).ok();
    run(&arguments!["pull", copy, scene.path("other")]).ok();
    // Another stream is not overwritten.
    let other = Scene::new(1);
    let before = tree(&other.stream());
    run(&arguments!["mirror", scene.stream(), other.stream(), "--work", scene.path("work")])
        .fails(CONFLICT, &["holds another stream", "choose an empty or missing place"]);
    assert!(tree(&other.stream()) == before);
}

#[test]
fn a_key_makes_replicas_refuse_what_others_signed_or_nobody() {
    let scene = Scene::new(0);
    let keygen = |name: &str| {
        let report = run(&arguments!["keygen", scene.path(name), "--json"]).ok().json();
        report["public_key"].as_str().unwrap().to_owned()
    };
    let (ours, theirs) = (keygen("ours"), keygen("theirs"));
    assert_eq!(fs::metadata(scene.path("ours")).unwrap().permissions().mode() & 0o777, 0o600);
    let secret = read(&scene.path("ours"));
    run(&arguments!["keygen", scene.path("ours")])
        .fails(REFUSED, &["ours", "exists already", "tensorpatch key show"]);
    assert!(read(&scene.path("ours")) == secret);

    let signed = scene.path("ours");
    scene.publish(1, &["--sign-key", signed.to_str().unwrap(), "--trust-key", &ours]).ok();
    let pull =
        |key: &str| run(&arguments!["pull", scene.stream(), scene.path("replica"), "--trust-key", key]);
    pull(&ours).ok();
    pull(&theirs).fails(UNTRUSTED, &["stream.json", "trusted"]);
    // A version that nobody signed is refused by whoever would publish it,
    let unsigned = arguments!["publish", snapshot(2), "--to", scene.stream(), "--baseline", scene.baseline()];
    run(&unsigned).fails(UNTRUSTED, &["is signed", "--sign-key"]);
    pull(&ours).ok();
    // and does no lasting harm if it gets there all the same, from a tool that does not look.
    let record = scene.path("stream").join("stream.json");
    let whole = fs::read_to_string(&record).unwrap();
    let (bare, _) = whole.split_once(",\"signature\"").unwrap();
    write(&record, format!("{bare}}}").as_bytes());
    scene.publish(2, &[]).ok();
    write(&record, whole.as_bytes());
    pull(&ours).fails(UNTRUSTED, &["commits/", "trusted"]);
    same_checkpoint(&scene.path("replica"), &snapshot(1));
    run(&arguments!["log", scene.stream(), "--trust-key", ours]).fails(UNTRUSTED, &["commits/"]);
    // Nor is anything signed that is built on it.
    let publish = arguments!["publish", snapshot(3), "--to", scene.stream(), "--sign-key", signed];
    run(&publish).fails(UNTRUSTED, &["commits/", "trusted"]);
    // Without a key everything is believed.
    run(&arguments!["pull", scene.stream(), scene.path("believer")]).ok();
    // The owner of the key takes it back and goes on; nobody else can.
    run(&arguments!["rollback", scene.stream()]).fails(UNTRUSTED, &["--sign-key"]);
    run(&arguments!["rollback", scene.stream(), "--sign-key", scene.path("theirs")])
        .fails(UNTRUSTED, &["stream.json"]);
    let rollback = arguments!["rollback", scene.stream(), "--sign-key", signed, "--json"];
    assert_eq!(run(&rollback).ok().json()["removed"], serde_json::json!([2]));
    assert_eq!(run(&rollback).ok().json()["removed"], serde_json::json!([]));
    let publish = arguments![
        "publish",
        snapshot(3),
        "--to",
        scene.stream(),
        "--sign-key",
        signed,
        "--baseline",
        scene.baseline()
    ];
    let baseline = scene.baseline();
    run(&publish)
        .fails(5, &["version 2", baseline.to_str().unwrap(), "delete the directory if it is the baseline"]);
    fs::remove_dir_all(&baseline).unwrap();
    run(&publish).ok();
    pull(&ours).ok();
    same_checkpoint(&scene.path("replica"), &snapshot(3));
    // Who believed the other version is told, and how to go on.
    let believer = scene.path("believer");
    let pull_again = arguments!["pull", scene.stream(), believer, "--replace"];
    run(&pull_again).fails(5, &["version 2", "delete the folder .tensorpatch"]);
    fs::remove_dir_all(believer.join(".tensorpatch")).unwrap();
    run(&pull_again).ok();
    same_checkpoint(&believer, &snapshot(3));

    pull("0123").fails(REFUSED, &["64 hexadecimal digits"]);
    let publish = arguments!["publish", fixture(4), "--to", scene.stream(), "--sign-key", fixture(4)];
    run(&publish).fails(REFUSED, &["no signing key", "keygen"]);
    let bad = scene.path("bad");
    write(&bad, b"secret");
    let publish = arguments!["publish", fixture(4), "--to", scene.stream(), "--sign-key", bad];
    let mut publish = command(&publish);
    finish(&mut publish).fails(REFUSED, &["bad", "keygen"]);
}
