//! Journals that are met by something else than the process that wrote them: another version in the
//! checkpoint's place, other processes, links, limits.

use std::fs;
use std::path::Path;
use std::sync::{Barrier, Mutex};
use std::thread;

use crate::common::scene::{MIB, Scene, has_no_journal, scene};
use crate::common::{bf16, layout_saying, nudged, patch_between, write_as};
use tensorpatch_checkpoint::{CheckpointError, Form, Obstacle};
use tensorpatch_delta::{
    ApplyError, Options, Patch, Progress, Recovery, activate_in_place, apply_in_place, prepare_in_place,
    recover,
};
use tensorpatch_format::Limits;

impl Scene {
    /// Writes the journal as a crash leaves it.
    fn interrupt(&self) -> Vec<u8> {
        let journal = self.keep_journal();
        fs::write(&self.journal, &journal).unwrap();
        journal
    }

    fn prepare(&self, options: &Options, progress: Progress<'_>) -> Result<(), ApplyError> {
        let patch = Patch::parse(&self.patch, &Limits::default())?;
        prepare_in_place(&self.checkpoint, &patch, &self.journal, options, progress).map(|_| ())
    }

    /// A third version, of the same size.
    fn other_version(&self) -> Vec<u8> {
        let tensors = [bf16("a", &[MIB + 10], 1), bf16("b", &[20], 2)].map(|tensor| nudged(&tensor, 7));
        let layout = layout_saying(&tensors, "step 0");
        fs::read(write_as(&self.dir.path().join("other"), Form::File, &tensors, &layout)).unwrap()
    }
}

fn is_busy(error: &ApplyError) -> bool {
    matches!(error, ApplyError::Checkpoint(CheckpointError::NotInPlace { obstacle: Obstacle::Busy, .. }))
}

#[test]
fn another_version_that_was_put_in_the_place_of_a_torn_one_is_not_altered_by_its_journal() {
    let scene = scene();
    let journal = scene.interrupt();
    let other = scene.other_version();
    assert_eq!(other.len(), scene.old.len());
    fs::write(&scene.checkpoint, &other).unwrap();
    let refused = scene.recover().unwrap_err();
    assert!(scene.bytes() == other);
    assert_eq!(fs::read(&scene.journal).unwrap(), journal);
    assert!(matches!(refused, ApplyError::AlteredSince { .. }), "{refused}");
}

#[test]
fn a_version_of_which_only_a_chunk_without_a_record_differs_is_not_altered_either() {
    let scene = scene();
    scene.interrupt();
    let mut damaged = scene.old.clone();
    let at = damaged.len() - 40 - 2;
    damaged[at] ^= 1;
    fs::write(&scene.checkpoint, &damaged).unwrap();
    assert!(scene.recover().is_err());
    assert!(scene.bytes() == damaged);
}

#[test]
fn a_refused_chunk_leaves_the_header_of_the_old_version() {
    let scene = scene();
    scene.interrupt();
    let other = scene.other_version();
    fs::write(&scene.checkpoint, &other).unwrap();
    activate_in_place(&scene.checkpoint, &scene.journal, &Options::default()).unwrap_err();
    assert_eq!(scene.bytes()[..100], other[..100]);
}

#[test]
fn a_checkpoint_of_another_length_than_its_journal_s_is_told_with_both_lengths() {
    let scene = scene();
    scene.interrupt();
    fs::write(&scene.checkpoint, &scene.old[..scene.old.len() - 7]).unwrap();
    let refused = scene.recover().unwrap_err();
    let ApplyError::AlteredSince { source, .. } = &refused else { panic!("{refused:?}") };
    let text = source.to_string();
    for len in [scene.old.len(), scene.old.len() - 7] {
        assert!(text.contains(&len.to_string()), "{text}");
    }
}

