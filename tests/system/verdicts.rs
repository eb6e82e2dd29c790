//! What is said of a stream is so, and the advice mends what it names.

use std::fs;
use std::process::{Command, Stdio};

use crate::scene::{Scene, snapshot};
use crate::support::{arguments, command, finish, read, run, same_checkpoint, tree, write};

const FAILED: i32 = 1;
const REFUSED: i32 = 2;
const BAD_INPUT: i32 = 3;
const NOT_FOUND: i32 = 6;

#[test]
fn a_stray_copy_of_a_record_is_named_and_the_stream_is_whole_without_it() {
    let scene = Scene::new(2);
    fs::copy(scene.commit(2), scene.commit(3)).unwrap();
    for command in ["log", "gc"] {
        scene
            .run(command, &[])
            .fails(BAD_INPUT, &["commits/", "it is the record of version 2", "move it away"]);
    }
    scene.publish(3, &[]).fails(BAD_INPUT, &["move it away"]);
    let checked = scene.run("fsck", &[]).fails(BAD_INPUT, &[]);
    let said = String::from_utf8(checked.stdout).unwrap();
    assert!(said.contains("up to 2; those after it cannot be read"), "{said}");
    fs::rename(scene.commit(3), scene.path("away")).unwrap();
    scene.run("fsck", &[]).ok();
    scene.publish(3, &[]).ok();
}

#[test]
fn a_stream_whose_records_are_gone_is_not_sound() {
    let scene = Scene::new(3);
    scene.run("fsck", &[]).ok();
    let all = tree(&scene.stream());
    fs::remove_file(scene.commit(3)).unwrap();
    let outcome = scene.run("fsck", &[]).fails(BAD_INPUT, &[]);
    let said = String::from_utf8(outcome.stdout).unwrap();
    assert!(said.contains("latest.json") && said.contains("records are gone"), "{said}");
    assert!(!said.contains("gc removes") && said.ends_with("not sound\n"), "{said}");
    // The hint is gone as well: the objects still speak.
    fs::remove_file(scene.path("stream/latest.json")).unwrap();
    fs::remove_file(scene.commit(2)).unwrap();
    scene.run("fsck", &[]).fails(BAD_INPUT, &[]);
    fs::remove_dir_all(scene.path("stream/commits")).unwrap();
    scene.run("fsck", &[]).fails(BAD_INPUT, &[]);
    for (name, bytes) in all.iter().filter(|(name, _)| name.starts_with("commits")) {
        fs::create_dir_all(scene.path("stream/commits")).unwrap();
        write(&scene.stream().join(name), bytes);
    }
    scene.run("fsck", &[]).ok();
}

#[test]
fn a_check_of_sizes_alone_does_not_say_that_the_contents_are_right() {
    let scene = Scene::new(2);
    let object = scene.object("patches", 2);
    let mut bytes = read(&object);
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    write(&object, &bytes);
    let said = String::from_utf8(scene.run("fsck", &["--shallow"]).ok().stdout).unwrap();
    assert!(said.ends_with("the contents were not read\n"), "{said}");
    scene.run("fsck", &[]).fails(BAD_INPUT, &[]);
}

