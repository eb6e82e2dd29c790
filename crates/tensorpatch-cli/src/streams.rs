//! What the commands about streams share: opening them, waiting for them, and where baselines are kept.

use std::future::Future;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use tensorpatch::store::{Event, Observer, Phase, Stream, StreamId, open_existing_store};

use crate::exit::Refusal;
use crate::progress::Bar;
use crate::session::Session;

/// Runs asynchronous work to its end.
pub(crate) fn wait<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(work)
}

/// Opens a stream that must be there.
pub(crate) async fn open(url: &str) -> Result<Stream> {
    let (store, prefix) = open_existing_store(url)?;
    Ok(Stream::open(store, prefix).await?)
}

/// The directory for the baseline of a stream, in the user's cache.
pub(crate) fn default_baseline(stream: StreamId) -> Result<PathBuf> {
    let Some(cache) = cache_directory() else {
        let what = "there is no home directory to keep the baseline in";
        return Err(Refusal::usage(what, "name a directory with --baseline").into());
    };
    Ok(cache.join("tensorpatch").join("baselines").join(stream.to_string()))
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
