//! Replicas, and versions that they have prepared.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, TryLockError};
use std::time::Duration;

use pyo3::prelude::*;
use tensorpatch::store::{ApplyMode, Follow, Prepared as Ready, ReplicaOptions, Target, Verify, Version};
use tokio::sync::Mutex as AsyncMutex;

use crate::errors::Failure;
use crate::job::{Job, Workers};
use crate::options::{Access, durability};
use crate::reports::{Held, latest, versions};
use crate::watch::Position;

/// What a replica is opened with, besides its stream.
#[derive(Debug, FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Following {
    directory: PathBuf,
    mode: String,
    durability: String,
    inverse: bool,
    replace: bool,
    allow_code: bool,
    verify: Option<bool>,
    lease: Option<String>,
    poll: Option<f64>,
}

/// Opens a replica; `done` is called with it.
#[pyfunction]
pub(crate) fn open_replica(access: Access, following: Following, done: Py<PyAny>) -> PyResult<Job> {
    let workers = Workers::start()?;
    let mode = match following.mode.as_str() {
        "in_place" => ApplyMode::InPlace,
        "beside" => ApplyMode::Beside,
        other => {
            let what = format!("mode={other:?}: it is \"in_place\" or \"beside\"");
            return Err(Failure::refused(what).into());
        }
    };
    let mut options = ReplicaOptions::default()
        .with_apply(access.options()?)
        .with_durability(durability(&following.durability)?)
        .with_mode(mode)
        .with_verify(match following.verify {
            None => Verify::WhereTrusted,
            Some(true) => Verify::Always,
            Some(false) => Verify::Never,
        })
        .with_observer(workers.watch.observer());
    if !following.inverse {
        options = options.without_inverse();
    }
    if following.replace {
        options = options.replacing();
    }
    if following.allow_code {
        options = options.allowing_code();
    }
    if let Some(holder) = &following.lease {
        options = options.with_lease(holder);
    }
    let mut policy = access.policy()?;
    if let Some(seconds) = following.poll {
        let poll = Duration::try_from_secs_f64(seconds);
        policy.following.poll = poll.map_err(|error| Failure::refused(format!("poll={seconds}: {error}")))?;
    }
    let mut builder = tensorpatch::Replica::builder(&access.url, following.directory)
        .policy(policy)
        .options(options)
        .trust_keys(access.trust_keys()?);
    if let Some(id) = access.stream()? {
        builder = builder.stream(id);
    }
    if let Some(version) = access.expect_tip()? {
        builder = builder.expect_tip(version);
    }
    let owner = workers.clone();
    let opened = async move { Ok(builder.open().await?) };
    Ok(workers.submit(done, opened, |py, replica| {
        Ok(Py::new(py, Replica { workers: owner, replica })?.into_any())
    })?)
}

/// A replica that is open.
#[pyclass(frozen, module = "tensorpatch._native")]
#[derive(Debug)]
pub(crate) struct Replica {
    workers: Workers,
    replica: tensorpatch::Replica,
}

fn version(number: u64) -> Result<Version, Failure> {
    Version::new(number).ok_or_else(|| Failure::refused(format!("{number} is no version: they start at 1")))
}

#[pymethods]
impl Replica {
    /// The id of the stream.
    #[getter]
    fn stream(&self) -> String {
        self.replica.stream().id().to_string()
    }

    /// The phase at work, the bytes done and the bytes to do.
    fn position(&self) -> Option<Position> {
        self.workers.watch.position()
    }

    fn latest(&self, done: Py<PyAny>) -> PyResult<Job> {
        let replica = self.replica.clone();
        Ok(self.workers.submit_json(done, async move { Ok(latest(replica.stream()).await?) })?)
    }

    fn versions(&self, done: Py<PyAny>) -> PyResult<Job> {
        let replica = self.replica.clone();
        Ok(self.workers.submit_json(done, async move { Ok(versions(replica.stream()).await?) })?)
    }

    fn held(&self, done: Py<PyAny>) -> PyResult<Job> {
        let replica = self.replica.clone();
        Ok(self.workers.submit_json(done, async move { Ok(replica.held().await?.map(Held::of)) })?)
    }

    /// Reads every byte, and reports what is not as it was published.
    fn verify(&self, done: Py<PyAny>) -> PyResult<Job> {
        let replica = self.replica.clone();
        Ok(self.workers.submit_json(done, async move { Ok(replica.verify().await?) })?)
    }