#[test]
fn limits_that_the_patch_keeps_to_do_not_stop_its_journal() {
    let scene = scene();
    let parsed = Patch::parse(&scene.patch, &Limits::default()).unwrap();
    let mut limits = Limits::default();
    limits.section_bytes = parsed.wire().blocks().iter().map(|block| block.section_len()).max().unwrap();
    let options = Options::default().with_limits(limits.clone());
    let patch = Patch::parse(&scene.patch, &limits).unwrap();
    apply_in_place(&scene.checkpoint, &patch, &scene.journal, &options, Progress::none()).unwrap();
    assert!(scene.bytes() == scene.new);
    assert!(has_no_journal(&scene.journal));
}

#[test]
fn a_journal_that_cannot_be_looked_at_does_not_pass_for_none() {
    let scene = scene();
    // Something that is no directory on the way to it: an error that root has too.
    let journal = scene.checkpoint.join("journal");
    let options = Options::default();
    assert!(activate_in_place(&scene.checkpoint, &journal, &options).is_err());
    assert!(recover(&scene.checkpoint, &journal, &options, Progress::none()).is_err());
    // A link to itself.
    std::os::unix::fs::symlink(&scene.journal, &scene.journal).unwrap();
    assert!(activate_in_place(&scene.checkpoint, &scene.journal, &options).is_err());
    assert!(scene.recover().is_err());
    assert!(matches!(
        scene.prepare(&options, Progress::none()),
        Err(ApplyError::Checkpoint(CheckpointError::Pending { .. }))
    ));
    assert!(scene.bytes() == scene.old);
}

#[test]
fn a_journal_is_not_written_through_a_link() {
    for exists in [true, false] {
        let scene = scene();
        let outside = scene.dir.path().join("outside");
        if exists {
            fs::write(&outside, b"precious").unwrap();
        }
        std::os::unix::fs::symlink(&outside, scene.journal.with_file_name("journal.partial")).unwrap();
        scene.prepare(&Options::default(), Progress::none()).unwrap();
        assert_eq!(fs::read(&outside).ok(), exists.then(|| b"precious".to_vec()));
        assert!(fs::symlink_metadata(&scene.journal).unwrap().is_file());
    }
}

/// Prepares, and calls `meanwhile` once while the journal is being written.
fn prepare_while(scene: &Scene, meanwhile: impl Fn() + Sync) -> Result<(), ApplyError> {
    let once = Mutex::new(false);
    let advance = |_| {
        let mut done = once.lock().unwrap();
        if !*done {
            *done = true;
            meanwhile();
        }
    };
    scene.prepare(&Options::default(), Progress::new(&advance))
}

#[test]
fn recovery_leaves_alone_what_a_live_process_is_writing() {
    let scene = scene();
    prepare_while(&scene, || {
        let refused = scene.recover().unwrap_err();
        assert!(is_busy(&refused), "{refused}");
    })
    .unwrap();
    assert!(matches!(scene.recover().unwrap(), Recovery::Finished { .. }));
    assert!(scene.bytes() == scene.new);
}

#[test]
fn a_journal_that_has_appeared_while_another_was_written_is_not_replaced() {
    let scene = scene();
    let refused = prepare_while(&scene, || fs::write(&scene.journal, b"another").unwrap());
    assert!(matches!(refused, Err(ApplyError::Checkpoint(CheckpointError::Pending { .. }))), "{refused:?}");
    assert_eq!(fs::read(&scene.journal).unwrap(), b"another");
    assert!(!scene.journal.with_file_name("journal.partial").exists());
}

#[test]
fn activating_says_what_the_checkpoint_has_become() {
    let scene = scene();
    let activate = || activate_in_place(&scene.checkpoint, &scene.journal, &Options::default()).unwrap();
    assert_eq!(activate(), None);
    scene.interrupt();
    let patch = Patch::parse(&scene.patch, &Limits::default()).unwrap();
    assert_eq!(activate(), Some(patch.target_digest()));
}

