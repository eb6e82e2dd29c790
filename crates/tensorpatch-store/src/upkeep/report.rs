//! A stream in figures: what each version cost, how its history hangs together, what a newcomer has to fetch,
//! who follows it, and what changed in the weights from step to step.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use tensorpatch_checkpoint::Checkpoint;
use tensorpatch_delta::{self as delta, ChangedTensors, LayerChange, Progress, State, compare_layers};
use tensorpatch_stream::{Commit, Edge, History, StreamId, Version, VersionKind};

use crate::error::StoreError;
use crate::local::{blocking, unix_now};
use crate::observe::{Observer, Phase};
use crate::replica::directory::ReplicaDir;
use crate::replica::options::ReplicaOptions;
use crate::replica::{Replica, update};
use crate::stream::Stream;
use crate::stream::lease::ReplicaLease;
use crate::stream::log::LogEntry;

/// Versions from which the cost of a late join is told: evenly spread over those of the report.
const LATE_JOINS: usize = 128;
/// Layers that are told apart; a model has some hundred. The others are one.
const LAYERS: usize = 512;
/// What they are called then.
const OTHERS: &str = "others";

/// Choices for a report.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ReportOptions {
    /// The most versions that it covers, the newest ones.
    pub versions: u64,
    /// The most steps whose weights are compared, the newest ones: their patches are downloaded, and first
    /// the version that they start from.
    pub steps: u64,
    /// Threads and limits.
    pub apply: delta::Options,
    /// Who is told of progress.
    pub observer: Observer,
}

impl Default for ReportOptions {
    /// 1,000 versions, and no step.
    fn default() -> Self {
        let (apply, observer) = (delta::Options::default(), Observer::default());
        Self { versions: 1_000, steps: 0, apply, observer }
    }
}

impl ReportOptions {
    /// The same with at most so many versions.
    #[must_use]
    pub fn with_versions(mut self, versions: u64) -> Self {
        self.versions = versions;
        self
    }

    /// The same with the weights of so many steps compared.
    #[must_use]
    pub fn with_steps(mut self, steps: u64) -> Self {
        self.steps = steps;
        self
    }

    /// The same with these threads and limits.
    #[must_use]
    pub fn with_apply(mut self, apply: delta::Options) -> Self {
        self.apply = apply;
        self
    }

    /// Tells `observer` of progress.
    #[must_use]
    pub fn with_observer(mut self, observer: Observer) -> Self {
        self.observer = observer;
        self
    }
}

/// A stream in figures; made by [`report`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StreamReport {
    /// The stream.
    pub stream: StreamId,
    /// The leaf hash of its states.
    pub leaf_hash: &'static str,
    /// When it was made, in seconds since 1970 by this machine's clock.
    pub made: u64,
    /// The versions that it covers, the newest last.
    pub versions: Vec<LogEntry>,
    /// The ways between them, and to them from nothing.
    pub edges: Vec<ReportEdge>,
    /// What leads from a version to the newest, for some of the versions; the first is from nothing.
    pub late_joins: Vec<LateJoin>,
    /// The layers that steps are compared in, in the order of their numbers.
    pub layers: Vec<ReportLayer>,
    /// The steps that were compared.
    pub steps: Vec<ReportStep>,
    /// Why the weights of no more steps could be compared.
    pub steps_obstacle: Option<String>,
    /// The replicas that keep a lease.
    pub replicas: Vec<ReplicaLease>,
}

/// A way to a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ReportEdge {
    /// Where it starts; none for an anchor.
    pub from: Option<Version>,
    /// Where it leads.
    pub to: Version,
    /// Bytes to fetch for it.
    pub bytes: u64,
}

impl ReportEdge {
    fn of(edge: &Edge) -> Self {
        let from = edge.base().map(|base| base.version);
        Self { from, to: edge.target.version, bytes: edge.bytes() }
    }
}

/// What it takes to come to the newest version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LateJoin {
    /// What is held; none for a newcomer.
    pub held: Option<Version>,
    /// Bytes to fetch; none if no way leads there.
    pub bytes: Option<u64>,
    /// How many patches and anchors these are.
    pub edges: u64,
}

/// A layer of the model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ReportLayer {
    /// What the names of its tensors begin with.
    pub name: String,
    /// Its elements.
    pub elements: u64,
}

