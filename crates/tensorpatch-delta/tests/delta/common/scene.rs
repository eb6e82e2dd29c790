//! A checkpoint that is altered in place, its patch, and where the journal lies.

use std::fs;
use std::path::{Path, PathBuf};

use tensorpatch_checkpoint::Form;
use tensorpatch_delta::{
    ApplyError, ApplyReport, Options, Patch, Progress, Recovery, apply_in_place, prepare_in_place, recover,
};
use tensorpatch_format::Limits;

use super::{Tensor, bf16, layout_saying, nudged, patch_between, write_as};

pub(crate) const MIB: u64 = 1 << 20;

pub(crate) struct Scene {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) checkpoint: PathBuf,
    pub(crate) old: Vec<u8>,
    pub(crate) new: Vec<u8>,
    pub(crate) patch: Vec<u8>,
    pub(crate) journal: PathBuf,
}

/// A checkpoint of two chunks and some, and the patch that alters every chunk and the header.
pub(crate) fn scene() -> Scene {
    let dir = tempfile::tempdir().unwrap();
    let tensors = [bf16("a", &[MIB + 10], 1), bf16("b", &[20], 2)];
    let next: Vec<Tensor> = tensors.iter().map(|tensor| nudged(tensor, 50)).collect();
    let checkpoint = write_as(
        &dir.path().join("model.safetensors"),
        Form::File,
        &tensors,
        &layout_saying(&tensors, "step 1"),
    );
    let target = write_as(&dir.path().join("target"), Form::File, &next, &layout_saying(&next, "step 2"));
    let (patch, _) = patch_between(&checkpoint, &target, &Options::default());
    let (old, new) = (fs::read(&checkpoint).unwrap(), fs::read(&target).unwrap());
    let journal = dir.path().join("journal");
    Scene { dir, checkpoint, old, new, patch, journal }
}

impl Scene {
    pub(crate) fn apply(&self, patch: &[u8]) -> Result<ApplyReport, ApplyError> {
        let patch = Patch::parse(patch, &Limits::default())?;
        apply_in_place(&self.checkpoint, &patch, &self.journal, &Options::default(), Progress::none())
    }

    pub(crate) fn recover(&self) -> Result<Recovery, ApplyError> {
        recover(&self.checkpoint, &self.journal, &Options::default(), Progress::none())
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        fs::read(&self.checkpoint).unwrap()
    }

    /// The journal that turns the checkpoint into its target, as it lies on disk when a crash interrupts.
    pub(crate) fn keep_journal(&self) -> Vec<u8> {
        let patch = Patch::parse(&self.patch, &Limits::default()).unwrap();
        prepare_in_place(&self.checkpoint, &patch, &self.journal, &Options::default(), Progress::none())
            .unwrap();
        let journal = fs::read(&self.journal).unwrap();
        fs::remove_file(&self.journal).unwrap();
        journal
    }
}

pub(crate) fn has_no_journal(path: &Path) -> bool {
    !path.exists() && !path.with_file_name("journal.partial").exists()
}
