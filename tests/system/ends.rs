//! How the program ends: by signals, by closed pipes and limits, and with outputs that are no files.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{Outcome, arguments, command, finish, fixture, read, run, temporary, write};

const FAILED: i32 = 1;
const REFUSED: i32 = 2;
const LOCAL_DAMAGE: i32 = 8;
const OUTPUT_CLOSED: i32 = 141;

/// Two large checkpoints that take next to no room on disk, and a directory to write to.
struct Scene {
    dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let scene = Self { dir: temporary() };
        for name in ["base", "target"] {
            const BYTES: u64 = 1 << 30;
            let json =
                format!(r#"{{"t":{{"dtype":"BF16","shape":[{}],"data_offsets":[0,{BYTES}]}}}}"#, BYTES / 2);
            write(&scene.path(name), &[&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat());
            let file = fs::OpenOptions::new().write(true).open(scene.path(name)).unwrap();
            file.set_len(8 + json.len() as u64 + BYTES).unwrap();
        }
        fs::create_dir(scene.path("out")).unwrap();
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A diff that has begun to write.
    fn diff(&self) -> Child {
        let (base, target, out) = (self.path("base"), self.path("target"), self.path("out/p.tpatch"));
        let mut diff = command(&arguments!["diff", base, target, "-o", out, "--json", "--threads", "1"]);
        let child = diff.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        while self.written().is_empty() {
            std::thread::sleep(Duration::from_millis(1));
        }
        child
    }

    fn written(&self) -> Vec<PathBuf> {
        fs::read_dir(self.path("out")).unwrap().map(|entry| entry.unwrap().path()).collect()
    }
}

fn end(child: Child) -> Outcome {
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    Outcome { code: output.status.code().unwrap_or(-1), stdout: output.stdout, stderr }
}

#[test]
fn an_interrupted_diff_leaves_no_file_under_any_name_and_says_why_it_ended() {
    let scene = Scene::new();
    for (signal, code, name) in
        [(Signal::INT, 130, "SIGINT"), (Signal::TERM, 143, "SIGTERM"), (Signal::HUP, 129, "SIGHUP")]
    {
        let child = scene.diff();
        kill_process(Pid::from_child(&child), signal).unwrap();
        let outcome = end(child).fails(code, &["interrupted by", name, "run the same command again"]);
        assert_eq!(outcome.json()["error"]["exit_code"], code);
        assert_eq!(scene.written(), Vec::<PathBuf>::new());
    }
}

#[test]
fn an_interrupted_apply_leaves_no_file_under_any_name() {
    let scene = Scene::new();
    let patch = scene.path("p.tpatch");
    run(&arguments!["diff", scene.path("base"), scene.path("target"), "-o", patch]).ok();
    for form in ["rebuilt.safetensors", "rebuilt"] {
        let out = scene.path("out").join(form);
        let base = scene.path("base");
        let mut apply = command(&arguments!["apply", base, patch, "-o", out, "--threads", "1"]);
        let child = apply.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        while scene.written().is_empty() {
            std::thread::sleep(Duration::from_millis(1));
        }
        kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        end(child).fails(130, &["interrupted"]);
        assert_eq!(scene.written(), Vec::<PathBuf>::new());
    }
}

#[test]
fn a_file_that_shrinks_while_it_is_read_ends_the_program_with_a_message_and_without_a_trace() {
    let scene = Scene::new();
    let child = scene.diff();
    fs::OpenOptions::new().write(true).open(scene.path("target")).unwrap().set_len(4096).unwrap();
    let outcome = end(child).fails(LOCAL_DAMAGE, &["cut short", "run the same command again"]);
    assert_eq!(outcome.json()["error"]["exit_code"], LOCAL_DAMAGE);
    assert_eq!(scene.written(), Vec::<PathBuf>::new());
}

#[test]
fn a_command_that_waits_ends_when_it_is_asked_to() {
    let dir = temporary();
    let (stream, replica) = (dir.path().join("stream"), dir.path().join("replica"));
    let baseline = dir.path().join("baseline");
    run(&arguments!["publish", fixture(4), "--to", stream, "--baseline", baseline]).ok();
    run(&arguments!["pull", stream, replica]).ok();
    let lock = fs::File::open(replica.join(".tensorpatch/lock")).unwrap();
    lock.lock().unwrap();
    let mut pull = command(&arguments!["pull", stream, replica, "--json"]);
    let mut child = pull.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It says so after some seconds.
    let mut said = [0; 20];
    child.stderr.as_mut().unwrap().read_exact(&mut said).unwrap();
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let outcome = end(child).fails(143, &["the replica is as it was", "SIGTERM"]);
    assert_eq!(outcome.json()["error"]["exit_code"], 143);
}

#[test]
fn a_limit_on_the_size_of_files_is_an_error_with_a_message() {
    let scene = Scene::new();
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -f 1; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_tensorpatch")]);
    let out = scene.path("out/p.tpatch");
    limited.args(arguments!["diff", fixture(4), fixture(5), "-o", out]);
    finish(&mut limited).fails(FAILED, &["p.tpatch", "File too large", "ulimit -f"]);
    assert_eq!(scene.written(), Vec::<PathBuf>::new());
}

#[test]
fn a_closed_pipe_ends_every_way_to_print_with_the_same_code() {
    let dir = temporary();
    for arguments in [
        arguments!["diff", fixture(4), fixture(5), "-o", "-"].to_vec(),
        arguments!["diff", fixture(4), fixture(5), "-o", "/dev/stdout"].to_vec(),
        arguments!["diff", fixture(4), fixture(5), "-o", dir.path().join("p.tpatch")].to_vec(),
        arguments!["digest", fixture(4)].to_vec(),
    ] {
        let mut child = command(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        end(child).fails(OUTPUT_CLOSED, &[]);
    }
}

#[test]
fn usage_errors_are_json_too() {
    for arguments in [
        &["bogus", "--json"][..],
        &["pull", "--json"],
        &["--json"],
        &["diff", "a", "b", "--json", "--threads", "none"],
        &["diff", "--json", "--no-such-option"],
    ] {
        let outcome = run(arguments).fails(REFUSED, &["error: "]);
        let error = &outcome.json()["error"];
        assert_eq!(error["exit_code"], REFUSED, "{arguments:?}");
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{error}");
    }
    assert!(run(&["bogus"]).fails(REFUSED, &[]).stdout.is_empty());
    // What follows `--` is no option.
    assert!(run(&["digest", "--", "a", "--json"]).fails(REFUSED, &[]).stdout.is_empty());
    for help in [&["--help"][..], &["pull", "--help", "--json"], &["--version"]] {
        assert!(!run(help).ok().stdout.is_empty());
    }
}

#[test]
fn outputs_that_are_no_files_are_written_to_or_refused_and_never_replaced() {
    let dir = temporary();
    let patch = dir.path().join("p.tpatch");
    run(&arguments!["diff", fixture(4), fixture(5), "-o", patch]).ok();
    for stdout in ["-", "/dev/stdout", "/dev/fd/1"] {
        let outcome = run(&arguments!["diff", fixture(4), fixture(5), "-o", stdout, "--json"]).ok();
        assert!(outcome.stdout == read(&patch), "{stdout}");
    }
    // Like /dev/stdout, which must not be replaced by a file either.
    let link = dir.path().join("link");
    std::os::unix::fs::symlink("/proc/self/fd/1", &link).unwrap();
    let file = fs::File::create(dir.path().join("stdout")).unwrap();
    let mut apply = command(&arguments!["apply", fixture(4), patch, "-o", link]);
    let output = apply.stdout(file).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(REFUSED), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(link.is_symlink());

    // A patch may be written to a pipe or a device, which stay what they are.
    let pipe = dir.path().join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, 0o600.into()).unwrap();
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || read(&pipe)
    });
    run(&arguments!["diff", fixture(4), fixture(5), "-o", pipe]).ok();
    assert!(reader.join().unwrap() == read(&patch));
    run(&arguments!["diff", fixture(4), fixture(5), "-o", "/dev/null"]).ok();
    run(&arguments!["apply", fixture(4), patch, "-o", pipe])
        .fails(REFUSED, &["no regular file", "another path"]);
    let directory = dir.path();
    run(&arguments!["diff", fixture(4), fixture(5), "-o", directory])
        .fails(REFUSED, &["it is a directory", "give the path of a file"]);
    run(&arguments!["diff", fixture(4), fixture(5), "-o", dir.path().join("no/p.tpatch")])
        .fails(FAILED, &["there is no directory", "check the path"]);
}