/// What changed in the weights from a version to the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ReportStep {
    /// The version that the step leads to.
    pub version: Version,
    /// The elements that change in each of the report's layers; none where the step could not be compared.
    pub changed: Option<Vec<u64>>,
    /// How many elements move by 1, by 2, by 3 to 4, by 5 to 8 units of the last place, and so on.
    pub distances: Vec<u64>,
}

/// Puts a stream into figures. `work` is a directory for one checkpoint, a replica that may be used again and
/// again; without steps to compare it is not made.
///
/// # Errors
/// If the store fails, a record is damaged, or the directory cannot be used. That weights cannot be compared
/// is in the report.
///
/// # Cancel safety
/// The future may be dropped at any time, as [`Replica::pull`].
pub async fn report(
    stream: &Stream,
    work: impl AsRef<Path>,
    options: &ReportOptions,
) -> Result<StreamReport, StoreError> {
    let versions = match stream.log_newest(options.versions.max(1)).await {
        Err(error) if error.is_of_record() => {
            let (mut versions, _) = stream.log_readable().await?;
            tracing::warn!("the report begins behind a record that is lost: {error}");
            let most = usize::try_from(options.versions.max(1)).unwrap_or(usize::MAX);
            versions.drain(..versions.len().saturating_sub(most));
            versions
        }
        versions => versions?,
    };
    let replicas = stream.replica_leases().await?;
    let mut report = StreamReport {
        stream: stream.id(),
        leaf_hash: stream.record().leaf_hash.name(),
        made: unix_now(),
        edges: Vec::new(),
        late_joins: Vec::new(),
        layers: Vec::new(),
        steps: Vec::new(),
        steps_obstacle: None,
        replicas,
        versions,
    };
    let (Some(first), Some(last)) = (report.versions.first(), report.versions.last()) else {
        return Ok(report);
    };
    let (first, tip) = (first.version, last.version);
    let history = stream.history_between(first, tip).await?;
    report.edges = history.edges().iter().map(ReportEdge::of).collect();
    report.edges.sort_unstable_by_key(|edge| (edge.to, edge.from, edge.bytes));
    report.late_joins = late_joins(&history, tip, stream.policy().plans.max_edges);
    if options.steps > 0 {
        compare(stream, work.as_ref(), options, &mut report).await?;
    }
    Ok(report)
}

fn late_joins(history: &History, tip: Version, max_edges: usize) -> Vec<LateJoin> {
    let commits: Vec<&Commit> = history.commits().collect();
    let stride = commits.len().div_ceil(LATE_JOINS).max(1);
    let held = commits.iter().rev().step_by(stride).rev().map(|commit| Some(commit.id()));
    let join = |held: Option<tensorpatch_stream::VersionId>| {
        let plan = history.plan(held.as_ref(), tip, &Default::default(), max_edges).ok();
        LateJoin {
            held: held.map(|held| held.version),
            bytes: plan.as_ref().map(|plan| plan.bytes()),
            edges: plan.map_or(0, |plan| plan.edges.len() as u64),
        }
    };
    [None].into_iter().chain(held).map(join).collect()
}

/// Compares the weights of the newest steps: a replica goes from version to version, and keeps each time the
/// patch that leads back.
async fn compare(
    stream: &Stream,
    work: &Path,
    options: &ReportOptions,
    report: &mut StreamReport,
) -> Result<(), StoreError> {
    let to_compare: Vec<Version> = report.versions.iter().skip(1).map(|entry| entry.version).collect();
    let most = usize::try_from(options.steps).unwrap_or(usize::MAX);
    let newest = to_compare.get(to_compare.len().saturating_sub(most)..).unwrap_or_default();
    let reachable = |entry: &&LogEntry| !entry.collected;
    let floor = report.versions.iter().find(reachable).map(|entry| entry.version);
    let Some(start) = newest.first().and_then(|first| first.previous()).max(floor) else { return Ok(()) };
    let kinds: BTreeMap<Version, VersionKind> =
        report.versions.iter().map(|entry| (entry.version, entry.kind)).collect();
    let replica_options = ReplicaOptions::default()
        .with_apply(options.apply.clone())
        .with_durability(delta::Durability::None)
        .with_observer(options.observer.clone());
    let replica = Replica::of(stream.clone(), work, replica_options);
    let mut found: Vec<(Version, Option<Vec<LayerChange>>)> = Vec::new();
    for version in std::iter::once(start).chain(newest.iter().copied().filter(|version| *version > start)) {
        let pulled = match replica.pull_version(version).await {
            Ok(pulled) => pulled,
            Err(error @ (StoreError::Plan(_) | StoreError::Missing { .. } | StoreError::Damaged { .. })) => {
                report.steps_obstacle = Some(format!("version {version} could not be had: {error}"));
                break;
            }
            Err(error) => return Err(error),
        };
        if version > start {
            let is_empty = kinds.get(&version) == Some(&VersionKind::Empty);
            let layers = match pulled.from == version.previous() {
                true => changes(stream, work, version, is_empty, options).await?,
                false => None,
            };
            found.push((version, layers));
        }
    }
    summarise(found, report);
    Ok(())
}

