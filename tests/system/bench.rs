//! Whole commands, as the benchmark measures them.

use std::path::Path;

use clap::ValueEnum;
use tensorpatch_bench::commands::{Which, measure};
use tensorpatch_bench::inputs::{Input, Synthetic};
use tensorpatch_synthetic::Config;

use crate::support::temporary;

#[test]
fn the_benchmark_measures_every_command_and_leaves_nothing_behind() {
    let dir = temporary();
    let config = Config { bytes: 2 << 20, learning_rate: 1e-5, ..Config::default() };
    let input = Input::synthetic(&Synthetic { config, steps: 1, tensors: None }, dir.path()).unwrap();
    let before = std::fs::read(&input.base).unwrap();
    let cli = Path::new(env!("CARGO_BIN_EXE_tensorpatch"));
    let rows = measure(cli, Which::value_variants(), &input, dir.path(), 2, None).unwrap();
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
