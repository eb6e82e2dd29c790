//! A replica: a checkpoint directory that follows a stream (spec/stream.md section 6).

mod follow;
pub(crate) mod home;
pub(crate) mod install;
mod options;
mod prepare;
mod repair;
mod rounds;

use std::path::{Path, PathBuf};

use serde::Serialize;
use tensorpatch_delta as delta;
use tensorpatch_format::TaggedStateDigest;

use crate::digest::{ObjectDigest, text};
use crate::error::StoreError;
use crate::lease::{self, Lease};
use crate::names::{StreamId, Version};
use crate::plan::Commit;
use crate::record::VersionId;
use crate::stream::Stream;
use home::{Condition, HIDDEN, Held, Home, Install, LocalState};
use install::{Found, InPlace};
pub use options::{ApplyMode, LeaseOptions, ReplicaOptions, Target};
use rounds::Rounds;

/// A directory with an ordinary checkpoint that is brought from version to version, verified.
///
/// Several processes may share one: a lock makes one of them do the work and the others find it done.
#[derive(Debug, Clone)]
pub struct Replica {
    stream: Stream,
    dir: PathBuf,
    options: ReplicaOptions,
}

/// What a pull did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Pulled {
    /// The stream.
    pub stream: StreamId,
    /// The version that was held before.
    pub from: Option<Version>,
    /// The version that is held now.
    pub to: Version,
    /// The digest of its commit record.
    pub commit: ObjectDigest,
    /// Its state digest, verified.
    #[serde(with = "text")]
    pub digest: TaggedStateDigest,
    /// The steps taken.
    pub steps: Vec<PulledStep>,
    /// Bytes of the objects of the plan.
    pub plan_bytes: u64,
    /// Bytes fetched, companions and repairs included, without what was there already.
    pub downloaded_bytes: u64,
}

/// One step of a pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PulledStep {
    /// The version that it led to.
    pub version: Version,
    /// Whether it was an anchor, and not a patch.
    pub anchor: bool,
    /// Bytes of its objects.
    pub bytes: u64,
}

/// A version that is downloaded and verified as far as that goes without touching what is held; holds the replica's lock.
#[derive(Debug)]
pub struct Prepared {
    home: Home,
    held: Option<Held>,
    target: Commit,
    work: Work,
    report: Pulled,
}

/// What is left for the activation.
#[derive(Debug)]
enum Work {
    Nothing,
    /// Patches to the files as they lie. The journal of the first is written already.
    InPlace(Vec<Patching>),
    /// Complete files in the staging directory.
    Switch(Install),
}

#[derive(Debug)]
struct Patching {
    patch: PathBuf,
    to: Held,
}

impl Prepared {
    /// The version that activation will bring.
    pub fn version(&self) -> Version {
        self.target.record.version
    }

    /// The state that activation will bring.
    pub fn digest(&self) -> TaggedStateDigest {
        self.target.record.state
    }

    /// Whether there is anything to activate.
    pub fn is_needed(&self) -> bool {
        !matches!(self.work, Work::Nothing)
    }
}

