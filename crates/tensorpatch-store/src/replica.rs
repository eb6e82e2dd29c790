//! A replica: a checkpoint directory that follows a stream (spec/stream.md section 6).

mod adopt;
mod asked;
mod back;
pub(crate) mod builder;
pub(crate) mod directory;
mod download;
pub(crate) mod follow;
pub(crate) mod install;
mod merge;
pub(crate) mod metrics;
pub(crate) mod options;
mod places;
mod prepare;
mod prepared;
pub(crate) mod pulled;
mod repair;
pub(crate) mod status;
pub(crate) mod update;
pub(crate) mod verify;

use std::path::{Path, PathBuf};
use std::time::Instant;

use tensorpatch_checkpoint::Role;
use tensorpatch_delta as delta;
use tensorpatch_format::ErrorKind;
use tensorpatch_stream::lease::Lease;
use tensorpatch_stream::{Commit, NamedObject, ObjectDigest, Version, VersionId};

use crate::error::StoreError;
use crate::local::blocking;
use crate::observe::{Event, Phase};
use crate::stream::Stream;
use crate::stream::plan_attempts::PlanAttempts;
use builder::ReplicaBuilder;
use directory::{Condition, InstalledVersion, LocalState, ReplicaDir, check_no_baseline};
use options::{ReplicaOptions, Target, Verify};
use prepare::{Staging, Work};
use pulled::{Pulled, PulledEdge, Took};
use update::{Ready, Step, Update};
use verify::{Depth, find_weights_fault, with_companions_as_found};

pub use prepared::Prepared;

/// A directory with an ordinary checkpoint that is brought from version to version, verified.
///
/// Several processes may share one: a lock makes one of them do the work and the others find it done.
#[derive(Debug, Clone)]
pub struct Replica {
    stream: Stream,
    dir: PathBuf,
    options: ReplicaOptions,
}

impl Replica {
    /// A replica in `dir` of the stream at `url`, which must exist; the directory is made when it is first
    /// needed.
    ///
    /// [`Replica::builder`] has everything that can be chosen.
    ///
    /// # Errors
    /// [`StoreError::NoStream`] if there is none, or if the store fails.
    ///
    /// # Cancel safety
    /// The future may be dropped at any time; nothing was altered.
    pub async fn open(url: impl Into<String>, dir: impl Into<PathBuf>) -> Result<Self, StoreError> {
        Self::builder(url, dir).open().await
    }

    /// Chooses how the replica in `dir` of the stream at `url` is opened.
    pub fn builder(url: impl Into<String>, dir: impl Into<PathBuf>) -> ReplicaBuilder {
        ReplicaBuilder::new(url.into(), dir.into())
    }

    /// A replica in `dir` of a stream that is open already; the directory is made when it is first needed.
    pub fn of(stream: Stream, dir: impl Into<PathBuf>, mut options: ReplicaOptions) -> Self {
        options.apply = options.apply.with_leaf_hash(stream.record().leaf_hash);
        Self { stream, dir: dir.into(), options }
    }

    /// The stream.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The version that the directory holds by its state file, once an interrupted step is brought to its
    /// end.
    ///
    /// # Errors
    /// If the directory belongs to another stream, or an interrupted step cannot be ended.
    ///
    /// # Cancel safety
    /// The future may be dropped at any time. A step that is being completed runs to its end and keeps the
    /// directory locked until then.
    pub async fn held(&self) -> Result<Option<VersionId>, StoreError> {
        let directory = self.lock().await?;
        Ok(self.local(&directory).await?.and_then(|state| match state.condition {
            Condition::Held(held) => Some(held.id),
            _ => None,
        }))
    }

    /// Brings the directory to the newest version: [`Replica::prepare`] and [`Replica::activate`] in one.
    ///
    /// # Errors
    /// If there is no way to the version, the store fails, or the directory is in use by something else. The
    /// directory then holds what it held, or a version on the way.
    ///
    /// # Cancel safety
    /// The future may be dropped at any time. The directory then holds what it held, a version on the way, or
    /// an interrupted step that the next call of any method completes; downloads are resumed. Work on local
    /// disk that has begun runs to its end and keeps the directory locked until then.
    pub async fn pull(&self) -> Result<Pulled, StoreError> {
        let directory = self.lock_to_update().await?;
        self.pull_locked(&directory, Target::Latest).await
    }

