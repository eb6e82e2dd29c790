//! Several patches in one pass: the result is that of one after the other, and every state on the way is
//! verified.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::scene::{MIB, has_no_journal};
use crate::common::{Tensor, bf16, layout_saying, nudged, open, patch_between, raw, write, write_as};
use tensorpatch_checkpoint::Form;
use tensorpatch_delta::{
    Apply, ApplyError, Chain, Options, Patch, Progress, Recovery, activate_in_place, apply_in_place,
    prepare_in_place, recover, rewrite,
};
use tensorpatch_format::{BlockBuilder, Limits, Listing, PatchHeader, PatchWriter, Profile};

/// Checkpoints that follow one another, and the patches between them.
struct Steps {
    dir: tempfile::TempDir,
    checkpoints: Vec<PathBuf>,
    patches: Vec<Vec<u8>>,
}

/// Each step changes other tensors in other places; the header is another one, of the same length, each time.
fn steps(count: u32) -> Steps {
    let dir = tempfile::tempdir().unwrap();
    let mut tensors = vec![bf16("a", &[MIB + 10], 1), bf16("b", &[20], 2), bf16("c", &[700], 3)];
    let (mut checkpoints, mut patches) = (Vec::new(), Vec::new());
    for step in 0..=count {
        let path = dir.path().join(format!("step-{step}"));
        let layout = layout_saying(&tensors, &format!("{step}"));
        checkpoints.push(write_as(&path, Form::File, &tensors, &layout));
        if let [.., before, now] = checkpoints.as_slice() {
            let profile = if step % 2 == 0 { Profile::Compact } else { Profile::Direct };
            patches.push(patch_between(before, now, &Options::default().with_profile(profile)).0);
        }
        let (tensor, every) = (step as usize % 3, 7 + step as usize);
        tensors[tensor] = nudged(&tensors[tensor], every);
    }
    Steps { dir, checkpoints, patches }
}

fn parse(patches: &[Vec<u8>]) -> Vec<Patch<'_>> {
    patches.iter().map(|bytes| Patch::parse(bytes, &Limits::default()).unwrap()).collect()
}

fn whole<'p>(patches: &'p [Patch<'p>]) -> Chain<'p> {
    let (chain, rest) = Chain::begin(patches).unwrap();
    assert!(rest.is_empty());
    chain
}

#[test]
fn several_patches_in_one_pass_make_what_they_make_one_after_the_other() {
    let steps = steps(5);
    let patches = parse(&steps.patches);
    for from in 0..5 {
        let expected = fs::read(&steps.checkpoints[5]).unwrap();
        let chain = whole(&patches[from..]);
        let path = |name: &str| steps.dir.path().join(format!("{name}-{from}"));
        let new = path("new");
        let report = Apply::new(chain).to(&steps.checkpoints[from], &new).unwrap();
        assert!(fs::read(&new).unwrap() == expected && report.same_layout);

        let (in_place, journal) = (path("in-place"), path("journal"));
        fs::copy(&steps.checkpoints[from], &in_place).unwrap();
        apply_in_place(&in_place, chain, &journal, &Options::default(), Progress::none()).unwrap();
        assert!(fs::read(&in_place).unwrap() == expected && has_no_journal(&journal));

        let rewritten = path("rewritten");
        fs::copy(&steps.checkpoints[from], &rewritten).unwrap();
        rewrite(&rewritten, chain, &Options::default(), Progress::none()).unwrap();
        assert!(fs::read(&rewritten).unwrap() == expected);
    }
}

#[test]
fn one_journal_takes_a_torn_checkpoint_over_all_steps() {
    let steps = steps(4);
    let patches = parse(&steps.patches);
    let (checkpoint, journal) = (steps.dir.path().join("torn"), steps.dir.path().join("journal"));
    let (old, new) = (fs::read(&steps.checkpoints[0]).unwrap(), fs::read(&steps.checkpoints[4]).unwrap());
    for cut in [0, 100, old.len() / 3, old.len() / 2, old.len()] {
        fs::write(&checkpoint, &old).unwrap();
        let options = Options::default();
        prepare_in_place(&checkpoint, whole(&patches), &journal, &options, Progress::none()).unwrap();
        fs::write(&checkpoint, [&new[..cut], &old[cut..]].concat()).unwrap();
        let recovered = recover(&checkpoint, &journal, &options, Progress::none()).unwrap();
        assert!(matches!(recovered, Recovery::Finished { .. }));
        assert!(fs::read(&checkpoint).unwrap() == new && has_no_journal(&journal));
    }
}

#[test]
fn patches_that_take_back_what_they_did_leave_no_journal_and_alter_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let one = [bf16("a", &[500], 1)];
    let two = [nudged(&one[0], 3)];
    let (a, b) = (write(&path("a"), &one), write(&path("b"), &two));
    let there_and_back =
        [patch_between(&a, &b, &Options::default()).0, patch_between(&b, &a, &Options::default()).0];
    let patches = parse(&there_and_back);
    let (options, before) = (Options::default(), fs::read(&a).unwrap());
    let report = prepare_in_place(&a, whole(&patches), &path("journal"), &options, Progress::none()).unwrap();
    assert_eq!(report.base, report.target);
    assert!(has_no_journal(&path("journal")));
    assert_eq!(activate_in_place(&a, &path("journal"), &options).unwrap(), None);
    apply_in_place(&a, whole(&patches), &path("journal"), &options, Progress::none()).unwrap();
    assert!(fs::read(&a).unwrap() == before);
}

