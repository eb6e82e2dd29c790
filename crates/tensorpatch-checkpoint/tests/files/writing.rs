//! Writing new checkpoints: durable, all or nothing, and nothing left behind.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{contents, one_tensor, open, put, sharded};
use tensorpatch_checkpoint::{
    AtomicFile, Checkpoint, CheckpointError, CheckpointWriter, Companion, Form, Placement, generate_layout,
};
use tensorpatch_format::{Dtype, Limits, Schema, TensorIndex, TensorSpec};

fn create(source: &Checkpoint, dest: &Path, form: Form) -> Result<CheckpointWriter, CheckpointError> {
    CheckpointWriter::create(dest, form, source.schema(), source.layout(), source.placement())
}

fn fill(writer: &CheckpointWriter, source: &Checkpoint) {
    for (tensor, index) in source.tensors().into_iter().zip(0..) {
        writer.write(TensorIndex(index), 0, tensor).unwrap();
    }
}

/// Names in a directory, hidden ones too.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn sources() -> (tempfile::TempDir, Checkpoint, Checkpoint) {
    let directory = tempfile::tempdir().unwrap();
    let single = open(&put(directory.path(), "single.safetensors", &one_tensor("t", 5000))).unwrap();
    let shards = directory.path().join("shards");
    fs::create_dir(&shards).unwrap();
    sharded(&shards);
    put(&shards, "config.json", b"{\"a\":1}");
    let shards = open(&shards).unwrap();
    (directory, single, shards)
}

#[test]
fn a_copy_is_the_original_byte_for_byte() {
    let (_keep, single, shards) = sources();
    let out = tempfile::tempdir().unwrap();

    let dest = out.path().join("copy.safetensors");
    let writer = create(&single, &dest, Form::File).unwrap();
    fill(&writer, &single);
    writer.commit().unwrap();
    assert_eq!(fs::read(&dest).unwrap(), fs::read(single.path()).unwrap());

    let dest = out.path().join("copy");
    let writer = create(&shards, &dest, Form::Directory).unwrap();
    fill(&writer, &shards);
    for companion in &shards.companions(&[]).unwrap().carried {
        writer.copy_companion(companion).unwrap();
    }
    writer.commit().unwrap();
    assert_eq!(names(&dest), names(shards.path()));
    for name in names(&dest) {
        assert_eq!(fs::read(dest.join(&name)).unwrap(), fs::read(shards.path().join(&name)).unwrap());
    }
    assert_eq!(names(out.path()), ["copy", "copy.safetensors"]);
}

#[test]
fn a_single_file_written_as_a_directory_is_model_safetensors() {
    let (_keep, single, _) = sources();
    let out = tempfile::tempdir().unwrap();
    let dest = out.path().join("copy");
    let writer = create(&single, &dest, Form::Directory).unwrap();
    fill(&writer, &single);
    writer.commit().unwrap();
    assert_eq!(names(&dest), ["model.safetensors"]);
    let copy = open(&dest).unwrap();
    assert_eq!((copy.layout(), contents(&copy)), (single.layout(), contents(&single)));
}

#[test]
fn many_threads_may_write_in_any_order() {
    let out = tempfile::tempdir().unwrap();
    let tensor = TensorSpec::new("t", Dtype::new("U8").unwrap(), vec![1 << 20]).unwrap();
    let schema = Schema::new(vec![tensor]).unwrap();
    let layout = generate_layout(&schema).unwrap();
    let placement = Placement::new(&schema, &layout, &Limits::default()).unwrap();
    let dest = out.path().join("t.safetensors");
    let writer = CheckpointWriter::create(&dest, Form::File, &schema, &layout, &placement).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let writer = &writer;
            scope.spawn(move || {
                for block in (0..256).rev().map(|at| 4 * at + thread) {
                    writer.write(TensorIndex(0), block * 1024, &[block as u8; 1024]).unwrap();
                }
            });
        }
    });
    writer.commit().unwrap();
    let expected: Vec<u8> = (0..1_u32 << 20).map(|at| (at / 1024) as u8).collect();
    assert_eq!(contents(&open(&dest).unwrap()), [("t".to_owned(), expected)]);
}

#[test]
fn dropping_without_a_commit_leaves_everything_as_it_was() {
    let (_keep, single, shards) = sources();
    let out = tempfile::tempdir().unwrap();
    let dest = put(out.path(), "existing", b"precious");
    let writer = create(&single, &dest, Form::File).unwrap();
    fill(&writer, &single);
    assert_eq!(names(out.path()).len(), 2);
    drop(writer);
    drop(create(&shards, &out.path().join("new"), Form::Directory).unwrap());
    assert_eq!(names(out.path()), ["existing"]);
    assert_eq!(fs::read(&dest).unwrap(), b"precious");
}

