//! Diff and apply: the target bit for bit, whatever the checkpoints look like on disk.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::process::Stdio;

use crate::support::{
    arguments, command, finish, fixture, read, run, same_checkpoint, shard, temporary, write,
};

/// Diffs, applies to a new checkpoint and in place, and compares all files. Returns the patch.
fn round_trip(base: &Path, target: &Path, options: &[&str]) -> Vec<u8> {
    let dir = temporary();
    let patch = dir.path().join("step.tpatch");
    let mut diff = arguments!["diff", base, target, "-o", patch].to_vec();
    diff.extend(options.iter().map(Into::into));
    run(&diff).ok();

    let rebuilt = dir.path().join(if target.is_dir() { "rebuilt" } else { "rebuilt.safetensors" });
    run(&arguments!["apply", base, patch, "-o", rebuilt]).ok();
    compare_weights(&rebuilt, target);

    if base.is_dir() == target.is_dir() {
        same_checkpoint(&rebuilt, target);
        let copy = dir.path().join(if base.is_dir() { "copy" } else { "copy.safetensors" });
        copy_checkpoint(base, &copy);
        run(&arguments!["apply", copy, patch, "--in-place"]).ok();
        same_checkpoint(&copy, target);
    }
    read(&patch)
}

/// Patches hold weights. What lies beside them is the base's, which may have nothing of the kind.
#[track_caller]
fn compare_weights(found: &Path, expected: &Path) {
    if expected.is_file() {
        return same_checkpoint(found, expected);
    }
    for entry in fs::read_dir(expected).unwrap() {
        let name = entry.unwrap().file_name();
        if name != "config.json" {
            assert!(read(&found.join(&name)) == read(&expected.join(&name)), "{} differs", name.display());
        }
    }
}