    /// Brings the directory to `version`, be it ahead or back.
    ///
    /// # Errors
    /// As [`Replica::pull`]; [`StoreError::NoVersion`] if there is no such version.
    ///
    /// # Cancel safety
    /// As [`Replica::pull`].
    pub async fn pull_version(&self, version: Version) -> Result<Pulled, StoreError> {
        let directory = self.lock_to_update().await?;
        self.pull_locked(&directory, Target::Version(version)).await
    }

    pub(crate) async fn pull_locked(
        &self,
        directory: &ReplicaDir,
        target: Target,
    ) -> Result<Pulled, StoreError> {
        let mut attempts = PlanAttempts::at_most(self.stream.policy().plans.plan_attempts);
        loop {
            let result = match self.reading_once().prepare_locked(directory, target, &mut attempts).await {
                Ok(prepared) => self.activate(prepared).await,
                Err(error) => Err(error),
            };
            match result {
                Ok(pulled) => return Ok(pulled),
                Err(error) => go_on_or_leave(&mut attempts, error, directory).await?,
            }
        }
    }

    /// Downloads and verifies what `target` needs, while the version held stays as it is.
    ///
    /// All patches are decoded ahead, in one pass. Only where they are so many that their records would take
    /// much memory, the rest is decoded during [`Replica::activate`].
    ///
    /// # Errors
    /// As [`Replica::pull`]; nothing has changed then.
    ///
    /// # Cancel safety
    /// The future, and what it returns, may be dropped at any time: the version held stays as it is, and
    /// downloads are resumed.
    pub async fn prepare(&self, target: Target) -> Result<Prepared, StoreError> {
        let directory = self.lock_to_update().await?;
        let mut attempts = PlanAttempts::at_most(self.stream.policy().plans.plan_attempts);
        loop {
            match self.reading_once().prepare_locked(&directory, target, &mut attempts).await {
                Ok(prepared) => return Ok(prepared),
                Err(error) => go_on_or_leave(&mut attempts, error, &directory).await?,
            }
        }
    }

    /// The same for one attempt, in which each record is read at most once.
    fn reading_once(&self) -> Self {
        Self { stream: self.stream.reading_once(), ..self.clone() }
    }

    async fn lock_to_update(&self) -> Result<ReplicaDir, StoreError> {
        check_no_baseline(&self.dir)?;
        self.lock().await
    }

    async fn lock(&self) -> Result<ReplicaDir, StoreError> {
        self.stream.read_places().altered(Role::Replica, &self.dir).check()?;
        ReplicaDir::lock(&self.dir, self.options.apply.durability).await
    }

    /// The state file after recovery, if it is one of this stream.
    async fn local(&self, directory: &ReplicaDir) -> Result<Option<LocalState>, StoreError> {
        let (directory, options) = (directory.clone(), self.options.apply.clone());
        let state = blocking(move || install::recover(&directory, &options)).await?;
        if let Some(state) = &state {
            state.check_stream(self.stream.id(), &self.dir)?;
        }
        Ok(state)
    }

