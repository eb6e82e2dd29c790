//! The test kit itself: what it generates is what it says.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests may panic")]

use std::path::Path;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use tensorpatch_checkpoint::Checkpoint;
use tensorpatch_format::{CHUNK_BYTES, Limits};
use tensorpatch_testkit::fuzz::{TARGETS, Target};
use tensorpatch_testkit::*;

fn check(checkpoint: &Checkpoint, model: &Model) -> Result<(), TestCaseError> {
    prop_assert_eq!(checkpoint.schema(), model.schema());
    prop_assert!(checkpoint.tensors() == model.slices());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn generated_models_can_be_written_and_opened(model in models(Size::Small), style in styles(), shards in 1_usize..6) {
        let directory = tempfile::tempdir().unwrap();
        let single = directory.path().join("single");
        write_single(&single, &model, &style);
        let checkpoint = Checkpoint::open(&single, &Limits::default()).unwrap();
        check(&checkpoint, &model)?;
        prop_assert_eq!(&checkpoint.layout().files()[0].header, &header_bytes(&model.tensors().iter().collect::<Vec<_>>(), &style));
        if !model.tensors().is_empty() {
            let sharded = directory.path().join("sharded");
            write_sharded(&sharded, &model, shards, &style);
            let checkpoint = Checkpoint::open(&sharded, &Limits::default()).unwrap();
            check(&checkpoint, &model)?;
            let companions = checkpoint.companions(&[]).unwrap().carried;
            prop_assert_eq!(companions[0].path.clone(), sharded.join("config.json"));
        }
    }

    #[test]
    fn mutations_never_panic(mutation in mutations(50), bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let mutated = mutation.apply(&bytes);
        if matches!(mutation, Mutation::FlipBit { bit } if bit / 8 < bytes.len()) {
            prop_assert_eq!(mutated.iter().zip(&bytes).map(|(a, b)| (a ^ b).count_ones()).sum::<u32>(), 1);
        }
    }
}

/// What `cases` generated values have in common is counted by the caller.
fn sample<S: Strategy>(strategy: S, cases: usize) -> Vec<S::Value> {
    let mut runner = TestRunner::deterministic();
    (0..cases).map(|_| strategy.new_tree(&mut runner).unwrap().current()).collect()
}

#[test]
fn pairs_have_everything_that_can_happen_to_a_tensor() {
    let pairs = sample(pairs(Size::Small), 300);
    let mut seen = std::collections::BTreeMap::<&str, u32>::new();
    for Pair { base, target } in &pairs {
        let mut see = |what| *seen.entry(what).or_default() += 1;
        if base == target {
            see("equal");
        }
        if base.schema() == target.schema() {
            see("same schema");
        }
        for old in base.tensors() {
            let Some(index) = target.schema().find(&old.spec.name) else {
                see("removed");
                continue;
            };
            let new = &target.tensors()[index.0 as usize];
            let (old_spec, new_spec) = (&old.spec, &new.spec);
            if old_spec.dtype != new_spec.dtype && old_spec.byte_len == new_spec.byte_len {
                see("retyped");
            } else if old_spec.byte_len != new_spec.byte_len {
                see("resized");
            } else if old_spec.shape != new_spec.shape {
                see("reshaped");
            } else if old.bytes != new.bytes {
                see("changed");
            } else {
                see("kept");
            }
            if old_spec.shape.is_empty() {
                see("scalar");
            }
            if old_spec.byte_len == 0 {
                see("empty");
            }
            if old_spec.dtype.bits().is_none() {
                see("unknown dtype");
            }
        }
        if target.tensors().iter().any(|new| base.schema().find(&new.spec.name).is_none()) {
            see("added");
        }
    }
    for what in [
        "equal",
        "same schema",
        "removed",
        "retyped",
        "resized",
        "reshaped",
        "changed",
        "kept",
        "scalar",
        "empty",
        "unknown dtype",
        "added",
    ] {
        assert!(seen.get(what).is_some_and(|&count| count >= 5), "{what}: {seen:?}");
    }
}

#[test]
fn large_tensors_end_on_and_beside_the_borders_of_chunks() {
    let models = sample(models(Size::Chunks), 40);
    let ends: Vec<_> = models
        .iter()
        .map(|model| model.tensors().iter().map(|tensor| tensor.spec.byte_len).max().unwrap_or_default())
        .map(|len| (len / CHUNK_BYTES as u64, len % CHUNK_BYTES as u64))
        .collect();
    assert!(ends.iter().all(|&(chunks, _)| chunks <= 3));
    assert!(ends.iter().any(|&(_, rest)| rest == 0));
    assert!(ends.iter().any(|&(chunks, rest)| chunks > 0 && rest > 0 && rest < 32));
    assert!(ends.iter().any(|&(_, rest)| rest > CHUNK_BYTES as u64 - 32));
}

