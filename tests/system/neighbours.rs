//! What another user of the machine can plant where they may write: in a replica, a stream directory, a
//! working directory, beside a checkpoint. Run as root, another user plants it; else the same one does,
//! who may do more.

use std::ffi::{CString, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tensorpatch::delta::{Options, Progress, prepare_in_place};
use tensorpatch::store::ObjectDigest;
use tensorpatch::{Limits, Patch, diff};
use tensorpatch_synthetic::{Config, write_pair};

use crate::support::{Outcome, arguments, finish, read, run, same_checkpoint, temporary, write};

const REFUSED: i32 = 2;
const NOBODY: u32 = 65534;

/// A stream of two versions, a directory that everybody may write to, and one of the victim's own.
struct Scene {
    dir: tempfile::TempDir,
    base: PathBuf,
    target: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let dir = temporary();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let (base, target) = (dir.path().join("base.safetensors"), dir.path().join("target.safetensors"));
        write_pair(&Config { bytes: 2 << 20, seed: 11, ..Config::default() }, 1, &base, &target).unwrap();
        let scene = Self { dir, base, target };
        for checkpoint in [&scene.base, &scene.target] {
            scene.publish(checkpoint).ok();
        }
        fs::create_dir(scene.path("foreign")).unwrap();
        fs::create_dir(scene.path("foreign/inner")).unwrap();
        write(&scene.path("foreign/file"), b"theirs");
        write(&scene.path("foreign/inner/file"), b"theirs");
        scene.open_to_all("replica");
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn publish(&self, checkpoint: &Path) -> Outcome {
        let (stream, baseline) = (self.path("stream"), self.path("baseline"));
        run(&arguments!["publish", checkpoint, "--to", stream, "--baseline", baseline])
    }

    fn pull(&self) -> Outcome {
        // A pipe would hold it for ever.
        let mut command = Command::new("timeout");
        command.arg("60").arg(env!("CARGO_BIN_EXE_tensorpatch"));
        finish(command.args(arguments!["pull", self.path("stream"), self.path("replica")]))
    }

    /// A directory of the victim's in which others may write.
    fn open_to_all(&self, name: &str) {
        fs::create_dir_all(self.path(name)).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o777)).unwrap();
    }

    /// Has another user run these lines in the directory `name`; `$foreign` is the victim's own.
    fn plant(&self, name: &str, lines: &str) {
        let mut command = Command::new("sh");
        command.arg("-ec").arg(lines).env("foreign", self.path("foreign")).current_dir(self.path(name));
        if rustix::process::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        } else {
            eprintln!("not run as root: the same user plants");
        }
        finish(&mut command).ok();
    }

    #[track_caller]
    fn assert_untouched(&self) {
        assert_eq!(read(&self.path("foreign/file")), b"theirs");
        assert_eq!(read(&self.path("foreign/inner/file")), b"theirs");
        assert_eq!(fs::read_dir(self.path("foreign")).unwrap().count(), 2);
    }
}

/// The name of a file while it is not complete.
fn partial(name: &str) -> String {
    format!(".{}.partial", &digest(name.as_bytes())[..32])
}

fn digest(bytes: &[u8]) -> String {
    ObjectDigest::of(bytes).to_string()
}

#[test]
fn a_planted_hidden_directory_empties_nothing_and_is_named() {
    for (lines, named) in [
        ("mkdir .tensorpatch; ln -s \"$foreign\" .tensorpatch/downloads", "downloads"),
        ("ln -s \"$foreign\" .tensorpatch", ".tensorpatch"),
        ("mkdir .tensorpatch; ln -s \"$foreign/new\" .tensorpatch/lock", "lock"),
        ("mkdir .tensorpatch; ln -s \"$foreign/file\" .tensorpatch/state.json", "state.json"),
        ("mkdir .tensorpatch; mkfifo .tensorpatch/state.json", "state.json"),
        ("mkdir .tensorpatch; mkfifo .tensorpatch/lock", "lock"),
    ] {
        let scene = Scene::new();
        scene.plant("replica", lines);
        scene.pull().fails(REFUSED, &[named, "where", "belongs", "remove it"]);
        scene.assert_untouched();
        // The advice works.
        let hidden = scene.path("replica/.tensorpatch");
        if hidden.is_symlink() {
            fs::remove_file(&hidden).unwrap();
        } else {
            fs::remove_file(hidden.join(named)).unwrap();
        }
        scene.pull().ok();
        same_checkpoint(&scene.path("replica"), &scene.target);
    }
}