#[test]
fn an_output_replaces_nothing_of_another_kind() {
    let dir = temporary();
    let path = |name: &str| dir.path().join(name);
    let (weights, patch, page) = (path("weights.safetensors"), path("p.tpatch"), path("page.html"));
    fs::copy(fixture(6), &weights).unwrap();
    run(&arguments!["publish", fixture(4), "--to", path("stream"), "--baseline", path("baseline")]).ok();
    let diff = |out: &Path| run(&arguments!["diff", fixture(4), fixture(5), "-o", out]);
    let report = |out: &Path| run(&arguments!["report", path("stream"), "-o", out, "--work", path("work")]);
    for _ in 0..2 {
        diff(&patch).ok();
        report(&page).ok();
    }
    for outcome in [diff(&weights), diff(&page), report(&weights), report(&patch)] {
        outcome.fails(REFUSED, &["a file of another kind is there", "give another path"]);
    }
    assert!(read(&weights) == read(&fixture(6)));
    diff(&patch).ok();
}

#[test]
fn every_failure_is_json_if_that_was_asked_for() {
    let dir = temporary();
    let absent = dir.path().join("absent");
    for arguments in [
        arguments!["digest", absent, "--json"].to_vec(),
        arguments!["inspect", absent, "--json"].to_vec(),
        arguments!["apply", fixture(4), absent, "--in-place", "--json"].to_vec(),
        arguments!["log", absent, "--json"].to_vec(),
        arguments!["pull", absent, dir.path(), "--json"].to_vec(),
        arguments!["publish", absent, "--to", absent, "--json"].to_vec(),
        arguments!["verify", absent, "--json"].to_vec(),
        arguments!["keygen", dir.path(), "--json"].to_vec(),
        arguments!["convert", absent, "--to", "patch", "-o", absent, "--json"].to_vec(),
    ] {
        let outcome = run(&arguments);
        let report: Value = outcome.json();
        assert_eq!(report["error"]["exit_code"], outcome.code, "{arguments:?}: {report}");
    }
}
