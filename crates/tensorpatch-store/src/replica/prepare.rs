//! What can be made ready while the version held still serves: journals, and new files beside the old
//! (section 6, step R4).

use std::path::PathBuf;

use tensorpatch_delta as delta;
use tensorpatch_stream::{Anchor, Commit, Edge, EdgeKind, History, NamedObject, PatchObject, Plan, StreamId};

use super::directory::{FileSwap, InstalledVersion, ReplicaDir};
use super::install;
use super::merge::{RankPatch, Whole, merge};
use super::options::ApplyMode;
use super::update::{Update, apply_to_staged, stage_all, stage_companions};
use crate::error::StoreError;
use crate::observe::{Observer, Phase};

/// What is left for the activation.
#[derive(Debug)]
pub(super) enum Work {
    Nothing,
    /// Patches to the files as they lie. The journal of the first is written already.
    InPlace(Vec<Patching>),
    /// Complete files in the staging directory.
    Switch(FileSwap),
}

#[derive(Debug)]
pub(super) struct Patching {
    pub(super) patch: PathBuf,
    pub(super) to: InstalledVersion,
}

/// What is needed to make a plan ready on local disk, its objects downloaded. Blocking.
pub(super) struct Staging {
    /// Holds the lock for as long as this is at work.
    pub(super) directory: ReplicaDir,
    pub(super) stream: StreamId,
    pub(super) held: Option<InstalledVersion>,
    pub(super) old_companions: Vec<NamedObject>,
    pub(super) history: History,
    pub(super) plan: Plan,
    pub(super) target: Commit,
    pub(super) mode: ApplyMode,
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
            let unchanged = swap.files.is_empty() && swap.remove.is_empty();
            return Ok(if unchanged { Work::Nothing } else { Work::Switch(swap) });
        }
        let mut edges = Vec::new();
        for edge in &self.plan.edges {
            let commit = self.history.commit(edge.target.version).unwrap_or(&self.target);
            edges.push((edge, InstalledVersion::of(commit)));
        }
        if self.mode == ApplyMode::InPlace
            && let Some(held) = self.held.as_ref().filter(|held| self.keeps_places(held))
        {
            let patches =
                edges.iter().map(|(edge, to)| Ok(Patching { patch: self.patch_of(edge)?, to: to.clone() }));
            let patches = patches.collect::<Result<Vec<Patching>, StoreError>>()?;
            if let Some(first) = patches.first()
                && self.with_update(held, first, |update, progress| update.prepare_in_place(progress))?
            {
                return Ok(Work::InPlace(patches));
            }
        }
        self.build_beside(&edges)?;
        Ok(Work::Switch(stage_all(directory, old, new, &self.options)?))
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
        patching: &Patching,
        work: impl FnOnce(&Update<'_>, delta::Progress<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let advance = self.observer.steer(Phase::Apply);
        let update = Update {
            directory: &self.directory,
            stream: self.stream,
            from,
            to: (patching.to.id.version, patching.to.id.state),
            patch: &patching.patch,
            options: &self.options,
        };
        work(&update, delta::Progress::stoppable(&advance))
    }

    /// The patch of an edge, on local disk; those of several ranks are merged first.
    fn patch_of(&self, edge: &Edge) -> Result<PathBuf, StoreError> {
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

    /// Makes all weight files of the last edge's target in the staging directory, verified.
    fn build_beside(&self, edges: &[(&Edge, InstalledVersion)]) -> Result<(), StoreError> {
        let mut staged: Option<&InstalledVersion> = None;
        for (edge, to) in edges {
            match &edge.kind {
                EdgeKind::Anchor(anchor) => self.stage_anchor(anchor, to)?,
                EdgeKind::Delta(_) => {
                    let patching = Patching { patch: self.patch_of(edge)?, to: to.clone() };
                    match (staged, &self.held) {
                        (Some(from), _) => {
                            let target = (to.id.version, to.id.state);
                            let advance = self.observer.steer(Phase::Apply);
                            let progress = delta::Progress::stoppable(&advance);
                            let (from, patch) = (from.id.state, &patching.patch);
                            apply_to_staged(&self.directory, patch, from, target, &self.options, progress)?;
                        }
                        (None, Some(held)) => self
                            .with_update(held, &patching, |update, progress| update.apply_beside(progress))?,
                        (None, None) => {
                            let what = "there is nothing to apply it to".into();
                            return Err(StoreError::PatchDiffers { version: to.id.version, what });
                        }
                    }
                }
            }
            staged = Some(to);
        }
        staged.map_or(Ok(()), |last| install::check_layout(&self.directory, last, &self.options))
    }

    fn stage_anchor(&self, anchor: &Anchor, to: &InstalledVersion) -> Result<(), StoreError> {
        let is_companion = |name: &str| to.companions.iter().any(|companion| companion.name == name);
        let weights = anchor.files.iter().filter(|file| !is_companion(&file.name));
        let files: Vec<(String, PathBuf)> =
            weights.map(|file| (file.name.clone(), self.directory.download(&file.object.blake3))).collect();
        install::stage(&self.directory, &files, false)?;
        install::check_staged(&self.directory, to, &self.options)
    }
}
