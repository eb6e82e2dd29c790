//! What can be done while the version held still serves: downloads, journals, new files beside the old (section 6, R3 and R4).

use std::collections::BTreeSet;
use std::path::PathBuf;

use tensorpatch_delta as delta;
use tensorpatch_format::TaggedStateDigest;
use tensorpatch_stream::{Commit, Edge, EdgeKind, History, NamedObject, ObjectRef, PatchObject, Plan};

use super::directory::{FileSwap, InstalledVersion, ReplicaDir};
use super::install::{self, InPlace};
use super::merge::{RankPatch, Whole, merge};
use super::options::ApplyMode;
use super::{Patching, Replica, Work};
use crate::bucket::buffered_all;
use crate::error::StoreError;
use crate::local::blocking;
use crate::observe::Phase;

/// Objects downloaded at once.
const DOWNLOADS: usize = 4;

impl Replica {
    /// Fetches what is not there yet, and sweeps what is of no use; returns the bytes fetched.
    pub(super) async fn download(
        &self,
        directory: &ReplicaDir,
        history: &History,
        plan: &Plan,
        target: &Commit,
        old_companions: &[NamedObject],
    ) -> Result<u64, StoreError> {
        let mut objects: Vec<ObjectRef> = plan.objects().into_iter().cloned().collect();
        // In place each edge brings its files with it; beside, only the last version is ever there.
        let on_the_way = if self.options.mode == ApplyMode::InPlace && !plan.starts_from_nothing() {
            plan.edges.as_slice()
        } else {
            &[]
        };
        let commits =
            on_the_way.iter().filter_map(|edge| history.commit(edge.target.version)).chain([target]);
        for commit in commits {
            let new = commit.record.companions.iter().filter(|companion| {
                !old_companions.contains(companion) || !self.dir.join(&companion.name).exists()
            });
            objects.extend(new.map(|companion| companion.object.clone()));
        }
        let mut seen = BTreeSet::new();
        objects.retain(|object| seen.insert(object.blake3));
        let keep: Vec<PathBuf> = objects.iter().map(|object| directory.download(&object.blake3)).collect();
        let sweeping = directory.clone();
        blocking(move || sweeping.sweep(&keep)).await?;
        let kept = directory.clone();
        let objects = blocking(move || {
            // Under its final name there was only what is complete and verified; disks forget.
            let mut wanted = Vec::new();
            for object in objects {
                if !install::has_contents(&kept.download(&object.blake3), &object)? {
                    wanted.push(object);
                }
            }
            Ok(wanted)
        })
        .await?;
        let bytes = objects.iter().fold(0_u64, |sum, object| sum.saturating_add(object.bytes));
        let observer = &self.options.observer;
        observer.start(Phase::Download, bytes);
        buffered_all(&objects, DOWNLOADS, |object| async move {
            self.stream.bucket().download(object, &directory.download(&object.blake3), observer).await
        })
        .await?;
        Ok(bytes)
    }

