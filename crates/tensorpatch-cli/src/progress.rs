//! What is seen of work under way: bars, and a sign of life where none is shown. On a terminal only, and only
//! for work that takes over a second.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Work shorter than this shows no bar.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often a sign of life moves.
const BEAT: Duration = Duration::from_millis(250);

/// What is drawn on standard error. Clones draw together.
#[derive(Debug, Clone)]
pub(crate) struct Screen {
    /// Bars that can be seen.
    bars: Arc<AtomicUsize>,
    /// What is drawn while there is none.
    waiting: ProgressBar,
    is_quiet: bool,
}

impl Screen {
    pub(crate) fn new(is_quiet: bool) -> Self {
        let waiting = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        if let Ok(style) = ProgressStyle::with_template("{spinner} working, {elapsed}") {
            waiting.set_style(style);
        }
        Self { bars: Arc::default(), waiting, is_quiet }
    }

    /// A bar over `total` bytes.
    pub(crate) fn bar(&self, what: &'static str, total: u64) -> Bar {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
        // As wide as the terminal, whatever that is.
        let style =
            "{msg:9} [{wide_bar}] {binary_bytes} of {binary_total_bytes} {binary_bytes_per_sec} {eta} left";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(what);
        Bar { bar, screen: self.clone(), started: Instant::now(), is_shown: AtomicBool::new(false) }
    }

    /// Draws a sign of life whenever no bar has been seen for a while.
    pub(crate) async fn show_life(&self) -> Infallible {
        let mut since = Instant::now();
        loop {
            tokio::time::sleep(BEAT).await;
            if self.is_quiet || self.bars.load(Ordering::Relaxed) > 0 {
                since = Instant::now();
                self.waiting.set_draw_target(ProgressDrawTarget::hidden());
            } else if since.elapsed() > PATIENCE {
                if self.waiting.is_hidden() {
                    self.waiting.set_draw_target(ProgressDrawTarget::stderr());
                }
                self.waiting.tick();
            }
        }
    }

    /// Draws no sign of life any more: something is about to be printed.
    pub(crate) fn settle(&self) {
        self.waiting.finish_and_clear();
    }
}

/// A bar on standard error. Nothing is drawn if that is not a terminal.
#[derive(Debug)]
pub(crate) struct Bar {
    bar: ProgressBar,
    screen: Screen,
    started: Instant,
    is_shown: AtomicBool,
}

impl Bar {
    /// Says that `bytes` more are done. May be called from any thread.
    pub(crate) fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
        if !self.screen.is_quiet
            && self.started.elapsed() > PATIENCE
            && !self.is_shown.swap(true, Ordering::Relaxed)
        {
            self.screen.bars.fetch_add(1, Ordering::Relaxed);
            self.bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
        if *self.is_shown.get_mut() {
            self.screen.bars.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
