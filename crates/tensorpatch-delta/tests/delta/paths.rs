//! From paths to paths: what a program calls that has checkpoints on disk, and what it is protected from.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::common::scene::scene;
use crate::common::{bf16, nudged, open, patch_between, sharded_layout, write, write_as};
use tensorpatch_checkpoint::{CheckpointError, Form};
use tensorpatch_delta::{
    AppliedInPlace, Apply, ApplyError, DiffError, Options, Patch, Progress, Snapshot, State, diff, digest,
    full, journal_path, open_settled, prepare_in_place,
};
use tensorpatch_format::{ErrorClass, ErrorKind, Limits, MAGIC};

/// A directory with checkpoints `base` and `target`, single files.
fn pair() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let old = [bf16("a", &[1000], 1), bf16("b", &[20], 2)];
    let new: Vec<_> = old.iter().map(|tensor| nudged(tensor, 7)).collect();
    let base = write(&dir.path().join("base.safetensors"), &old);
    let target = write(&dir.path().join("target.safetensors"), &new);
    (dir, base, target)
}

/// The names in a directory.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_patch_of_two_paths_makes_the_second_of_the_first_beside_and_in_place() {
    let (dir, base, target) = pair();
    let (patch, rebuilt) = (dir.path().join("step.tpatch"), dir.path().join("rebuilt"));
    let report = diff(&base, &target).unwrap().write(&patch).unwrap();
    assert_eq!(report.patch_bytes, fs::metadata(&patch).unwrap().len());
    assert!(fs::read(&patch).unwrap() == patch_between(&base, &target, &Options::default()).0);
    let opened = Patch::open(&patch).unwrap();
    opened.apply(&base, &rebuilt).unwrap();
    assert!(fs::read(&rebuilt).unwrap() == fs::read(&target).unwrap());
    assert_eq!(digest(&rebuilt).unwrap().digest, report.target);
    assert!(matches!(opened.apply_in_place(&base).unwrap(), AppliedInPlace::Applied(_)));
    assert!(fs::read(&base).unwrap() == fs::read(&target).unwrap());
    assert_eq!(names(dir.path()), ["base.safetensors", "rebuilt", "step.tpatch", "target.safetensors"]);
}

#[test]
fn a_full_patch_unpacks_without_a_base() {
    let (dir, base, target) = pair();
    let (patch, rebuilt) = (dir.path().join("full.tpatch"), dir.path().join("rebuilt"));
    full(&target).unwrap().write(&patch).unwrap();
    let opened = Patch::open(&patch).unwrap();
    opened.unpack(&rebuilt).unwrap();
    assert!(fs::read(&rebuilt).unwrap() == fs::read(&target).unwrap());
    let refused = opened.apply(&base, dir.path().join("out")).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused);
}

#[test]
fn the_result_has_the_form_that_its_name_its_files_and_its_base_ask_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let tensors = [bf16("a", &[100], 1), bf16("b", &[20], 2)];
    let next: Vec<_> = tensors.iter().map(|tensor| nudged(tensor, 7)).collect();
    let single = write(&path("base.safetensors"), &tensors);
    fs::create_dir(path("directory")).unwrap();
    fs::copy(&single, path("directory/model.safetensors")).unwrap();
    fs::write(path("directory/config.json"), "{}").unwrap();
    let target = write(&path("target.safetensors"), &next);
    let sharded = write_as(&path("sharded"), Form::Directory, &next, &sharded_layout(&next));
    let is_directory = |base: &Path, target: &Path, name: &str| {
        let mut bytes = Vec::new();
        diff(base, target).unwrap().write_to(&mut bytes).unwrap();
        let out = path(name);
        Patch::parse(&bytes, &Limits::default()).unwrap().apply(base, &out).unwrap();
        let opened = open(&out);
        assert_eq!(digest(&out).unwrap(), digest(target).unwrap());
        opened.is_directory()
    };
    assert!(!is_directory(&single, &target, "one"));
    assert!(is_directory(&path("directory"), &target, "two"));
    assert_eq!(names(&path("two")), ["config.json", "model.safetensors"]);
    assert!(!is_directory(&path("directory"), &target, "three.safetensors"));
    assert!(is_directory(&single, &sharded, "four"));
}

