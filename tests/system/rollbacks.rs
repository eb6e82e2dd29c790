//! A damaged record of a signed stream: what is said of it, and that versions of the owner's are given up
//! only when that is asked for. The commands are those of `docs/runbook.md`.

use std::fs;
use std::path::PathBuf;

use serde_json::json;

use crate::support::{Outcome, arguments, fixture, read, run, same_checkpoint, temporary, tree, write};

const BAD_INPUT: i32 = 3;
const CONFLICT: i32 = 5;
const UNTRUSTED: i32 = 7;

/// A signed stream of three versions with its key, a mirror, and a replica of the newest.
struct Scene {
    dir: tempfile::TempDir,
    public: String,
}

impl Scene {
    fn new() -> Self {
        let dir = temporary();
        let made = run(&arguments!["keygen", dir.path().join("trainer.key"), "--json"]).ok().json();
        let scene = Self { dir, public: made["public_key"].as_str().unwrap().to_owned() };
        for number in 4..=6 {
            scene.publish(number).ok();
        }
        run(&arguments!["mirror", scene.stream(), scene.path("mirror"), "--work", scene.path("work")]).ok();
        scene.pull("replica").ok();
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn stream(&self) -> PathBuf {
        self.path("stream")
    }

    fn record(&self, place: &str, version: u32) -> PathBuf {
        self.path(place).join(format!("commits/{version:020}.json"))
    }

    fn publish(&self, number: u32) -> Outcome {
        let (key, baseline) = (self.path("trainer.key"), self.path("baseline"));
        run(&arguments![
            "publish",
            fixture(number),
            "--to",
            self.stream(),
            "--sign-key",
            key,
            "--baseline",
            baseline
        ])
    }

    fn pull(&self, replica: &str) -> Outcome {
        run(&arguments!["pull", self.stream(), self.path(replica), "--trust-key", self.public])
    }

    fn rollback(&self, options: &[&str]) -> Outcome {
        let key = self.path("trainer.key");
        let mut line = arguments!["rollback", self.stream(), "--sign-key", key, "--json"].to_vec();
        line.extend(options.iter().map(Into::into));
        run(&line)
    }
}

#[test]
fn a_signed_version_whose_record_is_damaged_stays_until_it_is_given_up() {
    let scene = Scene::new();
    let record = scene.record("stream", 3);
    let whole = read(&record);
    let mut flipped = whole.clone();
    let label = flipped.windows(9).position(|window| window == b"publisher").unwrap();
    flipped[label + 13] ^= 1;
    let (cut, junk) = (&whole[..100], b"\0\x01\x02".as_slice());
    for bytes in [cut, junk, b"", &flipped] {
        write(&record, bytes);
        let before = tree(&scene.stream());
        let refused = scene.rollback(&[]).fails(BAD_INPUT, &["commits/", "was not removed", "--force"]);
        assert_eq!(refused.json()["error"]["exit_code"], 3);
        assert!(tree(&scene.stream()) == before);
        if bytes != flipped {
            for said in [scene.pull("replica"), scene.publish(4), run(&arguments!["log", scene.stream()])] {
                said.fails(BAD_INPUT, &["commits/", "is damaged", "not JSON", "from a mirror"]);
            }
        }
    }
    // Without a note of what was signed it may still be a version of the owner's.
    fs::rename(scene.path("trainer.key.tips"), scene.path("away")).unwrap();
    scene.rollback(&[]).fails(BAD_INPUT, &["may be a version of yours"]);
    fs::rename(scene.path("away"), scene.path("trainer.key.tips")).unwrap();

    // With a copy of the record all is as before.
    fs::copy(scene.record("mirror", 3), &record).unwrap();
    scene.pull("replica").ok();
    assert_eq!(scene.rollback(&["--force"]).ok().json()["removed"], json!([]));
    assert!(read(&record) == whole);

    // Without one the version is given up, and the owner goes on with the one before.
    write(&record, junk);
    assert_eq!(scene.rollback(&["--force"]).ok().json()["removed"], json!([3]));
    scene.publish(5).fails(CONFLICT, &["delete the directory if it is the baseline"]);
    fs::remove_dir_all(scene.path("baseline")).unwrap();
    scene.publish(4).ok();
    scene.pull("replica").fails(CONFLICT, &["version 3", "delete the folder .tensorpatch"]);
    fs::remove_dir_all(scene.path("replica/.tensorpatch")).unwrap();
    let pull =
        arguments!["pull", scene.stream(), scene.path("replica"), "--trust-key", scene.public, "--replace"];
    run(&pull).ok();
    same_checkpoint(&scene.path("replica"), &fixture(4));
    run(&arguments!["fsck", scene.stream(), "--trust-key", scene.public]).ok();
}

#[test]
fn a_record_that_somebody_has_put_in_the_place_of_a_signed_one_is_no_junk() {
    let scene = Scene::new();
    let record = scene.record("stream", 3);
    let whole = String::from_utf8(read(&record)).unwrap();
    let (bare, _) = whole.split_once(",\"signature\"").unwrap();
    write(&record, format!("{bare}}}").as_bytes());
    scene.rollback(&[]).fails(BAD_INPUT, &["version 3 was signed with this key", "not signed", "--force"]);
    // One above what was signed goes without a word.
    write(&record, whole.as_bytes());
    let above: serde_json::Value = serde_json::from_str(&format!("{bare}}}")).unwrap();
    let above = above.to_string().replace("\"version\":3", "\"version\":4");
    write(&scene.record("stream", 4), above.as_bytes());
    let rolled_back = scene.rollback(&[]).ok().json();
    assert_eq!((&rolled_back["removed"], &rolled_back["signer"]), (&json!([4]), &json!(scene.public)));
    scene.publish(4).ok();
}

#[test]
fn a_stream_that_nobody_has_signed_is_said_to_be_that() {
    let dir = temporary();
    let (stream, key) = (dir.path().join("stream"), dir.path().join("key"));
    run(&arguments!["keygen", key]).ok();
    let publish = arguments!["publish", fixture(4), "--to", stream, "--baseline", dir.path().join("b")];
    run(&publish).ok();
    let next = dir.path().join("next");
    run(&arguments!["keygen", next]).ok();
    let public = run(&arguments!["key", "show", key, "--json"]).ok().json()["public_key"].clone();
    let public = public.as_str().unwrap();
    for line in [
        arguments!["rotate", stream, "--old-key-file", key, "--new-key-file", next].to_vec(),
        arguments!["log", stream, "--trust-key", public].to_vec(),
        [publish.to_vec(), arguments!["--sign-key", key].to_vec()].concat(),
    ] {
        let said = run(&line).fails(UNTRUSTED, &["is not signed", "leave --trust-key and --sign-key out"]);
        assert!(!said.stderr.contains("is signed"), "{}", said.stderr);
    }
}

#[test]
fn taking_back_is_for_signed_streams_only() {
    let dir = temporary();
    let stream = dir.path().join("stream");
    run(&arguments!["publish", fixture(4), "--to", stream, "--baseline", dir.path().join("b")]).ok();
    let key = dir.path().join("key");
    run(&arguments!["keygen", key]).ok();
    for line in
        [arguments!["rollback", stream].to_vec(), arguments!["rollback", stream, "--sign-key", key].to_vec()]
    {
        let said = run(&line).fails(2, &["is not signed", "for signed streams only", "a damaged record"]);
        assert!(!said.stderr.contains("leave --trust-key"), "{}", said.stderr);
    }
}

#[test]
fn behind_a_damaged_newest_record_the_versions_before_it_are_checked_all_the_same() {
    let scene = Scene::new();
    let second: serde_json::Value = serde_json::from_slice(&read(&scene.record("stream", 2))).unwrap();
    let patch = second["delta"]["patches"][0]["key"].as_str().unwrap();
    write(&scene.record("stream", 3), b"{");
    let fsck = || run(&arguments!["fsck", scene.stream(), "--json"]).fails(BAD_INPUT, &["a damaged record"]);
    let checked = fsck();
    assert!(!checked.stderr.contains("tensorpatch anchor"), "{}", checked.stderr);
    let problems = |report: &serde_json::Value| -> Vec<String> {
        let problems = report["problems"].as_array().unwrap().iter();
        problems.map(|problem| problem["name"].as_str().unwrap().to_owned()).collect()
    };
    let (report, record) = (checked.json(), format!("commits/{:020}.json", 3));
    assert_eq!(report["tip"], 2);
    assert_eq!(problems(&report), std::slice::from_ref(&record));
    assert!(report["objects"].as_u64().unwrap() >= 2, "{report}");
    fs::remove_file(scene.stream().join(patch)).unwrap();
    assert_eq!(problems(&fsck().json()), [record, patch.to_owned()]);
}

#[test]
fn a_stream_is_handed_over_from_its_own_key_to_another() {
    let scene = Scene::new();
    let other = scene.path("other.key");
    run(&arguments!["keygen", other]).ok();
    let key = scene.path("trainer.key");
    let before = tree(&scene.stream());
    let rotate =
        |old, new| run(&arguments!["rotate", scene.stream(), "--old-key-file", old, "--new-key-file", new]);
    rotate(&key, &key).fails(2, &["the new key is the old one", "tensorpatch keygen"]);
    let wrong =
        rotate(&other, &key).fails(UNTRUSTED, &["was not handed over", "--old-key-file or --old-key"]);
    assert!(wrong.stderr.contains(&scene.public), "the key that has signed it is named: {}", wrong.stderr);
    run(&arguments!["rotate", scene.stream(), "--new-key-file", other])
        .fails(2, &["--old-key-file <FILE>|--old-key <KEY>"]);
    assert!(tree(&scene.stream()) == before);
    let key_of = |path| run(&arguments!["key", "show", path, "--json"]).ok().json()["public_key"].clone();
    rotate(&key, &other).ok();
    // Also to readers who know neither key.
    let log = run(&arguments!["log", scene.stream(), "--json"]).ok().json();
    let handover = &log["handovers"][0];
    assert_eq!((&handover["from"], &handover["to"]), (&key_of(&key), &key_of(&other)), "{log}");
    assert_eq!((&handover["last"], &handover["agreed"]), (&3.into(), &true.into()), "{log}");
}
