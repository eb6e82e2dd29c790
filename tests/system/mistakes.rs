//! What a mistake meets: words that name it and say what to do, and nothing that is altered.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::scene::Scene;
use crate::support::{arguments, command, finish, fixture, read, run, same_checkpoint, tree, write};

const FAILED: i32 = 1;
const REFUSED: i32 = 2;
const BAD_INPUT: i32 = 3;
const WRONG_BASE: i32 = 4;
const NOT_FOUND: i32 = 6;

#[test]
fn a_checkpoint_that_is_named_as_a_baseline_is_not_altered() {
    let scene = Scene::new(3);
    let checkpoint = scene.path("checkpoint");
    fs::create_dir(&checkpoint).unwrap();
    // Of an older version, which would become the newest; and of the newest.
    for number in [4, 6] {
        fs::copy(fixture(number), checkpoint.join("model.safetensors")).unwrap();
        let anchor = arguments!["anchor", scene.stream(), "--baseline", checkpoint];
        let publish = arguments!["publish", fixture(4), "--to", scene.stream(), "--baseline", checkpoint];
        for line in [anchor.to_vec(), publish.to_vec()] {
            run(&line).fails(REFUSED, &["is no baseline", "model.safetensors", "leave --baseline out"]);
            assert_eq!(fs::read_dir(&checkpoint).unwrap().count(), 1);
            same_checkpoint(&checkpoint, &fixture(number));
        }
    }
    // A replica may take its place, and so may an empty directory.
    run(&arguments!["pull", scene.stream(), scene.path("replica")]).ok();
    run(&arguments!["anchor", scene.stream(), "--baseline", scene.path("replica")]).ok();
    fs::create_dir(scene.path("empty")).unwrap();
    run(&arguments!["anchor", scene.stream(), "--baseline", scene.path("empty"), "--again"]).ok();
}

#[test]
fn a_checkpoint_that_is_the_newest_version_gives_a_damaged_stream_another_way_to_it() {
    let scene = Scene::new(3);
    let lost = tree(&scene.stream()).into_keys().filter(|name| name.starts_with("patches")).max().unwrap();
    fs::remove_file(scene.stream().join(lost)).unwrap();
    let anchor = |options: &[OsString]| {
        let line = arguments!["anchor", scene.stream(), "--baseline", scene.path("other")];
        run(&[&line, options].concat())
    };
    anchor(&[]).fails(BAD_INPUT, &["patches/"]);
    let before = tree(&scene.stream());
    anchor(&arguments!["--base", fixture(5)]).fails(WRONG_BASE, &["its state is", "version 3"]);
    assert!(tree(&scene.stream()) == before);
    anchor(&arguments!["--base", fixture(6)]).ok();
    run(&arguments!["pull", scene.stream(), scene.path("replica")]).ok();
    same_checkpoint(&scene.path("replica"), &fixture(6));
    run(&arguments!["publish", fixture(4), "--to", scene.stream(), "--baseline", scene.path("other")]).ok();
}

#[test]
fn an_anchor_from_a_checkpoint_has_the_files_that_were_published_with_the_version() {
    let scene = Scene::new(0);
    let (step, other) = (scene.path("step"), scene.path("other"));
    for (directory, config) in [(&step, "{\"a\": 1}"), (&other, "{\"a\": 2}")] {
        fs::create_dir(directory).unwrap();
        fs::copy(fixture(4), directory.join("model.safetensors")).unwrap();
        write(&directory.join("config.json"), config.as_bytes());
    }
    run(&arguments!["publish", step, "--to", scene.stream(), "--baseline", scene.baseline()]).ok();
    let anchor = |base: &Path| {
        let baseline = scene.path("new");
        run(&arguments!["anchor", scene.stream(), "--baseline", baseline, "--again", "--base", base])
    };
    anchor(&other).fails(WRONG_BASE, &["the files beside its weights"]);
    anchor(&fixture(4)).fails(WRONG_BASE, &["the files beside its weights"]);
    // What came since was not published with it.
    write(&step.join("notes.txt"), b"mine");
    anchor(&step).ok();
    scene.pull("replica", &[]).ok();
    assert_eq!(read(&scene.path("replica/config.json")), read(&step.join("config.json")));
    assert!(!scene.path("replica/notes.txt").exists());
}