    async fn prepare_locked(
        &self,
        directory: &ReplicaDir,
        target: Target,
        attempts: &mut PlanAttempts,
    ) -> Result<Prepared, StoreError> {
        if self.options.lease.as_deref().is_some_and(|holder| holder.trim().is_empty()) {
            return Err(StoreError::NoHolder);
        }
        let local = self.local(directory).await?;
        let is_recorded = local.is_some();
        // Whatever became of them since.
        let mut came: Vec<NamedObject> =
            local.iter().flat_map(|local| local.condition.companions().cloned()).collect();
        let (local, as_found, restored) = self.checked(directory, local).await?;
        // Beside the weights of a version that were recognised, under names of its files.
        let mut foreign = Vec::new();
        // What is taken for a version, and what is repaired, is hashed.
        let hashed = !matches!(local, Some(LocalState { condition: Condition::Held(_), .. }));
        // The last is the version that was held by the state file: the stream must still have it.
        let (mut held, old_companions, known) = match local {
            None => match self.adopt(directory).await? {
                Some(adopted) => {
                    came.clone_from(&adopted.own);
                    foreign = adopted.foreign;
                    let known = adopted.held.id;
                    (Some(adopted.held), adopted.own, Some(known))
                }
                None => (None, Vec::new(), None),
            },
            Some(LocalState { condition: Condition::Held(held), .. }) => {
                let known = held.id;
                (Some(held), as_found, Some(known))
            }
            Some(LocalState { condition: Condition::Damaged { was }, .. }) => {
                let (checked, found) = (directory.clone(), was.clone());
                let found = move || with_companions_as_found(&checked, found, Depth::Contents);
                let (found, _) = blocking(found).await?;
                let (held, fetched) = self.repair(directory, &was).await?;
                attempts.fetched(fetched);
                (held, found.companions, Some(was.id))
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
        let (root, commit, options) = (self.dir.clone(), target.clone(), self.options.clone());
        blocking(move || asked::check_asked_for(&root, &came, &commit, &options)).await?;
        if let Some(held) = held.as_mut().filter(|_| !foreign.is_empty()) {
            // What is the user's own and stays, is no file of the version. The rest is to be fetched.
            let stays = |name: &String| !target.record.companions.iter().any(|new| new.name == *name);
            foreign.retain(stays);
            held.companions.retain(|companion| !foreign.contains(&companion.name));
        }
        let number = target.record.version;
        let held_id = held.as_ref().map(|held| held.id);
        self.lease(held_id.map(|id| id.version), number).await;
        let back = self.way_back(directory, held.as_ref(), &target, attempts.is_first()).await?;
        let (history, plan) = match back {
            Some(back) => back,
            None => self.stream.plan_to(held_id, &target, attempts.excluded(), attempts.is_first()).await?,
        };
        let shown = held_id.map_or("nothing".to_owned(), |held| format!("version {}", held.version));
        tracing::info!(
            "{} holds {shown}, the target is version {number}: a plan of {} edges with {} bytes",
            self.dir.display(),
            plan.edges.len(),
            plan.bytes()
        );
        let (bytes, limit) = (plan.bytes(), self.stream.policy().plans.max_plan_bytes);
        if bytes > limit {
            return Err(StoreError::PlanBytes { version: number, bytes, limit });
        }
        attempts.take(&history, &plan);
        let mut verified = hashed || !plan.edges.is_empty() || self.options.verify == Verify::Always;
        let trusts = self.options.verify == Verify::WhereTrusted && self.stream.trusts_keys();
        if let Some(held) = held.as_ref().filter(|_| !verified && trusts) {
            self.verify_held(directory, held).await?;
            verified = true;
        }
        attempts.fetched(self.download(directory, &plan, &target, &old_companions).await?);
        let (downloaded, commit, options) = (directory.clone(), target.clone(), self.options.clone());
        blocking(move || asked::check_downloaded(&downloaded, &commit, &options)).await?;
        let mut report = Pulled {
            stream: self.stream.id(),
            from: held_id.map(|id| id.version),
            to: number,
            commit: target.digest,
            contents: target.record.contents,
            verified,
            edges: plan.edges.iter().map(PulledEdge::of).collect(),
            plan_bytes: plan.bytes(),
            downloaded_bytes: attempts.fetched_bytes(),
            restored,
            took: Took { fetch: attempts.elapsed(), ..Took::default() },
        };
        let begun = Instant::now();
        let staging = Staging {
            directory: directory.clone(),
            stream: self.stream.id(),
            held: held.clone(),
            is_recorded,
            old_companions: old_companions.clone(),
            history,
            plan,
            target: target.clone(),
            mode: self.options.mode,
            keeps_inverse: !self.options.without_inverse,
            options: self.options.apply.clone(),
            observer: self.options.observer.clone(),
        };
        let work = blocking(move || staging.run()).await?;
        report.took.stage = begun.elapsed();
        let options = self.options.apply.clone();
        let directory = directory.clone();
        Ok(Prepared { directory, held, old_companions, target, work, report, options })
    }

    /// Looks whether the files are still there as the state file says, all of them read if that was asked
    /// for; the companions as they are, and what is not as it was. Damage of the weights is written into the
    /// state file.
    async fn checked(
        &self,
        directory: &ReplicaDir,
        local: Option<LocalState>,
    ) -> Result<(Option<LocalState>, Vec<NamedObject>, Vec<String>), StoreError> {
        let Some(LocalState { stream, condition: Condition::Held(held) }) = local else {
            return Ok((local, Vec::new(), Vec::new()));
        };
        let depth = match self.options.verify {
            Verify::Always => Depth::Contents,
            Verify::WhereTrusted | Verify::Never => Depth::Sizes,
        };
        // The weights of a signed stream are hashed where they are used; the files beside them are small.
        let trusts = self.options.verify == Verify::WhereTrusted && self.stream.trusts_keys();
        let of_companions = if trusts { Depth::Contents } else { depth };
        let (directory, options) = (directory.clone(), self.options.apply.clone());
        blocking(move || {
            let fault = find_weights_fault(directory.path(), &held, depth, &options)?;
            let (found, mut altered) = with_companions_as_found(&directory, held.clone(), of_companions)?;
            for name in &altered {
                tracing::warn!("{name} is not as it was published, and is restored");
            }
            let condition = match fault {
                None => Condition::Held(held),
                Some(fault) => {
                    tracing::warn!(
                        "the weights are not as they were published, and are restored: {}",
                        fault.what
                    );
                    altered.push(fault.what);
                    let condition = Condition::Damaged { was: held };
                    directory.save(&LocalState { stream, condition: condition.clone() })?;
                    condition
                }
            };
            Ok((Some(LocalState { stream, condition }), found.companions, altered))
        })
        .await
    }

    /// Checks that the weights are those of the version that the state file says; if not, it says so from
    /// then on.
    async fn verify_held(&self, directory: &ReplicaDir, held: &InstalledVersion) -> Result<(), StoreError> {
        let (directory, options) = (directory.clone(), self.options.apply.clone());
        let (stream, held) = (self.stream.id(), held.clone());
        blocking(move || {
            let found = install::is_version(&directory.path(), &held, &options);
            found.map_err(|error| update::damage_noted(&directory, stream, &held, error))
        })
        .await
    }

    /// The commit of the target, and a check that the stream still has what is held.
    async fn find(&self, held: Option<VersionId>, target: Target) -> Result<Commit, StoreError> {
        let tip = self.stream.tip_for(held.map(|held| held.version)).await?;
        if let Some(held) = held {
            self.check_held(held.version, held.commit).await?;
        }
        match target {
            Target::Latest => {
                let tip = tip.ok_or(StoreError::Empty)?;
                self.options.observer.note(Event::Newest(tip.record.version));
                Ok(tip)
            }
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
        check_held(&self.stream, &self.dir, number, held).await
    }

    /// Lets the directory become the prepared version. Short: it alters bytes or renames files, and fetches
    /// nothing.
    ///
    /// # Errors
    /// If the files cannot be altered. What was begun is finished or undone by the next call of any method.
    ///
    /// # Cancel safety
    /// The future may be dropped at any time. The step that has begun runs to its end and keeps the directory
    /// locked until then; of very many patches in place the rest are not begun, and the directory
    /// holds a version on the way.
    pub async fn activate(&self, prepared: Prepared) -> Result<Pulled, StoreError> {
        let Prepared { directory, held, old_companions, target, work, mut report, .. } = prepared;
        let begun = Instant::now();
        let stream = self.stream.id();
        match work {
            Work::Nothing => {}
            Work::Switch(install) => {
                let to = InstalledVersion::of(&target);
                let directory = directory.clone();
                blocking(move || install::switch(&directory, stream, to, install)).await?;
            }
            Work::InPlace { steps, mut prepared } => {
                let (mut at, mut left) = (held.ok_or(StoreError::Empty)?, steps);
                while !left.is_empty() {
                    (at, left) = self.patch_in_place(&directory, at, left, &old_companions, prepared).await?;
                    prepared = 0;
                }
            }
        }
        drop(directory);
        report.took.activate = begun.elapsed();
        self.lease(Some(report.to), report.to).await;
        Ok(report)
    }

    /// Says what is held and wanted, if that was asked for. A replica that cannot write to the store still
    /// works.
    async fn lease(&self, version: Option<Version>, target: Version) {
        let Some(holder) = &self.options.lease else { return };
        let lease = Lease::new(holder, version, target, self.stream.policy().leases.lease_lifetime);
        if let Err(error) = self.stream.lease(&lease_id(holder), &lease).await {
            tracing::warn!(
                "the lease could not be written, so that gc may remove what this replica needs: {error}"
            );
        }
    }

    /// Gives up the lease, so that collectors no longer wait for this replica.
    ///
    /// # Errors
    /// If the store fails.
    ///
    /// # Cancel safety
    /// The future may be dropped at any time; the lease is then given up or expires.
    pub async fn release(&self) -> Result<(), StoreError> {
        match &self.options.lease {
            Some(holder) => self.stream.release(&lease_id(holder)).await,
            None => Ok(()),
        }
    }

    /// Applies as many of `steps` to the files as go in one pass, and returns the version that is then held
    /// and the steps that are left. A journal of the first `prepared` steps is written already. The last step
    /// brings the files beside the weights as well, which are `old_companions` until then.
    async fn patch_in_place(
        &self,
        directory: &ReplicaDir,
        from: InstalledVersion,
        mut steps: Vec<Step>,
        old_companions: &[NamedObject],
        prepared: usize,
    ) -> Result<(InstalledVersion, Vec<Step>), StoreError> {
        let (directory, stream) = (directory.clone(), self.stream.id());
        let (options, observer) = (self.options.apply.clone(), self.options.observer.clone());
        let (keeps_inverse, old) = (!self.options.without_inverse, old_companions.to_vec());
        blocking(move || {
            let (ready, done) = if prepared > 0 {
                (Ready::Journal, prepared)
            } else {
                let advance = observer.steer(Phase::Apply);
                let (directory, from, steps, options) = (&directory, &from, &steps, &options);
                let update = Update { directory, stream, from, steps, keeps_inverse, options };
                update.prepare(delta::Progress::stoppable(&advance))?
            };
            let left = steps.split_off(done.clamp(1, steps.len()));
            let to = steps.pop().ok_or(StoreError::Empty)?.to;
            let old = left.is_empty().then_some(old.as_slice());
            update::activate(&directory, stream, Some(&from), &to, old, ready, &options)?;
            Ok((to, left))
        })
        .await
    }
}

/// Lets the next attempt begin, if there may be one. What is refused leaves nothing in a directory that was
/// no replica before.
async fn go_on_or_leave(
    attempts: &mut PlanAttempts,
    error: StoreError,
    directory: &ReplicaDir,
) -> Result<(), StoreError> {
    let Err(error) = attempts.go_on(error) else { return Ok(()) };
    let is_refused = matches!(
        error.kind(),
        ErrorKind::Refused | ErrorKind::NotFound | ErrorKind::Untrusted | ErrorKind::Conflict
    );
    if is_refused || matches!(error, StoreError::Checkpoint(_)) {
        let directory = directory.clone();
        blocking(move || directory.abandon()).await?;
    }
    Err(error)
}

/// Checks that a stream still has the version that `dir` holds.
async fn check_held(
    stream: &Stream,
    dir: &Path,
    number: Version,
    held: ObjectDigest,
) -> Result<(), StoreError> {
    let what = match stream.commit(number).await? {
        None => {
            let found = stream.tip().await?.map(|tip| tip.record.version);
            if found < Some(number) {
                let (place, path) = (stream.place(), dir.to_owned());
                return Err(StoreError::PlaceBehind { place, path, held: number, found });
            }
            "is there no longer"
        }
        Some(commit) if commit.digest != held => "is another one now",
        Some(_) => return Ok(()),
    };
    let dir = dir.display();
    Err(StoreError::HistoryRewritten(format!("version {number}, which {dir} holds, {what}")))
}

impl StoreError {
    /// Says of a stream that is not there which one it should be, if the directory `dir` is a replica of one.
    #[must_use]
    pub fn for_replica(self, dir: &Path) -> Self {
        let Self::NoStream { place } = self else { return self };
        match directory::read_state(dir) {
            Ok(Some(LocalState { stream, condition })) => {
                Self::StreamLost { place, path: dir.to_owned(), stream, held: condition.version() }
            }
            _ => Self::NoStream { place },
        }
    }
}

/// The name of the object of a holder's lease: any text gives one, and the whole of a long one counts.
fn lease_id(holder: &str) -> String {
    ObjectDigest::of(holder.as_bytes()).to_string()
}