#[test]
fn a_collected_version_is_named_as_collected_and_folds_stay_above_it() {
    let scene = Scene::new(4);
    scene.run("anchor", &["--baseline", scene.baseline().to_str().unwrap()]).ok();
    for version in 5..=6 {
        scene.publish(version, &[]).ok();
    }
    scene.run("gc", &["--keep", "2", "--grace", "0s", "--delete"]).ok();
    let replica = scene.path("replica");
    let pull = arguments!["pull", scene.stream(), replica, "--version", "2"];
    run(&pull)
        .fails(NOT_FOUND, &["version 2 was collected", "the oldest that is kept is 4", "tensorpatch log"]);
    let log = scene.run("log", &["--json"]).ok().json();
    let text = String::from_utf8(scene.run("log", &[]).ok().stdout).unwrap();
    assert!(text.contains("versions 4 to 6; older ones were collected"), "{text}");
    assert!(text.contains("anchors  1: the newest of version 4"), "{text}");
    let text = String::from_utf8(scene.run("log", &["-n", "2"]).ok().stdout).unwrap();
    assert!(text.contains("versions 4 to 6; older ones were collected: the newest 2 are listed"), "{text}");
    // The folders of what is gone are gone, too.
    assert_eq!(fs::read_dir(scene.path("stream/patches")).unwrap().count(), 2);
    let collected: Vec<bool> =
        log["versions"].as_array().unwrap().iter().map(|entry| entry["collected"] == true).collect();
    assert_eq!(collected, [true, true, true, false, false, false]);
    assert!(String::from_utf8(scene.run("log", &[]).ok().stdout).unwrap().contains("collected"));
    let work = scene.path("work");
    for to in ["3", "6"] {
        scene
            .run("fold", &["--from", "1", "--to", to, "--work", work.to_str().unwrap()])
            .fails(NOT_FOUND, &["version 1 was collected", "the oldest that is kept is 4"]);
    }
    let fold = scene.run("fold", &["--work", scene.path("work").to_str().unwrap(), "--json"]).ok().json();
    assert_eq!((&fold["from"], &fold["to"]), (&4.into(), &6.into()));
    scene.run("fsck", &[]).ok();
    run(&arguments!["pull", scene.stream(), replica]).ok();
}

#[test]
fn what_a_collector_took_is_gone_around_without_a_warning() {
    let scene = Scene::new(2);
    let replica = scene.path("replica");
    let pull = arguments!["pull", scene.stream(), replica];
    run(&pull).ok();
    scene.publish(3, &[]).ok();
    scene.publish(4, &[]).ok();
    scene.run("anchor", &["--baseline", scene.baseline().to_str().unwrap()]).ok();
    scene.publish(5, &[]).ok();
    scene.run("gc", &["--keep", "1", "--grace", "0s", "--delete"]).ok();
    let pulled = run(&pull).ok();
    assert!(!pulled.stderr.contains("WARN"), "{}", pulled.stderr);
    same_checkpoint(&replica, &snapshot(5));
}

#[test]
fn a_collector_that_deletes_nothing_writes_nothing_and_says_why_nothing_goes() {
    let scene = Scene::new(2);
    let stream = scene.stream();
    let when = |path: &std::path::Path| fs::metadata(path).unwrap().modified().unwrap();
    let (before, probes) = (tree(&stream), when(&stream.join("probe")));
    let text = String::from_utf8(scene.run("gc", &[]).ok().stdout).unwrap();
    assert!(text.contains("nothing: everything back to the anchor of version 1 is needed"), "{text}");
    assert!(tree(&stream) == before && when(&stream.join("probe")) == probes);
}

#[test]
fn a_stream_with_nothing_to_fold_is_said_to_have_nothing() {
    let scene = Scene::new(1);
    let work = scene.path("work");
    scene
        .run("fold", &["--work", work.to_str().unwrap()])
        .fails(REFUSED, &["there is nothing to fold", "the oldest that is kept is 1"]);
}

