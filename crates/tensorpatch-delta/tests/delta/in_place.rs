//! Altering a checkpoint in place: always the old or the new version, whatever happens in between.

use std::fs;
use std::path::Path;

use crate::common::scene::{MIB, has_no_journal, scene};
use crate::common::{
    Tensor, bf16, layout_saying, nudged, patch_between, sharded_layout, tensor_of, write, write_as,
};
use tensorpatch_checkpoint::{CheckpointError, Form};
use tensorpatch_delta::{ApplyError, Options, Patch, Progress, Recovery, activate_in_place, apply_in_place};
use tensorpatch_format::{Kind, Layout, Limits, Profile};

#[test]
fn the_checkpoint_becomes_the_target_and_no_journal_stays() {
    let scene = scene();
    let report = scene.apply(&scene.patch).unwrap();
    assert!(scene.bytes() == scene.new);
    assert!(report.same_layout);
    // Two chunks of the first tensor and the one of the second: the 20 bytes of the first's last chunk stay.
    assert_eq!(report.changed_chunks, 3);
    assert!(has_no_journal(&scene.journal));
}

#[test]
fn preparing_alters_nothing_and_activating_is_all_that_is_left() {
    let scene = scene();
    let journal = scene.keep_journal();
    assert!(scene.bytes() == scene.old);
    fs::write(&scene.journal, journal).unwrap();
    activate_in_place(&scene.checkpoint, &scene.journal, &Options::default()).unwrap();
    assert!(scene.bytes() == scene.new);
    assert!(has_no_journal(&scene.journal));
}

#[test]
fn a_chunk_altered_between_preparing_and_activating_is_not_overwritten() {
    let scene = scene();
    let journal = scene.keep_journal();
    let mut altered = scene.old.clone();
    let at = altered.len() / 2;
    // Whatever stands there, an element that the patch leaves alone gets another value or two of them do.
    altered[at..at + 4].iter_mut().for_each(|byte| *byte ^= 0x55);
    fs::write(&scene.checkpoint, &altered).unwrap();
    fs::write(&scene.journal, journal).unwrap();
    let refused = activate_in_place(&scene.checkpoint, &scene.journal, &Options::default());
    assert!(matches!(refused, Err(ApplyError::AlteredSince { .. })));
    assert_eq!(scene.bytes()[at..at + 4], altered[at..at + 4]);
}

#[test]
fn a_patch_of_the_direct_profile_applies_in_place_too() {
    let scene = scene();
    let target = scene.dir.path().join("target");
    let options = Options::default().with_profile(Profile::Direct);
    let (patch, _) = patch_between(&scene.checkpoint, &target, &options);
    scene.apply(&patch).unwrap();
    assert!(scene.bytes() == scene.new);
}

#[test]
fn applying_the_same_patch_twice_is_a_wrong_base_and_alters_nothing() {
    let scene = scene();
    scene.apply(&scene.patch).unwrap();
    assert!(matches!(scene.apply(&scene.patch), Err(ApplyError::WrongBase { .. })));
    assert!(scene.bytes() == scene.new);
    assert!(has_no_journal(&scene.journal));
}

#[test]
fn a_wrong_base_or_a_broken_patch_alters_nothing() {
    let scene = scene();
    let mut bad = scene.old.clone();
    let last = bad.len() - 1;
    bad[last] ^= 1;
    fs::write(&scene.checkpoint, &bad).unwrap();
    assert!(matches!(scene.apply(&scene.patch), Err(ApplyError::WrongBase { .. })));
    assert!(scene.bytes() == bad);

    fs::write(&scene.checkpoint, &scene.old).unwrap();
    let mut broken = scene.patch.clone();
    let middle = broken.len() / 2;
    broken[middle] ^= 1;
    assert!(matches!(scene.apply(&broken), Err(ApplyError::Patch(_))));
    assert!(scene.bytes() == scene.old);
    assert!(has_no_journal(&scene.journal));
}

