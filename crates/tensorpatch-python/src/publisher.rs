//! Publishers, and versions that are fed with tensors.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::prelude::*;
use tensorpatch::StoreError;
use tensorpatch::delta::Others;
use tensorpatch::store::ranks::{self, RankFeed, RankPublisher};
use tensorpatch::store::{
    AnchorPolicy, Nonce, ObjectDigest, PublishOptions, Rank, Receipt, Stream, TensorFeed, signed_tips_beside,
    upkeep::{self, RollbackOptions},
};
use tokio::sync::OnceCell;

use crate::errors::Failure;
use crate::job::{Job, Workers};
use crate::options::{Access, leaf_hash, profile, sign_key};
use crate::reports::{latest, versions};
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
    allow_unchanged: bool,
    carry: Vec<String>,
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
            .carrying(self.carry.iter().cloned())
            .with_observer(workers.watch.observer());
        let options = if self.allow_unchanged { options.allowing_unchanged() } else { options };
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
    let options = publishing.options(&access, &workers)?;
    let mut builder = tensorpatch::Publisher::builder(&access.url)
        .policy(access.policy()?)
        .trust_keys(access.trust_keys()?);
    if let Some(path) = &publishing.sign_key {
        builder = builder.sign_key(sign_key(path)?).signed_tips(signed_tips_beside(path));
    }
    if let Some(id) = access.stream()? {
        builder = builder.stream(id);
    }
    if let Some(version) = access.expect_tip()? {
        builder = builder.expect_tip(version);
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
    if let Some(baseline) = publishing.baseline {
        builder = builder.baseline(baseline);
    }
    let owner = workers.clone();
    let opened = async move { Ok(builder.open_stream().await?) };
    Ok(workers.submit(done, opened, |py, (stream, baseline)| {
        let lazy = Lazy { stream, baseline, options, publisher: OnceCell::new() };
        Ok(Py::new(py, Publisher { workers: owner, lazy: Arc::new(lazy) })?.into_any())
    })?)
}

/// A stream, and its publisher once there is something to publish that needs a baseline: ranks have each a
/// share of it, and none has the whole.
#[derive(Debug)]
struct Lazy {
    stream: Stream,
    baseline: PathBuf,
    options: PublishOptions,
    publisher: OnceCell<tensorpatch::Publisher>,
}

impl Lazy {
    /// The publisher, over its baseline or over `base`; then the baseline stays as it is.
    async fn publisher(&self, base: Option<PathBuf>) -> Result<tensorpatch::Publisher, StoreError> {
        let mut options = self.options.clone();
        options.base.clone_from(&base);
        let open = || tensorpatch::Publisher::on(self.stream.clone(), &self.baseline, options);
        Ok(self.publisher.get_or_try_init(open).await?.with_base(base))
    }

    /// Where ranks keep what they need, beside the baseline.
    fn ranks(&self) -> PathBuf {
        let mut name = self.baseline.file_name().unwrap_or_default().to_owned();
        name.push("-ranks");
        self.baseline.with_file_name(name)
    }

    fn rank(&self, rank: Rank) -> RankPublisher {
        let dir = self.ranks().join(format!("{}-of-{}", rank.index, rank.count));
        RankPublisher::new(self.stream.clone(), rank, dir, self.options.clone())
    }

    /// The nonce of an attempt that all ranks call by the same name.
    fn attempt(&self, name: &str) -> Result<Nonce, Failure> {
        let digest = ObjectDigest::of(format!("{}:{name}", self.stream.id()).as_bytes()).to_string();
        let nonce = digest.get(..32).and_then(|text| text.parse().ok());
        nonce.ok_or_else(|| Failure::refused("no nonce can be made of the attempt"))
    }
}

/// A publisher that is open.
#[pyclass(frozen, module = "tensorpatch._native")]
#[derive(Debug)]
pub(crate) struct Publisher {
    workers: Workers,
    lazy: Arc<Lazy>,
}

#[pymethods]
impl Publisher {
    /// The directory of the baseline.
    #[getter]
    fn baseline(&self) -> PathBuf {
        self.lazy.baseline.clone()
    }

    /// The id of the stream.
    #[getter]
    fn stream(&self) -> String {
        self.lazy.stream.id().to_string()
    }

