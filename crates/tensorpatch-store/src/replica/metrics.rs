//! Counting what a follower does, for whoever watches it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tensorpatch_stream::Version;

use super::pulled::{Pulled, Took, as_seconds};
use crate::observe::{Event, Observer, Phase};

/// Counters of a follower. Clones count together.
///
/// ```no_run
/// # async fn example(stream: tensorpatch_store::Stream) -> Result<(), tensorpatch_store::StoreError> {
/// use tensorpatch_store::{FollowMetrics, Replica, ReplicaOptions};
///
/// let metrics = FollowMetrics::default();
/// let options = ReplicaOptions::default().with_observer(metrics.observer());
/// let replica = Replica::of(stream, "replica", options);
/// let mut versions = replica.follow();
/// while let Some(pulled) = versions.next().await? {
///     metrics.pulled(&pulled);
///     println!("{:?}", metrics.counts());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct FollowMetrics(Arc<Mutex<FollowCounts>>);

/// What a follower has done so far. Times are seconds since 1970 by this machine's clock.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[non_exhaustive]
pub struct FollowCounts {
    /// The version that is held.
    pub version: Option<Version>,
    /// The newest version that was found.
    pub newest: Option<Version>,
    /// When it was brought into place.
    pub updated: Option<f64>,
    /// When the stream last answered.
    pub answered: Option<f64>,
    /// Since when the store fails, if it has not answered since.
    pub failing_since: Option<f64>,
    /// Whether the stream was gone when it was looked for last.
    pub gone: bool,
    /// Times that the stream was asked and answered.
    pub polls: u64,
    /// Times that the store failed in a way that may pass, by the [name](crate::Cause::name) of the cause,
    /// or that the stream was gone ([`FollowMetrics::GONE`]).
    pub failures: BTreeMap<&'static str, u64>,
    /// Versions that were brought into place, that of the start included.
    pub updates: u64,
    /// Versions that were stepped over since others were newer.
    pub skipped: u64,
    /// Whole checkpoints that were taken, and the bytes of their objects.
    pub anchors: EdgeCounts,
    /// Patches that were taken, and the bytes of their objects.
    pub deltas: EdgeCounts,
    /// What the versions took, all together.
    #[serde(flatten)]
    pub took: Took,
    /// What the caller took over them, such as for an engine to load them.
    #[serde(rename = "exec_seconds", serialize_with = "as_seconds")]
    pub exec: Duration,
    /// Bytes that were downloaded.
    pub downloaded_bytes: u64,
    /// Bytes of model that were written or compared.
    pub applied_bytes: u64,
}

/// Steps of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct EdgeCounts {
    /// How many.
    pub count: u64,
    /// Bytes of their objects, downloaded now or before.
    pub bytes: u64,
}

impl FollowCounts {
    /// How many versions the stream is ahead of what is held, as far as is known; `None` while nothing is
    /// held.
    pub fn behind(&self) -> Option<u64> {
        let newest = self.newest.map_or(0, Version::get);
        self.version.map(|held| newest.saturating_sub(held.get()))
    }
}

impl FollowMetrics {
    /// The name of the cause of a failure that is a stream which is gone.
    pub const GONE: &'static str = "gone";

    /// What is to be the replica's observer.
    pub fn observer(&self) -> Observer {
        let counts = self.clone();
        Observer::new(move |event| counts.take(event))
    }

    /// Counts an event of an observer, for those who have one of their own.
    pub fn take(&self, event: Event) {
        let mut counts = self.lock();
        match event {
            Event::Answered => {
                counts.polls = counts.polls.saturating_add(1);
                counts.answered = Some(now());
                counts.failing_since = None;
                counts.gone = false;
            }
            Event::StreamGone => {
                counts.gone = true;
                let failures = counts.failures.entry(Self::GONE).or_default();
                *failures = failures.saturating_add(1);
            }
            Event::Newest(version) => counts.newest = Some(version),
            Event::StoreFailed(cause) => {
                let failures = counts.failures.entry(cause.name()).or_default();
                *failures = failures.saturating_add(1);
                counts.failing_since.get_or_insert_with(now);
            }
            Event::Advanced(Phase::Download, bytes) => {
                counts.downloaded_bytes = counts.downloaded_bytes.saturating_add(bytes);
            }
            Event::Advanced(Phase::Apply, bytes) => {
                counts.applied_bytes = counts.applied_bytes.saturating_add(bytes);
            }
            Event::Started(..) | Event::Advanced(..) => {}
        }
    }

    /// Counts a version that is held now.
    pub fn pulled(&self, pulled: &Pulled) {
        let mut counts = self.lock();
        let stepped =
            pulled.from.map_or(0, |from| pulled.to.get().saturating_sub(from.get()).saturating_sub(1));
        counts.version = Some(pulled.to);
        counts.updated = Some(now());
        counts.updates = counts.updates.saturating_add(1);
        counts.skipped = counts.skipped.saturating_add(stepped);
        for edge in &pulled.edges {
            let edges = if edge.anchor { &mut counts.anchors } else { &mut counts.deltas };
            edges.count = edges.count.saturating_add(1);
            edges.bytes = edges.bytes.saturating_add(edge.bytes);
        }
        let (took, more) = (&mut counts.took, &pulled.took);
        took.fetch = took.fetch.saturating_add(more.fetch);
        took.stage = took.stage.saturating_add(more.stage);
        took.activate = took.activate.saturating_add(more.activate);
    }

    /// Counts the time that the caller took over a version, such as for an engine to load it.
    pub fn executed(&self, took: Duration) {
        let mut counts = self.lock();
        counts.exec = counts.exec.saturating_add(took);
    }

    /// The counts so far.
    pub fn counts(&self) -> FollowCounts {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, FollowCounts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
