//! Keys and the identity of streams, on the command line.

use std::fs;
use std::path::Path;

use crate::support::{arguments, command, finish, fixture, run, same_checkpoint, temporary, tree};

/// Makes a key in a file; the public key.
fn keygen(file: &Path) -> String {
    let report = run(&arguments!["keygen", file, "--json"]).ok().json();
    report["public_key"].as_str().unwrap().to_owned()
}

#[test]
fn a_stream_is_pinned_by_its_id_and_goes_on_under_a_new_key() {
    let dir = temporary();
    let path = |name: &str| dir.path().join(name);
    let (stream, old, new) = (path("stream"), path("old.key"), path("new.key"));
    let (old_public, new_public) = (keygen(&old), keygen(&new));
    let publish = |number, key: &Path, baseline: &str| {
        run(&arguments![
            "publish",
            fixture(number),
            "--to",
            stream,
            "--sign-key",
            key,
            "--baseline",
            path(baseline),
            "--json"
        ])
    };
    let first = publish(4, &old, "baseline").ok().json();
    let id = first["stream"].as_str().unwrap();
    assert!(first["state"].as_str().unwrap().starts_with("blake3:"), "{first}");
    let pull = |key: &str, id: &str, replica: &str| {
        run(&arguments!["pull", stream, path(replica), "--trust-key", key, "--stream", id])
    };
    pull(&old_public, &"ab".repeat(16), "r").fails(5, &[id, "--stream"]);
    let pulled = pull(&old_public, id, "r").ok();
    assert!(String::from_utf8_lossy(&pulled.stdout).contains(id));
    publish(5, &old, "baseline").ok();

    // The tip is hidden, and the baseline gone: what was signed is noted beside the key.
    let tip = stream.join(format!("commits/{:020}.json", 2));
    fs::rename(&tip, path("hidden")).unwrap();
    fs::remove_file(stream.join("latest.json")).unwrap();
    publish(6, &old, "lost").fails(5, &["version 2 is known to exist"]);
    let expecting = arguments!["pull", stream, path("new"), "--trust-key", old_public, "--expect-tip", "2"];
    run(&expecting).fails(5, &["version 2 is known to exist"]);
    fs::rename(path("hidden"), &tip).unwrap();

    run(&arguments!["rotate", stream, "--old-key-file", old, "--new-key-file", new]).ok();
    publish(6, &old, "baseline").fails(7, &["handed over after version 2"]);
    publish(6, &new, "baseline").ok();
    for (key, replica) in [(&old_public, "r"), (&new_public, "new")] {
        pull(key, id, replica).ok();
        same_checkpoint(&path(replica), &fixture(6));
    }
    let gc = arguments!["gc", stream, "--keep", "1", "--delete"];
    run(&gc).fails(2, &["--trust-key"]);
    run(&arguments!["gc", stream, "--keep", "1", "--delete", "--trust-key", new_public]).ok();
}

#[test]
fn what_is_held_is_hashed_where_that_is_asked_for_and_told_where_it_is_not() {
    let dir = temporary();
    let (stream, replica) = (dir.path().join("stream"), dir.path().join("replica"));
    run(&arguments!["publish", fixture(4), "--to", stream, "--baseline", dir.path().join("b")]).ok();
    run(&arguments!["pull", stream, replica]).ok();
    let weights = replica.join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&weights, &bytes).unwrap();
    let believed = run(&arguments!["pull", stream, replica]).ok();
    assert!(String::from_utf8_lossy(&believed.stdout).contains("not hashed"));
    run(&arguments!["pull", stream, replica, "--verify"]).ok();
    same_checkpoint(&replica, &fixture(4));
}

#[test]
fn what_a_signed_stream_refuses_is_refused_before_anything_is_uploaded() {
    let dir = temporary();
    let path = |name: &str| dir.path().join(name);
    let (stream, key, baseline) = (path("stream"), path("key"), path("baseline"));
    keygen(&key);
    let publish = |number| arguments!["publish", fixture(number), "--to", stream, "--baseline", baseline];
    run(&[publish(4).to_vec(), arguments!["--sign-key", key].to_vec()].concat()).ok();
    let before = tree(&stream);
    run(&publish(5)).fails(7, &["is signed", "--sign-key"]);
    run(&arguments!["anchor", stream, "--baseline", baseline]).fails(7, &["is signed"]);
    assert_eq!(tree(&stream), before);
}

/// A signed stream of two versions, and a third on top that nobody has signed; its key.
fn signed_and_not(dir: &Path) -> String {
    let (stream, key) = (dir.join("stream"), dir.join("key"));
    let public = keygen(&key);
    for number in 4..=6 {
        let (to, baseline) = (dir.join("stream"), dir.join("b"));
        let publish =
            arguments!["publish", fixture(number), "--to", to, "--sign-key", key, "--baseline", baseline];
        run(&publish).ok();
    }
    let newest = stream.join(format!("commits/{:020}.json", 3));
    let signed = fs::read_to_string(&newest).unwrap();
    let (bare, _) = signed.split_once(",\"signature\"").unwrap();
    fs::write(&newest, format!("{bare}}}")).unwrap();
    public
}

#[test]
fn what_nobody_has_signed_in_a_signed_stream_is_told_of_without_a_key() {
    let dir = temporary();
    let public = signed_and_not(dir.path());
    let stream = dir.path().join("stream");
    let checked = run(&arguments!["fsck", stream]);
    let text = String::from_utf8_lossy(&checked.stdout).into_owned();
    checked.fails(3, &["not sound"]);
    for words in ["signatures  not checked, give --trust-key", "00003.json: the stream is signed"] {
        assert!(text.contains(words), "{words:?} is not in {text}");
    }
    let report = run(&arguments!["fsck", stream, "--json"]).json();
    assert_eq!((&report["signatures"], &report["sound"]), (&"unchecked".into(), &false.into()));
    let with_key = run(&arguments!["fsck", stream, "--trust-key", public, "--json"]).fails(3, &[]).json();
    assert_eq!((&with_key["signatures"], &with_key["tip"]), (&"checked".into(), &2.into()));
    for width in ["60", "80", "200"] {
        let log = finish(command(&arguments!["log", stream]).env("COLUMNS", width)).ok();
        let text = String::from_utf8_lossy(&log.stdout).into_owned();
        assert!(text.contains("unsigned") && text.contains("version 3\n"), "{text}");
    }
}

#[test]
fn the_doctor_reads_the_newest_record_with_the_key() {
    let dir = temporary();
    let public = signed_and_not(dir.path());
    let stream = dir.path().join("stream");
    let found = |options: &[&str]| {
        let mut line = arguments!["doctor", stream, "--json"].to_vec();
        line.extend(options.iter().map(Into::into));
        let outcome = run(&line);
        let report = outcome.json();
        let of_stream = |finding: &&serde_json::Value| finding["check"] == "stream";
        let finding = report["findings"].as_array().unwrap().iter().find(of_stream).unwrap().clone();
        (outcome.code, finding)
    };
    assert_eq!(found(&[]).0, 0);
    let (code, finding) = found(&["--trust-key", &public]);
    assert_eq!((code, &finding["verdict"]), (1, &"bad".into()), "{finding}");
    assert!(finding["what"].as_str().unwrap().contains("not signed"), "{finding}");
    assert!(finding["advice"].as_str().unwrap().contains("tensorpatch rollback"), "{finding}");
    run(&arguments!["rollback", stream, "--sign-key", dir.path().join("key"), "--force"]).ok();
    assert_eq!(found(&["--trust-key", &public]).0, 0);
}
