//! What hostile files cost: memory is measured, each time in a process that does nothing else and has not yet
//! freed anything that it could use again.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests may panic, and print what they measure"
)]

use std::io::Write;
use std::path::Path;
use std::process::Command;

use tensorpatch_checkpoint::Checkpoint;
use tensorpatch_conformance::{Outcome, vectors, with_frame};
use tensorpatch_format::Limits;
use tensorpatch_stream::{CommitRecord, JsonRecord};
use tensorpatch_testkit::Verdict;

/// Says to the process of a case which one it is.
const CASE: &str = "TENSORPATCH_TEST_COST";

/// A line of the kernel's account of this process, in KiB.
fn status(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
}

/// By how much a piece of work raises the memory of this process at its highest, in KiB.
fn cost(work: impl FnOnce()) -> u64 {
    // Forgets the peak of what was before.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = status("VmRSS");
    work();
    status("VmHWM").saturating_sub(before)
}

/// Vectors that declare far more than they hold. None of them leaves anything behind, so that they need one
/// process only.
fn bombs() -> u64 {
    let (states, vectors) = vectors();
    let bombs: Vec<_> = vectors.iter().filter(|vector| vector.flags.contains(&"bomb")).collect();
    assert!(bombs.len() >= 29, "{}", bombs.len());
    let costs = bombs.into_iter().map(|vector| {
        let Outcome::Refused { code, offset } = vector.outcome else { panic!("{}", vector.id) };
        let base = vector.base.map(|base| states.model(base));
        let memory = cost(|| {
            let verdict = Verdict::of_fast(&vector.file, base.as_ref());
            assert_eq!(verdict, Verdict::Refused { code, offset }, "{}", vector.id);
        });
        println!("{}: {memory} KiB", vector.id);
        memory
    });
    costs.max().unwrap()
}

/// A full patch with a schema (0) or layout (1) that unpacks to these bytes, as many as the limit allows.
fn unpacked(section: usize, bytes: Vec<u8>, limit: u64) -> u64 {
    let (file, at) = with_frame(section, &bytes);
    drop(bytes);
    let mut limits = Limits::default();
    limits.metadata_bytes = limit;
    println!("{} bytes", file.len());
    cost(|| {
        let verdict = Verdict::of_fast_within(&file, None, &limits);
        assert!(
            matches!(verdict, Verdict::Refused { code: "invalid", offset } if offset >= at),
            "{verdict:?}"
        );
    })
}

/// What `entry` makes of so many numbers, behind their count.
fn many(count: usize, count_bytes: usize, entry: impl Fn(usize) -> Vec<u8>) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(&u64::try_from(count).unwrap().to_le_bytes()[..count_bytes]);
    (0..count).for_each(|number| bytes.extend(entry(number)));
    bytes
}

fn many_files() -> u64 {
    let file = |number| {
        let name = format!("{number:08}.safetensors");
        [&20_u32.to_le_bytes()[..], name.as_bytes(), &[0; 8]].concat()
    };
    let mut layout = many(1 << 16, 4, file);
    layout.push(0);
    unpacked(1, layout, 16 << 20)
}

fn many_tensors() -> u64 {
    let tensor = |number| {
        let name = format!("{number:08}");
        [&8_u32.to_le_bytes()[..], name.as_bytes(), &[1, 0, 0, 0, b'X'], &[0; 12]].concat()
    };
    let schema = many((16 << 20) / 29 - 1, 8, tensor);
    assert!((15 << 20..16 << 20).contains(&schema.len()));
    unpacked(0, schema, 16 << 20)
}

/// A safetensors file that cannot be opened.
fn header(len: u64, json: &[u8]) -> u64 {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.safetensors");
    let mut file = std::fs::File::create(&path).unwrap();
    file.write_all(&len.to_le_bytes()).unwrap();
    file.write_all(json).unwrap();
    drop(file);
    cost(|| drop(Checkpoint::open(&path, &Limits::default()).unwrap_err()))
}

fn whole_header(json: &[u8]) -> u64 {
    header(json.len() as u64, json)
}