#[test]
fn beginnings_that_somebody_has_linked_elsewhere_are_not_written_through() {
    let scene = Scene::new();
    let mut lines = "mkdir .tensorpatch .tensorpatch/downloads\n".to_owned();
    let mut plant = |name: &str| lines += &format!("ln -s \"$foreign/file\" '.tensorpatch/{name}'\n");
    for name in ["state.json", "journal", "inverse", "inverse.next", "chain.json"] {
        plant(&partial(name));
    }
    for name in ["journal", "journal.partial", "inverse", "inverse.next", "outgoing", "staging"] {
        plant(name);
    }
    for (_, bytes) in crate::support::tree(&scene.path("stream")) {
        plant(&format!("downloads/{}", partial(&digest(&bytes))));
    }
    scene.plant("replica", &lines);
    scene.pull().ok();
    same_checkpoint(&scene.path("replica"), &scene.target);
    scene.assert_untouched();
}

#[test]
fn a_planted_state_moves_no_files_from_elsewhere() {
    let scene = Scene::new();
    scene.pull().ok();
    let hidden = scene.path("replica/.tensorpatch");
    let mut state: serde_json::Value = serde_json::from_slice(&read(&hidden.join("state.json"))).unwrap();
    let held = state["condition"]["held"].take();
    let install = serde_json::json!({"files": ["file"], "remove": []});
    state["condition"] = serde_json::json!({"switching": {"to": held, "install": install}});
    fs::remove_dir_all(&hidden).unwrap();
    scene.open_to_all("replica");
    let state = state.to_string();
    let lines = format!(
        "mkdir .tensorpatch; cd .tensorpatch; ln -s \"$foreign\" staging; echo '{state}' >state.json"
    );
    scene.plant("replica", &lines);
    scene.pull().fails(REFUSED, &["staging", "symbolic link"]);
    scene.assert_untouched();
    assert!(!scene.path("replica/file").exists());
}

#[test]
fn a_download_that_somebody_else_has_begun_does_not_become_the_replicas_file() {
    for whole in [false, true] {
        let scene = Scene::new();
        let mut lines = "mkdir .tensorpatch .tensorpatch/downloads; cd .tensorpatch/downloads\n".to_owned();
        for (name, bytes) in crate::support::tree(&scene.path("stream")) {
            let digest = digest(&bytes);
            let file = if whole { digest } else { partial(&digest) };
            let from = scene.path("stream").join(name);
            let end = if whole { "" } else { "| head -c 1000" };
            lines += &format!("cat '{}' {end} >{file}; ln {file} ../kept-{file}\n", from.display());
        }
        scene.plant("replica", &lines);
        scene.pull().ok();
        same_checkpoint(&scene.path("replica"), &scene.target);
        let metadata = scene.path("replica/model.safetensors").metadata().unwrap();
        assert_eq!((metadata.nlink(), metadata.uid()), (1, rustix::process::geteuid().as_raw()));
    }
}

#[test]
fn a_collector_deletes_nothing_that_a_link_below_the_stream_leads_to() {
    let scene = Scene::new();
    for folder in ["patches", "probe"] {
        scene.open_to_all(&format!("stream/{folder}"));
        let nonce = "abababababababababababababababab";
        let lines = format!("ln -s \"$foreign\" 00000000000000000002-{nonce}; ln -s \"$foreign/file\" file");
        scene.plant(&format!("stream/{folder}"), &lines);
    }
    run(&arguments!["gc", scene.path("stream"), "--keep", "1", "--grace", "0s", "--delete"]).ok();
    scene.assert_untouched();
}

#[test]
fn nothing_is_published_or_mirrored_through_a_link() {
    let scene = Scene::new();
    scene.open_to_all("copy");
    scene.plant("copy", "ln -s \"$foreign\" anchors");
    let (stream, copy, work) = (scene.path("stream"), scene.path("copy"), scene.path("work"));
    run(&arguments!["mirror", stream, copy, "--work", work]).fails(1, &["anchors", "symbolic link"]);
    scene.assert_untouched();

    fs::rename(scene.path("stream/patches"), scene.path("kept")).unwrap();
    scene.open_to_all("stream");
    scene.plant("stream", "ln -s \"$foreign\" patches");
    scene.publish(&scene.base).fails(1, &["patches", "symbolic link"]);
    scene.assert_untouched();
}

