//! Real processes killed with SIGKILL at random instants: the next run goes on, and nothing in between is
//! ever seen.
//!
//! The processes are this test program itself, started again for the test `worker` below.
//! `TENSORPATCH_TEST_KILLS` says how many kills there are.

use std::path::{Path as FilePath, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{assert_same, v, write_sharded, write_single};
use tensorpatch_store::{
    AnchorPolicy, ApplyMode, CreateOptions, Event, Folder, Observer, Phase, Policy, PublishOptions,
    Publisher, Replica, ReplicaOptions, Stream, open_store,
    upkeep::{self, CheckOptions, CollectOptions},
};

/// What a worker is told in its environment.
const ROLE: &str = "TENSORPATCH_TEST_WORKER";

fn kills() -> u64 {
    std::env::var("TENSORPATCH_TEST_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(60)
}

/// `url` and a prefix in it, so that a store with one bucket has room for many streams.
async fn open(url: &str) -> Stream {
    let (store, prefix) = open_store(url, &Policy::default()).unwrap();
    Stream::open(store, prefix).await.unwrap()
}

fn in_mode(mode: &str) -> ReplicaOptions {
    let mode = if mode == "beside" { ApplyMode::Beside } else { ApplyMode::InPlace };
    ReplicaOptions::default().with_mode(mode)
}

#[test]
#[ignore = "the other tests run it, in processes of its own"]
fn worker() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let words: Vec<String> = role.split('\n').map(str::to_owned).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        match words.as_slice() {
            ["publish", url, baseline, checkpoint, label] => {
                let stream = open(url).await;
                let options = PublishOptions::default().with_anchors(AnchorPolicy::every(5));
                let publisher = Publisher::on(stream, *baseline, options).await.unwrap();
                let published =
                    publisher.publish_labelled(FilePath::new(checkpoint), Some(label)).await.unwrap();
                assert_eq!(published.anchor_error, None);
            }
            // Of all but the last the baseline follows while the next waits for it, or stays behind where
            // the checkpoints are kept.
            ["publish several", url, baseline, keeping, checkpoints @ ..] => {
                let publisher =
                    Publisher::on(open(url).await, *baseline, PublishOptions::default()).await.unwrap();
                for checkpoint in checkpoints {
                    let checkpoint = FilePath::new(checkpoint);
                    let label = checkpoint.file_name().unwrap().to_str();
                    publisher.publish_labelled(checkpoint, label).await.unwrap();
                    if *keeping == "overwriting" {
                        for entry in std::fs::read_dir(checkpoint).unwrap() {
                            let path = entry.unwrap().path();
                            if path.extension().is_some_and(|extension| extension == "safetensors") {
                                std::fs::write(path, b"").unwrap();
                            }
                        }
                    }
                }
                publisher.catch_up().await.unwrap();
            }
            ["pull", url, dir, mode] => {
                let replica = Replica::of(open(url).await, *dir, in_mode(mode));
                let pulled = replica.pull().await.unwrap();
                println!("worker: {}", serde_json::to_string(&pulled).unwrap());
            }
            ["pull", url, dir, mode, version] => {
                let replica = Replica::of(open(url).await, *dir, in_mode(mode));
                let pulled = replica.pull_version(v(version.parse().unwrap())).await.unwrap();
                println!("worker: {}", serde_json::to_string(&pulled).unwrap());
            }
            ["follow", url, dir, until, count] => {
                // The bytes fetched so far, so that they are known after a kill.
                let file = std::fs::File::create(count).unwrap();
                let fetched = std::sync::atomic::AtomicU64::new(0);
                let observer = Observer::new(move |event| {
                    if let Event::Advanced(Phase::Download, bytes) = event {
                        let total = fetched.fetch_add(bytes, std::sync::atomic::Ordering::SeqCst) + bytes;
                        std::os::unix::fs::FileExt::write_all_at(&file, &total.to_le_bytes(), 0).unwrap();
                    }
                });
                let replica =
                    Replica::of(open(url).await, *dir, ReplicaOptions::default().with_observer(observer));
                let until: u64 = until.parse().unwrap();
                let mut versions = replica.follow();
                while versions.next().await.unwrap().unwrap().to.get() < until {}
            }
            ["fold", url, work, from, to] => {
                let folder = Folder::new(open(url).await, *work, PublishOptions::default());
                folder.fold(v(from.parse().unwrap()), v(to.parse().unwrap())).await.unwrap();
            }
            ["collect", url, keep] => {
                let policy = CollectOptions::default().keeping(keep.parse().unwrap()).deleting();
                upkeep::collect(&open(url).await, &policy).await.unwrap();
            }
            other => panic!("{other:?}"),
        }
    });
}