/// A record that is refused for what stands among the features that it requires.
fn record(inside: &str, times: usize) -> u64 {
    let head = r#"{"format":"tensorpatch-commit","major":1,"minor":0,"requires":["#;
    let text = format!("{head}{}", inside.repeat(times));
    assert!(text.len() <= 4 << 20, "{} bytes", text.len());
    cost(|| drop(CommitRecord::parse(text.as_bytes()).unwrap_err()))
}

struct Case {
    name: &'static str,
    /// In KiB.
    at_least: u64,
    /// In KiB.
    at_most: u64,
    measure: fn() -> u64,
}

const fn case(name: &'static str, at_most: u64, measure: fn() -> u64) -> Case {
    Case { name, at_least: 0, at_most, measure }
}

const CASES: &[Case] = &[
    // Fifty MiB that are used and given back: the measure sees them, but for a few pages that the kernel has
    // not added up yet.
    Case {
        name: "measure",
        at_least: 48 << 10,
        at_most: 54 << 10,
        measure: || cost(|| drop(std::hint::black_box(vec![1_u8; 50 << 20]))),
    },
    case("bombs", 512, bombs),
    // The limit, and what little there is besides.
    case("zeros-for-a-schema", 260 << 10, || unpacked(0, vec![0; 256 << 20], 256 << 20)),
    // As many as the limit allows: 2 MiB when they are unpacked.
    case("layout-of-many-files", 16 << 10, many_files),
    // Times the 16 MiB that are the limit here.
    case("schema-of-many-tensors", 10 * (16 << 10), many_tensors),
    case("header-of-2-60", 1024, || header(1 << 60, b"{}")),
    case("header-of-100-mb-declared", 1024, || header(100_000_000, b"{}")),
    case("header-of-brackets", 6000, || {
        let brackets = [b"[".repeat(1_000_000), b"]".repeat(1_000_000)].concat();
        whole_header(&[br#"{"__metadata__":"#.as_slice(), &brackets, b"}"].concat())
    }),
    case("header-of-objects", 6000, || {
        whole_header(&[br#"{"a":{"x":"#.as_slice(), &br#"{"y":"#.repeat(300_000)].concat())
    }),
    // Its size, 88 MiB, and little besides: entries beyond the limit are not kept.
    case("header-of-metadata", 110 << 10, || {
        let entries: String = (0..7_000_000).map(|number| format!("\"{number}\":\"\",")).collect();
        whole_header(format!("{{\"__metadata__\":{{{entries}\"x\":\"\"}}}}").as_bytes())
    }),
    case("record-of-brackets", 1024, || record("[", 4_000_000)),
    case("record-of-features", 1024, || record("\"\",", 1_350_000)),
    case("record-of-one-text", 1024, || record(&format!("\"{}", "a".repeat(4_000_000)), 1)),
    // A hundred megabytes of spaces and a bracket too many, and of an unfinished string.
    case("header-of-100-mb-spaces", 110_000, || {
        whole_header(&[b"{".as_slice(), &vec![b' '; 99_999_990], b"}}"].concat())
    }),
    case("header-of-100-mb-string", 220_000, || {
        whole_header(&[b"{\"".as_slice(), &vec![b'a'; 99_999_990]].concat())
    }),
];

#[test]
#[ignore = "one case, which the test below runs in a process of its own"]
fn one_case() {
    let name = std::env::var(CASE).unwrap();
    let case = CASES.iter().find(|case| case.name == name).unwrap();
    let memory = (case.measure)();
    println!("{name}: {memory} KiB");
    assert!((case.at_least..case.at_most).contains(&memory), "{name}: {memory} KiB");
}

#[test]
fn hostile_files_cost_no_more_memory_than_their_size_and_the_limits_explain() {
    let this: &Path = &std::env::current_exe().unwrap();
    for Case { name, .. } in CASES {
        let mut command = Command::new(this);
        command.args(["--exact", "one_case", "--ignored", "--nocapture"]).env(CASE, name);
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        println!("{text}");
        // That it ran, too: a name that no test has is no failure of a test program.
        let ran = text.contains(&format!("{name}: ")) && text.contains("1 passed");
        assert!(output.status.success() && ran, "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
