//! A mirror restores what it has lost, and tells of a source that is damaged.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use crate::scene::Scene;
use crate::support::{Outcome, arguments, fixture, read, run, tree, write};

const BAD_INPUT: i32 = 3;
const CONFLICT: i32 = 5;

/// A stream of three versions with a fold and an anchor.
fn scene() -> Scene {
    let scene = Scene::new(3);
    let (work, baseline) = (scene.path("work"), scene.baseline());
    scene.run("fold", &["--from", "1", "--to", "3", "--work", work.to_str().unwrap()]).ok();
    scene.run("anchor", &["--baseline", baseline.to_str().unwrap()]).ok();
    scene
}

fn mirror(scene: &Scene) -> Outcome {
    mirror_to(scene, "copy")
}

fn mirror_to(scene: &Scene, copy: &str) -> Outcome {
    let work = scene.path(&format!("work of {copy}"));
    run(&arguments!["mirror", scene.stream(), scene.path(copy), "--work", work, "--json"])
}

/// The objects of a place, without the hint.
fn objects(scene: &Scene, place: &str) -> Vec<PathBuf> {
    let mut names: Vec<PathBuf> = tree(&scene.path(place)).into_keys().collect();
    names.retain(|name| !name.ends_with("latest.json") && !name.ends_with("lock"));
    names
}

fn cut(path: &Path) {
    fs::File::options().write(true).open(path).unwrap().set_len(50).unwrap();
}

#[test]
fn what_a_copy_has_lost_is_copied_again() {
    let scene = scene();
    mirror(&scene).ok();
    let whole = tree(&scene.path("copy"));
    assert!(objects(&scene, "copy").len() > 8, "{:?}", objects(&scene, "copy"));
    for name in objects(&scene, "copy") {
        let path = scene.path("copy").join(&name);
        for damage in [|path: &Path| fs::remove_file(path).unwrap(), cut] {
            damage(&path);
            let report = mirror(&scene).ok().json();
            assert!(tree(&scene.path("copy")) == whole, "{} was not restored: {report}", name.display());
            let is_record = name.extension().is_some_and(|extension| extension == "json");
            let restored = if is_record { 0 } else { 1 };
            assert_eq!((&report["restored"], &report["objects"]), (&restored.into(), &restored.into()));
        }
    }
    let told = mirror(&scene).ok().json();
    assert_eq!((&told["objects"], &told["problems"]), (&0.into(), &serde_json::json!([])));
}

#[test]
fn a_copy_is_not_published_to_by_mistake() {
    let scene = scene();
    mirror(&scene).ok();
    let publish = |place: &str, more: &[OsString]| {
        let (place, baseline) = (scene.path(place), scene.baseline());
        let publish = arguments!["publish", fixture(5), "--to", place, "--baseline", baseline];
        run(&[&publish[..], more].concat())
    };
    let before = tree(&scene.path("copy"));
    let refused = publish("copy", &[]);
    let known = fs::canonicalize(scene.stream()).unwrap();
    refused.fails(CONFLICT, &["which was published to at", known.to_str().unwrap(), "--stream"]);
    assert!(tree(&scene.path("copy")) == before);
    // It may take the place of the stream, which is said once.
    let log = run(&arguments!["log", scene.path("copy"), "--json"]).ok().json();
    publish("copy", &arguments!["--stream", log["stream"].as_str().unwrap()]).ok();
    publish("copy", &arguments!["--allow-unchanged"]).ok();
    publish("stream", &[]).fails(CONFLICT, &["which was published to at"]);
}

#[test]
fn a_damaged_source_is_told_of_by_name_and_by_the_exit_code() {
    let scene = scene();
    mirror(&scene).ok();
    let is_data = |name: &&PathBuf| name.extension().is_none_or(|extension| extension != "json");
    for name in objects(&scene, "stream").iter().filter(is_data) {
        let (path, shown) = (scene.stream().join(name), name.to_str().unwrap());
        let whole = read(&path);
        let altered: Vec<u8> = whole.iter().map(|byte| !byte).collect();
        let copies = scene.path("copies");
        for (bytes, had) in
            [(None, true), (Some(&whole[1..]), true), (Some(&altered[..]), false), (None, false)]
        {
            match bytes {
                Some(bytes) => write(&path, bytes),
                None => fs::remove_file(&path).unwrap(),
            }
            let told = mirror_to(&scene, if had { "copy" } else { "copies" });
            let told = told.fails(BAD_INPUT, &[shown]).json();
            assert_eq!(
                (&told["error"]["exit_code"], &told["error"]["object"]),
                (&3.into(), &shown.into()),
                "{told}"
            );
            if had {
                assert_eq!(told["problems"][0]["name"], shown);
            }
            let _ = fs::remove_dir_all(&copies);
            // What was downloaded before it was damaged would take its place.
            let _ = fs::remove_dir_all(scene.path("work of copies"));
            write(&path, &whole);
        }
    }
    mirror(&scene).ok();
}