#[test]
fn nothing_is_at_the_destination_before_the_commit() {
    let (_keep, single, shards) = sources();
    let out = tempfile::tempdir().unwrap();
    for (source, form) in [(&single, Form::File), (&shards, Form::Directory)] {
        let dest = out.path().join("dest");
        let writer = create(source, &dest, form).unwrap();
        fill(&writer, source);
        assert!(!dest.exists());
        let [staging] = &names(out.path())[..] else { panic!() };
        assert!(staging.starts_with(&format!(".dest.tensorpatch-{}-", std::process::id())), "{staging}");
    }
}

#[test]
fn a_commit_before_every_byte_is_written_is_refused() {
    let (_keep, single, _) = sources();
    let out = tempfile::tempdir().unwrap();
    let dest = out.path().join("dest");
    let writer = create(&single, &dest, Form::File).unwrap();
    writer.write(TensorIndex(0), 0, &[1; 4999]).unwrap();
    let error = writer.commit().unwrap_err();
    assert!(matches!(error, CheckpointError::Incomplete { written: 4999, expected: 5000, .. }), "{error}");
    assert!(names(out.path()).is_empty());
}

#[test]
fn writes_outside_of_a_tensor_are_refused() {
    let (_keep, _, shards) = sources();
    let out = tempfile::tempdir().unwrap();
    let writer = create(&shards, &out.path().join("dest"), Form::Directory).unwrap();
    for (tensor, offset, len) in [(0, 0, 4), (0, 3, 1), (0, u64::MAX, 2), (1, 5, 1), (2, 0, 0)] {
        let error = writer.write(TensorIndex(tensor), offset, &vec![0; len]).unwrap_err();
        assert!(matches!(error, CheckpointError::OutOfRange { .. }), "{error}");
    }
    writer.write(TensorIndex(0), 3, &[]).unwrap();
}

#[test]
fn an_existing_file_is_replaced_at_once_and_those_who_have_it_open_keep_it() {
    let (_keep, single, _) = sources();
    let out = tempfile::tempdir().unwrap();
    let dest = put(out.path(), "dest", &one_tensor("old", 3));
    let old = open(&dest).unwrap();
    let writer = create(&single, &dest, Form::File).unwrap();
    fill(&writer, &single);
    writer.commit().unwrap();
    assert_eq!(contents(&open(&dest).unwrap()), contents(&single));
    assert_eq!(contents(&old), [("old".to_owned(), vec![0, 1, 2])]);
}

#[test]
fn a_link_at_the_destination_is_replaced_and_not_what_it_leads_to() {
    let (_keep, single, _) = sources();
    let out = tempfile::tempdir().unwrap();
    let blob = put(out.path(), "blob", b"shared");
    let dest = out.path().join("dest");
    symlink(&blob, &dest).unwrap();
    let writer = create(&single, &dest, Form::File).unwrap();
    fill(&writer, &single);
    writer.commit().unwrap();
    assert!(!dest.is_symlink());
    assert_eq!(fs::read(&blob).unwrap(), b"shared");
}

#[test]
fn destinations_that_must_not_be_replaced_are_refused() {
    let (_keep, single, shards) = sources();
    let out = tempfile::tempdir().unwrap();
    let file = put(out.path(), "file", b"x");
    let full = out.path().join("full");
    fs::create_dir(&full).unwrap();
    put(&full, "x", b"x");
    let dangling = out.path().join("dangling");
    symlink("nowhere", &dangling).unwrap();
    for (source, dest, form) in [
        (&single, full.clone(), Form::File),
        (&single, PathBuf::from("/dev/null"), Form::File),
        (&single, PathBuf::from("/"), Form::Directory),
        (&shards, file.clone(), Form::Directory),
        (&shards, full.clone(), Form::Directory),
        (&shards, dangling, Form::Directory),
    ] {
        let error = create(source, &dest, form).unwrap_err();
        assert!(matches!(error, CheckpointError::Destination { .. }), "{}: {error}", dest.display());
    }
    let error = create(&shards, &file, Form::File).unwrap_err();
    assert!(matches!(error, CheckpointError::NeedsDirectory { files: 2, index: true, .. }), "{error}");
    let absent = out.path().join("absent");
    let error = create(&single, &absent.join("dest"), Form::File).unwrap_err();
    assert!(error.to_string().contains(absent.to_str().unwrap()), "{error}");
    let CheckpointError::Io { source, .. } = error else { panic!("{error}") };
    assert_eq!(source.kind(), std::io::ErrorKind::NotFound);
    assert_eq!(names(out.path()), ["dangling", "file", "full"]);
    assert_eq!((fs::read(&file).unwrap(), names(&full)), (b"x".to_vec(), vec!["x".to_owned()]));
}

