//! What is found beside the weights.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{chown, lchown, symlink};
use std::path::Path;

use crate::support::{contents, one_tensor, open, put, sharded};
use tensorpatch_checkpoint::{CheckpointError, Companion, CompanionObstacle, Misplaced, Omission, runs_code};

fn carried(directory: &Path) -> Vec<String> {
    let found = open(directory).unwrap().companions(&[]).unwrap();
    found.carried.into_iter().map(|companion| companion.name).collect()
}

fn left_out(directory: &Path) -> Vec<(String, Omission)> {
    let found = open(directory).unwrap().companions(&[]).unwrap();
    found.left_out.into_iter().map(|left| (left.name, left.why)).collect()
}

/// Fails the test unless `name` is refused for `obstacle` alone.
#[track_caller]
fn refused(directory: &Path, name: &str, obstacle: &CompanionObstacle) {
    match open(directory).unwrap().companions(&[]) {
        Err(CheckpointError::Companion { path, obstacle: found }) => {
            assert_eq!((path, &found), (directory.join(name), obstacle));
        }
        other => panic!("{other:?}"),
    }
}

fn model() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    put(directory.path(), "model.safetensors", &one_tensor("x", 3));
    put(directory.path(), "config.json", b"{}");
    directory
}

#[test]
fn small_files_in_subdirectories_belong_to_the_model() {
    let directory = model();
    let path = directory.path();
    fs::create_dir_all(path.join("1_Pooling/deeper")).unwrap();
    put(path, "tokenizer.model", b"x");
    put(path, "1_Pooling/config.json", b"{}");
    put(path, "1_Pooling/deeper/x.txt", b"");
    let expected = ["1_Pooling/config.json", "1_Pooling/deeper/x.txt", "config.json", "tokenizer.model"];
    assert_eq!(carried(path), expected);
    assert_eq!(left_out(path), []);
}

#[test]
fn other_weights_leftovers_hidden_files_and_components_are_left_out_by_name() {
    let directory = model();
    let path = directory.path();
    for name in ["2_Dense", "3_Normalize", "onnx", ".git"] {
        fs::create_dir(path.join(name)).unwrap();
    }
    let weights = [
        "adapter.safetensors",
        "model.onnx_data_1",
        "onnx/model.onnx",
        "other.safetensors.index.json",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
        "rust_model.ot",
        "tf.H5",
        "x.gguf",
        "x.npz",
        "x.pt",
    ];
    let leftovers = ["#x#", "config.json~", "model.safetensors.bak", "tokenizer.json.incomplete", "x.part"];
    // Each of a format that a replica refuses unless it is asked for.
    let code = ["fast.SO", "module.pyc", "scaler.joblib", "tokens.cloudpickle", "x.pk"];
    for name in weights.iter().chain(&leftovers).chain(&code) {
        put(path, name, b"x");
    }
    assert!(code.iter().all(|name| runs_code(name)) && !runs_code("config.json"));
    put(path, ".gitattributes", b"x");
    put(path, "2_Dense/model.safetensors", b"x");
    put(path, "2_Dense/config.json", b"x");
    put(path, "events.out.tfevents.1", b"x");
    assert_eq!(carried(path), ["config.json"]);
    let mut expected: Vec<(String, Omission)> = [
        (".git/", Omission::Hidden),
        (".gitattributes", Omission::Hidden),
        ("2_Dense/", Omission::Component),
        ("3_Normalize/", Omission::Empty),
        ("events.out.tfevents.1", Omission::Log),
    ]
    .map(|(name, why)| (name.to_owned(), why))
    .into();
    expected.extend(weights.map(|name| (name.to_owned(), Omission::Weights)));
    expected.extend(code.map(|name| (name.to_owned(), Omission::Code)));
    expected.extend(leftovers.map(|name| (name.to_owned(), Omission::Leftover)));
    expected.sort();
    assert_eq!(left_out(path), expected);
}

