//! File systems that lack something: what works there, and what is said of what cannot.
//!
//! A library that is loaded before the C library makes system calls fail as they do there. Where there is no
//! C compiler these tests say that they are left out.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{
    Outcome, arguments, command, finish, fixture, read, run, same_checkpoint, temporary, tree,
};

const EPERM: i32 = 1;
const EIO: i32 = 5;
const EINVAL: i32 = 22;
const ENOSYS: i32 = 38;
const ENOLCK: i32 = 37;
const ENOTSUP: i32 = 95;

/// The library, or `None` if it cannot be built here.
fn shim(dir: &Path) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/system/shim.c");
    let library = dir.join("shim.so");
    let built =
        Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl").output();
    match built {
        Ok(output) if output.status.success() => Some(library),
        failed => {
            eprintln!("LEFT OUT: the file system shim cannot be built: {failed:?}");
            None
        }
    }
}

/// Runs the binary where calls fail.
#[track_caller]
fn run_with(shim: &Path, failing: &[(&str, i32)], arguments: &[std::ffi::OsString]) -> Outcome {
    let mut command = command(arguments);
    command.env("LD_PRELOAD", shim);
    for (name, number) in failing {
        command.env(name, number.to_string());
    }
    finish(&mut command)
}

/// Publishes two versions and pulls them, one after the other, and compares.
#[track_caller]
fn publish_and_pull(dir: &Path, options: &[&str], run: impl Fn(&[std::ffi::OsString]) -> Outcome) {
    let (stream, replica) = (dir.join("stream"), dir.join("replica"));
    for number in [4, 5] {
        let mut publish =
            arguments!["publish", fixture(number), "--to", stream, "--baseline", dir.join("baseline")]
                .to_vec();
        publish.extend(options.iter().map(Into::into));
        run(&publish).ok();
        run(&arguments!["pull", stream, replica]).ok();
        same_checkpoint(&replica, &fixture(number));
    }
    run(&arguments!["fsck", stream]).ok();
}

#[test]
fn a_stream_lives_on_a_file_system_without_hard_links() {
    let dir = temporary();
    let Some(shim) = shim(dir.path()) else { return };
    for errno in [EPERM, ENOTSUP, ENOSYS, 18] {
        let place = dir.path().join(format!("errno-{errno}"));
        publish_and_pull(&place, &[], |arguments| run_with(&shim, &[("FAIL_LINK", errno)], arguments));
    }
    // What is created once is still created once: the stream of another is not taken over.
    let (stream, again) = (dir.path().join("errno-1/stream"), dir.path().join("again"));
    let lost = arguments!["publish", fixture(6), "--to", stream, "--baseline", again];
    run_with(&shim, &[("FAIL_LINK", EPERM)], &lost).ok();
    assert_eq!(fs::read_dir(stream.join("commits")).unwrap().count(), 3);
}

#[test]
fn a_file_system_without_any_exclusive_create_takes_a_single_writer_and_says_so() {
    let dir = temporary();
    let Some(shim) = shim(dir.path()) else { return };
    let failing = [("FAIL_LINK", EPERM), ("FAIL_RENAME_NEW", EINVAL)];
    let stream = dir.path().join("refused");
    let publish = arguments!["publish", fixture(4), "--to", stream, "--baseline", dir.path().join("b")];
    run_with(&shim, &failing, &publish).fails(2, &["neither hard links nor", "--single-writer"]);
    assert!(!stream.join("stream.json").exists(), "nothing is created");
    publish_and_pull(&dir.path().join("single"), &["--single-writer"], |arguments| {
        run_with(&shim, &failing, arguments)
    });
}

#[test]
fn a_file_system_without_locks_is_used_with_a_word_and_processes_are_still_kept_apart() {
    let dir = temporary();
    let Some(shim) = shim(dir.path()) else { return };
    for errno in [ENOSYS, ENOLCK, ENOTSUP] {
        let place = dir.path().join(format!("errno-{errno}"));
        publish_and_pull(&place, &[], |arguments| run_with(&shim, &[("FAIL_FLOCK", errno)], arguments));
    }
    let place = dir.path().join("errno-38");
    let pull = arguments!["pull", place.join("stream"), place.join("replica"), "--version", "1"];
    let outcome = run_with(&shim, &[("FAIL_FLOCK", ENOSYS)], &pull).ok();
    assert!(outcome.stderr.contains("has no locks"), "{}", outcome.stderr);
    let race = |version: &str| {
        let mut command =
            command(&arguments!["pull", place.join("stream"), place.join("replica"), "--version", version]);
        command.env("LD_PRELOAD", &shim).env("FAIL_FLOCK", "38");
        command
    };
    for _ in 0..4 {
        let mut other = race("2").spawn().unwrap();
        finish(&mut race("1")).ok();
        assert!(other.wait().unwrap().success());
    }
    run(&arguments!["pull", place.join("stream"), place.join("replica"), "--version", "2"]).ok();
    same_checkpoint(&place.join("replica"), &fixture(5));
}