#[test]
fn an_empty_directory_is_taken_over_through_a_link_too() {
    let (_keep, _, shards) = sources();
    let out = tempfile::tempdir().unwrap();
    let (real, link) = (out.path().join("real"), out.path().join("link"));
    fs::create_dir(&real).unwrap();
    symlink(&real, &link).unwrap();
    let writer = create(&shards, &link, Form::Directory).unwrap();
    fill(&writer, &shards);
    writer.commit().unwrap();
    assert_eq!(contents(&open(&real).unwrap()), contents(&shards));
    assert_eq!(names(out.path()), ["link", "real"]);
}

#[test]
fn a_directory_that_fills_up_meanwhile_is_left_alone() {
    let (_keep, _, shards) = sources();
    let out = tempfile::tempdir().unwrap();
    let dest = out.path().join("dest");
    let writer = create(&shards, &dest, Form::Directory).unwrap();
    fill(&writer, &shards);
    fs::create_dir(&dest).unwrap();
    put(&dest, "x", b"x");
    let error = writer.commit().unwrap_err();
    assert!(matches!(error, CheckpointError::Destination { .. }), "{error}");
    assert_eq!((names(out.path()), names(&dest)), (vec!["dest".to_owned()], vec!["x".to_owned()]));
}

#[test]
fn modes_are_those_of_any_new_file() {
    let (_keep, _, shards) = sources();
    let out = tempfile::tempdir().unwrap();
    let plain_file = put(out.path(), "plain", b"");
    let plain_directory = out.path().join("plain-directory");
    fs::create_dir(&plain_directory).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    let dest = out.path().join("dest");
    let writer = create(&shards, &dest, Form::Directory).unwrap();
    fill(&writer, &shards);
    writer.copy_companion(&shards.companions(&[]).unwrap().carried[0]).unwrap();
    writer.commit().unwrap();
    assert_eq!(mode(&dest), mode(&plain_directory));
    for name in names(&dest) {
        assert_eq!(mode(&dest.join(&name)), mode(&plain_file), "{name}");
    }
    let (_keep, single, _) = sources();
    let dest = out.path().join("single");
    let writer = create(&single, &dest, Form::File).unwrap();
    fill(&writer, &single);
    writer.commit().unwrap();
    assert_eq!(mode(&dest), mode(&plain_file));
}

#[test]
fn room_is_asked_for_before_any_work_and_the_refusal_says_how_much() {
    let out = tempfile::tempdir().unwrap();
    let existing = put(out.path(), "dest", b"precious");
    // 32 TiB: more than any disk that this runs on, and less than the default limits allow.
    let tensor = TensorSpec::new("t", Dtype::new("U8").unwrap(), vec![32 << 40]).unwrap();
    let schema = Schema::new(vec![tensor]).unwrap();
    let layout = generate_layout(&schema).unwrap();
    let placement = Placement::new(&schema, &layout, &Limits::default()).unwrap();
    match CheckpointWriter::create(&existing, Form::File, &schema, &layout, &placement).unwrap_err() {
        CheckpointError::NoRoom { path, needed, available } => {
            assert_eq!((path, needed), (existing.clone(), placement.file_len(0)));
            assert!(available.unwrap() < needed);
        }
        other => panic!("{other}"),
    }
    assert_eq!(names(out.path()), ["dest"]);
    assert_eq!(fs::read(&existing).unwrap(), b"precious");
}

#[test]
fn blocks_are_reserved_before_the_bytes_are_written() {
    let (_keep, single, _) = sources();
    let out = tempfile::tempdir().unwrap();
    let _writer = create(&single, &out.path().join("dest"), Form::File).unwrap();
    let staging = out.path().join(&names(out.path())[0]);
    let metadata = fs::metadata(staging).unwrap();
    assert_eq!(metadata.len(), single.placement().file_len(0));
    assert!(metadata.blocks() * 512 >= 5000, "{} blocks", metadata.blocks());
}

