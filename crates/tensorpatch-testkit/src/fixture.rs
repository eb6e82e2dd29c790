//! Checkpoints of a real training run.

use std::path::PathBuf;

/// Three consecutive snapshots of a recorded run: 80,640 bf16 weights in 11 tensors, of which 1,116 change
/// from the first to the second and 1,075 from that to the third. `tests/fixtures/minilm-grpo/README.md` says
/// where they come from.
pub fn minilm_grpo() -> [PathBuf; 3] {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/minilm-grpo");
    [4, 5, 6].map(|step| PathBuf::from(format!("{directory}/snapshot_{step:06}.safetensors")))
}

/// What a test prints that would have run on [`full_trace`] and could not.
pub const NO_TRACE: &str = "TENSORPATCH_TRACE is not set: the whole recorded run is not checked";

/// The snapshots of a whole recorded run in the order of its steps: the files `snapshot_….safetensors` in the
/// directory that the environment variable `TENSORPATCH_TRACE` names.
///
/// `None` if the variable is not set; the caller then prints [`NO_TRACE`]. Panics if it is set and names no
/// directory with at least two snapshots, so that a wrong path does not pass for a passed test.
pub fn full_trace() -> Option<Vec<PathBuf>> {
    let directory = PathBuf::from(std::env::var_os("TENSORPATCH_TRACE")?);
    let entries = std::fs::read_dir(&directory).unwrap_or_else(|error| panic!("{directory:?}: {error}"));
    let mut snapshots: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("snapshot_") && name.ends_with(".safetensors")
        })
        .collect();
    snapshots.sort();
    assert!(snapshots.len() >= 2, "{directory:?} holds {} snapshots, a run needs two", snapshots.len());
    Some(snapshots)
}