#[test]
fn what_is_asked_for_comes_along_unless_it_never_can() {
    let directory = model();
    let path = directory.path();
    for name in ["a.bin", ".hidden", "b.safetensors"] {
        put(path, name, b"x");
    }
    let checkpoint = open(path).unwrap();
    let found = checkpoint.companions(&["a.bin".into()]).unwrap();
    assert_eq!(
        found.carried.iter().map(|companion| companion.name.as_str()).collect::<Vec<_>>(),
        ["a.bin", "config.json"]
    );
    for name in [".hidden", "b.safetensors", "absent.bin"] {
        let error = checkpoint.companions(&[name.into()]).unwrap_err();
        let is_refused = |error: &CheckpointError| {
            matches!(error, CheckpointError::Companion { obstacle: CompanionObstacle::Asked(_), .. })
        };
        assert!(is_refused(&error), "{error}");
    }
}

#[test]
fn links_are_followed_within_the_checkpoint_and_the_cache_of_the_hub() {
    let outer = tempfile::tempdir().unwrap();
    let root = fs::canonicalize(outer.path()).unwrap();
    let (blobs, snapshot) = (root.join("models--a--b/blobs"), root.join("models--a--b/snapshots/1"));
    fs::create_dir_all(&blobs).unwrap();
    fs::create_dir_all(snapshot.join("1_Pooling")).unwrap();
    sharded(&blobs);
    put(&blobs, "0123", b"{}");
    for name in ["a.safetensors", "b.safetensors", "model.safetensors.index.json"] {
        symlink(format!("../../blobs/{name}"), snapshot.join(name)).unwrap();
    }
    symlink("../../blobs/0123", snapshot.join("config.json")).unwrap();
    symlink("../../../blobs/0123", snapshot.join("1_Pooling/config.json")).unwrap();
    symlink("config.json", snapshot.join("same.json")).unwrap();
    symlink("1_Pooling", snapshot.join("pooling")).unwrap();
    assert_eq!(contents(&open(&snapshot).unwrap()).len(), 2);
    assert_eq!(carried(&snapshot), ["1_Pooling/config.json", "config.json", "same.json"]);
    assert_eq!(left_out(&snapshot), [("pooling/".to_owned(), Omission::LinkedDirectory)]);
    let secret = put(&root, "secret", b"x");
    symlink(&secret, snapshot.join("1_Pooling/x.json")).unwrap();
    refused(&snapshot, "1_Pooling/x.json", &CompanionObstacle::LinkOutside(secret));
    fs::remove_file(snapshot.join("1_Pooling/x.json")).unwrap();
    symlink(&root, snapshot.join("elsewhere")).unwrap();
    refused(&snapshot, "elsewhere", &CompanionObstacle::LinkOutside(root.clone()));
    fs::remove_file(snapshot.join("elsewhere")).unwrap();
    // The cache has other models, which may be private.
    let others = root.join("models--me--private/blobs");
    fs::create_dir_all(&others).unwrap();
    let secret = put(&others, "4567", b"x");
    symlink(&secret, snapshot.join("x.json")).unwrap();
    refused(&snapshot, "x.json", &CompanionObstacle::LinkOutside(secret));
    fs::remove_file(snapshot.join("x.json")).unwrap();
    // A directory of links to a model of the cache, as older clients of the Hub make.
    let local = root.join("local");
    fs::create_dir(&local).unwrap();
    for name in ["a.safetensors", "b.safetensors", "model.safetensors.index.json"] {
        symlink(blobs.join(name), local.join(name)).unwrap();
    }
    symlink(blobs.join("0123"), local.join("config.json")).unwrap();
    assert_eq!(carried(&local), ["config.json"]);
}

