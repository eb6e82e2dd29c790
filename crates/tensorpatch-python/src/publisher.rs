//! Publishers, and versions that are fed with tensors.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use pyo3::prelude::*;
use tensorpatch::delta::Others;
use tensorpatch::store::{AnchorPolicy, PublishOptions, TensorFeed};

use crate::errors::Failure;
use crate::job::{Job, Workers};
use crate::options::{Access, leaf_hash, profile, sign_key};
use crate::reports::Tip;
use crate::tensor::Tensor;
use crate::watch::Position;

/// What a publisher is opened with, besides its stream.
#[derive(Debug, FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Publishing {
    baseline: Option<PathBuf>,
    name: Option<String>,
    sign_key: Option<PathBuf>,
    profile: String,
    anchors: bool,
    anchor_every: Option<u64>,
    create: bool,
    single_writer: bool,
    leaf_hash: Option<String>,
}

impl Publishing {
    fn options(&self, access: &Access, workers: &Workers) -> Result<PublishOptions, Failure> {
        let anchors = match (self.anchors, self.anchor_every) {
            (true, None) => AnchorPolicy::default(),
            (true, Some(versions)) => AnchorPolicy::every(versions),
            (false, None) => AnchorPolicy::NEVER,
            (false, Some(_)) => return Err(Failure::refused("anchor_every, and anchors=False: which?")),
        };
        let options = PublishOptions::default()
            .with_diff(access.options()?.with_profile(profile(&self.profile)?))
            .with_anchors(anchors)
            .with_observer(workers.watch.observer());
        Ok(match &self.name {
            Some(name) => options.with_publisher(name),
            None => options,
        })
    }
}

/// Opens a publisher; `done` is called with it.
#[pyfunction]
pub(crate) fn open_publisher(access: Access, publishing: Publishing, done: Py<PyAny>) -> PyResult<Job> {
    let workers = Workers::start()?;
    let policy = access.policy()?;
    let options = publishing.options(&access, &workers)?;
    let mut builder = tensorpatch::Publisher::builder(&access.url)
        .policy(policy)
        .options(options)
        .trust_keys(access.trust_keys()?);
    if let Some(path) = &publishing.sign_key {
        builder = builder.sign_key(sign_key(path)?);
    }
    if let Some(baseline) = publishing.baseline {
        builder = builder.baseline(baseline);
    }
    if let Some(hash) = &publishing.leaf_hash {
        builder = builder.leaf_hash(leaf_hash(hash)?);
    }
    if publishing.single_writer {
        builder = builder.single_writer();
    }
    if !publishing.create {
        builder = builder.existing();
    }
    let owner = workers.clone();
    let opened = async move { Ok(builder.open().await?) };
    Ok(workers.submit(done, opened, |py, publisher| {
        Ok(Py::new(py, Publisher { workers: owner, publisher })?.into_any())
    })?)
}

/// A publisher that is open.
#[pyclass(frozen, module = "tensorpatch._native")]
#[derive(Debug)]
pub(crate) struct Publisher {
    pub(crate) workers: Workers,
    pub(crate) publisher: tensorpatch::Publisher,
}

#[pymethods]
impl Publisher {
    /// The directory of the baseline.
    #[getter]
    fn baseline(&self) -> PathBuf {
        self.publisher.baseline().to_owned()
    }

    /// The id of the stream.
    #[getter]
    fn stream(&self) -> String {
        self.publisher.stream().id().to_string()
    }

    /// The phase at work, the bytes done and the bytes to do.
    fn position(&self) -> Option<Position> {
        self.workers.watch.position()
    }

    fn publish(&self, checkpoint: PathBuf, label: Option<String>, done: Py<PyAny>) -> PyResult<Job> {
        let publisher = self.publisher.clone();
        let work = async move { Ok(publisher.publish_labelled(checkpoint, label.as_deref()).await?) };
        Ok(self.workers.submit_json(done, work)?)
    }

    /// Begins a version; `done` is called with its feed.
    fn feed(&self, label: Option<String>, kept: bool, done: Py<PyAny>) -> PyResult<Job> {
        let (publisher, workers) = (self.publisher.clone(), self.workers.clone());
        let others = if kept { Others::Kept } else { Others::Refused };
        let work = async move { Ok(publisher.feed(label.as_deref()).await?.with_others(others)) };
        Ok(self.workers.submit(done, work, |py, feed| {
            Ok(Py::new(py, Feed { workers, feed: Mutex::new(Some(feed)) })?.into_any())
        })?)
    }

    fn catch_up(&self, done: Py<PyAny>) -> PyResult<Job> {
        let publisher = self.publisher.clone();
        Ok(self.workers.submit_json(done, async move { Ok(publisher.catch_up().await?) })?)
    }

    fn latest(&self, done: Py<PyAny>) -> PyResult<Job> {
        let publisher = self.publisher.clone();
        let work = async move { Ok(publisher.stream().tip().await?.as_ref().map(Tip::of)) };
        Ok(self.workers.submit_json(done, work)?)
    }
}

/// The next version, fed with tensors one at a time.
#[pyclass(frozen, module = "tensorpatch._native")]
#[derive(Debug)]
pub(crate) struct Feed {
    workers: Workers,
    feed: Mutex<Option<TensorFeed>>,
}

impl Feed {
    fn with(&self, work: impl FnOnce(&mut TensorFeed) -> Result<(), Failure>) -> Result<(), Failure> {
        let mut feed = self.feed.lock().unwrap_or_else(PoisonError::into_inner);
        work(feed.as_mut().ok_or_else(ended)?)
    }

    fn take(&self) -> Option<TensorFeed> {
        self.feed.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

fn ended() -> Failure {
    Failure::refused("the version was ended before")
}

#[pymethods]
impl Feed {
    fn add(&self, py: Python<'_>, name: &str, tensor: &Bound<'_, PyAny>) -> PyResult<()> {
        py.check_signals()?;
        let tensor = Tensor::of(name, tensor)?;
        Ok(py.detach(|| self.with(|feed| Ok(feed.add(name, &&tensor)?)))?)
    }

    fn add_changes(
        &self,
        py: Python<'_>,
        name: &str,
        indices: &Bound<'_, PyAny>,
        values: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        py.check_signals()?;
        let (positions, values) = (Tensor::of(name, indices)?.positions()?, Tensor::of(name, values)?);
        Ok(py.detach(|| self.with(|feed| Ok(feed.add_changed_values(name, &positions, &&values)?)))?)
    }

    fn add_companion(&self, py: Python<'_>, name: &str, bytes: &[u8]) -> PyResult<()> {
        Ok(py.detach(|| self.with(|feed| Ok(feed.add_companion(name, bytes)?)))?)
    }

    fn add_companion_file(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        Ok(py.detach(|| self.with(|feed| Ok(feed.add_companion_file(path)?)))?)
    }

    /// Gives the version up.
    fn abandon(&self, py: Python<'_>) {
        py.detach(|| drop(self.take()));
    }

    fn finish(&self, done: Py<PyAny>) -> PyResult<Job> {
        let feed = self.take().ok_or_else(ended)?;
        Ok(self.workers.submit_json(done, async move { Ok(feed.finish().await?) })?)
    }
}
