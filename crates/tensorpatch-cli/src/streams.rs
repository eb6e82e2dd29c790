//! What the commands about streams share: opening them, waiting for them, and where baselines are kept.

use std::fs::File;
use std::future::Future;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use clap::Args;
use tensorpatch::store::{
    Event, FollowMetrics, Observer, Phase, Policy, PublisherBuilder, SignKey, StoreError, Stream,
    StreamBuilder, StreamId, TrustKey, Version, signed_tips_beside,
};

use crate::exit::Refusal;
use crate::interrupt::Interrupted;
use crate::progress::Bar;
use crate::session::Session;
use crate::transfer::Transfer;

/// A key has less than a hundred bytes.
const MAX_KEY_BYTES: u64 = 1 << 16;
/// How long what runs in the background may take to end.
const WIND_DOWN: Duration = Duration::from_secs(2);

/// Runs asynchronous work to its end, or until a signal ends it.
pub(crate) fn wait<T>(session: &Session, work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.context("cannot start the runtime")?;
    let interrupted = session.interrupts.next();
    let ended = runtime.block_on(async {
        tokio::select! {
            ended = work => ended,
            Ok(interrupted) = interrupted => Err(interrupted.into()),
            never = session.screen.show_life() => match never {},
        }
    });
    session.screen.settle();
    if ended.as_ref().is_err_and(|error| error.is::<Interrupted>()) {
        runtime.shutdown_timeout(WIND_DOWN);
    }
    ended
}

/// Says of which stream an error is that names none: an object, or a version.
pub(crate) fn about<T>(url: &str, ended: Result<T>) -> Result<T> {
    ended.map_err(|error| {
        let cause = error.chain().find_map(|cause| cause.downcast_ref());
        let is_about = cause.is_some_and(StoreError::leaves_stream_out);
        let names_it = error.to_string().starts_with(&format!("{url}:"));
        if is_about && !names_it { error.context(url.to_owned()) } else { error }
    })
}

/// Says of interrupted work what was and was not done, by the phase that it was in.
pub(crate) fn standing<T>(
    session: &Session,
    ended: Result<T>,
    what: impl FnOnce(Option<Phase>) -> &'static str,
) -> Result<T> {
    ended.map_err(|error| {
        if error.is::<Interrupted>() { error.context(what(session.interrupts.phase())) } else { error }
    })
}

/// A stream that is there already, and whom to trust about it.
#[derive(Debug, Args)]
pub(crate) struct Source {
    /// The stream: a path or file:///..., s3://, gs://, az:// or hf://buckets/...
    pub(crate) url: String,
    #[command(flatten)]
    pub(crate) access: Access,
}

/// `--trust-key`, and how the stream is read and written.
#[derive(Debug, Args)]
pub(crate) struct Access {
    /// Refuse every record that is not signed with this public key: 64 hexadecimal digits, as tensorpatch
    /// keygen prints them. May be given several times
    #[arg(long, value_name = "KEY", value_parser = parse_trust_key)]
    pub(crate) trust_key: Vec<TrustKey>,
    /// Refuse every stream but the one with this id, as publish prints it: a key may have signed several
    /// streams
    #[arg(long, value_name = "ID")]
    pub(crate) stream: Option<StreamId>,
    /// Refuse a stream whose newest version is below this one, which is known to exist: the bucket hides what
    /// is newer
    #[arg(long, value_name = "N", value_parser = parse_version)]
    pub(crate) expect_tip: Option<Version>,
    #[command(flatten)]
    transfer: Transfer,
}

/// Reads a public key.
fn parse_trust_key(text: &str) -> Result<TrustKey, String> {
    text.parse::<TrustKey>().map_err(|error| match Path::new(text).is_file() {
        true => format!("it is a file: tensorpatch key show {text} prints the public key in it"),
        false => error.to_string(),
    })
}

/// Reads the name of a lease: a variable that is not set gives none.
pub(crate) fn parse_holder(text: &str) -> Result<String, String> {
    match text.trim().is_empty() {
        true => Err("expected a name that no other replica has".into()),
        false => Ok(text.to_owned()),
    }
}

/// Reads the number of a version.
pub(crate) fn parse_version(text: &str) -> Result<Version, String> {
    let number = text.parse().ok().and_then(Version::new);
    number.ok_or_else(|| "expected a version: a whole number of at least 1".into())
}

/// `--sign-key`.
#[derive(Debug, Args)]
pub(crate) struct Sign {
    /// Sign every record that is written with the secret key in this file, made by tensorpatch keygen. What
    /// is built on must then be signed as well, with this key or a trusted one
    #[arg(long, value_name = "FILE")]
    sign_key: Option<PathBuf>,
}

