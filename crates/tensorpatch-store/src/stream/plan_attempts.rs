//! When a plan fails: what is tried instead, and when to give up.

use std::time::{Duration, Instant};

use tensorpatch_delta::ApplyError;
use tensorpatch_stream::{Edge, EdgeKind, Exclusions, History, Plan};

use crate::error::StoreError;

/// The attempts to reach a version.
#[derive(Debug)]
pub(crate) struct PlanAttempts {
    begun: Instant,
    most: u32,
    made: u32,
    excluded: Exclusions,
    /// The plan in hand.
    edges: Vec<Edge>,
    /// Those of its edges that edge records have added: there are others.
    optional: Vec<Edge>,
    /// What was wrong first with the stream.
    first: Option<StoreError>,
    fetched_bytes: u64,
}

impl PlanAttempts {
    /// At most `most` plans when objects vanish or local files turn out to be damaged.
    pub(crate) fn at_most(most: u32) -> Self {
        Self {
            begun: Instant::now(),
            most,
            made: 0,
            excluded: Exclusions::default(),
            edges: Vec::new(),
            optional: Vec::new(),
            first: None,
            fetched_bytes: 0,
        }
    }

    /// How long ago the first began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Whether no plan has failed yet.
    pub(crate) fn is_first(&self) -> bool {
        self.made == 0 && self.first.is_none()
    }

    /// What no plan may use.
    pub(crate) fn excluded(&self) -> &Exclusions {
        &self.excluded
    }

    /// Counts bytes that were fetched.
    pub(crate) fn fetched(&mut self, bytes: u64) {
        self.fetched_bytes = self.fetched_bytes.saturating_add(bytes);
    }

    /// Bytes that were fetched, whatever became of them.
    pub(crate) fn fetched_bytes(&self) -> u64 {
        self.fetched_bytes
    }

    /// Remembers the plan that is being tried.
    pub(crate) fn take(&mut self, history: &History, plan: &Plan) {
        let is_optional = |edge: &&Edge| {
            let record = history.commit(edge.target.version).map(|commit| &commit.record);
            record.is_none_or(|record| match &edge.kind {
                EdgeKind::Delta(delta) => record.delta.as_ref() != Some(delta),
                EdgeKind::Anchor(anchor) => record.anchor.as_ref() != Some(anchor),
            })
        };
        self.edges.clone_from(&plan.edges);
        self.optional = plan.edges.iter().filter(is_optional).cloned().collect();
    }

    /// Lets the next round begin, if there may be another plan.
    ///
    /// # Errors
    /// The error that is to be told, if there is none.
    pub(crate) fn go_on(&mut self, error: StoreError) -> Result<(), StoreError> {
        let size = |excluded: &Exclusions| excluded.objects.len().saturating_add(excluded.edges.len());
        let before = size(&self.excluded);
        if let StoreError::Missing { name } | StoreError::Damaged { name, .. } = &error {
            self.leave_out_leaves(name);
        }
        match &error {
            // Objects may be collected between the plan and the download, and files damaged on disk.
            StoreError::Missing { .. } | StoreError::WrongState { .. } | StoreError::LocalDamage { .. } => {
                self.made = self.made.saturating_add(1);
                if self.made >= self.most {
                    return Err(error);
                }
                // What is missing is told by the plan that goes around it.
                match &error {
                    StoreError::Missing { .. } => tracing::debug!("{error}: planning again"),
                    error => tracing::warn!("{error}: planning again"),
                }
                return Ok(());
            }
            StoreError::Damaged { name, .. } => {
                let objects = self.edges.iter().flat_map(Edge::objects);
                self.excluded.objects.extend(objects.filter(|object| object.key.as_str() == name).cloned());
            }
            // It is not known which edge is at fault. What commits name is checked by whoever publishes it.
            StoreError::PatchDiffers { .. } => self.excluded.edges.append(&mut self.optional),
            StoreError::Apply(error) if is_of_patch(error) => self.excluded.edges.append(&mut self.optional),
            _ => return Err(self.first.take().unwrap_or(error)),
        }
        // Each round avoids more, so they come to an end.
        if size(&self.excluded) == before {
            return Err(self.first.take().unwrap_or(error));
        }
        tracing::warn!("{error}: planning again without it");
        self.first.get_or_insert(error);
        Ok(())
    }

    /// Leaves out the anchors whose leaf table has this name: plans do not look at it, as only parts of a
    /// version are read with it.
    fn leave_out_leaves(&mut self, name: &str) {
        let has = |edge: &&Edge| matches!(&edge.kind, EdgeKind::Anchor(anchor) if anchor.leaves.key.as_str() == name);
        self.excluded.edges.extend(self.optional.iter().filter(has).cloned());
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
