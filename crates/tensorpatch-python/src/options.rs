//! Arguments that several functions share.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::Path;

use pyo3::FromPyObject;
use tensorpatch::delta::{Durability, Options};
use tensorpatch::store::{Policy, SignKey, StreamId, TrustKey, Version};
use tensorpatch::{LeafHash, Profile};

use crate::errors::Failure;

/// How a stream is reached, and who is trusted about it.
#[derive(Debug, FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Access {
    pub(crate) url: String,
    pub(crate) trust: Vec<String>,
    /// The id that the stream must have.
    pub(crate) stream: Option<String>,
    /// A version that it must have.
    pub(crate) expect_tip: Option<u64>,
    /// Names of the policy's settings and their values as text.
    pub(crate) storage: HashMap<String, String>,
    pub(crate) threads: Option<usize>,
}

impl Access {
    /// The environment's policy with the settings that are given.
    pub(crate) fn policy(&self) -> Result<Policy, Failure> {
        let mut policy = Policy::from_env()?;
        for (name, value) in &self.storage {
            policy.set(name, value)?;
        }
        Ok(policy)
    }

    pub(crate) fn trust_keys(&self) -> Result<Vec<TrustKey>, Failure> {
        let key = |text: &String| {
            text.parse().map_err(|error| Failure::refused(format!("trust: {error}, found {text:?}")))
        };
        self.trust.iter().map(key).collect()
    }

    pub(crate) fn stream(&self) -> Result<Option<StreamId>, Failure> {
        let id = |text: &String| {
            text.parse().map_err(|error| Failure::refused(format!("stream: {error}, found {text:?}")))
        };
        self.stream.as_ref().map(id).transpose()
    }

    pub(crate) fn expect_tip(&self) -> Result<Option<Version>, Failure> {
        let version = |number| {
            let none = || Failure::refused(format!("expect_tip={number} is no version: they start at 1"));
            Version::new(number).ok_or_else(none)
        };
        self.expect_tip.map(version).transpose()
    }

    pub(crate) fn options(&self) -> Result<Options, Failure> {
        options(self.threads)
    }
}

/// Default options with so many threads, or one for each core.
pub(crate) fn options(threads: Option<usize>) -> Result<Options, Failure> {
    let threads = match threads {
        None => return Ok(Options::default()),
        Some(threads) => NonZeroUsize::new(threads),
    };
    let threads = threads.ok_or_else(|| Failure::refused("threads=0: there must be at least one"))?;
    Ok(Options::default().with_threads(threads))
}

pub(crate) fn profile(name: &str) -> Result<Profile, Failure> {
    match name {
        "compact" => Ok(Profile::Compact),
        "direct" => Ok(Profile::Direct),
        other => Err(Failure::refused(format!("profile={other:?}: it is \"compact\" or \"direct\""))),
    }
}

pub(crate) fn leaf_hash(name: &str) -> Result<LeafHash, Failure> {
    match name {
        "xxh3" => Ok(LeafHash::Xxh3),
        "blake3" => Ok(LeafHash::Blake3),
        other => Err(Failure::refused(format!("leaf_hash={other:?}: it is \"xxh3\" or \"blake3\""))),
    }
}

pub(crate) fn durability(name: &str) -> Result<Durability, Failure> {
    match name {
        "synced" => Ok(Durability::Synced),
        "none" => Ok(Durability::None),
        other => Err(Failure::refused(format!("durability={other:?}: it is \"synced\" or \"none\""))),
    }
}

/// The secret key in a file that `tensorpatch keygen` made.
pub(crate) fn sign_key(path: &Path) -> Result<SignKey, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let what = format!("{}: cannot read the signing key: {error}", path.display());
        Failure::with_message(tensorpatch::ErrorKind::Io, what)
    })?;
    text.parse().map_err(|error| {
        Failure::refused(format!("{}: {error}; make a key with tensorpatch keygen FILE", path.display()))
    })
}