#[test]
fn working_directories_are_not_led_elsewhere() {
    let scene = Scene::new();
    scene.open_to_all("work");
    let mut lines = String::new();
    let stream = scene.path("stream");
    for name in crate::support::tree(&stream).into_keys() {
        let name = digest(name.as_os_str().as_bytes());
        lines += &format!("ln -s \"$foreign/file\" {}\n", partial(&name));
    }
    scene.plant("work", &lines);
    run(&arguments!["mirror", stream, scene.path("copy"), "--work", scene.path("work")]).ok();
    scene.assert_untouched();
}

#[test]
fn weights_that_a_neighbour_links_to_what_is_not_theirs_are_not_published() {
    let scene = Scene::new();
    fs::rename(&scene.target, scene.path("foreign/model.safetensors")).unwrap();
    fs::set_permissions(scene.path("foreign"), fs::Permissions::from_mode(0o700)).unwrap();
    scene.open_to_all("checkpoint");
    scene.plant("checkpoint", "ln -s \"$foreign/model.safetensors\" model.safetensors");
    let baseline = scene.path("new-baseline");
    let publish = ["checkpoint", "private-stream"].map(|name| scene.path(name));
    let outcome = run(&arguments!["publish", publish[0], "--to", publish[1], "--baseline", baseline]);
    if !rustix::process::geteuid().is_root() {
        return;
    }
    outcome.fails(REFUSED, &["model.safetensors", "another user has made", "copy the file here"]);
    assert!(!publish[1].join("anchors").exists());
    // A replica takes them for damage, and does not touch what they lead to.
    let before = read(&scene.path("foreign/model.safetensors"));
    scene.pull().ok();
    scene.plant("replica", "ln -sf \"$foreign/model.safetensors\" model.safetensors");
    scene.pull().ok();
    assert!(!scene.path("replica/model.safetensors").is_symlink());
    assert!(read(&scene.path("foreign/model.safetensors")) == before);
}

/// Exchanges two names for each other again and again until it is dropped.
struct Exchange {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Exchange {
    fn begin(one: PathBuf, other: PathBuf) -> Self {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).unwrap();
                std::thread::sleep(Duration::from_micros(100));
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

#[test]
fn what_is_exchanged_for_a_link_while_it_is_published_gives_nothing_away() {
    let scene = Scene::new();
    let model = scene.path("model");
    fs::create_dir_all(model.join("sub")).unwrap();
    fs::copy(&scene.base, model.join("model.safetensors")).unwrap();
    for name in ["file", "sub/file"] {
        write(&model.join(name), b"harmless");
    }
    for (planted, name, link) in [(".link", "file", "foreign/file"), (".directory", "sub", "foreign")] {
        std::os::unix::fs::symlink(scene.path(link), model.join(planted)).unwrap();
        let exchange = Exchange::begin(model.join(planted), model.join(name));
        for attempt in 0..25 {
            let stream = scene.path(&format!("stream-{name}-{attempt}"));
            let baseline = scene.path(&format!("baseline-{name}-{attempt}"));
            run(&arguments!["publish", model, "--to", stream, "--baseline", baseline]);
            if stream.exists() {
                let published = crate::support::tree(&stream);
                assert!(published.values().all(|bytes| bytes != b"theirs"), "{name}, attempt {attempt}");
            }
        }
        drop(exchange);
        fs::remove_file(model.join(planted)).or_else(|_| fs::remove_file(model.join(name))).unwrap();
        let _ = fs::rename(model.join(planted), model.join(name));
    }
}

#[test]
fn planted_weights_do_not_become_those_of_the_replica() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("LEFT OUT: not run as root, nobody else can plant");
        return;
    }
    for (damage, options) in [(true, ""), (false, ""), (false, "--beside")] {
        let scene = Scene::new();
        let (stream, replica) = (scene.path("stream"), scene.path("replica"));
        run(&arguments!["pull", stream, replica, "--version", "1"]).ok();
        let lines = "cp model.safetensors x; chmod 666 x; mv -f x model.safetensors\n".to_owned()
            + if damage {
                "printf Z | dd of=model.safetensors bs=1 seek=300000 conv=notrunc 2>/dev/null"
            } else {
                ""
            };
        scene.plant("replica", &lines);
        let mut pull = arguments!["pull", stream, replica, "--verify"].to_vec();
        if !options.is_empty() {
            pull.push(options.into());
        }
        run(&pull).ok();
        let weights = scene.path("replica/model.safetensors").metadata().unwrap();
        assert_eq!((weights.uid(), weights.mode() & 0o022), (0, 0), "{damage} {options}");
        same_checkpoint(&replica, &scene.target);
    }
}

