//! The whole recorded run, when `TENSORPATCH_TRACE` names the directory with its snapshots, and always the
//! slice of it that is a fixture.

use std::path::{Path, PathBuf};

use crate::support::{arguments, fixture, run, same_checkpoint, shard, temporary};

/// The snapshots in order, or nothing, said aloud, if no trace is given.
fn snapshots() -> Option<Vec<PathBuf>> {
    let Some(directory) = std::env::var_os("TENSORPATCH_TRACE") else {
        eprintln!("TENSORPATCH_TRACE is not set: nothing is tested on the recorded run");
        return None;
    };
    let snapshot = |number| PathBuf::from(&directory).join(format!("snapshot_{number:06}.safetensors"));
    let found: Vec<PathBuf> = (0_u32..).map(snapshot).take_while(|path| path.exists()).collect();
    assert!(found.len() > 1, "{} has no snapshots", directory.display());
    Some(found)
}

#[test]
fn every_step_of_the_recorded_run_is_rebuilt_byte_for_byte_from_at_most_1_1_bytes_a_change() {
    let Some(snapshots) = snapshots() else { return };
    let dir = temporary();
    let (patch, rebuilt) = (dir.path().join("step.tpatch"), dir.path().join("rebuilt.safetensors"));
    let in_place = dir.path().join("in-place.safetensors");
    std::fs::copy(&snapshots[0], &in_place).unwrap();
    for (base, target) in snapshots.iter().zip(&snapshots[1..]) {
        let report = run(&arguments!["diff", base, target, "-o", patch, "--json"]).ok().json();
        let each = report["bytes_per_changed_element"].as_f64().unwrap();
        eprintln!("{}: {} bytes, {each:.4} per change", target.display(), report["patch_bytes"]);
        assert!(each <= 1.1, "{each}");
        run(&arguments!["apply", base, patch, "-o", rebuilt]).ok();
        same_checkpoint(&rebuilt, target);
        run(&arguments!["apply", in_place, patch, "--in-place"]).ok();
        same_checkpoint(&in_place, target);
    }
}

#[test]
fn every_step_of_the_recorded_run_is_rebuilt_byte_for_byte_as_a_sharded_directory() {
    let Some(snapshots) = snapshots() else { return };
    let dir = temporary();
    let path = |name: &str| dir.path().join(name);
    shard(&snapshots[0], &path("base"), 3);
    for target in &snapshots[1..] {
        shard(target, &path("target"), 3);
        run(&arguments!["diff", path("base"), path("target"), "-o", path("step.tpatch")]).ok();
        run(&arguments!["apply", path("base"), path("step.tpatch"), "-o", path("rebuilt")]).ok();
        same_checkpoint(&path("rebuilt"), &path("target"));
        run(&arguments!["apply", path("base"), path("step.tpatch"), "--in-place"]).ok();
        same_checkpoint(&path("base"), &path("target"));
        std::fs::remove_dir_all(path("rebuilt")).unwrap();
    }
}

#[test]
fn every_version_of_the_recorded_run_is_pulled_into_a_fresh_directory_and_into_an_older_one() {
    let Some(snapshots) = snapshots() else { return };
    let dir = temporary();
    let path = |name: &str| dir.path().join(name);
    for snapshot in &snapshots {
        run(&arguments!["publish", snapshot, "--to", path("stream"), "--baseline", path("baseline")]).ok();
    }
    let log = run(&arguments!["log", path("stream")]).ok();
    eprintln!("{}", String::from_utf8_lossy(&log.stdout));
    for (number, snapshot) in (1_u32..).zip(&snapshots) {
        for replica in ["fresh", "follower"] {
            run(&arguments!["pull", path("stream"), path(replica), "--version", number.to_string()]).ok();
            same_checkpoint(&path(replica), snapshot);
        }
        std::fs::remove_dir_all(path("fresh")).unwrap();
    }
    // From the oldest to the newest in one pull, and back.
    for number in [1, snapshots.len()] {
        run(&arguments!["pull", path("stream"), path("follower"), "--version", number.to_string()]).ok();
        same_checkpoint(&path("follower"), &snapshots[number - 1]);
    }
}

#[test]
fn a_slice_of_the_recorded_run_goes_from_trl_to_a_stream_to_index_delta_directories_and_back() {
    goes_from_trl_to_a_stream_to_index_delta_directories_and_back(&[4, 5, 6].map(fixture));
}

#[test]
fn the_recorded_run_goes_from_trl_to_a_stream_to_index_delta_directories_and_back() {
    let Some(snapshots) = snapshots() else { return };
    goes_from_trl_to_a_stream_to_index_delta_directories_and_back(&snapshots);
}

/// What a team does that moves over: the trainer's files become versions, and an engine reads directories.
fn goes_from_trl_to_a_stream_to_index_delta_directories_and_back(snapshots: &[PathBuf]) {
    let dir = temporary();
    let path = |name: &str| dir.path().join(name);
    let (stream, baseline, replica) = (path("stream"), path("baseline"), path("replica"));
    let digest = |checkpoint: &Path| {
        run(&arguments!["digest", checkpoint, "--json"]).ok().json()["state"].as_str().unwrap().to_owned()
    };
    let convert = |source: &Path, base: &Path, to: &str, output: &Path, options: &[String]| {
        let known = arguments!["convert", source, "--base", base, "--to", to, "-o", output];
        run(&[&known[..], &options.iter().map(Into::into).collect::<Vec<_>>()].concat()).ok();
    };
    let publish = |checkpoint: &Path| {
        let publish = arguments!["publish", checkpoint, "--to", stream, "--baseline", baseline, "--json"];
        run(&publish).ok().json()["state"].as_str().unwrap().to_owned()
    };
    let pull = |number: usize| {
        let pull = arguments!["pull", stream, replica, "--version", number.to_string(), "--json"];
        run(&pull).ok().json()["state"].as_str().unwrap().to_owned()
    };

    // Both sides begin with the whole checkpoint.
    let at = |side: &str, number: usize| path(&format!("{side}-{number}.safetensors"));
    let (trainer, engine) = (at("trainer", 1), at("engine", 1));
    std::fs::copy(&snapshots[0], &trainer).unwrap();
    assert_eq!(publish(&trainer), digest(&snapshots[0]));
    pull(1);
    std::fs::copy(replica.join("model.safetensors"), &engine).unwrap();
    for (number, snapshot) in (2..).zip(&snapshots[1..]) {
        let expected = digest(snapshot);
        let versions = ["--target-version", &number.to_string(), "--base-version", &(number - 1).to_string()]
            .map(str::to_owned);

        let (sent, before, trainer) = (path("sent"), at("trainer", number - 1), at("trainer", number));
        convert(snapshot, &before, "trl-a", &sent, &versions);
        convert(&sent, &before, "checkpoint", &trainer, &[]);
        assert_eq!(publish(&trainer), expected, "TRL's file of version {number}");
        assert_eq!(pull(number), expected, "version {number} of the stream");

        let (directory, before, engine) = (path("weight_v"), at("engine", number - 1), at("engine", number));
        convert(&replica.join("model.safetensors"), &before, "slime", &directory, &versions);
        convert(&directory, &before, "checkpoint", &engine, &[]);
        assert_eq!(digest(&engine), expected, "the directory of version {number}");

        for file in [&sent, &before, &at("trainer", number - 1)] {
            std::fs::remove_file(file).unwrap();
        }
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