#[test]
fn a_chain_with_a_gap_a_wrong_base_or_a_step_that_leads_elsewhere_is_refused_before_anything_is_altered() {
    let steps = steps(3);
    let patches = parse(&steps.patches);
    let (checkpoint, journal) = (steps.dir.path().join("base"), steps.dir.path().join("journal"));
    let old = fs::read(&steps.checkpoints[0]).unwrap();
    fs::write(&checkpoint, &old).unwrap();
    let refused = |patches: &[Patch<'_>]| {
        let (chain, rest) = Chain::begin(patches).unwrap();
        assert!(rest.is_empty());
        let error = apply_in_place(&checkpoint, chain, &journal, &Options::default(), Progress::none());
        assert!(fs::read(&checkpoint).unwrap() == old && has_no_journal(&journal));
        error.unwrap_err()
    };
    // A step is left out: what it changes is untouched by the others, so that only the states tell.
    let gap = refused(&[patches[0].clone(), patches[2].clone()]);
    assert!(matches!(gap, ApplyError::WrongBase { .. } | ApplyError::Chunk { .. }), "{gap}");
    let late = refused(&patches[1..]);
    assert!(matches!(late, ApplyError::WrongBase { .. }), "{late}");
    // The last patch with the digests of another one's ends.
    let twice = refused(&[patches[0].clone(), patches[1].clone(), patches[1].clone()]);
    assert!(matches!(twice, ApplyError::WrongBase { .. } | ApplyError::Chunk { .. }), "{twice}");
}

#[test]
fn a_state_on_the_way_that_is_not_what_its_patch_says_is_found_though_the_last_one_is() {
    // The first patch is of one pair of states, and claims to be of another: the second leads to the right
    // target all the same, as its record is of the whole chunk.
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let base = [bf16("a", &[400], 1), bf16("b", &[400], 2)];
    let mid = [nudged(&base[0], 2), base[1].clone()];
    let other = [nudged(&base[0], 3), base[1].clone()];
    let noise = bf16("a", &[400], 9);
    let target = [noise, base[1].clone()];
    let (base, mid, other, target) = (
        write(&path("base"), &base),
        write(&path("mid"), &mid),
        write(&path("other"), &other),
        write(&path("target"), &target),
    );
    let options = Options::default();
    let (to_mid, from_other) =
        (patch_between(&base, &mid, &options).0, patch_between(&other, &target, &options).0);
    let patches = [to_mid, from_other];
    let patches = parse(&patches);
    let (chain, _) = Chain::begin(&patches).unwrap();
    let refused = Apply::new(chain).to(&base, path("out")).unwrap_err();
    assert!(matches!(refused, ApplyError::WrongBase { .. } | ApplyError::Chunk { .. }), "{refused}");
    assert!(!path("out").exists());
}

