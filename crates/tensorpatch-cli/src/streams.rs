//! What the commands about streams share: opening them, waiting for them, and where baselines are kept.

use std::future::Future;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use clap::Args;
use tensorpatch::store::{Event, Observer, Phase, SignKey, Stream, StreamId, TrustKey, open_existing_store};

use crate::exit::Refusal;
use crate::progress::Bar;
use crate::session::Session;

/// Runs asynchronous work to its end.
pub(crate) fn wait<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(work)
}

/// A stream that is there already, and whom to trust about it.
#[derive(Debug, Args)]
pub(crate) struct Source {
    /// The stream: a path or file:///..., s3://, gs://, az:// or hf://buckets/...
    pub(crate) url: String,
    #[command(flatten)]
    pub(crate) trust: Trust,
}

/// `--trust-key`.
#[derive(Debug, Args)]
pub(crate) struct Trust {
    /// Refuse every record that is not signed with this public key: 64 hexadecimal digits, as tensorpatch keygen prints
    /// them. May be given several times
    #[arg(long, value_name = "KEY")]
    trust_key: Vec<TrustKey>,
}

/// `--sign-key`.
#[derive(Debug, Args)]
pub(crate) struct Sign {
    /// Sign every record that is written with the secret key in this file, made by tensorpatch keygen. What is built on must
    /// then be signed as well, with this key or a trusted one
    #[arg(long, value_name = "FILE")]
    sign_key: Option<PathBuf>,
}

impl Source {
    /// Opens the stream, which must be there.
    pub(crate) async fn open(&self) -> Result<Stream> {
        let (store, prefix) = open_existing_store(&self.url)?;
        self.trust.apply(Stream::open(store, prefix).await?).await
    }
}

impl Trust {
    /// The same stream, trusted only as far as the keys go, if there are any.
    pub(crate) async fn apply(&self, stream: Stream) -> Result<Stream> {
        if self.trust_key.is_empty() {
            return Ok(stream);
        }
        Ok(stream.trusting(self.trust_key.clone()).await?)
    }
}

impl Sign {
    /// The key, if one is named.
    pub(crate) fn key(&self) -> Result<Option<SignKey>> {
        let Some(path) = &self.sign_key else { return Ok(None) };
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("{}: cannot read the signing key", path.display()))?;
        let key = text.parse().map_err(|error| {
            Refusal::usage(format!("{}: {error}", path.display()), "make a key with tensorpatch keygen FILE")
        })?;
        Ok(Some(key))
    }

    /// The same stream, with what is written to it signed, if a key is named.
    ///
    /// A signed version on top of one that nobody trusted has signed could not be followed by anybody, and could not be taken back.
    pub(crate) async fn apply(&self, stream: Stream, trust: &Trust) -> Result<Stream> {
        let Some(key) = self.key()? else { return trust.apply(stream).await };
        let keys = [&[key.public()], trust.trust_key.as_slice()].concat();
        Ok(stream.signing(key).trusting(keys).await?)
    }
}

/// A directory in the user's cache for what a stream needs: `baselines`, `folds`, `mirrors`.
pub(crate) fn cache_for(purpose: &str, stream: StreamId, option: &str) -> Result<PathBuf> {
    let Some(cache) = cache_directory() else {
        let what = "there is no home directory to work in";
        return Err(Refusal::usage(what, format!("name a directory with {option}")).into());
    };
    Ok(cache.join("tensorpatch").join(purpose).join(stream.to_string()))
}

fn cache_directory() -> Option<PathBuf> {
    // By the XDG rules a relative path does not count.
    let configured = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || std::env::home_dir().filter(|home| home.is_absolute());
    let below_home = if cfg!(target_os = "macos") { "Library/Caches" } else { ".cache" };
    configured.or_else(|| Some(home()?.join(below_home)))
}

/// An observer that draws a bar for each phase.
pub(crate) fn observer(session: &Session) -> Observer {
    let session = session.clone();
    let current: Mutex<Option<(Phase, Bar)>> = Mutex::new(None);
    Observer::new(move |event| {
        let mut current = current.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Started(phase, bytes) => {
                // The one before goes first, or two would be drawn.
                *current = None;
                *current = Some((phase, session.bar(label(phase), bytes)));
            }
            Event::Advanced(phase, bytes) => {
                if let Some((shown, bar)) = &*current
                    && *shown == phase
                {
                    bar.advance(bytes);
                }
            }
            _ => {}
        }
    })
}

fn label(phase: Phase) -> &'static str {
    match phase {
        Phase::Hash => "hashing",
        Phase::Download => "download",
        Phase::Encode => "encoding",
        Phase::Check => "checking",
        Phase::Upload => "upload",
        Phase::Apply => "applying",
        _ => "working",
    }
}