#[test]
fn directories_that_cannot_be_synced_are_no_failure() {
    let dir = temporary();
    let Some(shim) = shim(dir.path()) else { return };
    for errno in [EINVAL, ENOTSUP] {
        let failing = [("FAIL_DIRSYNC", errno)];
        let place = dir.path().join(format!("errno-{errno}"));
        publish_and_pull(&place, &[], |arguments| run_with(&shim, &failing, arguments));
        let (patch, rebuilt) = (place.join("p"), place.join("rebuilt.safetensors"));
        run_with(&shim, &failing, &arguments!["diff", fixture(4), fixture(5), "-o", patch]).ok();
        run_with(&shim, &failing, &arguments!["apply", fixture(4), patch, "-o", rebuilt]).ok();
        assert!(read(&rebuilt) == read(&fixture(5)));
        fs::copy(fixture(4), &rebuilt).unwrap();
        run_with(&shim, &failing, &arguments!["apply", rebuilt, patch, "--in-place"]).ok();
        assert!(read(&rebuilt) == read(&fixture(5)));
    }
}

#[test]
fn a_directory_sync_that_fails_does_not_pass_for_a_file_that_was_left_alone() {
    let dir = temporary();
    let Some(shim) = shim(dir.path()) else { return };
    let patch = dir.path().join("p");
    run(&arguments!["diff", fixture(5), fixture(6), "-o", patch]).ok();
    let before = read(&patch);
    let diff = arguments!["diff", fixture(4), fixture(5), "-o", patch];
    let outcome = run_with(&shim, &[("FAIL_DIRSYNC", EIO)], &diff);
    outcome.fails(1, &["the new file is in place", "power cut"]);
    assert!(read(&patch) != before, "the message says that the file was replaced");
    let old = dir.path().join("old.safetensors");
    fs::copy(fixture(6), &old).unwrap();
    let apply = arguments!["apply", fixture(4), patch, "-o", old];
    let outcome = run_with(&shim, &[("FAIL_DIRSYNC", EIO)], &apply).fails(1, &["the new file is in place"]);
    assert!(!outcome.stderr.contains("was not applied"), "{}", outcome.stderr);
    assert!(read(&old) == read(&fixture(5)));
}

#[test]
fn a_file_system_without_renames_is_named_and_nothing_is_altered() {
    let dir = temporary();
    let Some(shim) = shim(dir.path()) else { return };
    let failing = [("FAIL_RENAME", ENOSYS)];
    let (stream, replica, patch) = (dir.path().join("s"), dir.path().join("r"), dir.path().join("p"));
    run(&arguments!["publish", fixture(4), "--to", stream, "--baseline", dir.path().join("b")]).ok();
    run(&arguments!["pull", stream, replica]).ok();
    run(&arguments!["diff", fixture(4), fixture(5), "-o", patch]).ok();
    run(&arguments!["publish", fixture(5), "--to", stream, "--baseline", dir.path().join("b")]).ok();
    let before = (tree(&stream), read(&patch));
    for arguments in [
        arguments!["pull", stream, replica].to_vec(),
        arguments!["pull", stream, dir.path().join("new")].to_vec(),
        arguments!["diff", fixture(4), fixture(6), "-o", patch].to_vec(),
        arguments!["publish", fixture(6), "--to", stream, "--baseline", dir.path().join("b")].to_vec(),
    ] {
        run_with(&shim, &failing, &arguments).fails(1, &["another file system", "docs/stores.md"]);
    }
    assert!((tree(&stream), read(&patch)) == before);
    same_checkpoint(&replica, &fixture(4));
    run(&arguments!["pull", stream, replica]).ok();
    same_checkpoint(&replica, &fixture(5));
}

#[test]
fn an_upload_that_was_killed_is_seen_and_collected() {
    let dir = temporary();
    let stream = dir.path().join("stream");
    run(&arguments!["publish", fixture(4), "--to", stream, "--baseline", dir.path().join("b")]).ok();
    let left = stream.join("probe/0123456789abcdef0123456789abcdef-upload");
    fs::create_dir_all(stream.join("probe")).unwrap();
    fs::write(&left, vec![0; 1 << 20]).unwrap();
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(90_000);
    fs::File::options().write(true).open(&left).unwrap().set_modified(long_ago).unwrap();
    let gc = run(&arguments!["gc", stream, "--json"]).ok().json();
    assert_eq!(gc["garbage_bytes"], 1 << 20, "{gc}");
    run(&arguments!["gc", stream, "--delete"]).ok();
    assert!(!left.exists());
}