/// What changed from the version before to the one that the replica in `work` holds, by the patch that leads
/// back; `None` if none was kept.
async fn changes(
    stream: &Stream,
    work: &Path,
    version: Version,
    is_empty: bool,
    options: &ReportOptions,
) -> Result<Option<Vec<LayerChange>>, StoreError> {
    let (Some(before), Some(held)) = (version.previous(), stream.commit(version).await?) else {
        return Ok(None);
    };
    let Some(before) = stream.commit(before).await? else { return Ok(None) };
    let (held, before) = (held.record.contents.state, before.record.contents.state);
    let directory = ReplicaDir::lock(work, delta::Durability::None).await?;
    let (options, work): (ReportOptions, PathBuf) = (options.clone(), work.to_owned());
    let apply = options.apply.clone().with_leaf_hash(stream.record().leaf_hash);
    blocking(move || {
        let checkpoint = Checkpoint::open(&work, &apply.limits)?;
        let state = State::of(&checkpoint)?;
        let total = checkpoint.schema().state_bytes();
        options.observer.start(Phase::Check, total);
        let advance = options.observer.steer(Phase::Check);
        let progress = Progress::stoppable(&advance);
        if is_empty || held == before {
            let same = ChangedTensors::between(Some(state.clone()), state, &apply);
            return Ok(Some(same.by_layer(progress)?));
        }
        let path = directory.inverse();
        let Ok(patch) = update::open(&path, held, (version, before), &apply) else { return Ok(None) };
        let patches = [patch];
        let changed = ChangedTensors::by_patches(Some(state), &patches, &apply)?;
        Ok(Some(changed.by_layer(progress)?))
    })
    .await
}

/// Puts the layers of all steps into one list, and the steps into its order.
fn summarise(found: Vec<(Version, Option<Vec<LayerChange>>)>, report: &mut StreamReport) {
    let mut elements: BTreeMap<&str, u64> = BTreeMap::new();
    for layer in found.iter().filter_map(|(_, layers)| layers.as_ref()).flatten() {
        let known = elements.entry(&layer.name).or_default();
        *known = layer.elements.max(*known);
    }
    let mut names: Vec<&str> = elements.keys().copied().collect();
    names.sort_unstable_by(|a, b| compare_layers(a, b));
    let others = names.split_off(names.len().min(LAYERS));
    let places: BTreeMap<&str, usize> =
        names.iter().enumerate().map(|(place, name)| (*name, place)).collect();
    let elements_of = |name: &&str| elements.get(name).copied().unwrap_or_default();
    let mut layers: Vec<ReportLayer> = names
        .iter()
        .map(|name| ReportLayer { name: (*name).to_owned(), elements: elements_of(name) })
        .collect();
    if !others.is_empty() {
        let elements = others.iter().map(elements_of).fold(0, u64::saturating_add);
        layers.push(ReportLayer { name: OTHERS.into(), elements });
    }
    let step = |(version, changes): &(Version, Option<Vec<LayerChange>>)| {
        let mut steps = delta::Steps::default();
        let changed = changes.as_ref().map(|changes| {
            let mut changed = vec![0_u64; layers.len()];
            for layer in changes {
                let place = places.get(layer.name.as_str()).copied().unwrap_or(names.len());
                if let Some(known) = changed.get_mut(place) {
                    *known = known.saturating_add(layer.changed);
                }
                steps.add(&layer.steps);
            }
            changed
        });
        ReportStep { version: *version, changed, distances: steps.counts().to_vec() }
    };
    report.steps = found.iter().map(step).collect();
    report.layers = layers;
}