#[test]
fn a_checkpoint_that_waits_for_an_interrupted_application_is_no_version_to_anybody() {
    let (dir, base, target) = pair();
    let path = |name: &str| dir.path().join(name);
    diff(&base, &target).unwrap().write(path("step.tpatch")).unwrap();
    let patch = Patch::open(path("step.tpatch")).unwrap();
    fs::create_dir(path("model")).unwrap();
    fs::copy(&base, path("model/model.safetensors")).unwrap();
    symlink(&base, path("link.safetensors")).unwrap();
    let (file, inner) = (path(".base.safetensors.tensorpatch-journal"), path("model/model.safetensors"));
    let directory = path("model/.tensorpatch-journal");
    let of_inner = path("model/.model.safetensors.tensorpatch-journal");
    assert_eq!(journal_path(&base), file);
    assert_eq!(journal_path(&path("model")), directory);
    for (torn, journal) in [
        (base.clone(), &file),
        (path("link.safetensors"), &file),
        (path("model"), &directory),
        (inner.clone(), &of_inner),
        // Patched by the other of its two names.
        (path("model"), &of_inner),
        (inner, &directory),
    ] {
        let opened = open(&torn);
        fs::write(journal, b"of an application that was interrupted").unwrap();
        let is_pending = |error: &CheckpointError| match error {
            CheckpointError::Pending { journal: found } => {
                assert_eq!(found.canonicalize().unwrap(), journal.canonicalize().unwrap());
                true
            }
            _ => false,
        };
        let of_diff = |error: DiffError| matches!(&error, DiffError::Checkpoint(e) if is_pending(e));
        let of_apply = |error: ApplyError| matches!(&error, ApplyError::Checkpoint(e) if is_pending(e));
        assert!(of_diff(diff(&torn, &target).unwrap_err()), "{torn:?}");
        assert!(of_diff(diff(&target, &torn).unwrap_err()), "{torn:?}");
        assert!(of_diff(full(&torn).unwrap_err()), "{torn:?}");
        assert!(of_apply(digest(&torn).unwrap_err()), "{torn:?}");
        assert!(of_apply(patch.apply(&torn, path("out")).unwrap_err()), "{torn:?}");
        assert!(is_pending(&open_settled(&torn, &Limits::default()).unwrap_err()), "{torn:?}");
        // Those who open it themselves are told too.
        assert!(is_pending(&State::of(&opened).unwrap_err()), "{torn:?}");
        assert!(is_pending(&Snapshot::of(&opened).unwrap_err()), "{torn:?}");
        assert!(!path("out").exists());
        fs::remove_file(journal).unwrap();
        digest(&torn).unwrap();
    }
}

#[test]
fn a_file_that_is_torn_in_its_header_is_said_to_wait_and_not_to_be_damaged() {
    let (_dir, base, target) = pair();
    let mut torn = fs::read(&base).unwrap();
    torn[12] = 0;
    fs::write(&base, torn).unwrap();
    fs::write(journal_path(&base), b"of an application that was interrupted").unwrap();
    let DiffError::Checkpoint(error) = diff(&base, &target).unwrap_err() else {
        panic!("not of the checkpoint")
    };
    assert!(matches!(*error, CheckpointError::Pending { .. }), "{error}");
}

#[test]
fn what_an_interrupted_run_left_is_finished_first() {
    let scene = scene();
    let journal = journal_path(&scene.checkpoint);
    let patch = Patch::parse(&scene.patch, &Limits::default()).unwrap();
    prepare_in_place(&scene.checkpoint, &patch, &journal, &Options::default(), Progress::none()).unwrap();
    let AppliedInPlace::Finished { same_layout, .. } = patch.apply_in_place(&scene.checkpoint).unwrap()
    else {
        panic!("not finished")
    };
    assert!(same_layout);
    assert!(scene.bytes() == scene.new);
    assert!(!journal.exists());
    // A second time it is the wrong base.
    assert_eq!(patch.apply_in_place(&scene.checkpoint).unwrap_err().kind(), ErrorKind::WrongBase);
}