#[test]
fn what_dead_writers_left_is_swept_and_what_live_ones_hold_is_not() {
    let (_keep, single, shards) = sources();
    let out = tempfile::tempdir().unwrap();
    let live = create(&single, &out.path().join("dest"), Form::File).unwrap();
    let live_directory = create(&shards, &out.path().join("dest"), Form::Directory).unwrap();
    let held = names(out.path());
    put(out.path(), ".dest.tensorpatch-1-0123456789abcdef", b"left");
    let left = out.path().join(".dest.tensorpatch-999999999-0123456789abcdef");
    fs::create_dir(&left).unwrap();
    put(&left, "model.safetensors", b"left");
    put(&left, ".tensorpatch-staging", b"");
    // Names that only look alike are the user's.
    let alike = [
        ".dest.tensorpatch-1",
        ".dest.tensorpatch-x-0123456789abcdef",
        ".other.tensorpatch-1-0123456789abcdef",
    ];
    for name in alike {
        put(out.path(), name, b"mine");
    }
    drop(create(&single, &out.path().join("dest"), Form::File).unwrap());
    let mut expected: Vec<_> = held.into_iter().chain(alike.map(str::to_owned)).collect();
    expected.sort();
    assert_eq!(names(out.path()), expected);
    fill(&live, &single);
    live.commit().unwrap();
    drop(live_directory);
}

#[test]
fn a_directory_that_somebody_has_given_the_name_of_a_staged_one_is_not_swept() {
    let (_keep, single, shards) = sources();
    let out = tempfile::tempdir().unwrap();
    let name = |pid: u32| format!(".dest.tensorpatch-{pid}-0123456789abcdef");
    for pid in 1..=3 {
        fs::create_dir_all(out.path().join(name(pid)).join("years/of")).unwrap();
        put(&out.path().join(name(pid)), "work", b"mine");
    }
    // A mark that another user has put there, as far as this one can make such.
    let mark = put(&out.path().join(name(2)), ".tensorpatch-staging", b"");
    fs::hard_link(&mark, out.path().join("kept")).unwrap();
    put(&out.path().join(name(3)), ".tensorpatch-staging", b"");
    fs::set_permissions(out.path().join(name(3)), fs::Permissions::from_mode(0o777)).unwrap();
    drop(create(&single, &out.path().join("dest"), Form::File).unwrap());
    drop(create(&shards, &out.path().join("dest"), Form::Directory).unwrap());
    for pid in 1..=3 {
        assert!(out.path().join(name(pid)).join("years/of").is_dir(), "{pid}");
    }
}

#[test]
fn a_directory_that_takes_the_place_of_a_staged_one_is_not_removed_with_it() {
    let (_keep, _, shards) = sources();
    let out = tempfile::tempdir().unwrap();
    let writer = create(&shards, &out.path().join("dest"), Form::Directory).unwrap();
    let staging = out.path().join(&names(out.path())[0]);
    fs::rename(&staging, out.path().join("aside")).unwrap();
    fs::create_dir_all(staging.join("years/of")).unwrap();
    drop(writer);
    assert!(staging.join("years/of").is_dir());
}

#[test]
#[ignore = "the process that a_killed_writer_is_swept_by_the_next_one kills"]
fn wait_with_a_writer() {
    let directory = PathBuf::from(std::env::var_os("TENSORPATCH_TEST_DIRECTORY").unwrap());
    let source = open(&directory.join("source")).unwrap();
    let _file = create(&source, &directory.join("dest"), Form::File).unwrap();
    let _directory = create(&source, &directory.join("dest"), Form::Directory).unwrap();
    println!("\nwaiting");
    std::thread::sleep(std::time::Duration::from_secs(600));
}

#[test]
fn a_killed_writer_is_swept_by_the_next_one() {
    let out = tempfile::tempdir().unwrap();
    let source = open(&put(out.path(), "source", &one_tensor("t", 3))).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "writing::wait_with_a_writer", "--ignored", "--nocapture"])
        .env("TENSORPATCH_TEST_DIRECTORY", out.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "waiting"));
    let create = || create(&source, &out.path().join("dest"), Form::File).unwrap();
    drop(create());
    assert_eq!(names(out.path()).len(), 3, "the live writer's are left alone");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(names(out.path()).len(), 3, "a killed writer cannot clean up");
    drop(create());
    assert_eq!(names(out.path()), ["source"]);
}

#[test]
fn writers_that_sweep_at_once_never_take_each_others_staging() {
    let (_keep, single, shards) = sources();
    let out = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let writer = create(&single, &out.path().join("dest"), Form::File).unwrap();
                    fill(&writer, &single);
                    writer.commit().unwrap();
                    let writer = create(&shards, &out.path().join("directory"), Form::Directory).unwrap();
                    writer.copy_companion(&shards.companions(&[]).unwrap().carried[0]).unwrap();
                }
            });
        }
    });
    assert_eq!(names(out.path()), ["dest"]);
    assert_eq!(contents(&open(&out.path().join("dest")).unwrap()), contents(&single));
}

