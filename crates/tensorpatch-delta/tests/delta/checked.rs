//! Patches that are decoded while they are made: states that somebody alters meanwhile give no patch.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::{bf16, nudged, open, patch_between, version, write};
use tensorpatch_delta::{DiffError, Options, Patch, Progress, encode_diff};
use tensorpatch_format::Limits;

#[test]
fn a_checked_patch_is_the_same_patch() {
    let dir = tempfile::tempdir().unwrap();
    let base = [bf16("a", &[1 << 20], 1), bf16("b", &[100], 2)];
    let target = [nudged(&base[0], 40), nudged(&base[1], 2), bf16("new", &[50], 3)];
    let (base, target) = (write(&dir.path().join("base"), &base), write(&dir.path().join("target"), &target));
    let plain = patch_between(&base, &target, &Options::default()).0;
    assert!(plain == patch_between(&base, &target, &Options::default().checked()).0);
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