    /// The phase at work, the bytes done and the bytes to do.
    fn position(&self) -> Option<Position> {
        self.workers.watch.position()
    }

    fn publish(
        &self,
        checkpoint: PathBuf,
        base: Option<PathBuf>,
        label: Option<String>,
        done: Py<PyAny>,
    ) -> PyResult<Job> {
        let lazy = Arc::clone(&self.lazy);
        let work = async move {
            let publisher = lazy.publisher(base).await?;
            Ok(publisher.publish_labelled(checkpoint, label.as_deref()).await?)
        };
        Ok(self.workers.submit_json(done, work)?)
    }

    /// Begins a version; `done` is called with its feed. `others` is what becomes of tensors that are not
    /// given: `refused`, `kept` or `removed`.
    fn feed(&self, label: Option<String>, others: &str, done: Py<PyAny>) -> PyResult<Job> {
        let (lazy, workers) = (Arc::clone(&self.lazy), self.workers.clone());
        let others = match others {
            "refused" => Others::Refused,
            "kept" => Others::Kept,
            "removed" => Others::Removed,
            other => return Err(Failure::refused(format!("others={other:?}")).into()),
        };
        let work = async move {
            let feed = lazy.publisher(None).await?.feed(label.as_deref()).await?;
            Ok(Sink::Version(Box::new(feed.with_others(others))))
        };
        Ok(self.workers.submit(done, work, |py, sink| Feed::begin(py, workers, sink))?)
    }

    /// Begins a rank's share of a version; `done` is called with its feed, which ends in a receipt.
    fn feed_rank(&self, share: Share, done: Py<PyAny>) -> PyResult<Job> {
        let (lazy, workers) = (Arc::clone(&self.lazy), self.workers.clone());
        let Share { rank, world_size, whole, kept, attempt } = share;
        if rank >= world_size {
            return Err(Failure::refused(format!("rank={rank} of world_size={world_size}")).into());
        }
        let others = if kept { Others::Kept } else { Others::Refused };
        let rank = Rank { index: rank, count: world_size };
        let attempt = lazy.attempt(&attempt)?;
        let work = async move {
            let publisher = lazy.rank(rank);
            let feed = if whole { publisher.feed_whole().await? } else { publisher.feed().await? };
            Ok(Sink::Rank(Box::new(feed), attempt, others))
        };
        Ok(self.workers.submit(done, work, |py, sink| Feed::begin(py, workers, sink))?)
    }

    /// Commits what ranks have uploaded, by their receipts.
    fn commit(&self, receipts: Vec<String>, label: Option<String>, done: Py<PyAny>) -> PyResult<Job> {
        let lazy = Arc::clone(&self.lazy);
        let parse = |(index, text): (usize, &String)| {
            serde_json::from_str(text)
                .map_err(|error| Failure::refused(format!("receipts[{index}] is no receipt: {error}")))
        };
        let receipts: Vec<Receipt> = receipts.iter().enumerate().map(parse).collect::<Result<_, _>>()?;
        let work = async move {
            let (work, label) = (lazy.ranks().join("committer"), label.as_deref());
            Ok(ranks::commit(&lazy.stream, &receipts, label, &work, &lazy.options).await?)
        };
        Ok(self.workers.submit_json(done, work)?)
    }

    fn catch_up(&self, done: Py<PyAny>) -> PyResult<Job> {
        let lazy = Arc::clone(&self.lazy);
        let work = async move { Ok(lazy.publisher(None).await?.catch_up().await?) };
        Ok(self.workers.submit_json(done, work)?)
    }

    /// Waits for the baseline, which follows in the background.
    fn settle(&self, done: Py<PyAny>) -> PyResult<Job> {
        let lazy = Arc::clone(&self.lazy);
        let work = async move {
            if let Some(publisher) = lazy.publisher.get() {
                publisher.settle().await;
            }
            Ok(())
        };
        Ok(self.workers.submit_json(done, work)?)
    }

    fn add_anchor(&self, again: bool, done: Py<PyAny>) -> PyResult<Job> {
        let lazy = Arc::clone(&self.lazy);
        let work = async move {
            let publisher = lazy.publisher(None).await?;
            Ok(match again {
                true => publisher.add_another_anchor().await?,
                false => publisher.add_anchor().await?,
            })
        };
        Ok(self.workers.submit_json(done, work)?)
    }