impl Source {
    /// As [`wait`], for work on this stream alone, so that errors can name it.
    pub(crate) fn wait<T>(&self, session: &Session, work: impl Future<Output = Result<T>>) -> Result<T> {
        about(&self.url, wait(session, work))
    }

    /// Opens the stream, which must be there.
    pub(crate) async fn open(&self) -> Result<Stream> {
        Ok(self.builder()?.open().await?)
    }

    /// The same for the replica in `dir`, which knows the stream that should be there.
    pub(crate) async fn open_for(&self, dir: &Path) -> Result<Stream> {
        Ok(self.builder()?.open().await.map_err(|error| error.for_replica(dir))?)
    }

    /// Opens the stream, which must be there, and signs what is written to it if a key is named.
    pub(crate) async fn open_signing(&self, sign: &Sign) -> Result<Stream> {
        Ok(self.access.signing(&self.url, sign)?.open().await?)
    }

    /// How the stream is opened.
    pub(crate) fn builder(&self) -> Result<StreamBuilder> {
        self.access.builder(&self.url)
    }
}

impl Access {
    /// The policy: flags, then the environment, then the defaults.
    pub(crate) fn policy(&self) -> Result<Policy> {
        self.transfer.policy()
    }

    /// How the stream at `url` is opened.
    fn builder(&self, url: &str) -> Result<StreamBuilder> {
        let keys = self.trust_key.iter().copied();
        let mut builder = Stream::builder(url).policy(self.policy()?).trust_keys(keys);
        if let Some(id) = self.stream {
            builder = builder.stream(id);
        }
        if let Some(version) = self.expect_tip {
            builder = builder.expect_tip(version);
        }
        Ok(builder)
    }

    /// The same, to sign what is written to it if a key is named.
    fn signing(&self, url: &str, sign: &Sign) -> Result<StreamBuilder> {
        let mut builder = self.builder(url)?;
        if let Some(key) = sign.key()? {
            builder = builder.sign_key(key);
        }
        if let Some(dir) = sign.signed_tips() {
            builder = builder.signed_tips(dir);
        }
        Ok(builder)
    }

    /// A publisher of the stream at `url`, which signs if a key is named.
    pub(crate) fn publisher(&self, url: &str, sign: &Sign) -> Result<PublisherBuilder> {
        Ok(self.signing(url, sign)?.into())
    }
}

impl Sign {
    /// The directory beside the key in which the newest version is kept that was signed with it.
    fn signed_tips(&self) -> Option<PathBuf> {
        self.sign_key.as_deref().map(signed_tips_beside)
    }

    /// The key, if one is named.
    fn key(&self) -> Result<Option<SignKey>> {
        self.sign_key.as_deref().map(read_key).transpose()
    }
}

/// Seconds since 1970 by this machine's clock.
pub(crate) fn unix_now() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}

/// Reads the file of a secret key.
pub(crate) fn read_key(path: &Path) -> Result<SignKey> {
    let failed = || format!("{}: cannot read the signing key", path.display());
    let refused = |what: String| {
        Refusal::usage(format!("{} {what}", path.display()), "name a file that tensorpatch keygen has made")
    };
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(refused("is named as the signing key, and is not there".into()).into());
        }
        opened => opened.with_context(failed)?,
    };
    let metadata = file.metadata().with_context(failed)?;
    if metadata.is_dir() {
        return Err(refused("is a directory, and no signing key".into()).into());
    }
    let mut bytes = Vec::new();
    file.take(MAX_KEY_BYTES).read_to_end(&mut bytes).with_context(failed)?;
    let key = String::from_utf8_lossy(&bytes).parse();
    let key = key.map_err(|error| refused(format!("is no signing key: {error}")))?;
    if metadata.mode() & 0o077 != 0 {
        tracing::warn!("{}: others can read or replace the signing key: chmod 600 it", path.display());
    }
    Ok(key)
}

/// An observer that draws a bar for each phase.
pub(crate) fn observer(session: &Session) -> Observer {
    Observer::new(bars(session))
}

/// An observer that draws a bar for each phase, and counts.
pub(crate) fn counting_observer(session: &Session, metrics: FollowMetrics) -> Observer {
    let draw = bars(session);
    Observer::new(move |event| {
        metrics.take(event);
        draw(event);
    })
}

/// Draws a bar for each phase.
fn bars(session: &Session) -> impl Fn(Event) + Send + Sync + 'static {
    let session = session.clone();
    let current: Mutex<Option<(Phase, Bar)>> = Mutex::new(None);
    move |event| {
        let mut current = current.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Started(phase, bytes) => {
                session.interrupts.begins(phase);
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
    }
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
