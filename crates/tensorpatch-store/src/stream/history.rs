//! Reading the history of a stream: its tip, its commits and edges, and the plans that they allow
//! (spec/stream.md sections 9 and 10).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tensorpatch_stream::retention::Listed;
use tensorpatch_stream::{
    Commit, Edge, Exclusions, History, Key, ObjectRef, Plan, PlanError, Version, VersionId, end_of_run, names,
};

use super::Stream;
use super::budget::Budget;
use crate::bucket::buffered_all;
use crate::error::StoreError;
use crate::observe::counted;

/// Records for which requests are made ready.
const BATCH: u64 = 1024;
/// Records that are read at once when the history is walked back, to an anchor or to what is looked for.
const STRIDE: u64 = 64;

/// Versions from the known one on that are asked for one by one before the hint is: a replica is rarely
/// further behind.
const STEPS_BEFORE_HINT: u64 = 3;
/// Versions after the hint that are asked for one by one before all are listed: the hint is rarely older.
const STEPS_BEFORE_LIST: u64 = 8;

/// The hint of section 3.
#[derive(Debug, Serialize, Deserialize)]
struct Latest {
    version: Version,
}

impl Stream {
    /// The newest version, or `None` if there is none yet (section 9).
    ///
    /// # Errors
    /// If the store fails, or the record is damaged.
    ///
    /// # Cancel safety
    /// The future may be dropped at any time; it only reads.
    pub async fn tip(&self) -> Result<Option<Commit>, StoreError> {
        self.tip_after(None).await
    }

    /// The newest version, given one that is known to exist. Refuses one below what the caller expects.
    ///
    /// Where nothing or little is new, this takes a request for each newer version and one that finds none,
    /// and one for the version that is known.
    pub(crate) async fn tip_after(&self, known: Option<Version>) -> Result<Option<Commit>, StoreError> {
        let tip = self.find_tip(known).await?;
        self.check_tip(tip.as_ref()).await?;
        Ok(tip)
    }

    /// The same for a replica that holds `known`: where the record after it is lost or damaged, the newest
    /// version that the hint knows, as an anchor may lead there.
    ///
    /// One request more than [`Stream::tip_after`] where nothing is new.
    pub(crate) async fn tip_for(&self, known: Option<Version>) -> Result<Option<Commit>, StoreError> {
        let tip = self.tip_after(known).await;
        let ends_here = |tip: &Option<Commit>| tip.as_ref().map(|tip| tip.record.version) == known;
        let (Some(known), true) = (known, tip.as_ref().map_or_else(StoreError::is_of_record, ends_here))
        else {
            return tip;
        };
        match self.beyond_gap(known).await? {
            Some(beyond) => self.tip_after(Some(beyond)).await,
            None => tip,
        }
    }

    /// The version above `known` that the hint names, if its record can be read.
    pub(crate) async fn beyond_gap(&self, known: Version) -> Result<Option<Version>, StoreError> {
        let Some(hint) = self.hinted().await?.filter(|hint| *hint > known) else { return Ok(None) };
        Ok(self.hinted_commit(hint).await?.map(|commit| commit.record.version))
    }

    async fn find_tip(&self, known: Option<Version>) -> Result<Option<Commit>, StoreError> {
        // A server can have a record for every number.
        let budget = Budget::of(self);
        let mut tip = None;
        if let Some(known) = known {
            tip = self.last_of(known, STEPS_BEFORE_HINT, &budget).await?;
            let newer = |tip: &Commit| tip.record.version.get().saturating_sub(known.get());
            if tip.as_ref().is_some_and(|tip| newer(tip).saturating_add(1) < STEPS_BEFORE_HINT) {
                return Ok(tip);
            }
        }
        if let Some(hint) = self.hinted().await?
            && tip.as_ref().is_none_or(|tip: &Commit| tip.record.version < hint)
        {
            tip = self.hinted_commit(hint).await?.or(tip);
        }
        if tip.is_none() {
            tip = self.listed_after(None).await?;
        }
        loop {
            let first = match &tip {
                None => Some(Version::FIRST),
                Some(tip) => tip.record.version.next(),
            };
            let Some(first) = first else { return Ok(tip) };
            // A stale list ends early; a get does not lie.
            let Some(last) = self.last_of(first, STEPS_BEFORE_LIST, &budget).await? else { return Ok(tip) };
            let found = last.record.version.get().saturating_sub(first.get()).saturating_add(1);
            tip = Some(last);
            if found < STEPS_BEFORE_LIST {
                return Ok(tip);
            }
            tip = self.listed_after(tip).await?;
        }
    }

