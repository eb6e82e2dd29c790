//! Two roles in one place: refused by every command before anything is altered, whichever way it is the same
//! place.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{Outcome, arguments, finish, fixture, run, shard, temporary, tree};

const REFUSED: i32 = 2;

/// A checkpoint, a patch for it, a stream with a version, and what belongs to them.
struct Scene {
    dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let scene = Self { dir: temporary() };
        shard(&fixture(4), &scene.path("old"), 2);
        shard(&fixture(5), &scene.path("new"), 2);
        run(&arguments!["diff", scene.path("old"), scene.path("new"), "-o", scene.path("patch")]).ok();
        for checkpoint in ["old", "new"] {
            let (stream, baseline) = (scene.path("stream"), scene.path("baseline"));
            run(&arguments!["publish", scene.path(checkpoint), "--to", stream, "--baseline", baseline]).ok();
        }
        run(&arguments!["pull", scene.path("stream"), scene.path("replica")]).ok();
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The arguments, with a path of the scene in the place of every `@NAME`.
    fn arguments(&self, line: &str) -> Vec<OsString> {
        let argument = |word: &str| match word.strip_prefix('@') {
            Some(name) => self.path(name).into_os_string(),
            None => word.into(),
        };
        line.split_whitespace().map(argument).collect()
    }

    /// Runs `line`, which must be refused by the names of both roles, and must not alter anything.
    #[track_caller]
    fn refused(&self, line: &str, roles: [&str; 2]) {
        let before = tree(self.dir.path());
        let words = roles.map(|role| format!("the {role} "));
        let said = run(&self.arguments(line)).fails(REFUSED, &[&words[0], &words[1], "a place of its own"]);
        assert!(tree(self.dir.path()) == before, "{line} altered something: {}", said.stderr);
    }
}

/// Each command, once for each pair of its roles of which one is written.
const PAIRS: [(&str, [&str; 2]); 27] = [
    ("diff @old @new -o @old/step.tpatch", ["output", "base"]),
    ("diff @old @new -o @new/config.json", ["output", "target"]),
    ("apply @old @patch -o @patch", ["output", "patch"]),
    ("apply @old @patch -o @old", ["output", "base"]),
    ("apply @old @patch -o @old/rebuilt", ["output", "base"]),
    ("convert @patch --base @old --to checkpoint -o @patch", ["output", "source"]),
    ("convert @patch --base @old --to checkpoint -o @old/rebuilt", ["output", "base"]),
    ("publish @new --to @stream --baseline @new", ["checkpoint", "baseline"]),
    ("publish @new --to @stream --baseline @new/baseline", ["checkpoint", "baseline"]),
    ("publish @baseline --to @stream --baseline @baseline", ["checkpoint", "baseline"]),
    ("publish @replica --to @stream --baseline @replica", ["checkpoint", "baseline"]),
    ("publish @new --to @new --baseline @baseline", ["checkpoint", "stream"]),
    ("publish @new --to @new/stream --baseline @baseline", ["checkpoint", "stream"]),
    ("publish @new --to @stream --baseline @stream", ["baseline", "stream"]),
    ("publish @new --to @stream --baseline @stream/baseline", ["baseline", "stream"]),
    ("publish @new --to @stream --base @old --baseline @old", ["base", "baseline"]),
    ("publish @new --to @old/stream --base @old --baseline @baseline", ["base", "stream"]),
    ("anchor @stream --baseline @stream/baseline", ["baseline", "stream"]),
    ("pull @stream @stream", ["replica", "stream"]),
    ("pull @stream @stream/replica --beside", ["replica", "stream"]),
    ("follow @stream @stream/replica --until 2", ["replica", "stream"]),
    ("fold @stream --from 1 --to 2 --work @stream", ["working directory", "stream"]),
    ("fold @stream --from 1 --to 2 --work @stream/work", ["working directory", "stream"]),
    ("mirror @stream @stream --work @work", ["copy", "stream"]),
    ("mirror @stream @stream/copy --work @work", ["copy", "stream"]),
    ("mirror @stream @copy --work @stream/work", ["working directory", "stream"]),
    ("mirror @stream @copy --work @copy", ["copy", "working directory"]),
];

