//! Callers who stop an operation: nothing half is left.

use std::fs;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::common::open;
use crate::common::scene::{MIB, scene};
use tensorpatch_delta::{
    Apply, ApplyError, Cancelled, DiffError, LeafTable, Options, Patch, Progress, Recovery, State, diff,
    journal_path, prepare_in_place, recover,
};
use tensorpatch_format::{ErrorKind, LeafHash, Limits, MAGIC};

/// Says to stop, always.
fn stop(_: u64) -> ControlFlow<()> {
    ControlFlow::Break(())
}

fn names(directory: &std::path::Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_cancelled_diff_leaves_what_was_at_its_destination() {
    let scene = scene();
    let (target, patch) = (scene.dir.path().join("target"), scene.dir.path().join("step.tpatch"));
    for earlier in [None, Some([&MAGIC[..], b"an older one"].concat())] {
        if let Some(bytes) = &earlier {
            fs::write(&patch, bytes).unwrap();
        }
        let before = names(scene.dir.path());
        let made = diff(&scene.checkpoint, &target).unwrap().with_progress(Progress::stoppable(&stop));
        let error = made.write(&patch).unwrap_err();
        assert!(matches!(error, DiffError::Cancelled(Cancelled)), "{error:?}");
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        assert_eq!(names(scene.dir.path()), before);
        assert_eq!(fs::read(&patch).ok(), earlier);
    }
}

#[test]
fn a_cancelled_apply_leaves_nothing_at_its_destination() {
    let scene = scene();
    let before = names(scene.dir.path());
    let patch = Patch::parse(&scene.patch, &Limits::default()).unwrap();
    let apply = Apply::new(&patch).with_progress(Progress::stoppable(&stop));
    let error = apply.to(&scene.checkpoint, scene.dir.path().join("out")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(names(scene.dir.path()), before);
}

#[test]
fn an_application_in_place_that_is_cancelled_has_altered_nothing() {
    let scene = scene();
    let before = names(scene.dir.path());
    let patch = Patch::parse(&scene.patch, &Limits::default()).unwrap();
    let apply = Apply::new(&patch).with_progress(Progress::stoppable(&stop));
    assert_eq!(apply.in_place(&scene.checkpoint).unwrap_err().kind(), ErrorKind::Cancelled);
    assert!(scene.bytes() == scene.old);
    assert_eq!(names(scene.dir.path()), before);
}

#[test]
fn an_application_in_place_does_not_ask_any_more_once_its_journal_is_on_disk() {
    let scene = scene();
    let patch = Patch::parse(&scene.patch, &Limits::default()).unwrap();
    let (journal, told) = (journal_path(&scene.checkpoint), AtomicU64::new(0));
    let until_then = |bytes| {
        told.fetch_add(bytes, Ordering::Relaxed);
        if journal.exists() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    Apply::new(&patch).with_progress(Progress::stoppable(&until_then)).in_place(&scene.checkpoint).unwrap();
    assert!(scene.bytes() == scene.new);
    assert_eq!(told.into_inner(), 2 * (MIB + 30));
    assert!(!journal.exists());
}

#[test]
fn a_recovery_that_is_cancelled_keeps_the_journal_and_can_be_repeated() {
    let scene = scene();
    let options = Options::default();
    let patch = Patch::parse(&scene.patch, &Limits::default()).unwrap();
    prepare_in_place(&scene.checkpoint, &patch, &scene.journal, &options, Progress::none()).unwrap();
    let middle = scene.old.len() / 2;
    let torn = [&scene.new[..middle], &scene.old[middle..]].concat();
    fs::write(&scene.checkpoint, &torn).unwrap();
    let progress = Progress::stoppable(&stop);
    let error = recover(&scene.checkpoint, &scene.journal, &options, progress).unwrap_err();
    assert!(matches!(error, ApplyError::Cancelled(Cancelled)), "{error:?}");
    assert!(scene.bytes() == torn);
    assert!(scene.journal.exists());
    assert!(matches!(scene.recover().unwrap(), Recovery::Finished { .. }));
    assert!(scene.bytes() == scene.new);
}

#[test]
fn hashing_stops_when_it_is_told_to() {
    let scene = scene();
    let opened = open(&scene.checkpoint);
    let state = State::of(&opened).unwrap();
    for threads in [1, 4] {
        let threads = NonZeroUsize::new(threads).unwrap();
        let stopped = LeafTable::of(&state, LeafHash::Xxh3, threads, Progress::stoppable(&stop));
        assert_eq!(stopped, Err(Cancelled));
    }
}