fn command(words: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["crashes::worker", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .env(ROLE, words.join("\n"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn start(words: &[&str]) -> Child {
    command(words).spawn().unwrap()
}

/// Runs a worker to its end and returns what it printed.
fn run(words: &[&str]) -> String {
    let output = start(words).wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{words:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// Runs a worker and kills it after a while; says whether it had succeeded before. A worker that fails is an
/// error.
fn run_and_kill(words: &[&str], after: Duration) -> bool {
    let mut child = start(words);
    let start = Instant::now();
    while start.elapsed() < after {
        if let Some(status) = child.try_wait().unwrap() {
            let output = child.wait_with_output().unwrap();
            assert!(status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
            return true;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    false
}

struct Site {
    dir: tempfile::TempDir,
    url: String,
    runtime: tokio::runtime::Runtime,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let url = dir.path().join("bucket").to_str().unwrap().to_owned();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (store, prefix) = open_store(&url, &Policy::default()).unwrap();
        runtime.block_on(Stream::create(store, prefix, CreateOptions::default())).unwrap();
        Self { dir, url, runtime }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The checkpoint of a step; some are laid out in another way, so that files have to be switched.
    fn step(&self, step: u64) -> PathBuf {
        let path = self.path(&format!("step-{step}"));
        if step % 4 == 3 {
            write_sharded(&path, step)
        } else {
            write_single(&path, step)
        }
        path
    }

    /// Publishes a step, with a worker that may be killed.
    fn publish<'a>(&'a self, words: &'a [String; 5]) -> Vec<&'a str> {
        words.iter().map(String::as_str).collect()
    }

    fn publish_words(&self, step: u64) -> [String; 5] {
        [
            "publish".into(),
            self.url.clone(),
            self.path("baseline").to_str().unwrap().into(),
            self.step(step).to_str().unwrap().into(),
            format!("step {step}"),
        ]
    }

    fn assert_sound(&self) {
        let checked = self.runtime.block_on(async {
            upkeep::check(&open(&self.url).await, &CheckOptions::default()).await.unwrap()
        });
        assert!(checked.is_sound(), "{checked:?}");
    }

    fn labels(&self) -> Vec<String> {
        let log = self.runtime.block_on(async { open(&self.url).await.log().await.unwrap() });
        log.into_iter().map(|entry| entry.label.unwrap_or_default()).collect()
    }
}

/// A time up to a little over what a worker takes.
fn instant(usual: Duration) -> Duration {
    usual.mul_f64(rand::random_range(0.0..1.15))
}

#[test]
fn a_publisher_that_is_killed_publishes_each_step_once_and_in_order() {
    let site = Site::new();
    let words = site.publish_words(1);
    let begin = Instant::now();
    run(&site.publish(&words));
    let usual = begin.elapsed();
    let (mut step, mut killed) = (2, 0);
    while killed < kills() {
        let words = site.publish_words(step);
        if run_and_kill(&site.publish(&words), instant(usual)) {
            step += 1;
        } else {
            killed += 1;
        }
        // Then nothing takes the place of the baseline.
        if rand::random_bool(0.1) && step > 2 {
            std::fs::remove_dir_all(site.path(&format!("step-{}", step - 1))).ok();
        }
    }
    run(&site.publish(&site.publish_words(step)));
    let expected: Vec<String> = (1..=step).map(|step| format!("step {step}")).collect();
    assert_eq!(site.labels(), expected);
    eprintln!("{killed} publishers were killed over {step} steps");
    site.assert_sound();
    let dir = site.path("replica");
    run(&["pull", &site.url, dir.to_str().unwrap(), "in-place"]);
    assert_same(&dir, &site.step(step));
}

#[test]
fn a_replica_that_is_killed_goes_on_from_the_old_or_the_new_version() {
    for mode in ["in-place", "beside"] {
        let site = Site::new();
        let dir = site.path("replica");
        let words = ["pull", &site.url, dir.to_str().unwrap(), mode];
        let (mut step, mut killed) = (1, 0);
        run(&site.publish(&site.publish_words(step)));
        run(&words);
        let begin = Instant::now();
        run(&words);
        // A pull that has something to do takes longer than one that has not.
        let usual = begin.elapsed().mul_f64(1.5);
        while killed < kills() / 2 {
            step += 1;
            run(&site.publish(&site.publish_words(step)));
            while !run_and_kill(&words, instant(usual)) {
                killed += 1;
                if killed % 3 == 0 {
                    break;
                }
            }
            // Whatever was interrupted, nothing had to be fetched anew from an anchor, but for the first
            // version.
            let report = run(&words);
            assert!(!report.contains("\"anchor\":true"), "{report}");
            assert_same(&dir, &site.step(step));
        }
        eprintln!("{killed} replicas were killed over {step} versions, {mode}");
    }
}

#[test]
fn a_replica_that_is_killed_while_it_takes_several_versions_at_once_or_goes_back_goes_on() {
    for mode in ["in-place", "beside"] {
        let site = Site::new();
        let dir = site.path("replica");
        for step in 1..=9 {
            run(&site.publish(&site.publish_words(step)));
        }
        let (mut killed, mut ways_back, mut usual, mut rounds) = (0, 0, Duration::ZERO, 0);
        // What is written beside needs no way back: a plan fetches what lies before. In place there is none
        // to a state of other files, or where a kill came between, so that some rounds go by without.
        while killed < kills() / 2 || (mode == "in-place" && ways_back == 0 && rounds < 100) {
            rounds += 1;
            let low = rand::random_range(1..=6);
            let high = low + rand::random_range(1..=3);
            for to in [low, high, low] {
                ways_back += u64::from(to == low && dir.join(".tensorpatch/inverse").exists());
                let version = to.to_string();
                let words = ["pull", &site.url, dir.to_str().unwrap(), mode, &version];
                killed += u64::from(!run_and_kill(&words, instant(usual)));
                killed += u64::from(!run_and_kill(&words, instant(usual)));
                let begin = Instant::now();
                run(&words);
                usual = usual.max(begin.elapsed());
                assert_same(&dir, &site.step(to));
            }
        }
        assert!(ways_back > 0 || mode == "beside", "in {rounds} rounds");
        eprintln!("{killed} pulls were killed, {ways_back} of them with a way back, {mode}");
    }
}

#[test]
fn a_publisher_that_is_killed_while_its_baseline_follows_or_stays_behind_goes_on() {
    let site = Site::new();
    run(&site.publish(&site.publish_words(1)));
    let baseline = site.path("baseline");
    let (mut next, mut killed, mut usual) = (2, 0, Duration::from_secs(1));
    while killed < kills() / 2 {
        let mut keeping = "keeping";
        for _ in 0..2 {
            // What was overwritten is written again, by the trainer that starts over.
            let steps: Vec<String> =
                (next..next + 3).map(|step| site.step(step).to_str().unwrap().to_owned()).collect();
            let words: Vec<&str> = ["publish several", &site.url, baseline.to_str().unwrap(), keeping]
                .into_iter()
                .chain(steps.iter().map(String::as_str))
                .collect();
            killed += u64::from(!run_and_kill(&words, instant(usual)));
            (next..next + 3).for_each(|step| drop(site.step(step)));
            let begin = Instant::now();
            run(&words);
            usual = usual.min(begin.elapsed() * 2);
            assert_same(&baseline, &site.step(next + 2));
            next += 3;
            keeping = "overwriting";
        }
    }
    eprintln!("{killed} publishers of several steps were killed over {next} versions");
    site.assert_sound();
}

#[test]
fn folders_and_collectors_that_are_killed_leave_a_sound_stream() {
    let site = Site::new();
    let (mut step, mut killed) = (0, 0);
    while step < 8 {
        step += 1;
        run(&site.publish(&site.publish_words(step)));
    }
    let work = site.path("work");
    let begin = Instant::now();
    run(&["fold", &site.url, work.to_str().unwrap(), "5", "8"]);
    let usual = begin.elapsed();
    while killed < kills() / 2 {
        let (from, to) = (step.saturating_sub(3).to_string(), step.to_string());
        let fold = ["fold", &site.url, work.to_str().unwrap(), &from, &to];
        killed += u64::from(!run_and_kill(&fold, instant(usual)));
        killed += u64::from(!run_and_kill(&["collect", &site.url, "4"], instant(usual)));
        site.assert_sound();
        if rand::random_bool(0.3) {
            step += 1;
            run(&site.publish(&site.publish_words(step)));
        }
    }
    run(&["collect", &site.url, "4"]);
    site.assert_sound();
    eprintln!("{killed} folders and collectors were killed over {step} versions");
    let dir = site.path("replica");
    run(&["pull", &site.url, dir.to_str().unwrap(), "in-place"]);
    assert_same(&dir, &site.step(step));
}

/// A snapshot with the version in its last bytes: the snapshots come again and again, but no two patches
/// should be the same.
#[cfg(feature = "aws")]
fn write_marked(to: &FilePath, snapshot: &FilePath, version: u64) {
    let mut bytes = std::fs::read(snapshot).unwrap();
    let at = bytes.len() - 8;
    bytes.splice(at.., version.to_le_bytes());
    std::fs::write(to, bytes).unwrap();
}

/// Several replica processes follow one publisher through an S3 server, all of them killed now and then.
///
/// `TENSORPATCH_TEST_SNAPSHOTS` is a directory of `.safetensors` files to publish in turn,
/// `TENSORPATCH_TEST_VERSIONS` and `TENSORPATCH_TEST_REPLICAS` say how many there are.
#[cfg(feature = "aws")]
#[test]
fn a_fleet_that_is_killed_now_and_then_ends_at_the_tip_with_the_bytes_that_were_planned() {
    let Ok(endpoint) = std::env::var("TENSORPATCH_TEST_S3") else {
        eprintln!("skipped: TENSORPATCH_TEST_S3 is not set (source .ci/servers.sh)");
        return;
    };
    let number =
        |name: &str, default: u64| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    let versions = number("TENSORPATCH_TEST_VERSIONS", 20);
    let fleet = number("TENSORPATCH_TEST_REPLICAS", 8);
    let dir = tempfile::tempdir().unwrap();
    let mut snapshots: Vec<PathBuf> = match std::env::var("TENSORPATCH_TEST_SNAPSHOTS") {
        Ok(path) => std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect(),
        Err(_) => (0..6)
            .map(|step| {
                let path = dir.path().join(format!("step-{step}"));
                write_single(&path, step);
                path.join("model.safetensors")
            })
            .collect(),
    };
    snapshots.retain(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
    snapshots.sort();
    // There and back, so that neighbours are always one step apart.
    let snapshot = |version: u64| {
        let last = snapshots.len() - 1;
        let at = usize::try_from(version).unwrap() % (2 * last);
        &snapshots[if at <= last { at } else { 2 * last - at }]
    };
    let url = format!("s3://tensorpatch/{:032x}", rand::random::<u128>());
    let aws = [
        ("AWS_ENDPOINT_URL", endpoint.as_str()),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
    ];
    let start = |words: &[&str]| command(words).envs(aws).spawn().unwrap();
    let (store, prefix) = {
        let builder = object_store::aws::AmazonS3Builder::new()
            .with_endpoint(&endpoint)
            .with_bucket_name("tensorpatch")
            .with_access_key_id("test")
            .with_secret_access_key("test")
            .with_allow_http(true);
        let prefix = object_store::path::Path::from(url.strip_prefix("s3://tensorpatch/").unwrap());
        (std::sync::Arc::new(builder.build().unwrap()), prefix)
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stream = runtime.block_on(Stream::create(store, prefix, CreateOptions::default())).unwrap();

    let path = |name: String| dir.path().join(name).to_str().unwrap().to_owned();
    let current = dir.path().join("current.safetensors");
    let done = std::sync::atomic::AtomicBool::new(false);
    let counts: Vec<(u64, u64, Vec<String>)> = std::thread::scope(|scope| {
        let replicas: Vec<_> = (0..fleet)
            .map(|replica| {
                let (start, path, url, done) = (&start, &path, &url, &done);
                scope.spawn(move || {
                    let (mut kills, mut counts) = (0_u64, Vec::new());
                    loop {
                        let count = path(format!("count-{replica}-{kills}"));
                        counts.push(count.clone());
                        let until = versions.to_string();
                        let mut child =
                            start(&["follow", url, &path(format!("replica-{replica}")), &until, &count]);
                        let life = Duration::from_millis(rand::random_range(1000..20_000));
                        let begin = Instant::now();
                        loop {
                            if let Some(status) = child.try_wait().unwrap() {
                                let output = child.wait_with_output().unwrap();
                                let text = String::from_utf8_lossy(&output.stderr);
                                assert!(status.success(), "{text}");
                                return (replica, kills, counts);
                            }
                            // Towards the end they are let live, so that the test ends.
                            if begin.elapsed() > life && !done.load(std::sync::atomic::Ordering::SeqCst) {
                                child.kill().unwrap();
                                child.wait().unwrap();
                                kills += 1;
                                break;
                            }
                            std::thread::sleep(Duration::from_millis(5));
                        }
                    }
                })
            })
            .collect();
        let options = PublishOptions::default();
        let publisher =
            runtime.block_on(Publisher::on(stream.clone(), path("baseline".into()), options)).unwrap();
        for version in 1..=versions {
            write_marked(&current, snapshot(version - 1), version);
            runtime.block_on(publisher.publish(&current)).unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::SeqCst);
        replicas.into_iter().map(|replica| replica.join().unwrap()).collect()
    });

    let log = runtime.block_on(stream.log()).unwrap();
    assert_eq!(log.len() as u64, versions);
    let planned: u64 = log.iter().map(|entry| entry.bytes).sum();
    let expected = std::fs::read(&current).unwrap();
    for (replica, kills, files) in counts {
        let fetched: u64 = files
            .iter()
            .filter_map(|file| std::fs::read(file).ok()?.try_into().ok())
            .map(u64::from_le_bytes)
            .sum();
        let weights = FilePath::new(&path(format!("replica-{replica}"))).join("model.safetensors");
        assert!(std::fs::read(weights).unwrap() == expected, "replica {replica} is not at the tip");
        let more = (fetched as f64 / planned as f64 - 1.0) * 100.0;
        eprintln!("replica {replica}: killed {kills} times, {fetched} bytes of {planned} ({more:+.3} %)");
        // Each kill may cut off one download, which is then made again; the first of them, where processes
        // are slow to begin, that of the anchor.
        let anchor = log.first().map_or(0, |entry| if kills > 0 { entry.bytes } else { 0 });
        let most = log.iter().skip(1).map(|entry| entry.bytes).max().unwrap_or(0);
        let slack = planned / 100 + kills * most + anchor;
        assert!(fetched.abs_diff(planned) <= slack, "replica {replica}");
    }
}
