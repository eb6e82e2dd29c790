//! What a hostile record makes a reader allocate. Alone in its process, whose peak it measures.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use tensorpatch_stream::{CommitRecord, EdgeRecord, JsonRecord};

/// The most memory that the process has had, in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse().unwrap()
}

#[test]
fn members_that_are_ignored_take_no_memory_of_their_own() {
    // Two million numbers, which as values would take thirty-two times as much room as in the record.
    let crowd = format!("[{}0]", "0,".repeat((4 << 19) - 1000));
    let object = format!(r#"{{"name":"a","key":"anchors/1/m","bytes":1,"blake3":"{}","x":"#, "0".repeat(64));
    let records = [
        format!(r#"{{"format":"tensorpatch-commit","major":1,"minor":0,"requires":[],"x":{crowd}}}"#),
        format!(
            r#"{{"format":"tensorpatch-commit","major":1,"minor":0,"requires":[],"companions":[{object}{crowd}}}]}}"#
        ),
        format!(
            r#"{{"format":"tensorpatch-edge","major":1,"minor":0,"requires":[],"anchor":{{"files":[{object}{crowd}}}]}}}}"#
        ),
        format!(
            r#"{{"format":"tensorpatch-edge","major":1,"minor":0,"requires":[],"delta":{{"patches":[{object}{crowd}}}]}}}}"#
        ),
    ];
    let before = peak();
    for record in &records {
        assert!(CommitRecord::parse(record.as_bytes()).is_err());
        assert!(EdgeRecord::parse(record.as_bytes()).is_err());
    }
    let grown = peak() - before;
    assert!(grown < 16 << 10, "{grown} KiB");
}
