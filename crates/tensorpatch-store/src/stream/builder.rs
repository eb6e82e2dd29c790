//! Opening a stream by its URL: which policy, which keys, and what it must be.

use std::path::PathBuf;

use tensorpatch_format::LeafHash;
use tensorpatch_stream::{SignKey, StreamId, TrustKey, Version, Writers};

use super::expected::Expected;
use super::{CreateOptions, Stream};
use crate::bucket::Bucket;
use crate::bucket::url::{leaving_no_directory, open_for_reading, open_for_writing};
use crate::error::StoreError;
use crate::settings::Policy;

/// How a stream is opened by its URL; made by [`Stream::builder`].
#[derive(Debug, Clone)]
#[must_use]
pub struct StreamBuilder {
    url: String,
    policy: Option<Policy>,
    sign_key: Option<SignKey>,
    trust_keys: Vec<TrustKey>,
    leaf_hash: Option<LeafHash>,
    single_writer: bool,
    expected: Expected,
}

impl Stream {
    /// Chooses how the stream at `url` is opened; [`open_store`](crate::open_store) lists the kinds of URLs.
    pub fn builder(url: impl Into<String>) -> StreamBuilder {
        StreamBuilder {
            url: url.into(),
            policy: None,
            sign_key: None,
            trust_keys: Vec::new(),
            leaf_hash: None,
            single_writer: false,
            expected: Expected::default(),
        }
    }
}

impl StreamBuilder {
    /// Sets retries, timeouts and limits [default: [`Policy::from_env`]].
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = Some(policy);
        self
    }

    /// Signs every record that is written. What is built on must then be signed as well, by this key or a
    /// trusted one: a signed version on top of one that nobody trusted has signed could not be followed by
    /// anybody, and could not be taken back.
    pub fn sign_key(mut self, key: SignKey) -> Self {
        self.sign_key = Some(key);
        self
    }

    /// Refuses every record that is not signed by one of these keys, or the key to sign with; if there is
    /// none at all, signatures do not matter.
    pub fn trust_keys(mut self, keys: impl IntoIterator<Item = TrustKey>) -> Self {
        self.trust_keys.extend(keys);
        self
    }

    /// Refuses every stream but the one with this id, and creates none. A key may have signed several
    /// streams, and whoever can write to a bucket can put one in the place of another.
    pub fn stream(mut self, id: StreamId) -> Self {
        self.expected.stream = Some(id);
        self
    }

    /// Refuses a stream whose newest version is below `version`, which is known to exist: somebody has hidden
    /// or deleted it.
    pub fn expect_tip(mut self, version: Version) -> Self {
        self.expected.tip = Some(version);
        self
    }

    /// Keeps in the directory `dir`, which belongs to the key, the newest version that was signed for each
    /// stream, and where it was. Refuses a stream that does not show this version: signing on an older one
    /// would fork the history. Unless [`StreamBuilder::stream`] says which one is meant, refuses a stream in
    /// another place than before, and another stream in its place.
    pub fn signed_tips(mut self, dir: impl Into<PathBuf>) -> Self {
        self.expected.signed = Some(dir.into());
        self
    }

    /// Sets the leaf hash of a new stream, and refuses an existing one with another [default: any; for a new
    /// stream BLAKE3 if it is signed, else XXH3].
    pub fn leaf_hash(mut self, hash: LeafHash) -> Self {
        self.leaf_hash = Some(hash);
        self
    }

    /// Promises, for a new stream, that there is never more than one publisher at a time: then any store will
    /// do. For a bucket of the Hub that is reached with a token alone, no promise is asked for: its streams
    /// are of this kind.
    pub fn single_writer(mut self) -> Self {
        self.single_writer = true;
        self
    }

    /// Opens the stream, which must exist. Nothing is created, not even a local directory.
    ///
    /// # Errors
    /// [`StoreError::NoStream`] if there is none; [`StoreError::Untrusted`]; if the URL names no store, a
    /// setting of the environment is wrong, or the store fails.
    ///
    /// # Cancel safety
    /// The future may be dropped at any time; it only reads.
    pub async fn open(self) -> Result<Stream, StoreError> {
        let policy = self.settled_policy()?;
        let opened = open_for_reading(&self.url, &policy)?;
        let stream = Stream::open_in(Bucket::of(opened).with_policy(policy)).await?;
        self.checked(stream).await
    }

    /// Opens the stream, or creates it after probing the store; also when several do at the same time. Where
    /// that is refused, no directory is left that was not there before.
    ///
    /// # Errors
    /// As [`StreamBuilder::open`]; [`StoreError::NoConditionalCreate`] if the store does not keep publishers
    /// apart.
    ///
    /// # Cancel safety
    /// The future may be dropped at any time; the stream is then created or not.
    pub async fn open_or_create(self) -> Result<Stream, StoreError> {
        leaving_no_directory(&self.url.clone(), self.opened_or_created()).await
    }

    async fn opened_or_created(self) -> Result<Stream, StoreError> {
        let policy = self.settled_policy()?;
        let opened = open_for_writing(&self.url, &policy)?;
        let options = CreateOptions {
            leaf_hash: self.leaf_hash,
            single_writer: self.single_writer || opened.single_writer,
            sign_key: self.sign_key.clone(),
        };
        let bucket = Bucket::of(opened).with_policy(policy);
        let stream = match Stream::open_in(bucket.clone()).await {
            Err(StoreError::NoStream { .. }) if self.expected.stream.is_none() => {
                self.expected.check_none_signed(&bucket).await?;
                Stream::open_or_create_in(bucket, options).await?
            }
            opened => opened?,
        };
        self.checked(stream).await
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    fn settled_policy(&self) -> Result<Policy, StoreError> {
        Ok(self.policy.clone().map_or_else(Policy::from_env, Ok)?)
    }

    async fn checked(self, mut stream: Stream) -> Result<Stream, StoreError> {
        stream.expected = self.expected;
        let mut trusted = self.trust_keys;
        if let Some(key) = self.sign_key {
            trusted.insert(0, key.public());
            stream = stream.signing(key);
        }
        if !trusted.is_empty() {
            stream = stream.trusting(trusted).await?;
        }
        stream.check_id()?;
        stream.check_place().await?;
        let (found, writers) = (stream.record().leaf_hash, stream.record().writers);
        let writers = match writers {
            Writers::Many => "for several publishers",
            Writers::Single => "for a single publisher",
        };
        tracing::info!("opened the stream {} at {}, {writers}", stream.id(), stream.place());
        match self.leaf_hash {
            Some(wanted) if wanted != found => {
                Err(StoreError::LeafHash { place: stream.place(), wanted, found })
            }
            _ => Ok(stream),
        }
    }
}
