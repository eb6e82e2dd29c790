//! What can be done while the version held still serves: downloads, journals, new files beside the old (section 6, R3 and R4).

use std::collections::BTreeSet;
use std::path::PathBuf;

use tensorpatch_delta as delta;
use tensorpatch_format::TaggedStateDigest;

use super::home::{Held, Home, Install};
use super::install::{self, InPlace};
use super::{ApplyMode, Patching, Replica, Work, blocking};
use crate::bucket::all;
use crate::error::StoreError;
use crate::merge::{LocalPart, Whole, merge};
use crate::observe::Phase;
use crate::plan::{Commit, History, Plan, Step, Way};
use crate::record::{NamedObject, ObjectRef, Part};

/// Objects downloaded at once.
const DOWNLOADS: usize = 4;

impl Replica {
    /// Fetches what is not there yet, and sweeps what is of no use; returns the bytes fetched.
    pub(super) async fn download(
        &self,
        home: &Home,
        history: &History,
        plan: &Plan,
        target: &Commit,
        old_companions: &[NamedObject],
    ) -> Result<u64, StoreError> {
        let mut objects: Vec<ObjectRef> = plan.objects().into_iter().cloned().collect();
        // In place each step brings its files with it; beside, only the last version is ever there.
        let steps = if self.options.mode == ApplyMode::InPlace && !plan.starts_from_nothing() {
            plan.steps.as_slice()
        } else {
            &[]
        };
        let commits = steps.iter().filter_map(|step| history.commit(step.target.version)).chain([target]);
        for commit in commits {
            let new = commit.record.companions.iter().filter(|companion| {
                !old_companions.contains(companion) || !self.dir.join(&companion.name).exists()
            });
            objects.extend(new.map(|companion| companion.object.clone()));
        }
        let mut seen = BTreeSet::new();
        objects.retain(|object| seen.insert(object.blake3));
        let keep: Vec<PathBuf> = objects.iter().map(|object| home.download(&object.blake3)).collect();
        let sweeping = home.clone();
        blocking(move || sweeping.sweep(&keep)).await?;
        let kept = home.clone();
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
        all(&objects, DOWNLOADS, |object| async move {
            self.stream.bucket().download(object, &home.download(&object.blake3), observer).await
        })
        .await?;
        Ok(bytes)
    }

    /// Decides what activation will do, and builds the staged files if that is how.
    pub(super) async fn stage(
        &self,
        home: &Home,
        held: Option<&Held>,
        old_companions: &[NamedObject],
        history: &History,
        plan: &Plan,
        target: &Commit,
    ) -> Result<Work, StoreError> {
        let to = Held { id: target.id(), companions: target.record.companions.clone() };
        if plan.steps.is_empty() {
            let install = self.companions(home, old_companions, &to.companions).await?;
            let unchanged = install.files.is_empty() && install.remove.is_empty();
            return Ok(if unchanged { Work::Nothing } else { Work::Switch(install) });
        }
        let mut patches = Vec::new();
        for step in &plan.steps {
            let commit = history.commit(step.target.version).unwrap_or(target);
            let to = Held { id: step.target, companions: commit.record.companions.clone() };
            patches.push((step, to));
        }
        let keeps_places = |held: &Held| {
            let schema = history.commit(held.id.version).map(|commit| commit.record.schema);
            plan.steps.iter().all(|step| {
                matches!(step.way, Way::Delta(_))
                    && step.target.layout == held.id.layout
                    && history.commit(step.target.version).map(|commit| commit.record.schema) == schema
            })
        };
        if self.options.mode == ApplyMode::InPlace
            && let Some(held) = held.filter(|held| keeps_places(held))
        {
            let mut work = Vec::new();
            for (step, to) in &patches {
                let patch = self.patch_of(home, history, step).await?;
                work.push(Patching { patch, to: to.clone() });
            }
            if let Some(first) = work.first() {
                match self.prepare_patch(home, held, first).await? {
                    InPlace::Ready => return Ok(Work::InPlace(work)),
                    InPlace::WrongBase(found) => return Err(self.wrong_state(held, found)),
                    InPlace::Broken(what) => return Err(self.local_damage(what)),
                    InPlace::Refused(why) => {
                        tracing::info!(why, "the files cannot be patched in place, new ones are made");
                    }
                }
            }
        }
        self.build_beside(home, held, history, &patches).await?;
        let install = self.switch_all(home, old_companions, &to).await?;
        Ok(Work::Switch(install))
    }

    /// The patch of a step, on local disk; that of several parts is put together first.
    pub(super) async fn patch_of(
        &self,
        home: &Home,
        history: &History,
        step: &Step,
    ) -> Result<PathBuf, StoreError> {
        let version = step.target.version;
        let differs = |what: &str| StoreError::PatchDiffers { version, what: what.into() };
        let Way::Delta(delta) = &step.way else { return Err(differs("it is an anchor, not a patch")) };
        if let [Part { object, .. }] = delta.parts.as_slice() {
            return Ok(home.download(&object.blake3));
        }
        let commit = history.commit(version).ok_or_else(|| differs("its commit is not at hand"))?;
        if delta.base.layout != step.target.layout {
            return Err(differs("it has several parts and alters the layout"));
        }
        let local = |part: &Part| {
            Some(LocalPart {
                patch: home.download(&part.object.blake3),
                schema: home.download(&part.schema.as_ref()?.blake3),
            })
        };
        let parts: Vec<LocalPart> = delta.parts.iter().filter_map(local).collect();
        let whole = Whole {
            version,
            base: delta.base.state,
            target: step.target.state,
            schema: commit.record.schema,
            layout: step.target.layout,
        };
        let (to, limits) = (home.merged(&step.target.commit), self.options.apply.limits.clone());
        let merged = to.clone();
        home.blocking(move || merge(&parts, whole, &to, &limits)).await?;
        Ok(merged)
    }