#[test]
fn the_advice_after_damage_mends_the_stream() {
    let scene = Scene::new(2);
    let replica = scene.path("replica");
    let pull = arguments!["pull", scene.stream(), replica];
    run(&pull).ok();
    let (stream, mirror) = (scene.stream(), scene.path("mirror"));
    run(&arguments!["mirror", stream, mirror, "--work", scene.path("work")]).ok();
    scene.publish(3, &[]).ok();
    fs::remove_file(scene.object("patches", 3)).unwrap();
    run(&pull).fails(BAD_INPUT, &["tensorpatch anchor URL", "what is held stays as it was"]);
    same_checkpoint(&replica, &snapshot(2));
    let baseline = scene.baseline();
    scene.run("anchor", &["--baseline", baseline.to_str().unwrap()]).ok();
    run(&pull).ok();
    same_checkpoint(&replica, &snapshot(3));
    // Collecting goes on around what stays broken.
    scene.run("gc", &["--keep", "3", "--delete"]).ok();
    fs::remove_dir_all(&replica).unwrap();
    run(&arguments!["pull", scene.stream(), replica, "--version", "1"]).ok();
    run(&pull).ok();
    same_checkpoint(&replica, &snapshot(3));
    // A stream record that is gone is restored from a mirror, and nothing takes its place before that.
    fs::remove_file(stream.join("stream.json")).unwrap();
    let before = tree(&stream);
    scene.publish(4, &[]).fails(BAD_INPUT, &["stream.json is gone", "up to version 3", "from a mirror"]);
    run(&pull).fails(BAD_INPUT, &["stream.json is gone"]);
    assert!(tree(&stream) == before, "nothing is created over the records of a stream");
    fs::remove_dir_all(stream.join("commits")).unwrap();
    scene.publish(4, &[]).fails(BAD_INPUT, &["stream.json is gone"]);
    for (name, bytes) in before.iter().filter(|(name, _)| name.starts_with("commits")) {
        fs::create_dir_all(stream.join("commits")).unwrap();
        write(&stream.join(name), bytes);
    }
    fs::copy(mirror.join("stream.json"), stream.join("stream.json")).unwrap();
    scene.publish(4, &[]).ok();
    run(&pull).ok();
    same_checkpoint(&replica, &snapshot(4));
}

#[test]
fn the_same_checkpoint_without_a_label_is_not_published_twice_unless_that_is_asked_for() {
    let scene = Scene::new(2);
    let again = scene.publish(2, &[]).ok().json();
    assert_eq!(
        (&again["version"], &again["unchanged"], &again["bytes"]),
        (&2.into(), &true.into(), &0.into())
    );
    let told = arguments!["publish", snapshot(2), "--to", scene.stream(), "--baseline", scene.baseline()];
    let told = String::from_utf8(run(&told).ok().stdout).unwrap();
    assert!(told.contains("unchanged") && !told.contains("for each"), "{told}");
    assert_eq!(scene.publish(2, &["--label", "step 2"]).ok().json()["version"], 3);
    assert_eq!(scene.publish(2, &["--allow-unchanged"]).ok().json()["version"], 4);
    // A file beside the weights is a change.
    let directory = scene.path("checkpoint");
    fs::create_dir(&directory).unwrap();
    fs::copy(snapshot(2), directory.join("model.safetensors")).unwrap();
    write(&directory.join("config.json"), b"{}");
    let publish =
        arguments!["publish", directory, "--to", scene.stream(), "--baseline", scene.baseline(), "--json"];
    for (config, version) in [("{}", 5), ("{}", 5), ("{\"a\": 1}", 6)] {
        write(&directory.join("config.json"), config.as_bytes());
        assert_eq!(run(&publish).ok().json()["version"], version);
    }
}

#[test]
fn what_desktops_and_file_servers_leave_in_a_stream_is_neither_a_record_nor_damage() {
    use std::os::unix::ffi::OsStrExt;
    let scene = Scene::new(2);
    let stream = scene.stream();
    let folders =
        ["", "commits", "edges", "leases", "anchors", "patches", "pruned", "probe", "companions", "folds"];
    let names: [&[u8]; 8] = [
        b".DS_Store",
        b"Thumbs.db",
        b"desktop.ini",
        b".nfs000000000123",
        b"._00000000000000000001.json",
        b"00000000000000000001 (copy).json",
        b"00000000000000000009.json.part",
        b"caf\xe9.json",
    ];
    for folder in folders {
        fs::create_dir_all(stream.join(folder)).unwrap();
        for name in names {
            write(&stream.join(folder).join(std::ffi::OsStr::from_bytes(name)), b"not a record");
        }
    }
    scene.publish(3, &[]).ok();
    let replica = scene.path("replica");
    run(&arguments!["pull", stream, replica]).ok();
    same_checkpoint(&replica, &snapshot(3));
    let gc = scene.run("gc", &["--keep", "1", "--json"]).ok().json();
    assert_eq!(gc["leases"], serde_json::json!([]), "{gc}");
    let fsck = scene.run("fsck", &["--json"]);
    assert_eq!(fsck.json()["problems"], serde_json::json!([]), "{}", String::from_utf8_lossy(&fsck.stdout));
}

