//! The program killed at any instant: nothing is lost, and the same command run again ends as if nothing had
//! happened.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tensorpatch::delta::{Options, Patch, Progress, prepare_in_place};
use tensorpatch::format::Limits;
use tensorpatch_synthetic::{Config, write_pair};

use crate::support::{arguments, command, read, run, same_checkpoint, temporary, tree, write};

/// How often each command is killed, at instants spread evenly over the time that it takes.
const KILLS: u32 = 16;

/// Two checkpoints of several chunks, one step apart.
struct Pair {
    dir: tempfile::TempDir,
    base: PathBuf,
    target: PathBuf,
}

impl Pair {
    fn new() -> Self {
        let dir = temporary();
        let (base, target) = (dir.path().join("base.safetensors"), dir.path().join("target.safetensors"));
        write_pair(&Config { bytes: 12 << 20, seed: 5, ..Config::default() }, 1, &base, &target).unwrap();
        Self { dir, base, target }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// Runs a command and kills it after `delay`. Says whether it was killed before it ended.
fn kill_after(arguments: &[OsString], delay: Duration) -> bool {
    let mut child = command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(delay);
    child.kill().unwrap();
    !child.wait().unwrap().success()
}

/// How long a command takes that is left alone, at the least of three times, each after `prepare`.
fn duration(prepare: impl Fn(), arguments: &[OsString]) -> Duration {
    let once = |_| {
        prepare();
        let start = Instant::now();
        run(arguments).ok();
        start.elapsed()
    };
    (0..3).map(once).min().unwrap()
}

/// Instants from the beginning to a little beyond the end.
fn instants(whole: Duration) -> impl Iterator<Item = Duration> {
    (0..KILLS).map(move |number| whole * number / (KILLS - 2))
}

#[test]
fn an_application_in_place_that_is_killed_is_finished_by_the_next() {
    let pair = Pair::new();
    let (patch, copy) = (pair.path("step.tpatch"), pair.path("copy.safetensors"));
    run(&arguments!["diff", pair.base, pair.target, "-o", patch]).ok();
    let apply = arguments!["apply", copy, patch, "--in-place"];
    let prepare = || assert!(fs::copy(&pair.base, &copy).unwrap() > 0);
    let mut killed = 0;
    for delay in instants(duration(prepare, &apply)) {
        prepare();
        killed += u32::from(kill_after(&apply, delay));
        let again = run(&apply);
        // If the first run was done, the second has nothing to do.
        again.ok();
        same_checkpoint(&copy, &pair.target);
    }
    assert!(killed > 1, "only the first was killed in time");
    let left: Vec<PathBuf> = tree(pair.dir.path()).into_keys().collect();
    assert_eq!(left.len(), 4, "a journal is left: {left:?}");
}

#[test]
fn an_application_beside_that_is_killed_leaves_nothing_or_everything() {
    let pair = Pair::new();
    let (patch, out) = (pair.path("step.tpatch"), pair.path("out.safetensors"));
    run(&arguments!["diff", pair.base, pair.target, "-o", patch]).ok();
    let apply = arguments!["apply", pair.base, patch, "-o", out];
    for delay in instants(duration(|| (), &apply)) {
        fs::remove_file(&out).unwrap();
        kill_after(&apply, delay);
        if out.exists() {
            same_checkpoint(&out, &pair.target);
        }
        run(&apply).ok();
        same_checkpoint(&out, &pair.target);
    }
    let left: Vec<PathBuf> = tree(pair.dir.path()).into_keys().collect();
    assert_eq!(left.len(), 4, "staging is left: {left:?}");
}

#[test]
fn a_publisher_that_is_killed_goes_on_where_it_was() {
    let pair = Pair::new();
    let stream = pair.path("stream");
    let publish = |checkpoint: &Path, label: &str| {
        let baseline = pair.path("baseline");
        arguments!["publish", checkpoint, "--to", stream, "--baseline", baseline, "--label", label]
    };
    run(&publish(&pair.base, "0")).ok();
    let start = Instant::now();
    run(&publish(&pair.target, "1")).ok();
    let whole = start.elapsed();
    for (number, delay) in (2_u32..).zip(instants(whole)) {
        let checkpoint = if number % 2 == 0 { &pair.base } else { &pair.target };
        let publish = publish(checkpoint, &number.to_string());
        kill_after(&publish, delay);
        run(&publish).ok();
        run(&arguments!["pull", stream, pair.path("replica")]).ok();
        same_checkpoint(&pair.path("replica"), checkpoint);
    }
    let log = run(&arguments!["log", stream, "--json"]).ok().json();
    let labels: Vec<&str> =
        log["versions"].as_array().unwrap().iter().filter_map(|version| version["label"].as_str()).collect();
    let expected: Vec<String> = (0..KILLS + 2).map(|number| number.to_string()).collect();
    assert_eq!(labels, expected, "a version was lost or doubled");
}

#[test]
fn a_replica_that_is_killed_holds_the_old_or_the_new_version_after_the_next_pull() {
    let pair = Pair::new();
    let (stream, replica) = (pair.path("stream"), pair.path("replica"));
    for checkpoint in [&pair.base, &pair.target] {
        run(&arguments!["publish", checkpoint, "--to", stream, "--baseline", pair.path("baseline")]).ok();
    }
    for mode in [&[][..], &["--beside"]] {
        let pull = |version: &str| {
            let mut pull = arguments!["pull", stream, replica, "--version", version].to_vec();
            pull.extend(mode.iter().map(OsString::from));
            pull
        };
        let prepare = || drop(run(&pull("1")).ok());
        for delay in instants(duration(prepare, &pull("2"))) {
            prepare();
            assert!(read(&replica.join("model.safetensors")) == read(&pair.base));
            kill_after(&pull("2"), delay);
            run(&pull("2")).ok();
            same_checkpoint(&replica, &pair.target);
        }
    }
}

#[test]
fn a_follower_that_is_killed_goes_on_and_runs_its_command_for_what_it_holds() {
    const VERSIONS: u32 = 4;
    let pair = Pair::new();
    let (stream, told) = (pair.path("stream"), pair.path("told"));
    for number in 1..=VERSIONS {
        let checkpoint = if number % 2 == 0 { &pair.target } else { &pair.base };
        run(&arguments!["publish", checkpoint, "--to", stream, "--baseline", pair.path("baseline")]).ok();
    }
    let exec = format!("echo $TENSORPATCH_VERSION >> {}", told.display());
    let until = VERSIONS.to_string();
    for mode in ["--poll=20ms", "--beside"] {
        let replica = pair.path(&format!("replica{mode}"));
        let follow = arguments!["follow", stream, replica, "--until", until, "--exec", exec, mode];
        // From a version that is far behind, so that there are several steps to be killed in.
        let prepare = || {
            run(&arguments!["pull", stream, replica, "--version", "1"]).ok();
            let _ = fs::remove_file(&told);
        };
        for delay in instants(duration(prepare, &follow)) {
            prepare();
            kill_after(&follow, delay);
            run(&follow).ok();
            same_checkpoint(&replica, &pair.target);
            // Whether it died before or after its command: the next one is told of what is held.
            let text = String::from_utf8(read(&told)).unwrap();
            assert_eq!(text.lines().last(), Some(until.as_str()));
            let report = run(&arguments!["pull", stream, replica, "--json"]).ok().json();
            assert_eq!((&report["from"], &report["downloaded_bytes"]), (&VERSIONS.into(), &0.into()));
        }
    }
}

#[test]
fn a_checkpoint_that_may_be_torn_is_not_taken_for_a_version_by_any_command() {
    let pair = Pair::new();
    let (patch, out, url) = (pair.path("step.tpatch"), pair.path("out.safetensors"), pair.path("stream"));
    run(&arguments!["diff", pair.base, pair.target, "-o", patch]).ok();
    let (directory, beside) = (pair.path("directory"), pair.path(".base.safetensors.tensorpatch-journal"));
    fs::create_dir(&directory).unwrap();
    fs::copy(&pair.base, directory.join("model.safetensors")).unwrap();
    for (torn, journal) in [(&pair.base, beside), (&directory, directory.join(".tensorpatch-journal"))] {
        fs::write(&journal, b"of an application that was interrupted").unwrap();
        for command in [
            arguments!["digest", torn].to_vec(),
            arguments!["diff", torn, pair.target, "-o", out].to_vec(),
            arguments!["diff", pair.target, torn, "-o", out].to_vec(),
            arguments!["apply", torn, patch, "-o", out].to_vec(),
            arguments!["publish", torn, "--to", url, "--baseline", pair.path("baseline")].to_vec(),
        ] {
            run(&command).fails(2, &["was interrupted", journal.to_str().unwrap(), "--in-place"]);
        }
        fs::remove_file(&journal).unwrap();
        run(&arguments!["digest", torn]).ok();
    }
    assert!(!out.exists() && !url.exists());
}

#[test]
fn a_checkpoint_or_its_journal_that_was_altered_since_is_local_damage_and_both_are_left() {
    let pair = Pair::new();
    let (patch, journal) = (pair.path("step.tpatch"), pair.path(".base.safetensors.tensorpatch-journal"));
    run(&arguments!["diff", pair.base, pair.target, "-o", patch]).ok();
    let bytes = read(&patch);
    let parsed = Patch::parse(&bytes, &Limits::default()).unwrap();
    prepare_in_place(&pair.base, &parsed, &journal, &Options::default(), Progress::none()).unwrap();
    let (sound, written) = (read(&pair.base), read(&journal));
    let flipped = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        bytes
    };
    let apply = arguments!["apply", pair.base, patch, "--in-place"];
    for (file, damaged, whole, said) in [
        (&journal, flipped(&written), &written, "is damaged"),
        (&pair.base, flipped(&sound), &sound, "was altered since"),
    ] {
        write(file, &damaged);
        run(&apply).fails(8, &[said, journal.to_str().unwrap(), "restore"]);
        assert!(read(file) == damaged && journal.exists());
        write(file, whole);
    }
    run(&apply).ok();
    same_checkpoint(&pair.base, &pair.target);
    assert!(!journal.exists());
}