#[test]
fn a_second_anchor_is_added_only_where_the_first_is_not_whole_or_that_is_asked_for() {
    let scene = Scene::new(2);
    let anchor = |options: &[&str]| {
        let mut line =
            arguments!["anchor", scene.stream(), "--baseline", scene.baseline(), "--json"].to_vec();
        line.extend(options.iter().map(Into::into));
        run(&line).ok().json()
    };
    assert_eq!(anchor(&[])["added"], true);
    let before = tree(&scene.stream());
    let again = anchor(&[]);
    assert_eq!((&again["added"], &again["version"], &again["bytes"]), (&false.into(), &2.into(), &0.into()));
    assert!(tree(&scene.stream()) == before);
    let told = run(&arguments!["anchor", scene.stream(), "--baseline", scene.baseline()]).ok();
    assert!(String::from_utf8_lossy(&told.stdout).contains("version 2 has one already"));
    assert_eq!(anchor(&["--again"])["added"], true);
    // Where all that there are have lost something, another is added.
    for name in tree(&scene.stream()).into_keys().filter(|name| name.starts_with("anchors")) {
        fs::remove_file(scene.stream().join(name)).unwrap();
    }
    assert_eq!(anchor(&[])["added"], true);
    run(&arguments!["pull", scene.stream(), scene.path("replica")]).ok();
    same_checkpoint(&scene.path("replica"), &fixture(5));
}

#[test]
fn a_file_where_a_directory_should_be_is_named() {
    let scene = Scene::new(1);
    let (file, below) = (scene.path("file"), scene.path("file/below"));
    write(&file, b"mine");
    for path in [&file, &below] {
        for line in [
            arguments!["pull", scene.stream(), path].to_vec(),
            arguments!["follow", scene.stream(), path].to_vec(),
            arguments!["status", scene.stream(), path].to_vec(),
            arguments!["publish", fixture(4), "--to", scene.stream(), "--baseline", path].to_vec(),
            arguments!["publish", fixture(4), "--to", path, "--baseline", scene.path("b2")].to_vec(),
            arguments!["mirror", scene.stream(), path, "--work", scene.path("w")].to_vec(),
            arguments!["mirror", scene.stream(), scene.path("copy"), "--work", path].to_vec(),
        ] {
            let said = run(&line).fails(REFUSED, &["is a file", "directory"]);
            assert!(!said.stderr.contains("os error"), "{line:?}: {}", said.stderr);
        }
    }
    run(&arguments!["keygen", file]).fails(REFUSED, &["exists already"]);
    run(&arguments!["keygen", below]).fails(REFUSED, &["below a file"]);
    assert_eq!(read(&file), b"mine");
}

#[test]
fn a_checkpoint_where_a_patch_should_be_is_told_from_one() {
    let scene = Scene::new(0);
    let directory = scene.path("step-5");
    fs::create_dir(&directory).unwrap();
    fs::copy(fixture(5), directory.join("model.safetensors")).unwrap();
    // The two were swapped.
    run(&arguments!["apply", fixture(5), directory, "-o", scene.path("out")])
        .fails(REFUSED, &["a patch is a file", "tensorpatch apply BASE PATCH"]);
    for checkpoint in [directory, fixture(5), scene.path("")] {
        run(&arguments!["inspect", checkpoint]).fails(REFUSED, &["no patch", "tensorpatch inspect OLD NEW"]);
    }
    write(&scene.path("other"), b"something else altogether, and long enough to be a header");
    run(&arguments!["inspect", scene.path("other")]).fails(BAD_INPUT, &["tensorpatch diff"]);
}

#[test]
fn a_replica_that_may_only_be_read_is_verified_all_the_same() {
    let scene = Scene::new(1);
    let replica = scene.path("replica");
    run(&arguments!["pull", scene.stream(), replica]).ok();
    let hidden = replica.join(".tensorpatch");
    for (path, mode) in [(hidden.join("lock"), 0o400), (hidden.clone(), 0o500), (replica.clone(), 0o500)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let verify = arguments!["verify", replica];
    let mut as_reader = command(&verify);
    if rustix::process::geteuid().is_root() {
        // Root may write everywhere, unless the file system is read-only.
        let script = "mount --bind \"$1\" \"$1\" && mount -o remount,ro,bind \"$1\" && shift && exec \"$@\"";
        as_reader = std::process::Command::new("unshare");
        as_reader.args(["-m", "sh", "-c", script, "sh"]).arg(&replica);
        as_reader.arg(env!("CARGO_BIN_EXE_tensorpatch")).args(&verify);
    }
    let outcome = finish(&mut as_reader);
    for path in [&replica, &hidden] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
    }
    if outcome.stderr.contains("unshare") || outcome.stderr.contains("mount:") {
        eprintln!("LEFT OUT: this user may not mount: {}", outcome.stderr);
        return;
    }
    let outcome = outcome.ok();
    assert!(outcome.stderr.contains("cannot be locked, and is read without"), "{}", outcome.stderr);
    assert!(String::from_utf8_lossy(&outcome.stdout).contains("every byte is as it was published"));
}

