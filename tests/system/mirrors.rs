//! A mirror restores what it has lost, and tells of a source that is damaged.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{Outcome, arguments, fixture, read, run, temporary, tree, write};

const BAD_INPUT: i32 = 3;
const CONFLICT: i32 = 5;

struct Scene {
    dir: tempfile::TempDir,
}

impl Scene {
    /// A stream of three versions with a fold and an anchor.
    fn new() -> Self {
        let scene = Self { dir: temporary() };
        for number in 4..=6 {
            scene.publish(number);
        }
        let (stream, work) = (scene.path("stream"), scene.path("work"));
        run(&arguments!["fold", stream, "--from", "1", "--to", "3", "--work", work]).ok();
        run(&arguments!["anchor", stream, "--baseline", scene.path("baseline")]).ok();
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn publish(&self, number: u32) {
        let (stream, baseline) = (self.path("stream"), self.path("baseline"));
        run(&arguments!["publish", fixture(number), "--to", stream, "--baseline", baseline]).ok();
    }

    fn mirror(&self) -> Outcome {
        self.mirror_to("copy")
    }

    fn mirror_to(&self, copy: &str) -> Outcome {
        let (stream, work) = (self.path("stream"), self.path(&format!("work of {copy}")));
        run(&arguments!["mirror", stream, self.path(copy), "--work", work, "--json"])
    }

    /// The objects of a place, without the hint.
    fn objects(&self, place: &str) -> Vec<PathBuf> {
        let mut names: Vec<PathBuf> = tree(&self.path(place)).into_keys().collect();
        names.retain(|name| !name.ends_with("latest.json") && !name.ends_with("lock"));
        names
    }
}

fn cut(path: &Path) {
    fs::File::options().write(true).open(path).unwrap().set_len(50).unwrap();
}

#[test]
fn what_a_copy_has_lost_is_copied_again() {
    let scene = Scene::new();
    scene.mirror().ok();
    let whole = tree(&scene.path("copy"));
    assert!(scene.objects("copy").len() > 8, "{:?}", scene.objects("copy"));
    for name in scene.objects("copy") {
        let path = scene.path("copy").join(&name);
        for damage in [|path: &Path| fs::remove_file(path).unwrap(), cut] {
            damage(&path);
            let report = scene.mirror().ok().json();
            assert!(tree(&scene.path("copy")) == whole, "{} was not restored: {report}", name.display());
            let is_record = name.extension().is_some_and(|extension| extension == "json");
            let restored = if is_record { 0 } else { 1 };
            assert_eq!((&report["restored"], &report["objects"]), (&restored.into(), &restored.into()));
        }
    }
    let told = scene.mirror().ok().json();
    assert_eq!((&told["objects"], &told["problems"]), (&0.into(), &serde_json::json!([])));
}

#[test]
fn a_copy_is_not_published_to_by_mistake() {
    let scene = Scene::new();
    scene.mirror().ok();
    let publish = |place: &str, more: &[OsString]| {
        let (place, baseline) = (scene.path(place), scene.path("baseline"));
        let publish = arguments!["publish", fixture(5), "--to", place, "--baseline", baseline];
        run(&[&publish[..], more].concat())
    };
    let before = tree(&scene.path("copy"));
    let refused = publish("copy", &[]);
    let known = fs::canonicalize(scene.path("stream")).unwrap();
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
    let scene = Scene::new();
    scene.mirror().ok();
    let is_data = |name: &&PathBuf| name.extension().is_none_or(|extension| extension != "json");
    for name in scene.objects("stream").iter().filter(is_data) {
        let (path, shown) = (scene.path("stream").join(name), name.to_str().unwrap());
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
            let told = scene.mirror_to(if had { "copy" } else { "copies" });
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
    scene.mirror().ok();
}

#[test]
fn a_source_that_has_lost_versions_of_its_copy_is_told_of() {
    let scene = Scene::new();
    scene.mirror().ok();
    for lost in [3, 2, 1] {
        let record = format!("commits/{lost:020}.json");
        fs::rename(scene.path("stream").join(&record), scene.path(&format!("away {lost}"))).unwrap();
        let _ = fs::remove_file(scene.path("stream/latest.json"));
        let before = scene.objects("copy");
        let said = scene.mirror().fails(BAD_INPUT, &[&record, "the copy has version", "from the copy"]);
        assert_eq!(said.json()["error"]["object"], record);
        assert_eq!(scene.objects("copy"), before);
    }
    for lost in 1..=3 {
        let record = scene.path("stream").join(format!("commits/{lost:020}.json"));
        fs::rename(scene.path(&format!("away {lost}")), record).unwrap();
    }
    scene.mirror().ok();
}

#[test]
fn a_copy_that_is_behind_is_said_to_be_behind_and_not_to_be_rewritten() {
    let scene = Scene::new();
    scene.mirror().ok();
    scene.publish(4);
    let (replica, copy) = (scene.path("replica"), scene.path("copy"));
    run(&arguments!["pull", scene.path("stream"), replica]).ok();
    let before = tree(&replica);
    for command in ["pull", "status", "follow"] {
        let said = run(&arguments![command, copy, replica])
            .fails(CONFLICT, &["is behind", "newest version is 3", "holds version 4", "tensorpatch mirror"]);
        for words in ["rewritten", "--replace", "delete"] {
            assert!(!said.stderr.contains(words), "{words:?} is in {}", said.stderr);
        }
    }
    assert_eq!(tree(&replica), before);
    scene.mirror().ok();
    run(&arguments!["pull", copy, replica]).ok();
}

#[test]
fn a_place_with_another_stream_or_another_history_is_left_alone() {
    let scene = Scene::new();
    let other = Scene::new();
    let before = tree(&other.path("stream"));
    let mirror =
        arguments!["mirror", scene.path("stream"), other.path("stream"), "--work", scene.path("work")];
    run(&mirror).fails(CONFLICT, &["holds another stream", "choose an empty or missing place"]);
    assert!(tree(&other.path("stream")) == before);
    scene.mirror().ok();
    scene.publish(4);
    let publish =
        arguments!["publish", fixture(5), "--to", scene.path("copy"), "--baseline", scene.path("b2")];
    run(&publish).ok();
    scene
        .mirror()
        .fails(CONFLICT, &["commits/", "no copy of this stream", "choose an empty or missing place"]);
}

#[test]
fn what_a_collector_has_taken_is_neither_missed_nor_brought_back() {
    let scene = Scene::new();
    scene.mirror().ok();
    let gc = |place: &str| {
        run(&arguments!["gc", scene.path(place), "--keep", "1", "--grace", "0s", "--delete"]).ok();
    };
    gc("copy");
    let collected = tree(&scene.path("copy"));
    scene.mirror().ok();
    let brought: Vec<PathBuf> =
        tree(&scene.path("copy")).into_keys().filter(|name| !collected.contains_key(name)).collect();
    // Its edges are none of a version: they come back until they are collected where they came from.
    assert!(brought.iter().all(|name| name.starts_with("edges") || name.starts_with("folds")), "{brought:?}");
    gc("stream");
    scene.mirror().ok();
    scene.mirror_to("late").ok();
    for place in ["copy", "late"] {
        run(&arguments!["fsck", scene.path(place)]).ok();
    }
}
