//! The memory of publishing and pulling does not grow with the checkpoint.

use std::ffi::OsString;
use std::fs;
use std::process::Stdio;

use tensorpatch_synthetic::{Config, write_pair};

use crate::support::{arguments, command, peak_of, run, temporary};

/// The most anonymous memory that a command may have. Mapped files are the system's to drop, and are not
/// counted.
const LIMIT: u64 = 300 << 20;

/// Runs a command that must succeed, and returns the most bytes of anonymous memory that it was seen to have.
fn peak(arguments: &[OsString]) -> u64 {
    let (status, peak) = peak_of(command(arguments).stdout(Stdio::null()));
    assert!(status.success(), "{arguments:?}");
    peak
}

/// `TENSORPATCH_TEST_MEMORY` says how large the checkpoint is, in MiB: four times that must be free where
/// temporary files are.
#[test]
fn publishing_and_pulling_take_less_than_300_mib_whatever_the_size_of_the_checkpoint() {
    let Some(mib) = std::env::var("TENSORPATCH_TEST_MEMORY").ok().and_then(|mib| mib.parse::<u64>().ok())
    else {
        eprintln!(
            "skipped: TENSORPATCH_TEST_MEMORY is not set (8192 is the size that the documentation speaks of)"
        );
        return;
    };
    let dir = temporary();
    let path = |name: &str| dir.path().join(name);
    let (base, target) = (path("base.safetensors"), path("target.safetensors"));
    write_pair(&Config { bytes: mib << 20, ..Config::default() }, 1, &base, &target).unwrap();
    let stream = path("stream");
    let publish = |checkpoint| {
        arguments!["publish", checkpoint, "--to", stream, "--baseline", path("baseline"), "--quiet"].to_vec()
    };
    let pull = |version: &str, mode: &str| {
        arguments!["pull", stream, path("replica"), "--version", version, mode].to_vec()
    };
    let mut peaks = vec![("publishing the first version", peak(&publish(&base)))];
    fs::remove_file(&base).unwrap();
    peaks.push(("publishing a patch", peak(&publish(&target))));
    fs::remove_file(&target).unwrap();
    peaks.push(("pulling the first version", peak(&pull("1", "--quiet"))));
    peaks.push(("pulling a patch in place", peak(&pull("2", "--quiet"))));
    run(&pull("1", "--quiet")).ok();
    peaks.push(("pulling a patch beside", peak(&pull("2", "--beside"))));
    for (what, bytes) in &peaks {
        eprintln!("{what}, {mib} MiB: {} MiB of anonymous memory at most", bytes >> 20);
    }
    for (what, bytes) in peaks {
        assert!(bytes > 0 && bytes < LIMIT, "{what}: {bytes}");
    }
}