impl Replica {
    /// A replica of `stream` in `dir`, which is made when it is first needed.
    pub fn open(stream: Stream, dir: impl Into<PathBuf>, mut options: ReplicaOptions) -> Self {
        options.apply = options.apply.with_leaf_hash(stream.record().leaf_hash);
        Self { stream, dir: dir.into(), options }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The version that the directory holds by its state file, once an interrupted step is brought to its end.
    ///
    /// # Errors
    /// If the directory belongs to another stream, or an interrupted step cannot be ended.
    pub async fn held(&self) -> Result<Option<VersionId>, StoreError> {
        let home = self.lock().await?;
        Ok(self.local(&home).await?.and_then(|state| match state.condition {
            Condition::Held(held) => Some(held.id),
            _ => None,
        }))
    }

    /// Brings the directory to `target`: [`Replica::prepare`] and [`Replica::activate`] in one.
    ///
    /// # Errors
    /// If there is no way to the version, the store fails, or the directory is in use by something else. The directory then holds what it
    /// held, or a version on the way.
    pub async fn pull(&self, target: Target) -> Result<Pulled, StoreError> {
        let home = self.lock().await?;
        self.pull_locked(&home, target).await
    }

    pub(crate) async fn pull_locked(&self, home: &Home, target: Target) -> Result<Pulled, StoreError> {
        let mut rounds = Rounds::default();
        loop {
            let result = match self.prepare_locked(home, target, &mut rounds).await {
                Ok(prepared) => self.activate(prepared).await,
                Err(error) => Err(error),
            };
            match result {
                Ok(pulled) => return Ok(pulled),
                Err(error) => rounds.go_on(error)?,
            }
        }
    }

    /// Downloads and verifies what `target` needs, while the version held stays as it is.
    ///
    /// In place only the first patch of several is decoded ahead: the others start from files that are not there yet, so that their
    /// journals are written during [`Replica::activate`]. One patch is the rule for a replica that follows; where activation must be short after a
    /// long sleep too, use [`ApplyMode::Beside`], which makes the last version before any file is altered.
    ///
    /// # Errors
    /// As [`Replica::pull`]; nothing has changed then.
    pub async fn prepare(&self, target: Target) -> Result<Prepared, StoreError> {
        let home = self.lock().await?;
        let mut rounds = Rounds::default();
        loop {
            match self.prepare_locked(&home, target, &mut rounds).await {
                Ok(prepared) => return Ok(prepared),
                Err(error) => rounds.go_on(error)?,
            }
        }
    }

    async fn lock(&self) -> Result<Home, StoreError> {
        Home::lock(&self.dir).await
    }

    /// The state file after recovery, if it is one of this stream.
    async fn local(&self, home: &Home) -> Result<Option<LocalState>, StoreError> {
        let (home, options) = (home.clone(), self.options.apply.clone());
        let state = blocking(move || install::recover(&home, &options)).await?;
        match &state {
            Some(state) if state.stream != self.stream.id() => Err(StoreError::AnotherStream {
                path: self.dir.clone(),
                expected: state.stream,
                found: self.stream.id(),
            }),
            _ => Ok(state),
        }
    }

    async fn prepare_locked(
        &self,
        home: &Home,
        target: Target,
        rounds: &mut Rounds,
    ) -> Result<Prepared, StoreError> {
        let local = self.local(home).await?;
        // The last is the version that was held by the state file: the stream must still have it.
        let (held, old_companions, known) = match local {
            None => {
                let held = self.adopt(home).await?;
                let known = held.as_ref().map(|held| held.id);
                (held, Vec::new(), known)
            }
            Some(LocalState { condition: Condition::Held(held), .. }) => {
                let (companions, known) = (held.companions.clone(), held.id);
                (Some(held), companions, Some(known))
            }
            Some(LocalState { condition: Condition::Damaged { was }, .. }) => {
                let (checked, known) = (home.clone(), was.id);
                let was = blocking(move || install::with_whole_companions(&checked, was)).await?;
                let (held, fetched) = self.repair(home, &was).await?;
                rounds.fetched(fetched);
                (held, was.companions, Some(known))
            }
            // Recovery leaves neither.
            Some(LocalState {
                condition: Condition::Applying { .. } | Condition::Switching { .. }, ..
            }) => {
                return Err(StoreError::LocalState {
                    path: self.dir.clone(),
                    what: "an interrupted step was not brought to its end".into(),
                });
            }
        };
        let target = self.find(known, target).await?;
        let number = target.record.version;
        let held_id = held.as_ref().map(|held| held.id);
        self.lease(held_id.map(|id| id.version), number).await;
        let max_steps = self.options.max_steps;
        let (history, plan) = self.stream.way(held_id, &target, max_steps, rounds.avoided().clone()).await?;
        rounds.take(&history, &plan);
        rounds.fetched(self.download(home, &history, &plan, &target, &old_companions).await?);
        let report = Pulled {
            stream: self.stream.id(),
            from: held_id.map(|id| id.version),
            to: number,
            commit: target.digest,
            digest: target.record.state,
            steps: plan
                .steps
                .iter()
                .map(|step| PulledStep {
                    version: step.target.version,
                    anchor: step.way.is_anchor(),
                    bytes: step.way.bytes(),
                })
                .collect(),
            plan_bytes: plan.bytes(),
            downloaded_bytes: rounds.fetched_bytes(),
        };
        let work = self.stage(home, held.as_ref(), &old_companions, &history, &plan, &target).await?;
        Ok(Prepared { home: home.clone(), held, target, work, report })
    }

    /// Finds out which version the weights in a directory without a state file are.
    async fn adopt(&self, home: &Home) -> Result<Option<Held>, StoreError> {
        let foreign = |what: String| StoreError::ForeignDirectory { path: self.dir.clone(), what };
        let replace = self.options.replace;
        let Some(found) = self.examine(home).await.or_else(|error| match error {
            error if replace && install::is_damage(&error) => Ok(None),
            error => Err(error),
        })?
        else {
            if !replace && let Some(name) = first_entry(&self.dir)? {
                return Err(foreign(format!("it has {name:?}")));
            }
            return Ok(None);
        };
        let Some(tip) = self.stream.tip().await? else { return Err(StoreError::Empty) };
        let commits = self.stream.commits(Version::FIRST, tip.record.version).await?;
        let same: Vec<&Commit> =
            commits.iter().rev().filter(|commit| commit.record.state == found.state).collect();
        if same.is_empty() {
            if replace {
                return Ok(None);
            }
            return Err(foreign(format!("its weights have the state {}, which no version has", found.state)));
        }
        let Some(commit) = same.iter().find(|commit| commit.record.layout == found.layout) else {
            tracing::info!(
                "the weights are those of a version, in other files: they are replaced by the version's own"
            );
            return Ok(None);
        };
        let held = Held { id: commit.id(), companions: Vec::new() };
        let state = LocalState { stream: self.stream.id(), condition: Condition::Held(held.clone()) };
        let home = home.clone();
        blocking(move || home.save(&state)).await?;
        Ok(Some(held))
    }

    async fn examine(&self, home: &Home) -> Result<Option<Found>, StoreError> {
        let (home, options) = (home.clone(), self.options.apply.clone());
        let hash = self.stream.record().leaf_hash;
        blocking(move || install::examine(home.dir(), hash, &options)).await
    }

    /// The commit of the target, and a check that the stream still has what is held.
    async fn find(&self, held: Option<VersionId>, target: Target) -> Result<Commit, StoreError> {
        let tip = self.stream.tip_after(held.map(|held| held.version)).await?;
        if let Some(held) = held {
            self.check_held(held.version, held.commit).await?;
        }
        match target {
            Target::Latest => tip.ok_or(StoreError::Empty),
            Target::Version(wanted) => {
                let tip = tip.map(|tip| tip.record.version);
                if tip.is_none_or(|tip| tip < wanted) {
                    return Err(StoreError::NoVersion { wanted, tip });
                }
                self.stream.commit(wanted).await?.ok_or(StoreError::NoVersion { wanted, tip })
            }
        }
    }

    /// Checks that the stream still has the version that is held.
    async fn check_held(&self, number: Version, held: ObjectDigest) -> Result<(), StoreError> {
        let what = match self.stream.commit(number).await? {
            None => "is held, and is there no longer",
            Some(commit) if commit.digest != held => "is not the one that is held",
            Some(_) => return Ok(()),
        };
        Err(StoreError::HistoryRewritten(format!("version {number} {what}")))
    }

    /// Lets the directory become the prepared version. Short: it alters bytes or renames files, and fetches nothing.
    ///
    /// # Errors
    /// If the files cannot be altered. What was begun is finished or undone by the next call of any method.
    pub async fn activate(&self, prepared: Prepared) -> Result<Pulled, StoreError> {
        let Prepared { home, held, target, work, report } = prepared;
        let stream = self.stream.id();
        match work {
            Work::Nothing => {}
            Work::Switch(install) => {
                let to = Held { id: target.id(), companions: target.record.companions.clone() };
                let home = home.clone();
                blocking(move || install::switch(&home, stream, to, install)).await?;
            }
            Work::InPlace(patches) => {
                let mut at = held.ok_or(StoreError::Empty)?;
                for (index, patching) in patches.into_iter().enumerate() {
                    at = self.patch_in_place(&home, at, patching, index == 0).await?;
                }
            }
        }
        drop(home);
        self.lease(Some(report.to), report.to).await;
        Ok(report)
    }

    /// Says what is held and wanted, if that was asked for. A replica that cannot write to the store still works.
    async fn lease(&self, version: Option<Version>, target: Version) {
        let Some(options) = &self.options.lease else { return };
        // The whole of a long name is in the name of the object.
        let holder: String = options.holder.chars().take(lease::MAX_HOLDER).collect();
        let seconds = lease::seconds(options.length);
        let lease = Lease { holder, version, target, seconds };
        if let Err(error) = self.stream.lease(&options.id(), &lease).await {
            tracing::warn!(%error, "the lease could not be written");
        }
    }

    /// Renews the lease of a replica that has nothing else to do.
    async fn renew(&self, held: Version) {
        self.lease(Some(held), held).await;
    }

    /// Gives up the lease, so that collectors no longer wait for this replica.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn release(&self) -> Result<(), StoreError> {
        match &self.options.lease {
            Some(options) => self.stream.release(&options.id()).await,
            None => Ok(()),
        }
    }

