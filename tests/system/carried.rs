//! What of a checkpoint travels: all of it, or what stays behind is said by name; and what cannot arrive
//! never leaves.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{
    Outcome, arguments, fixture, read, run, same_checkpoint, shard, temporary, tree, write,
};

const FAILED: i32 = 1;
const REFUSED: i32 = 2;
const BAD_INPUT: i32 = 3;

/// A checkpoint directory to publish, and a stream that does not exist yet.
struct Scene {
    dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let scene = Self { dir: temporary() };
        fs::create_dir(scene.model()).unwrap();
        scene.weights("model.safetensors", 4);
        scene.put("config.json", b"{}");
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn model(&self) -> PathBuf {
        self.path("model")
    }

    fn stream(&self) -> PathBuf {
        self.path("stream")
    }

    fn replica(&self) -> PathBuf {
        self.path("replica")
    }

    fn weights(&self, name: &str, number: u32) {
        fs::copy(fixture(number), self.model().join(name)).unwrap();
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        let path = self.model().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        write(&path, bytes);
    }

    fn publish(&self, more: &[&str]) -> Outcome {
        let (model, stream, baseline) = (self.model(), self.stream(), self.path("baseline"));
        let mut arguments =
            arguments!["publish", model, "--to", stream, "--baseline", baseline, "--json"].to_vec();
        arguments.extend(more.iter().map(Into::into));
        run(&arguments)
    }

    #[track_caller]
    fn pull(&self, version: u64) -> Value {
        let (stream, replica) = (self.stream(), self.replica());
        run(&arguments!["pull", stream, replica, "--version", version.to_string(), "--json"]).ok().json()
    }

    /// Publishing must be refused before anything is made, by words that name the file and the way out.
    #[track_caller]
    fn refused(&self, words: &[&str]) {
        let before = if self.stream().exists() { tree(&self.stream()) } else { Default::default() };
        let outcome = self.publish(&[]).fails(REFUSED, words);
        assert_eq!(outcome.json()["error"]["exit_code"], REFUSED);
        let after = if self.stream().exists() { tree(&self.stream()) } else { Default::default() };
        assert!(after == before, "something was uploaded");
        assert!(!self.path("baseline").exists() || !before.is_empty());
    }
}

fn names(report: &Value, list: &str) -> Vec<String> {
    let names = report[list].as_array().unwrap().iter();
    names.map(|entry| entry["name"].as_str().or(entry.as_str()).unwrap().to_owned()).collect()
}

#[test]
fn subdirectories_travel_and_what_stays_behind_is_said_by_name() {
    let scene = Scene::new();
    scene.put("modules.json", b"[{\"path\":\"1_Pooling\"}]");
    scene.put("1_Pooling/config.json", b"{\"pooling\":true}");
    scene.put("a/b/c/d.txt", b"deep");
    for name in ["rust_model.ot", "tokenizer.json.incomplete", "model.safetensors.bak", ".gitattributes"] {
        scene.put(name, b"x");
    }
    scene.put("2_Dense/model.safetensors", b"x");
    let report = scene.publish(&[]).ok().json();
    let carried = ["1_Pooling/config.json", "a/b/c/d.txt", "config.json", "modules.json"];
    assert_eq!(names(&report, "companions"), carried);
    let left_out =
        [".gitattributes", "2_Dense/", "model.safetensors.bak", "rust_model.ot", "tokenizer.json.incomplete"];
    assert_eq!(names(&report, "left_out"), left_out);
    assert_eq!(report["left_out"][1]["why"], "component");
    for name in left_out {
        let path = scene.model().join(name);
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
    }
    scene.pull(1);
    same_checkpoint(&scene.replica(), &scene.model());
    run(&arguments!["fsck", scene.stream()]).ok();
    // The anchor is a checkpoint of its own.
    let anchor = fs::read_dir(scene.stream().join("anchors")).unwrap().flatten();
    let anchor = anchor.map(|entry| entry.path()).find(|path| path.is_dir()).unwrap();
    same_checkpoint(&anchor, &scene.model());
}

#[test]
fn files_that_become_directories_and_directories_that_become_files_are_followed_both_ways() {
    let scene = Scene::new();
    scene.put("extra", b"a file");
    scene.put("deep/er/x.txt", b"x");
    scene.publish(&[]).ok();
    let first = scene.path("first");
    run_copy(&scene.model(), &first);
    fs::remove_file(scene.model().join("extra")).unwrap();
    fs::remove_dir_all(scene.model().join("deep")).unwrap();
    scene.put("extra/now/a.txt", b"a directory");
    scene.put("deep", b"a file");
    scene.weights("model.safetensors", 5);
    scene.publish(&[]).ok();
    for version in [1, 2, 1, 2] {
        scene.pull(version);
        let expected = if version == 1 { first.clone() } else { scene.model() };
        same_checkpoint(&scene.replica(), &expected);
    }
    assert!(!scene.replica().join("deep").is_dir());
}

fn run_copy(from: &Path, to: &Path) {
    for (path, bytes) in tree(from) {
        let target = to.join(path);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        write(&target, &bytes);
    }
}