fn copy_checkpoint(from: &Path, to: &Path) {
    if from.is_file() {
        fs::copy(from, to).unwrap();
        return;
    }
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn a_file_is_rebuilt_byte_for_byte_with_every_profile_and_hash() {
    for (base, target) in [(4, 5), (5, 6), (6, 4)] {
        for options in [&[][..], &["--profile", "direct"], &["--leaf-hash", "blake3"]] {
            round_trip(&fixture(base), &fixture(target), options);
        }
    }
}

#[test]
fn a_sharded_directory_is_rebuilt_byte_for_byte() {
    let dir = temporary();
    let (old, new) = (dir.path().join("old"), dir.path().join("new"));
    shard(&fixture(4), &old, 3);
    shard(&fixture(5), &new, 3);
    round_trip(&old, &new, &[]);
}

#[test]
fn a_checkpoint_that_is_sharded_anew_is_rebuilt_with_the_shards_of_the_target() {
    let dir = temporary();
    let (one, two, three) = (fixture(5), dir.path().join("two"), dir.path().join("three"));
    shard(&fixture(5), &two, 2);
    shard(&fixture(6), &three, 3);
    let patch = dir.path().join("step.tpatch");
    for (base, target) in [(&one, &three), (&two, &three), (&three, &one), (&one, &two)] {
        let rebuilt = dir.path().join(if target.is_dir() { "rebuilt" } else { "rebuilt.safetensors" });
        run(&arguments!["diff", base, target, "-o", patch]).ok();
        run(&arguments!["apply", base, patch, "-o", rebuilt]).ok();
        compare_weights(&rebuilt, target);
        if rebuilt.is_dir() {
            fs::remove_dir_all(&rebuilt).unwrap();
        }
    }
}

#[test]
fn a_base_that_is_sharded_otherwise_takes_the_patch_and_keeps_its_shards() {
    let dir = temporary();
    let (base, expected) = (dir.path().join("base"), dir.path().join("expected"));
    shard(&fixture(4), &base, 2);
    shard(&fixture(5), &expected, 2);
    let patch = dir.path().join("step.tpatch");
    run(&arguments!["diff", fixture(4), fixture(5), "-o", patch]).ok();
    let report =
        run(&arguments!["apply", base, patch, "-o", dir.path().join("rebuilt"), "--json"]).ok().json();
    assert_eq!(report["same_files"], false);
    compare_weights(&dir.path().join("rebuilt"), &expected);
}

#[test]
fn two_runs_on_any_number_of_threads_make_the_same_patch() {
    let one = round_trip(&fixture(4), &fixture(5), &["--threads", "1"]);
    let many = round_trip(&fixture(4), &fixture(5), &["--threads", "7"]);
    assert!(one == many);
}

#[test]
fn equal_states_make_a_patch_that_says_so() {
    let dir = temporary();
    let patch = dir.path().join("step.tpatch");
    let report = run(&arguments!["diff", fixture(4), fixture(4), "-o", patch, "--json"]).ok().json();
    assert_eq!(report["kind"], "empty");
    assert_eq!(report["changed_elements"], 0);
    assert_eq!(report["base"], report["target"]);
    let rebuilt = dir.path().join("rebuilt.safetensors");
    run(&arguments!["apply", fixture(4), patch, "-o", rebuilt]).ok();
    same_checkpoint(&rebuilt, &fixture(4));
}

#[test]
fn reports_agree_with_each_other_and_with_the_file() {
    let dir = temporary();
    let patch = dir.path().join("step.tpatch");
    let diff = run(&arguments!["diff", fixture(4), fixture(5), "-o", patch, "--json"]).ok().json();
    assert_eq!(diff["kind"], "delta");
    // Counted from the fixture by another program.
    assert_eq!(diff["changed_elements"], 1_116);
    assert_eq!(diff["total_elements"], 80_640);
    assert_eq!(diff["patch_bytes"], read(&patch).len());

    let inspect = run(&arguments!["inspect", patch, "--json", "--tensors"]).ok().json();
    for key in ["kind", "base", "target"] {
        assert_eq!(inspect[key], diff[key], "{key}");
    }
    assert_eq!(inspect["file_bytes"], diff["patch_bytes"]);
    assert_eq!(inspect["encodings"], diff["encodings"]);
    let changed_tensors = inspect["tensors"].as_array().unwrap().len();
    assert!((1..11).contains(&changed_tensors), "one tensor of the fixture never changes: {changed_tensors}");

    for (path, state) in [(fixture(4), &diff["base"]), (fixture(5), &diff["target"])] {
        let digest = run(&arguments!["digest", path, "--json"]).ok().json();
        assert_eq!(digest["state"], *state);
        assert_eq!(digest["elements"], 80_640);
    }
}

#[test]
fn a_state_has_the_same_digest_whatever_its_shards() {
    let dir = temporary();
    shard(&fixture(4), &dir.path().join("sharded"), 3);
    for hash in ["xxh3", "blake3"] {
        let digest =
            |path: &Path| run(&arguments!["digest", path, "--json", "--leaf-hash", hash]).ok().json();
        let (file, sharded) = (digest(&fixture(4)), digest(&dir.path().join("sharded")));
        assert_eq!(file["state"], sharded["state"]);
        assert_ne!(file["layout"], sharded["layout"]);
        assert!(file["state"].as_str().unwrap().starts_with(hash));
    }
}

#[test]
fn a_patch_goes_through_standard_output_and_input() {
    let dir = temporary();
    let patch = run(&arguments!["diff", fixture(4), fixture(5), "-o", "-"]).ok();
    assert!(patch.stderr.contains("1,116 of 80,640 elements"), "the report goes aside: {}", patch.stderr);
    let file = dir.path().join("step.tpatch");
    write(&file, &patch.stdout);
    let rebuilt = dir.path().join("rebuilt.safetensors");
    let mut apply = command(&arguments!["apply", fixture(4), "-", "-o", rebuilt]);
    finish(apply.stdin(fs::File::open(&file).unwrap())).ok();
    same_checkpoint(&rebuilt, &fixture(5));
}

#[test]
fn quiet_says_nothing() {
    let dir = temporary();
    let outcome =
        run(&arguments!["--quiet", "diff", fixture(4), fixture(5), "-o", dir.path().join("p")]).ok();
    assert_eq!((outcome.stdout.len(), outcome.stderr.len()), (0, 0));
}

#[test]
fn a_named_pipe_is_written_to_and_not_replaced() {
    let dir = temporary();
    let pipe = dir.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || read(&pipe)
    });
    run(&arguments!["diff", fixture(4), fixture(5), "-o", pipe]).ok();
    // Before the reader is waited for, which would wait for ever.
    assert!(fs::symlink_metadata(&pipe).unwrap().file_type().is_fifo());
    let patch = dir.path().join("step.tpatch");
    run(&arguments!["diff", fixture(4), fixture(5), "-o", patch]).ok();
    assert!(reader.join().unwrap() == read(&patch));
}

#[test]
fn new_files_have_the_modes_of_any_new_file() {
    let dir = temporary();
    let ordinary = dir.path().join("ordinary");
    write(&ordinary, b"");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    let (patch, rebuilt) = (dir.path().join("step.tpatch"), dir.path().join("rebuilt.safetensors"));
    run(&arguments!["diff", fixture(4), fixture(5), "-o", patch]).ok();
    run(&arguments!["apply", fixture(4), patch, "-o", rebuilt]).ok();
    assert_eq!(mode(&patch), mode(&ordinary));
    assert_eq!(mode(&rebuilt), mode(&ordinary));
}

#[test]
fn a_closed_reader_ends_the_program_quietly() {
    let dir = temporary();
    let patch = dir.path().join("step.tpatch");
    run(&arguments!["diff", fixture(4), fixture(5), "-o", patch]).ok();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut inspect = command(&arguments!["inspect", patch, "--json"]);
    let child = inspect.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(141), 0));
}

#[test]
fn a_patch_is_not_written_to_a_terminal() {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap().into_string().unwrap();
    let screen = fs::OpenOptions::new().read(true).write(true).open(name).unwrap();
    let mut child = command(&arguments!["diff", fixture(4), fixture(5), "-o", "-"])
        .stdout(screen)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(2));
    assert!(stderr.contains("terminal"), "{stderr}");
}
