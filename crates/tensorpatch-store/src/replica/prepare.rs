//! What can be made ready while the version held still serves: journals, and new files beside the old
//! (section 6, step R4).

use tensorpatch_checkpoint::ConfinedPath;
use tensorpatch_delta as delta;
use tensorpatch_stream::{
    Anchor, Commit, Edge, EdgeKind, History, NamedObject, PatchObject, Plan, StreamId, Version,
};

use super::directory::{FileSwap, InstalledVersion, ReplicaDir};
use super::install;
use super::merge::{RankPatch, Whole, merge};
use super::options::ApplyMode;
use super::update::{Step, Update, apply_to_staged, stage_all, stage_companions};
use crate::error::StoreError;
use crate::observe::{Observer, Phase};

/// What is left for the activation.
#[derive(Debug)]
pub(super) enum Work {
    Nothing,
    /// Patches to the files as they lie. The journal of the first, of as many as are `prepared`, is written
    /// already.
    InPlace {
        steps: Vec<Step>,
        prepared: usize,
    },
    /// Complete files in the staging directory.
    Switch(FileSwap),
}

/// What is needed to make a plan ready on local disk, its objects downloaded. Blocking.
pub(super) struct Staging {
    /// Holds the lock for as long as this is at work.
    pub(super) directory: ReplicaDir,
    pub(super) stream: StreamId,
    pub(super) held: Option<InstalledVersion>,
    /// Whether the state file says so.
    pub(super) is_recorded: bool,
    /// The files beside the weights that came with it, as they are.
    pub(super) old_companions: Vec<NamedObject>,
    pub(super) history: History,
    pub(super) plan: Plan,
    pub(super) target: Commit,
    pub(super) mode: ApplyMode,
    pub(super) keeps_inverse: bool,
    pub(super) options: delta::Options,
    pub(super) observer: Observer,
}

impl Staging {
    /// Decides what activation will do, and builds the staged files if that is how.
    pub(super) fn run(&self) -> Result<Work, StoreError> {
        let (directory, old) = (&self.directory, self.old_companions.as_slice());
        let new = &self.target.record.companions;
        if self.plan.edges.is_empty() {
            let swap = stage_companions(directory, old, new)?;
            let unchanged = self.is_recorded && swap.files.is_empty() && swap.remove.is_empty();
            return Ok(if unchanged { Work::Nothing } else { Work::Switch(swap) });
        }
        if self.mode == ApplyMode::InPlace
            && let Some(held) = self.held.as_ref().filter(|held| self.keeps_places(held))
        {
            let steps = self.steps(&self.plan.edges, &held.companions)?;
            let prepared =
                self.with_update(held, &steps, |update, progress| update.prepare_in_place(progress))?;
            if let Some(prepared) = prepared {
                return Ok(Work::InPlace { steps, prepared });
            }
        }
        self.build_beside()?;
        Ok(Work::Switch(stage_all(directory, Some(old), new, &self.options)?))
    }

    /// The steps that deltas are, with their patches on local disk. On the way to the target the files beside
    /// the weights are `companions`.
    fn steps(&self, edges: &[Edge], companions: &[NamedObject]) -> Result<Vec<Step>, StoreError> {
        let step = |edge: &Edge| {
            let is_last = edge.target.version == self.target.record.version;
            let companions = if is_last { self.target.record.companions.as_slice() } else { companions };
            let to = InstalledVersion { id: edge.target, companions: companions.to_vec() };
            Ok(Step { patch: self.patch_of(edge)?, to })
        };
        edges.iter().map(step).collect()
    }

    /// Whether every version of the plan has the schema and the layout of the one that is held.
    fn keeps_places(&self, held: &InstalledVersion) -> bool {
        let schema = |version| self.history.commit(version).map(|commit| commit.record.contents.schema);
        self.plan.edges.iter().all(|edge| {
            !edge.is_anchor()
                && edge.target.layout == held.id.layout
                && schema(edge.target.version) == schema(held.id.version)
        })
    }

