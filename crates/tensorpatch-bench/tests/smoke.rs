//! The benchmark on tiny pairs: that it measures, and that its sizes are true. Nothing is said about time.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says what it left out"
)]

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ValueEnum;
use serde_json::Value;
use tensorpatch_bench::commands::{Which, measure};
use tensorpatch_bench::floor::Floor;
use tensorpatch_bench::inputs::{Input, Synthetic, learning_rate};
use tensorpatch_bench::kernels;
use tensorpatch_bench::pair::Pair;
use tensorpatch_bench::rivals::RIVALS;
use tensorpatch_codec::Level;
use tensorpatch_format::Profile;
use tensorpatch_synthetic::{Config, Dtype};

fn bench(arguments: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_tensorpatch-bench")).args(arguments).arg("--json").output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn positive(value: &Value) {
    assert!(value.as_f64().is_some_and(|number| number > 0.0), "{value}");
}

#[test]
fn every_encoding_is_measured_beside_the_limits() {
    let report = bench(&["--synthetic", "300KiB", "--lr", "1e-5", "--passes", "1"]);
    let encodings = &report["encodings"][0];
    let rows = encodings["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2 + RIVALS.len());
    for row in rows {
        for speed in ["one_thread", "all_threads"] {
            positive(&row[speed]["encode"]);
            positive(&row[speed]["apply_verify"]);
        }
    }
    let floor = encodings["sizes"]["floor_bytes"].as_f64().unwrap();
    let bytes = |row: usize| rows[row]["bytes"].as_f64().unwrap();
    assert!(floor > 0.0 && rows.iter().all(|row| row["bytes"].as_f64().unwrap() > floor));
    let changed = encodings["sizes"]["changed"].as_f64().unwrap();
    assert_eq!(bytes(2), 6.0 * changed, "an index and a value");
    positive(&encodings["memcpy"][0]);
    positive(&encodings["memcpy"][1]);
}

#[test]
fn sizes_are_told_of_each_pair_that_is_asked_for() {
    let report = bench(&["--sizes", "--synthetic", "200KiB", "--dtype", "bf16,int4", "--lr", "1e-5,1e-4"]);
    let sizes = report["sizes"].as_array().unwrap();
    assert_eq!(sizes.len(), 4);
    for sizes in sizes {
        positive(&sizes["changed"]);
        positive(&sizes["compact"]["file_bytes"]);
        assert!(sizes["compact"]["file_bytes"].as_u64() > sizes["compact"]["payload_bytes"].as_u64());
    }
}

#[test]
fn every_level_is_held_against_the_xor_of_whole_tensors_on_each_pair() {
    let report = bench(&["--table", "--synthetic", "300KiB", "--passes", "1"]);
    let pairs = report["ratios"].as_array().unwrap();
    let densities: Vec<_> = pairs.iter().map(|pair| pair["density"].as_f64().unwrap()).collect();
    let asked = [0.01, 0.08, 0.3];
    assert!(
        densities.len() == 3
            && densities.iter().zip(asked).all(|(found, asked)| (found / asked - 1.0).abs() < 0.1),
        "{densities:?}"
    );
    for pair in pairs {
        let levels = pair["levels"].as_array().unwrap();
        assert_eq!(levels.len(), Level::available().len());
        for level in levels {
            positive(&level["payload_bytes"]);
            positive(&level["per_xor"][0]);
            positive(&level["per_xor"][1]);
        }
    }
}

#[test]
fn the_steps_of_a_recorded_run_are_told_one_by_one_and_together() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/minilm-grpo");
    let dir = tempfile::tempdir().unwrap();
    for number in 0..3 {
        let name = |number| format!("snapshot_{number:06}.safetensors");
        std::fs::copy(fixture.join(name(number + 4)), dir.path().join(name(number))).unwrap();
    }
    let report = bench(&["--trace", dir.path().to_str().unwrap(), "--sizes"]);
    let changed: Vec<_> =
        report["sizes"].as_array().unwrap().iter().map(|sizes| sizes["changed"].as_u64().unwrap()).collect();
    let &[first, second, both] = &*changed else { panic!("{changed:?}") };
    assert!(both > first.max(second) && both < first + second, "{changed:?}");
}