    /// The last of at most `most` consecutive commits from `first` on.
    async fn last_of(
        &self,
        first: Version,
        most: u64,
        budget: &Budget,
    ) -> Result<Option<Commit>, StoreError> {
        let mut last = None;
        let mut next = Some(first);
        for _ in 0..most {
            let Some(version) = next else { break };
            let Some((commit, bytes)) = self.sized_commit(version).await? else { break };
            budget.take(bytes)?;
            last = Some(commit);
            next = version.next();
        }
        Ok(last)
    }

    /// The end of the run of versions after `tip` that the store lists, or `tip`.
    async fn listed_after(&self, tip: Option<Commit>) -> Result<Option<Commit>, StoreError> {
        let listed = self.listed_commits(tip.as_ref()).await?;
        match end_of_run(tip.as_ref().map(|tip| tip.record.version), listed) {
            Some(newest) => Ok(self.commit(newest).await?.or(tip)),
            None => Ok(tip),
        }
    }

    /// The commit that the hint names. Anybody can write a hint, also to what is no commit of the stream.
    async fn hinted_commit(&self, hint: Version) -> Result<Option<Commit>, StoreError> {
        match self.commit(hint).await {
            Err(error @ StoreError::Object { .. }) => Err(error),
            Err(error) => {
                // If anything is wrong, whoever looks for the tip without it meets that, too.
                tracing::info!("the hint is of no use: {error}");
                Ok(None)
            }
            found => found,
        }
    }

    /// The versions after `tip` whose records the store lists. Lists only save requests, so one that cannot
    /// be read counts as empty.
    pub(crate) async fn listed_commits(&self, tip: Option<&Commit>) -> Result<Vec<Version>, StoreError> {
        let after = tip.map(|tip| names::commit_file(tip.record.version));
        let what = "the commit records cannot be listed, and are asked for one by one";
        let listed = self.bucket().list_if_readable(names::COMMITS, after.as_deref(), what).await?;
        Ok(listed.iter().filter_map(|object| names::commit_version(&object.name)).collect())
    }

    /// The version that the hint names. A hint that cannot be read counts as none.
    pub(crate) async fn hinted(&self) -> Result<Option<Version>, StoreError> {
        let hint = self.bucket().get_small(names::LATEST, 1024).await?;
        Ok(hint.and_then(|bytes| serde_json::from_slice::<Latest>(&bytes).ok()).map(|hint| hint.version))
    }

    /// Overwrites the hint. It being wrong costs requests and nothing else, so a failure is none of the
    /// caller's.
    pub(crate) async fn hint(&self, version: Version) {
        let Ok(bytes) = serde_json::to_vec(&Latest { version }) else { return };
        if let Err(error) = self.bucket().put(names::LATEST, bytes.into()).await {
            tracing::debug!(%error, "could not write the hint");
        }
    }

    /// All commits from `from` to `to`, both included.
    pub(crate) async fn commits(
        &self,
        from: Version,
        to: Version,
        budget: &Budget,
    ) -> Result<Vec<Commit>, StoreError> {
        let mut commits = Vec::new();
        for numbers in batches(from, to) {
            let batch =
                buffered_all(numbers, self.policy().transfers.parallel_requests, |version| async move {
                    let commit = self.sized_commit(version).await?;
                    let (commit, bytes) =
                        commit.ok_or_else(|| StoreError::Missing { name: names::commit(version) })?;
                    budget.take(bytes).map(|()| commit)
                });
            commits.extend(batch.await?);
        }
        Ok(commits)
    }