#[test]
fn what_is_asked_for_is_carried() {
    let scene = Scene::new();
    scene.put("onnx/model.onnx", b"graph");
    let report = scene.publish(&["--carry", "onnx/model.onnx"]).ok().json();
    assert_eq!(names(&report, "companions"), ["config.json", "onnx/model.onnx"]);
    scene.pull(1);
    assert_eq!(read(&scene.replica().join("onnx/model.onnx")), b"graph");
    scene.publish(&["--carry", "absent.bin"]).fails(REFUSED, &["absent.bin", "no such file"]);
}

#[test]
fn what_no_replica_could_write_is_refused_before_anything_is_uploaded() {
    let scene = Scene::new();
    let put_and_refuse = |name: &str, words: &[&str]| {
        scene.put(name, b"x");
        scene.refused(words);
        fs::remove_file(scene.model().join(name)).unwrap();
    };
    let long = format!("{}.json", "n".repeat(246));
    put_and_refuse(&long, &[&long, "251 bytes", "rename"]);
    put_and_refuse(&format!("d/{}", "漢".repeat(82)), &["d/漢漢", "246 bytes"]);
    put_and_refuse("a%b.json", &["a%b.json", "rename"]);
    put_and_refuse("d/a[1].json", &["a[1].json"]);
    put_and_refuse("Config.JSON", &["config.json", "Config.JSON", "rename one"]);
}

#[test]
fn links_that_lead_nowhere_or_outside_special_and_oversized_files_are_refused_by_name() {
    let scene = Scene::new();
    let secret = scene.path("secret");
    write(&secret, b"private");
    fs::create_dir(scene.model().join("sub")).unwrap();
    for (target, word) in [("../nowhere", "not there"), (secret.to_str().unwrap(), "outside")] {
        for name in ["link.json", "sub/link.json"] {
            symlink(target, scene.model().join(name)).unwrap();
            scene.refused(&[name, word, "remove the link"]);
            fs::remove_file(scene.model().join(name)).unwrap();
        }
    }
    symlink(scene.dir.path(), scene.model().join("elsewhere")).unwrap();
    scene.refused(&["elsewhere", "outside"]);
    fs::remove_file(scene.model().join("elsewhere")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, scene.model().join("sub/pipe"), 0o600.into()).unwrap();
    scene.refused(&["sub/pipe", "neither a file nor a directory"]);
    fs::remove_file(scene.model().join("sub/pipe")).unwrap();
    fs::File::create(scene.model().join("huge.txt")).unwrap().set_len(300 << 20).unwrap();
    scene.refused(&["huge.txt", "314572800 bytes"]);
    fs::remove_file(scene.model().join("huge.txt")).unwrap();
    symlink("sub", scene.model().join("also")).unwrap();
    let report = scene.publish(&[]).ok().json();
    assert_eq!(names(&report, "left_out"), ["also/", "sub/"]);
}

#[test]
fn a_file_of_the_version_before_that_cannot_be_read_never_counts_as_removed() {
    let scene = Scene::new();
    scene.put("1_Pooling/config.json", b"{}");
    scene.publish(&[]).ok();
    scene.weights("model.safetensors", 5);
    for name in ["config.json", "1_Pooling/config.json"] {
        let path = scene.model().join(name);
        fs::remove_file(&path).unwrap();
        symlink("nowhere", &path).unwrap();
        scene.refused(&[name]);
        fs::remove_file(&path).unwrap();
        write(&path, b"{}");
    }
    assert_eq!(scene.publish(&[]).ok().json()["version"], 2);
}

#[test]
fn shard_names_that_cannot_be_published_are_found_before_the_upload() {
    let scene = Scene::new();
    fs::remove_dir_all(scene.model()).unwrap();
    shard(&fixture(4), &scene.model(), 2);
    let (old, new) = ("model-00001-of-00002.safetensors", "a%b.safetensors");
    fs::rename(scene.model().join(old), scene.model().join(new)).unwrap();
    let index = scene.model().join("model.safetensors.index.json");
    let text = String::from_utf8(read(&index)).unwrap().replace(old, new);
    write(&index, text.as_bytes());
    scene.refused(&[new, "rename"]);
    fs::remove_file(scene.model().join(new)).unwrap();
}

#[test]
fn publishing_what_is_no_checkpoint_leaves_nothing() {
    let scene = Scene::new();
    let baseline = scene.path("baseline");
    let absent = scene.path("absent");
    run(&arguments!["publish", absent, "--to", scene.stream(), "--baseline", baseline, "--json"])
        .fails(FAILED, &["absent", "check the path"]);
    assert!(!scene.stream().exists());
    assert!(!scene.path("baseline").exists());
}