#[test]
fn a_directory_that_a_neighbour_could_only_rename_is_not_deleted() {
    let scene = Scene::new();
    diff(&scene.base, &scene.target).unwrap().write(scene.path("step.tpatch")).unwrap();
    scene.open_to_all("shared");
    fs::create_dir_all(scene.path("shared/thesis/chapter")).unwrap();
    write(&scene.path("shared/thesis/chapter/1"), b"years");
    let name = ".out.tensorpatch-1-0123456789abcdef";
    scene.plant("shared", &format!("mv thesis {name}"));
    let out = scene.path("shared/out");
    fs::create_dir(scene.path("sharded")).unwrap();
    fs::rename(&scene.base, scene.path("sharded/model.safetensors")).unwrap();
    run(&arguments!["apply", scene.path("sharded"), scene.path("step.tpatch"), "-o", out]).ok();
    assert_eq!(read(&scene.path("shared").join(name).join("chapter/1")), b"years");
}

#[test]
fn a_journal_of_another_patch_is_not_replayed() {
    let scene = Scene::new();
    let evil = scene.path("evil.safetensors");
    write_pair(
        &Config { bytes: 2 << 20, seed: 11, ..Config::default() },
        3,
        &scene.path("unused.safetensors"),
        &evil,
    )
    .unwrap();
    let [good, bad] = [(&scene.target, "good.tpatch"), (&evil, "bad.tpatch")].map(|(target, name)| {
        diff(&scene.base, target).unwrap().write(scene.path(name)).unwrap();
        scene.path(name)
    });
    let (before, journal) = (read(&scene.base), scene.path(".base.safetensors.tensorpatch-journal"));
    let patch = Patch::open_within(&bad, &Limits::default()).unwrap();
    prepare_in_place(&scene.base, &patch, &journal, &Options::default(), Progress::none()).unwrap();
    let apply = |patch: &Path| run(&arguments!["apply", scene.base, patch, "--in-place"]);
    apply(&good).fails(REFUSED, &[journal.to_str().unwrap(), "another patch", "remove the journal"]);
    assert!(read(&scene.base) == before && journal.exists());
    // The patch that it belongs to finishes it.
    apply(&bad).ok();
    same_checkpoint(&scene.base, &evil);
    assert!(!journal.exists());
}

#[test]
fn special_files_beside_a_checkpoint_and_in_it_are_refused_at_once() {
    let scene = Scene::new();
    scene.pull().ok();
    let pipe = |path: &Path| {
        let path = CString::new(path.as_os_str().as_bytes()).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::from_raw_mode(0o666)).unwrap();
    };
    for name in ["config.json", "model.safetensors"] {
        let path = scene.path("replica").join(name);
        let _ = fs::remove_file(&path);
        pipe(&path);
    }
    scene.pull().ok();
    same_checkpoint(&scene.path("replica"), &scene.target);

    diff(&scene.base, &scene.target).unwrap().write(scene.path("step.tpatch")).unwrap();
    pipe(&scene.path(".base.safetensors.tensorpatch-journal"));
    let mut command = Command::new("timeout");
    command.arg("60").arg(env!("CARGO_BIN_EXE_tensorpatch"));
    let arguments: [OsString; 4] = arguments!["apply", scene.base, scene.path("step.tpatch"), "--in-place"];
    let outcome = finish(command.args(arguments));
    outcome.fails(REFUSED, &[".base.safetensors.tensorpatch-journal", "named pipe"]);
}