    /// Decides what activation will do, and builds the staged files if that is how.
    pub(super) async fn stage(
        &self,
        directory: &ReplicaDir,
        held: Option<&InstalledVersion>,
        old_companions: &[NamedObject],
        history: &History,
        plan: &Plan,
        target: &Commit,
    ) -> Result<Work, StoreError> {
        let to = InstalledVersion { id: target.id(), companions: target.record.companions.clone() };
        if plan.edges.is_empty() {
            let install = self.companions(directory, old_companions, &to.companions).await?;
            let unchanged = install.files.is_empty() && install.remove.is_empty();
            return Ok(if unchanged { Work::Nothing } else { Work::Switch(install) });
        }
        let mut patches = Vec::new();
        for edge in &plan.edges {
            let commit = history.commit(edge.target.version).unwrap_or(target);
            let to = InstalledVersion { id: edge.target, companions: commit.record.companions.clone() };
            patches.push((edge, to));
        }
        let keeps_places = |held: &InstalledVersion| {
            let schema = history.commit(held.id.version).map(|commit| commit.record.contents.schema);
            plan.edges.iter().all(|edge| {
                !edge.is_anchor()
                    && edge.target.layout == held.id.layout
                    && history.commit(edge.target.version).map(|commit| commit.record.contents.schema)
                        == schema
            })
        };
        if self.options.mode == ApplyMode::InPlace
            && let Some(held) = held.filter(|held| keeps_places(held))
        {
            let mut work = Vec::new();
            for (edge, to) in &patches {
                let patch = self.patch_of(directory, history, edge).await?;
                work.push(Patching { patch, to: to.clone() });
            }
            if let Some(first) = work.first() {
                match self.prepare_patch(directory, held, first).await? {
                    InPlace::Ready => return Ok(Work::InPlace(work)),
                    InPlace::WrongBase(found) => return Err(self.wrong_state(held, found)),
                    InPlace::Broken(what) => return Err(self.local_damage(what)),
                    InPlace::Refused(why) => {
                        tracing::info!(why, "the files cannot be patched in place, new ones are made");
                    }
                }
            }
        }
        self.build_beside(directory, held, history, &patches).await?;
        let install = self.switch_all(directory, old_companions, &to).await?;
        Ok(Work::Switch(install))
    }