#[test]
fn no_two_roles_share_a_place_in_any_command() {
    let scene = Scene::new();
    for (line, roles) in PAIRS {
        scene.refused(line, roles);
    }
}

#[test]
fn a_link_to_a_place_or_into_it_is_that_place() {
    let scene = Scene::new();
    for (target, link) in [("new", "to-new"), ("stream", "to-stream"), ("old", "to-old")] {
        symlink(scene.path(target), scene.path(link)).unwrap();
    }
    for (line, roles) in [
        ("publish @new --to @stream --baseline @to-new", ["checkpoint", "baseline"]),
        ("publish @to-new --to @stream --baseline @new", ["checkpoint", "baseline"]),
        ("publish @new --to @stream --baseline @to-new/baseline", ["checkpoint", "baseline"]),
        ("pull @to-stream @stream/replica", ["replica", "stream"]),
        ("mirror @stream @to-stream/copy --work @work", ["copy", "stream"]),
        ("diff @to-old @new -o @old/step.tpatch", ["output", "base"]),
        ("apply @old @patch -o @to-old/rebuilt", ["output", "base"]),
    ] {
        scene.refused(line, roles);
    }
    // A checkpoint whose files are links, as in a cache: what they lead to is read as well.
    fs::create_dir(scene.path("linked")).unwrap();
    fs::copy(fixture(4), scene.path("blob")).unwrap();
    symlink("../blob", scene.path("linked/model.safetensors")).unwrap();
    scene.refused("diff @linked @new -o @blob", ["output", "base"]);
}

/// Runs a command where `place` is also mounted at `mount`; nothing where this user may not mount.
fn with_mount(place: &Path, mount: &Path, arguments: &[OsString]) -> Option<Outcome> {
    let script = "mount --bind \"$1\" \"$2\" && shift 2 && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script, "sh"]).args([place, mount]);
    command.arg(env!("CARGO_BIN_EXE_tensorpatch")).args(arguments);
    let outcome = finish(command.stdin(Stdio::null()));
    if outcome.stderr.contains("unshare") || outcome.stderr.contains("mount:") {
        eprintln!("LEFT OUT: this user may not mount: {}", outcome.stderr);
        return None;
    }
    Some(outcome)
}

#[test]
fn a_bind_mount_of_a_place_is_that_place() {
    let scene = Scene::new();
    fs::create_dir(scene.path("mount")).unwrap();
    let before = tree(&scene.path("new"));
    for line in [
        "publish @new --to @stream --baseline @mount",
        "publish @mount --to @stream --baseline @new/baseline",
        "publish @new --to @mount/stream --baseline @baseline",
    ] {
        let Some(outcome) = with_mount(&scene.path("new"), &scene.path("mount"), &scene.arguments(line))
        else {
            return;
        };
        outcome.fails(REFUSED, &["the checkpoint ", "a place of its own"]);
        assert!(tree(&scene.path("new")) == before, "{line}");
    }
}

#[test]
fn a_replica_is_published_from_and_places_side_by_side_are_apart() {
    let scene = Scene::new();
    for line in [
        "publish @replica --to @stream --baseline @baseline --allow-unchanged",
        "publish @replica --to @other --baseline @other-baseline",
        "publish @new --to @stream --base @new --baseline @baseline --allow-unchanged",
        "diff @old @old -o @empty.tpatch",
        "apply @old @patch -o @rebuilt",
        "apply @old @patch --in-place",
        "mirror @stream @copy --work @work",
        "fold @stream --from 1 --to 2 --work @fold",
    ] {
        run(&scene.arguments(line)).ok();
    }
}