#[test]
fn no_room_for_new_files_beside_the_old_is_no_damage() {
    let scene = Scene::new(1);
    let replica = scene.path("replica");
    run(&arguments!["pull", scene.stream(), replica]).ok();
    scene.publish(2, &[]).ok();
    // A small disk of its own, with the replica on it and no room for a second copy.
    let script =
        "mount -t tmpfs -o size=\"$1\" none \"$2\" && cp -a \"$3/.\" \"$2\" && shift 3 && exec \"$@\"";
    let (room, disk) = (fs::metadata(snapshot(1)).unwrap().len() * 3 / 2, scene.path("disk"));
    fs::create_dir(&disk).unwrap();
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script, "sh"]).arg(room.to_string()).args([&disk, &replica]);
    command.arg(env!("CARGO_BIN_EXE_tensorpatch")).args(["pull", "--beside"]).arg(scene.stream()).arg(&disk);
    let outcome = finish(command.stdin(Stdio::null()));
    if outcome.stderr.contains("unshare") || outcome.stderr.contains("mount:") {
        eprintln!("LEFT OUT: this user may not mount: {}", outcome.stderr);
        return;
    }
    let outcome = outcome.fails(FAILED, &["no room"]);
    assert!(!outcome.stderr.contains("damaged") && !outcome.stderr.contains("WARN"), "{}", outcome.stderr);
}

#[test]
fn a_new_stream_in_the_place_of_another_is_warned_of_once() {
    let scene = Scene::new(0);
    let publish = |version| {
        let line = arguments!["publish", snapshot(version), "--to", scene.stream()];
        finish(command(&line).env("XDG_CACHE_HOME", scene.path("cache"))).ok().stderr
    };
    assert_eq!(publish(1), "");
    // A mount that is not there.
    fs::rename(scene.stream(), scene.path("away")).unwrap();
    let said = publish(2);
    assert!(said.contains("another was published to here before") && said.contains("mount"), "{said}");
    assert_eq!(publish(3), "");
}

#[test]
fn a_stream_record_of_another_stream_is_blamed_alone() {
    let (scene, other) = (Scene::new(2), Scene::new(1));
    let (record, own) = (scene.path("stream/stream.json"), read(&scene.path("stream/stream.json")));
    fs::copy(other.path("stream/stream.json"), &record).unwrap();
    let checked = scene.run("fsck", &["--json"]).fails(BAD_INPUT, &[]).json();
    let names: Vec<&serde_json::Value> =
        checked["problems"].as_array().unwrap().iter().map(|problem| &problem["name"]).collect();
    assert_eq!(names, [&serde_json::Value::from("stream.json")], "{checked}");
    scene.run("log", &[]).fails(BAD_INPUT, &["and stream.json is of", "exchanged"]);
    let told = scene.run("doctor", &[]).fails(FAILED, &["the place works", "the stream there"]);
    let told = String::from_utf8(told.stdout).unwrap();
    assert!(told.contains("not tried: the stream cannot be read") && !told.contains("no version"), "{told}");
    write(&record, &own);
    scene.run("fsck", &[]).ok();
    // A record of another stream among those of this one is that record's fault.
    fs::copy(other.commit(1), scene.commit(2)).unwrap();
    let checked = scene.run("fsck", &["--json"]).fails(BAD_INPUT, &[]).json();
    assert!(checked["problems"][0]["name"].as_str().unwrap().starts_with("commits/"), "{checked}");
}
