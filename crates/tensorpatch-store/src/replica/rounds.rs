//! When a way to a version fails: what is tried instead, and when to give up.

use tensorpatch_delta::ApplyError;

use crate::error::StoreError;
use crate::plan::{Avoided, History, Plan, Step, Way};

/// How often a plan is made anew when objects vanish or local files turn out to be damaged.
const ROUNDS: usize = 4;

/// The attempts to reach a version.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    made: usize,
    avoided: Avoided,
    /// The plan in hand.
    steps: Vec<Step>,
    /// Those of its steps that edge records have added: there are others.
    optional: Vec<Step>,
    /// What first was wrong with the stream.
    first: Option<StoreError>,
    fetched_bytes: u64,
}

impl Rounds {
    /// What no plan is to be made with.
    pub(super) fn avoided(&self) -> &Avoided {
        &self.avoided
    }

    /// Counts bytes that were fetched.
    pub(super) fn fetched(&mut self, bytes: u64) {
        self.fetched_bytes = self.fetched_bytes.saturating_add(bytes);
    }

    /// Bytes that were fetched, whatever became of them.
    pub(super) fn fetched_bytes(&self) -> u64 {
        self.fetched_bytes
    }

    /// Remembers the plan that is being tried.
    pub(super) fn take(&mut self, history: &History, plan: &Plan) {
        let is_optional = |step: &&Step| {
            let record = history.commit(step.target.version).map(|commit| &commit.record);
            record.is_none_or(|record| match &step.way {
                Way::Delta(delta) => record.delta.as_ref() != Some(delta),
                Way::Anchor(anchor) => record.anchor.as_ref() != Some(anchor),
            })
        };
        self.steps.clone_from(&plan.steps);
        self.optional = plan.steps.iter().filter(is_optional).cloned().collect();
    }

    /// Lets the next round begin, if there may be another way.
    ///
    /// # Errors
    /// The error that is to be told, if there is none.
    pub(super) fn go_on(&mut self, error: StoreError) -> Result<(), StoreError> {
        let size = |avoided: &Avoided| avoided.objects.len().saturating_add(avoided.ways.len());
        let before = size(&self.avoided);
        match &error {
            // Objects may be collected between the plan and the download, and files damaged on disk.
            StoreError::Missing { .. } | StoreError::WrongState { .. } | StoreError::LocalDamage { .. } => {
                self.made = self.made.saturating_add(1);
                if self.made >= ROUNDS {
                    return Err(error);
                }
                tracing::warn!(%error, "looking for another way");
                return Ok(());
            }
            StoreError::Damaged { name, .. } => {
                let objects = self.steps.iter().flat_map(|step| step.way.objects());
                self.avoided.objects.extend(objects.filter(|object| object.key.as_str() == name).cloned());
            }
            // It is not known which step is at fault. What commits name is checked by whoever publishes it.
            StoreError::PatchDiffers { .. } => self.avoided.ways.append(&mut self.optional),
            StoreError::Apply(error) if is_of_patch(error) => self.avoided.ways.append(&mut self.optional),
            _ => return Err(self.first.take().unwrap_or(error)),
        }
        // Each round avoids more, so they come to an end.
        if size(&self.avoided) == before {
            return Err(self.first.take().unwrap_or(error));
        }
        tracing::warn!(%error, "something in the stream is of no use, looking for another way");
        self.first.get_or_insert(error);
        Ok(())
    }
}

fn is_of_patch(error: &ApplyError) -> bool {
    matches!(
        error,
        ApplyError::Patch(_)
            | ApplyError::Chunk { .. }
            | ApplyError::Layout { .. }
            | ApplyError::TargetMismatch { .. }
            | ApplyError::Kind { .. }
    )
}