#[test]
fn an_interruption_at_any_point_of_the_alteration_is_finished_by_recovery() {
    let scene = scene();
    let journal = scene.keep_journal();
    let len = scene.old.len();
    // Cuts in the header, at and around chunk borders, and in the last bytes: everything before the cut is
    // new, the rest old.
    let cuts = [0, 5, 20, 100, len / 3, len / 2, len - 100, len - 1, len];
    for cut in cuts {
        for torn_backwards in [false, true] {
            let (first, second) =
                if torn_backwards { (&scene.old, &scene.new) } else { (&scene.new, &scene.old) };
            let torn = [&first[..cut], &second[cut..]].concat();
            fs::write(&scene.checkpoint, &torn).unwrap();
            fs::write(&scene.journal, &journal).unwrap();
            let recovered = scene.recover().unwrap();
            assert!(matches!(recovered, Recovery::Finished { .. }), "{cut}");
            assert!(scene.bytes() == scene.new, "{cut}");
            assert!(has_no_journal(&scene.journal));
            assert_eq!(scene.recover().unwrap(), Recovery::Nothing);
        }
    }
}

#[test]
fn an_interruption_before_the_journal_was_whole_leaves_the_old_version() {
    let scene = scene();
    fs::write(scene.journal.with_file_name("journal.partial"), b"beginnings").unwrap();
    assert_eq!(scene.recover().unwrap(), Recovery::Dropped);
    assert!(scene.bytes() == scene.old);
    assert!(has_no_journal(&scene.journal));
}

#[test]
fn nothing_is_applied_while_an_interrupted_application_waits() {
    let scene = scene();
    let journal = scene.keep_journal();
    fs::write(&scene.checkpoint, &scene.old).unwrap();
    fs::write(&scene.journal, &journal).unwrap();
    assert!(matches!(
        scene.apply(&scene.patch),
        Err(ApplyError::Checkpoint(CheckpointError::Pending { .. }))
    ));
    assert!(scene.bytes() == scene.old);
}

#[test]
fn a_damaged_journal_is_reported_and_kept() {
    let scene = scene();
    let mut journal = scene.keep_journal();
    let middle = journal.len() / 2;
    journal[middle] ^= 1;
    fs::write(&scene.checkpoint, &scene.old).unwrap();
    fs::write(&scene.journal, &journal).unwrap();
    assert!(matches!(scene.recover(), Err(ApplyError::DamagedJournal { .. })));
    assert!(scene.bytes() == scene.old);
    assert!(scene.journal.exists());
}

#[test]
fn damage_that_the_journal_does_not_cover_is_reported_by_recovery() {
    let scene = scene();
    let journal = scene.keep_journal();
    let mut damaged = scene.old.clone();
    // The end of the first tensor: its last chunk stays as it is, so the journal says nothing of it.
    let at = damaged.len() - 40 - 2;
    damaged[at] ^= 1;
    fs::write(&scene.checkpoint, &damaged).unwrap();
    fs::write(&scene.journal, &journal).unwrap();
    assert!(matches!(scene.recover(), Err(ApplyError::AlteredSince { .. })));
    assert!(scene.journal.exists());
}

#[test]
fn what_would_move_tensors_is_refused_and_alters_nothing() {
    let scene = scene();
    let moved = [bf16("a", &[MIB + 10], 1), bf16("b", &[20], 2), bf16("c", &[1], 3)];
    let target = write(&scene.dir.path().join("moved"), &moved);
    let (patch, _) = patch_between(&scene.checkpoint, &target, &Options::default());
    assert!(matches!(scene.apply(&patch), Err(ApplyError::NotInPlace(_))));

    let target = write(&scene.dir.path().join("longer-header"), &moved[..2]);
    let (patch, _) = patch_between(&scene.checkpoint, &target, &Options::default());
    assert!(matches!(scene.apply(&patch), Err(ApplyError::NotInPlace(_))));
    assert!(scene.bytes() == scene.old);
}

