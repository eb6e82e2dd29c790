//! Checking a stream: every record, link, object and digest.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use tensorpatch_stream::record::MAX_RECORD_BYTES;
use tensorpatch_stream::retention::Listed;
use tensorpatch_stream::sign::signed_by;
use tensorpatch_stream::{
    Commit, CommitRecord, EdgeRecord, History, JsonRecord, Key, ObjectRef, StreamId, Version, end_of_run,
    names,
};

use crate::bucket::buffered_all;
use crate::error::StoreError;
use crate::observe::{Observer, Phase};
use crate::stream::Stream;
use crate::stream::budget::Budget;
use crate::upkeep::wanted::{Wanted, wanted};

/// Runs of versions whose objects are looked at, from the newest on. Each lists the edges, and only a hostile
/// store has lost records in more places.
const MOST_RUNS: usize = 64;

/// What is said of an object that is not there.
const NOT_THERE: &str = "it is not in the store";

/// Choices for a check.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CheckOptions {
    /// Whether every object is read and hashed, and not only asked for its size.
    pub deep: bool,
    /// Who is told of progress.
    pub observer: Observer,
}

impl Default for CheckOptions {
    /// A deep check.
    fn default() -> Self {
        Self { deep: true, observer: Observer::default() }
    }
}

impl CheckOptions {
    /// Asks for the size of each object only.
    #[must_use]
    pub fn shallow(mut self) -> Self {
        self.deep = false;
        self
    }

    /// Tells `observer` of progress.
    #[must_use]
    pub fn with_observer(mut self, observer: Observer) -> Self {
        self.observer = observer;
        self
    }
}

/// Whether signatures were looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Default)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Signatures {
    /// The stream has none.
    #[default]
    None,
    /// Nobody has said whose count: a record is only known to carry one, by whichever key.
    Unchecked,
    /// Every record was read with the keys that count.
    Checked,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
#[non_exhaustive]
pub struct Checked {
    /// The newest version; if its record is damaged, the newest that can be read.
    pub tip: Option<Version>,
    /// The version below which a collector may have deleted objects.
    pub pruned_below: Option<Version>,
    /// Objects of versions below it that are gone, and are no problem for that: nobody signs the record which
    /// says so.
    pub excused: u64,
    /// Objects that records name and that were looked at.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Whether the objects were read and hashed, and not only asked for their size.
    pub deep: bool,
    /// Whether signatures were looked at.
    pub signatures: Signatures,
    /// Versions that cannot be reached from nothing, without those that a collector took.
    pub unreachable: Vec<Version>,
    /// Whether the newest record is damaged.
    #[serde(skip)]
    cut_short: bool,
    /// Whether a record is not signed by a trusted key.
    #[serde(skip)]
    untrusted: bool,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// Objects that no record names; a collector removes them when it is safe.
    pub abandoned: Vec<String>,
}

