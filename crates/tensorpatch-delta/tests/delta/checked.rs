//! Patches that are decoded while they are made: states that somebody alters meanwhile give no patch.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::{bf16, nudged, open, patch_between, version, write};
use tensorpatch_checkpoint::CheckpointReader;
use tensorpatch_delta::{DiffError, Options, Patch, Progress, encode_diff, encode_diff_reading};
use tensorpatch_format::{Limits, StateDigest};

#[test]
fn a_checked_patch_is_the_same_patch() {
    let dir = tempfile::tempdir().unwrap();
    let base = [bf16("a", &[1 << 20], 1), bf16("b", &[100], 2)];
    let target = [nudged(&base[0], 40), nudged(&base[1], 2), bf16("new", &[50], 3)];
    let (base, target) = (write(&dir.path().join("base"), &base), write(&dir.path().join("target"), &target));
    let plain = patch_between(&base, &target, &Options::default()).0;
    assert!(plain == patch_between(&base, &target, &Options::default().checked()).0);
}

/// The patch from what is at `files`, read in the places of `base`.
fn patch_reading(base: &Path, files: &Path, target: &Path) -> Result<(Vec<u8>, StateDigest), DiffError> {
    let (base, target) = (open(base), open(target));
    let files = CheckpointReader::open(files, base.layout(), base.placement())?;
    let (mut patch, options) = (Vec::new(), Options::default());
    let base = version(&base);
    let report =
        encode_diff_reading((&base, &files), &version(&target), &options, Progress::none(), &mut patch)?;
    Ok((patch, report.base))
}

#[test]
fn a_patch_from_files_that_are_read_starts_from_what_was_read_and_from_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let older = [bf16("a", &[(1 << 20) + 3], 1), bf16("b", &[100], 2)];
    let base = [nudged(&older[0], 33), nudged(&older[1], 7)];
    let target = [nudged(&base[0], 40), base[1].clone()];
    let (older, base, target) =
        (write(&path("older"), &older), write(&path("base"), &base), write(&path("target"), &target));
    let (plain, report) = patch_between(&base, &target, &Options::default());
    let (patch, found) = patch_reading(&older, &base, &target).unwrap();
    assert!(patch == plain);
    assert_eq!(found, report.base);

    // One bit tells, wherever it is.
    let bytes = std::fs::read(&base).unwrap();
    for at in [bytes.len() - 1, bytes.len() / 2, bytes.len() - 150] {
        let mut altered = bytes.clone();
        altered[at] ^= 1;
        std::fs::write(&base, altered).unwrap();
        assert_ne!(patch_reading(&older, &base, &target).unwrap().1, report.base, "{at}");
    }
    // Cut short before and while it is read, and with another header.
    let cut = &bytes[..bytes.len() - 10];
    std::fs::write(&base, cut).unwrap();
    assert!(matches!(patch_reading(&older, &base, &target), Err(DiffError::Checkpoint(_))));
    std::fs::write(&base, &bytes).unwrap();
    let (older, target) = (open(&older), open(&target));
    let files = CheckpointReader::open(&base, older.layout(), older.placement()).unwrap();
    std::fs::write(&base, cut).unwrap();
    let (from, to, options) = (version(&older), version(&target), Options::default());
    let read = encode_diff_reading((&from, &files), &to, &options, Progress::none(), &mut Vec::new());
    assert!(matches!(read, Err(DiffError::Checkpoint(_))), "{read:?}");
    let mut other = bytes;
    other[12] ^= 1;
    std::fs::write(&base, other).unwrap();
    assert!(CheckpointReader::open(&base, older.layout(), older.placement()).is_err());
}

/// Alters a target all the time while patches to it are made, until one is refused.
#[test]
fn a_target_that_is_altered_while_it_is_read_gives_an_error_or_a_patch_that_decodes() {
    let dir = tempfile::tempdir().unwrap();
    let tensors = [bf16("a", &[1 << 20], 1)];
    let base = write(&dir.path().join("base"), &tensors);
    let target = write(&dir.path().join("target"), &[nudged(&tensors[0], 30)]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            use std::os::unix::fs::FileExt;
            let file = std::fs::OpenOptions::new().write(true).open(&target).unwrap();
            let len = file.metadata().unwrap().len();
            for round in 0_u64.. {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                let at = 4096 + round.wrapping_mul(0x9E37_79B9_7F4A_7C15) % (len - 8192);
                file.write_all_at(&round.to_le_bytes(), at).unwrap();
            }
        });
        let mut refused = 0;
        for _ in 0..40 {
            let (from, to) = (open(&base), open(&target));
            let mut patch = Vec::new();
            let options = Options::default().checked();
            match encode_diff(&version(&from), &version(&to), &options, Progress::none(), &mut patch) {
                Err(DiffError::Altered { tensor, .. }) => {
                    assert_eq!(tensor, "a");
                    refused += 1;
                }
                Err(error) => panic!("{error}"),
                Ok(_) => {
                    let patch = Patch::parse(&patch, &Limits::default()).unwrap();
                    let out = dir.path().join("out");
                    patch.apply(&base, &out).unwrap();
                }
            }
        }
        stop.store(true, Ordering::SeqCst);
        assert!(refused > 0, "nothing was altered at the right time");
    });
}
