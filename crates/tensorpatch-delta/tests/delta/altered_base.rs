//! A base that something else alters while a patch is applied to it: what is called right is right.

use std::fs::OpenOptions;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;

use crate::common::{bf16, nudged, open, patch_between, write};
use tensorpatch_delta::{Options, Patch, Progress, State, apply_chunks};
use tensorpatch_format::{ChunkAddress, Limits, TensorIndex};

#[test]
fn a_chunk_that_stays_the_same_is_handed_on_as_it_was_verified() {
    let dir = tempfile::tempdir().unwrap();
    let tensors = [bf16("a", &[100], 1), bf16("b", &[100], 2)];
    let base = write(&dir.path().join("base"), &tensors);
    let target = write(&dir.path().join("target"), &[nudged(&tensors[0], 9), tensors[1].clone()]);
    let (patch, _) = patch_between(&base, &target, &Options::default());

    let opened = open(&base);
    let last = std::fs::metadata(&base).unwrap().len() - 1;
    let file = OpenOptions::new().write(true).open(&base).unwrap();
    let handed_on = Mutex::new(Vec::new());
    let take = |address: ChunkAddress, bytes: &[u8]| {
        if address.tensor == TensorIndex(1) {
            // After it was verified, before it is used.
            file.write_all_at(&[0xaa], last).unwrap();
        }
        handed_on.lock().unwrap().extend_from_slice(bytes);
    };
    let patch = Patch::parse(&patch, &Limits::default()).unwrap();
    let options = Options::default().with_threads(NonZeroUsize::MIN);
    apply_chunks(Some(&State::of(&opened).unwrap()), &patch, &options, Progress::none(), &take).unwrap();
    assert!(handed_on.into_inner().unwrap() == open(&target).tensors().concat());
}