impl Checked {
    /// Whether every version that should be reachable is, and nothing is damaged.
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty() && self.unreachable.is_empty()
    }

    /// Whether a record is there that no trusted key has signed.
    pub fn has_untrusted(&self) -> bool {
        self.untrusted
    }

    /// Whether the newest record is damaged, and perhaps others before it: nothing can be added then.
    pub fn is_cut_short(&self) -> bool {
        self.cut_short
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Problem {
    /// The object.
    pub name: String,
    /// What is wrong with it.
    pub what: String,
}

impl Problem {
    /// What an error about a stream is about; one that is about reaching the store goes on up.
    pub(super) fn of(error: StoreError) -> Result<Self, StoreError> {
        let (name, what) = match error {
            StoreError::Missing { name } => (name, NOT_THERE.into()),
            StoreError::Damaged { name, what } | StoreError::Untrusted { name, what } => (name, what),
            StoreError::Record { name, source } => (name, source.to_string()),
            error => return Err(error),
        };
        Ok(Self { name, what })
    }
}

/// Checks every record, link and object of a stream.
///
/// # Errors
/// Only if the store fails. What is wrong with the stream is in the report.
///
/// # Cancel safety
/// The future may be dropped at any time; it only reads.
pub async fn check(stream: &Stream, options: &CheckOptions) -> Result<Checked, StoreError> {
    let signatures = match (stream.is_signed(), stream.trusts_keys()) {
        (_, true) => Signatures::Checked,
        (true, false) => Signatures::Unchecked,
        (false, false) => Signatures::None,
    };
    let mut report = Checked { deep: options.deep, signatures, ..Checked::default() };
    // The newest that can be read, and the newest that there is.
    let (tip, top) = match stream.tip().await {
        Ok(tip) => {
            let top = tip.as_ref().map(|tip| tip.record.version);
            (tip, top)
        }
        Err(error) => {
            report.cut_short = matches!(error, StoreError::Damaged { .. } | StoreError::Record { .. });
            if let Some(owner) = stream_of_records(stream).await? {
                let what =
                    format!("it is of the stream {}, and the commit records are of {owner}", stream.id());
                report.problems.push(Problem { name: names::STREAM.into(), what });
                return Ok(report);
            }
            report.problem(error)?;
            newest_readable(stream, &mut report).await?
        }
    };
    report.pruned_below = stream.pruned().await?;
    report.tip = tip.as_ref().map(|tip| tip.record.version);
    let listed = stream.data_objects().await?;
    check_above(stream, top, &listed, &mut report).await?;
    let Some(tip) = tip else {
        report.abandoned = listed.keys().map(Key::to_string).collect();
        return Ok(report);
    };
    let budget = Budget::of(stream);
    let commits = readable_commits(stream, tip.record.version, &budget, &mut report).await?;
    if signatures == Signatures::Unchecked {
        for commit in commits.iter().filter(|commit| commit.signer.is_none()) {
            report.unsigned(names::commit(commit.record.version));
        }
    }
    check_edges(stream, &mut report).await?;
    let mut histories = Vec::new();
    for run in runs(commits).into_iter().rev().take(MOST_RUNS) {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
        let edges = stream.edges(first.record.version, last.record.version, &budget).await?;
        match History::new(run, edges) {
            Ok(history) => histories.push(history),
            Err(error) => {
                report.problems.push(Problem { name: names::COMMITS.into(), what: error.to_string() });
                return Ok(report);
            }
        }
    }
    settle_floor(&histories, &listed, &mut report);
    report.excuse_lost_records();
    let wanted: Vec<Wanted> = histories.iter().flat_map(wanted).collect();
    let bad = check_objects(stream, &wanted, &listed, options, &mut report).await?;
    let floor = report.pruned_below.unwrap_or(Version::FIRST);
    for history in &histories {
        let reachable = history.reachable(&bad);
        // Below the floor a missing object is no damage, so neither is a version that cannot be reached.
        let versions =
            history.commits().map(|commit| commit.record.version).filter(|version| *version >= floor);
        report.unreachable.extend(versions.filter(|version| !reachable.contains(version)));
    }
    report.unreachable.sort_unstable();
    let above = stream.listed_commits(Some(&tip)).await?;
    let top = top.unwrap_or(tip.record.version);
    let above: Vec<Version> = above.into_iter().filter(|version| *version > top).collect();
    if let Some(lowest) = above.iter().min() {
        let what = format!(
            "no record leads from version {top} to it: records above that version, {} of them, are no versions",
            above.len()
        );
        report.problems.push(Problem { name: names::commit(*lowest), what });
    }
    // What the records that are lost name is not known.
    if let [_] = histories.as_slice() {
        let names: BTreeSet<&Key> = wanted.iter().map(|wanted| &wanted.object.key).collect();
        // What has no version in its name was not put there by this protocol.
        let is_abandoned = |key: &&Key| !names.contains(*key) && key.version().is_some();
        report.abandoned = listed.keys().filter(is_abandoned).map(Key::to_string).collect();
    }
    Ok(report)
}

/// The other stream of which the newest commit record is, and the oldest: then it is `stream.json` that is
/// not of this place.
async fn stream_of_records(stream: &Stream) -> Result<Option<StreamId>, StoreError> {
    let versions = stream.listed_commits(None).await?;
    let mut owners = BTreeSet::new();
    for version in versions.iter().min().into_iter().chain(versions.iter().max()) {
        let bytes = stream.bucket().get_small(&names::commit(*version), MAX_RECORD_BYTES).await?;
        owners.insert(bytes.and_then(|bytes| CommitRecord::parse(&bytes).ok()).map(|record| record.stream));
    }
    Ok(match owners.pop_first().flatten() {
        Some(owner) if owners.is_empty() && owner != stream.id() => Some(owner),
        _ => None,
    })
}

/// The newest version whose record can be read, and the newest that there is a record of: what is wrong with
/// those between is written down.
async fn newest_readable(
    stream: &Stream,
    report: &mut Checked,
) -> Result<(Option<Commit>, Option<Version>), StoreError> {
    let top = end_of_run(None, stream.listed_from_newest().await?);
    let mut version = top;
    while let Some(number) = version {
        match stream.commit(number).await {
            Ok(Some(commit)) => return Ok((Some(commit), top)),
            Ok(None) => {}
            Err(error) => report.problem(error)?,
        }
        version = number.previous();
    }
    Ok((None, top))
}

/// The commits in runs of versions that follow each other: one, if no record is lost between them.
pub(super) fn runs(commits: Vec<Commit>) -> Vec<Vec<Commit>> {
    let mut runs: Vec<Vec<Commit>> = Vec::new();
    for commit in commits {
        let before = runs.last().and_then(|run| run.last()).and_then(|last| last.record.version.next());
        match runs.last_mut() {
            Some(run) if before == Some(commit.record.version) => run.push(commit),
            _ => runs.push(vec![commit]),
        }
    }
    runs
}

/// Finds signs of versions above the newest commit: then its record, or those after it, are gone.
async fn check_above(
    stream: &Stream,
    tip: Option<Version>,
    listed: &BTreeMap<Key, Listed>,
    report: &mut Checked,
) -> Result<(), StoreError> {
    let newest = tip.map_or("there is none".to_owned(), |tip| format!("the newest is {tip}"));
    let is_above = |version: &Version| tip.is_none_or(|tip| *version > tip);
    if let Some(hinted) = stream.hinted().await?.filter(is_above) {
        let what = format!(
            "it names version {hinted}, but of the commits {newest}: records are gone; if none are, the next publish \
             writes it anew"
        );
        report.problems.push(Problem { name: names::LATEST.into(), what });
    }
    if let Some(floor) = report.pruned_below.filter(is_above) {
        let what = format!("it names version {floor}, but of the commits {newest}: records are gone");
        report.problems.push(Problem { name: names::PRUNED.into(), what });
    }
    // One version above the tip may be under way; anchors and folds are made of versions that exist.
    let next = tip.map_or(Some(Version::FIRST), Version::next);
    let made = listed.keys().filter(|key| names::is_made(key)).filter(|key| {
        let version = key.version().filter(is_above);
        let after = matches!(key.folder(), "anchors" | "folds") && version != Some(Version::FIRST);
        version.is_some_and(|version| after || next.is_some_and(|next| version > next))
    });
    if let Some(key) = made.max_by_key(|key| key.version()) {
        let what = format!("it is of a version above the commits, of which {newest}: records are gone");
        report.problems.push(Problem { name: key.to_string(), what });
    }
    Ok(())
}

/// Believes a pruning record, which nobody signs, only if an anchor of its floor is whole, as every collector
/// leaves one. Another excuses nothing.
fn settle_floor(histories: &[History], listed: &BTreeMap<Key, Listed>, report: &mut Checked) {
    let Some(floor) = report.pruned_below else { return };
    let is_there =
        |object: &ObjectRef| listed.get(&object.key).is_some_and(|listed| listed.bytes == object.bytes);
    let mut anchors = histories.iter().flat_map(History::anchors).filter(|edge| edge.target.version == floor);
    if !anchors.any(|edge| edge.all_objects().into_iter().all(is_there)) {
        report.pruned_below = None;
        let what = format!("it names version {floor}, of which there is no whole anchor: it excuses nothing");
        report.problems.push(Problem { name: names::PRUNED.into(), what });
    }
}

async fn readable_commits(
    stream: &Stream,
    tip: Version,
    budget: &Budget,
    report: &mut Checked,
) -> Result<Vec<Commit>, StoreError> {
    let mut commits = Vec::new();
    for (_, found) in stream.each_commit(tip, budget).await? {
        match found {
            Ok(commit) => commits.push(commit),
            Err(error) => report.problem(error)?,
        }
    }
    Ok(commits)
}

async fn check_edges(stream: &Stream, report: &mut Checked) -> Result<(), StoreError> {
    for object in stream.all_edges().await? {
        // Other names are those of strays.
        if names::edge_ends(&object.name).is_none() {
            continue;
        }
        match stream.edge(&object.name).await {
            Err(error) => report.problem(error)?,
            Ok(_) if report.signatures != Signatures::Unchecked => {}
            Ok(_) => {
                let name = format!("{}/{}", names::EDGES, object.name);
                let bytes = stream.bucket().get_small(&name, MAX_RECORD_BYTES).await?;
                if bytes.is_some_and(|bytes| signed_by(EdgeRecord::FORMAT, &bytes).is_none()) {
                    report.unsigned(name);
                }
            }
        }
    }
    Ok(())
}

/// Looks at every object that a record names, and returns those that cannot be used.
async fn check_objects(
    stream: &Stream,
    wanted: &[Wanted],
    listed: &BTreeMap<Key, Listed>,
    options: &CheckOptions,
    report: &mut Checked,
) -> Result<BTreeSet<ObjectRef>, StoreError> {
    let bytes = wanted.iter().fold(0_u64, |sum, wanted| sum.saturating_add(wanted.object.bytes));
    let CheckOptions { deep, observer } = options;
    if *deep {
        observer.start(Phase::Download, bytes);
    }
    let policy = stream.policy();
    let at_once =
        if *deep { policy.transfers.parallel_downloads } else { policy.transfers.parallel_requests };
    let results = buffered_all(wanted, at_once, |wanted| async move {
        let object = &wanted.object;
        let result = if *deep {
            stream.bucket().check_contents(object, observer).await.and_then(|ends| wanted.check(&ends))
        } else if listed.get(&object.key).is_some_and(|listed| listed.bytes == object.bytes) {
            Ok(())
        } else {
            stream.bucket().check_there(object).await
        };
        match result {
            Err(error @ (StoreError::Object { .. } | StoreError::Cancelled(_))) => Err(error),
            result => Ok((object, wanted.version, result)),
        }
    })
    .await?;
    let floor = report.pruned_below.unwrap_or(Version::FIRST);
    let mut bad = BTreeSet::new();
    for (object, version, result) in results {
        match result {
            Ok(()) => {
                report.objects = report.objects.saturating_add(1);
                report.bytes = report.bytes.saturating_add(object.bytes);
            }
            Err(error) => {
                bad.insert(object.clone());
                if matches!(error, StoreError::Missing { .. }) && version < floor {
                    report.excused = report.excused.saturating_add(1);
                } else {
                    report.problem(error)?;
                }
            }
        }
    }
    Ok(bad)
}

impl Checked {
    /// Writes down an error that is about the stream; one that is about reaching the store goes on up.
    fn problem(&mut self, error: StoreError) -> Result<(), StoreError> {
        self.untrusted |= matches!(error, StoreError::Untrusted { .. });
        let problem = Problem::of(error)?;
        // The newest record is met twice.
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
        Ok(())
    }

    /// Nobody needs a record below the floor any more: that one is lost is no problem then.
    fn excuse_lost_records(&mut self) {
        let Some(floor) = self.pruned_below else { return };
        let before = self.problems.len();
        self.problems.retain(|problem| {
            let version = commit_version(&problem.name);
            problem.what != NOT_THERE || version.is_none_or(|version| version >= floor)
        });
        self.excused = self.excused.saturating_add(before.saturating_sub(self.problems.len()) as u64);
    }

    /// Writes down a record that whoever trusts the key of the stream refuses.
    fn unsigned(&mut self, name: String) {
        let what = "the stream is signed, and this record is not: whoever trusts its key refuses it".into();
        self.problems.push(Problem { name, what });
    }
}

/// The version of a commit record, by its name.
fn commit_version(name: &str) -> Option<Version> {
    names::commit_version(name.strip_prefix(names::COMMITS)?.strip_prefix('/')?)
}