#[test]
fn a_source_that_has_lost_versions_of_its_copy_is_told_of() {
    let scene = scene();
    mirror(&scene).ok();
    for lost in [3, 2, 1] {
        let record = format!("commits/{lost:020}.json");
        fs::rename(scene.stream().join(&record), scene.path(&format!("away {lost}"))).unwrap();
        let _ = fs::remove_file(scene.path("stream/latest.json"));
        let before = objects(&scene, "copy");
        let said = mirror(&scene).fails(BAD_INPUT, &[&record, "the copy has version", "from the copy"]);
        assert_eq!(said.json()["error"]["object"], record);
        assert_eq!(objects(&scene, "copy"), before);
    }
    for lost in 1..=3 {
        let record = scene.stream().join(format!("commits/{lost:020}.json"));
        fs::rename(scene.path(&format!("away {lost}")), record).unwrap();
    }
    mirror(&scene).ok();
}

#[test]
fn a_copy_that_is_behind_is_said_to_be_behind_and_not_to_be_rewritten() {
    let scene = scene();
    mirror(&scene).ok();
    scene.publish(1, &[]).ok();
    let (replica, copy) = (scene.path("replica"), scene.path("copy"));
    run(&arguments!["pull", scene.stream(), replica]).ok();
    let before = tree(&replica);
    for command in ["pull", "status", "follow"] {
        let said = run(&arguments![command, copy, replica])
            .fails(CONFLICT, &["is behind", "newest version is 3", "holds version 4", "tensorpatch mirror"]);
        for words in ["rewritten", "--replace", "delete"] {
            assert!(!said.stderr.contains(words), "{words:?} is in {}", said.stderr);
        }
    }
    assert_eq!(tree(&replica), before);
    mirror(&scene).ok();
    run(&arguments!["pull", copy, replica]).ok();
}

#[test]
fn a_place_with_another_stream_or_another_history_is_left_alone() {
    let scene = scene();
    let other = Scene::new(3);
    let before = tree(&other.stream());
    let elsewhere = arguments!["mirror", scene.stream(), other.stream(), "--work", scene.path("work")];
    run(&elsewhere).fails(CONFLICT, &["holds another stream", "choose an empty or missing place"]);
    assert!(tree(&other.stream()) == before);
    mirror(&scene).ok();
    scene.publish(1, &[]).ok();
    let publish =
        arguments!["publish", fixture(5), "--to", scene.path("copy"), "--baseline", scene.path("b2")];
    run(&publish).ok();
    mirror(&scene)
        .fails(CONFLICT, &["commits/", "no copy of this stream", "choose an empty or missing place"]);
}

#[test]
fn what_a_collector_has_taken_is_neither_missed_nor_brought_back() {
    let scene = scene();
    mirror(&scene).ok();
    let gc = |place: &str| {
        run(&arguments!["gc", scene.path(place), "--keep", "1", "--grace", "0s", "--delete"]).ok();
    };
    gc("copy");
    let collected = tree(&scene.path("copy"));
    mirror(&scene).ok();
    let brought: Vec<PathBuf> =
        tree(&scene.path("copy")).into_keys().filter(|name| !collected.contains_key(name)).collect();
    // Its edges are none of a version: they come back until they are collected where they came from.
    assert!(brought.iter().all(|name| name.starts_with("edges") || name.starts_with("folds")), "{brought:?}");
    gc("stream");
    mirror(&scene).ok();
    mirror_to(&scene, "late").ok();
    for place in ["copy", "late"] {
        run(&arguments!["fsck", scene.path(place)]).ok();
    }
}

#[test]
fn a_copy_that_stays_before_a_version_goes_on_by_what_is_advised() {
    let scene = scene();
    fs::remove_file(scene.object("patches", 2)).unwrap();
    let said =
        mirror(&scene).fails(BAD_INPUT, &["stays before a version", "patches/", "gc URL --keep N --delete"]);
    assert!(said.json()["error"]["object"].as_str().unwrap().starts_with("patches/"));
    scene.run("gc", &["--keep", "1", "--grace", "0s", "--delete"]).ok();
    assert_eq!(mirror(&scene).ok().json()["to"], 3);
    run(&arguments!["pull", scene.path("copy"), scene.path("replica")]).ok();
}
