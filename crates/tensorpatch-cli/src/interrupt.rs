//! What a signal does: whoever is interrupted leaves no unfinished file, says so, and exits as documented.
//!
//! Commands that wait for a store are ended by dropping what they wait for, which is safe at any point. The
//! others are busy on all threads: a thread of its own removes what they have not finished and ends the
//! program.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;
use tensorpatch::checkpoint::{hold_at_lost_pages, remove_unfinished};
use tensorpatch::store::Phase;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::exit;

/// How long a command may take to end by itself.
const GRACE: Duration = Duration::from_secs(5);

/// A signal has ended the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Interrupted {
    /// Somebody asked for it.
    #[error("interrupted by {}", name(*.0))]
    Asked(Signal),
    /// A file that was mapped is shorter than it was, or its disk fails.
    #[error("a file was cut short or became unreadable while it was read")]
    Shrunk,
}

/// What has to happen before the program may end. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interrupts {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// What is being written.
    destinations: Vec<PathBuf>,
    /// Who waits for a store.
    waiting: Option<oneshot::Sender<Interrupted>>,
    /// What was last begun of work with a store.
    phase: Option<Phase>,
}

impl Interrupts {
    /// Starts to listen; `json` says how to report.
    ///
    /// # Errors
    /// If the operating system gives no thread or no signals.
    pub(crate) fn listen(json: bool) -> Result<Self> {
        let interrupts = Self::default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("cannot start the runtime")?;
        let listener = interrupts.clone();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let listen = move || runtime.block_on(listener.wait(json, &ready));
        std::thread::Builder::new().name("signals".into()).spawn(listen).context("cannot start a thread")?;
        is_ready.recv().context("cannot wait for signals")?;
        Ok(interrupts)
    }

    /// Says that `destination` is about to be written.
    pub(crate) fn writes(&self, destination: &Path) {
        self.lock().destinations.push(destination.to_owned());
    }

    /// Lets the caller end the command by itself.
    pub(crate) fn next(&self) -> oneshot::Receiver<Interrupted> {
        let (sender, receiver) = oneshot::channel();
        self.lock().waiting = Some(sender);
        receiver
    }

    /// Says that a phase of work with a store begins.
    pub(crate) fn begins(&self, phase: Phase) {
        self.lock().phase = Some(phase);
    }

    /// The phase that was begun last.
    pub(crate) fn phase(&self) -> Option<Phase> {
        self.lock().phase
    }

    async fn wait(self, json: bool, ready: &std::sync::mpsc::Sender<()>) {
        let listen = |which: Signal| signal(SignalKind::from_raw(which.as_raw()));
        // Once there is a handler, a write beyond the limit on the size of files fails instead of ending the
        // program.
        let (Ok(mut hangup), Ok(mut interrupt), Ok(mut terminate), Ok(mut bus), Ok(_size)) = (
            listen(Signal::HUP),
            listen(Signal::INT),
            listen(Signal::TERM),
            listen(Signal::BUS),
            listen(Signal::XFSZ),
        ) else {
            return;
        };
        if hold_at_lost_pages().is_err() {
            return;
        }
        let _ = ready.send(());
        loop {
            let ended = tokio::select! {
                _ = hangup.recv() => Interrupted::Asked(Signal::HUP),
                _ = interrupt.recv() => Interrupted::Asked(Signal::INT),
                _ = terminate.recv() => Interrupted::Asked(Signal::TERM),
                // The thread that has met it is held.
                _ = bus.recv() => Interrupted::Shrunk,
            };
            let waiting = self.lock().waiting.take().filter(|_| ended != Interrupted::Shrunk);
            if waiting.is_none_or(|waiting| waiting.send(ended).is_err()) {
                self.end(ended, json);
            }
            let listener = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(GRACE).await;
                listener.end(ended, json);
            });
        }
    }

    /// Removes what is not finished and ends the program.
    fn end(&self, ended: Interrupted, json: bool) -> ! {
        remove_unfinished(self.lock().destinations.iter().map(PathBuf::as_path));
        exit::report(&ended.into(), json);
        std::process::exit(i32::from(exit::Code::from(ended).number()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn name(signal: Signal) -> &'static str {
    match signal {
        Signal::HUP => "SIGHUP",
        Signal::INT => "SIGINT",
        Signal::TERM => "SIGTERM",
        _ => "a signal",
    }
}