    fn with_update<T>(
        &self,
        from: &InstalledVersion,
        steps: &[Step],
        work: impl FnOnce(&Update<'_>, delta::Progress<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let advance = self.observer.steer(Phase::Apply);
        let (directory, options) = (&self.directory, &self.options);
        let (stream, keeps_inverse) = (self.stream, self.keeps_inverse);
        let update = Update { directory, stream, from, steps, keeps_inverse, options };
        work(&update, delta::Progress::stoppable(&advance))
    }

    /// The patch of an edge, on local disk; those of several ranks are merged first.
    fn patch_of(&self, edge: &Edge) -> Result<ConfinedPath, StoreError> {
        let version = edge.target.version;
        let differs = |what: &str| StoreError::PatchDiffers { version, what: what.into() };
        let EdgeKind::Delta(delta) = &edge.kind else { return Err(differs("it is an anchor, not a patch")) };
        if let [PatchObject { object, .. }] = delta.patches.as_slice() {
            return Ok(self.directory.download(&object.blake3));
        }
        let commit = self.history.commit(version).ok_or_else(|| differs("its commit is not at hand"))?;
        if delta.base.layout != edge.target.layout {
            return Err(differs("it has several patches and alters the layout"));
        }
        let local = |patch: &PatchObject| {
            Some(RankPatch {
                patch: self.directory.download(&patch.object.blake3),
                schema: self.directory.download(&patch.schema.as_ref()?.blake3),
            })
        };
        let ranks: Vec<RankPatch> = delta.patches.iter().filter_map(local).collect();
        let whole = Whole {
            version,
            base: delta.base.state,
            target: edge.target.state,
            schema: commit.record.contents.schema,
            layout: edge.target.layout,
        };
        let merged = self.directory.merged(&edge.target.commit);
        merge(&ranks, whole, &merged, &self.options.limits)?;
        Ok(merged)
    }

    /// Makes all weight files of the plan's target in the staging directory, verified.
    fn build_beside(&self) -> Result<(), StoreError> {
        let (mut staged, mut edges) = (None, self.plan.edges.as_slice());
        if let Some((Edge { target, kind: EdgeKind::Anchor(anchor) }, deltas)) = edges.split_first() {
            let to = self.installed(target.version);
            self.stage_anchor(anchor, &to)?;
            if deltas.is_empty() {
                install::check_staged(&self.directory, &to, &self.options)?;
            }
            (staged, edges) = (Some(to), deltas);
        }
        let steps = self.steps(edges, &[])?;
        let mut left = steps.as_slice();
        while let Some(first) = left.first() {
            let done = match (&staged, &self.held) {
                (Some(from), _) => {
                    let advance = self.observer.steer(Phase::Apply);
                    let progress = delta::Progress::stoppable(&advance);
                    apply_to_staged(&self.directory, from, left, &self.options, progress)?
                }
                (None, Some(held)) => {
                    self.with_update(held, left, |update, progress| update.apply_beside(progress))?
                }
                (None, None) => {
                    let what = "there is nothing to apply it to".into();
                    return Err(StoreError::PatchDiffers { version: first.to.id.version, what });
                }
            };
            let (now, later) = left.split_at(done.clamp(1, left.len()));
            staged = now.last().map(|step| step.to.clone());
            left = later;
        }
        install::check_layout(&self.directory, &InstalledVersion::of(&self.target), &self.options)
    }

    fn installed(&self, version: Version) -> InstalledVersion {
        InstalledVersion::of(self.history.commit(version).unwrap_or(&self.target))
    }

    fn stage_anchor(&self, anchor: &Anchor, to: &InstalledVersion) -> Result<(), StoreError> {
        let is_companion = |name: &str| to.companions.iter().any(|companion| companion.name == name);
        let weights = anchor.files.iter().filter(|file| !is_companion(&file.name));
        let files: Vec<(String, ConfinedPath)> =
            weights.map(|file| (file.name.clone(), self.directory.download(&file.object.blake3))).collect();
        install::stage(&self.directory, &files, false)
    }
}