    /// What a plan from `held` to `target` may need: the commits back to `held` if it is near enough, else
    /// back to the newest anchor, and the edges between them.
    ///
    /// Behind a version that is near nothing is cheaper: an anchor is as large as all tensors.
    pub(crate) async fn history(
        &self,
        held: Option<Version>,
        target: &Commit,
        max_edges: usize,
    ) -> Result<History, StoreError> {
        let to = target.record.version;
        let reach = u64::try_from(max_edges).unwrap_or(u64::MAX);
        let near = |held: &Version| *held < to && to.get().saturating_sub(held.get()) <= reach;
        let budget = Budget::of(self);
        let listed = self.listed_edges().await?;
        let mut end = held.filter(near);
        if end.is_none() {
            end = self.newest_anchor_edge(&listed, to).await?;
        }
        let is_fixed = held.is_some_and(|held| near(&held));
        let mut commits: BTreeMap<Version, Commit> = BTreeMap::new();
        let mut low = to.next().unwrap_or(to);
        while low > Version::FIRST && end.is_none_or(|end| low > end) {
            let high = low.previous().unwrap_or(Version::FIRST);
            // Not further than is known to be needed: an anchor that the records hold is found on the way.
            let stride = Version::new(low.get().saturating_sub(STRIDE)).unwrap_or(Version::FIRST);
            low = end.map_or(stride, |end| end.max(stride)).min(high);
            for commit in self.commits(low, high, &budget).await? {
                if !is_fixed && commit.record.anchor.is_some() {
                    end = end.max(Some(commit.record.version));
                }
                commits.insert(commit.record.version, commit);
            }
        }
        let edges = self.read_edges(&listed, low, to, &budget).await?;
        Ok(History::new(commits.into_values(), edges)?)
    }

    /// The cheapest plan from `held`, or from nothing, to `target` without what is excluded, and the records
    /// that it is of.
    ///
    /// Whether the objects of a plan exist is asked beforehand, but for the one of a plan that has no more
    /// and is the `first` to be tried: fetching it tells as soon.
    pub(crate) async fn plan_to(
        &self,
        held: Option<VersionId>,
        target: &Commit,
        excluded: &Exclusions,
        first: bool,
    ) -> Result<(History, Plan), StoreError> {
        let max_edges = self.policy().plans.max_edges;
        let number = target.record.version;
        // Also where nothing is to be fetched: the files beside the weights come from its record.
        self.check_endorsed(target).await?;
        if held == Some(target.id()) {
            return Ok(Default::default());
        }
        let near = match self.history(held.map(|held| held.version), target, max_edges).await {
            // Perhaps the newest anchor is behind the record that is lost.
            Err(error) if held.is_some() && error.is_of_record() => {
                match self.history(None, target, max_edges).await {
                    Err(other) if other.is_of_record() => return Err(error),
                    anchored => anchored?,
                }
            }
            near => near?,
        };
        if first
            && let Ok(plan) = near.plan(held.as_ref(), number, &excluded.objects, max_edges)
            && plan.objects().len() == 1
        {
            return Self::of_target(near, plan, target);
        }
        let mut found = self.plan_in(near, held, number, excluded).await;
        // Objects of the nearest edges are missing: perhaps the newest anchor is whole, or an older one.
        if held.is_some() && is_no_path(&found) {
            let anchored = self.history(None, target, max_edges).await?;
            found = self.plan_in(anchored, held, number, excluded).await;
        }
        if is_no_path(&found) {
            let (whole, _) = self.readable_history(number).await?;
            found = self.plan_in(whole, held, number, excluded).await;
        }
        if is_no_path(&found)
            && let Some(oldest) = self.pruned().await?.filter(|floor| number < *floor)
        {
            return Err(StoreError::Collected { wanted: number, oldest });
        }
        let (history, plan) = found?;
        Self::of_target(history, plan, target)
    }

    /// Says that a history has the target that was asked for.
    fn of_target(history: History, plan: Plan, target: &Commit) -> Result<(History, Plan), StoreError> {
        let number = target.record.version;
        if history.commit(number).map(Commit::id) != Some(target.id()) {
            let what = format!("the record of version {number} was replaced while it was read");
            return Err(StoreError::HistoryRewritten(what));
        }
        Ok((history, plan))
    }

