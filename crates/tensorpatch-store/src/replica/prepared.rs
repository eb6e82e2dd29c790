//! A version that is at hand, before it is activated.

use std::ops::ControlFlow;
use std::path::Path;

use tensorpatch_checkpoint::Checkpoint;
use tensorpatch_delta::{self as delta, ChangedTensor, ChangedTensors, Patch, State};
use tensorpatch_format::{TaggedStateDigest, TensorIndex};
use tensorpatch_stream::{Commit, NamedObject, Version};

use super::directory::{InstalledVersion, ReplicaDir};
use super::prepare::Work;
use super::pulled::Pulled;
use crate::error::StoreError;

/// A version that is downloaded and verified as far as that goes without touching what is held; holds the
/// replica's lock.
#[derive(Debug)]
pub struct Prepared {
    pub(super) directory: ReplicaDir,
    pub(super) held: Option<InstalledVersion>,
    /// The files beside the weights that came with it, as they are.
    pub(super) old_companions: Vec<NamedObject>,
    pub(super) target: Commit,
    pub(super) work: Work,
    pub(super) report: Pulled,
    pub(super) options: delta::Options,
}

impl Prepared {
    /// The version that activation will bring.
    pub fn version(&self) -> Version {
        self.target.record.version
    }

    /// The state that activation will bring.
    pub fn state(&self) -> TaggedStateDigest {
        self.target.record.contents.state
    }

    /// What activation will report.
    pub fn report(&self) -> &Pulled {
        &self.report
    }

    /// Hands over what activation will change in the tensors of the version held, one tensor at a time and in
    /// the order of their names, for engines that scatter it into weights which they hold in memory. Several
    /// patches are taken together. If nothing is held, every tensor is handed over whole.
    ///
    /// It reads local files only, blocks, and ends early when `visit` breaks it off. `wanted` leaves tensors
    /// out by name.
    ///
    /// # Errors
    /// If a local file cannot be read, or is not what it was when the version was prepared.
    pub fn visit_changed(
        &self,
        wanted: impl Fn(&str) -> bool,
        mut visit: impl FnMut(ChangedTensor) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let limits = &self.options.limits;
        let open = |path: &Path| Checkpoint::open(path, limits).map_err(StoreError::from);
        let base = self.held.as_ref().map(|_| open(&self.directory.path())).transpose()?;
        let base_state = base.as_ref().map(State::of).transpose()?;
        let (staged, patches);
        let changed = match &self.work {
            Work::Nothing => return Ok(()),
            // Only files beside the weights.
            Work::Switch(_) if self.report.edges.is_empty() => return Ok(()),
            Work::Switch(_) => {
                staged = open(&self.directory.staging().path())?;
                ChangedTensors::between(base_state, State::of(&staged)?, &self.options)
            }
            Work::InPlace { steps, .. } => {
                let opened = steps.iter().map(|step| Patch::open_within(step.patch.path(), limits));
                patches = opened.collect::<Result<Vec<_>, _>>()?;
                ChangedTensors::by_patches(base_state, &patches, &self.options)?
            }
        };
        for (spec, index) in changed.schema().tensors().iter().zip((0..).map(TensorIndex)) {
            if !wanted(&spec.name) {
                continue;
            }
            if let Some(tensor) = changed.tensor(index)?
                && visit(tensor).is_break()
            {
                break;
            }
        }
        Ok(())
    }

    /// Whether there is anything to activate.
    pub fn is_needed(&self) -> bool {
        !matches!(self.work, Work::Nothing)
    }
}