    /// Takes back the newest versions down to one that a trusted key has signed.
    fn roll_back(&self, force: bool, done: Py<PyAny>) -> PyResult<Job> {
        let lazy = Arc::clone(&self.lazy);
        let options = RollbackOptions::default();
        let options = if force { options.forced() } else { options };
        let work = async move { Ok(upkeep::roll_back_unsigned(&lazy.stream, &options).await?) };
        Ok(self.workers.submit_json(done, work)?)
    }

    fn latest(&self, done: Py<PyAny>) -> PyResult<Job> {
        let lazy = Arc::clone(&self.lazy);
        Ok(self.workers.submit_json(done, async move { Ok(latest(&lazy.stream).await?) })?)
    }

    fn versions(&self, done: Py<PyAny>) -> PyResult<Job> {
        let lazy = Arc::clone(&self.lazy);
        Ok(self.workers.submit_json(done, async move { Ok(versions(&lazy.stream).await?) })?)
    }
}

/// A rank's share of a version.
#[derive(Debug, FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Share {
    rank: u32,
    world_size: u32,
    whole: bool,
    kept: bool,
    attempt: String,
}

/// Where tensors go.
#[derive(Debug)]
enum Sink {
    Version(Box<TensorFeed>),
    Rank(Box<RankFeed>, Nonce, Others),
}

/// The next version, or a rank's share of it, fed with tensors one at a time.
#[pyclass(frozen, module = "tensorpatch._native")]
#[derive(Debug)]
pub(crate) struct Feed {
    workers: Workers,
    sink: Mutex<Option<Sink>>,
}

impl Feed {
    fn begin(py: Python<'_>, workers: Workers, sink: Sink) -> PyResult<Py<PyAny>> {
        Ok(Py::new(py, Self { workers, sink: Mutex::new(Some(sink)) })?.into_any())
    }

    fn with(&self, work: impl FnOnce(&mut Sink) -> Result<(), Failure>) -> Result<(), Failure> {
        let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        work(sink.as_mut().ok_or_else(ended)?)
    }

    fn take(&self) -> Option<Sink> {
        self.sink.lock().unwrap_or_else(PoisonError::into_inner).take()
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
        let added = py.detach(|| {
            self.with(|sink| {
                match sink {
                    Sink::Version(feed) => feed.add(name, &&tensor)?,
                    Sink::Rank(feed, ..) => feed.add(name, &&tensor)?,
                }
                Ok(())
            })
        });
        Ok(added?)
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
        let added = py.detach(|| {
            self.with(|sink| {
                match sink {
                    Sink::Version(feed) => feed.add_changed_values(name, &positions, &&values)?,
                    Sink::Rank(feed, ..) => feed.add_changed_values(name, &positions, &&values)?,
                }
                Ok(())
            })
        });
        Ok(added?)
    }

    fn add_companion(&self, py: Python<'_>, name: &str, bytes: &[u8]) -> PyResult<()> {
        let added = py.detach(|| {
            self.with(|sink| match sink {
                Sink::Version(feed) => Ok(feed.add_companion(name, bytes)?),
                Sink::Rank(..) => Err(Failure::refused("a rank's companions are files: give their paths")),
            })
        });
        Ok(added?)
    }

    fn add_companion_file(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        let added = py.detach(|| {
            self.with(|sink| {
                match sink {
                    Sink::Version(feed) => feed.add_companion_file(path)?,
                    Sink::Rank(feed, ..) => feed.add_companion_file(path),
                }
                Ok(())
            })
        });
        Ok(added?)
    }

    /// Gives the version up.
    fn abandon(&self, py: Python<'_>) {
        py.detach(|| drop(self.take()));
    }

    fn finish(&self, done: Py<PyAny>) -> PyResult<Job> {
        Ok(match self.take().ok_or_else(ended)? {
            Sink::Version(feed) => self.workers.submit_json(done, async move { Ok(feed.finish().await?) })?,
            Sink::Rank(feed, attempt, others) => {
                self.workers.submit_json(done, async move { Ok(feed.finish(attempt, others).await?) })?
            }
        })
    }
}
