//! The demo: it must work on any machine, and say so only if it did.

use crate::support::{arguments, command, finish, run, same_checkpoint, temporary, tree};

#[test]
fn the_demo_follows_a_run_and_cleans_up() {
    let dir = temporary();
    let mut demo = command(&arguments!["demo", "--size", "1MiB", "--steps", "2", "--json"]);
    let report = finish(demo.env("TMPDIR", dir.path())).ok().json();
    assert_eq!(report["identical"], true);
    let versions = report["versions"].as_array().unwrap();
    assert_eq!(versions.len(), 3);
    assert!(versions[1]["changed_elements"].as_u64().unwrap() > 1000);
    let patches = report["patch_bytes"].as_u64().unwrap();
    assert!(patches < report["full_bytes"].as_u64().unwrap() / 20, "{patches}");
    assert_eq!(tree(dir.path()).len(), 0);
}

#[test]
fn the_demo_shows_a_table_and_keeps_its_directory_if_asked() {
    let dir = temporary();
    let kept = dir.path().join("kept");
    let outcome = run(&arguments!["demo", "--size", "300KiB", "--steps", "1", "--keep", kept]).ok();
    let text = String::from_utf8(outcome.stdout).unwrap();
    assert_eq!(text.lines().filter(|line| line.ends_with("  identical")).count(), 2, "{text}");
    same_checkpoint(&kept.join("replica"), &kept.join("checkpoint"));
    let log = run(&arguments!["log", kept.join("stream"), "--json"]).ok().json();
    assert_eq!(log["versions"][1]["label"], "step 1");

    for columns in [60, 80] {
        let mut demo = command(&["demo", "--size", "300KiB", "--steps", "1"]);
        let text = String::from_utf8(finish(demo.env("COLUMNS", columns.to_string())).ok().stdout).unwrap();
        let (_, table) = text.split_once("\n\n").unwrap();
        assert!(table.lines().all(|line| line.chars().count() <= columns), "{table}");
    }

    let before = tree(&kept);
    run(&arguments!["demo", "--keep", kept]).fails(2, &["kept", "not empty"]);
    assert!(tree(&kept) == before);
}

#[test]
fn a_demo_for_which_memory_does_not_do_is_refused_before_it_begins() {
    let dir = temporary();
    let kept = dir.path().join("kept");
    run(&arguments!["demo", "--size", "1TiB", "--keep", kept])
        .fails(2, &["training needs 6.00 TiB", "--size"]);
    assert!(!kept.exists());
}