#[test]
fn a_journal_is_finished_only_if_it_leads_to_a_state_of_the_patch_at_hand() {
    let (dir, base, target) = pair();
    let other = write(&dir.path().join("other"), &[bf16("a", &[1000], 8), bf16("b", &[20], 9)]);
    let patch = |from: &Path, to: &Path| {
        Patch::from_vec(patch_between(from, to, &Options::default()).0, &Limits::default()).unwrap()
    };
    let journal = journal_path(&base);
    let interrupt = |by: &Patch<'_>| {
        prepare_in_place(&base, by, &journal, &Options::default(), Progress::none()).unwrap();
    };
    let before = fs::read(&base).unwrap();
    let (to_other, to_target, onward) = (patch(&base, &other), patch(&base, &target), patch(&target, &other));
    interrupt(&to_other);
    let refused = to_target.apply_in_place(&base).unwrap_err();
    assert!(matches!(&refused, ApplyError::OtherJournal { journal: found, .. } if *found == journal));
    assert_eq!(refused.kind(), ErrorKind::Refused);
    assert!(fs::read(&base).unwrap() == before && journal.exists());
    fs::remove_file(&journal).unwrap();
    // The base of the patch at hand is one of its states.
    interrupt(&to_target);
    let applied = onward.apply_in_place(&base).unwrap();
    assert!(matches!(applied, AppliedInPlace::Applied(_)));
    assert!(fs::read(&base).unwrap() == fs::read(&other).unwrap() && !journal.exists());
}

#[test]
fn the_files_of_a_replica_are_not_patched_in_place_by_either_name() {
    let (dir, base, target) = pair();
    let replica = dir.path().join("replica");
    fs::create_dir_all(replica.join(".tensorpatch")).unwrap();
    fs::write(replica.join(".tensorpatch/state.json"), "{}").unwrap();
    fs::copy(&base, replica.join("model.safetensors")).unwrap();
    let mut bytes = Vec::new();
    diff(&base, &target).unwrap().write_to(&mut bytes).unwrap();
    let patch = Patch::from_vec(bytes, &Limits::default()).unwrap();
    for checkpoint in [replica.clone(), replica.join("model.safetensors")] {
        let refused = patch.apply_in_place(&checkpoint).unwrap_err();
        assert!(matches!(&refused, ApplyError::Replica { path } if *path == replica), "{refused:?}");
        assert_eq!(refused.kind(), ErrorKind::Refused);
    }
    assert!(fs::read(replica.join("model.safetensors")).unwrap() == fs::read(&base).unwrap());
    // It may be read as any other.
    patch.apply(&replica, dir.path().join("rebuilt")).unwrap();
}

#[test]
fn a_patch_is_written_over_an_older_one_but_over_nothing_else() {
    let (dir, base, target) = pair();
    let patch = dir.path().join("step.tpatch");
    fs::write(&patch, [&MAGIC[..], b"an older one"].concat()).unwrap();
    let made = diff(&base, &target).unwrap();
    made.write(&patch).unwrap();
    Patch::open(&patch).unwrap();
    let notes = dir.path().join("notes");
    fs::write(&notes, "somebody's").unwrap();
    let DiffError::Checkpoint(refused) = made.write(&notes).unwrap_err() else { panic!() };
    assert!(matches!(*refused, CheckpointError::Destination { .. }), "{refused}");
    assert_eq!(fs::read(&notes).unwrap(), b"somebody's");
    fs::remove_file(&notes).unwrap();
    let (old, new) = (fs::read(&base).unwrap(), fs::read(&target).unwrap());
    let link = dir.path().join("link");
    symlink(&target, &link).unwrap();
    for input in [&base, &target, &link, &dir.path().to_owned()] {
        let refused = made.write(input).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Refused);
        let DiffError::Checkpoint(error) = refused else { panic!("{refused:?}") };
        assert!(matches!(&*error, CheckpointError::SamePlace { path, .. } if path == input), "{error}");
    }
    assert!(fs::read(&base).unwrap() == old && fs::read(&target).unwrap() == new);
    assert_eq!(made.write(dir.path().join("missing/step.tpatch")).unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(names(dir.path()), ["base.safetensors", "link", "step.tpatch", "target.safetensors"]);
}