#[test]
fn a_cache_that_cannot_be_used_is_named_with_what_takes_its_place() {
    let scene = Scene::new(0);
    let file = scene.path("file");
    write(&file, b"");
    let publish = arguments!["publish", fixture(4), "--to", scene.stream()];
    let mut nowhere = command(&publish);
    nowhere.env_remove("XDG_CACHE_HOME").env("HOME", "nowhere");
    finish(&mut nowhere).fails(REFUSED, &["HOME is \"nowhere\", which is no absolute path", "--baseline"]);
    nowhere.env("XDG_CACHE_HOME", "cache");
    let both = "XDG_CACHE_HOME is \"cache\" and HOME is \"nowhere\", which are no absolute paths";
    finish(&mut nowhere).fails(REFUSED, &["home directory", both, "XDG_CACHE_HOME to one"]);
    let mut unwritable = command(&publish);
    unwritable.env("XDG_CACHE_HOME", "/proc/1/cache");
    finish(&mut unwritable).fails(1, &["user's cache", "--baseline", "XDG_CACHE_HOME"]);
}

#[test]
fn versions_and_times_that_cannot_be_meant_are_refused() {
    let scene = Scene::new(2);
    let gc = |options: &[&str]| {
        let mut line = arguments!["gc", scene.stream()].to_vec();
        line.extend(options.iter().map(Into::into));
        run(&line)
    };
    gc(&["--pin", "9"]).fails(NOT_FOUND, &["no version 9", "the newest is 2", "tensorpatch log"]);
    gc(&["--grace", "5"]).fails(REFUSED, &["5 has no unit", "5s"]);
    gc(&["--pin", "1", "--grace", "0"]).ok();
    let follow = |until: &str| {
        let line = arguments!["follow", scene.stream(), scene.path("replica"), "--until", until];
        String::from_utf8(run(&line).ok().stdout).unwrap()
    };
    assert!(follow("1").contains("version 1 is passed: this ends once version 2 is held"));
    assert!(follow("2").contains("version 2 is the newest"));
}

#[test]
fn what_is_expected_of_a_number_is_said() {
    let scene = Scene::new(1);
    let (stream, replica) = (scene.stream(), scene.path("replica"));
    let version = "expected a version: a whole number of at least 1";
    let count = "expected a whole number of at least 1";
    for (command, flags) in [
        ("pull", [("--version", version), ("--threads", count), ("--attempts", count)]),
        ("follow", [("--until", version), ("--threads", count), ("--attempts", count)]),
    ] {
        for (flag, expected) in flags {
            for value in ["0", "many", "-1", "1.5"] {
                let line = arguments![command, stream, replica, format!("{flag}={value}")];
                let said = run(&line).fails(REFUSED, &[flag, expected]);
                assert!(!said.stderr.contains("digit"), "{}", said.stderr);
            }
        }
    }
    for (command, flag, value, expected) in [
        ("gc", "--keep", "0", count),
        ("gc", "--pin", "0", version),
        ("log", "-n", "0", count),
        ("fold", "--from", "x", version),
        ("report", "--versions", "0", "expected a whole number from 1 to 10000"),
        ("report", "--steps", "x", "expected a whole number"),
        ("status", "--max-behind", "x", "expected a whole number"),
    ] {
        let said = run(&arguments![command, stream, flag, value]).fails(REFUSED, &[expected]);
        assert!(!said.stderr.contains("digit"), "{}", said.stderr);
    }
    run(&arguments!["demo", "--lr", "fast"]).fails(REFUSED, &["expected a number, such as 3e-6"]);
    assert!(!replica.exists());
}