    async fn plan_in(
        &self,
        mut history: History,
        held: Option<VersionId>,
        target: Version,
        excluded: &Exclusions,
    ) -> Result<(History, Plan), StoreError> {
        history.leave_out(&excluded.edges);
        let (objects, max_edges) = (excluded.objects.clone(), self.policy().plans.max_edges);
        let plan = self.complete_plan(&history, held.as_ref(), target, max_edges, objects).await?;
        Ok((history, plan))
    }

    /// The cheapest plan all of whose objects exist (section 10), and are not among those to avoid.
    pub(crate) async fn complete_plan(
        &self,
        history: &History,
        held: Option<&VersionId>,
        target: Version,
        max_edges: usize,
        avoided: BTreeSet<ObjectRef>,
    ) -> Result<Plan, StoreError> {
        let mut missing = avoided;
        let mut plan = history.plan(held, target, &missing, max_edges)?;
        let mut absent = self.absent(plan.objects()).await?;
        if absent.is_empty() {
            return Ok(plan);
        }
        self.tell_absent(&plan, &absent).await;
        let known: BTreeSet<ObjectRef> = plan.objects().into_iter().cloned().collect();
        missing.append(&mut absent);
        plan = history.plan(held, target, &missing, max_edges)?;
        // Any number of edges may be broken: what the next plan needs is asked for with what all others do.
        let others =
            history.edges().iter().filter(|edge| edge.target.version <= target).flat_map(Edge::objects);
        let others: BTreeSet<&ObjectRef> = others.filter(|object| !known.contains(*object)).collect();
        if plan.objects().iter().any(|object| others.contains(*object)) {
            missing.append(&mut self.absent(others).await?);
            plan = history.plan(held, target, &missing, max_edges)?;
        }
        Ok(plan)
    }

    /// Tells of objects that a plan lacks: what a collector took is none to be warned of.
    async fn tell_absent(&self, plan: &Plan, absent: &BTreeSet<ObjectRef>) {
        let first = absent.first().map_or("none", |object| object.key.as_str());
        let missing = counted(absent.len(), "object of the plan is", "objects of the plan are");
        let lacks = |edge: &&Edge| edge.objects().iter().any(|object| absent.contains(*object));
        let floor = self.pruned().await.ok().flatten();
        let start = |edge: &Edge| edge.base().map_or(edge.target.version, |base| base.version);
        if plan.edges.iter().filter(lacks).all(|edge| Some(start(edge)) < floor) {
            tracing::info!("{missing} collected, the first is {first}: planning again");
        } else {
            tracing::warn!("{missing} missing, the first is {first}: planning again");
        }
    }