#[test]
fn a_label_hides_no_change_of_any_file() {
    let scene = Scene::new();
    let publish = || scene.publish(&["--label", "step 1"]).ok().json();
    assert_eq!((publish()["version"].as_u64(), publish()["resumed"].as_bool()), (Some(1), Some(true)));
    for (number, change) in [(2, "edited"), (3, "added"), (4, "removed")] {
        match change {
            "edited" => scene.put("config.json", b"{\"edited\":true}"),
            "added" => scene.put("sub/new.json", b"{}"),
            _ => fs::remove_dir_all(scene.model().join("sub")).unwrap(),
        }
        assert_eq!(
            (publish()["version"].as_u64(), publish()["resumed"].as_bool()),
            (Some(number), Some(true))
        );
        scene.pull(number);
        assert!(read(&scene.replica().join("config.json")) == read(&scene.model().join("config.json")));
        assert_eq!(scene.replica().join("sub/new.json").exists(), change == "added");
    }
}

#[test]
fn a_single_file_of_another_name_keeps_it() {
    for name in ["adapter_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"] {
        let scene = Scene::new();
        fs::remove_file(scene.model().join("model.safetensors")).unwrap();
        for (version, number) in [(1, 4), (2, 5)] {
            scene.weights(name, number);
            assert_eq!(scene.publish(&[]).ok().json()["version"], version);
            scene.pull(version);
            same_checkpoint(&scene.replica(), &scene.model());
        }
        scene.pull(1);
        assert!(read(&scene.replica().join(name)) == read(&fixture(4)));
        // Patches of such directories, too.
        let (patch, out) = (scene.path("p.tpatch"), scene.path("out"));
        run(&arguments!["diff", scene.replica(), scene.model(), "-o", patch]).ok();
        run(&arguments!["apply", scene.replica(), patch, "-o", out]).ok();
        same_checkpoint(&out, &scene.model());
    }
}

#[test]
fn directories_of_other_shapes_are_refused_with_what_is_there() {
    let scene = Scene::new();
    let model = scene.model();
    fs::create_dir_all(model.join("unet")).unwrap();
    fs::rename(model.join("model.safetensors"), model.join("unet/diffusion_pytorch_model.safetensors"))
        .unwrap();
    scene.put("pytorch_model.bin", b"x");
    scene.publish(&[]).fails(BAD_INPUT, &["unet/", "give one of them"]);
    run(&arguments!["publish", model.join("unet"), "--to", scene.stream(), "--baseline", scene.path("b")])
        .ok();
    fs::remove_dir_all(model.join("unet")).unwrap();
    scene.publish(&[]).fails(BAD_INPUT, &["pytorch_model.bin", "convert"]);
}

#[test]
fn other_kinds_of_files_are_named_with_a_next_step() {
    let dir = temporary();
    let path = dir.path().join("model.safetensors");
    for (bytes, words) in [
        (&b"version https://git-lfs.github.com/spec/v1\n"[..], &["Git LFS", "git lfs pull"][..]),
        (b"<!doctype html><title>Sign in</title>", &["web page", "fetch the file again"]),
        (b"PK\x03\x04\0\0\x08\x08\0\0\0\0", &["zip archive", "convert"]),
        (b"GGUF\x03\0\0\0\0\0\0\0", &["GGUF", "convert"]),
        (b"", &["empty", "fetch the file again"]),
        (b"\x00\x01\x00\x00\x00", &["expected 8 bytes, found 5", "not complete"]),
        (&read(&fixture(4))[..5000], &["162416 bytes", "found 5000", "not complete"]),
    ] {
        write(&path, bytes);
        let diff = arguments!["diff", fixture(4), dir.path(), "-o", dir.path().join("p.tpatch")];
        for arguments in [arguments!["digest", path].to_vec(), diff.to_vec()] {
            let outcome =
                run(&arguments).fails(BAD_INPUT, words).fails(BAD_INPUT, &["model.safetensors", "advice: "]);
            assert!(outcome.stdout.is_empty());
        }
    }
}

#[test]
fn every_error_about_a_sharded_checkpoint_names_it_and_has_a_next_step() {
    let scene = Scene::new();
    let index = r#"{"weight_map":{"x":"a.safetensors","y":"b.safetensors"}}"#;
    let tensor = |name: &str| {
        let json = format!(r#"{{"{name}":{{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}}}"#);
        [&(json.len() as u64).to_le_bytes()[..], json.as_bytes(), b"\x01"].concat()
    };
    for (a, b, words) in
        [("x", "x", &["\"x\" is in", "a.safetensors"][..]), ("x", "z", &["\"z\"", "weight_map"])]
    {
        let dir = scene.path(&format!("{a}{b}"));
        fs::create_dir(&dir).unwrap();
        write(&dir.join("model.safetensors.index.json"), index.as_bytes());
        write(&dir.join("a.safetensors"), &tensor(a));
        write(&dir.join("b.safetensors"), &tensor(b));
        let name = dir.file_name().unwrap().to_str().unwrap().to_owned();
        for side in
            [arguments!["diff", fixture(4), dir, "-o", "x"], arguments!["diff", dir, fixture(4), "-o", "x"]]
        {
            run(&side).fails(BAD_INPUT, words).fails(BAD_INPUT, &[&name, "advice: "]);
        }
    }
}