#[test]
fn what_was_exchanged_for_a_link_since_it_was_found_is_not_read() {
    let outer = tempfile::tempdir().unwrap();
    let root = fs::canonicalize(outer.path()).unwrap();
    let (model, secrets) = (root.join("models--a--b/snapshots/1"), root.join("secrets"));
    let blobs = root.join("models--a--b/blobs");
    for directory in [&model.join("sub"), &blobs, &secrets] {
        fs::create_dir_all(directory).unwrap();
    }
    put(&model, "model.safetensors", &one_tensor("x", 3));
    for name in ["config.json", "sub/vocab.json"] {
        put(&model, name, b"{}");
    }
    for name in ["config.json", "vocab.json", "0123"] {
        put(&secrets, name, b"private");
    }
    put(&blobs, "0123", b"{}");
    symlink("../../blobs/0123", model.join("blob.json")).unwrap();
    symlink("sub/vocab.json", model.join("inner.json")).unwrap();
    let carried = open(&model).unwrap().companions(&[]).unwrap().carried;
    let read = |companion: &Companion| {
        let mut bytes = String::new();
        companion.open().and_then(|mut file| file.read_to_string(&mut bytes)).map(|_| bytes)
    };
    assert!(carried.iter().all(|companion| read(companion).unwrap() == "{}"));
    let exchange = |place: &Path, link: &Path| {
        fs::rename(place, place.with_extension("aside")).unwrap();
        symlink(link, place).unwrap();
    };
    exchange(&model.join("config.json"), &secrets.join("config.json"));
    exchange(&model.join("sub"), &secrets);
    // Where links led when they were looked at counts, and that what was there is there still.
    exchange(&model.join("blob.json"), &secrets.join("config.json"));
    assert_eq!(read(&carried[0]).unwrap(), "{}");
    exchange(&blobs.join("0123"), &secrets.join("0123"));
    for companion in &carried {
        let error = read(companion).unwrap_err();
        assert!(Misplaced::of(&error).is_some(), "{}: {error}", companion.name);
    }
}

#[test]
fn files_whose_first_bytes_can_run_code_are_left_out_unless_they_are_asked_for() {
    let directory = model();
    let path = directory.path();
    let code: [(&str, &[u8]); 6] = [
        ("kernel.abi3", b"\x7fELF\x02\x01\x01\0\0"),
        ("optimizer.pth.tar", b"anything"),
        ("scheduler.ptx", b"PK\x03\x04\x14\0\0"),
        ("state", b"\x80\x04\x95\x1d\0"),
        ("tokens", b"\x1f\x8b\x08\0\0"),
        ("vectorizer.joblib.gz", b"anything"),
    ];
    for (name, bytes) in code {
        put(path, name, bytes);
    }
    put(path, "merges.txt.gz", b"\x1f\x8b\x08\0\0");
    put(path, "spiece.model", b"\n\x0e\n\x05<unk>\x15\0\0");
    put(path, "modeling_x.py", b"import os\n");
    assert_eq!(carried(path), ["config.json", "merges.txt.gz", "modeling_x.py", "spiece.model"]);
    assert_eq!(left_out(path), code.map(|(name, _)| (name.to_owned(), Omission::Code)));
    let asked = open(path).unwrap().companions(&["state".into()]).unwrap().carried;
    assert!(asked.iter().any(|companion| companion.name == "state"));
}