/// The patch `says`, but for the payloads, which are those of the patch `does` over the same base.
fn forged(base: &Path, says: &[u8], does: &[u8]) -> Vec<u8> {
    let base = open(base);
    let parse = |bytes| Patch::parse(bytes, &Limits::default()).unwrap();
    let (says, does) = (parse(says), parse(does));
    let (said, done) = (says.bind(Some(base.schema())).unwrap(), does.bind(Some(base.schema())).unwrap());
    let header = PatchHeader::new(says.kind(), says.profile(), says.leaf_hash());
    let (writer, mut forged) = PatchWriter::start(&header);
    let (writer, bytes) = writer.schema(&Listing::Same).unwrap();
    forged.extend(bytes);
    let (mut writer, bytes) = writer.layout(&Listing::Same).unwrap();
    forged.extend(bytes);
    let mut block = BlockBuilder::new(&header);
    for ((said, leaf), (done, _)) in said.records().iter().zip(done.records()) {
        assert_eq!(said.address, done.address);
        block.push(said.address, done.encoding, done.payload, *leaf).unwrap();
    }
    forged.extend(writer.block(block.finish().unwrap()).unwrap());
    forged.extend(writer.finish(&says.trailer().ends).unwrap().1);
    forged
}

#[test]
fn what_a_patch_on_the_way_makes_of_a_chunk_shows_in_the_target_or_does_not_matter() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let base = [bf16("a", &[4000], 1)];
    let (mid, other) = ([nudged(&base[0], 50)], [nudged(&base[0], 70)]);
    // One that follows from what is in between, and one that does not look at it.
    let (near, far) = ([nudged(&mid[0], 90)], [raw("a", "BF16", &[4000], &[0; 8000])]);
    let write = |name: &str, tensors: &[Tensor]| write(&path(name), tensors);
    let (base, mid, other) = (write("base", &base), write("mid", &mid), write("other", &other));
    let options = Options::default();
    let patch = |from: &Path, to: &Path| patch_between(from, to, &options).0;
    let lie = forged(&base, &patch(&base, &mid), &patch(&base, &other));
    for (target, matters) in [(write("near", &near), true), (write("far", &far), false)] {
        let patches = [lie.clone(), patch(&mid, &target)];
        let patches = parse(&patches);
        let chain = whole(&patches);
        let (out, journal) = (path("out"), path("journal"));
        let made = Apply::new(chain).to(&base, &out);
        fs::copy(&base, path("in-place")).unwrap();
        let altered = apply_in_place(&path("in-place"), chain, &journal, &options, Progress::none());
        if matters {
            assert!(matches!(made, Err(ApplyError::Chunk { .. })), "{made:?}");
            assert!(matches!(altered, Err(ApplyError::Chunk { .. })), "{altered:?}");
            assert!(!out.exists() && fs::read(path("in-place")).unwrap() == fs::read(&base).unwrap());
        } else {
            made.unwrap();
            altered.unwrap();
            for made in [out, path("in-place")] {
                assert!(fs::read(made).unwrap() == fs::read(&target).unwrap());
            }
        }
        assert!(has_no_journal(&journal));
    }
    // Alone it is found out.
    let alone = [lie];
    let alone = parse(&alone);
    assert!(matches!(Apply::new(whole(&alone)).to(&base, path("alone")), Err(ApplyError::Chunk { .. })));
}

#[test]
fn a_pass_ends_before_a_patch_with_other_tensors() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let states: [Vec<Tensor>; 3] = [
        vec![bf16("a", &[400], 1)],
        vec![nudged(&bf16("a", &[400], 1), 4)],
        vec![nudged(&bf16("a", &[400], 1), 4), bf16("b", &[40], 2)],
    ];
    let files: Vec<PathBuf> =
        states.iter().zip(["0", "1", "2"]).map(|(tensors, name)| write(&path(name), tensors)).collect();
    let bytes: Vec<Vec<u8>> =
        files.windows(2).map(|pair| patch_between(&pair[0], &pair[1], &Options::default()).0).collect();
    let patches = parse(&bytes);
    let (first, rest) = Chain::begin(&patches).unwrap();
    assert_eq!(rest.len(), 1);
    Apply::new(first).to(&files[0], path("one")).unwrap();
    let (second, rest) = Chain::begin(rest).unwrap();
    assert!(rest.is_empty() && Chain::begin(rest).is_none());
    Apply::new(second).to(path("one"), path("two")).unwrap();
    assert!(fs::read(path("two")).unwrap() == fs::read(&files[2]).unwrap());
}