#[test]
fn only_companions_go_beside_the_weights() {
    let (keep, single, shards) = sources();
    let out = tempfile::tempdir().unwrap();
    let writer = create(&shards, &out.path().join("dest"), Form::Directory).unwrap();
    let companion = |name: &str, path: PathBuf| Companion::new(name, path).unwrap();
    let config = put(keep.path(), "config.json", b"x");
    for name in [
        ".hidden",
        "model.safetensors.index.json",
        "x/y.safetensors",
        "../config.json",
        "/config.json",
        "a//b",
        "",
    ] {
        let error = writer.copy_companion(&companion(name, config.clone())).unwrap_err();
        assert!(matches!(error, CheckpointError::Destination { .. }), "{error}");
    }
    writer.copy_companion(&companion("1_Pooling/config.json", config.clone())).unwrap();
    let config = companion("config.json", config);
    writer.copy_companion(&config).unwrap();
    assert!(matches!(writer.copy_companion(&config), Err(CheckpointError::Io { action: "create", .. })));
    let writer = create(&single, &out.path().join("file"), Form::File).unwrap();
    assert!(matches!(writer.copy_companion(&config), Err(CheckpointError::Destination { .. })));
}

#[test]
fn a_companion_that_cannot_be_read_is_named_and_not_what_was_to_be_written() {
    let (keep, _, shards) = sources();
    let out = tempfile::tempdir().unwrap();
    let writer = create(&shards, &out.path().join("dest"), Form::Directory).unwrap();
    let unreadable = keep.path().join("vocab.json");
    fs::create_dir(&unreadable).unwrap();
    let companion = Companion::new("vocab.json", unreadable.clone()).unwrap();
    let error = writer.copy_companion(&companion).unwrap_err();
    assert!(error.to_string().contains(unreadable.to_str().unwrap()), "{error}");
}

#[test]
fn a_name_of_255_bytes_can_be_written() {
    let (_keep, single, _) = sources();
    let out = tempfile::tempdir().unwrap();
    let dest = out.path().join("n".repeat(255));
    let writer = create(&single, &dest, Form::File).unwrap();
    fill(&writer, &single);
    writer.commit().unwrap();
    assert_eq!(contents(&open(&dest).unwrap()), contents(&single));
}

#[test]
fn a_placement_of_another_layout_or_schema_writes_nothing() {
    let (_keep, single, shards) = sources();
    let out = tempfile::tempdir().unwrap();
    let of = |len| open(&put(out.path(), "source", &one_tensor("t", len))).unwrap();
    let (nine, eight) = (of(9), of(8));
    for (what, schema, layout, placement) in [
        ("layout", single.schema(), single.layout(), nine.placement()),
        ("schema", nine.schema(), eight.layout(), eight.placement()),
        ("tensors", shards.schema(), eight.layout(), eight.placement()),
    ] {
        let refused =
            CheckpointWriter::create(&out.path().join("dest"), Form::File, schema, layout, placement);
        assert!(matches!(refused, Err(CheckpointError::OtherPlacement { .. })), "{what}: {refused:?}");
    }
    assert_eq!(names(out.path()), ["source"]);
}

#[test]
fn an_atomic_file_appears_whole_or_leaves_nothing() {
    let out = tempfile::tempdir().unwrap();
    let dest = out.path().join("step.tpatch");
    fs::write(&dest, "old").unwrap();
    let mut file = AtomicFile::create(&dest).unwrap();
    file.write_all(b"new").unwrap();
    assert_eq!(fs::read(&dest).unwrap(), b"old");
    drop(file);
    assert_eq!((fs::read(&dest).unwrap(), names(out.path())), (b"old".to_vec(), vec!["step.tpatch".into()]));
    let mut file = AtomicFile::create(&dest).unwrap();
    file.write_all(b"new").unwrap();
    file.commit().unwrap();
    assert_eq!((fs::read(&dest).unwrap(), names(out.path())), (b"new".to_vec(), vec!["step.tpatch".into()]));
}

#[test]
fn what_a_dead_writer_of_an_atomic_file_left_is_removed_by_the_next() {
    let out = tempfile::tempdir().unwrap();
    let dest = out.path().join("step.tpatch");
    fs::write(out.path().join(".step.tpatch.tensorpatch-1234-0123456789abcdef"), "half").unwrap();
    drop(AtomicFile::create(&dest).unwrap());
    assert!(names(out.path()).is_empty());
}