#[test]
fn what_alters_only_a_header_an_index_or_a_shape_is_refused_and_alters_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let tensors = [bf16("a", &[2, 300], 1), bf16("b", &[20], 2)];
    let mut reshaped = [nudged(&tensors[0], 50), nudged(&tensors[1], 50)];
    // The header is as long as before, so that nothing moves.
    reshaped[0].spec.shape = vec![300, 2];
    let sharded = sharded_layout(&tensors);
    let mut index = sharded.index().unwrap().to_vec();
    index.push(b' ');
    let another_index = Layout::new(sharded.files().to_vec(), Some(index)).unwrap();
    let next = [nudged(&tensors[0], 50), nudged(&tensors[1], 50)];
    let said = |text| layout_saying(&tensors, text);
    for (what, kind, base, target) in [
        ("a header", Kind::Empty, (Form::File, &said("step 1")), (&tensors, &said("step 2"))),
        (
            "a shape",
            Kind::Delta,
            (Form::File, &said("step 1")),
            (&reshaped, &layout_saying(&reshaped, "step 1")),
        ),
        ("an index", Kind::Delta, (Form::Directory, &sharded), (&next, &another_index)),
    ] {
        let path = |side: &str| dir.path().join(format!("{side} {what}"));
        let (form, layout) = base;
        let checkpoint = write_as(&path("base"), form, &tensors, layout);
        let target = write_as(&path("target"), form, target.0, target.1);
        let (patch, report) = patch_between(&checkpoint, &target, &Options::default());
        assert_eq!(report.kind, kind, "{what}");
        let state = |path: &Path| {
            let opened = crate::common::open(path);
            (opened.layout().clone(), opened.tensors().concat())
        };
        let (before, journal) = (state(&checkpoint), dir.path().join("journal"));
        let patch = Patch::parse(&patch, &Limits::default()).unwrap();
        let refused = apply_in_place(&checkpoint, &patch, &journal, &Options::default(), Progress::none());
        assert!(matches!(refused, Err(ApplyError::NotInPlace(_))), "{what}: {refused:?}");
        assert!(state(&checkpoint) == before, "{what}");
        assert!(has_no_journal(&journal));
    }
}

#[test]
fn a_checkpoint_that_others_share_by_a_link_is_refused() {
    let scene = scene();
    let link = scene.dir.path().join("link.safetensors");
    std::os::unix::fs::symlink(&scene.checkpoint, &link).unwrap();
    let patch = Patch::parse(&scene.patch, &Limits::default()).unwrap();
    let refused = apply_in_place(&link, &patch, &scene.journal, &Options::default(), Progress::none());
    assert!(matches!(refused, Err(ApplyError::Checkpoint(CheckpointError::NotInPlace { .. }))));
    assert!(scene.bytes() == scene.old);
    assert!(has_no_journal(&scene.journal));
}

#[test]
fn a_sharded_directory_is_altered_in_place() {
    let dir = tempfile::tempdir().unwrap();
    let tensors = [bf16("a", &[MIB], 1), bf16("b", &[10], 2), bf16("c", &[10], 2)];
    let next: Vec<Tensor> = vec![nudged(&tensors[0], 9), nudged(&tensors[1], 2), tensors[2].clone()];
    let layout = sharded_layout(&tensors);
    let base = write_as(&dir.path().join("base"), Form::Directory, &tensors, &layout);
    let target = write_as(&dir.path().join("target"), Form::Directory, &next, &layout);
    let (bytes, report) = patch_between(&base, &target, &Options::default());
    assert_eq!(report.kind, Kind::Delta);
    let patch = Patch::parse(&bytes, &Limits::default()).unwrap();
    let journal = dir.path().join("journal");
    apply_in_place(&base, &patch, &journal, &Options::default(), Progress::none()).unwrap();
    for tensor in &next {
        assert!(tensor_of(&base, &tensor.spec.name) == tensor.bytes);
    }
    assert!(has_no_journal(&journal));
}

#[test]
fn an_empty_patch_leaves_the_checkpoint_as_it_is() {
    let scene = scene();
    let (patch, report) = patch_between(&scene.checkpoint, &scene.checkpoint, &Options::default());
    assert_eq!(report.kind, Kind::Empty);
    scene.apply(&patch).unwrap();
    assert!(scene.bytes() == scene.old);
    assert!(has_no_journal(&scene.journal));
}