#[test]
fn a_checkpoint_with_a_torn_header_is_told_to_wait_for_its_journal() {
    let scene = scene();
    scene.interrupt();
    fs::write(&scene.checkpoint, [&[0xff; 9], &scene.old[9..]].concat()).unwrap();
    let refused = scene.prepare(&Options::default(), Progress::none());
    assert!(matches!(refused, Err(ApplyError::Checkpoint(CheckpointError::Pending { .. }))), "{refused:?}");
    assert!(matches!(scene.recover().unwrap(), Recovery::Finished { .. }));
    assert!(scene.bytes() == scene.new);
}

/// A patch, and the file that it makes.
type Way = (Vec<u8>, Vec<u8>);

/// A small file, and what becomes of it by two different patches.
fn rivals(dir: &Path) -> (Vec<u8>, [Way; 2]) {
    let tensors = [bf16("a", &[400], 1)];
    let file = |name: &str, tensors: &[crate::common::Tensor]| {
        write_as(&dir.join(name), Form::File, tensors, &layout_saying(tensors, name))
    };
    let base = file("base", &tensors);
    let way = |name, step| {
        let target = file(name, &[nudged(&tensors[0], step)]);
        (patch_between(&base, &target, &Options::default()).0, fs::read(target).unwrap())
    };
    (fs::read(&base).unwrap(), [way("one", 3), way("two", 5)])
}

#[test]
fn of_two_applications_at_once_the_one_that_succeeds_has_made_its_target() {
    let dir = tempfile::tempdir().unwrap();
    let (base, ways) = rivals(dir.path());
    let (checkpoint, journal) = (dir.path().join("model.safetensors"), dir.path().join("journal"));
    for round in 0..200 {
        fs::write(&checkpoint, &base).unwrap();
        let start = Barrier::new(2);
        let apply = |(patch, _): &Way| {
            let patch = Patch::parse(patch, &Limits::default()).unwrap();
            start.wait();
            apply_in_place(&checkpoint, &patch, &journal, &Options::default(), Progress::none())
        };
        let outcomes = thread::scope(|scope| {
            let other = scope.spawn(|| apply(&ways[1]));
            [apply(&ways[0]), other.join().unwrap()]
        });
        let winners: Vec<_> = (0..2).filter(|way| outcomes[*way].is_ok()).collect();
        for outcome in &outcomes {
            match outcome {
                Ok(_)
                | Err(
                    ApplyError::WrongBase { .. } | ApplyError::Checkpoint(CheckpointError::Pending { .. }),
                ) => {}
                Err(error) if is_busy(error) => {}
                Err(error) => panic!("{round}: {error:?}"),
            }
        }
        assert_eq!(winners.len(), 1, "{round}");
        assert!(fs::read(&checkpoint).unwrap() == ways[winners[0]].1, "{round}");
        assert!(has_no_journal(&journal), "{round}");
    }
}

#[test]
fn recovery_at_any_moment_of_an_application_harms_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (base, ways) = rivals(dir.path());
    let (checkpoint, journal) = (dir.path().join("model.safetensors"), dir.path().join("journal"));
    for round in 0..200 {
        fs::write(&checkpoint, &base).unwrap();
        let start = Barrier::new(2);
        let patch = Patch::parse(&ways[0].0, &Limits::default()).unwrap();
        let options = Options::default();
        let applied = thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                for _ in 0..50 {
                    match recover(&checkpoint, &journal, &options, Progress::none()) {
                        Ok(_) => {}
                        Err(error) if is_busy(&error) => {}
                        Err(error) => panic!("{round}: {error:?}"),
                    }
                }
            });
            start.wait();
            apply_in_place(&checkpoint, &patch, &journal, &options, Progress::none())
        });
        let expected = match applied {
            Ok(_) => &ways[0].1,
            Err(error) if is_busy(&error) => &base,
            Err(error) => panic!("{round}: {error:?}"),
        };
        assert!(fs::read(&checkpoint).unwrap() == *expected, "{round}");
        assert!(has_no_journal(&journal), "{round}");
    }
}
