//! The synthetic run against a recorded one.
//!
//! The constants are counts over the sixth step of a recorded RL run (all-MiniLM-L6-v2, 22.7 M bf16 weights,
//! AdamW at 3e-6 on a group-normalised policy-gradient loss): snapshots 5 and 6, every tensor.
//! `recorded_counts_are_those_of_the_trace` recounts them when `TENSORPATCH_TRACE` names the directory with
//! the snapshots.

use std::collections::BTreeMap;

use tensorpatch_synthetic::{Config, Run};

/// Old exponent, elements with it, elements of these that changed. Exponents with fewer than 1,000 elements
/// are left out.
const RECORDED: [(i32, u64, u64); 18] = [
    (-18, 1467, 737),
    (-17, 2901, 1395),
    (-16, 5851, 2744),
    (-15, 11681, 5222),
    (-14, 23364, 9132),
    (-13, 46406, 13787),
    (-12, 92181, 16195),
    (-11, 184206, 16608),
    (-10, 366388, 16423),
    (-9, 730682, 16502),
    (-8, 1439369, 16405),
    (-7, 2751278, 15669),
    (-6, 4807571, 13832),
    (-5, 6549505, 9436),
    (-4, 4802248, 3491),
    (-3, 869267, 368),
    (-2, 22149, 7),
    (-1, 4750, 2),
];
const RECORDED_ELEMENTS: u64 = 22_713_216;
const RECORDED_CHANGED: u64 = 158_717;
/// Of the changes, those by one unit in the last place, and by two.
const RECORDED_ULPS: [(u64, u64); 2] = [(1, 141_932), (2, 6_941)];

#[derive(Default)]
struct Counts {
    elements: u64,
    changed: u64,
    exponents: BTreeMap<i32, (u64, u64)>,
    ulps: BTreeMap<u64, u64>,
}

impl Counts {
    fn add(&mut self, old: &[u8], new: &[u8]) {
        assert_eq!(old.len(), new.len());
        let element = |bytes: &[u8]| u16::from_le_bytes([bytes[0], bytes[1]]);
        for (old, new) in old.chunks_exact(2).map(element).zip(new.chunks_exact(2).map(element)) {
            let exponent = self.exponents.entry(i32::from((old >> 7) & 0xff) - 127).or_default();
            exponent.0 += 1;
            self.elements += 1;
            if old != new {
                exponent.1 += 1;
                self.changed += 1;
                *self.ulps.entry(ordered(old).abs_diff(ordered(new))).or_default() += 1;
            }
        }
    }

    fn share(&self, exponent: i32) -> f64 {
        self.exponents.get(&exponent).map_or(0.0, |&(n, _)| n as f64 / self.elements as f64)
    }

    fn rate(&self, exponent: i32) -> f64 {
        self.exponents.get(&exponent).map_or(0.0, |&(n, changed)| changed as f64 / n as f64)
    }
}

/// The place of a bf16 pattern on a line on which neighbours lie one apart.
fn ordered(bits: u16) -> i64 {
    let magnitude = i64::from(bits & 0x7fff);
    if bits & 0x8000 == 0 { magnitude } else { -magnitude }
}

fn synthetic_step() -> Counts {
    let mut run = Run::new(&Config { seed: 1, ..Config::default() });
    run.step();
    let before: Vec<Vec<u8>> = (0..run.model().tensors.len()).map(|i| run.tensor_bytes(i)).collect();
    run.step();
    let mut counts = Counts::default();
    for (tensor, old) in before.iter().enumerate() {
        counts.add(old, &run.tensor_bytes(tensor));
    }
    counts
}

/// Fails unless `found` is within `tolerance` (a share) of `recorded`.
fn near(what: &str, found: f64, recorded: f64, tolerance: f64) {
    let error = found / recorded - 1.0;
    assert!(
        error.abs() <= tolerance,
        "{what}: {found:.5}, recorded {recorded:.5}, off by {:.1} %",
        error * 100.0
    );
}

#[test]
fn a_synthetic_step_changes_as_many_weights_as_the_recorded_one_by_exponent_and_by_size() {
    let counts = synthetic_step();
    let recorded_density = RECORDED_CHANGED as f64 / RECORDED_ELEMENTS as f64;
    near("density", counts.changed as f64 / counts.elements as f64, recorded_density, 0.05);
    for &(exponent, n, changed) in &RECORDED {
        // Outside these the counts are too small to compare closely.
        if (-18..=-3).contains(&exponent) {
            let recorded = n as f64 / RECORDED_ELEMENTS as f64;
            near(&format!("share of exponent {exponent}"), counts.share(exponent), recorded, 0.12);
        }
        if (-15..=-4).contains(&exponent) {
            let recorded = changed as f64 / n as f64;
            near(&format!("flip rate of exponent {exponent}"), counts.rate(exponent), recorded, 0.08);
        }
    }
    for &(ulps, changed) in &RECORDED_ULPS {
        let found = counts.ulps[&ulps] as f64 / counts.changed as f64;
        near(&format!("changes by {ulps} ulp"), found, changed as f64 / RECORDED_CHANGED as f64, 0.05);
    }
}

#[test]
fn the_flip_rate_halves_with_each_exponent() {
    let counts = synthetic_step();
    for exponent in -11..=-5 {
        let ratio = counts.rate(exponent + 1) / counts.rate(exponent);
        assert!((0.42..0.58).contains(&ratio), "from {exponent} to the next: {ratio}");
    }
}

#[test]
fn rows_of_tokens_that_never_occur_stay_still_and_the_others_move() {
    let mut run = Run::new(&Config { bytes: 8 << 20, seed: 3, ..Config::default() });
    let embedding = run.model().tensors.iter().position(|t| t.name.contains("embed")).unwrap();
    let row = run.model().tensors[embedding].shape[1] * 2;
    let before = run.tensor_bytes(embedding);
    for _ in 0..6 {
        run.step();
    }
    let after = run.tensor_bytes(embedding);
    let moved = before.chunks(row).zip(after.chunks(row)).filter(|(a, b)| a != b).count();
    // 3,382 of 30,522 rows moved in the six recorded steps.
    let share = moved as f64 / before.chunks(row).count() as f64;
    assert!((0.08..0.12).contains(&share), "{share}");
}

#[test]
fn recorded_counts_are_those_of_the_trace() {
    let Some(directory) = std::env::var_os("TENSORPATCH_TRACE") else {
        eprintln!("TENSORPATCH_TRACE is not set: the recorded counts are not recounted");
        return;
    };
    let snapshot = |number: u32| {
        let path = std::path::Path::new(&directory).join(format!("snapshot_{number:06}.safetensors"));
        let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        bytes[8 + usize::try_from(header).unwrap()..].to_vec()
    };
    let mut counts = Counts::default();
    counts.add(&snapshot(5), &snapshot(6));
    assert_eq!(counts.elements, RECORDED_ELEMENTS);
    assert_eq!(counts.changed, RECORDED_CHANGED);
    for (exponent, n, changed) in RECORDED {
        assert_eq!(counts.exponents[&exponent], (n, changed), "exponent {exponent}");
    }
    for (ulps, changed) in RECORDED_ULPS {
        assert_eq!(counts.ulps[&ulps], changed, "{ulps} ulp");
    }
}