    fn pull(&self, number: Option<u64>, done: Py<PyAny>) -> PyResult<Job> {
        let (replica, wanted) = (self.replica.clone(), number.map(version).transpose()?);
        let work = async move {
            Ok(match wanted {
                None => replica.pull().await?,
                Some(version) => replica.pull_version(version).await?,
            })
        };
        Ok(self.workers.submit_json(done, work)?)
    }

    /// Prepares a version; `done` is called with it.
    fn prepare(&self, number: Option<u64>, done: Py<PyAny>) -> PyResult<Job> {
        let (replica, wanted) = (self.replica.clone(), number.map(version).transpose()?);
        let work = async move { Ok(replica.prepare(wanted.map_or(Target::Latest, Target::Version)).await?) };
        Ok(self.workers.submit(done, work, |py, ready| Ok(Py::new(py, Prepared::of(ready))?.into_any()))?)
    }

    fn activate(&self, prepared: &Prepared, done: Py<PyAny>) -> PyResult<Job> {
        let (replica, ready) = (self.replica.clone(), prepared.take()?);
        Ok(self.workers.submit_json(done, async move { Ok(replica.activate(ready).await?) })?)
    }

    /// Gives up the lease.
    fn release(&self, done: Py<PyAny>) -> PyResult<Job> {
        let replica = self.replica.clone();
        Ok(self.workers.submit_json(done, async move { Ok(replica.release().await?) })?)
    }

    fn follow(&self) -> Versions {
        let versions = Arc::new(AsyncMutex::new(self.replica.follow()));
        Versions { workers: self.workers.clone(), versions }
    }
}

/// The versions that a replica comes to hold.
#[pyclass(frozen, module = "tensorpatch._native")]
#[derive(Debug)]
pub(crate) struct Versions {
    workers: Workers,
    versions: Arc<AsyncMutex<Follow>>,
}

#[pymethods]
impl Versions {
    /// Waits for the next one. A call that is cancelled loses none.
    fn next(&self, done: Py<PyAny>) -> PyResult<Job> {
        let versions = Arc::clone(&self.versions);
        let work = async move { Ok(versions.lock().await.next().await?) };
        Ok(self.workers.submit_json(done, work)?)
    }
}

/// A version that is downloaded and verified, and keeps the replica's directory locked.
#[pyclass(frozen, module = "tensorpatch._native")]
#[derive(Debug)]
pub(crate) struct Prepared {
    version: u64,
    digest: String,
    needed: bool,
    base_version: Option<u64>,
    plan_bytes: u64,
    downloaded_bytes: u64,
    /// Shared with the thread that finds out what it changes.
    pub(crate) ready: Arc<Mutex<Option<Ready>>>,
}

impl Prepared {
    fn of(ready: Ready) -> Self {
        Self {
            version: ready.version().get(),
            digest: ready.state().to_string(),
            needed: ready.is_needed(),
            base_version: ready.report().from.map(Version::get),
            plan_bytes: ready.report().plan_bytes,
            downloaded_bytes: ready.report().downloaded_bytes,
            ready: Arc::new(Mutex::new(Some(ready))),
        }
    }

    fn take(&self) -> Result<Ready, Failure> {
        let mut ready = match self.ready.try_lock() {
            Ok(ready) => ready,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                let what = "its patches are still being read: take them all, or close them, before";
                return Err(Failure::refused(what));
            }
        };
        ready.take().ok_or_else(|| Failure::refused("this version was activated or closed before"))
    }
}

#[pymethods]
impl Prepared {
    #[getter]
    fn version(&self) -> u64 {
        self.version
    }

    #[getter]
    fn digest(&self) -> &str {
        &self.digest
    }

    #[getter]
    fn needed(&self) -> bool {
        self.needed
    }

    #[getter]
    fn base_version(&self) -> Option<u64> {
        self.base_version
    }

    #[getter]
    fn plan_bytes(&self) -> u64 {
        self.plan_bytes
    }

    #[getter]
    fn downloaded_bytes(&self) -> u64 {
        self.downloaded_bytes
    }

    /// Lets go of the directory without activating.
    fn close(&self, py: Python<'_>) {
        py.detach(|| drop(self.take()));
    }
}