#[test]
fn weights_that_another_user_has_linked_to_what_is_not_theirs_are_refused() {
    let outer = tempfile::tempdir().unwrap();
    let root = fs::canonicalize(outer.path()).unwrap();
    let (model, private) = (root.join("model"), root.join("private"));
    let (snapshot, blobs) = (root.join("models--a--b/snapshots/1"), root.join("models--a--b/blobs"));
    for directory in [&model, &private, &snapshot, &blobs] {
        fs::create_dir_all(directory).unwrap();
    }
    let weights = put(&private, "model.safetensors", &one_tensor("x", 3));
    put(&blobs, "0123", &one_tensor("x", 3));
    put(&model, "inner", &one_tensor("x", 3));
    let link = model.join("model.safetensors");
    symlink(&weights, &link).unwrap();
    // A link of one's own leads where it leads.
    open(&model).unwrap();
    if lchown(&link, Some(65534), Some(65534)).is_err() {
        eprintln!("LEFT OUT: not run as root, links have one owner");
        return;
    }
    let refused = |path: &Path| {
        let error = open(path).unwrap_err();
        assert!(matches!(error, CheckpointError::ForeignLink { .. }), "{error}");
    };
    refused(&model);
    // Nor by way of a link that is one's own, or of a directory that is none.
    symlink(&link, root.join("own")).unwrap();
    fs::remove_file(&link).unwrap();
    symlink(&private, model.join("directory")).unwrap();
    lchown(model.join("directory"), Some(65534), Some(65534)).unwrap();
    symlink("directory/model.safetensors", &link).unwrap();
    refused(&model);
    // What they could read themselves gives nothing away.
    chown(&weights, Some(65534), None).unwrap();
    open(&model).unwrap();
    chown(&weights, Some(0), None).unwrap();
    // In the checkpoint, and to blobs of its model.
    let theirs = |target: &str, place: &Path| {
        let _ = fs::remove_file(place);
        symlink(target, place).unwrap();
        lchown(place, Some(65534), Some(65534)).unwrap();
    };
    theirs("inner", &link);
    open(&model).unwrap();
    theirs("../../blobs/0123", &snapshot.join("model.safetensors"));
    open(&snapshot).unwrap();
    theirs("../models--a--b/blobs/0123", &link);
    refused(&model);
    // What the user names is theirs to name.
    assert!(open(&link).is_ok());
}

#[test]
fn a_file_of_weights_that_was_exchanged_is_not_opened_once_more() {
    let directory = model();
    let path = directory.path();
    let checkpoint = open(path).unwrap();
    assert!(checkpoint.reopen(0).is_ok() && checkpoint.reopen(1).is_err());
    let weights = path.join("model.safetensors");
    fs::rename(&weights, path.join("aside")).unwrap();
    symlink(put(path, "other", &one_tensor("x", 3)), &weights).unwrap();
    let error = checkpoint.reopen(0).unwrap_err();
    assert!(error.to_string().contains("replaced"), "{error}");
    fs::remove_file(&weights).unwrap();
    fs::rename(path.join("aside"), &weights).unwrap();
    assert!(checkpoint.reopen(0).is_ok());
}

#[test]
fn what_cannot_be_carried_is_refused_by_name_and_never_passes_for_absent() {
    let directory = model();
    let path = directory.path();
    symlink("nowhere", path.join("dangling.json")).unwrap();
    refused(path, "dangling.json", &CompanionObstacle::DanglingLink("nowhere".into()));
    fs::remove_file(path.join("dangling.json")).unwrap();
    // The link to weights of another format need not lead anywhere.
    symlink("nowhere", path.join("pytorch_model.bin")).unwrap();
    fs::create_dir(path.join("d")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, path.join("d/pipe"), 0o600.into()).unwrap();
    refused(path, "d/pipe", &CompanionObstacle::Special);
    fs::remove_file(path.join("d/pipe")).unwrap();
    let deep = ["a"; 9].join("/");
    fs::create_dir_all(path.join(&deep)).unwrap();
    refused(path, &deep, &CompanionObstacle::Depth);
}

#[test]
fn a_name_that_is_not_utf_8_is_refused() {
    use std::os::unix::ffi::OsStrExt;
    let directory = model();
    let name = std::ffi::OsStr::from_bytes(b"caf\xe9.json");
    fs::write(directory.path().join(name), b"x").unwrap();
    let error = open(directory.path()).unwrap().companions(&[]).unwrap_err();
    let expected = directory.path().join(name);
    assert!(
        matches!(&error, CheckpointError::Companion { path, obstacle: CompanionObstacle::Name } if *path == expected),
        "{error}"
    );
}