    /// Makes all weight files of the last step's target in the staging directory, verified.
    pub(super) async fn build_beside(
        &self,
        home: &Home,
        held: Option<&Held>,
        history: &History,
        steps: &[(&Step, Held)],
    ) -> Result<(), StoreError> {
        let mut at: Option<Held> = held.cloned();
        let mut staged = false;
        for (step, to) in steps {
            let (base, home) = (home.clone(), home.clone());
            let (options, observer) = (self.options.apply.clone(), self.options.observer.clone());
            let target = to.clone();
            match &step.way {
                Way::Anchor(anchor) => {
                    let companions: BTreeSet<&str> = to.companions.iter().map(|c| c.name.as_str()).collect();
                    let files: Vec<(String, PathBuf)> = anchor
                        .files
                        .iter()
                        .filter(|file| !companions.contains(file.name.as_str()))
                        .map(|file| (file.name.clone(), home.download(&file.object.blake3)))
                        .collect();
                    blocking(move || {
                        install::stage(&home, &files, false)?;
                        install::check_staged(&home, &target, &options)
                    })
                    .await?;
                }
                Way::Delta(_) => {
                    let patch = self.patch_of(&home, history, step).await?;
                    let from = at.take().ok_or_else(|| StoreError::PatchDiffers {
                        version: to.id.version,
                        what: "there is nothing to apply it to".into(),
                    })?;
                    let applied = blocking(move || {
                        let advance = |bytes| observer.advance(Phase::Apply, bytes);
                        let progress = delta::Progress::new(&advance);
                        let (from, to) = (from.id.state, (target.id.version, target.id.state));
                        install::apply_beside(&home, &patch, from, to, staged, &options, progress)
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
        let Some((_, last)) = steps.last() else { return Ok(()) };
        let (home, options, last) = (home.clone(), self.options.apply.clone(), last.clone());
        blocking(move || install::check_layout(&home, &last, &options)).await
    }

    /// Files that are not the version held are damaged, which is for the caller of `prepare` to repair by trying again.
    pub(super) fn wrong_state(&self, held: &Held, found: TaggedStateDigest) -> StoreError {
        StoreError::WrongState { path: self.dir.clone(), expected: held.id.state, found }
    }

    pub(super) fn local_damage(&self, what: String) -> StoreError {
        StoreError::LocalDamage { path: self.dir.clone(), what }
    }

    pub(super) async fn prepare_patch(
        &self,
        home: &Home,
        from: &Held,
        patching: &Patching,
    ) -> Result<InPlace, StoreError> {
        let (home, stream, options) = (home.clone(), self.stream.id(), self.options.apply.clone());
        let observer = self.options.observer.clone();
        let (from, to) = (from.clone(), (patching.to.id.version, patching.to.id.state));
        let patch = patching.patch.clone();
        blocking(move || {
            let advance = |bytes| observer.advance(Phase::Apply, bytes);
            let progress = delta::Progress::new(&advance);
            install::prepare_in_place(&home, stream, &patch, &from, to, &options, progress)
        })
        .await
    }

    /// Stages the companions of `new` that are not there, and says which old ones go.
    pub(super) async fn companions(
        &self,
        home: &Home,
        old: &[NamedObject],
        new: &[NamedObject],
    ) -> Result<Install, StoreError> {
        let missing: Vec<(String, PathBuf)> = new
            .iter()
            .filter(|companion| !old.contains(companion) || !self.dir.join(&companion.name).exists())
            .map(|companion| (companion.name.clone(), home.download(&companion.object.blake3)))
            .collect();
        let files = missing.iter().map(|(name, _)| name.clone()).collect();
        let remove = old
            .iter()
            .map(|companion| companion.name.clone())
            .filter(|name| !new.iter().any(|companion| companion.name == *name))
            .collect();
        let home = home.clone();
        blocking(move || install::stage(&home, &missing, true)).await?;
        Ok(Install { files, remove })
    }

    /// All staged weights and companions, and all old ones that the new version does not have.
    pub(super) async fn switch_all(
        &self,
        home: &Home,
        old: &[NamedObject],
        to: &Held,
    ) -> Result<Install, StoreError> {
        let mut install = self.companions(home, old, &to.companions).await?;
        let (home, options) = (home.clone(), self.options.apply.clone());
        blocking(move || {
            let weights = install::weight_files(&home.staging(), &options)?;
            let gone = install::weight_files(home.dir(), &options)?;
            install.remove.extend(gone.into_iter().filter(|name| !weights.contains(name)));
            install.files.extend(weights);
            Ok(install)
        })
        .await
    }
}