#[test]
fn the_fixture_changes_as_its_description_says() {
    let snapshots = fixture::minilm_grpo().map(|path| Checkpoint::open(&path, &Limits::default()).unwrap());
    let changed = |a: &Checkpoint, b: &Checkpoint| {
        let elements = |checkpoint: &Checkpoint| checkpoint.tensors().concat();
        let (a, b) = (elements(a), elements(b));
        assert_eq!(a.len(), 2 * 80_640);
        a.chunks_exact(2).zip(b.chunks_exact(2)).filter(|(a, b)| a != b).count()
    };
    assert_eq!(changed(&snapshots[0], &snapshots[1]), 1116);
    assert_eq!(changed(&snapshots[1], &snapshots[2]), 1075);
}

#[test]
fn a_whole_trace_can_be_opened_where_there_is_one() {
    let Some(snapshots) = fixture::full_trace() else {
        println!("{}", fixture::NO_TRACE);
        return;
    };
    let first = Checkpoint::open(&snapshots[0], &Limits::default()).unwrap();
    for snapshot in &snapshots[1..] {
        assert_eq!(Checkpoint::open(snapshot, &Limits::default()).unwrap().schema(), first.schema());
    }
}

#[test]
fn sample_patches_are_whole_and_repairing_them_changes_nothing() {
    for (name, file) in sample_patches() {
        tensorpatch_format::PatchView::parse(&file, &Limits::default()).unwrap();
        let mut repaired = file.clone();
        repair_checksums(&mut repaired);
        assert_eq!(repaired, file, "{name}");
        let mut zeroed = file.clone();
        zeroed[28..32].fill(0);
        zeroed[36..40].fill(0);
        let crc = file.len() - 12;
        zeroed[crc..crc + 4].fill(0);
        repair_checksums(&mut zeroed);
        assert_eq!(zeroed, file, "{name}");
    }
}

#[test]
fn every_fuzz_target_is_in_the_fuzz_workspace_and_holds_for_its_seeds_and_for_past_crashes() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    let manifest = std::fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    let readme = std::fs::read_to_string(fuzz.join("README.md")).unwrap();
    assert_eq!(manifest.matches("[[bin]]").count(), TARGETS.len());
    for Target { name, run, seeds } in TARGETS {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
        assert!(fuzz.join("fuzz_targets").join(name).with_extension("rs").is_file(), "{name}");
        assert!(readme.contains(&format!("`{name}`")), "{name}");
        let seeds = seeds();
        assert!(seeds.len() >= 3, "{name}");
        seeds.iter().for_each(|(_, bytes)| run(bytes));
    }
    for entry in std::fs::read_dir(fuzz.join("crashes")).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_string_lossy();
        if let Some((name, _)) = file.split_once('.').filter(|_| file != "README.md") {
            let target = TARGETS.iter().find(|target| target.name == name);
            (target.unwrap_or_else(|| panic!("{file} is of no target")).run)(&std::fs::read(&path).unwrap());
        }
    }
}

/// The seed inputs that decode must do so, or the targets would only ever see refusals.
#[test]
fn patches_made_for_the_fuzzers_are_whole() {
    for (name, patch) in
        TARGETS.iter().find(|target| target.name == "apply_patch").map(|t| (t.seeds)()).unwrap()
    {
        tensorpatch_format::PatchView::parse(&patch, &Limits::default())
            .unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

fn damaged_seeds() -> impl Strategy<Value = (usize, Vec<u8>)> {
    let seeds: Vec<_> = TARGETS
        .iter()
        .enumerate()
        .flat_map(|(target, Target { seeds, .. })| seeds().into_iter().map(move |(_, bytes)| (target, bytes)))
        .collect();
    prop::sample::select(seeds).prop_flat_map(|(target, bytes)| {
        let damage = prop::collection::vec(mutations(bytes.len()), 1..4);
        damage.prop_map(move |damage| {
            (target, damage.iter().fold(bytes.clone(), |bytes, mutation| mutation.apply(&bytes)))
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn every_fuzz_target_holds_for_damaged_seeds((target, bytes) in damaged_seeds()) {
        (TARGETS[target].run)(&bytes);
    }
}