    async fn patch_in_place(
        &self,
        home: &Home,
        from: Held,
        patching: Patching,
        prepared: bool,
    ) -> Result<Held, StoreError> {
        let ready =
            if prepared { InPlace::Ready } else { self.prepare_patch(home, &from, &patching).await? };
        let Patching { patch, to } = patching;
        let (home, stream, options) = (home.clone(), self.stream.id(), self.options.apply.clone());
        let target = to.clone();
        match ready {
            InPlace::Ready => {
                let then = self.companions(&home, &from.companions, &to.companions).await?;
                blocking(move || install::activate_in_place(&home, stream, &from, &target, &then, &options))
                    .await?;
            }
            InPlace::WrongBase(found) => return Err(self.wrong_state(&from, found)),
            InPlace::Broken(what) => return Err(self.local_damage(what)),
            InPlace::Refused(why) => {
                tracing::info!(why, "the files cannot be patched in place, new ones are made");
                let (beside, base) = (home.clone(), from.id.state);
                blocking(move || {
                    let to = (target.id.version, target.id.state);
                    let progress = delta::Progress::none();
                    install::apply_beside(&beside, &patch, base, to, false, &options, progress)
                })
                .await?;
                let install = self.switch_all(&home, &from.companions, &to).await?;
                let target = to.clone();
                blocking(move || install::switch(&home, stream, target, install)).await?;
            }
        }
        Ok(to)
    }
}

/// The first thing in a directory, apart from what is the replica's own.
pub(crate) fn first_entry(dir: &Path) -> Result<Option<String>, StoreError> {
    for entry in std::fs::read_dir(dir).map_err(|e| StoreError::local(dir, e))? {
        let name = entry.map_err(|e| StoreError::local(dir, e))?.file_name();
        if name != HIDDEN {
            return Ok(Some(name.to_string_lossy().into_owned()));
        }
    }
    Ok(None)
}

/// Runs `work` on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.map_err(|e| StoreError::Task(e.to_string()))?
}
