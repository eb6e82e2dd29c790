//! Opening a publisher by the URL of its stream.

use std::path::PathBuf;

use tensorpatch_checkpoint::{Places, Role};
use tensorpatch_format::LeafHash;
use tensorpatch_stream::{SignKey, StreamId, TrustKey, Version};

use super::Publisher;
use super::options::PublishOptions;
use super::place::warn_of_another;
use super::survey::Survey;
use crate::bucket::url::directory;
use crate::error::StoreError;
use crate::local::{blocking, cache_dir};
use crate::replica::Replica;
use crate::replica::directory::check_no_replica;
use crate::replica::options::{ReplicaOptions, Verify};
use crate::settings::Policy;
use crate::stream::Stream;
use crate::stream::builder::StreamBuilder;

/// How a publisher is opened by the URL of its stream; made by [`Publisher::builder`].
#[derive(Debug, Clone)]
#[must_use]
pub struct PublisherBuilder {
    stream: StreamBuilder,
    baseline: Option<PathBuf>,
    options: PublishOptions,
    existing: bool,
    checkpoint: Option<PathBuf>,
}

/// A publisher of the stream that is opened so.
impl From<StreamBuilder> for PublisherBuilder {
    fn from(stream: StreamBuilder) -> Self {
        let options = PublishOptions::default();
        Self { stream, baseline: None, options, existing: false, checkpoint: None }
    }
}

impl PublisherBuilder {
    pub(super) fn new(url: String) -> Self {
        Stream::builder(url).into()
    }

    /// Sets the directory of the baseline [default: one for the stream in the user's cache, see
    /// [`cache_dir`]].
    pub fn baseline(mut self, dir: impl Into<PathBuf>) -> Self {
        self.baseline = Some(dir.into());
        self
    }

    /// Looks at the checkpoint that is to be published first, as [`Survey::of`] does, before a stream is
    /// created for it, and refuses a replica as the baseline, which would change with it.
    pub fn surveying(mut self, checkpoint: impl Into<PathBuf>) -> Self {
        self.checkpoint = Some(checkpoint.into());
        self
    }

    /// Sets the publisher's name, the patches, the anchors, and who is told of progress.
    pub fn options(mut self, options: PublishOptions) -> Self {
        self.options = options;
        self
    }

    /// Sets retries, timeouts and limits [default: [`Policy::from_env`]].
    pub fn policy(mut self, policy: Policy) -> Self {
        self.stream = self.stream.policy(policy);
        self
    }

    /// As [`StreamBuilder::sign_key`].
    pub fn sign_key(mut self, key: SignKey) -> Self {
        self.stream = self.stream.sign_key(key);
        self
    }

    /// As [`StreamBuilder::trust_keys`].
    pub fn trust_keys(mut self, keys: impl IntoIterator<Item = TrustKey>) -> Self {
        self.stream = self.stream.trust_keys(keys);
        self
    }

    /// As [`StreamBuilder::leaf_hash`].
    pub fn leaf_hash(mut self, hash: LeafHash) -> Self {
        self.stream = self.stream.leaf_hash(hash);
        self
    }

    /// As [`StreamBuilder::single_writer`].
    pub fn single_writer(mut self) -> Self {
        self.stream = self.stream.single_writer();
        self
    }

    /// Refuses to create the stream: it must exist.
    pub fn existing(mut self) -> Self {
        self.existing = true;
        self
    }

    /// As [`StreamBuilder::stream`].
    pub fn stream(mut self, id: StreamId) -> Self {
        self.stream = self.stream.stream(id);
        self
    }

    /// As [`StreamBuilder::expect_tip`].
    pub fn expect_tip(mut self, version: Version) -> Self {
        self.stream = self.stream.expect_tip(version);
        self
    }

    /// As [`StreamBuilder::signed_tips`].
    pub fn signed_tips(mut self, dir: impl Into<PathBuf>) -> Self {
        self.stream = self.stream.signed_tips(dir);
        self
    }

    /// Opens the stream, or creates it, and brings the baseline to its tip.
    ///
    /// # Errors
    /// As [`StreamBuilder::open_or_create`], or [`StreamBuilder::open`] if the stream must exist; as
    /// [`Publisher::on`] and, for the checkpoint to be published, as [`Survey::of`].
    ///
    /// # Cancel safety
    /// As [`Publisher::open`].
    pub async fn open(self) -> Result<Publisher, StoreError> {
        let (options, is_cached) = (self.options.clone(), self.baseline.is_none());
        let (stream, baseline) = self.open_stream().await?;
        if is_cached {
            warn_of_another(&stream, &baseline).await?;
        }
        Publisher::on(stream, baseline, options).await
    }

    /// Opens the stream, or creates it, and says where the baseline is, which stays as it is: for ranks, each
    /// of which keeps only its share of a version, and for programs that may have nothing to publish.
    ///
    /// # Errors
    /// As [`StreamBuilder::open_or_create`], or [`StreamBuilder::open`] if the stream must exist; if there is
    /// no place for the baseline.
    ///
    /// # Cancel safety
    /// As [`StreamBuilder::open_or_create`].
    pub async fn open_stream(self) -> Result<(Stream, PathBuf), StoreError> {
        if let Some(checkpoint) = &self.checkpoint {
            let (checkpoint, options) = (checkpoint.clone(), self.options.clone());
            blocking(move || Survey::of(&checkpoint, &options)).await?;
        }
        self.places()?.check()?;
        if let (Some(_), Some(baseline)) = (&self.checkpoint, &self.baseline) {
            check_no_replica(baseline)?;
        }
        let stream = self.stream;
        let stream = if self.existing { stream.open().await? } else { stream.open_or_create().await? };
        let baseline = self.baseline.map_or_else(|| cache_dir("baselines", stream.id()), Ok)?;
        Ok((stream, baseline))
    }

    /// What is known before the stream is there.
    fn places(&self) -> Result<Places, StoreError> {
        let mut places = Places::default();
        if let Some(stream) = directory(self.stream.url())? {
            places = places.altered(Role::Stream, stream);
        }
        if let Some(baseline) = &self.baseline {
            places = places.altered(Role::Baseline, baseline);
        }
        let read = [(Role::Base, &self.options.base), (Role::Checkpoint, &self.checkpoint)];
        let read = read.into_iter().filter_map(|(role, path)| Some((role, path.as_ref()?)));
        Ok(read.fold(places, |places, (role, path)| places.read(role, path)))
    }
}

impl Publisher {
    /// What it alters and reads whatever it publishes.
    pub(super) fn places(&self) -> Places {
        let places = self.stream.altered_places().altered(Role::Baseline, &self.baseline);
        self.options.base.iter().fold(places, |places, base| places.read(Role::Base, base))
    }

    /// The baseline as a replica of the stream.
    pub(super) fn replica(&self) -> Replica {
        let options = ReplicaOptions::default()
            .with_apply(self.options.diff.clone())
            // Whoever makes a patch from the baseline hashes it.
            .with_verify(Verify::Never)
            .with_observer(self.options.observer.clone())
            // Nobody loads them here.
            .allowing_code()
            .without_inverse();
        Replica::of(self.stream.clone(), &self.baseline, options)
    }
}