#[test]
fn a_misspelt_variable_is_warned_of_with_the_one_that_is_meant() {
    let scene = Scene::new(1);
    let mut log = command(&arguments!["log", scene.stream()]);
    log.env("TENSORPATCH_ATTEMPT", "9")
        .env("TENSORPATCH_TEST_ANYTHING", "1")
        .env("TENSORPATCH_SERVICE_HOST", "h");
    let said = finish(&mut log).ok().stderr;
    assert!(said.contains("TENSORPATCH_ATTEMPT is no setting"), "{said}");
    assert!(said.contains("is TENSORPATCH_ATTEMPTS meant?"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn what_fails_is_said_with_what_to_do() {
    let scene = Scene::new(1);
    let (missing, replica) = (scene.path("missing/file"), scene.path("replica"));
    run(&arguments!["key", "show", missing]).fails(REFUSED, &["is not there", "tensorpatch keygen"]);
    run(&arguments!["keygen", missing]).fails(REFUSED, &["no such directory", "make the directory first"]);
    let convert = arguments!["convert", missing, "--to", "checkpoint", "-o", scene.path("out")];
    run(&convert).fails(FAILED, &["missing/file", "check the path"]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let follow = |options: &[&str]| {
        let mut line = arguments!["follow", scene.stream(), replica, "--until", "1"].to_vec();
        line.extend(options.iter().map(Into::into));
        run(&line)
    };
    follow(&["--metrics", &port]).fails(FAILED, &["cannot listen on", "name another port"]);
    follow(&["--exec", "exit 3"]).fails(FAILED, &["version 1 is held", "exit status: 3", "follow again"]);
    follow(&["--exec", "exit 3 || true"]).fails(FAILED, &["follow again"]);
    follow(&["--exec", "false || true"]).ok();
}

#[test]
fn a_stream_where_something_else_is_wanted_is_told_from_it() {
    let scene = Scene::new(1);
    run(&arguments!["status", scene.stream()])
        .fails(REFUSED, &["no directory is named", "tensorpatch status URL DIR", "tensorpatch log URL"]);
    for stream in [scene.stream(), "s3://bucket/run".into()] {
        run(&arguments!["inspect", stream])
            .fails(REFUSED, &["is a stream, and no patch", "tensorpatch log URL"]);
    }
}

#[test]
fn errors_about_versions_and_objects_name_the_stream() {
    let scene = Scene::new(2);
    let (stream, replica) = (scene.stream(), scene.path("replica"));
    let named = format!("{}: the stream has no version 9", stream.display());
    run(&arguments!["pull", stream, replica, "--version", "9"]).fails(NOT_FOUND, &[&named]);
    fs::remove_dir_all(stream.join("patches")).unwrap();
    fs::remove_dir_all(stream.join("anchors")).unwrap();
    let named = format!("{}: no path leads to version 2", stream.display());
    run(&arguments!["pull", stream, replica]).fails(BAD_INPUT, &[&named, "tensorpatch anchor URL"]);
}

#[test]
fn man_pages_are_written_to_a_directory_that_is_made_for_them() {
    let scene = Scene::new(0);
    let pages = scene.path("share/man1");
    run(&arguments!["man", pages]).ok();
    assert!(pages.join("tensorpatch.1").is_file());
}

#[test]
fn junk_is_said_to_be_junk_and_named() {
    let scene = Scene::new(2);
    let replica = scene.path("replica");
    let pull = arguments!["pull", scene.stream(), replica];
    run(&pull).ok();
    for name in ["commits/00000000000000000002.json", "stream.json"] {
        let path = scene.stream().join(name);
        let whole = read(&path);
        write(&path, b"\0\0junk");
        let said =
            run(&pull).fails(BAD_INPUT, &[name, "is damaged", "not JSON", "from a mirror or a backup"]);
        assert!(!said.stderr.contains("tensorpatch anchor"), "{}", said.stderr);
        write(&path, &whole);
    }
    // A state file of which nothing is left is found out from the weights.
    let state = replica.join(".tensorpatch/state.json");
    let whole = read(&state);
    for junk in [&b"\x7f\x01junk"[..], &whole[..20], b""] {
        write(&state, junk);
        let verify = run(&arguments!["verify", replica]);
        verify.fails(8, &["state file", "tensorpatch pull"]);
        let healed = run(&pull).ok();
        assert!(junk.is_empty() || healed.stderr.contains("not JSON"), "{}", healed.stderr);
        assert_eq!(run(&arguments!["verify", replica, "--json"]).ok().json()["version"], 2);
        same_checkpoint(&replica, &fixture(5));
    }
    // What lies there and is no version is not thrown away for that.
    write(&state, b"junk");
    fs::copy(fixture(6), replica.join("model.safetensors")).unwrap();
    run(&pull).fails(REFUSED, &["which no version has", "--replace"]);
    same_checkpoint(&replica, &fixture(6));
    // That of a newer version is not junk.
    write(&state, br#"{"format":"tensorpatch-replica","major":9}"#);
    run(&pull).fails(8, &["state.json", "Remove it"]);
}
