//! Keys and the identity of streams, on the command line.

use std::fs;
use std::path::Path;

use crate::support::{arguments, fixture, run, same_checkpoint, temporary, tree};

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