#[test]
fn every_level_gives_the_target_back_on_one_thread_and_on_three() {
    let dir = tempfile::tempdir().unwrap();
    for tensors in [None, Some(50)] {
        let config = Config { bytes: 3 << 20, learning_rate: 1e-4, ..Config::default() };
        let input = Input::synthetic(&Synthetic { config, steps: 1, tensors }, dir.path()).unwrap();
        let pair = Pair::open(&input.base, &input.target).unwrap();
        for level in Level::available() {
            for profile in [Profile::Compact, Profile::Direct] {
                let threads = NonZeroUsize::new(3).unwrap();
                let report = kernels::run(&pair, level, profile, threads, 1).unwrap();
                assert_eq!(report.all_threads.threads, 3);
                assert!(report.payload_bytes > 0 && report.per_memcpy.encode > 0.0);
            }
        }
    }
}

#[test]
fn a_pair_has_the_density_that_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    for density in [0.01, 0.3] {
        let config = Config { bytes: 4 << 20, ..Config::default() };
        let config = Config { learning_rate: learning_rate(density, &config), ..config };
        let input = Input::synthetic(&Synthetic { config, steps: 1, tensors: None }, dir.path()).unwrap();
        let floor = Floor::of(&Pair::open(&input.base, &input.target).unwrap());
        let found = floor.changed as f64 / floor.elements as f64;
        assert!((found / density - 1.0).abs() < 0.05, "{found} instead of {density}");
    }
}

#[test]
fn a_sparse_tensor_has_changes_up_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { dtype: Dtype::Bf16, learning_rate: 1e-4, ..Config::default() };
    let input = Input::one_tensor(3 << 20, &config, dir.path()).unwrap();
    let pair = Pair::open(&input.base, &input.target).unwrap();
    assert_eq!((pair.tensors.len(), pair.bytes()), (1, 3 << 20));
    let changed = |range: std::ops::Range<usize>| pair.base[range.clone()] != pair.target[range];
    assert!(!changed(0..2 << 20) && changed(2 << 20..3 << 20));
}

/// The command line. A test of the whole workspace builds it first; one of this crate alone takes what
/// was built last.
fn cli() -> Option<PathBuf> {
    let cli = Path::new(env!("CARGO_BIN_EXE_tensorpatch-bench")).with_file_name("tensorpatch");
    if cli.exists() {
        return Some(cli);
    }
    assert!(std::env::var_os("CI").is_none(), "{} is not built", cli.display());
    eprintln!("{} is not built: its commands are not measured", cli.display());
    None
}

#[test]
fn the_life_of_a_stream_is_measured_and_its_steps_are_held_against_copying() {
    let Some(_) = cli() else { return };
    let report = bench(&["--system", "--synthetic", "300KiB", "--lr", "1e-5", "--passes", "1"]);
    let rows = report["system"].as_array().unwrap();
    assert_eq!(rows.len(), 14);
    for row in rows {
        positive(&row["wall"]);
        let copies = row["step"].as_str().unwrap().starts_with("cp ") || row["step"] == "diff alone";
        assert_eq!(row["requests"].is_null(), copies, "{row}");
    }
    let ratios = report["times_as_long"].as_array().unwrap();
    assert_eq!(ratios.len(), 7);
    ratios.iter().for_each(|ratio| positive(&ratio["ratio"]));
}

#[test]
fn every_command_is_measured_and_nothing_is_left_behind() {
    let Some(cli) = cli() else { return };
    let dir = tempfile::tempdir().unwrap();
    let config = Config { bytes: 2 << 20, learning_rate: 1e-5, ..Config::default() };
    let input = Input::synthetic(&Synthetic { config, steps: 1, tensors: None }, dir.path()).unwrap();
    let before = std::fs::read(&input.base).unwrap();
    let rows = measure(&cli, Which::value_variants(), &input, dir.path(), 2, None).unwrap();
    let commands: Vec<_> = rows.iter().map(|row| row.command).collect();
    assert_eq!(commands, ["diff", "apply", "apply --in-place", "digest"]);
    for row in &rows {
        assert!(
            row.wall > 0.0 && row.gb_per_second > 0.0 && row.patch_bytes > 0 && row.changed > 0,
            "{row:?}"
        );
    }
    assert!(before == std::fs::read(&input.base).unwrap());
    drop(input);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