#[test]
fn a_pipe_is_written_and_read_as_it_is() {
    let (dir, base, target) = pair();
    let pipe = dir.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let expected = patch_between(&base, &target, &Options::default()).0;
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut bytes = Vec::new();
            fs::File::open(&pipe).unwrap().read_to_end(&mut bytes).map(|_| bytes)
        });
        diff(&base, &target).unwrap().write(&pipe).unwrap();
        assert!(reader.join().unwrap().unwrap() == expected);
    });
    std::thread::scope(|scope| {
        scope.spawn(|| fs::OpenOptions::new().write(true).open(&pipe).unwrap().write_all(&expected));
        Patch::open(&pipe).unwrap().apply(&base, dir.path().join("rebuilt")).unwrap();
    });
    assert!(fs::read(dir.path().join("rebuilt")).unwrap() == fs::read(&target).unwrap());
}

#[test]
fn an_opened_patch_says_what_a_parsed_one_does_and_outlives_its_name() {
    let (dir, base, target) = pair();
    let path = dir.path().join("step.tpatch");
    diff(&base, &target).unwrap().write(&path).unwrap();
    let bytes = fs::read(&path).unwrap();
    let parsed = Patch::parse(&bytes, &Limits::default()).unwrap();
    let opened = Patch::open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let kept = Patch::from_vec(bytes.clone(), &Limits::default()).unwrap();
    for patch in [opened.clone(), kept] {
        assert_eq!(format!("{:?}", patch.wire()), format!("{:?}", parsed.wire()));
        assert_eq!(patch.target_digest(), parsed.target_digest());
    }
    opened.apply(&base, dir.path().join("rebuilt")).unwrap();
}

#[test]
fn a_damaged_patch_file_is_named_and_classed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("step.tpatch");
    fs::write(&path, b"not a patch at all, but long enough to be looked at").unwrap();
    let refused = Patch::open(&path).unwrap_err();
    assert!(refused.to_string().contains(path.to_str().unwrap()), "{refused}");
    assert_eq!((refused.class(), refused.offset()), (Some(ErrorClass::NotAPatch), Some(0)));
    assert_eq!(refused.kind(), ErrorKind::BadInput);
    assert_eq!(Patch::open(dir.path().join("missing")).unwrap_err().kind(), ErrorKind::Io);
}

#[test]
fn limits_hold_for_paths_too() {
    let (dir, base, target) = pair();
    let mut limits = Limits::default();
    limits.header_bytes = 20;
    let few = Options::default().with_limits(limits.clone());
    let is_limit = |error: &CheckpointError| matches!(error, CheckpointError::Header { .. });
    let refused = tensorpatch_delta::Diff::open(Some(&base), &target, few.clone()).unwrap_err();
    assert!(matches!(&refused, DiffError::Checkpoint(error) if is_limit(error)), "{refused:?}");
    let path = dir.path().join("full.tpatch");
    full(&target).unwrap().write(&path).unwrap();
    assert_eq!(Patch::open_within(&path, &limits).unwrap_err().class(), Some(ErrorClass::Limit));
    diff(&base, &target).unwrap().write(&path).unwrap();
    let patch = Patch::open(&path).unwrap();
    let refused = Apply::new(&patch).with_options(few).to(&base, dir.path().join("out")).unwrap_err();
    assert!(matches!(&refused, ApplyError::Checkpoint(error) if is_limit(error)), "{refused:?}");
}