    /// Those of some objects that are not there, or have another size.
    async fn absent<'a>(
        &self,
        objects: impl IntoIterator<Item = &'a ObjectRef> + Send,
    ) -> Result<BTreeSet<ObjectRef>, StoreError> {
        let absent = buffered_all(objects, self.policy().transfers.parallel_requests, |object| async move {
            match self.bucket().check_there(object).await {
                Ok(()) => Ok(None),
                Err(StoreError::Missing { .. } | StoreError::Damaged { .. }) => Ok(Some(object.clone())),
                Err(error) => Err(error),
            }
        });
        Ok(absent.await?.into_iter().flatten().collect())
    }

    /// All commits and edges up to `top`.
    pub(crate) async fn whole_history(&self, top: Version) -> Result<History, StoreError> {
        self.history_between(Version::FIRST, top).await
    }

    /// All commits and edges up to `top`, from the first version on from which all records can be read; and
    /// what is wrong with the one before it.
    pub(crate) async fn readable_history(
        &self,
        top: Version,
    ) -> Result<(History, Option<StoreError>), StoreError> {
        let reading = if self.read.is_some() { self.clone() } else { self.reading_once() };
        let (first, lost) = reading.first_readable(top).await?;
        Ok((reading.history_between(first, top).await?, lost))
    }

    /// The lowest version from which on all records up to `top` can be read, and what is wrong with the one
    /// before it.
    async fn first_readable(&self, top: Version) -> Result<(Version, Option<StoreError>), StoreError> {
        let (mut first, budget) = (top, Budget::of(self));
        let mut next = top.previous();
        while let Some(high) = next {
            let low = Version::new(high.get().saturating_sub(BATCH)).unwrap_or(Version::FIRST);
            match self.commits(low, high, &budget).await {
                Ok(_) => first = low,
                Err(error) if error.is_of_record() => break,
                Err(error) => return Err(error),
            }
            next = low.previous();
        }
        // One by one where one of them cannot be read.
        while let Some(version) = first.previous() {
            match self.commits(version, version, &budget).await {
                Ok(_) => first = version,
                Err(error) if error.is_of_record() => return Ok((first, Some(error))),
                Err(error) => return Err(error),
            }
        }
        Ok((first, None))
    }

    /// Each commit up to `top`, or what is wrong with its record. Those behind a gap as wide as a batch are
    /// of no stream.
    pub(crate) async fn each_commit(
        &self,
        top: Version,
        budget: &Budget,
    ) -> Result<Vec<(Version, Result<Commit, StoreError>)>, StoreError> {
        let mut all = Vec::new();
        for numbers in batches(Version::FIRST, top) {
            let at_once = self.policy().transfers.parallel_requests;
            let read = buffered_all(numbers, at_once, |version| async move {
                match self.sized_commit(version).await {
                    Err(error @ (StoreError::Object { .. } | StoreError::Cancelled(_))) => Err(error),
                    Ok(Some((commit, bytes))) => budget.take(bytes).map(|()| (version, Ok(commit))),
                    Ok(None) => {
                        let name = names::commit(version);
                        Ok((version, Err(StoreError::Missing { name })))
                    }
                    Err(error) => Ok((version, Err(error))),
                }
            })
            .await?;
            let is_gap = read.iter().all(|(_, found)| matches!(found, Err(StoreError::Missing { .. })));
            all.extend(read);
            if is_gap {
                break;
            }
        }
        Ok(all)
    }

    /// All commits and edges between two versions, both included.
    pub(crate) async fn history_between(&self, from: Version, to: Version) -> Result<History, StoreError> {
        let budget = Budget::of(self);
        let commits = self.commits(from, to, &budget).await?;
        let edges = self.edges(from, to, &budget).await?;
        Ok(History::new(commits, edges)?)
    }

    /// The sizes of all data objects, by key.
    pub(crate) async fn data_objects(&self) -> Result<BTreeMap<Key, Listed>, StoreError> {
        let mut objects = BTreeMap::new();
        for folder in names::DATA_FOLDERS {
            for object in self.bucket().list(folder, None).await? {
                // What has another name was not put there by this protocol, and is none of its business.
                if let Ok(key) = Key::new(format!("{folder}/{}", object.name)) {
                    objects.insert(key, object);
                }
            }
        }
        Ok(objects)
    }

    /// The highest floor that a collector has written down, if any; the records below it may name objects
    /// that are gone. Floors only excuse what is missing, so a list of them that cannot be read counts as
    /// none.
    ///
    /// # Errors
    /// If the store fails.
    ///
    /// # Cancel safety
    /// The future may be dropped at any time; it only reads.
    pub async fn pruned(&self) -> Result<Option<Version>, StoreError> {
        let what = "the pruning records cannot be listed, and are passed over";
        let listed = self.bucket().list_if_readable(names::PRUNED, None, what).await?;
        Ok(listed.iter().filter_map(|object| names::pruned_floor(&object.name)).max())
    }
}

fn is_no_path<T>(found: &Result<T, StoreError>) -> bool {
    matches!(found, Err(StoreError::Plan(PlanError::NoPath { .. })))
}

/// The numbers from `from` to `to`, some at a time: nothing is made ready for those that may not exist.
pub(crate) fn batches(from: Version, to: Version) -> impl Iterator<Item = Vec<Version>> {
    Batches { next: Some(from), to }
}

struct Batches {
    next: Option<Version>,
    to: Version,
}

impl Iterator for Batches {
    type Item = Vec<Version>;

    fn next(&mut self) -> Option<Vec<Version>> {
        let start = self.next.filter(|start| *start <= self.to)?;
        let end = start.get().saturating_add(BATCH).min(self.to.get().saturating_add(1));
        self.next = Version::new(end);
        Some((start.get()..end).filter_map(Version::new).collect())
    }
}
