//! What hostile files cost: memory is measured, in a process that does nothing else.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests may panic")]

use std::io::Write;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tensorpatch_checkpoint::Checkpoint;
use tensorpatch_conformance::{Outcome, vectors};
use tensorpatch_format::Limits;
use tensorpatch_store::{CommitRecord, Record};
use tensorpatch_testkit::Verdict;

/// The peak is that of the whole process.
static ALONE: Mutex<()> = Mutex::new(());

/// A line of the kernel's account of this process, in KiB.
fn status(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
}

/// By how much a piece of work raises the memory of this process at its highest, in KiB, and how long it takes.
fn cost(work: impl FnOnce()) -> (u64, Duration) {
    // Forgets the peak of what was before.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let (before, start) = (status("VmRSS"), Instant::now());
    work();
    (status("VmHWM").saturating_sub(before), start.elapsed())
}

#[test]
fn the_measure_sees_memory_that_is_used_and_given_back() {
    let _alone = ALONE.lock().unwrap();
    let (memory, _) = cost(|| drop(std::hint::black_box(vec![1_u8; 50 << 20])));
    assert!((50_000..60_000).contains(&memory), "{memory} KiB");
}

#[test]
fn hostile_files_cost_no_more_memory_than_their_size_and_the_limits_explain() {
    let _alone = ALONE.lock().unwrap();
    let (states, vectors) = vectors();
    let bombs: Vec<_> = vectors.iter().filter(|vector| vector.flags.contains(&"bomb")).collect();
    assert!(bombs.len() >= 15, "{}", bombs.len());
    for vector in bombs {
        let Outcome::Refused { code, offset } = vector.outcome else { panic!("{}", vector.id) };
        let base = vector.base.map(|base| states.model(base));
        let (memory, time) = cost(|| {
            let verdict = Verdict::of_fast(&vector.file, base.as_ref());
            assert_eq!(verdict, Verdict::Refused { code, offset }, "{}", vector.id);
        });
        println!("{}: {memory} KiB, {time:?}", vector.id);
        assert!(memory < 4096 && time < Duration::from_secs(2), "{}: {memory} KiB, {time:?}", vector.id);
    }

    let directory = tempfile::tempdir().unwrap();
    let open = |name: &str, len: u64, json: &[u8], most_kib: u64| {
        let path = directory.path().join(name).with_extension("safetensors");
        let mut file = std::fs::File::create(&path).unwrap();
        file.write_all(&len.to_le_bytes()).unwrap();
        file.write_all(json).unwrap();
        drop(file);
        let (memory, time) = cost(|| {
            Checkpoint::open(&path, &Limits::default()).unwrap_err();
        });
        println!("{name}: {memory} KiB, {time:?}");
        assert!(memory < most_kib && time < Duration::from_secs(20), "{name}: {memory} KiB, {time:?}");
    };
    open("declared-2-60", 1 << 60, b"{}", 1024);
    open("declared-100-mb", 100_000_000, b"{}", 1024);
    let deep =
        [br#"{"__metadata__":"#.as_slice(), &b"[".repeat(1_000_000), &b"]".repeat(1_000_000), b"}"].concat();
    open("deep-json", deep.len() as u64, &deep, 3 * deep.len() as u64 / 1024);
    let objects = [br#"{"a":{"x":"#.as_slice(), &br#"{"y":"#.repeat(300_000)].concat();
    open("deep-objects", objects.len() as u64, &objects, 3 * objects.len() as u64 / 1024);
    let record = |name: &str, inside: &str, times: usize, most_kib: u64| {
        let head = r#"{"format":"tensorpatch-commit","major":1,"minor":0,"requires":["#;
        let text = format!("{head}{}", inside.repeat(times));
        assert!(text.len() <= 16 << 20, "{name}: {} bytes", text.len());
        let (memory, time) = cost(|| {
            CommitRecord::parse(text.as_bytes()).unwrap_err();
        });
        println!("{name}: {memory} KiB, {time:?}");
        assert!(memory < most_kib && time < Duration::from_secs(10), "{name}: {memory} KiB, {time:?}");
    };
    record("record-of-brackets", "[", 16_000_000, 1024);
    record("record-of-features", "\"\",", 5_500_000, 1024);
    record("record-of-one-text", &format!("\"{}", "a".repeat(16_000_000)), 1, 40_000);
    // A hundred megabytes of spaces and a bracket too many, and of an unfinished string.
    let spaces = [b"{".as_slice(), &vec![b' '; 99_999_990], b"}}"].concat();
    open("100-mb-spaces", spaces.len() as u64, &spaces, 110_000);
    let string = [b"{\"".as_slice(), &vec![b'a'; 99_999_990]].concat();
    open("100-mb-string", string.len() as u64, &string, 220_000);
}
