//! What is found beside the weights.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::support::{contents, one_tensor, open, put, sharded};
use tensorpatch_checkpoint::{CheckpointError, CompanionObstacle, Omission, runs_code};

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