    /// The patch of an edge, on local disk; those of several ranks are merged first.
    pub(super) async fn patch_of(
        &self,
        directory: &ReplicaDir,
        history: &History,
        edge: &Edge,
    ) -> Result<PathBuf, StoreError> {
        let version = edge.target.version;
        let differs = |what: &str| StoreError::PatchDiffers { version, what: what.into() };
        let EdgeKind::Delta(delta) = &edge.kind else { return Err(differs("it is an anchor, not a patch")) };
        if let [PatchObject { object, .. }] = delta.patches.as_slice() {
            return Ok(directory.download(&object.blake3));
        }
        let commit = history.commit(version).ok_or_else(|| differs("its commit is not at hand"))?;
        if delta.base.layout != edge.target.layout {
            return Err(differs("it has several patches and alters the layout"));
        }
        let local = |patch: &PatchObject| {
            Some(RankPatch {
                patch: directory.download(&patch.object.blake3),
                schema: directory.download(&patch.schema.as_ref()?.blake3),
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
        let (to, limits) = (directory.merged(&edge.target.commit), self.options.apply.limits.clone());
        let merged = to.clone();
        directory.blocking(move || merge(&ranks, whole, &to, &limits)).await?;
        Ok(merged)
    }

    /// Makes all weight files of the last edge's target in the staging directory, verified.
    pub(super) async fn build_beside(
        &self,
        directory: &ReplicaDir,
        held: Option<&InstalledVersion>,
        history: &History,
        edges: &[(&Edge, InstalledVersion)],
    ) -> Result<(), StoreError> {
        let mut at: Option<InstalledVersion> = held.cloned();
        let mut staged = false;
        for (edge, to) in edges {
            let (base, directory) = (directory.clone(), directory.clone());
            let (options, observer) = (self.options.apply.clone(), self.options.observer.clone());
            let target = to.clone();
            match &edge.kind {
                EdgeKind::Anchor(anchor) => {
                    let companions: BTreeSet<&str> = to.companions.iter().map(|c| c.name.as_str()).collect();
                    let files: Vec<(String, PathBuf)> = anchor
                        .files
                        .iter()
                        .filter(|file| !companions.contains(file.name.as_str()))
                        .map(|file| (file.name.clone(), directory.download(&file.object.blake3)))
                        .collect();
                    blocking(move || {
                        install::stage(&directory, &files, false)?;
                        install::check_staged(&directory, &target, &options)
                    })
                    .await?;
                }
                EdgeKind::Delta(_) => {
                    let patch = self.patch_of(&directory, history, edge).await?;
                    let from = at.take().ok_or_else(|| StoreError::PatchDiffers {
                        version: to.id.version,
                        what: "there is nothing to apply it to".into(),
                    })?;
                    let applied = blocking(move || {
                        let advance = |bytes| observer.advance(Phase::Apply, bytes);
                        let progress = delta::Progress::new(&advance);
                        let (from, to) = (from.id.state, (target.id.version, target.id.state));
                        install::apply_beside(&directory, &patch, from, to, staged, &options, progress)
                    })
                    .await;
                    if let (Err(error), false, Some(held)) = (&applied, staged, held) {
                        let refused = match error {
                            StoreError::Apply(delta::ApplyError::WrongBase { found, .. }) => {
                                Some(self.wrong_state(held, *found))
                            }
                            error if install::is_damage(error) => Some(self.local_damage(error.to_string())),
                            _ => None,
                        };
                        if let Some(refused) = refused {
                            let (stream, was) = (self.stream.id(), held.clone());
                            blocking(move || install::damaged(&base, stream, &was)).await?;
                            return Err(refused);
                        }
                    }
                    applied?;
                }
            }
            staged = true;
            at = Some(to.clone());
        }
        let Some((_, last)) = edges.last() else { return Ok(()) };
        let (directory, options, last) = (directory.clone(), self.options.apply.clone(), last.clone());
        blocking(move || install::check_layout(&directory, &last, &options)).await
    }

    /// Files that are not the version held are damaged, which is for the caller of `prepare` to repair by trying again.
    pub(super) fn wrong_state(&self, held: &InstalledVersion, found: TaggedStateDigest) -> StoreError {
        StoreError::WrongState { path: self.dir.clone(), expected: held.id.state, found }
    }

    pub(super) fn local_damage(&self, what: String) -> StoreError {
        StoreError::LocalDamage { path: self.dir.clone(), what }
    }

    pub(super) async fn prepare_patch(
        &self,
        directory: &ReplicaDir,
        from: &InstalledVersion,
        patching: &Patching,
    ) -> Result<InPlace, StoreError> {
        let (directory, stream, options) = (directory.clone(), self.stream.id(), self.options.apply.clone());
        let observer = self.options.observer.clone();
        let (from, to) = (from.clone(), (patching.to.id.version, patching.to.id.state));
        let patch = patching.patch.clone();
        blocking(move || {
            let advance = |bytes| observer.advance(Phase::Apply, bytes);
            let progress = delta::Progress::new(&advance);
            install::prepare_in_place(&directory, stream, &patch, &from, to, &options, progress)
        })
        .await
    }

    /// Stages the companions of `new` that are not there, and says which old ones go.
    pub(super) async fn companions(
        &self,
        directory: &ReplicaDir,
        old: &[NamedObject],
        new: &[NamedObject],
    ) -> Result<FileSwap, StoreError> {
        let missing: Vec<(String, PathBuf)> = new
            .iter()
            .filter(|companion| !old.contains(companion) || !self.dir.join(&companion.name).exists())
            .map(|companion| (companion.name.clone(), directory.download(&companion.object.blake3)))
            .collect();
        let files = missing.iter().map(|(name, _)| name.clone()).collect();
        let remove = old
            .iter()
            .map(|companion| companion.name.clone())
            .filter(|name| !new.iter().any(|companion| companion.name == *name))
            .collect();
        let directory = directory.clone();
        blocking(move || install::stage(&directory, &missing, true)).await?;
        Ok(FileSwap { files, remove })
    }

    /// All staged weights and companions, and all old ones that the new version does not have.
    pub(super) async fn switch_all(
        &self,
        directory: &ReplicaDir,
        old: &[NamedObject],
        to: &InstalledVersion,
    ) -> Result<FileSwap, StoreError> {
        let mut install = self.companions(directory, old, &to.companions).await?;
        let (directory, options) = (directory.clone(), self.options.apply.clone());
        blocking(move || {
            let weights = install::weight_files(&directory.staging(), &options)?;
            let gone = install::weight_files(directory.path(), &options)?;
            install.remove.extend(gone.into_iter().filter(|name| !weights.contains(name)));
            install.files.extend(weights);
            Ok(install)
        })
        .await
    }
}
