//! A record between the versions of a stream is lost or damaged: what can still be had, and how upkeep goes
//! on.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::scene::{Scene, snapshot};
use crate::support::{Outcome, arguments, read, run, same_checkpoint, tree, write};

const BAD_INPUT: i32 = 3;
const LOST: &str = "commits/00000000000000000002.json";

/// A stream of three versions with replicas of the first and the second, whose second record is lost.
fn scene() -> Scene {
    let scene = Scene::new(3);
    for version in ["1", "2"] {
        scene.pull(version, &["--version", version]).ok();
    }
    fs::rename(scene.commit(2), scene.path("away")).unwrap();
    scene
}

fn anchor(scene: &Scene) {
    scene.run("anchor", &["--baseline", scene.baseline().to_str().unwrap()]).ok();
}

fn status(scene: &Scene, replica: &str) -> Outcome {
    run(&arguments!["status", scene.stream(), scene.path(replica), "--json"])
}

fn mirror(scene: &Scene) -> Outcome {
    let (copy, work) = (scene.path("copy"), scene.path("work"));
    run(&arguments!["mirror", scene.stream(), copy, "--work", work, "--json"])
}

#[test]
fn a_replica_before_the_gap_is_not_said_to_be_up_to_date_and_goes_on_by_an_anchor() {
    for damage in ["lost", "damaged"] {
        let scene = scene();
        if damage == "damaged" {
            write(&scene.commit(2), b"{");
        }
        // It is behind, and nothing leads on yet.
        for replica in ["1", "fresh"] {
            status(&scene, replica).fails(BAD_INPUT, &[LOST]);
            let said = scene.pull(replica, &[]).fails(BAD_INPUT, &[LOST, "docs/runbook.md"]);
            assert_eq!(said.stderr.contains("tensorpatch anchor URL"), damage == "lost", "{}", said.stderr);
        }
        let follow = |replica: &str| {
            let follow = arguments!["follow", scene.stream(), scene.path(replica), "--until", "3"];
            run(&[&follow[..], &arguments!["--poll", "10ms", "--recheck", "20ms"]].concat())
        };
        follow("1").fails(BAD_INPUT, &[LOST]);
        anchor(&scene);
        let told = status(&scene, "1").ok().json();
        assert_eq!(
            (&told["held"], &told["tip"], &told["behind_versions"]),
            (&1.into(), &3.into(), &2.into())
        );
        assert!(told["behind_bytes"].as_u64().unwrap() > 0, "{told}");
        scene.pull("fresh", &[]).ok();
        follow("1").ok();
        for replica in ["1", "fresh"] {
            same_checkpoint(&scene.path(replica), &snapshot(3));
        }
    }
}

#[test]
fn a_log_begins_with_the_next_anchor_and_a_check_looks_at_both_sides() {
    let scene = scene();
    scene.run("log", &[]).fails(BAD_INPUT, &[LOST]);
    anchor(&scene);
    let said =
        scene.run("log", &["--json"]).fails(BAD_INPUT, &["versions before 3 are not listed", LOST]).json();
    let listed: Vec<&Value> =
        said["versions"].as_array().unwrap().iter().map(|entry| &entry["version"]).collect();
    assert_eq!((listed, &said["error"]["exit_code"]), (vec![&3.into()], &BAD_INPUT.into()), "{said}");
    scene.run("log", &["-n", "1"]).ok();
    // All that is left is checked, and nothing is said to be of no use whose record is not known.
    let checked = scene.run("fsck", &["--json"]).fails(BAD_INPUT, &[]).json();
    assert_eq!(checked["problems"], json!([{ "name": LOST, "what": "it is not in the store" }]));
    assert_eq!((&checked["abandoned"], &checked["objects"]), (&json!([]), &5.into()), "{checked}");
    fs::rename(scene.path("away"), scene.commit(2)).unwrap();
    assert_eq!(scene.run("log", &["--json"]).ok().json()["versions"].as_array().unwrap().len(), 3);
}

#[test]
fn a_copy_has_what_there_is_and_says_what_is_lost() {
    let scene = scene();
    anchor(&scene);
    for objects in [true, false] {
        let told = mirror(&scene).fails(BAD_INPUT, &[LOST]).json();
        assert_eq!(told["problems"], json!([{ "name": LOST, "what": "it is not in the store" }]));
        assert_eq!((&told["to"], told["objects"].as_u64() > Some(0)), (&3.into(), objects), "{told}");
    }
    run(&arguments!["pull", scene.path("copy"), scene.path("replica")]).ok();
    same_checkpoint(&scene.path("replica"), &snapshot(3));
}

#[test]
fn upkeep_goes_on_once_the_versions_before_the_gap_are_given_up() {
    let scene = scene();
    let keep = |versions: &str| scene.run("gc", &["--keep", versions, "--grace", "0s", "--delete"]);
    keep("3").fails(BAD_INPUT, &["nothing whole leads to it", "tensorpatch anchor URL"]);
    anchor(&scene);
    scene.publish(1, &[]).ok();
    keep("3").fails(BAD_INPUT, &["version 2 is to stay", "from version 3 on", "tensorpatch gc URL --keep 2"]);
    scene.run("gc", &["--keep", "1", "--pin", "1"]).fails(BAD_INPUT, &[LOST]);
    keep("2").ok();
    // Anchors that no record names stay for the grace period.
    let left = tree(&scene.stream().join("patches"));
    assert!(
        left.keys().all(|name| name.to_string_lossy().starts_with("00000000000000000004")),
        "{:?}",
        left.keys()
    );
    // Nobody needs the record any more.
    let checked = scene.run("fsck", &["--json"]).ok().json();
    assert_eq!(checked["problems"], json!([]), "{checked}");
    scene.run("report", &["-o", scene.path("report.html").to_str().unwrap()]).ok();
    for replica in ["1", "fresh"] {
        scene.pull(replica, &[]).ok();
        same_checkpoint(&scene.path(replica), &snapshot(1));
    }
}

#[test]
fn a_collector_that_cannot_keep_a_version_says_how_many_it_can() {
    let scene = Scene::new(3);
    fs::remove_file(scene.object("patches", 2)).unwrap();
    anchor(&scene);
    scene.publish(1, &[]).ok();
    scene
        .run("gc", &["--keep", "3"])
        .fails(BAD_INPUT, &["version 2 is to stay", "from version 3 on", "tensorpatch gc URL --keep 2"]);
    scene.run("gc", &["--keep", "2", "--delete"]).ok();
    scene.run("fsck", &[]).ok();
}

#[test]
fn nothing_is_given_up_while_the_anchor_that_all_rests_on_then_is_not_what_it_should_be() {
    let scene = scene();
    anchor(&scene);
    // Of what records that are left name, nothing can go then: only what the lost one named.
    fs::remove_file(scene.object("patches", 3)).unwrap();
    let files = scene.stream().join("anchors");
    let is_third = |name: &&PathBuf| {
        let name = name.to_string_lossy();
        name.starts_with("00000000000000000003") && name.ends_with("model.safetensors")
    };
    let file = files.join(tree(&files).keys().find(is_third).unwrap());
    let whole = read(&file);
    write(&file, &whole.iter().map(|byte| !byte).collect::<Vec<u8>>());
    let before = tree(&scene.stream());
    let give_up = || scene.run("gc", &["--keep", "1", "--grace", "0s", "--delete"]);
    give_up().fails(BAD_INPUT, &["anchors/"]);
    assert!(tree(&scene.stream()) == before);
    write(&file, &whole);
    give_up().ok();
    assert!(tree(&scene.stream()) != before);
}
